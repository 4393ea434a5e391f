"""Packing against what else there is, on the weights of one trained model, in one run.

    OMP_NUM_THREADS=1 python bench/pack.py --model runs/mini [--out bench/results/pack-mini.json]

RUN is a run directory after `train`. Four tables; --out writes their rows and a picture beside
them.

same codes: the integers of the starting system's rule (pull request 264: int5 MLP, int6 attention
and bigram, int8 embedding; a row's largest weight is its largest code), coded by several coders.
Every coder also stores the fp16 scales and all vectors. Fairway's bytes are those of its file
without the tokenizer, which the starting system's container (torch.save, zstd-22) does not hold
either; header and recipe count. `order-0 entropy` is a bound and no coder.
curves: bytes against loss, one curve per quantizer, all coded by Fairway's coder and read back.
pairs: on a longer text, the starting system's rule in its container, and GPTQ packed to the same
loss, then to the same bytes.
costs: seconds and memory of packing and loading, in a fresh process without numba's cache.

Losses are of separate windows of validation text. They are differences to the unrounded weights,
paired by token; standard errors take the sums of windows as independent, not the tokens.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from math import log, log2
from pathlib import Path
from typing import Any, Literal, TypeVar

import brotli
import matplotlib as mpl
import numpy as np
import torch
import zstandard
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, SerializeAsAny

from fairway import console, distributed
from fairway.coding import artifact, online
from fairway.coding.float_model import FloatModel
from fairway.coding.protocols import text_costs
from fairway.config import toml
from fairway.config.schema import Model, Pack, Score
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats.tensors import Matrix, Quantized, Weights
from fairway.io import atomic, checkpoint
from fairway.model.gpt import GPT
from fairway.model.parameters import is_matrix
from fairway.pipeline import pack
from fairway.pipeline.data_folder import load_tokenizer, load_val
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.pack import Packed
from fairway.pipeline.results import PrepareResult
from fairway.quantize import gptq
from fairway.quantize.gptq import FactoredHessian
from fairway.quantize.quantizers import QUANTIZERS, Quantizer
from fairway.train import calibrate
from fairway.train.calibrate import Curvature
from fairway.train.loop import commit

# The starting system's rule (pull request 264).
STARTING = Pack(
    quantizer="rtn", row_scale="max", mlp_bits=5, attention_bits=6, bigram_bits=6, embed_bits=8
)
CONTAINER = "torch.save, zstd-22"
FAIRWAY = "Fairway"
BITS = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)  # per weight: where the curves have their points
TRIES = 8  # levels, in search of a loss

T = TypeVar("T")
Floats = NDArray[np.float64]
Codes = Mapping[str, Matrix]


# What is reported --------------------------------------------------------------------------------


class Row(BaseModel):
    """A row of the table that it names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    table: str


class Coded(Row):
    """One coder on all integers, scales and vectors."""

    table: Literal["same codes"] = "same codes"
    coder: str
    coded_bytes: int
    share: float  # of the starting system's container
    encode_s: float | None  # None: nothing was coded


class Kind(Row):
    """Codes alone, all matrices of one name together."""

    table: Literal["codes by kind"] = "codes by kind"
    kind: str
    weights: int
    bits_per_weight: dict[str, float]


class Point(Row):
    """One quantizer at one size."""

    table: Literal["curves"] = "curves"
    quantizer: str
    setting: str
    coded_bytes: int  # of the file without the tokenizer
    bits_per_weight: float
    nats_lost: float  # per token
    nats_error: float
    bpb_lost: float
    bpb_error: float
    predicted_nats: float


class Final(Row):
    """One side of a pair, on the longer text."""

    table: Literal["pairs"] = "pairs"
    pair: Literal["starting system", "same loss", "same bytes"]
    level: float | None
    coded_bytes: int  # without the tokenizer; the starting system's: of its container
    file_bytes: int  # with it
    nats_lost: float  # per token
    nats_error: float
    bpb_lost: float
    bpb_error: float
    predicted_nats: float
    bytes_share: float  # of the starting system's
    bytes_share_with_tokenizer: float  # the tokenizer on both sides
    loss_share: float  # of the starting system's
    loss_share_error: float
    bpb_over_starting: float  # difference of the two, paired
    bpb_over_starting_error: float
    tries: int


