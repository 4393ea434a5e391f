"""Exact arithmetic against floating point with the same artifact: what it costs, how fast it is.

    python bench/exact.py --model runs/mini [--bytes 500000] [--lanes 128] [--repeats 5] [--json]

Cost: bits per byte of the validation text's first documents, the same protocol (rolling) and lanes,
paired by token. The exact side is the length of the code. The floating-point side is -log2 p; a
coder gives every symbol at least 2^-30, and the second figure adds that floor to it.

Speed: tokens per second, medians of turns that alternate. Scoring runs `score` on both sides with
all threads. Decoding advances --lanes lanes by a token per step, with what a decoder computes, the
tables of the coder; the floating-point side uses one thread per decoder, as its files need, and as
many decoders side by side as there are threads, which share the lanes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fairway import console, distributed
from fairway.coding import artifact, online
from fairway.coding.exact_model import BLOCK_TOKENS, ExactModel
from fairway.coding.float_model import FloatModel, FloatStepper
from fairway.coding.lanes import Layout
from fairway.coding.model import CodingModel
from fairway.coding.protocols import text_costs
from fairway.config.schema import Score
from fairway.exact.cpu import Network
from fairway.exact.operands import Operands
from fairway.formats.coded_tokens import Starts
from fairway.formats.range_coder import TOTAL
from fairway.model.gpt import GPT
from fairway.pipeline import texts
from fairway.pipeline.directory import Job, RunDirectory
from fairway.train.loop import commit

ROLLING = Score(protocol="rolling")
STEPS = 48  # of decoding that are timed, after as many


def bits_of(model: CodingModel, tokens: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the bits of every token, the first 0."""
    bits = np.zeros(len(tokens))
    for costs in text_costs(model, tokens, ROLLING, online.USUAL_DIVISION):
        bits[costs.positions] = costs.nats / np.log(2)
    return bits


def alternate(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median of what each side returns, in turns, after one that does not count."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, work in sides.items():
            figure = work()
            if turn:
                seen[name].append(figure)
    return {name: statistics.median(figures) for name, figures in seen.items()}


def rate(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a run directory after pack")
    parser.add_argument("--bytes", type=int, default=500_000, help="of text, for the cost")
    parser.add_argument(
        "--timed", type=int, default=24_000, help="tokens, for the speed of scoring"
    )
    parser.add_argument("--lanes", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="where exact scoring's time goes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    run = RunDirectory(args.model)
    opened = artifact.read(run.artifact)
    distributed.start("cpu")
    threads = torch.get_num_threads()
    text = texts.load(Job(run.load(), run), opened.tokenizer)
    network = opened.build_model()
    exact_model, float_model = ExactModel(opened, threads), FloatModel(network)
    operands = exact_model.operands

    share = args.bytes / text.text_bytes
    documents = np.flatnonzero(text.tokens == operands.bos_id)
    end = int(documents[min(int(share * len(documents)) + 1, len(documents) - 1)])
    tokens = np.array(text.tokens[:end])
    text_bytes = texts.describe(tokens, opened.tokenizer).text_bytes
    exact, real = bits_of(exact_model, tokens), bits_of(float_model, tokens)
    floor = -np.log2(2.0**-real * (TOTAL - operands.vocab_size) / TOTAL + 1 / TOTAL)
    difference = exact - real
    figures: dict[str, float] = {
        "text_bytes": text_bytes,
        "exact_bpb": exact.sum() / text_bytes,
        "float_bpb": real.sum() / text_bytes,
        "cost_percent": 100 * (exact.sum() / real.sum() - 1),
        "cost_error_percent": 100 * difference.std() * len(real) ** 0.5 / real.sum(),
        "cost_against_floor_percent": 100 * (exact.sum() / floor[1:].sum() - 1),
    }

    timed = tokens[: args.timed]

    def score_exact() -> float:
        return rate(len(timed), lambda: bits_of(exact_model, timed))

    def score_float() -> float:
        return rate(len(timed), lambda: bits_of(float_model, timed))

    scored = alternate({"exact": score_exact, "float": score_float}, args.repeats)
    fed = np.random.default_rng(1).integers(0, operands.vocab_size, (2 * STEPS, args.lanes))
    starts = np.arange(args.lanes) * 2 * STEPS
    layout = Layout(2 * STEPS * args.lanes, Starts(starts, starts > 0))
    stepper = exact_model.stepper(layout)

    def decode_exact() -> float:
        for tokens_of_lanes in fed[:STEPS]:
            stepper.step(tokens_of_lanes)
        return rate(STEPS * args.lanes, lambda: [stepper.step(t) for t in fed[STEPS:]])

    def decode_float() -> float:
        each = args.lanes // threads
        return float(threads * STEPS * each / _side_by_side(network, fed[:, :each], threads))

    decoded = alternate({"exact": decode_exact, "float": decode_float}, args.repeats)
    for name, pair in (("score", scored), ("decode", decoded)):
        figures |= {f"{name}_{side}_tokens_per_s": v for side, v in pair.items()}
        figures[f"{name}_ratio"] = pair["exact"] / pair["float"]
    for name, figure in figures.items():
        console.say(f"{name} {figure:,.5g}" if abs(figure) < 100 else f"{name} {figure:,.0f}")
    if args.profile:
        profile = cProfile.Profile()
        _profile(profile, operands, timed)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(18)
    if args.json:
        about = {"model": str(args.model), "commit": commit(), "threads": threads}
        print(json.dumps(about | distributed.describe(distributed.start("cpu")) | figures))
    return 0


def _profile(profile: cProfile.Profile, operands: Operands, tokens: NDArray[np.uint16]) -> None:
    """In this thread, as a profiler sees no other."""
    network = Network(operands, 1, BLOCK_TOKENS)
    profile.enable()
    for first in range(0, len(tokens) - BLOCK_TOKENS, BLOCK_TOKENS):
        head = network.forward(tokens[None, first : first + BLOCK_TOKENS].astype(np.int64))
        head.intervals(tokens[first + 1 : first + BLOCK_TOKENS + 1].astype(np.int64))
    profile.disable()


def _side_by_side(network: GPT, fed: NDArray[np.int64], threads: int) -> float:
    """Seconds for STEPS steps of `threads` float decoders, each in a thread of its own."""

    def one(_: int) -> float:
        torch.set_num_threads(1)
        stepper = FloatStepper(network, fed.shape[1])
        for tokens in fed[:STEPS]:
            stepper.step(tokens)
        began = time.perf_counter()
        for tokens in fed[STEPS:]:
            stepper.step(tokens)
        return time.perf_counter() - began

    with ThreadPoolExecutor(threads) as pool:
        return max(pool.map(one, range(threads)))


if __name__ == "__main__":
    sys.exit(main())
