"""What the tokens of a text cost under an artifact: charges, likely alternatives, who predicted.

The text is stepped through as a decoder would, in the chunks and lanes in which `score` charges it
(coding/lanes.py). So the bits sum to the score by the rolling protocol, boundaries included.

Legend: N tokens, with a BOS before each document; V vocabulary.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairway import console
from fairway.coding.artifact import Artifact
from fairway.coding.lanes import chunks
from fairway.coding.online import USUAL_DIVISION
from fairway.coding.session import coding_session
from fairway.data import rules
from fairway.data.documents import stream_documents
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats.range_coder import TOTAL, TOTAL_BITS

PIPE = Path("-")
LIKELIEST = 5
_MOST_TEXT_BYTES = 5_000_000  # a page takes about 20 bytes for each

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Charges:
    """What the tokens of a text cost, in frequencies of 2^30. Those of the first BOS are 0."""

    tokenizer: Tokenizer
    documents: list[bytes]
    tokens: NDArray[np.uint16]  # [N]
    parts: Longs  # [N, 3], of a token's frequency: from the network, n-grams, the neural cache
    likeliest: Longs  # [N, 5], tokens; the likeliest first, equal ones by id
    likeliest_frequencies: Longs  # [N, 5]

    @property
    def bits(self) -> NDArray[np.float64]:
        """Return the length of each token's code: float64[N]."""
        return bits_of(self.parts.sum(-1))

    @property
    def text_bytes(self) -> int:
        return sum(map(len, self.documents))

    @property
    def bpb(self) -> float:
        """Return the bits of all tokens per byte of text."""
        return float(self.bits.sum()) / self.text_bytes


def read_documents(file: Path, tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes that count of the documents of a file, or of standard input.

    file: as `score --text` reads it; PIPE is one document. Raises BadInput.
    """
    found, size = [], 0
    for document in [_standard_input()] if file == PIPE else stream_documents(file):
        size += len(document)
        if size > _MOST_TEXT_BYTES:
            raise BadInput(
                f"{file} has more than {_MOST_TEXT_BYTES:,} bytes of text, too many to look at: "
                f"give a part, as in head -c 100000 FILE | fairway view MODEL -"
            )
        found.append(document)
    found = rules.counted_documents(found, tokenizer.rule)
    if not any(found):
        raise BadInput(f"{file} holds no text")
    return found


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise BadInput("standard input is closed: give it something to read, or name a file")
    return sys.stdin.buffer.read(_MOST_TEXT_BYTES + 1)


def charges(opened: Artifact, documents: list[bytes]) -> Charges:
    """Return what documents cost, in exact arithmetic. Raises BadInput.

    documents: of which all bytes count (`read_documents`).
    """
    tokens = opened.tokenizer.encode_documents(documents)
    if opened.tokenizer.decode(tokens) != documents:
        raise BadInput("the artifact's tokenizer makes another text of this one")
    made = Charges(
        opened.tokenizer, documents, tokens, *np.zeros((1, len(tokens), 3), np.int64),
        *np.zeros((2, len(tokens), LIKELIEST), np.int64),
    )  # fmt: skip
    with (
        coding_session(opened, "exact") as (model, _),
        console.track("view", len(tokens), "tokens") as task,
    ):
        done = 0
        for chunk in chunks(tokens, model.bos_id, USUAL_DIVISION):
            stepper = model.stepper(chunk.layout)
            coded = np.full(chunk.layout.lanes, model.bos_id, np.int64)
            for step in range(chunk.layout.steps):
                where = chunk.layout.positions(step)
                frequencies = np.diff(stepper.step(coded[: len(where)]))
                coded = chunk.tokens[where].astype(np.int64)
                memory = stepper.memory_parts(coded)
                own = frequencies[np.arange(len(where)), coded] - memory.sum(-1)
                at = chunk.start + where
                made.parts[at] = np.column_stack([own, memory])
                made.likeliest[at], made.likeliest_frequencies[at] = _likeliest(frequencies)
                stepper.observe(coded)
                task.update(done := done + len(where))
    return made


def _likeliest(frequencies: Longs) -> tuple[Longs, Longs]:
    """Return the likeliest symbols of each row of int64[n, V], and their frequencies."""
    size = frequencies.shape[1]
    keys = frequencies * size + np.arange(size)[::-1]  # different: of equal ones the first id wins
    count = min(LIKELIEST, size)
    best = np.argpartition(keys, size - count)[:, size - count :]
    order = np.argsort(-np.take_along_axis(keys, best, 1))
    symbols = np.take_along_axis(best, order, 1)
    more = ((0, 0), (0, LIKELIEST - count))
    both = symbols, np.take_along_axis(frequencies, symbols, 1)
    first, second = (np.pad(rows, more, mode="edge") for rows in both)
    return first, second


def bits_of(frequencies: Longs) -> NDArray[np.float64]:
    """Return log2(2^30 / frequency), and 0 for the frequency 0 of what is not coded."""
    bits: NDArray[np.float64] = TOTAL_BITS - np.log2(np.where(frequencies, frequencies, TOTAL))
    return bits
