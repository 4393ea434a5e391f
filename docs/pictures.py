"""Draw the pictures of README.md and docs/ from committed results: python docs/pictures.py

Each becomes an SVG in docs/images that is readable in light and dark. tests/test_docs_pictures.py
draws them again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairway.pipeline.inspect import inspect
from fairway.report.charts import Curve, Drawing, plot, treemap

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).with_name("images")
WIDTH = 540  # px: on a telephone a picture is scaled to two thirds, and stays readable


def result(name: str) -> Any:
    """Return what a file of bench/results holds."""
    return json.loads((ROOT / "bench" / "results" / name).read_text("utf-8"))


def arrow(made: Drawing, *points: tuple[float, float]) -> None:
    """Draw a line through points, with a head at the last one."""
    (a, b), (x, y) = points[-2:]
    dx, dy = (x > a) - (x < a), (y > b) - (y < b)
    made.line([*points[:-1], (x - 7 * dx, y - 7 * dy)], "li")
    wings = (x - 9 * dx + 5 * dy, y - 9 * dy + 5 * dx), (x - 9 * dx - 5 * dy, y - 9 * dy - 5 * dx)
    made.path("M" + "L".join(f"{px} {py}" for px, py in ((x, y), *wings)) + "Z", "ink")


def box(made: Drawing, x: float, y: float, kind: str, *words: str) -> None:
    """Draw a box of 150 × 74 px; the first line of its words is its name."""
    made.rect(x, y, 150, 74, kind, 10)
    top = y + 42 - 9.5 * (len(words) - 1)
    for i, line in enumerate(words):
        made.text(x + 75, top + 19 * i, line, "s" if i else "b", "middle")


def idea() -> str:
    """Draw how a proof is made and checked."""
    made = Drawing(WIDTH, 296)
    left, middle, right = 0, 195, WIDTH - 150
    box(made, left, 0, "p4", "text")
    box(made, middle, 0, "p0", "Fairway", "codes each token", "with the model")
    box(made, middle, 111, "p1", "model", "trained, packed", "under a byte budget")
    box(made, right, 111, "p0", "proof", "its size is the score")
    box(made, middle, 222, "p2", "another program", "decodes the proof", "with the model")
    box(made, left, 222, "p4", "identical text")
    arrow(made, (150, 37), (middle, 37))
    arrow(made, (middle + 150, 37), (right + 75, 37), (right + 75, 111))
    arrow(made, (middle + 75, 111), (middle + 75, 74))
    arrow(made, (middle + 75, 185), (middle + 75, 222))
    arrow(made, (right + 75, 185), (right + 75, 259), (middle + 150, 259))
    arrow(made, (middle, 259), (150, 259))
    made.line([(75, 84), (75, 122)], "lx dash")
    made.line([(75, 172), (75, 212)], "lx dash")
    made.text(75, 143, "the same,", "s", "middle")
    made.text(75, 162, "byte for byte", "s", "middle")
    return made.file(
        "How Fairway proves a score",
        "Fairway codes a text, token by token, with a model that was trained and packed under a "
        "byte budget. The result is the proof, and its size is the score. Another program decodes "
        "the proof with the model and gets the identical text.",
    )


def results() -> str:
    """Draw bits per byte of `mini` and of the starting system."""
    found = result("mini-against-pr264.json")
    made = Drawing(WIDTH, 236)
    made.text(0, 15, "Bits per byte at 1,000,000 bytes and 600 s of training; lower is better", "s")
    most, said = found["web"]["pr264_bpb"], []
    left = 128
    for i, (text, row) in enumerate((("validation text", found), ("web text", found["web"]))):
        y = 50 + 98 * i
        made.text(0, y, text, "b")
        lower = f"{row['mini_bpb']:.4f}, {100 * row['lower']:.1f} % lower"
        for j, (name, key, words, kind) in enumerate(
            (
                ("starting system", "pr264_bpb", f"{row['pr264_bpb']:.4f}", "other"),
                ("Fairway, mini", "mini_bpb", lower, "ours"),
            )
        ):
            top = y + 12 + 30 * j
            long = (WIDTH - left - 132) * row[key] / most
            made.text(0, top + 16, name, "b ours" if kind == "ours" else "")
            made.rect(left, top, long, 22, kind, 3)
            made.text(left + long + 8, top + 16, words, "b ours" if kind == "ours" else "")
            said.append(f"{text}, {name}: {words}")
    return made.file("Results: mini beside the starting system", ". ".join(said) + ".")


def artifact() -> str:
    """Draw where the bytes of the golden artifact go."""
    parts = inspect(ROOT / "tests" / "golden" / "demo.fairway").parts
    said = ", ".join(f"{name} {size:,}" for name, size in parts.items())
    return treemap(parts, WIDTH).file(
        f"Where the {sum(parts.values()):,} bytes of an artifact go", f"Bytes by part: {said}."
    )


def budgets() -> str:
    """Draw bits per byte over the bytes of the artifact."""
    found, most = result("budgets-demo.json"), 2.0
    whole = found["bpb_before_packing"]
    ours, plain = (
        [
            (row["artifact_bytes"] / 1000, row["bpb"])
            for row in found["rows"]
            if row["quantizer"] == name and row["bpb"] < most
        ]
        for name in ("gptq", "uniform")
    )
    shown = [Curve(plain, "lx", True), Curve(ours, "lo", True)]
    ranges = (100, 620), (whole - 0.06, most)
    made, frame = plot(shown, WIDTH, 320, "artifact, kB", *ranges)
    made.line([(frame.left, frame.y(whole)), (frame.right, frame.y(whole))], "li dash")
    made.text(frame.right, frame.y(whole) + 19, f"before packing: {whole:.4f}", "s", "end")
    made.text(frame.left + 10, frame.top + 14, "bits per byte, lower is better", "s")
    made.text(frame.x(plain[0][0]) + 14, frame.y(plain[0][1]) + 5, "plain rounding")
    made.text(frame.x(ours[0][0]) + 14, frame.y(ours[0][1]) + 12, "Fairway", "b ours")
    said = "; ".join(f"{x:.0f} kB: {y:.4f}" for x, y in ours)
    return made.file("Bits per byte over byte budgets", f"Fairway's quantizer: {said}.")


def lanes() -> str:
    """Draw what a prediction may look at, in two lanes of a proof (coding/lanes.py)."""
    made, step, window, size = Drawing(WIDTH, 236), 13, 6, 23
    left = WIDTH - 20 * size
    documents = {"lane 0": [("A", 0, 9), ("B", 9, 20)], "lane 1": [("C", 0, 20)]}
    for row, (lane, parts) in enumerate(documents.items()):
        y = 24 + 54 * row
        made.text(0, y + 15, lane, "b")
        for name, start, end in parts:
            made.text(left + size * start, y - 7, f"document {name}", "s")
            for at in range(start, end):
                seen = "p4" if end <= step else "p1" if at >= step - window else "p2"
                kind = "ours" if at == step else seen if at < step else "todo"
                made.rect(left + size * at, y, size - 3, size - 3, kind, 3)
    for i, (kind, words) in enumerate(
        (
            ("ours", "decoded at this step: one token of each lane"),
            ("p1", "seen by the network: the last tokens of this document, at most a window"),
            ("p2", "seen by the document memory: earlier tokens of this document"),
            ("p4", "decoded, but not seen: another document"),
            ("todo", "not decoded yet"),
        )
    ):
        made.rect(0, 124 + 23 * i, 16, 16, kind, 3)
        made.text(24, 137 + 23 * i, words)
    return made.file(
        "Lanes and windows: what a prediction may look at",
        "All lanes advance by one token per step. The network sees at most a window of the last "
        "tokens of the same document; the document memory also sees the tokens before them. "
        "Neither sees another document, or a token that is not decoded yet.",
    )


def leak() -> str:
    """Draw how charges before a cut move when the text behind the cut is another."""
    found = result("leak.json")
    made, wide, tall = Drawing(WIDTH, 314), 7, 84
    count = len(found["bits_moved"]["valid"]) // 2
    cut, scale = wide * count, tall / 2 / max(map(abs, found["bits_moved"]["leaky"][:count]))
    made.text(0, 15, "How much the charge of each token moves, in bits", "s")
    names = {
        "valid": "a valid scorer charges a window, then learns from it",
        "leaky": "a leaky scorer learns from a window, then charges it",
    }
    for i, (kind, words) in enumerate(names.items()):
        y = 44 + 148 * i
        made.text(0, y, words, "b" if kind == "valid" else "b bad")
        made.rect(cut, y + 12, WIDTH - cut, tall, "p4", 3)
        made.text((cut + WIDTH) / 2, y + 8 + tall / 2, "from here on,", "s", "middle")
        made.text((cut + WIDTH) / 2, y + 26 + tall / 2, "another text", "s", "middle")
        middle = y + 12 + tall / 2
        made.line([(0, middle), (cut, middle)], "lx")
        for at, bits in enumerate(found["bits_moved"][kind][:count]):
            if bits:
                long = abs(bits) * scale
                made.rect(wide * at + 1, middle - long * (bits > 0), wide - 2, long, "bad", 1)
    made.text(0, 160, "Nothing before the change moves: a decoder could do the same.", "s")
    made.text(0, 308, "Charges before the change move: they knew what comes later.", "s")
    moved = sum(map(bool, found["bits_moved"]["leaky"][:count]))
    return made.file(
        "What a broken condition looks like",
        f"The end of a text is changed. The valid scorer's charges before the change stay. The "
        f"leaky scorer's last {moved} charges before the change move, by up to "
        f"{max(map(abs, found['bits_moved']['leaky'][:count])):.1f} bits.",
    )


PICTURES: dict[str, Callable[[], str]] = {
    "idea": idea, "results": results, "artifact": artifact, "budgets": budgets, "lanes": lanes,
    "leak": leak,
}  # fmt: skip


def main() -> None:
    for name, draw in PICTURES.items():
        (IMAGES / f"{name}.svg").write_text(draw(), "utf-8")


if __name__ == "__main__":
    main()
