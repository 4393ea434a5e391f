"""Predictions from the shape alone."""

import math

import pytest

from fairway import plan
from fairway.course import Run
from fairway.model.gpt import skeleton
from fairway.recipe import load


def test_flops_per_token_of_the_starting_system():
    """228.3 million, as REFERENCE C counts them."""
    recipe = load("pr264")
    flops = plan._flops_per_token(skeleton(recipe.model, 1024, 0), recipe)
    assert flops == pytest.approx(228.3e6, rel=5e-4)


def test_entropy_of_gaussian_codes():
    """4.14-4.27 bits with 5-bit codes and 5.32 with 6, as REFERENCE A7 has it."""
    long, short = plan.expected_maximum(1536), plan.expected_maximum(512)
    assert plan.code_entropy_bits(5, long) == pytest.approx(4.14, abs=0.03)
    assert plan.code_entropy_bits(5, short) == pytest.approx(4.27, abs=0.03)
    assert plan.code_entropy_bits(6, short) == pytest.approx(5.32, abs=0.03)


def test_the_predicted_artifact_is_near_the_real_one(tiny):
    recipe = load("tiny")
    predicted = plan.artifact_bytes(recipe, skeleton(recipe.model, recipe.data.vocab_size, 0))
    assert predicted == pytest.approx(tiny.need("pack").artifact_bytes, rel=0.15)


def test_costs_grow_with_the_work(tmp_path):
    small = plan.predict(load("tiny"), Run(tmp_path))
    large = plan.predict(load("tiny", ["model.dim=256", "train.steps=4000"]), Run(tmp_path))
    assert large["train"].seconds > small["train"].seconds
    assert large["train"].memory_bytes > small["train"].memory_bytes
    assert small["prove"].seconds is None  # nothing is known of the text yet


def test_a_budget_in_seconds_takes_its_seconds(tmp_path):
    recipe = load("tiny", ["train.seconds=7"])
    tensors = skeleton(recipe.model, recipe.data.vocab_size, 0)
    cost = plan.predict(recipe, Run(tmp_path))["train"]
    assert cost.seconds == 7.0
    assert cost.output_bytes == 4 * sum(math.prod(size) for size in tensors.values())
