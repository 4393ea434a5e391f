"""Read and write token shards in the challenge's format, memory-mapped.

256 little-endian int32 (magic 20240520, version 1, number of tokens n, zeros), then n uint16.
"""

from __future__ import annotations

import os
import stat
import struct
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairway.data.listing import Skipped, entries_of, show
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import replacing

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
PREFIX = struct.pack("<ii", MAGIC, VERSION)  # what every shard begins with


def write_shard(path: Path, tokens: npt.NDArray[np.uint16]) -> None:
    """Write uint16[n] under a temporary name, then rename. Raises OSError."""
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype("<u2", copy=False).tobytes())


def read_shard(path: Path) -> npt.NDArray[np.uint16]:
    """Return the tokens uint16[n], memory-mapped and read-only. Raises BadInput."""
    with foreign.open_file(path, "the shard") as file:
        head = file.read(HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
    if len(head) < HEADER_BYTES:
        raise BadInput(f"the shard {path} is damaged: its header is cut short")
    magic, version, count = np.frombuffer(head, "<i4")[:3].tolist()
    if magic != MAGIC:
        raise BadInput(f"{path} is no token shard: its first number is not {MAGIC}")
    if version != VERSION:
        raise BadInput(f"the shard {path} has version {version}; this Fairway reads {VERSION}")
    if size != HEADER_BYTES + 2 * count:
        raise BadInput(
            f"the shard {path} is damaged: its header says {count} tokens, "
            f"which makes {HEADER_BYTES + 2 * count} bytes, and it has {size}"
        )
    if count == 0:
        return np.empty(0, np.uint16)  # an empty file cannot be mapped
    return np.memmap(path, "<u2", "r", HEADER_BYTES, (count,))


def select_shards(folder: str | Path) -> tuple[list[Path], list[Path], list[Skipped]]:
    """Return the training shards, the validation shards and the other entries of a folder.

    Shards are called *_train_*.bin and *_val_*.bin, in any case of letters. Raises BadInput.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"there is no folder {show(root)}: check data.path")
    found: dict[str, list[Path]] = {"train": [], "val": []}
    skipped: list[Skipped] = []
    owners: dict[tuple[int, int], tuple[str, str]] = {}  # names and splits of real files
    for entry in sorted(entries_of(root), key=lambda entry: (entry.is_symlink(), entry.name)):
        name = entry.name.lower()
        splits = [s for s in found if fnmatchcase(name, f"*_{s}_*.bin")]
        if entry.name.startswith(".") or not splits:
            is_folder = entry.is_dir()
            reason = "hidden" if entry.name.startswith(".") else "not named as a shard"
            skipped.append(Skipped(entry.name + "/" * is_folder, reason))
            continue
        if len(splits) > 1:
            raise BadInput(
                f"the shard {show(entry.path)} is named for training and for validation: rename it"
            )
        try:
            status = entry.stat()
        except OSError as error:
            raise BadInput(f"cannot read the shard {show(entry.path)}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"the shard {show(entry.path)} is no regular file")
        split = splits[0]
        same = owners.setdefault((status.st_dev, status.st_ino), (entry.name, split))
        if same[1] != split:
            raise BadInput(
                f"{show(same[0])} and {show(entry.name)} in {show(root)} are the same file: text "
                "cannot be for training and for validation"
            )
        if same[0] != entry.name:
            skipped.append(Skipped(entry.name, f"the same file as {same[0]}"))
            continue
        found[split].append(Path(entry.path))
    for split, paths in found.items():
        if not paths:
            raise BadInput(f"there are no shards *_{split}_*.bin in {show(root)}: check data.path")
    return sorted(found["train"]), sorted(found["val"]), skipped


def is_shard(path: Path) -> bool:
    """Return whether a file is meant as a token shard, by its content or its name."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(PREFIX))
    except OSError:
        head = b""
    return head == PREFIX or path.suffix.lower() == ".bin"
