"""Decode a proof with the numpy reference of exact arithmetic alone: slow, on any machine.

    python bench/reference_decode.py ARTIFACT PROOF OUT

Prints the machine and the SHA-256 of what was decoded, and ends with code 1 if it is not the one
that the proof names. A second of this is about a hundred tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from fairway.coding import artifact
from fairway.coding.codec import Codec
from fairway.coding.lanes import Layout
from fairway.coding.match_model import MatchStepper
from fairway.coding.model import Stepper
from fairway.config.schema import Memory
from fairway.exact.operands import Operands, prepare
from fairway.formats.proof import Digest, Header, read_chunks, text_digest
from fairway.io.binary import Reader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.exact_network import ExactNetwork


class _ReferenceStepper(ExactNetwork):  # type: ignore[misc]  # tests have no types
    def observe(self, tokens: object) -> None:
        return


class ReferenceModel:
    """As much of a CodingModel as a decoder needs."""

    def __init__(self, operands: Operands, memory: Memory) -> None:
        self._operands, self._memory = operands, memory

    def stepper(self, layout: Layout) -> Stepper:
        inner, p = _ReferenceStepper(self._operands, layout.lanes), self._operands
        if not self._memory.is_on:
            return inner
        return MatchStepper(inner, self._memory, p.vocab_size, p.bos_id, layout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("proof", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    opened = artifact.read(args.artifact)
    reader = Reader(args.proof.read_bytes(), "the proof's header")
    header = Header.read(reader)
    if header.machine:
        raise SystemExit("this proof is in floating point: the reference decodes exact ones")
    codec = Codec(cast(Any, ReferenceModel(prepare(opened), opened.memory)), opened.tokenizer)
    began = time.perf_counter()
    digest = Digest()
    with open(args.out, "wb") as out:
        for chunk in read_chunks(reader, header.chunks):
            for document in codec.decode(chunk, lambda tokens, bits: None):
                digest.update(document)
                out.write(document)
    figures = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "bytes": digest.text_bytes,
        "sha256": digest.text_sha256,
        "seconds": round(time.perf_counter() - began, 1),
        "right": text_digest(digest.text_sha256, digest.lengths_sha256) == header.text,
    }
    print(json.dumps(figures))
    return 0 if figures["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
