"""Damaged and hostile models and proofs, and random networks, for the JavaScript decoder.

    python tests/page/mutants.py [--count 1000] [--networks 200] [--seed 0]

A decoder must refuse a mutant with an error message, or decode to a text that has the digest of the
proof's header and that the first decoder finds, too. None may hang, and an accident must always be
noticed.
A random network, with a proof by the first encoder, must decode to the text. Prints how many ended
how; the exit code is 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import switches
from node_decoder import Decoder

from fairway import console
from fairway.coding import artifact
from fairway.coding.proof import decode_proof
from fairway.errors import BadInput
from fairway.formats.proof import ARTIFACT_BYTES, text_digest
from fairway.io.binary import join
from mutations import damaged, hostile, hostile_stream

CASES = ("memory-far-columns", "cased", "challenge", "stored", "all-switches")
FINE = ("refused", "opened", "right")
HANG_S = 10
_TEXT_AT, _ARTIFACT_AT = 6, 14  # in a proof's header


@dataclass(frozen=True)
class Mutant:
    """Two files, of which one is not what it was."""

    model: bytes
    proof: bytes
    is_accident: bool


def mutate(made: switches.Made, random: np.random.Generator) -> Mutant:
    """Return an accident in one of the files, or an attack: right checksums, wrong contents."""
    while (mutant := _changed(made, random)) == Mutant(made.model, made.proof, False):
        continue
    return mutant


def _changed(made: switches.Made, random: np.random.Generator) -> Mutant:
    kind = int(random.integers(4))
    if kind == 0:
        return Mutant(damaged(made.model, random), made.proof, True)
    if kind == 1:
        return Mutant(made.model, damaged(made.proof, random), True)
    if kind == 2:
        return Mutant(made.model, hostile_stream(made.parts, random), False)
    model = hostile(made.model, random)
    name = hashlib.sha256(model).digest()[:ARTIFACT_BYTES]
    first = made.parts[0]
    named = first[:_ARTIFACT_AT] + name + first[_ARTIFACT_AT + ARTIFACT_BYTES :]
    return Mutant(model, join([named, *made.parts[1:]]), False)


def judge(made: switches.Made, mutant: Mutant, found: dict[str, Any]) -> str:
    """Return what became of a mutant; what is not FINE is a finding."""
    if "damage" in found:
        sentence = found["damage"]
        if not sentence or not sentence.isprintable():
            return f"refused without a sentence to print: {sentence!r}"
        return "refused"
    if "sha256" not in found:
        return str(found)
    if mutant.is_accident:
        return "an accident was not noticed"
    lengths = b"".join(length.to_bytes(8, "little") for length in found["documents"])
    digest = text_digest(found["sha256"], hashlib.sha256(lengths).hexdigest())
    if not mutant.proof[_TEXT_AT:].startswith(digest):
        return "a text under a green verdict that the header does not name"
    return "opened" if first_decoder(mutant) == found["sha256"] else "the first decoder differs"


def first_decoder(mutant: Mutant) -> str:
    """Return the SHA-256 of the text that Python decodes, or why it does not."""
    try:
        opened = artifact.read(mutant.model)
        return decode_proof(opened, mutant.proof, io.BytesIO()).text_sha256
    except BadInput as error:
        return str(error)


def run(count: int, seed: int) -> tuple[Counter[str], float]:
    """Return how many mutants ended how, and the seconds that the slowest took."""
    random, counts, slowest = np.random.default_rng(seed), Counter[str](), 0.0
    subjects = [switches.make(name) for name in CASES]
    decoder = Decoder()
    try:
        for made in subjects:
            assert decoder.ask(made.model, made.proof)["sha256"] == made.text_sha256
        for i in range(count):
            made = subjects[i % len(subjects)]
            mutant = mutate(made, random)
            start = time.perf_counter()
            found = decoder.ask(mutant.model, mutant.proof, HANG_S)
            slowest = max(slowest, time.perf_counter() - start)
            counts[judge(made, mutant, found)] += 1
    finally:
        decoder.close()
    return counts, slowest


def run_networks(count: int, seed: int) -> Counter[str]:
    """Return how many proofs of random networks decode to their texts, and what else happened."""
    random, counts, decoder = np.random.default_rng(seed), Counter[str](), Decoder()
    try:
        for i in range(count):
            made = switches.made_of(case := switches.random_case(random), i)
            found = decoder.ask(made.model, made.proof)
            is_right = found.get("sha256") == made.text_sha256
            counts["right" if is_right else f"{found} for {case}"] += 1
    finally:
        decoder.close()
    return counts


def main() -> None:
    console.silence()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts, slowest = run(options.count, options.seed)
    counts += run_networks(options.networks, options.seed)
    for result, number in counts.most_common():
        print(f"{number:8,} {result}")
    print(f"slowest mutant {slowest:.2f} s")
    sys.exit(any(result not in FINE for result in counts))


if __name__ == "__main__":
    main()