class Cost(Row):
    table: Literal["costs"] = "costs"
    what: str
    seconds: float
    peak_bytes: int  # of the process, so far


class Report(Row):
    table: Literal["report"] = "report"
    model: str
    weights_sha256: str
    weights: int
    tokenizer_bytes: int
    curves_text: str
    pairs_text: str
    bpb_unrounded: float  # on the text of the pairs
    machine: dict[str, Any]
    load_average: float
    commit: str
    date: str
    command: str
    seconds: float
    rows: list[SerializeAsAny[Row]]


# The subject -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A trained model and all that packing and measuring it needs."""

    shape: Model
    tokenizer: Tokenizer
    weights: dict[str, Weights]
    curvatures: dict[str, Curvature]
    val: NDArray[np.uint16]

    @staticmethod
    def of(run: RunDirectory, name: str, sets: Sequence[str]) -> Subject:
        """Raises BadInput."""
        shape = toml.load(name or str(run.recipe), sets).model
        folder = run.data_folder(run.require(PrepareResult))
        tensors, _ = checkpoint.load(run.weights)
        curvatures, _ = calibrate.load(run.calibration)
        weights = {n: t.float().numpy() for n, t in tensors.items()}
        return Subject(shape, load_tokenizer(folder), weights, curvatures, load_val(folder))

    @cached_property
    def hessians(self) -> dict[str, FactoredHessian]:
        return gptq.factor(self.curvatures)

    @cached_property
    def tokenizer_bytes(self) -> int:
        return len(self.tokenizer.to_bytes())

    def quantizer(self, settings: Pack) -> Quantizer:
        return QUANTIZERS[settings.quantizer](self.weights, self.hessians, settings)

    def unrounded(self) -> GPT:
        with torch.device("meta"):
            model = GPT(self.shape, self.tokenizer.vocab_size, self.tokenizer.bos_id)
        model.load_state_dict(
            {n: torch.from_numpy(w.copy()) for n, w in self.weights.items()}, assign=True
        )
        return model

    def packed(self, quantized: Quantized) -> Packed:
        """Written by Fairway's coder, read back, compared."""
        data = artifact.write(self.shape, self.tokenizer, quantized)
        made = artifact.read(data)
        pack.check_equal(made, quantized)
        cost = sum(
            gptq.predicted_nats(self.weights[n], made.state[n].numpy(), c)
            for n, c in self.curvatures.items()
        )
        return Packed(data, made, cost)

    def coded_bytes(self, packed: Packed) -> int:
        return len(packed.data) - self.tokenizer_bytes


class Meter:
    """Losses on the first bytes of the validation text."""

    def __init__(self, subject: Subject, text_bytes: int, device: torch.device) -> None:
        ends = subject.tokenizer.byte_lengths(subject.val).cumsum()
        size = min(int(np.searchsorted(ends, text_bytes)) + 1, len(ends))
        self.tokens = np.asarray(subject.val[:size])
        self.text_bytes = int(ends[size - 1])
        self.window, self.device = subject.shape.window, device
        self.unrounded = self._nats(subject.unrounded().to(device))

    def lost(self, packed: Packed) -> Floats:
        """By how much each token's nats rise: [N]; the first, which is free, is left out."""
        return self._nats(packed.artifact.build_model(self.device)) - self.unrounded

    def mean(self, lost: Floats) -> tuple[float, float]:
        """Nats per token and its standard error."""
        return float(lost.mean()), self._error(lost) / len(lost)

    def share(self, lost: Floats, of: Floats) -> tuple[float, float]:
        """Ratio of two sums that are paired, and its standard error (delta method)."""
        ratio = float(lost.sum() / of.sum())
        return ratio, self._error(lost - ratio * of) / abs(float(of.sum()))

    def bpb(self, nats_per_token: float) -> float:
        return nats_per_token * len(self.unrounded) / log(2) / self.text_bytes

    def describe(self) -> str:
        return f"the first {self.text_bytes:,} bytes of validation, {len(self.tokens):,} tokens"

    def _nats(self, model: GPT) -> Floats:
        model.dtype = torch.float32
        nats = np.full(len(self.tokens), np.nan)
        how = Score(protocol="plain")
        for costs in text_costs(FloatModel(model), self.tokens, how, online.USUAL_DIVISION):
            nats[costs.positions] = costs.nats
        if not np.all(np.isfinite(nats[1:])):
            raise AssertionError("a token was not charged, or its loss is not finite")
        return nats[1:]

    def _error(self, values: Floats) -> float:
        """Standard error of the sum."""
        sums = np.add.reduceat(values, np.arange(0, len(values), self.window))
        return float(np.sqrt(len(sums) * sums.var(ddof=1))) if len(sums) > 1 else float("inf")


