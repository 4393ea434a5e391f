"""Is every invalid scorer of the gallery found, and every valid twin passed?

python bench/audit.py found --minutes 0.5      a line for each invalid scorer and vocabulary
python bench/audit.py alarms --runs 200        audits of valid twins, and how many are wrong
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fairway import console
from fairway.audit.audit import audit
from fairway.audit.audit_text import AuditText
from fairway.pipeline.command_results import AuditResult
from gallery import scorers as gallery
from gallery.local import Local

VOCABULARIES = (1024, 8192)


def audited(
    maker: Callable[[int], Any], vocab: int, count: int, seed: int, minutes: float
) -> AuditResult:
    tokens = gallery.text(vocab, count, seed)
    text = AuditText(tokens, vocab, 0, gallery.token_bytes(tokens))
    return audit(Local(maker(vocab)), text, minutes, seed, maker.__name__)


def found(minutes: float, tokens: int, vocabularies: Sequence[int]) -> None:
    missed = 0
    for vocab in vocabularies:
        for maker, (kind, condition) in gallery.INVALID.items():
            began = time.monotonic()
            result = audited(maker, vocab, tokens, 1, minutes)
            broken = [f.condition for f in result.findings if f.verdict == "broken"]
            missed += condition not in broken
            print(
                f"{vocab:5} {kind:4} {maker.__name__:20} wanted {condition:10} "
                f"found {', '.join(broken) or 'nothing':30} {time.monotonic() - began:5.1f} s",
                flush=True,
            )
    print(f"{missed} missed")


def alarms(minutes: float, runs: int) -> None:
    wrong, tested = 0, 0
    jobs = cycle((m, v) for m in gallery.TWINS.values() for v in VOCABULARIES)
    for seed, (maker, vocab) in islice(enumerate(jobs), runs):
        tokens = int(200 * 20 ** np.random.default_rng(seed).random())
        result = audited(maker, vocab, tokens, seed, minutes)
        tested += 1
        print(f"{tested} tested, {wrong} wrong", file=sys.stderr, flush=True)
        wrong += not result.valid
        if not result.valid:
            print(vocab, maker.__name__, tokens, seed, result.failure, flush=True)
    print(f"{wrong} of {tested} audits of valid scorers found a fault")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("found", "alarms"))
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--tokens", type=int, default=700)
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--runs", type=int, default=200)
    given = parser.parse_args()
    console.silence()
    if given.what == "found":
        found(given.minutes, given.tokens, given.vocab)
    else:
        alarms(given.minutes, given.runs)
