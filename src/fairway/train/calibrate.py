"""Calibration for packing: how much the loss rises when a weight has an error.

To second order an error E [m, n] in a matrix y = W x costs, per token (K-FAC, Martens and Grosse
2015, with the empirical Fisher matrix in place of the Hessian),

    ΔL ≈ ½ Σ_r g_r · e_r A e_rᵀ        A = mean of x xᵀ        g_r = mean of (∂ℓ/∂y_r)²

e_r the error's rows, ℓ the sum of the losses, means over tokens. A table that is looked up has the
same form with the roles exchanged: A is the mean of γ γᵀ, γ = ∂ℓ/∂y, and g_r the share of the
gradients' square that row r received. Matrices with one input share one A. A matrix that is used
several times (a head tied to the embedding, a layer passed twice) adds up the forms of its uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairway.distributed import Process
from fairway.io import checkpoint
from fairway.model.gpt import GPT
from fairway.model.linear import watching

_LOGITS_ROWS = 512  # rows of logits at once


@dataclass
class Curvature:
    """The curvature of one matrix [m, n]."""

    inputs: Tensor  # A, float32[n, n]
    outputs: Tensor  # g, float32[m]


class Collector:
    """Sums A and g over batches, with one forward and one backward pass each."""

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._uses: dict[tuple[str, str], Curvature] = {}  # by name and use, sums over tokens
        passes = model.shape.passes
        self._passes = {  # how often each matrix is used in one forward pass
            name: passes.count(int(name.split(".")[1])) if name.startswith("blocks.") else 1
            for name in self._names.values()
        }
        self.tokens = 0

    def add(self, tokens: Tensor, targets: Tensor) -> None:
        """Count a batch; tokens and targets int64[B, T]."""
        self.tokens += tokens.numel()
        with watching(self._watch):
            hidden = self._model.hidden(tokens)
        last = hidden.detach().requires_grad_()
        self._head(last.reshape(-1, last.shape[-1]), targets.reshape(-1))
        assert last.grad is not None
        hidden.backward(last.grad)
        for p in self._model.parameters():
            p.grad = None

    def _watch(self, weights: tuple[Tensor, ...], x: Tensor, y: Tensor) -> None:
        names = [self._names[id(w)] for w in weights]
        if x.is_floating_point():
            rows = x.detach().reshape(-1, x.shape[-1]).float()
            inputs, sizes = rows.T @ rows, [len(w) for w in weights]

            def matmul(gradient: Tensor) -> None:
                squares = gradient.reshape(-1, gradient.shape[-1]).float().square().sum(0)
                for name, outputs in zip(names, squares.split(sizes), strict=True):
                    self._sum(name, "matmul", inputs, outputs)

            y.register_hook(matmul)
            return

        def lookup(gradient: Tensor) -> None:
            rows = gradient.reshape(-1, gradient.shape[-1]).float()
            outputs = torch.zeros(len(weights[0]), device=rows.device)
            outputs.index_add_(0, x.reshape(-1), rows.square().sum(1))
            self._sum(names[0], "lookup", rows.T @ rows, outputs)

        y.register_hook(lookup)

    def _head(self, hidden: Tensor, targets: Tensor) -> None:
        """Run backward from the sum of losses, in slices; count the logits' matrix."""
        cap, weight = self._model.shape.softcap, self._model.embed.tokens
        outputs = torch.zeros(len(weight), device=hidden.device)
        for rows, target in zip(
            hidden.split(_LOGITS_ROWS), targets.split(_LOGITS_ROWS), strict=True
        ):
            z = torch.nn.functional.linear(rows, weight.detach().to(rows.dtype)).float()
            z.retain_grad()
            logits = cap * torch.tanh(z / cap)
            torch.nn.functional.cross_entropy(logits, target, reduction="sum").backward()
            assert z.grad is not None
            outputs += z.grad.square().sum(0)
        wide = hidden.detach().float()
        self._sum(self._names[id(weight)], "matmul", wide.T @ wide, outputs)

    def _sum(self, name: str, use: str, inputs: Tensor, outputs: Tensor) -> None:
        seen = self._uses.setdefault(
            (name, use), Curvature(torch.zeros_like(inputs), torch.zeros_like(outputs))
        )
        seen.inputs += inputs
        seen.outputs += outputs

    def curvatures(self, process: Process) -> dict[str, Curvature]:
        """Return the curvature of every matrix, by name, over all ranks.

        Uses are added such that the trace of every row's quadratic form stays exact.
        """
        tokens = float(process.all_reduce_(torch.tensor(float(self.tokens), device=process.device)))
        for seen in self._uses.values():
            process.all_reduce_(seen.inputs)
            process.all_reduce_(seen.outputs)
        curvatures: dict[str, Curvature] = {}
        for name in dict.fromkeys(name for name, _ in self._uses):
            uses = []
            for use in ("matmul", "lookup"):
                if (name, use) in self._uses:
                    sums = self._uses[name, use]
                    # (Σ A)(Σ g) over p passes is p times the sum of their forms, if they are alike.
                    inputs = sums.inputs / tokens
                    outputs = sums.outputs / (tokens * self._passes[name])
                    if use == "lookup":  # g is a share: its sum is 1
                        outputs = outputs / outputs.sum().clamp(min=1e-30)
                    uses.append(Curvature(inputs, outputs))
            curvatures[name] = uses[0] if len(uses) == 1 else _added(uses)
        return curvatures


def _added(uses: list[Curvature]) -> Curvature:
    """Merge several uses: A is their weighted sum, g_r keeps the trace of row r."""
    inputs = torch.stack([use.outputs.sum() * use.inputs for use in uses]).sum(0)
    traces = torch.stack([use.outputs * use.inputs.trace() for use in uses]).sum(0)
    return Curvature(inputs, traces / inputs.trace().clamp(min=1e-30))


def save(path: Path, curvatures: dict[str, Curvature], note: dict[str, Any]) -> None:
    """Write one safetensors file; matrices with equal inputs share them. Raises OSError."""
    tensors: dict[str, Tensor] = {}
    owner: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, curvature in curvatures.items():
        tensors[f"{name}.outputs"] = curvature.outputs
        key = hash(curvature.inputs.cpu().numpy().tobytes())
        if key in owner:
            shared[name] = owner[key]
        else:
            owner[key] = name
            tensors[f"{name}.inputs"] = curvature.inputs
    checkpoint.save(path, tensors, note | {"shared": shared})


def load(path: Path) -> tuple[dict[str, Curvature], dict[str, Any]]:
    """Return curvatures and note. Raises BadInput when the file is missing or damaged."""
    tensors, note = checkpoint.load(path)
    shared: dict[str, str] = note.get("shared", {})
    names = [n.removesuffix(".outputs") for n in tensors if n.endswith(".outputs")]
    return {
        name: Curvature(tensors[f"{shared.get(name, name)}.inputs"], tensors[f"{name}.outputs"])
        for name in names
    }, note
