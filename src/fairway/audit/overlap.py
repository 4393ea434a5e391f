"""The command `audit data`: validation documents in training text.

A sketch of the validation text (rolling hashes of 48 successive letters and digits, one in 16
kept) stays in memory in an open-addressing table; the training text streams past it. Memory grows
with the validation text alone, about 2 bytes for each of its bytes. Case, punctuation and
white space are left out, so that a reformatted copy has the same hashes (Schleimer, Wilkerson and
Aiken 2003; Manku, Jain and Das Sarma 2007).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairway import console
from fairway.audit.audit_text import open_tokenizer
from fairway.audit.experiments import finding
from fairway.data.corpus import hashes, stream_with_share
from fairway.data.shards import is_shard, read_shard
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.kernels import njit
from fairway.pipeline.results import AuditResult, Evidence

KEPT = 16  # one hash in so many
_LEAST = 4  # shared hashes: fewer may be a stock phrase
_SHOWN = 20

Hashes = NDArray[np.uint64]
Owners = NDArray[np.int32]


class Sketch:
    """The hashes of documents, and whose they are."""

    def __init__(self, documents: Iterable[bytes]) -> None:
        prints, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        self._exact: dict[bytes, int] = {}
        self.counts: list[int] = []  # distinct hashes of each document
        for number, document in enumerate(documents):
            found = np.unique(_hashes(document))
            prints.append(found)
            owners.append(np.full(len(found), number, np.int32))
            self._exact.setdefault(_digest(document), number)
            self.counts.append(len(found))
        self._table, self._owner = _table(np.concatenate(prints), np.concatenate(owners))

    def nearest(self, document: bytes) -> tuple[int, int, int]:
        """(number of the document that shares most, shared hashes, hashes of `document`)."""
        if (same := self._exact.get(_digest(document))) is not None:
            return same, self.counts[same], self.counts[same]
        found = np.unique(_hashes(document))
        owners = _lookup(self._table, self._owner, found)
        owners = owners[owners >= 0]
        if not owners.size:
            return -1, 0, len(found)
        numbers, shared = np.unique(owners, return_counts=True)
        best = int(np.argmax(shared))
        return int(numbers[best]), int(shared[best]), len(found)

    def holds(self, document: bytes) -> bool:
        return _digest(document) in self._exact


def audit_data(
    train: Sequence[Path], val: Sequence[Path], tokenizer: Path | None, overlap: float
) -> AuditResult:
    """Which validation documents stand in the training files, whole or in part. Raises BadInput.

    overlap: a pair counts when they share more than this part of the hashes of either of them.
    """
    began = time.monotonic()
    opened = open_tokenizer(tokenizer) if tokenizer else None
    names: list[str] = []

    def named() -> Iterator[bytes]:
        for path in val:
            for number, (document, _) in enumerate(_documents(path, opened)):
                names.append(f"{path.name}, document {number}")
                yield document

    sketch = Sketch(named())
    if not names:
        raise BadInput(f"{val[0]} holds no documents")
    copies: dict[int, tuple[float, str]] = {}
    read_bytes = count = 0
    with console.track("audit data", len(train), "files") as task:
        for order, path in enumerate(train):
            for number, (document, share) in enumerate(_documents(path, opened)):
                read_bytes, count = read_bytes + len(document), count + 1
                best, shared, own = sketch.nearest(document)
                exact = sketch.holds(document)
                found = 1.0 if exact else _part(shared, own, sketch.counts[best])
                if best >= 0 and found > overlap:
                    kind = "exact copy" if exact else f"{found:.0%} shared"
                    text = f"{names[best]} is in {path.name}, document {number} ({kind})"
                    copies[best] = max(copies.get(best, (0.0, "")), (found, text))
                if number % 256 == 0:
                    task.update(order + share, megabytes=f"{read_bytes / 1e6:,.0f}")
    return _result(sketch, names, copies, overlap, (count, read_bytes), time.monotonic() - began)


def _part(shared: int, one: int, other: int) -> float:
    """Of the smaller of two documents' hashes, those they share; 0 for too few to tell."""
    if shared < min(_LEAST, one, other):
        return 0.0
    return shared / max(1, min(one, other))


def _result(
    sketch: Sketch,
    names: list[str],
    copies: dict[int, tuple[float, str]],
    overlap: float,
    read: tuple[int, int],
    seconds: float,
) -> AuditResult:
    least = sorted(sketch.counts)[len(names) // 100]
    short = sum(count < _LEAST for count in sketch.counts)
    strength = (
        f"all of {read[0]:,} training documents, {read[1]:,} bytes; passages that share more than "
        f"{overlap:.0%} of the smaller document's hashes (99 % of the {len(names):,} validation "
        f"documents have {least} or more); {short} are too short to be found but whole and alone"
    )
    shown = [text for _, text in sorted(copies.values(), reverse=True)[:_SHOWN]]
    summary = f"{len(copies)} of {len(names):,} validation documents are in the training text"
    if shown:
        summary += ": " + "; ".join(shown) + (" ..." if len(copies) > _SHOWN else "")
    evidence = [Evidence(position=k, before=0.0, after=copies[k][0]) for k in sorted(copies)]
    out = finding("overlap", bool(copies), summary, evidence[:_SHOWN], strength)
    return AuditResult(
        subject="the training text", valid=not copies, findings=[out], order="",
        tokens=0, calls=0, seconds=seconds, isolation="",
    )  # fmt: skip


def _documents(path: Path, tokenizer: Tokenizer | None) -> Iterator[tuple[bytes, float]]:
    """Documents of a text file or folder, or of a shard, with the share read so far."""
    if not is_shard(path):
        yield from stream_with_share(path)
        return
    if tokenizer is None:
        raise BadInput(f"{path} is a token shard: give the --tokenizer that made it")
    tokens = read_shard(path)
    starts = np.flatnonzero(tokens == tokenizer.bos_id)
    edges = [*starts.tolist(), len(tokens)]
    for first, last in pairwise(edges):
        for document in tokenizer.decode(tokens[first:last]):
            yield document, last / len(tokens)


def _digest(document: bytes) -> bytes:
    return hashlib.blake2b(document, digest_size=16).digest()


def _hashes(document: bytes) -> Hashes:
    found: Hashes = hashes(np.frombuffer(document, np.uint8), KEPT)
    return found


@njit(cache=True)  # type: ignore[untyped-decorator]
def _table(prints: Hashes, owners: Owners) -> tuple[Hashes, Owners]:
    """An open-addressing table at most half full. A hash of several documents: the first's."""
    size = 16
    while size < 2 * len(prints):
        size *= 2
    keys, values = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    for i in range(len(prints)):
        place = (prints[i] >> np.uint64(5)) & np.uint64(size - 1)
        while values[place] >= 0 and keys[place] != prints[i]:
            place = (place + np.uint64(1)) & np.uint64(size - 1)
        if values[place] < 0:
            keys[place], values[place] = prints[i], owners[i]
    return keys, values


@njit(cache=True)  # type: ignore[untyped-decorator]
def _lookup(keys: Hashes, values: Owners, prints: Hashes) -> Owners:
    """int32[k]: the owner of each hash, -1 where there is none."""
    found = np.full(len(prints), -1, np.int32)
    mask = np.uint64(len(keys) - 1)
    for i in range(len(prints)):
        place = (prints[i] >> np.uint64(5)) & mask
        while values[place] >= 0 and keys[place] != prints[i]:
            place = (place + np.uint64(1)) & mask
        found[i] = values[place]
    return found
