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
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from fairway import console
from fairway.config.schema import Data
from fairway.data import rules
from fairway.data.corpus import Corpus
from fairway.data.documents import groups
from fairway.data.listing import Skipped, listed, show, skip_lines
from fairway.data.shards import read_shard, select_shards, write_shard
from fairway.data.tokenizer import Tokenizer, load_challenge, train_tokenizer
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import lock_folder, short_hash, write_atomic
from fairway.pipeline.directory import Job
from fairway.pipeline.results import PrepareResult

Shard = npt.NDArray[np.uint16]

_TOKENIZER = "tokenizer.fwt"
_MANIFEST = "manifest.json"
_SHARD_BYTES = 1 << 25  # of text; the last document of a shard may exceed it
_SCAN_TOKENS = 1 << 22


class ShardEntry(BaseModel):
    """A shard, or its first `tokens` tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str  # relative to the manifest's folder
    tokens: int


class Manifest(BaseModel):
    """What a data folder holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: PrepareResult  # its `folder` is empty: each run has its own path to here
    train: list[ShardEntry]
    val: list[ShardEntry]


class _Maker(Protocol):
    """One kind of source. `vocab_size` names the folder, `dropped` counts after `train`."""

    vocab_size: int
    dropped: int

    def lines(self) -> list[str]:
        """Which files were selected, and which were skipped and why."""

    def fingerprint(self) -> str: ...
    def tokenizer(self, folder: Path) -> Tokenizer: ...
    def val(self, folder: Path, tokenizer: Tokenizer) -> list[ShardEntry]: ...
    def train(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[ShardEntry], int, int]:
        """Shards, documents and bytes of text."""


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
    rest = _HeldOut(source, held_out_bytes)
    return _prepared(rest, job, f"{stamp} {held_out_bytes}", f"{name}-{held_out_bytes}")


def _prepared(maker: _Maker, job: Job, stamp: str, name: str) -> PrepareResult:
    """Let the maker fill a folder that runs share, unless it is filled; return its result."""
    run, window = job.run, job.recipe.model.window
    folder = run.data_root / name
    with lock_folder(folder), _writing(folder):
        manifest = _read_manifest(folder)
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


def _maker(data: Data) -> _Maker:
    return _FromShards(data) if data.source == "shards" else _FromDocuments(data)


def load_train(folder: Path) -> list[Shard]:
    """uint16[n] tokens of each train shard, memory-mapped. Raises BadInput."""
    return _open(folder, _need_manifest(folder).train)


def load_val(folder: Path) -> Shard:
    """uint16[N] tokens of the validation text. Raises BadInput."""
    return _joined(_open(folder, _need_manifest(folder).val))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Raises BadInput."""
    try:
        return Tokenizer.from_bytes(foreign.read_bytes(folder / _TOKENIZER, "the tokenizer"))
    except OSError as error:
        raise BadInput(
            f"cannot read {folder / _TOKENIZER}: {error.strerror}; run fairway prepare again"
        ) from None


def _make(maker: _Maker, folder: Path, stamp: str) -> Manifest:
    started = time.perf_counter()
    for leftover in folder.glob(".*.tmp"):  # of a killed process
        leftover.unlink()
    tokenizer = maker.tokenizer(folder)
    val = maker.val(folder, tokenizer)
    val_tokens = _joined(_open(folder, val))
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
        train_sha256=_sha256(shard.data for shard in _open(folder, train)),
        vocab_size=tokenizer.vocab_size,
        text_rule=tokenizer.rule,
        folder="",
        prepare_s=time.perf_counter() - started,
    )
    manifest = Manifest(result=result, train=train, val=val)
    write_atomic(folder / _MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
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


class _FromDocuments:
    """Documents, a tokenizer trained on them, and shards of about 32 MB of text each."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._corpus = Corpus(data)
        self.vocab_size = data.vocab_size
        self.dropped = 0

    def lines(self) -> list[str]:
        return self._corpus.lines()

    def fingerprint(self) -> str:
        return self._corpus.fingerprint()

    def tokenizer(self, folder: Path) -> Tokenizer:
        path = folder / _TOKENIZER
        if not path.exists():
            console.say(f"training a tokenizer of {self.vocab_size} tokens")
            sample = _first_bytes(self._corpus.train(), self._data.tokenizer_bytes)
            write_atomic(
                path, train_tokenizer(sample, self.vocab_size, self._data.cased).to_bytes()
            )
        return load_tokenizer(folder)

    def val(self, folder: Path, tokenizer: Tokenizer) -> list[ShardEntry]:
        return [_shard_of(self._corpus.val, folder / "val_000000.bin", tokenizer)]

    def train(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[ShardEntry], int, int]:
        shards: list[ShardEntry] = []
        documents = text_bytes = 0
        with console.track("writing tokens", 100, "%") as progress:
            for group in groups(self._corpus.train(), _SHARD_BYTES):
                path = folder / f"train_{len(shards):06d}.bin"
                shards.append(_shard_of(group, path, tokenizer))
                documents += len(group)
                text_bytes += sum(map(len, group))
                progress.update(100 * self._corpus.share, megabytes=f"{text_bytes / 1e6:.0f}")
        if not shards:
            raise BadInput("no train documents are left: check data.path and data.overlap")
        self.dropped = self._corpus.dropped
        left_out = self._corpus.left_out.sentence()
        if self.dropped:
            near = f"{self.dropped:,} documents that are in the validation text"
            left_out += f"{', ' if left_out else ''}{near}"
        if left_out:
            console.say(f"left out of the training text: {left_out}")
        if self._data.train_bytes and text_bytes >= self._data.train_bytes:
            console.say(f"data.train_bytes {self._data.train_bytes:,} ended the training text")
        return shards, documents, text_bytes


