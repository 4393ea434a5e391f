from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from fairway.config.schema import Model, Optim
from fairway.model.gpt import build
from fairway.train.optim import POLAR, POLYNOMIALS, A, B, C, Muon, Optimizer, orthogonalize

SMALL = Model(num_layers=2, dim=16, num_heads=2, num_kv_heads=1, window=8, bigram_rows=32)


def plain_newton_schulz(
    g: torch.Tensor, steps: int, triples: Sequence[tuple[float, float, float]] = ((A, B, C),)
) -> torch.Tensor:
    """The iteration as the specification writes it, one matrix, in float64."""
    x = g.double() / (g.double().norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for step in range(steps):
        one, three, five = triples[min(step, len(triples) - 1)]
        a = x @ x.T
        x = one * x + (three * a + five * a @ a) @ x
    return x.T if tall else x


@pytest.mark.parametrize("shape", [(12, 12), (8, 24), (30, 10), (4, 4)])
@pytest.mark.parametrize("steps", [1, 5, 6])
@pytest.mark.parametrize("name", POLYNOMIALS)
def test_batched_iteration_equals_the_plain_one(
    shape: tuple[int, int], steps: int, name: str
) -> None:
    g = torch.randn(3, *shape, generator=torch.Generator().manual_seed(steps))
    got = orthogonalize(g, steps, POLYNOMIALS[name])
    for one, matrix in zip(got, g, strict=True):
        want = plain_newton_schulz(matrix, steps, POLYNOMIALS[name])
        assert (one.double() - want).norm() / want.norm() < 1e-4


def test_muon_refuses_a_missing_gradient() -> None:
    """A matrix that is left out would shift all those after it in its bank."""
    named = {name: nn.Parameter(torch.ones(4, 4)) for name in ("first", "second")}
    named["first"].grad = torch.ones(4, 4)
    with pytest.raises(RuntimeError, match="second has no gradient"):
        Muon(named, steps=5, dtype=torch.float32).gradients()


def test_singular_values_come_near_one() -> None:
    g = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(g, 5))
    assert 0.6 < values.min() < values.max() < 1.3


def test_polar_express_brings_singular_values_nearer_to_one() -> None:
    g = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(1))
    far = [
        float((torch.linalg.svdvals(orthogonalize(g, 5, triples)) - 1).abs().max())
        for triples in (POLAR, ((A, B, C),))
    ]
    assert far[0] < 0.15 < far[1]


@pytest.mark.parametrize("equal_rows", [False, True])
def test_muon_follows_its_formula(equal_rows: bool) -> None:
    random = torch.Generator().manual_seed(2)
    p = nn.Parameter(torch.randn(6, 3, generator=random))
    muon = Muon({"p": p}, 5, torch.float32, equal_rows=equal_rows)
    start = p.detach().clone()
    m, want = torch.zeros(6, 3), start.clone()
    for _ in range(3):
        g = torch.randn(6, 3, generator=random)
        p.grad = g.clone()
        muon.step([c.wait() for c in muon.gradients()], lr=0.1, momentum=0.9, decay=0.5)
        m = 0.9 * m + g
        u = g + 0.9 * m
        u = u / u.norm(dim=1, keepdim=True) if equal_rows else u
        update = plain_newton_schulz(u, 5).float() * 2**0.5
        want = want * (1 - 0.1 * 0.5) - 0.1 * update
    torch.testing.assert_close(p.detach(), want, rtol=1e-3, atol=1e-4)


def test_every_parameter_has_exactly_one_owner() -> None:
    model = build(SMALL, 40, 0, seed=0)
    optimizer = Optimizer(model, Optim(), torch.float32)
    owned = [id(p) for bank in optimizer.muon.banks for p in bank]
    for adamw in (optimizer.embeddings, optimizer.scalars):
        owned += [id(p) for p in adamw.param_groups[0]["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    model.extra = nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(RuntimeError, match="extra"):
        Optimizer(model, Optim(), torch.float32)


def test_gains_are_not_decayed_unless_asked() -> None:
    for asked in (False, True):
        model = build(SMALL, 40, 0, seed=0)
        optimizer = Optimizer(model, Optim(decay_gains=asked, weight_decay=0.5), torch.float32)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step(1.0, 0.9)
        assert (model.blocks[0].attn_scale < 1).all() == asked
        assert (model.blocks[0].attn.q.detach().norm() < 4).item()  # sqrt(16) at the start


def test_clipping_bounds_the_gradient() -> None:
    model = build(SMALL, 40, 0, seed=0)
    optimizer = Optimizer(model, Optim(grad_clip=0.3), torch.float32)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    seen: list[float] = []

    def look(matrices: list[torch.Tensor], *_: float) -> None:
        adamws = (optimizer.embeddings, optimizer.scalars)
        small = [p.grad for a in adamws for p in a.param_groups[0]["params"]]
        seen.append(float(torch.stack([g.norm() for g in matrices + small]).norm()))

    optimizer.muon.step = look  # type: ignore[method-assign]
    norm = optimizer.step(1.0, 0.9)
    assert norm > 10
    assert seen[0] == pytest.approx(0.3, rel=1e-3)
