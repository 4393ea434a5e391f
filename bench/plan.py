"""What a run will take on more machines than are at hand: training, scoring, adaptation, proof.

    python bench/plan.py [--recipe pr264] [--measured FILE] [--lanes 2048] [--json]

FILE is what bench/gpu/speed.py --json printed on one GPU; without it, the training rate is that
of a published run on 8xH100 (REFERENCE C, #549: 83.6 ms per step), and every line is a prediction
from other people's measurements. n GPUs in all, 8 to a node:

    step      t = T/n · F / (s·P)  +  U/n  +  A  +  sending
    sending   bytes · ((k-1)/k / inside + (1 - 8/n) / between) + 2 · 10 · latency · log2 n
    score     V/n · F / (3·s·P): a forward pass is a third of a training step's work
    adapt     V/n · 4/3 · F / (s·P)  +  V/(n·L·S) · (A + sending): charged, then learned
    decode    V/(n·L) · (weights + L · cache) / (h·H): one token per lane and step

T tokens per step, F operations per token (6·N + 6·layers·W·d; the mean over training where layers
are repeated from some progress on), s the share of the peak P that training reaches, U and A what
the optimizer takes (shared over ranks, and the rest), bytes what a rank sends (gradients in fp32
scattered, updates in bf16 gathered), k GPUs of a node, V tokens of the validation text, L lanes
per GPU, S tokens of a lane between updates, H memory bandwidth and h the share of it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from fairway import console
from fairway.config import toml
from fairway.config.schema import Model, Recipe
from fairway.model.parameters import tensors_of
from fairway.model.sizes import flops_per_token

LIMIT_S = 600.0
VAL_BYTES, VAL_TOKENS = 151_080_891, 62_021_846  # FineWeb's validation text, sp1024 (REFERENCE A8)
BYTES_PER_TOKEN = VAL_BYTES / VAL_TOKENS


@dataclass(frozen=True)
class Machine:
    """H100 SXM by its datasheet; the shares are of other people's measurements, as noted."""

    peak: float = 989e12  # bf16 operations per second
    memory: float = 3.35e12  # bytes per second
    node: int = 8  # GPUs
    inside: float = (
        300e9  # bytes per second of a collective inside a node: NVLink 450e9, two thirds
    )
    between: float = 40e9  # ... between nodes, per GPU: a 400 Gbit/s adapter, four fifths
    latency: float = 30e-6  # seconds per message of a collective
    memory_share: float = 0.6  # of the bandwidth that reading a cache reaches: an assumption
    shared_update: float = 11e-3  # seconds of Newton-Schulz on one GPU (#1523: 1.3 ms on 8)
    other_update: float = 1.5e-3  # AdamW, averaging, clipping: an assumption


@dataclass(frozen=True)
class Published:
    """A run of REFERENCE C on 8xH100: tokens per step, layers, MLP factor, milliseconds."""

    name: str
    tokens: int
    layers: int
    mlp: float
    step_ms: float
    dim: int = 512
    vocab: int = 1024


CALIBRATION = Published("#549", 786_432, 11, 3.0, 83.6)
CHECKS = (
    Published("#162 (SDPA)", 786_432, 9, 3.0, 81.3),
    Published("#180 (SDPA)", 786_432, 10, 3.0, 89.4),
    Published("#264, the seed (SDPA)", 786_432, 11, 3.0, 115.47),
    Published("#287", 786_432, 11, 3.0, 84.5),
    Published("#1019", 786_432, 11, 3.0, 86.6),
    Published("#1218", 786_432, 11, 4.0, 99.0, vocab=4096),
)


def shape_of(run: Published) -> Model:
    return toml.load("pr264").model.model_copy(
        update={"num_layers": run.layers, "mlp_mult": run.mlp, "dim": run.dim}
    )