# The same integers -------------------------------------------------------------------------------


def container(subject: Subject, matrices: Codes) -> bytes:
    """Return the starting system's file: int8 codes, the rest in fp16, torch.save, zstd-22."""
    saved: dict[str, torch.Tensor] = {}
    for name, weight in subject.weights.items():
        if name in matrices:
            saved[name + ".q"] = torch.from_numpy(int8_codes(matrices[name]))
            saved[name + ".scale"] = torch.from_numpy(scales(matrices[name]))
        else:
            saved[name] = torch.from_numpy(weight).half()
    buffer = io.BytesIO()
    torch.save({"w": saved}, buffer)
    return zstandard.ZstdCompressor(level=22).compress(buffer.getvalue())


def int8_codes(matrix: Matrix) -> NDArray[np.int8]:
    assert np.abs(matrix.codes + 0.5).max(initial=0) < 128
    return matrix.codes.astype(np.int8)


def scales(matrix: Matrix) -> NDArray[np.float16]:
    return matrix.rows.astype(np.uint16).view(np.float16)


def code_plane(matrices: Iterable[Matrix]) -> bytes:
    return b"".join(int8_codes(m).tobytes() for m in matrices)


def rest_planes(subject: Subject, matrices: Codes) -> bytes:
    """All scales, then all vectors, fp16: the low bytes, then the high bytes."""
    vectors = [
        w.astype(np.float16).ravel() for n, w in subject.weights.items() if n not in matrices
    ]
    planes = b""
    for group in ([scales(m) for m in matrices.values()], vectors):
        planes += np.concatenate(group).view(np.uint8).reshape(-1, 2).T.tobytes()
    return planes


def with_brotli(data: bytes) -> bytes:
    return bytes(brotli.compress(data, quality=11, lgwin=24))


def with_xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


def entropy_bits(codes: NDArray[Any]) -> float:
    """Order-0 entropy of all codes of one matrix together."""
    counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / codes.size)).sum())


def same_codes(subject: Subject) -> tuple[list[Row], Packed, int]:
    """Return the rows, the starting system's rule by Fairway, and the bytes of its container."""
    quantized = subject.quantizer(STARTING).at(0.0)
    matrices = quantized.matrices
    codes, rest = code_plane(matrices.values()), rest_planes(subject, matrices)
    packed = subject.packed(quantized)  # compiles, too
    _, seconds = timed(lambda: artifact.write(subject.shape, subject.tokenizer, quantized))
    made: list[tuple[str, int, float | None]] = []
    for coder, make in {
        CONTAINER: lambda: container(subject, matrices),
        "planes, brotli-11": lambda: with_brotli(codes + rest),
        "planes, xz -9e": lambda: with_xz(codes + rest),
    }.items():
        data, took = timed(make)
        made.append((coder, len(data), took))
    entropy = sum(entropy_bits(m.codes) for m in matrices.values()) / 8
    made.append(("order-0 entropy", round(entropy) + len(with_brotli(rest)), None))
    made.append((FAIRWAY, subject.coded_bytes(packed), seconds))
    first = made[0][1]
    rows: list[Row] = [
        Coded(coder=coder, coded_bytes=size, share=size / first, encode_s=took)
        for coder, size, took in made
    ]
    return [*rows, *by_kind(subject, quantized)], packed, first


def by_kind(subject: Subject, quantized: Quantized) -> Iterator[Kind]:
    """Yield the bits of codes alone; Fairway's, when all scales are equal."""
    flat = {
        n: Matrix(m.codes, np.full_like(m.rows, int(np.median(m.rows))), m.columns, m.grid)
        for n, m in quantized.matrices.items()
    }
    ours = artifact.read(
        artifact.write(subject.shape, subject.tokenizer, Quantized(flat, quantized.vectors))
    )
    spent = {row.name: row.coded_bits for row in ours.tensors}
    for kind in dict.fromkeys(n.rsplit(".", 1)[-1] for n in flat):
        inside = {n: m for n, m in flat.items() if n.rsplit(".", 1)[-1] == kind}
        weights, plane = sum(m.codes.size for m in inside.values()), code_plane(inside.values())
        bits: dict[str, float] = {
            "entropy": sum(entropy_bits(m.codes) for m in inside.values()),
            "zstd-22": 8 * len(zstandard.ZstdCompressor(level=22).compress(plane)),
            "brotli": 8 * len(with_brotli(plane)),
            FAIRWAY: sum(spent[n] for n in inside),
        }
        yield Kind(
            kind=kind,
            weights=weights,
            bits_per_weight={coder: b / weights for coder, b in bits.items()},
        )


