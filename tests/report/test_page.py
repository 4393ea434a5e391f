"""The report as a browser draws it: nothing overflows, nothing overlaps.

Needs Chromium on the PATH; there is no other way to know.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from fairway.pipeline.directory import RunDirectory
from fairway.report import report

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser"])), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")

# The page stands in a frame, as a window of Chromium's has a least width.
MEASURE = """<!DOCTYPE html><pre id="found"></pre>
<iframe style="width:%dpx;height:9000px;border:0" srcdoc="%s"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, wrong = [];
  const name = (e) => `${e.tagName} "${e.textContent.trim().slice(0, 40)}"`;
  const root = page.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push(`the page is ${root.scrollWidth} wide`);
  for (const e of page.querySelectorAll("body *:not(svg *)")) {
    const free = getComputedStyle(e).overflowX === "visible" && e.clientWidth > 0;
    if (free && e.scrollWidth > e.clientWidth + 1) wrong.push(`${name(e)} overflows`);
  }
  for (const svg of page.querySelectorAll("svg")) {
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].filter((t) => t.textContent.trim());
    const boxes = texts.map((t) => t.getBoundingClientRect());
    boxes.forEach((a, i) => {
      if (a.left < edge.left - 1 || a.right > edge.right + 1 || a.top < edge.top - 1 ||
          a.bottom > edge.bottom + 1) wrong.push(`${name(texts[i])} is cut off`);
      for (let j = i + 1; j < boxes.length; j++) {
        const b = boxes[j];
        const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (w > 1 && h > 1) wrong.push(`${name(texts[i])} is under ${name(texts[j])}`);
      }
    });
  }
  const figures = page.querySelectorAll("svg").length;
  document.getElementById("found").textContent = JSON.stringify({ wrong, figures });
};
</script>"""


def looked_at(page, width, tmp_path):
    wrapper = tmp_path / f"at-{width}.html"
    wrapper.write_text(MEASURE % (width, html.escape(page)), "utf-8")
    shown = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=9000",
            f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", wrapper.as_uri(),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', shown.stdout, re.DOTALL)
    assert found, shown.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_or_overlaps(finished_tiny, tmp_path, width):
    page = (finished_tiny / "report.html").read_text("utf-8")
    found = looked_at(page, width, tmp_path)
    assert found["figures"] >= 3
    assert not found["wrong"]


def test_what_overlaps_is_seen(tmp_path):
    page = """<p style="width:50px">incomprehensibilities incomprehensibilities</p>
        <svg width="90" height="20"><text x="5" y="15">one</text><text x="9" y="15">two</text></svg>
        <svg width="20" height="20"><text x="5" y="15">longer than that</text></svg>"""
    wrong = looked_at(page, 390, tmp_path)["wrong"]
    assert len(wrong) == 3
    assert [
        word for text in wrong for word in text.split() if word in ("overflows", "under", "cut")
    ]


def test_a_page_for_several_runs(tiny, tmp_path):
    again = shutil.copytree(tiny.path, tiny.path.with_name("again"))
    page = tmp_path / "both.html"
    report.write_many([tiny, RunDirectory(again)], page)
    assert not looked_at(page.read_text("utf-8"), 390, tmp_path)["wrong"]
