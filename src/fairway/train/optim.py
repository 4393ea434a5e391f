"""Who updates which parameter: Muon for matrices, AdamW for embeddings, AdamW for the rest.

Legend: N matrices of one shape stacked, m rows, n columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairway.recipe import Optim

MATRICES = {"q", "k", "v", "o", "up", "down", "bigram_proj"}
EMBEDDINGS = {"tokens", "bigram_table"}
# Quintic whose iteration pushes singular values into [0.7, 1.2]: Keller Jordan's Muon.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalize(u: Tensor, steps: int) -> Tensor:
    """Newton-Schulz: nearest (semi-)orthogonal matrices of u [N, m, n], in u's dtype.

    X ← aX + (bG + cG²)X with G = XXᵀ. Wide matrices in fp32 iterate on the small G alone
    (G ← pGp with p = aI + bG + cG²) and multiply X once at the end; bf16 is too coarse for that.
    """
    x = u / (torch.linalg.matrix_norm(u, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x
    if x.dtype == torch.float32 and x.shape[-1] > x.shape[-2]:
        x = _gram_product(x @ x.mT, steps) @ x
    else:
        for _ in range(steps):
            g = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=B, alpha=C), x, beta=A)
    result: Tensor = x.mT if tall else x
    return result


def _gram_product(g: Tensor, steps: int) -> Tensor:
    """Product of the polynomials p of all steps, from the Gram matrix g [N, m, m]."""
    product: Tensor | None = None
    for step in range(steps):
        p = torch.baddbmm(g, g, g, beta=B, alpha=C)
        p.diagonal(dim1=-2, dim2=-1).add_(A)
        product = p if product is None else p @ product
        if step + 1 < steps:
            g = p @ g @ p
    assert product is not None
    return product


class Muon:
    """m ← μm + g; u = g + μm; w ← w(1 - lr·wd) - lr·√max(1, rows/cols)·orthogonalize(u).

    Matrices of one shape are orthogonalised in one batched call. `dtype` is that of the iteration.
    """

    def __init__(self, named: dict[str, nn.Parameter], steps: int, dtype: torch.dtype) -> None:
        self.steps, self.dtype = steps, dtype
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in named.values():
            shapes.setdefault(tuple(p.shape), []).append(p)
        self.banks = list(shapes.values())
        self.momenta = [
            torch.zeros(len(bank), *shape, device=bank[0].device) for shape, bank in shapes.items()
        ]

    @torch.no_grad()
    def step(self, lr: float, momentum: float, weight_decay: float) -> None:
        for bank, m in zip(self.banks, self.momenta, strict=True):
            g = torch.stack([p.grad for p in bank if p.grad is not None])
            m.mul_(momentum).add_(g)
            u = orthogonalize(g.add_(m, alpha=momentum).to(self.dtype), self.steps).float()
            rows, columns = bank[0].shape
            weights = [p.data for p in bank]
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
            torch._foreach_add_(
                weights, list(u.unbind()), alpha=-lr * max(1, rows / columns) ** 0.5
            )


class Optimizer:
    """All parameters of a model, each with exactly one owner. Raises RuntimeError otherwise."""

    def __init__(self, model: nn.Module, recipe: Optim, dtype: torch.dtype) -> None:
        self.recipe = recipe
        named = dict(model.named_parameters())
        leaf = {name: name.rsplit(".", 1)[-1] for name in named}
        matrices = {n: p for n, p in named.items() if leaf[n] in MATRICES}
        embeddings = {n: p for n, p in named.items() if leaf[n] in EMBEDDINGS}
        rest = {n: p for n, p in named.items() if n not in matrices and n not in embeddings}
        if wrong := [n for n, p in rest.items() if p.ndim == 2 and leaf[n] not in ("mix", "skips")]:
            raise RuntimeError(f"no optimizer owns the matrices {wrong}")
        self.parameters = list(named.values())
        self.muon = Muon(matrices, recipe.newton_schulz_steps, dtype)
        self.embeddings = self._adamw(embeddings, recipe.weight_decay)
        self.scalars = self._adamw(rest, recipe.weight_decay if recipe.decay_gains else 0.0)

    def _adamw(self, named: dict[str, nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
        r = self.recipe
        return torch.optim.AdamW(
            list(named.values()),
            lr=0.0,
            betas=(r.beta1, r.beta2),
            eps=r.adam_eps,
            weight_decay=weight_decay,
            fused=True,
        )

    def step(self, multiplier: float, momentum: float) -> float:
        """Clip, update everything, clear gradients; returns the gradient's norm before clipping."""
        r = self.recipe
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, r.grad_clip or float("inf"))
        for adamw, lr in ((self.embeddings, r.embed_lr), (self.scalars, r.scalar_lr)):
            adamw.param_groups[0]["lr"] = lr * multiplier
            adamw.step()
        self.muon.step(r.matrix_lr * multiplier, momentum, r.weight_decay)
        for p in self.parameters:
            p.grad = None
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name; the tensors are not copied."""
        tensors = {f"muon.{i}": m for i, m in enumerate(self.muon.momenta)}
        for name, adamw in (("embeddings", self.embeddings), ("scalars", self.scalars)):
            for i, p in enumerate(adamw.param_groups[0]["params"]):
                for key, value in adamw.state[p].items():
                    tensors[f"{name}.{i}.{key}"] = value
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        for i, m in enumerate(self.muon.momenta):
            m.copy_(tensors[f"muon.{i}"])
        for name, adamw in (("embeddings", self.embeddings), ("scalars", self.scalars)):
            for i, p in enumerate(adamw.param_groups[0]["params"]):
                prefix = f"{name}.{i}."
                adamw.state[p] = {
                    key.removeprefix(prefix): value.to(p.device).clone()
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
