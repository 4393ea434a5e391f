"""Pictures of a run as inline SVG that takes its ink from the page, so light and dark both work."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

from fairway import startup

with startup.away():  # matplotlib takes a matplotlibrc of the current folder before any other
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

from fairway.console import printable

_INK = "#010203"  # stands for the page's text colour until the SVG is written
_LINE = "#2f7de1"
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it scales and can be selected
    "svg.hashsalt": "fairway",
    "text.parse_math": False,  # a folder may be called $x_{$
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def training(lines: Sequence[Mapping[str, float]]) -> str:
    """Draw loss (nats per token) and rate (share of its peak) over the steps of metrics.jsonl."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _curve(above, lines, "loss", "nats per token")
        _curve(below, lines, "lr_scale", "share of\npeak rate")
        below.set_xlabel("step")
        return _svg(figure)


def _curve(axes: Axes, lines: Sequence[Mapping[str, float]], key: str, label: str) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line and _fits(line[key])]
    axes.plot([step for step, _ in points], [value for _, value in points], color=_LINE, lw=1.2)
    axes.set_ylabel(label)


def _fits(value: float) -> bool:
    """Say whether an axis has room for a value: what foreign files say may be absurd."""
    return abs(value) < 1e30


def bars(values: Mapping[str, float], label: str, form: str) -> str:
    """Draw horizontal bars from zero, the first on top, each with its value."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 0.8 + 0.35 * len(values)), layout="constrained")
        axes = figure.subplots()
        drawn = axes.barh(
            [printable(name) for name in values],
            [v if _fits(v) else 0.0 for v in values.values()],
            color=_LINE,
            height=0.6,
        )
        axes.bar_label(drawn, [form.format(value) for value in values.values()], padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        return _svg(figure)


def gains(rows: Sequence[tuple[str, float, float]], label: str) -> str:
    """Draw (name, value, standard error) of each row as a point with two standard errors."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.2, 0.9 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        names, values, errors = zip(*rows, strict=True) if rows else ((), (), ())
        spread = [2 * error for error in errors]
        axes.errorbar(values, range(len(rows)), xerr=spread, fmt="o", color=_LINE, ms=4, lw=1.2)
        axes.axvline(0, color=_INK, lw=0.8)
        axes.set_yticks(range(len(rows)), [printable(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        return _svg(figure)


def spread(groups: Mapping[str, Sequence[float]], label: str) -> str:
    """Draw a row of points per group, one per run, and a bar at their mean."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 0.9 + 0.45 * len(groups)), layout="constrained")
        axes = figure.subplots()
        for row, group in enumerate(groups.values()):
            values = [value for value in group if _fits(value)] or [0.0]
            axes.plot(values, [row] * len(values), "o", color=_LINE, alpha=0.7, ms=5)
            axes.plot([sum(values) / len(values)], [row], "|", color=_LINE, ms=22, mew=2)
        axes.set_yticks(range(len(groups)), [printable(name) for name in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(label)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """Return the <svg> element without prologue and unused ids, in the page's ink."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="[a-z0-9]+_\d+"', "", text)
    return text.replace(_INK, "currentColor")
