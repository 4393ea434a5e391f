"""What `prepare` makes of another data folder: the end of its training text is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairway.data.shards import read_shard, write_shard
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import write_atomic
from fairway.pipeline.data_folder import (
    TOKENIZER,
    ShardEntry,
    entry_of,
    load_tokenizer,
    load_train,
    measure,
    need_manifest,
    open_shards,
)


class HeldOut:
    """The data of another folder without its validation text, its end held out instead."""

    dropped = 0

    def __init__(self, source: Path, text_bytes: int) -> None:
        """Find the cut. Raises BadInput when the last shard holds no more than is held out."""
        self._source, self._manifest = source, need_manifest(source)
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

    def tokenizer(self, folder: Path) -> Tokenizer:
        write_atomic(
            folder / TOKENIZER, foreign.read_bytes(self._source / TOKENIZER, "the tokenizer")
        )
        return load_tokenizer(folder)

    def val(self, folder: Path, tokenizer: Tokenizer) -> list[ShardEntry]:
        path = folder / "val_000000.bin"
        write_shard(path, load_train(self._source)[-1][self._cut :])
        return [ShardEntry(path=path.name, tokens=read_shard(path).size)]

    def train(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[ShardEntry], int, int]:
        entries = [
            entry_of(folder, self._source / shard.path, shard.tokens)
            for shard in self._manifest.train
        ]
        entries[-1] = entries[-1].model_copy(update={"tokens": self._cut})
        counts = [measure(shard, tokenizer, 1 << 62) for shard in open_shards(folder, entries)]
        return entries, sum(c[1] for c in counts), sum(c[2] for c in counts)
