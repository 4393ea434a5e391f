"""Draw charts as SVG: plain shapes and text in the classes of charts.css, for light and dark.

A chart is a function of its width, so that a page has one for screens and one for telephones, and
text is never scaled. Lengths are in px. The same numbers give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import floor, isfinite, log10
from pathlib import Path
from typing import NamedTuple

from fairway.console import printable

STYLE = Path(__file__).with_suffix(".css").read_text("utf-8")
_LETTER = 8.5  # px of a letter of 14 px, generously
_GAP = 2  # px between neighbours
_COLOURS = ("green", "blue", "yellow", "pink")  # of the classes p0 to p3
Point = tuple[float, float]


class Bar(NamedTuple):
    """A bar with its name and its value in words; kind: the class of its colour."""

    name: str
    value: float
    words: str
    kind: str = "other"


class Curve(NamedTuple):
    """Points from left to right, joined by a line of the class `kind`; dots: mark each."""

    points: Sequence[Point]
    kind: str = "lo"
    dots: bool = False


class Drawing:
    """Shapes in the order in which they are drawn."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._shapes: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "") -> None:
        """Write words with their base line at y; anchor: "" for their start, middle or end."""
        said = escape(printable(words), quote=False)
        if said:
            self._add("text", kind, said, x=x, y=y, text_anchor=anchor)

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, r: float = 0
    ) -> None:
        """Draw a rectangle with corners of radius r."""
        self._add("rect", kind, x=x, y=y, width=max(width, 0), height=max(height, 0), rx=r or "")

    def circle(self, x: float, y: float, r: float, kind: str) -> None:
        """Draw a filled circle."""
        self._add("circle", kind, cx=x, cy=y, r=r)

    def path(self, data: str, kind: str) -> None:
        """Draw a path in SVG's language."""
        self._add("path", kind, d=data)

    def _add(self, tag: str, kind: str, inside: str = "", **given: float | str) -> None:
        said = {"class": kind}
        said |= {name: v if isinstance(v, str) else _n(v) for name, v in given.items()}
        attributes = (f'{name.replace("_", "-")}="{v}"' for name, v in said.items() if v)
        opening = f"<{tag} {' '.join(attributes)}"
        self._shapes.append(f"{opening}>{inside}</{tag}>" if inside else f"{opening}/>")

    def line(self, points: Sequence[Point], kind: str) -> None:
        """Join points by straight lines."""
        if points:
            self.path("M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points), kind)

    def inline(self, label: str) -> str:
        """Return the <svg> element for a page that has STYLE; label: for who cannot see it."""
        said = escape(printable(label))
        return self._svg(f' role="img" aria-label="{said}"', "")

    def file(self, title: str, description: str) -> str:
        """Return a whole SVG file, with its style."""
        style = re.sub(r"\s*([{};:,])\s+", r"\1", STYLE).replace("svg ", "").strip()
        about = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
        return self._svg(' role="img"', f"{about}<style>{style}</style>") + "\n"

    def _svg(self, attributes: str, head: str) -> str:
        wide, tall = _n(self.width), _n(self.height)
        size = f'viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}"'
        opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size}{attributes}>'
        return "\n".join([opening + head, *self._shapes, "</svg>"])


def bars(rows: Sequence[Bar], width: float) -> Drawing:
    """Draw horizontal bars from zero; each has its name and value above it."""
    most = max([row.value for row in rows if _fits(row.value)], default=0) or 1
    made = Drawing(width, 44 * len(rows) - 8)
    for i, row in enumerate(rows):
        y, ours = 44 * i, "b" if row.kind == "ours" else ""
        made.text(0, y + 14, clipped(row.name, width - _LETTER * len(row.words)), ours)
        made.text(width, y + 14, row.words, f"{ours} {row.kind}" if ours else "", "end")
        made.rect(0, y + 21, width * row.value / most if _fits(row.value) else 0, 13, row.kind, 2)
    return made


