"""Find documents that share passages with a set of documents: one index in memory.

A fingerprint is a rolling hash of 48 successive letters and digits, kept when it is 0 modulo some
number. Case, punctuation and white space are left out, and bytes of non-ASCII characters count as
letters. So a passage has the same fingerprints wherever it stands, also in a reformatted copy
(Schleimer, Wilkerson and Aiken 2003; Manku, Jain and Das Sarma 2007).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fairway.kernels import njit

Fingerprints = npt.NDArray[np.uint64]
Owners = npt.NDArray[np.int32]

_WINDOW = 48
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no character is lost from the window
_OUTGOING = np.uint64(pow(int(_BASE), _WINDOW, 1 << 64))
_NORMAL = np.array(
    [ord(chr(i).lower()) if i < 128 and chr(i).isalnum() else i * (i >= 128) for i in range(256)],
    np.uint64,
)


class NearDuplicates:
    """The fingerprints of documents in an open-addressing table, and to which each belongs.

    The table takes about 24 bytes per fingerprint, which is 24 / kept bytes per byte of text.
    """

    def __init__(self, documents: Iterable[bytes], kept: int) -> None:
        """Index the documents. One in `kept` fingerprints is kept."""
        self._kept = kept
        self._exact: dict[bytes, int] = {}
        self.counts: list[int] = []  # distinct fingerprints of each document
        prints, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for number, document in enumerate(documents):
            distinct = np.unique(fingerprints(document, kept))
            prints.append(distinct)
            owners.append(np.full(len(distinct), number, np.int32))
            self._exact.setdefault(digest(document), number)
            self.counts.append(len(distinct))
        self._table, self._owner = _table(np.concatenate(prints), np.concatenate(owners))

    def copy_of(self, document: bytes) -> int | None:
        """Return the number of the document with exactly these bytes, or None."""
        return self._exact.get(digest(document))

    def share(self, document: bytes) -> float:
        """Return the part of the document's fingerprints that the index has; 0 if it has none."""
        prints = fingerprints(document, self._kept)
        return float(np.mean(_lookup(self._table, self._owner, prints) >= 0)) if prints.size else 0

    def nearest(self, document: bytes) -> tuple[int, int, int]:
        """Return which document shares most with this one, or -1, and how much.

        The second number counts the distinct fingerprints that they share, the third those of
        `document`.
        """
        if (same := self.copy_of(document)) is not None:
            return same, self.counts[same], self.counts[same]
        distinct = np.unique(fingerprints(document, self._kept))
        owners = _lookup(self._table, self._owner, distinct)
        owners = owners[owners >= 0]
        if not owners.size:
            return -1, 0, len(distinct)
        numbers, shared = np.unique(owners, return_counts=True)
        best = int(np.argmax(shared))
        return int(numbers[best]), int(shared[best]), len(distinct)


def digest(document: bytes) -> bytes:
    """Return 16 bytes that tell documents apart."""
    return hashlib.blake2b(document, digest_size=16).digest()


def fingerprints(document: bytes, kept: int) -> Fingerprints:
    """Return the fingerprints of a text in order, uint64[k]; one per `kept` letters or digits."""
    return _fingerprints(np.frombuffer(document, np.uint8), kept)  # type: ignore[no-any-return]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _fingerprints(document: npt.NDArray[np.uint8], kept: int) -> Fingerprints:
    prints = np.empty(16, np.uint64)
    count = 0
    ring = np.zeros(_WINDOW, np.uint64)
    seen = 0
    rolling = np.uint64(0)
    for byte in document:
        letter = _NORMAL[byte]
        if letter == 0:
            continue
        slot = seen % _WINDOW
        rolling = rolling * _BASE + letter - ring[slot] * _OUTGOING
        ring[slot] = letter
        seen += 1
        mixed = (rolling ^ (rolling >> np.uint64(29))) * _BASE
        mixed ^= mixed >> np.uint64(32)
        if seen >= _WINDOW and mixed % np.uint64(kept) == 0:
            if count == prints.size:
                prints = np.concatenate((prints, np.empty(count, np.uint64)))
            prints[count] = mixed
            count += 1
    return prints[:count]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _table(prints: Fingerprints, owners: Owners) -> tuple[Fingerprints, Owners]:
    """Return a table at most half full. A fingerprint of several documents is the first's."""
    size = 16
    while size < 2 * len(prints):
        size *= 2
    keys, values = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    for i in range(len(prints)):
        slot = (prints[i] >> np.uint64(6)) & np.uint64(size - 1)
        while values[slot] >= 0 and keys[slot] != prints[i]:
            slot = (slot + np.uint64(1)) & np.uint64(size - 1)
        if values[slot] < 0:
            keys[slot], values[slot] = prints[i], owners[i]
    return keys, values


@njit(cache=True)  # type: ignore[untyped-decorator]
def _lookup(keys: Fingerprints, values: Owners, prints: Fingerprints) -> Owners:
    """Return the owner of each fingerprint, int32[k]; -1 where there is none."""
    owners = np.full(len(prints), -1, np.int32)
    mask = np.uint64(len(keys) - 1)
    for i in range(len(prints)):
        slot = (prints[i] >> np.uint64(6)) & mask
        while values[slot] >= 0 and keys[slot] != prints[i]:
            slot = (slot + np.uint64(1)) & mask
        owners[i] = values[slot]
    return owners
