"""The command `audit data`: find validation documents in training text.

An index of the validation text stays in memory (data/near_duplicates.py), and the training text
streams past it. So memory grows with the validation text alone, about 2 bytes for each of its
bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from fairway import console
from fairway.audit.audit_text import open_tokenizer
from fairway.audit.experiment import finding, result_of
from fairway.data.documents import stream_with_share
from fairway.data.near_duplicates import NearDuplicates
from fairway.data.shards import is_shard, read_shard
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.pipeline.command_results import AuditFinding, AuditResult, Evidence

_KEPT = 16  # one of this number of fingerprints of the validation text is kept
_LEAST = 4  # shared fingerprints: fewer may be a stock phrase
_SHOWN = 20


def audit_data(
    train: Sequence[Path], val: Sequence[Path], tokenizer: Path | None, overlap: float
) -> AuditResult:
    """Find the validation documents that the training files hold, whole or in part.

    overlap: a pair counts if it shares more than this part of the fingerprints of either document.
    Raises BadInput.
    """
    began = time.monotonic()
    opened = open_tokenizer(tokenizer) if tokenizer else None
    names: list[str] = []

    def named() -> Iterator[bytes]:
        for path in val:
            for number, (document, _) in enumerate(_documents(path, opened)):
                names.append(f"{path.name}, document {number}")
                yield document

    index = NearDuplicates(named(), _KEPT)
    if not names:
        raise BadInput(f"{val[0]} holds no documents")
    copies: dict[int, tuple[float, str]] = {}
    read_bytes = count = 0
    with console.track("audit data", len(train), "files") as task:
        for order, path in enumerate(train):
            for number, (document, share) in enumerate(_documents(path, opened)):
                read_bytes, count = read_bytes + len(document), count + 1
                best, shared, own = index.nearest(document)
                exact = index.copy_of(document) is not None
                shared_part = 1.0 if exact else _part(shared, own, index.counts[best])
                if best >= 0 and shared_part > overlap:
                    kind = "exact copy" if exact else f"{shared_part:.0%} shared"
                    text = f"{names[best]} is in {path.name}, document {number} ({kind})"
                    copies[best] = max(copies.get(best, (0.0, "")), (shared_part, text))
                if number % 256 == 0:
                    task.update(order + share, megabytes=f"{read_bytes / 1e6:,.0f}")
    found = _finding(index, names, copies, overlap, (count, read_bytes))
    return result_of("the training text", [found], began)


def _part(shared: int, one: int, other: int) -> float:
    """Return the shared part of the smaller document's fingerprints; 0 for too few to tell."""
    if shared < min(_LEAST, one, other):
        return 0.0
    return shared / max(1, min(one, other))


def _finding(
    index: NearDuplicates,
    names: list[str],
    copies: dict[int, tuple[float, str]],
    overlap: float,
    read: tuple[int, int],
) -> AuditFinding:
    least = sorted(index.counts)[len(names) // 100]
    short = sum(count < _LEAST for count in index.counts)
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
    return finding("overlap", bool(copies), summary, strength, evidence[:_SHOWN])


def _documents(path: Path, tokenizer: Tokenizer | None) -> Iterator[tuple[bytes, float]]:
    """Yield the documents of a text file, folder or shard, with the share read so far."""
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