@dataclass(frozen=True)
class Plan:
    """A network on n GPUs; `share` is s."""

    machine: Machine
    shape: Model
    vocab: int
    tokens: int
    share: float
    repeat_from: float = 0.0  # progress at which layers begin to be repeated

    @property
    def flops(self) -> float:
        """F of the finished network."""
        return flops_per_token(self.shape, self.vocab)

    @property
    def training_flops(self) -> float:
        once = flops_per_token(self.shape.model_copy(update={"repeat_times": 0}), self.vocab)
        return self.repeat_from * once + (1 - self.repeat_from) * self.flops

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in tensors_of(self.shape, self.vocab))

    def sending(self, gpus: int) -> float:
        """Seconds in which gradients are scattered and updates gathered."""
        if gpus == 1:
            return 0.0
        m = self.machine
        within = min(gpus, m.node)
        sent = 6.0 * self.parameters  # 4 bytes of a gradient, 2 of an update
        seconds = sent * (within - 1) / within / m.inside
        if gpus > m.node:
            seconds += sent * (1 - m.node / gpus) / m.between
        return seconds + 2 * 10 * m.latency * math.log2(gpus)

    def step_s(self, gpus: int) -> float:
        m = self.machine
        compute = self.tokens / gpus * self.training_flops / (self.share * m.peak)
        return compute + m.shared_update / gpus + m.other_update + self.sending(gpus)

    def score_s(self, gpus: int, tokens: float) -> float:
        return tokens / gpus * self.flops / 3 / (self.share * self.machine.peak)

    def adapt_s(self, gpus: int, tokens: float, lanes: int, span: int) -> float:
        m = self.machine
        learn = tokens / gpus * self.flops * 4 / 3 / (self.share * m.peak)
        updates = tokens / (gpus * lanes * span)
        return learn + updates * (m.other_update + self.sending(gpus))

    def decode_s(self, gpus: int, tokens: float, lanes: int) -> float:
        m, s = self.machine, self.shape
        cache = 2 * s.num_layers * s.num_kv_heads * s.head_dim * 2 * s.window
        read = 2 * self.parameters + lanes * cache
        return tokens / (gpus * lanes) * read / (m.memory * m.memory_share)


def share_of(step_s: float, tokens: int, shape: Model, vocab: int, machine: Machine) -> float:
    """s, from a measured step on 8 GPUs."""
    rest = Plan(machine, shape, vocab, 0, 1.0).step_s(8)
    flops = flops_per_token(shape, vocab)
    return tokens / 8 * flops / ((step_s - rest) * machine.peak)


def measured_share(file: Path, machine: Machine) -> float:
    """s, from what bench/gpu/speed.py printed: operations of the micro-batches alone."""
    row = json.loads(file.read_text())[0]
    seconds = (row["ours_step_ms"] - row["ours_update_ms"]) / 1e3
    shape = toml.load("pr264").model
    return float(row["tokens"] * flops_per_token(shape, 1024) / seconds / machine.peak)


def checks(machine: Machine, share: float) -> list[list[str]]:
    rows = []
    for run in CHECKS:
        plan = Plan(machine, shape_of(run), run.vocab, run.tokens, share)
        got = plan.step_s(8) * 1e3
        rows.append(
            [
                run.name,
                f"{run.step_ms:.1f}",
                f"{got:.1f}",
                f"{100 * (got / run.step_ms - 1):+.0f} %",
            ]
        )
    return rows


def rows_of(plan: Plan, chosen: Recipe, lanes: int) -> list[dict[str, float]]:
    """Seconds of everything, for each number of GPUs."""
    span = chosen.adapt.dynamic.block_tokens
    tokens = VAL_TOKENS * (1.0 if plan.vocab == 1024 else 0.73)  # 8,192 pieces: REFERENCE B
    found = []
    for gpus in (1, 8, 16, 32, 64, 128, 256, 512):
        step = plan.step_s(gpus)
        found.append(
            {
                "gpus": gpus,
                "step_ms": step * 1e3,
                "sending_ms": plan.sending(gpus) * 1e3,
                "steps_in_600_s": LIMIT_S / step,
                "tokens_per_s": plan.tokens / step,
                "score_s": plan.score_s(gpus, tokens),
                "adapt_s": plan.adapt_s(gpus, tokens, lanes, span),
                "encode_s": plan.score_s(gpus, tokens),
                "decode_s": plan.decode_s(gpus, tokens, lanes),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="pr264")
    parser.add_argument("--measured", type=Path, help="what bench/gpu/speed.py --json printed")
    parser.add_argument("--lanes", type=int, default=2048, help="per GPU")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    machine, chosen = Machine(), toml.load(args.recipe)
    known = CALIBRATION
    share = share_of(known.step_ms / 1e3, known.tokens, shape_of(known), known.vocab, machine)
    console.say(f"share of the peak in {known.name}: {share:.3f}")
    console.table(
        "published runs on 8xH100", ["run", "ms", "predicted", ""], checks(machine, share)
    )
    if args.measured:
        share = measured_share(args.measured, machine)
        console.say(f"share of the peak in {args.measured}: {share:.3f}")
    plan = Plan(
        machine,
        chosen.model,
        chosen.data.vocab_size,
        chosen.train.batch_tokens,
        share,
        chosen.train.repeat_from,
    )
    rows = rows_of(plan, chosen, args.lanes)
    console.table(
        f"{args.recipe}, {plan.tokens:,} tokens per step, {VAL_BYTES:,} bytes of text",
        list(rows[0]),
        [[f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}" for v in row.values()] for row in rows],
    )
    for field, value in vars(machine).items():
        console.say(f"  {field} = {value:g}")
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
