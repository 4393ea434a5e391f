"""Every use of a weight matrix goes through here, so that calibration can watch all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

Watcher = Callable[[tuple[Tensor, ...], Tensor, Tensor], None]
"""(weights, input, output) of a product [..., n] → [..., m] or a lookup int64[...] → [..., d]."""

_watchers: list[Watcher] = []


def product(x: Tensor, *weights: Tensor) -> Tensor:
    """x [..., n] times each weight [m_i, n], side by side: [..., Σ m_i], in x's dtype."""
    joined = weights[0] if len(weights) == 1 else torch.cat(weights)
    y = linear(x, joined.to(x.dtype))
    for watch in _watchers:
        watch(weights, x, y)
    return y


def lookup(indices: Tensor, table: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of table [V, d] in `dtype`: int64[...] → [..., d]."""
    y = embedding(indices, table).to(dtype)
    for watch in _watchers:
        watch((table,), indices, y)
    return y


@contextmanager
def watching(watch: Watcher) -> Iterator[None]:
    """Inside, `watch` sees every product and lookup. Not for compiled code."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)
