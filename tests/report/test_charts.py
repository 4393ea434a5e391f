"""Charts: what they show is what they are given, and the same numbers give the same bytes."""

import math
import re
from itertools import pairwise

import pytest

from fairway.report import charts

PARTS = {"mlp": 160_471, "attention": 82_700, "embedding": 73_473, "bigram": 63_723, "header": 65}


def rectangles(drawing):
    found = re.findall(r'<rect.*?x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', drawing)
    return [tuple(map(float, numbers)) for numbers in found]


def words(drawing):
    return re.findall(r"<text[^>]*>(.*?)</text>", drawing)


def test_areas_of_a_treemap_are_shares_and_fill_it():
    sizes = sorted(PARTS.values())[::-1]
    cells = list(charts.squarified(sizes, 0, 0, 500, 300))
    for size, (x, y, width, height) in zip(sizes, cells, strict=True):
        assert width * height / 150_000 == pytest.approx(size / sum(sizes))
        assert x + width <= 500.001
        assert y + height <= 300.001
    assert all(max(w / h, h / w) < 4 for _, _, w, h in cells[:4])


@pytest.mark.parametrize("width", [120, 350, 820])
def test_a_treemap_names_every_part(width):
    drawing = charts.treemap(PARTS, width).inline("a")
    for name, size in PARTS.items():
        assert any(name in said for said in words(drawing))
        assert any(f"{size:,} B" in said for said in words(drawing))


def test_bars_are_as_long_as_their_values():
    rows = [charts.Bar("ours", 1.5, "1.500", "ours"), charts.Bar("x" * 99, 3.0, "3.000")]
    drawing = charts.bars(rows, 400).inline("a")
    (_, _, short, _), (_, _, long, _) = rectangles(drawing)
    assert (short, long) == (200, 400)
    assert words(drawing)[2].endswith("…")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0, 1e-300])
def test_absurd_values_are_drawn_all_the_same(value):
    """Files of strangers may say anything."""
    points = [(1.0, 2.0), (2.0, value), (3.0, 2.0)]
    for width in (350, 820):
        for drawing in (
            charts.losses(points, points, width),
            charts.bars([charts.Bar("a", value, "a")], width),
            charts.ranked([(value, 3), (1.0, 2)], value, width),
            charts.positions([(value, 1), (1.0, 0)], width),
            charts.dots([charts.Dots("a", [value, 1.0], value)], width),
            charts.treemap({"a": 10**18, "b": 0}, width),
        ):
            numbers = re.findall(r' (?:x|y|cx|cy|r|width|height|d)="(.*?)"', drawing.inline(""))
            assert not re.search(r"nan|inf|e", " ".join(numbers))


@pytest.mark.parametrize("high", [1e-9, 0.7, 2.4, 999, 360_944, 4e9])
def test_ticks_are_round_different_and_within(high):
    ticks = charts._ticks(0, high, 4)
    assert 3 <= len(ticks) <= 7
    assert len({charts._form(ticks)(tick) for tick in ticks}) == len(ticks)
    assert all(0 <= a < b <= high for a, b in pairwise(ticks))


def test_a_label_is_escaped_and_cannot_turn_lines():
    drawing = charts.bars([charts.Bar("<b>\u202e", 1.0, "&")], 400).inline('"<x>')
    assert "<b>" not in drawing
    assert "\u202e" not in drawing
    assert 'aria-label="&quot;&lt;x&gt;"' in drawing
