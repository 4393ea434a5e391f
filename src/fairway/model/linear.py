"""Matrix products and lookups of weights, in one place, so that calibration can watch them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fairway.model.operators import onednn

Watcher = Callable[[tuple[Tensor, ...], Tensor, Tensor], None]
"""Called with (weights, input, output) of a product [..., n] to [..., m], or of a lookup."""

Adapters = Mapping[int, tuple[Tensor, Tensor]]
"""By a weight's id: A [L, r, n] and B [L, m, r], which add B(Ax) to its product, per lane."""

_ONEDNN_ROWS = 256  # from here on; MKL is faster below (docs/research/LOG.md)
_HAS_BOTH = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()

_watchers: list[Watcher] = []
_adapters: Adapters = {}


def linear(x: Tensor, *weights: Tensor) -> Tensor:
    """Multiply x [..., n] by each weight [m_i, n], side by side: [..., Σ m_i], in x's dtype."""
    joined = weights[0] if len(weights) == 1 else torch.cat(weights)
    y = matmul(x, joined.to(x.dtype))
    for watch in _watchers:
        watch(weights, x, y)
    return y + _added(x, weights, y) if _adapters else y


def matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x [..., n] by weight [m, n], both of one dtype: [..., m]."""
    rows = x.numel() // x.shape[-1]
    if _HAS_BOTH and rows >= _ONEDNN_ROWS and x.dtype == torch.float32 and x.device.type == "cpu":
        if not torch.is_grad_enabled():
            return onednn(x, weight)
        y: Tensor = _OneDNN.apply(x, weight)  # type: ignore[no-untyped-call]
        return y
    return functional.linear(x, weight)


class _OneDNN(torch.autograd.Function):
    """x·wᵀ and its gradients in fp32, each by whichever of the library's backends is faster.

    oneDNN multiplies 1.1 to 1.25 times as fast as MKL, which torch takes by itself, but not where
    both matrices lie transposed (docs/research/LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g, (of_x, of_weight) = upstream[0], ctx.needs_input_grad
        dx = onednn(g, weight.mT) if of_x else None
        return dx, g.flatten(0, -2).mT @ x.flatten(0, -2) if of_weight else None


def _added(x: Tensor, weights: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """Return what adapters add to a product y [L, S, Σ m_i] of x [L, S, n]."""
    parts = y.split([len(w) for w in weights], -1)
    additions = []
    for weight, part in zip(weights, parts, strict=True):
        pair = _adapters.get(id(weight))
        if pair is None:
            additions.append(torch.zeros_like(part))
        else:
            inner, outer = (matrix.mT.to(x.dtype) for matrix in pair)
            additions.append(x @ inner @ outer)
    return torch.cat(additions, -1)


def lookup(indices: Tensor, table: Tensor, dtype: torch.dtype) -> Tensor:
    """Return rows of table [V, d] in `dtype`: indices int64[...] to [..., d]."""
    y = functional.embedding(indices, table).to(dtype)
    for watch in _watchers:
        watch((table,), indices, y)
    return y


@contextmanager
def watching(watch: Watcher) -> Iterator[None]:
    """Call `watch` for every product and lookup inside. Not for compiled code."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


@contextmanager
def adapted(adapters: Adapters) -> Iterator[None]:
    """Apply adapters to all products inside; x must be [L, S, n]. Not for compiled code."""
    global _adapters
    before, _adapters = _adapters, adapters
    try:
        yield
    finally:
        _adapters = before
