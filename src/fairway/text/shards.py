"""Token shards in the challenge's format, memory-mapped.

256 little-endian int32 (magic 20240520, version 1, number of tokens n, zeros), then n uint16.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairway.course import replacing
from fairway.errors import BadInput

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4


def write_shard(path: Path, tokens: npt.NDArray[np.uint16]) -> None:
    """Write uint16[n] under a temporary name, then rename. Raises OSError."""
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype("<u2", copy=False).tobytes())


def read_shard(path: Path) -> npt.NDArray[np.uint16]:
    """uint16[n], memory-mapped and read-only. Raises BadInput, a sentence for each damage."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise BadInput(f"cannot read the shard {path}: {error.strerror}") from None
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
