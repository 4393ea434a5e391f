"""Show a text under a model: as a page, or in the terminal."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fairway import console
from fairway.coding import artifact
from fairway.coding.lanes import documents_of
from fairway.io.atomic import check_writable, write_atomic
from fairway.page import terminal
from fairway.page.build import view_page
from fairway.page.charges import PIPE, Charges, bits_of, charges, read_documents
from fairway.pipeline.results import Result


class ViewResult(Result):
    """What a text costs under an artifact."""

    path: str  # of the page; empty: it was shown in the terminal
    text_bytes: int
    tokens: int  # that cost bits
    bits: float
    bpb: float
    shown: str = Field("", exclude=True)  # in the terminal

    @property
    def sentence(self) -> str:
        page = f", {self.path}: open it in a browser" if self.path else ""
        return (
            f"{self.text_bytes:,} bytes, {self.tokens:,} tokens, {self.bits:,.0f} bits, "
            f"{self.bpb:.4f} bits per byte{page}"
        )

    @property
    def document(self) -> str:
        return self.shown


def view(model: Path, file: Path, page: Path | None) -> ViewResult:
    """Compute what the text in `file` costs, and write the page; without one, show it instead.

    file: PIPE is standard input. Raises BadInput.
    """
    if page:
        check_writable(page)
    opened = artifact.read(model)
    made = charges(opened, read_documents(file, opened.tokenizer))
    if page:
        name = "standard input" if file == PIPE else console.printable(file.name)
        facts = {
            "name": console.printable(model.name),
            "bytes": opened.size_bytes,
            "sha256": opened.sha256,
        }
        write_atomic(page, view_page(name, facts, _payload(made)))
    return ViewResult(
        path=str(page or ""),
        text_bytes=made.text_bytes,
        tokens=len(made.tokens) - 1,
        bits=float(made.bits.sum()),
        bpb=made.bpb,
        shown="" if page else terminal.shown(made),
    )


def _payload(made: Charges) -> dict[str, Any]:
    """Return charges as the page reads them: JSON with little-endian arrays in base64."""
    tokenizer, bos = made.tokenizer, made.tokenizer.bos_id
    starts = documents_of(made.tokens, bos)
    cuts = np.split(np.arange(len(made.tokens)), starts[1:])
    ends = tokenizer.byte_lengths(made.tokens)
    whole = made.parts.sum(-1, keepdims=True)
    columns = {
        "token": (made.tokens, "<u2"),
        "bits": (made.bits, "<f4"),
        "top": (made.likeliest, "<u2"),
        "topBits": (bits_of(made.likeliest_frequencies), "<f4"),
        "shares": (made.parts / np.maximum(whole, 1), "<f4"),
    }
    return {
        "vocabulary": [
            None if token == bos or not piece else _base64(piece)
            for token, piece in enumerate(tokenizer.spellings())
        ],
        "documents": [
            {"bytes": _base64(document), "ends": _array(np.cumsum(ends[cut]), "<u4")}
            | {name: _array(values[cut], form) for name, (values, form) in columns.items()}
            for document, cut in zip(made.documents, cuts, strict=True)
        ],
    }


def _array(values: NDArray[Any], form: str) -> str:
    return _base64(np.ascontiguousarray(values, form).tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
