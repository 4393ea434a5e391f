"""One training step, ours and the original's, at one shape: for bench/cpu.py and bench/gpu."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import peer as peers
from fairway.config.schema import Model, Optim
from fairway.model.gpt import build
from fairway.train.optim import Optimizer

VOCAB = 1024  # of the challenge


@dataclass(frozen=True)
class Shape:
    """A step: `pieces` micro-batches of `rows` windows, then the optimizers."""

    name: str
    model: Model
    rows: int
    steps: int
    pieces: int = 1
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        return self.pieces * self.rows * self.model.window


@dataclass(frozen=True)
class Step:
    """Forward and backward of one micro-batch, and the update that ends a step."""

    piece: Callable[[], None]
    update: Callable[[], object]
    pieces: int

    def __call__(self) -> None:
        for _ in range(self.pieces):
            self.piece()
        self.update()


def ours(shape: Shape, compiled: bool) -> Step:
    """Newton-Schulz iterates in bf16, as the original's does whatever the rest is."""
    model = build(shape.model, VOCAB, 0, seed=0).to(shape.device)
    model.dtype = shape.dtype
    optimizer = Optimizer(model, Optim(), torch.bfloat16)
    loss_of = torch.compile(model.loss, dynamic=False) if compiled else model.loss

    def piece() -> None:
        loss_of(*batch(shape)).backward()

    return Step(piece, lambda: optimizer.step(1.0, 0.95), shape.pieces)


def theirs(shape: Shape, compiled: bool, path: Path) -> Step:
    script = peers.load(path)
    model = peers.build(script, shape.model, VOCAB).to(shape.device)
    narrow = shape.dtype == torch.bfloat16
    if narrow:
        model = peers.in_bfloat16(script, model)
    if shape.device == "cuda":  # as its main() does
        newton_schulz = script.zeropower_via_newtonschulz5
        setattr(script, newton_schulz.__name__, torch.compile(newton_schulz))
        torch.backends.cuda.enable_cudnn_sdp(False)
    stepper = peers.Stepper(script, model, Optim())
    loss_of: Any = torch.compile(model, dynamic=False, fullgraph=True) if compiled else model

    def piece() -> None:
        with torch.autocast(shape.device, torch.bfloat16, enabled=narrow):
            loss = loss_of(*batch(shape))
        loss.backward()

    return Step(piece, lambda: stepper.step(1.0, 0.95), shape.pieces)


def batch(shape: Shape) -> tuple[Tensor, Tensor]:
    """Random tokens, int64[rows, window] each; BOS, 0, about every 500 of them."""
    tokens = torch.randint(1, VOCAB, (shape.rows, shape.model.window + 1), device=shape.device)
    tokens[torch.rand(tokens.shape, device=shape.device) < 1 / 500] = 0
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
