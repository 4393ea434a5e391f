"""A data folder: token shards of both splits, their tokenizer, and the manifest that names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from fairway.data.shards import read_shard
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.pipeline.results import PrepareResult, Record

Shard = npt.NDArray[np.uint16]

TOKENIZER = "tokenizer.fwt"
MANIFEST = "manifest.json"
SCAN_TOKENS = 1 << 22


class ShardEntry(Record):
    """A shard, or its first `tokens` tokens."""

    path: str  # relative to the manifest's folder
    tokens: int


class Manifest(Record):
    """What a data folder holds."""

    result: PrepareResult  # its `folder` is empty: each run has its own path to here
    train: list[ShardEntry]
    val: list[ShardEntry]


def load_train(folder: Path) -> list[Shard]:
    """Return the tokens of each train shard, uint16[n], memory-mapped. Raises BadInput."""
    return open_shards(folder, need_manifest(folder).train)


def load_val(folder: Path) -> Shard:
    """Return the tokens of the validation text, uint16[N]. Raises BadInput."""
    return joined(open_shards(folder, need_manifest(folder).val))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a data folder. Raises BadInput."""
    try:
        return read_tokenizer(foreign.read_bytes(folder / TOKENIZER, "the tokenizer"))
    except OSError as error:
        raise BadInput(
            f"cannot read {folder / TOKENIZER}: {error.strerror}; run fairway prepare again"
        ) from None


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest; None unless all of the data is there."""
    try:
        manifest = Manifest.model_validate(foreign.read_json(folder / MANIFEST, "the list"))
    except (foreign.Missing, foreign.Malformed, ValidationError):
        return None
    paths = [TOKENIZER, *(shard.path for shard in manifest.train + manifest.val)]
    return manifest if all((folder / path).exists() for path in paths) else None


def is_complete(folder: Path) -> bool:
    """Return whether all files of a data folder are there."""
    return read_manifest(folder) is not None


def need_manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise BadInput(f"{folder} holds no finished data: run fairway prepare first")
    return manifest


def open_shards(folder: Path, entries: Sequence[ShardEntry]) -> list[Shard]:
    return [read_shard(folder / entry.path)[: entry.tokens] for entry in entries]


def joined(shards: Sequence[Shard]) -> Shard:
    return shards[0] if len(shards) == 1 else np.concatenate(shards)


def entry_of(folder: Path, path: Path, tokens: int) -> ShardEntry:
    return ShardEntry(path=os.path.relpath(path, folder), tokens=tokens)


def measure(tokens: Shard, tokenizer: Tokenizer, most_bytes: int) -> tuple[int, int, int]:
    """Count tokens, documents and bytes of the longest start of a shard within `most_bytes`."""
    documents = text_bytes = 0
    for start in range(0, tokens.size, SCAN_TOKENS):
        before = min(start, 1)  # the bytes of a token depend on the one before it
        part = tokens[start - before : start + SCAN_TOKENS]
        lengths = tokenizer.byte_lengths(part)[before:]
        fits = int(np.searchsorted(np.cumsum(lengths), most_bytes - text_bytes, side="right"))
        documents += int(np.count_nonzero(part[before : before + fits] == tokenizer.bos_id))
        text_bytes += int(lengths[:fits].sum())
        if fits < lengths.size:
            return start + fits, documents, text_bytes
    return tokens.size, documents, text_bytes
