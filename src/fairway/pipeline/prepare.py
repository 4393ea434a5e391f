"""The stage `prepare`: documents → tokenizer, token shards and a manifest in a folder of their own.

Runs with the same [data] section and the same documents share the folder. Each product is written
under a temporary name and renamed; what a killed process had finished is not made again, and the
bytes are the same as without the kill. docs/formats.md describes the files.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from fairway import console
from fairway.config.schema import Data
from fairway.data import rules
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.io.atomic import lock_folder, short_hash, write_atomic
from fairway.pipeline.data_folder import (
    MANIFEST,
    Manifest,
    ShardEntry,
    joined,
    open_shards,
    read_manifest,
)
from fairway.pipeline.directory import Job
from fairway.pipeline.prepare_documents import FromDocuments
from fairway.pipeline.prepare_held_out import HeldOut
from fairway.pipeline.prepare_shards import FromShards
from fairway.pipeline.results import PrepareResult


class _Maker(Protocol):
    """What fills a data folder. `dropped` counts documents after `train`."""

    dropped: int

    def tokenizer(self, folder: Path) -> Tokenizer: ...
    def val(self, folder: Path, tokenizer: Tokenizer) -> list[ShardEntry]: ...
    def train(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[ShardEntry], int, int]:
        """Return the shards, and their documents and bytes of text."""


def prepare(job: Job) -> PrepareResult:
    """Make the shards of `recipe.data`, or find them made by another run.

    With data.held_out_bytes the validation text is the end of the training text: whole documents,
    the same for all tokenizers. Nothing is trained on them. Raises BadInput; also where a split
    holds no text, or the training text is too short for recipe.model.window.
    """
    held_out_bytes = job.recipe.data.held_out_bytes
    data = job.recipe.data.model_copy(update={"held_out_bytes": 0})
    maker = _maker(data)
    for line in maker.lines():
        console.say(line)
    stamp = f"{job.part('code')} {job.part('documents')} {short_hash(data.model_dump_json())}"
    name = f"{data.source}-{maker.vocab_size}-{short_hash(stamp)}"
    whole = _prepared(maker, job, stamp, name)
    if not held_out_bytes:
        return whole
    source = job.run.data_folder(whole)
    rest = HeldOut(source, held_out_bytes)
    return _prepared(rest, job, f"{stamp} {held_out_bytes}", f"{name}-{held_out_bytes}")


def _prepared(maker: _Maker, job: Job, stamp: str, name: str) -> PrepareResult:
    """Let the maker fill a folder that runs share, unless it is filled; return its result."""
    run, window = job.run, job.recipe.model.window
    folder = run.data_root / name
    with lock_folder(folder), _writing(folder):
        manifest = read_manifest(folder)
        if manifest is None or manifest.result.stamp != stamp:
            manifest = _make(maker, folder, stamp)
    result = manifest.result.model_copy(update={"folder": os.path.relpath(folder, run.path)})
    if result.train_tokens < 2 * window:
        raise BadInput(
            f"the training text has {result.train_tokens:,} tokens and a window takes {window:,}: "
            f"give it at least {2 * window:,} tokens, or make model.window smaller"
        )
    console.say(
        f"validation text: {result.val_bytes:,} bytes in {result.val_documents:,} documents; "
        f"training text: {result.train_bytes:,} bytes in {result.train_documents:,} documents"
    )
    return result


def fingerprint(data: Data) -> str:
    """Return a hash of the documents that `data` names. Raises BadInput."""
    return _maker(data).fingerprint()


def check_source(data: Data) -> None:
    """Raise BadInput where the documents or shards that `data` names are not there."""
    _maker(data)


def _maker(data: Data) -> FromShards | FromDocuments:
    return FromShards(data) if data.source == "shards" else FromDocuments(data)


def _make(maker: _Maker, folder: Path, stamp: str) -> Manifest:
    started = time.perf_counter()
    for leftover in folder.glob(".*.tmp"):  # of a killed process
        leftover.unlink()
    tokenizer = maker.tokenizer(folder)
    val = maker.val(folder, tokenizer)
    val_tokens = joined(open_shards(folder, val))
    text = tokenizer.decode(val_tokens) if val_tokens.size else []
    if not any(text):
        raise BadInput(
            f"there is no validation text: its {val_tokens.size:,} tokens write 0 bytes; check "
            "data.path"
        )
    _check_rule(text, tokenizer)
    train, train_documents, train_bytes = maker.train(folder, tokenizer)
    if not train_bytes:
        raise BadInput(
            f"there is no training text: its {sum(shard.tokens for shard in train):,} tokens write "
            "0 bytes; check data.path and data.train_bytes"
        )
    lengths = np.array([len(document) for document in text], "<u8")
    result = PrepareResult(
        stamp=stamp,
        train_documents=train_documents,
        val_documents=len(text),
        dropped_documents=maker.dropped,
        train_tokens=sum(shard.tokens for shard in train),
        val_tokens=sum(shard.tokens for shard in val),
        train_bytes=train_bytes,
        val_bytes=int(lengths.sum()),
        text_sha256=_sha256(text),
        lengths_sha256=_sha256([lengths.tobytes()]),
        train_sha256=_sha256(shard.data for shard in open_shards(folder, train)),
        vocab_size=tokenizer.vocab_size,
        text_rule=tokenizer.rule,
        folder="",
        prepare_s=time.perf_counter() - started,
    )
    manifest = Manifest(result=result, train=train, val=val)
    write_atomic(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def _check_rule(text: Sequence[bytes], tokenizer: Tokenizer) -> None:
    """Refuse tokens of shards that write what no document's counted bytes are. Raises BadInput."""
    if tokenizer.rule == "bytes":
        return  # any bytes are a document
    for number, document in enumerate(text):
        if reason := rules.fault(document, cut=number == len(text) - 1):
            raise BadInput(
                f"document {number} of the validation shards is no text by the rule "
                f"'{tokenizer.rule}', so its bytes cannot be counted: {reason}; make the shards "
                "again with the tokenizer that data.tokenizer names"
            )


def _sha256(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a full disk and the like into bad input: the work so far is kept."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"cannot write to {folder}: {error.strerror}; make room there or choose another "
            "place with --out, and the same command goes on"
        ) from None
