from __future__ import annotations

import pytest
import torch

from fairway.config.schema import Optim, Train
from fairway.train.average import Average
from fairway.train.schedule import learning_rate, momentum, staged


def test_learning_rate_rises_stays_and_falls() -> None:
    recipe = Optim(warmup=0.1, warmdown=0.5, lr_floor=0.2)
    at = {p: learning_rate(p, recipe) for p in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)}
    assert at == pytest.approx({0.0: 0, 0.05: 0.5, 0.1: 1, 0.5: 1, 0.75: 0.6, 1.0: 0.2})


def test_a_fall_by_the_root_is_steep_at_first() -> None:
    recipe = Optim(warmdown=0.5, warmdown_shape="sqrt", lr_floor=0.2)
    at = {p: learning_rate(p, recipe) for p in (0.0, 0.5, 0.625, 1.0)}
    assert at == pytest.approx({0.0: 1, 0.5: 1, 0.625: 0.2 + 0.8 * 0.5, 1.0: 0.2})


def test_the_original_shape_of_the_schedule() -> None:
    """At 115.47 ms per step the original decays over its last 3000 of 5197 steps."""
    recipe = Optim(warmdown=3000 / 5197)
    for step in (0, 2197, 2198, 4000, 5196):
        want = min(1.0, (5197 - step) / 3000)
        assert learning_rate(step / 5197, recipe) == pytest.approx(want)


def test_momentum_warms_up() -> None:
    recipe = Optim(momentum=0.99, momentum_start=0.92, momentum_warmup=0.5)
    assert [momentum(p, recipe) for p in (0, 0.25, 0.5, 1)] == pytest.approx(
        [0.92, 0.955, 0.99, 0.99]
    )


def test_a_stage_lasts_until_its_end() -> None:
    stages = ((0.1, 8), (0.7, 16))
    assert [staged(p, stages, 32) for p in (0, 0.099, 0.1, 0.69, 0.7, 1)] == [8, 8, 16, 16, 32, 32]
    assert staged(0.5, (), 32) == 32


def test_swa_is_the_mean_of_its_snapshots() -> None:
    w = torch.zeros(3)
    average = Average([w], Train(steps=1, average="swa", swa_every=2))
    taken = []
    for step in range(1, 9):
        w.fill_(step * 1.5)
        lr_scale = 1.0 if step < 4 else 0.4
        average.update(step, lr_scale)
        if lr_scale < 0.5 and step % 2 == 0:
            taken.append(step * 1.5)
    average.apply()
    assert torch.allclose(w, torch.tensor(sum(taken) / len(taken)))


def test_ema_tends_to_a_constant_and_lags_a_ramp() -> None:
    w = torch.zeros(2)
    average = Average([w], Train(steps=1, average="ema", ema_decay=0.5))
    for step in range(1, 60):
        w.fill_(7.0)
        average.update(step, 1.0)
    average.apply()
    assert torch.allclose(w, torch.tensor(7.0))


def test_no_average_leaves_the_weights() -> None:
    w = torch.ones(2)
    average = Average([w], Train(steps=1, average="none"))
    w.fill_(3.0)
    average.update(1, 1.0)
    average.apply()
    assert torch.equal(w, torch.full((2,), 3.0))