def columns(rows: Sequence[Bar], width: float, height: float = 220) -> Drawing:
    """Draw vertical bars from zero, with values above and names below."""
    made, step = Drawing(width, height), width / max(len(rows), 1)
    most = max([row.value for row in rows if _fits(row.value)], default=0) or 1
    for i, row in enumerate(rows):
        tall = (height - 44) * row.value / most if _fits(row.value) else 0
        x, top = step * i, height - 22 - tall
        made.rect(x + step * 0.08, top, step * 0.84, tall, row.kind, 2)
        made.text(x + step / 2, top - 6, row.words, "s", "middle")
        made.text(x + step / 2, height - 5, row.name, "s", "middle")
    return made


def plot(
    curves: Sequence[Curve],
    width: float,
    height: float,
    x_name: str,
    x_range: Point | None = None,
    y_range: Point | None = None,
) -> tuple[Drawing, Frame]:
    """Draw curves over axes with round numbers; return the place of values, for more to be drawn.

    x_name: what the horizontal axis counts. The ranges are those of the points, or are given.
    """
    points = [p for c in curves for p in c.points if _fits(p[0]) and _fits(p[1])] or [(0.0, 0.0)]
    low, high = y_range or _padded([y for _, y in points])
    start, end = x_range or (min(x for x, _ in points), max(x for x, _ in points))
    ticks = _ticks(low, high, height / 60)
    form = _form(ticks)
    left = 8 + _LETTER * max(len(form(tick)) for tick in ticks)
    frame = Frame(left, width - 16, 10, height - 42, (start, end), (low, high))
    made = Drawing(width, height)
    for tick in ticks:
        made.line([(left, frame.y(tick)), (frame.right, frame.y(tick))], "l")
        made.text(left - 8, frame.y(tick) + 5, form(tick), "s", "end")
    across = _ticks(start, end, (width - left) / 90)
    name = _form(across)
    for tick in across:
        made.text(frame.x(tick), height - 24, name(tick), "s", "middle")
    made.text(frame.right, height - 5, x_name, "s", "end")
    for curve in curves:
        where = [(frame.x(x), frame.y(y)) for x, y in curve.points if _fits(x) and _fits(y)]
        made.line(where, curve.kind)
        for x, y in where if curve.dots else ():
            made.circle(x, y, 4, {"lo": "ours", "li": "ink"}.get(curve.kind, "other"))
    return made, frame


