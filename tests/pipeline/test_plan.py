"""Predictions from the shape alone."""

import math

import pytest

from fairway.config.toml import load
from fairway.model.parameters import tensors_of
from fairway.pipeline import plan
from fairway.pipeline.directory import RunDirectory


def test_packing_fills_the_budget(tmp_path):
    recipe = load("tiny", ["pack.budget_bytes=20_000"])
    assert plan.predict(recipe, RunDirectory(tmp_path))["pack"].output_bytes == pytest.approx(
        20_000
    )


def test_costs_grow_with_the_work(tmp_path):
    small = plan.predict(load("tiny"), RunDirectory(tmp_path))
    large = plan.predict(
        load("tiny", ["model.dim=256", "train.steps=4000"]), RunDirectory(tmp_path)
    )
    assert large["train"].seconds > small["train"].seconds
    assert large["train"].memory_bytes > small["train"].memory_bytes
    assert small["prove"].seconds is None  # nothing is known of the text yet


def test_a_budget_in_seconds_takes_its_seconds(tmp_path):
    recipe = load("tiny", ["train.seconds=7"])
    tensors = tensors_of(recipe.model, recipe.data.vocab_size)
    cost = plan.predict(recipe, RunDirectory(tmp_path))["train"]
    assert cost.seconds == 7.0
    assert cost.output_bytes == 4 * sum(math.prod(tensor.shape) for tensor in tensors)
