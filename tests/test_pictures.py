"""The pictures of README.md and docs/: drawn from committed results, and readable."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fairway.report.charts import STYLE

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = runpy.run_path(str(DOCS / "pictures.py"))["PICTURES"]
PAPERS = {"light": ("#ffffff", "#faf9f6"), "dark": ("#0d1117", "#151513", "#1c1c1a", "#1e2129")}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_drawn_again_is_the_same(name):
    drawn = PICTURES[name]()
    assert drawn == (DOCS / "images" / f"{name}.svg").read_text("utf-8"), "python docs/pictures.py"
    assert len(drawn) < 40_000
    root = ElementTree.fromstring(drawn)
    words = [root.findtext(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc")]
    assert all(words)
    assert not re.search("href|url|script|foreign", drawn)
    drawn_classes = {c for found in re.findall(r'class="([^"]*)"', drawn) for c in found.split()}
    assert drawn_classes <= set(re.findall(r"\.(\w+)", STYLE))


def test_every_drawing_in_docs_is_one_of_these():
    assert {file.stem for file in (DOCS / "images").glob("*.svg")} == set(PICTURES)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", PAPERS)
def test_words_and_shapes_stand_out(scheme):
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[scheme == "dark"]))
    fills = [colours[f"p{i}"] for i in range(5)]
    for paper in PAPERS[scheme]:
        for text in ("ink", "soft", "ours", "bad"):
            assert contrast(colours[text], paper) >= 4.5, (text, paper)
        assert contrast(colours["other"], paper) >= 3
    assert all(contrast(colours[text], fill) >= 4.5 for text in ("ink", "soft") for fill in fills)
