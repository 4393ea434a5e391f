"""Muon for matrices, AdamW for embeddings, and AdamW for vectors, gains and mixes.

Legend: N matrices of one shape stacked, m rows, n columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairway.config.schema import Optim
from fairway.distributed import ALONE, AsyncTensor, Process
from fairway.model.parameters import kind_of

Triples = Sequence[tuple[float, float, float]]
"""Coefficients a, b, c of each step's quintic; the last triple serves all steps after it."""

# The quintic whose iteration pushes singular values into [0.7, 1.2]: Keller Jordan's Muon.
A, B, C = 3.4445, -4.7750, 2.0315
# Polar Express (Amsel and others 2025): each step's is the best for what the steps before leave.
POLAR = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
POLYNOMIALS: dict[str, Triples] = {"muon": ((A, B, C),), "polar": POLAR}


def orthogonalize(u: Tensor, steps: int, polynomials: Triples = ((A, B, C),)) -> Tensor:
    """Return the nearest (semi-)orthogonal matrices of u [N, m, n] by Newton-Schulz, in u's dtype.

    X ← aX + (bG + cG²)X with G = XXᵀ. Wide matrices in fp32 iterate on the small G alone
    (G ← pGp with p = aI + bG + cG²) and multiply X once at the end; bf16 is too coarse for that.
    """
    x = u / (torch.linalg.matrix_norm(u, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x
    if x.dtype == torch.float32 and x.shape[-1] > x.shape[-2]:
        x = _gram_product(x @ x.mT, steps, polynomials) @ x
    else:
        for a, b, c in _triples(steps, polynomials):
            g = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    result: Tensor = x.mT if tall else x
    return result


def _triples(steps: int, polynomials: Triples) -> Triples:
    return [polynomials[min(step, len(polynomials) - 1)] for step in range(steps)]


def _gram_product(g: Tensor, steps: int, polynomials: Triples) -> Tensor:
    """Return the product of the polynomials p of all steps, from the Gram matrix g [N, m, m]."""
    product: Tensor | None = None
    for step, (a, b, c) in enumerate(_triples(steps, polynomials)):
        p = torch.baddbmm(g, g, g, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        product = p if product is None else p @ product
        if step + 1 < steps:
            g = p @ g @ p
    assert product is not None
    return product


class Muon:
    """m ← μm + g; u = g + μm; w ← w(1 - lr·wd) - lr·√max(1, rows/cols)·orthogonalize(u).

    Matrices of one shape form a bank, orthogonalised in one batched call. Of every bank each rank
    owns a share: it gets the sums of those gradients alone, keeps their momenta, and sends the
    updates to all. `dtype` is that of the iteration.
    equal_rows: u's rows are divided by their lengths first (MuonEq-R, #1218 of the challenge).
    """

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        steps: int,
        dtype: torch.dtype,
        polynomials: Triples = ((A, B, C),),
        equal_rows: bool = False,
        process: Process = ALONE,
    ) -> None:
        self.named, self.steps, self.dtype, self.process = named, steps, dtype, process
        self.polynomials, self.equal_rows = polynomials, equal_rows
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in named.values():
            shapes.setdefault(tuple(p.shape), []).append(p)
        self.banks = list(shapes.values())
        self.momenta = [
            torch.zeros(self._share(bank), *shape, device=bank[0].device)
            for shape, bank in shapes.items()
        ]

    def _share(self, bank: list[nn.Parameter]) -> int:
        """Return the matrices per rank; the last ranks may own zeros that fill the bank up."""
        return -(-len(bank) // self.process.size)

    def gradients(self) -> list[AsyncTensor]:
        """Return this rank's share of every bank's gradients [n, rows, cols], summed over ranks.

        Raises RuntimeError when a matrix has no gradient.
        """
        gradients: dict[nn.Parameter, Tensor] = {}
        for name, p in self.named.items():
            if p.grad is None:
                raise RuntimeError(f"{name} has no gradient: the loss does not depend on it")
            gradients[p] = p.grad
        shares = []
        for bank in self.banks:
            missing = self._share(bank) * self.process.size - len(bank)
            filling = [torch.zeros_like(bank[0])] * missing
            stacked = torch.stack([gradients[p] for p in bank] + filling)
            shares.append(self.process.reduce_scatter(stacked))
        return shares

    def step(self, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        """Update from what `gradients` gave; updates travel while the next ones are made."""
        updates = []
        for m, g in zip(self.momenta, gradients, strict=True):
            m.mul_(momentum).add_(g)
            u = g.add(m, alpha=momentum)
            if self.equal_rows:
                u = torch.nn.functional.normalize(u, dim=-1)
            u = orthogonalize(u.to(self.dtype), self.steps, self.polynomials)
            updates.append(self.process.all_gather(u))
        for bank, update in zip(self.banks, updates, strict=True):
            rows, columns = bank[0].shape
            weights = [p.data for p in bank]
            directions = list(update.wait()[: len(bank)].float().unbind())
            torch._foreach_mul_(weights, 1 - lr * decay)
            torch._foreach_add_(weights, directions, alpha=-lr * max(1, rows / columns) ** 0.5)


class Optimizer:
    """All parameters of a model, each with the owner that model/parameters.py names.

    Every rank of `process` calls every method, with gradients of its own part of the batch.
    """

    def __init__(
        self, model: nn.Module, recipe: Optim, dtype: torch.dtype, process: Process = ALONE
    ) -> None:
        self.recipe, self.process = recipe, process
        named = dict(model.named_parameters())
        matrices, embeddings, scalars = (
            {name: p for name, p in named.items() if kind_of(name).optimizer == optimizer}
            for optimizer in ("muon", "embeddings", "scalars")
        )
        self.parameters = list(named.values())
        polynomials = POLYNOMIALS[recipe.polynomials]
        self.muon = Muon(
            matrices, recipe.newton_schulz_steps, dtype, polynomials, recipe.equal_rows, process
        )
        self.embeddings = self._adamw(embeddings)
        self.scalars = self._adamw(scalars)

    def _adamw(self, named: dict[str, nn.Parameter]) -> torch.optim.AdamW:
        betas = (self.recipe.beta1, self.recipe.beta2)
        return torch.optim.AdamW(
            list(named.values()), lr=0.0, betas=betas, eps=self.recipe.adam_eps, fused=True
        )

    @torch.no_grad()
    def step(self, lr_scale: float, momentum: float) -> Tensor:
        """Sum gradients over ranks, clip, update everything, clear gradients.

        Returns the gradient's norm before clipping, float32 on the device, so that nobody has to
        wait for it.
        """
        r = self.recipe
        pending = self.muon.gradients()
        small = self._small_gradients()
        matrices = [gradient.wait() for gradient in pending]
        norm = self._clip(matrices, small)
        for adamw, lr, wd in (
            (self.embeddings, r.embed_lr, r.weight_decay),
            (self.scalars, r.scalar_lr, r.weight_decay if r.decay_gains else 0.0),
        ):
            adamw.param_groups[0] |= {"lr": lr * lr_scale, "weight_decay": wd}
            adamw.step()
        self.muon.step(matrices, r.matrix_lr * lr_scale, momentum, r.weight_decay)
        for p in self.parameters:
            p.grad = None
        return norm

    def _small_gradients(self) -> list[Tensor]:
        """Return the gradients of what AdamW owns, summed over ranks in one message, in place."""
        owned = [p for a in (self.embeddings, self.scalars) for p in a.param_groups[0]["params"]]
        for p in owned:
            if p.grad is None:  # skips, while a single layer is passed once
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in owned]
        if self.process.size > 1:
            whole = self.process.all_reduce_(torch.cat([g.flatten() for g in gradients]))
            for g, summed in zip(
                gradients, whole.split([g.numel() for g in gradients]), strict=True
            ):
                g.copy_(summed.view_as(g))
        return gradients

    def _clip(self, matrices: list[Tensor], small: list[Tensor]) -> Tensor:
        """Scale all gradients so that their norm is at most grad_clip; return the norm before."""
        of_matrices, of_small = (
            torch.stack(torch._foreach_norm(part)).square().sum() for part in (matrices, small)
        )
        norm = (self.process.all_reduce_(of_matrices) + of_small).sqrt()
        if self.recipe.grad_clip:
            scale = (self.recipe.grad_clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(matrices + small, scale)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs, by name, whole on every rank."""
        tensors = {}
        for i, (bank, m) in enumerate(zip(self.muon.banks, self.muon.momenta, strict=True)):
            tensors[f"muon.{i}"] = self.process.all_gather(m).wait()[: len(bank)]
        for name, adamw in (("embeddings", self.embeddings), ("scalars", self.scalars)):
            for i, p in enumerate(adamw.param_groups[0]["params"]):
                for key, value in adamw.state[p].items():
                    tensors[f"{name}.{i}.{key}"] = value
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned, on any number of ranks."""
        for i, m in enumerate(self.muon.momenta):
            own = tensors[f"muon.{i}"][self.process.rank * len(m) :][: len(m)]
            m[: len(own)].copy_(own)
        for name, adamw in (("embeddings", self.embeddings), ("scalars", self.scalars)):
            for i, p in enumerate(adamw.param_groups[0]["params"]):
                prefix = f"{name}.{i}."
                adamw.state[p] = {
                    key.removeprefix(prefix): value.to(p.device).clone()
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