class _FromShards:
    """Token shards that exist, in the challenge's format: used where they lie."""

    dropped = 0

    def __init__(self, data: Data) -> None:
        """Raises BadInput when a file is missing, or a split holds no tokens."""
        self._data = data
        train, val, self._skipped = select_shards(data.path)
        self._train = self._filled("training", train)
        self._val = self._filled("validation", val)
        self._tokenizer = load_challenge(data.tokenizer)
        self.vocab_size = self._tokenizer.vocab_size

    def _filled(self, split: str, paths: list[Path]) -> list[Path]:
        """Those that hold tokens. Raises BadInput when none does."""
        filled = [path for path in paths if read_shard(path).size]
        if not filled:
            raise BadInput(
                f"the {split} shards in {show(self._data.path)} hold no tokens: "
                f"{listed([path.name for path in paths])}"
            )
        self._skipped += [Skipped(p.name, "holds no tokens") for p in paths if p not in filled]
        return filled

    def lines(self) -> list[str]:
        train, val = (listed([path.name for path in p]) for p in (self._train, self._val))
        return [
            f"shards in {show(self._data.path)}: {len(self._train):,} for training ({train}), "
            f"{len(self._val):,} for validation ({val}); {len(self._skipped):,} other entries "
            "skipped",
            *skip_lines(self._skipped),
        ]

    def fingerprint(self) -> str:
        """Of names, sizes and the first and last tokens: shards may hold many gigabytes."""
        digest = hashlib.sha256(foreign.read_bytes(Path(self._data.tokenizer), "the tokenizer"))
        for path in [*self._train, *self._val]:
            tokens = read_shard(path)
            digest.update(f"{path.name} {tokens.size}".encode())
            digest.update(tokens[:_SCAN_TOKENS].tobytes() + tokens[-_SCAN_TOKENS:].tobytes())
        return digest.hexdigest()

    def tokenizer(self, folder: Path) -> Tokenizer:
        write_atomic(folder / _TOKENIZER, self._tokenizer.to_bytes())
        return self._tokenizer

    def val(self, folder: Path, tokenizer: Tokenizer) -> list[ShardEntry]:
        return [_entry(folder, path, read_shard(path).size) for path in self._val]

    def train(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[ShardEntry], int, int]:
        shards: list[ShardEntry] = []
        documents = text_bytes = 0
        left = self._data.train_bytes or 1 << 62
        with console.track("reading shards", len(self._train), "shards") as progress:
            for path in self._train:
                tokens, count, size = _measure(read_shard(path), tokenizer, left)
                shards.append(_entry(folder, path, tokens))
                documents, text_bytes, left = documents + count, text_bytes + size, left - size
                progress.update(len(shards))
                if left <= 0:
                    break
        return shards, documents, text_bytes