def losses(steps: Sequence[Point], validation: Sequence[Point], width: float) -> Drawing:
    """Draw the loss of each step, the same smoothed, and the loss of the validation text."""
    known = [point for point in steps if _fits(point[1])]
    group = max(1, len(known) // 300)  # more points than that are no line any more
    reach = len(known) // 40
    smooth = []
    for i in range(0, len(known), group):
        near = known[max(0, i - reach) : i + reach + 1]
        smooth.append((known[i][0], sum(y for _, y in near) / len(near)))
    seen = [y for _, y in [*known[len(known) // 40 :], *validation] if _fits(y)] or [0.0]
    low, high = _padded(seen)
    raw = [(x, y) for x, y in known[::group] if low <= y <= high]
    shown = [(x, y) for x, y in smooth if y <= high]
    curves = [Curve(raw, "lx"), Curve(shown), Curve(validation, "li", True)]
    return plot(curves, width, 0.42 * width + 60, "step", y_range=(low, high))[0]


def ranked(costs: Sequence[Point], mean: float, width: float) -> Drawing:
    """Draw bits per byte of (bits per byte, bytes) in rising order, over the share of the bytes."""
    total, at, points = sum(size for _, size in costs) or 1, 0.0, []
    for i, (bpb, size) in enumerate(costs):
        if i % max(1, len(costs) // 150) == 0:
            points += [(100 * at / total, bpb), (100 * (at + size) / total, bpb)]
        at += size
    points.append((100.0, costs[-1][0] if costs else 0.0))
    tall = max([y for _, y in points if _fits(y)], default=1.0)
    whole = [(0.0, mean), (100.0, mean)]
    curves = [Curve(points), Curve(whole, "li dash")]
    return plot(curves, width, 0.25 * width + 120, "% of the text", y_range=(0, 1.05 * tall))[0]


def positions(ranges: Sequence[tuple[float, int]], width: float) -> Drawing:
    """Draw bits per byte of (bits, bytes) of the tokens at positions 1, 2-3, 4-7, ...

    Where there is little room, two ranges share a bar.
    """
    group = 1 if width > 500 else 2
    rows = []
    for k in range(0, len(ranges), group):
        bits, size = map(sum, zip(*ranges[k : k + group], strict=True))
        bpb, first = bits / size if size > 0 else 0.0, 1 << k
        name = f"{first >> 10}k" if first >= 1024 else f"{first}"
        rows.append(Bar(name, bpb, f"{bpb:.2f}", "ours"))
    return columns(rows, width)


class Dots(NamedTuple):
    """Values of one kind, one per run; spread: on both sides of their mean, 0: not shown."""

    name: str
    values: Sequence[float]
    spread: float = 0.0


def dots(rows: Sequence[Dots], width: float, x_name: str = "") -> Drawing:
    """Draw a row of dots per group under its name, and a line at their mean.

    x_name: what the axis counts, where no caption says it.
    """
    good = [[v for v in row.values if _fits(v)] or [0.0] for row in rows]
    spreads = [row.spread if _fits(row.spread) else 0.0 for row in rows]
    ends = [(sum(g) / len(g), spread) for g, spread in zip(good, spreads, strict=True)]
    low, high = _padded([e for m, s in ends for e in (m - s, m + s)] + [v for g in good for v in g])
    frame = Frame(8, width - 8, 0, 0, (low, high), (0, 1))
    made = Drawing(width, 44 * len(rows) + (46 if x_name else 24))
    made.text(width, made.height - 6, x_name, "s", "end")
    ticks = _ticks(low, high, width / 110)
    for tick in ticks:
        made.text(frame.x(tick), 44 * len(rows) + 18, _form(ticks)(tick), "s", "middle")
        for i in range(len(rows)):
            made.line([(frame.x(tick), 44 * i + 21), (frame.x(tick), 44 * i + 40)], "l")
    for i, (row, values, (mean, spread)) in enumerate(zip(rows, good, ends, strict=True)):
        y = 44 * i + 30
        made.text(0, 44 * i + 15, clipped(row.name, width))
        if spread:
            made.line([(frame.x(mean - spread), y), (frame.x(mean + spread), y)], "lo")
        for value in values:
            made.circle(frame.x(value), y, 4.5, "ours")
        if len(values) > 1:
            made.line([(frame.x(mean), y - 9), (frame.x(mean), y + 9)], "li")
    return made


class Frame(NamedTuple):
    """Where the values of a plot lie."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: Point
    y_range: Point

    def x(self, value: float) -> float:
        """Return how far from the left a value lies."""
        return self.left + (self.right - self.left) * _share(value, self.x_range)

    def y(self, value: float) -> float:
        """Return how far from the top a value lies."""
        return self.bottom - (self.bottom - self.top) * _share(value, self.y_range)


def treemap(parts: Mapping[str, int], width: float, height: float = 280) -> Drawing:
    """Draw parts as rectangles whose areas are their shares; name those too small for it below."""
    total = sum(parts.values()) or 1
    named = sorted(parts.items(), key=lambda part: -part[1])
    large = [(name, size) for name, size in named if size >= total / 40]
    small = [(name, size) for name, size in named if size < total / 40]
    whole = [*large, ("", sum(size for _, size in small))] if small else large
    cells = list(squarified([size for _, size in whole], 0, 0, width + _GAP, height + _GAP))
    inside = {
        name
        for (name, size), (_, _, w, h) in zip(whole, cells, strict=True)
        if name and h >= 30 and w >= 18 + 9.6 * max(len(name), 8)
    }
    entries = [
        f"{_COLOURS[min(i, 3)]}: {name} {size:,} B"
        for i, (name, size) in enumerate(large)
        if name not in inside
    ]
    entries += [f"{'' if i else 'grey: '}{name} {size:,} B" for i, (name, size) in enumerate(small)]
    lines = _lines(entries, width)
    made = Drawing(width, height + 20 * len(lines))
    for i, ((name, size), (x, y, w, h)) in enumerate(zip(whole, cells, strict=True)):
        made.rect(x, y, w - _GAP, h - _GAP, f"p{min(i, 3) if name else 4}", 3)
        said = [name, f"{size:,} B", f"{100 * size / total:.0f} %"]
        for row, words in enumerate(said[: int((h - 8) // 19)] if name in inside else ()):
            made.text(x + 9, y + 21 + 19 * row, words, "" if row else "b")
    for row, words in enumerate(lines):
        made.text(0, height + 16 + 20 * row, words, "s")
    return made


def squarified(
    sizes: Sequence[int], x: float, y: float, width: float, height: float
) -> Iterator[tuple[float, float, float, float]]:
    """Yield (x, y, width, height) per size, largest first: rectangles as square as can be.

    Bruls, Huizing and van Wijk (2000), Squarified Treemaps.
    """
    left = list(sizes)
    scale = width * height / (sum(left) or 1)
    while left:
        short, count = min(width, height), 1
        while count < len(left) and _worst(left[: count + 1], short, scale) <= _worst(
            left[:count], short, scale
        ):
            count += 1
        row, left = left[:count], left[count:]
        thick, at = sum(row) * scale / (short or 1), 0.0
        for size in row:
            long = size * scale / (thick or 1)
            yield (x, y + at, thick, long) if width >= height else (x + at, y, long, thick)
            at += long
        if width >= height:
            x, width = x + thick, width - thick
        else:
            y, height = y + thick, height - thick


def _worst(row: Sequence[int], short: float, scale: float) -> float:
    """Return the largest ratio of the sides of a row's rectangles."""
    square = (sum(row) * scale / (short or 1)) ** 2
    areas = [size * scale for size in row if size]
    return max((max(square / area, area / square) for area in areas), default=0)


def _lines(entries: Sequence[str], width: float) -> list[str]:
    """Return entries in lines of 13 px that take at most `width`."""
    lines: list[str] = []
    for entry in entries:
        if lines and 6.9 * len(lines[-1] + entry) < width - 20:
            lines[-1] += f" · {entry}"
        else:
            lines.append(entry)
    return lines


def clipped(words: str, width: float) -> str:
    """Return words of 14 px that take at most `width`, with "…" for what is left out."""
    count = max(4, int(width / _LETTER) - 1)
    return words if len(words) <= count else words[: count - 1] + "…"


def _padded(values: Sequence[float]) -> Point:
    """Return a range with some room around values."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, count: float) -> list[float]:
    """Return about `count` round numbers from low to high."""
    raw = (high - low) / max(count, 1) or 1.0
    power = 10.0 ** floor(log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.75)
    first = floor(low / step + 0.999)
    return [step * k for k in range(first, floor(high / step + 1e-9) + 1)] or [low]


def _form(ticks: Sequence[float]) -> Callable[[float], str]:
    """Return how to write ticks: with as many digits as tell them apart."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    digits = max(0, -floor(log10(step) + 1e-9))
    return lambda value: f"{value + 0.0:,.{digits}f}"


def _share(value: float, of: Point) -> float:
    return (value - of[0]) / ((of[1] - of[0]) or 1)


def _fits(value: float) -> bool:
    """Say whether an axis has room for a value: what foreign files say may be absurd."""
    return isfinite(value) and abs(value) < 1e12


def _n(value: float) -> str:
    """Return a length with one digit behind the point."""
    return f"{round(value, 1) + 0.0:g}" if abs(value) < 1e5 else "0"
