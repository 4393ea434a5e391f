"""What an artifact or the header of a proof says, without decoding a text."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fairway.coding import artifact
from fairway.config.schema import Memory
from fairway.formats import proof
from fairway.formats.artifact import TensorRow
from fairway.io import foreign
from fairway.io.binary import Reader
from fairway.pipeline.results import HeaderResult, Result


class Inspection(Result):
    """What is in an artifact, byte by byte."""

    artifact_bytes: int
    sha256: str
    weights: int
    bits_per_weight: float  # of the coded matrices
    memory: Memory
    parts: dict[str, int]  # bytes; they sum to artifact_bytes
    tensors: list[TensorRow]


def inspect(path: Path | str) -> Inspection:
    """Return the sizes of an artifact's parts and tensors. Raises BadInput."""
    opened = artifact.read(Path(path))
    return Inspection(
        artifact_bytes=sum(opened.parts.values()),
        sha256=opened.sha256,
        weights=sum(values.size for values in opened.weights.values()),
        bits_per_weight=opened.bits_per_weight,
        memory=opened.memory,
        parts=opened.parts,
        tensors=opened.tensors,
    )


def inspect_proof(file: Path) -> HeaderResult:
    """Return what the header of a proof says. Raises BadInput."""
    data = foreign.read_bytes(file, "the proof", proof.MAX_PROOF_BYTES)
    header = proof.Header.read(Reader(data, "the proof's header"))
    method = "none"
    if header.learning:
        from fairway.coding import online  # imports torch

        method = online.from_bytes(header.learning).method
    return HeaderResult(
        proof_bytes=len(data),
        proof_sha256=hashlib.sha256(data).hexdigest(),
        version=proof.VERSION,
        artifact_sha256_begins=header.artifact.hex(),
        text_digest=header.text.hex(),
        chunks=header.chunks,
        arithmetic="float" if header.machine else "exact",
        grade="device" if header.machine else "portable",
        environment=header.machine.environment if header.machine else "",
        adaptation=method,
    )