# Curves ------------------------------------------------------------------------------------------


def settings(subject: Subject) -> Iterator[tuple[str, str, float, Callable[[], Quantized]]]:
    """Quantizer, setting, level and what makes it, from coarse to fine."""
    for row_scale in ("max", "std"):
        for more in (-2, -1, 0, 1, 2):
            bits = {
                f"{part}_bits": min(max(getattr(STARTING, f"{part}_bits") + more, 2), 8)
                for part in ("mlp", "attention", "bigram", "embed")
            }
            chosen = subject.quantizer(STARTING.model_copy(update=bits | {"row_scale": row_scale}))
            names = "int" + "/".join(str(b) for b in bits.values())
            yield f"rtn {row_scale}", names, float(more), partial(chosen.at, 0.0)
    weights = sum(w.size for n, w in subject.weights.items() if is_matrix(n))
    for name in ("uniform", "gptq"):
        filling = subject.quantizer(Pack.model_validate({"quantizer": name}))
        for bits_per_weight in BITS:
            level = filling.guess(bits_per_weight * weights)
            setting = f"step {2.0**level:.3f} std" if name == "uniform" else f"log2 θ {level:.2f}"
            yield name, setting, level, partial(filling.at, level)


def curves(subject: Subject, meter: Meter) -> tuple[list[Point], list[tuple[float, float]]]:
    """Return all points, and GPTQ's levels with their loss in BPB."""
    points, levels = [], []
    for quantizer, setting, level, make in settings(subject):
        packed = subject.packed(make())
        nats, error = meter.mean(meter.lost(packed))
        points.append(
            Point(
                quantizer=quantizer,
                setting=setting,
                coded_bytes=subject.coded_bytes(packed),
                bits_per_weight=packed.artifact.bits_per_weight,
                nats_lost=nats,
                nats_error=error,
                bpb_lost=meter.bpb(nats),
                bpb_error=meter.bpb(error),
                predicted_nats=packed.predicted_nats,
            )
        )
        if quantizer == "gptq":
            levels.append((level, points[-1].bpb_lost))
        console.say(
            f"{quantizer}, {setting}: {points[-1].coded_bytes:,} bytes, {nats:+.5f} nats per token"
        )
    return points, levels


