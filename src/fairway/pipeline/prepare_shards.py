"""What `prepare` makes of token shards that exist, in the challenge's format: where they lie."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from fairway import console
from fairway.config.schema import Data
from fairway.data.challenge_tokenizer import load_challenge
from fairway.data.listing import Skipped, listed, show, skip_lines
from fairway.data.shards import read_shard, select_shards
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import write_atomic
from fairway.pipeline.data_folder import SCAN_TOKENS, TOKENIZER, ShardEntry, entry_of, measure


def check_there(data: Data) -> None:
    """Raise BadInput, with the command that downloads them, where the challenge's files lack."""
    for path in filter(None, (data.path, data.tokenizer)):
        if not os.path.lexists(path):
            found = re.search(r"fineweb(?:10B_sp|_)(\d+)", path)
            variant = f" --variant sp{found[1]}" if found else ""
            raise BadInput(
                f"there is no {show(path)}: fairway download fineweb{variant} fetches the "
                "challenge's into the folder data; for others set data.path and data.tokenizer"
            )


class FromShards:
    """Token shards that exist, in the challenge's format: used where they lie."""

    dropped = 0

    def __init__(self, data: Data) -> None:
        """Find the files. Raises BadInput when one is missing, or a split holds no tokens."""
        check_there(data)
        self._data = data
        train, val, self._skipped = select_shards(data.path)
        self._train = self._filled("training", train)
        self._val = self._filled("validation", val)
        self._tokenizer = load_challenge(data.tokenizer)
        self.vocab_size = self._tokenizer.vocab_size

    def _filled(self, split: str, paths: list[Path]) -> list[Path]:
        """Return the shards that hold tokens. Raises BadInput when none does."""
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
        """Hash names, sizes and the first and last tokens: shards may hold many gigabytes."""
        digest = hashlib.sha256(foreign.read_bytes(Path(self._data.tokenizer), "the tokenizer"))
        for path in [*self._train, *self._val]:
            tokens = read_shard(path)
            digest.update(f"{path.name} {tokens.size}".encode())
            digest.update(tokens[:SCAN_TOKENS].tobytes() + tokens[-SCAN_TOKENS:].tobytes())
        return digest.hexdigest()

    def tokenizer(self, folder: Path) -> Tokenizer:
        write_atomic(folder / TOKENIZER, self._tokenizer.to_bytes())
        return self._tokenizer

    def val(self, folder: Path, tokenizer: Tokenizer) -> list[ShardEntry]:
        return [entry_of(folder, path, read_shard(path).size) for path in self._val]

    def train(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[ShardEntry], int, int]:
        shards: list[ShardEntry] = []
        documents = text_bytes = 0
        left = self._data.train_bytes or 1 << 62
        with console.track("reading shards", len(self._train), "shards") as progress:
            for path in self._train:
                tokens, count, size = measure(read_shard(path), tokenizer, left)
                shards.append(entry_of(folder, path, tokens))
                documents, text_bytes, left = documents + count, text_bytes + size, left - size
                progress.update(len(shards))
                if left <= 0:
                    break
        return shards, documents, text_bytes
