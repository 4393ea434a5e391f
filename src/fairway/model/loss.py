"""Cross-entropy of softcapped logits, in slices of rows: [B·S, V] never exists whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairway.model.linear import matmul

_SLICE = {"cpu": 256, "cuda": 32768}  # rows at once: a slice of logits stays in a CPU's cache
_SCATTERS = ["cpu"]  # where it is fast to change single logits; a GPU would write them all again


class Sample(NamedTuple):
    """Tokens that stand for the whole vocabulary; targets are then places among them."""

    tokens: Tensor  # int64[K], all targets of the batch among them
    odds: Tensor  # float32[K]: one over the probability that a token is in the sample


class _SoftcappedCrossEntropy(torch.autograd.Function):
    """Forward computes the loss and both gradients at once (as in Liger's fused linear loss).

    With q = σ(2z/c), a logit is c·tanh(z/c) = c·(2q - 1), and its derivative 4q(1 - q). As it is
    bounded, sums of exp(2c·q) need no maximum to be taken off: one pass less over the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, head: Tensor, targets: Tensor, cap: float, sample: Sample | None
    ) -> Tensor:
        N = x.shape[0]
        rows_of_head = head if sample is None else head[sample.tokens]
        weight = rows_of_head.to(x.dtype)
        grad_x, grad_rows = torch.empty_like(x), torch.zeros_like(rows_of_head)
        total = torch.zeros((), dtype=torch.float32, device=x.device)
        size, masks = _SLICE[x.device.type], x.device.type not in _SCATTERS
        for start in range(0, N, size):
            rows, target = x[start : start + size], targets[start : start + size, None]
            q = torch.sigmoid(matmul(rows, weight).float().mul_(2 / cap))
            p, own = torch.exp(q * (2 * cap)), q.gather(1, target)
            is_target = torch.arange(len(weight), device=x.device) == target if masks else target
            if sample is not None:  # of a target it is certain that it is in the sample
                p = (
                    torch.where(is_target, p, p * sample.odds)
                    if masks
                    else (p * sample.odds).scatter_(1, target, torch.exp(own * (2 * cap)))
                )
            sums = p.sum(1, keepdim=True)
            total += (sums.log() - own * (2 * cap)).sum()
            if masks:
                p = (p / sums - is_target.float()) * (q - q * q) * (4 / N)
            else:
                p.mul_(4 / N / sums).mul_(q - q * q)
                p.scatter_add_(1, target, (own * own - own).mul_(4 / N))
            p = p.to(x.dtype)
            torch.mm(p, weight, out=grad_x[start : start + size])
            grad_rows.addmm_(p.T, rows) if head.dtype == p.dtype else grad_rows.add_(p.T @ rows)
        grad_head = grad_rows
        if sample is not None:
            grad_head = torch.zeros_like(head).index_copy_(0, sample.tokens, grad_rows)
        ctx.save_for_backward(grad_x, grad_head)
        return total / N

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_head = ctx.saved_tensors
        return grad_x * upstream[0], grad_head * upstream[0], None, None, None


def softcapped_cross_entropy(
    x: Tensor, head: Tensor, targets: Tensor, cap: float, sample: Sample | None = None
) -> Tensor:
    """Return the mean nats of targets int64[B, S] under softmax(cap·tanh(x·headᵀ/cap)).

    sample: with gradients, estimate the softmax's sum from these tokens.
    """
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        loss: Tensor = _SoftcappedCrossEntropy.apply(rows, head, targets.reshape(-1), cap, sample)  # type: ignore[no-untyped-call]
        return loss
    return nats(rows, head, targets.reshape(-1), cap).mean()


def nats(x: Tensor, head: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Return the nats of each target int64[N], float32[N], from x [N, d]; without gradients."""
    weight, size, costs = head.to(x.dtype), _SLICE[x.device.type], []
    for rows, target in zip(x.split(size), targets.split(size), strict=True):
        z = matmul(rows, weight).float().mul_(2 / cap).sigmoid_().mul_(2 * cap)
        own = z.gather(1, target[:, None])[:, 0]
        costs.append(z.exp_().sum(1).log_().sub_(own))
    return torch.cat(costs)
