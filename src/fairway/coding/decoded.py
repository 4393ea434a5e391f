"""Facts about a proof that was decoded. No network is imported: results are read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fairway.config.schema import Arithmetic


class DecodedProof(BaseModel):
    """What follows from a proof and its artifact alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_sha256: str  # of the decoded documents, one after another
    text_bytes: int
    lengths_sha256: str  # of the documents' lengths: little-endian u64 each
    documents: int
    tokens: int  # document boundaries included
    stream_bytes: int  # of the range coder's streams and of stored documents
    stream_ideal_bits: float  # the sum of the integer code lengths; 8 per stored byte
    lanes: int  # the most of any chunk; 0: everything is stored
    adaptation: str
    arithmetic: Arithmetic
    order: str
    grade: Literal["device", "portable"]
