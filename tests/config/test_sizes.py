"""Sizes as people write them: powers of ten, and of two where an i says so."""

import pytest

from fairway.config import sizes
from fairway.config.toml import load
from fairway.errors import BadInput


@pytest.mark.parametrize(
    ("given", "count"),
    [("5", 5), ("300k", 300_000), ("16MB", 16_000_000), ("16_000_000", 16_000_000),
     ("1.5G", 1_500_000_000), ("0.1 MB", 100_000), ("2GiB", 2 << 30), ("1Ti", 1 << 40)],
)  # fmt: skip
def test_sizes(given, count):
    assert sizes.parse(given) == count


@pytest.mark.parametrize("given", ["", "k", "much", "-1", "1e6", "5 apples", "1.M", "٣M", "1 000"])
def test_what_is_no_size(given):
    with pytest.raises(ValueError, match="give bytes, as in 300k, 16MB or 8G"):
        sizes.parse(given)


def test_a_recipe_takes_sizes(tmp_path):
    recipe = load("tiny", ["pack.budget_bytes=30k", "data.train_bytes=1.5MB"])
    assert (recipe.pack.budget_bytes, recipe.data.train_bytes) == (30_000, 1_500_000)
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\n[train]\nsteps = 1\n[pack]\nbudget_bytes = "16MB"\n'
    )
    assert load(str(tmp_path / "mine.toml")).pack.budget_bytes == 16_000_000
    with pytest.raises(BadInput, match=r"pack.budget_bytes: 'much' is no size"):
        load("tiny", ["pack.budget_bytes=much"])
