"""RMS normalisation with an explicit epsilon: the library's default depends on its version."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EPS = 1.1920929e-07  # of fp32, whatever the dtype of the input


class _RMSNorm(torch.autograd.Function):
    """RMS norm in three passes over memory each way; the library's CPU version takes ten."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, scale = _normed(x)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        """Return (g - y·mean(g·y)) · scale."""
        y, scale = ctx.saved_tensors
        g = upstream[0]
        along = (g * y).mean(-1, keepdim=True, dtype=scale.dtype)
        grad: Tensor = torch.addcmul(g, y, along.to(y.dtype), value=-1) * scale.to(y.dtype)
        return grad


def _normed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normed x, and what it was multiplied by, fp32 [..., 1]."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    return (wide * scale).to(x.dtype), scale


def rms_norm(x: Tensor) -> Tensor:
    """Return x / sqrt(mean(x²) + EPS) over the last dimension, computed in fp32, in x's dtype."""
    if not torch.is_grad_enabled():
        return _normed(x)[0]
    normed: Tensor = _RMSNorm.apply(x)  # type: ignore[no-untyped-call]
    return normed