def draw(path: Path, points: Sequence[Point], starting: Final, title: str) -> None:
    """One curve per quantizer; bars are two standard errors. The scale is linear near zero."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fairway", "font.size": 9}):
        figure = Figure(figsize=(7, 4.4), layout="constrained")
        axes = figure.subplots()
        for name in dict.fromkeys(p.quantizer for p in points):
            mine = sorted((p for p in points if p.quantizer == name), key=lambda p: p.coded_bytes)
            axes.errorbar(
                [p.coded_bytes / 1000 for p in mine], [p.bpb_lost for p in mine],
                [2 * p.bpb_error for p in mine], marker="o", ms=3, lw=1.2, capsize=2, label=name,
            )  # fmt: skip
        axes.plot(
            starting.coded_bytes / 1000, starting.bpb_lost, "k*", ms=9,
            label="the starting system: rtn max in its container",
        )  # fmt: skip
        axes.axhline(0, color="gray", lw=0.6)
        axes.set_yscale("symlog", linthresh=0.001)
        axes.set_xlabel("kilobytes without the tokenizer")
        axes.set_ylabel("bits per byte lost to rounding")
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        with atomic.replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


# Pairs -------------------------------------------------------------------------------------------


def search(
    loss: Callable[[float], float], target: float, start: float, tolerance: float
) -> Iterator[float]:
    """Levels whose loss comes near the target: a bracket, and inside it that a loss doubles per
    level, as the curvature has it. Ends when `loss` came within the tolerance, or after TRIES."""
    level, finer, coarser = start, -np.inf, np.inf
    for _ in range(TRIES):
        yield level
        found = loss(level)
        if abs(found - target) <= tolerance:
            return
        if found > target:
            coarser = min(coarser, level)
        else:
            finer = max(finer, level)
        step = log2(target / found) if found > 0 < target else float(np.sign(target - found))
        level += min(max(step, -2.0), 2.0)
        if not finer < level < coarser:
            level = (finer + coarser) / 2


def pairs(
    subject: Subject,
    meter: Meter,
    starting: Packed,
    container_bytes: int,
    levels: Sequence[tuple[float, float]],
    tolerance: float,
) -> Iterator[Final]:
    """The starting system, then GPTQ of the same loss, then of the same bytes."""
    of = meter.lost(starting)
    tokenizer = subject.tokenizer_bytes

    def final(
        pair: Literal["starting system", "same loss", "same bytes"],
        packed: Packed, lost: Floats, size: int, level: float | None, tries: int,
    ) -> Final:  # fmt: skip
        nats, error = meter.mean(lost)
        share, share_error = meter.share(lost, of)
        over, over_error = meter.mean(lost - of)
        row = Final(
            pair=pair,
            level=level,
            coded_bytes=size,
            file_bytes=size + tokenizer,
            nats_lost=nats,
            nats_error=error,
            bpb_lost=meter.bpb(nats),
            bpb_error=meter.bpb(error),
            predicted_nats=packed.predicted_nats,
            bytes_share=size / container_bytes,
            bytes_share_with_tokenizer=(size + tokenizer) / (container_bytes + tokenizer),
            loss_share=share,
            loss_share_error=share_error,
            bpb_over_starting=meter.bpb(over),
            bpb_over_starting_error=meter.bpb(over_error),
            tries=tries,
        )
        console.say(f"{pair}: {size:,} bytes, {nats:+.5f} ± {error:.5f} nats per token")
        return row

    first = final("starting system", starting, of, container_bytes, None, 1)
    yield first
    filling = subject.quantizer(Pack(quantizer="gptq"))
    tried: dict[float, tuple[Packed, Floats]] = {}

    def loss(level: float) -> float:
        packed = subject.packed(filling.at(level))
        tried[level] = packed, meter.lost(packed)
        found = meter.bpb(meter.mean(tried[level][1])[0])
        console.say(f"level {level:.3f}: {subject.coded_bytes(packed):,} bytes, {found:+.5f} BPB")
        return found

    start = min(levels, key=lambda pair: abs(pair[1] - first.bpb_lost))[0]
    for _ in search(loss, first.bpb_lost, start, tolerance):
        pass
    level = min(tried, key=lambda at: abs(float(tried[at][1].sum() - of.sum())))
    packed, lost = tried[level]
    yield final("same loss", packed, lost, subject.coded_bytes(packed), level, len(tried))
    packed = pack.pack_weights(
        subject.shape, subject.tokenizer, subject.weights, subject.curvatures,
        Pack(quantizer="gptq", budget_bytes=container_bytes + tokenizer),
    )  # fmt: skip
    yield final("same bytes", packed, meter.lost(packed), subject.coded_bytes(packed), None, 1)


# Costs -------------------------------------------------------------------------------------------


def timed(make: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def stopwatch(subject: Subject, budget_bytes: int) -> Iterator[Cost]:
    """To be run in a fresh process with an empty cache of numba."""
    distributed.start("cpu")

    def cost(what: str, seconds: float) -> Cost:
        return Cost(what=what, seconds=seconds, peak_bytes=peak_bytes())

    yield cost("before: weights and curvatures loaded", 0.0)
    yield cost("gptq: factoring the curvatures", timed(lambda: subject.hessians)[1])
    budget = Pack(quantizer="gptq", budget_bytes=budget_bytes)
    filling = subject.quantizer(budget)
    weights = sum(w.size for n, w in subject.weights.items() if is_matrix(n))
    level = filling.guess(8 * (budget_bytes - subject.tokenizer_bytes))
    quantized, seconds = timed(lambda: filling.at(level))
    yield cost(f"gptq: rounding {weights:,} weights once", seconds)

    def write() -> bytes:
        return artifact.write(subject.shape, subject.tokenizer, quantized)

    (data, first_write), (_, first_read) = timed(write), timed(lambda: artifact.read(write()))
    again = timed(write)[1]
    first_read -= again
    read = timed(lambda: artifact.read(data))[1]
    compiling = first_write + first_read - again - read
    yield cost("compiling the coder, once per machine", compiling)
    yield cost(f"writing {len(data):,} bytes", again)
    yield cost("loading them", read)
    packed, seconds = timed(
        lambda: pack.pack_weights(
            subject.shape, subject.tokenizer, subject.weights, subject.curvatures, budget
        )
    )
    yield cost(f"all of pack, {len(packed.data):,} of {budget_bytes:,} bytes", seconds)


def peak_bytes() -> int:
    """Of this program: getrusage also counts the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def costs(args: argparse.Namespace, budget_bytes: int) -> list[Cost]:
    """Return the rows of costs, from a process of its own."""
    command = [sys.executable, __file__, "--model", str(args.model), "--recipe", args.recipe]
    command += [word for s in args.set for word in ("--set", s)]
    command += ["--stopwatch", str(budget_bytes), "--threads", str(args.threads)]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, env=os.environ | {"NUMBA_CACHE_DIR": cache}
        )
    return [Cost.model_validate(row) for row in json.loads(done.stdout)]


