"""What `prepare` makes of documents: a tokenizer that is trained on them, and token shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairway import console
from fairway.config.schema import Data
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.data.corpus import Corpus
from fairway.data.shards import read_shard, write_shard
from fairway.data.tokenizer import Tokenizer, groups
from fairway.errors import BadInput
from fairway.io.atomic import write_atomic
from fairway.pipeline.data_folder import TOKENIZER, ShardEntry, load_tokenizer

_SHARD_BYTES = 1 << 25  # of text; the last document of a shard may exceed it


class FromDocuments:
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
        path = folder / TOKENIZER
        if not path.exists():
            console.say(f"training a tokenizer of {self.vocab_size} tokens")
            sample = next(groups(self._corpus.train(), self._data.tokenizer_bytes), [])
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


def _shard_of(documents: Sequence[bytes], path: Path, tokenizer: Tokenizer) -> ShardEntry:
    """Write the documents' tokens, unless an earlier process has."""
    if not path.exists():
        write_shard(path, tokenizer.encode_documents(documents))
    return ShardEntry(path=path.name, tokens=read_shard(path).size)
