"""Operators that the compiler must leave alone, because it would make them slow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import define, impl, register_fake


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply fp32 x [..., n] by weight [m, n] on a CPU: [..., m]."""
    y: Tensor = torch.ops.fairway.onednn(x, weight)
    return y


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """Call oneDNN; the compiler accepts this operator only for weights that never change."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


def _empty_output(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def opaque_op(x: Tensor) -> Tensor:
    """Return x, computed once.

    A compiler would compute it again in every layer that reads it: for example cosines in float64
    for each element of every query.
    """
    y: Tensor = torch.ops.fairway.opaque_op(x) if torch.compiler.is_compiling() else x
    return y


define("fairway::onednn", "(Tensor x, Tensor weight) -> Tensor", tags=torch.Tag.flexible_layout)
impl("fairway::onednn", "CPU", _onednn)
register_fake("fairway::onednn", _empty_output)
define("fairway::opaque_op", "(Tensor x) -> Tensor")
impl("fairway::opaque_op", "CompositeExplicitAutograd", torch.clone)
register_fake("fairway::opaque_op", torch.empty_like)