# Tables ------------------------------------------------------------------------------------------


def show(report: Report) -> None:
    """Print one table for each kind of row."""
    for table in dict.fromkeys(row.table for row in report.rows):
        rows = [flat(row) for row in report.rows if row.table == table]
        console.table(table, list(rows[0]), [list(row.values()) for row in rows])


def flat(row: Row) -> dict[str, str]:
    """Return the fields of a row, as they are printed."""
    fields = row.model_dump(exclude={"table"})
    fields |= fields.pop("bits_per_weight") if row.table == "codes by kind" else {}
    return {name: shown(value) for name, value in fields.items()}


def shown(value: object) -> str:
    """Return a number with thousands separated, or with five digits."""
    if isinstance(value, bool | str) or value is None:
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a run directory after train")
    parser.add_argument("--recipe", default="", help="instead of the one in the run directory")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--text-bytes", type=int, default=262_144, help="for the curves")
    parser.add_argument("--final-bytes", type=int, default=1_000_000, help="for the pairs")
    parser.add_argument("--tolerance", type=float, default=5e-5, help="BPB, of the same loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the report, and its picture as .svg")
    parser.add_argument("--stopwatch", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        subject = Subject.of(RunDirectory(args.model), args.recipe, args.set)
        if args.stopwatch:
            rows = [cost.model_dump() for cost in stopwatch(subject, args.stopwatch)]
            sys.stdout.write(json.dumps(rows) + "\n")
            return
        report = measure(args, subject)
    except BadInput as error:
        console.error(str(error))
        raise SystemExit(2) from None
    show(report)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_atomic(args.out, (report.model_dump_json(indent=1) + "\n").encode())
        points = [r for r in report.rows if isinstance(r, Point)]
        starting = next(r for r in report.rows if isinstance(r, Final))
        title = f"{args.model.name}: {report.weights:,} weights, {report.curves_text}"
        draw(args.out.with_suffix(".svg"), points, starting, title)


def measure(args: argparse.Namespace, subject: Subject) -> Report:
    """Return the rows of all tables. Raises BadInput."""
    began, place = time.perf_counter(), distributed.start()
    coded, starting, container_bytes = same_codes(subject)
    small = Meter(subject, args.text_bytes, place.device)
    points, levels = curves(subject, small)
    large = Meter(subject, args.final_bytes, place.device)
    finals = list(pairs(subject, large, starting, container_bytes, levels, args.tolerance))
    spent = costs(args, container_bytes + subject.tokenizer_bytes)
    return Report(
        model=str(args.model),
        weights_sha256=atomic.sha256_file(RunDirectory(args.model).weights),
        weights=sum(w.size for w in subject.weights.values()),
        tokenizer_bytes=subject.tokenizer_bytes,
        curves_text=small.describe(),
        pairs_text=large.describe(),
        bpb_unrounded=large.bpb(float(large.unrounded.mean())),
        machine=distributed.describe(place),
        load_average=os.getloadavg()[0],
        commit=commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" ".join(sys.argv),
        seconds=time.perf_counter() - began,
        rows=[*coded, *points, *finals, *spent],
    )


if __name__ == "__main__":
    main()