class _HeldOut:
    """The data of another folder without its validation text, its end held out instead."""

    dropped = 0

    def __init__(self, source: Path, text_bytes: int) -> None:
        """Raises BadInput when the last shard holds no more than what is held out."""
        self._source, self._manifest = source, _need_manifest(source)
        last, tokenizer = load_train(source)[-1], load_tokenizer(source)
        first = max(last.size - 2 * text_bytes, 0)  # a token has a byte, but a document's first
        tail = last[first:]
        left = np.cumsum(tokenizer.byte_lengths(tail)[::-1])[::-1]  # bytes from each token on
        starts = np.flatnonzero((tail == tokenizer.bos_id) & (left <= text_bytes))
        if left[0] <= text_bytes or not starts.size:
            raise BadInput(
                f"{text_bytes:,} bytes cannot be held out of the last shard of training text, of "
                f"{last.size:,} tokens: hold out less, or train on more text (data.train_bytes)"
            )
        self._cut = first + int(starts[0])
        self.vocab_size = tokenizer.vocab_size

    def lines(self) -> list[str]:
        return []  # said for the data that this is made of

    def fingerprint(self) -> str:
        return self._manifest.result.stamp

    def tokenizer(self, folder: Path) -> Tokenizer:
        write_atomic(
            folder / _TOKENIZER, foreign.read_bytes(self._source / _TOKENIZER, "the tokenizer")
        )
        return load_tokenizer(folder)

    def val(self, folder: Path, tokenizer: Tokenizer) -> list[ShardEntry]:
        path = folder / "val_000000.bin"
        write_shard(path, load_train(self._source)[-1][self._cut :])
        return [ShardEntry(path=path.name, tokens=read_shard(path).size)]

    def train(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[ShardEntry], int, int]:
        entries = [
            _entry(folder, self._source / shard.path, shard.tokens)
            for shard in self._manifest.train
        ]
        entries[-1] = entries[-1].model_copy(update={"tokens": self._cut})
        counts = [_measure(shard, tokenizer, 1 << 62) for shard in _open(folder, entries)]
        return entries, sum(c[1] for c in counts), sum(c[2] for c in counts)


def _entry(folder: Path, path: Path, tokens: int) -> ShardEntry:
    return ShardEntry(path=os.path.relpath(path, folder), tokens=tokens)


def _measure(tokens: Shard, tokenizer: Tokenizer, most_bytes: int) -> tuple[int, int, int]:
    """Tokens, documents and bytes of the longest start of a shard of at most `most_bytes`."""
    documents = text_bytes = 0
    for start in range(0, tokens.size, _SCAN_TOKENS):
        before = min(start, 1)  # the bytes of a token depend on the one before it
        part = tokens[start - before : start + _SCAN_TOKENS]
        lengths = tokenizer.byte_lengths(part)[before:]
        fits = int(np.searchsorted(np.cumsum(lengths), most_bytes - text_bytes, side="right"))
        documents += int(np.count_nonzero(part[before : before + fits] == tokenizer.bos_id))
        text_bytes += int(lengths[:fits].sum())
        if fits < lengths.size:
            return start + fits, documents, text_bytes
    return tokens.size, documents, text_bytes


def _shard_of(documents: Sequence[bytes], path: Path, tokenizer: Tokenizer) -> ShardEntry:
    """Write the documents' tokens, unless an earlier process has."""
    if not path.exists():
        write_shard(path, tokenizer.encode_documents(documents))
    return ShardEntry(path=path.name, tokens=read_shard(path).size)


def _first_bytes(documents: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Documents until they hold `limit` bytes."""
    return chain.from_iterable(islice(groups(documents, limit), 1))


def _joined(shards: Sequence[Shard]) -> Shard:
    return shards[0] if len(shards) == 1 else np.concatenate(shards)


def _sha256(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A full disk and the like are bad input: the work so far is kept."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"cannot write to {folder}: {error.strerror}; make room there or choose another "
            "place with --out, and the same command goes on"
        ) from None


def _open(folder: Path, entries: Sequence[ShardEntry]) -> list[Shard]:
    return [read_shard(folder / entry.path)[: entry.tokens] for entry in entries]


def _read_manifest(folder: Path) -> Manifest | None:
    """None unless all of the data is there."""
    try:
        manifest = Manifest.model_validate(foreign.read_json(folder / _MANIFEST, "the list"))
    except (foreign.Missing, foreign.Malformed, ValidationError):
        return None
    paths = [_TOKENIZER, *(shard.path for shard in manifest.train + manifest.val)]
    return manifest if all((folder / path).exists() for path in paths) else None


def is_complete(folder: Path) -> bool:
    """Return whether all files of a data folder are there."""
    return _read_manifest(folder) is not None


def _need_manifest(folder: Path) -> Manifest:
    manifest = _read_manifest(folder)
    if manifest is None:
        raise BadInput(f"{folder} holds no finished data: run fairway prepare first")
    return manifest
