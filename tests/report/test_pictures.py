"""Pictures as they are drawn: what matplotlib says about where things lie."""

from itertools import pairwise

import pytest
from matplotlib.figure import Figure

from fairway.report import pictures


def drawn(monkeypatch: pytest.MonkeyPatch, make: object, *arguments: object) -> Figure:
    monkeypatch.setattr(pictures, "_svg", lambda figure: figure)
    figure = make(*arguments)  # type: ignore[operator]
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize("largest", [0.7, 2.4, 999, 360_944, 15_999_999, 4e9])
def test_labels_of_bars_do_not_overlap(monkeypatch: pytest.MonkeyPatch, largest: float) -> None:
    values = {"header": largest / 5000, "embedding": largest, "small": 0.0}
    figure = drawn(monkeypatch, pictures.bars, values, "bytes", "{:,.0f}")
    (axes,) = figure.axes
    boxes = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
    assert len(boxes) >= 2
    assert all(a.x1 + 2 < b.x0 for a, b in pairwise(boxes))
    assert axes.get_xlabel() == "bytes"
    right = max(text.get_window_extent().x1 for text in axes.texts)
    assert right <= figure.bbox.x1
