"""Reports and pictures as Chromium draws them: nothing overflows, overlaps or fades."""

import re
import shutil
from pathlib import Path

import pytest

from fairway.pipeline.directory import RunDirectory
from fairway.report import report

pytestmark = pytest.mark.slow

IMAGES = Path(__file__).parents[2] / "docs" / "images"
LEAST_CONTRAST = 4.5
MEASURE = """() => {
  const wrong = [], root = document.documentElement;
  const name = (e) => `${e.tagName} "${e.textContent.trim().slice(0, 40)}"`;
  if (root.scrollWidth > root.clientWidth) wrong.push(`the page is ${root.scrollWidth} wide`);
  for (const e of document.querySelectorAll("body *:not(svg *)")) {
    const free = getComputedStyle(e).overflowX === "visible" && e.clientWidth > 0;
    if (free && e.scrollWidth > e.clientWidth + 1) wrong.push(`${name(e)} overflows`);
  }
  const drawn = [...document.querySelectorAll("svg")].filter((svg) => svg.clientWidth);
  for (const svg of drawn) {
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].filter((t) => t.textContent.trim());
    const boxes = texts.map((t) => t.getBoundingClientRect());
    boxes.forEach((a, i) => {
      if (a.left < edge.left - 1 || a.right > edge.right + 1 || a.top < edge.top - 1 ||
          a.bottom > edge.bottom + 1) wrong.push(`${name(texts[i])} is cut off`);
      if (a.height < 13 && svg.closest("figure")) wrong.push(`${name(texts[i])} is small`);
      for (const b of boxes.slice(i + 1)) {
        const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (w > 1 && h > 1) wrong.push(`${name(texts[i])} is under another text`);
      }
    });
  }
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => rgb.match(/[\\d.]+/g).slice(0, 3)
    .reduce((sum, v, k) => sum + [0.2126, 0.7152, 0.0722][k] * linear(v / 255), 0);
  const behind = (e) => {
    const colour = e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)";
    return /, 0\\)$/.test(colour) ? behind(e.parentElement) : colour;
  };
  const said = document.querySelectorAll("h1, h2, p, dt, dd, th, td, a, .badge");
  const contrasts = [...said].map((e) => {
    const [a, b] = [behind(e), getComputedStyle(e).color].map(luminance).sort((x, y) => x - y);
    return (b + 0.05) / (a + 0.05);
  });
  return { wrong, figures: drawn.length, contrast: Math.min(...contrasts, 21) };
}"""


@pytest.fixture
def look(chromium):
    """Open a file at a width, and return what is measured there."""

    def look(file, width=390, scheme="light"):
        size = {"width": width, "height": 900}
        context = chromium.new_context(viewport=size, color_scheme=scheme)
        tab, asked = context.new_page(), []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        found = tab.evaluate(MEASURE)
        context.close()
        assert asked == [file.as_uri()]
        return found

    return look


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_report(look, finished_tiny, width, scheme):
    found = look(finished_tiny / "report.html", width, scheme)
    assert not found["wrong"]
    assert found["figures"] == 5
    assert found["contrast"] >= LEAST_CONTRAST


def test_pages_of_several_runs_and_of_stale_ones(look, tiny, tmp_path, fairway):
    again = RunDirectory(shutil.copytree(tiny.path, tiny.path.with_name("a name " * 20)))
    report.write_many([tiny, again], tmp_path / "both.html")
    code = fairway("compare", tiny.path, "--against", again.path, "-o", tmp_path / "pair.html")[0]
    assert code == 0
    text = again.recipe.read_text("utf-8")
    again.recipe.write_text(re.sub("matrix_lr = .*", "matrix_lr = 0.5", text), "utf-8")
    for file in (tmp_path / "both.html", tmp_path / "pair.html", report.write(again)):
        assert not look(file)["wrong"]


@pytest.mark.parametrize("picture", sorted(IMAGES.glob("*.svg")), ids=lambda file: file.stem)
def test_a_picture(look, tmp_path, picture):
    (tmp_path / "page.html").write_text(picture.read_text("utf-8"), "utf-8")
    found = look(tmp_path / "page.html", 800)
    assert found["figures"] == 1
    assert not found["wrong"]


def test_what_is_wrong_is_seen(look, tmp_path):
    (tmp_path / "page.html").write_text(
        """<p style="width:50px;color:#999">incomprehensibilities incomprehensibilities</p>
        <svg width="90" height="20"><text x="5" y="15">one</text><text x="9" y="15">two</text></svg>
        <svg width="20" height="20"><text x="5" y="15">longer than that</text></svg>
        <figure><svg width="90" height="9" viewBox="0 0 900 90"><text x="9" y="60">small</text>"""
    )
    found = look(tmp_path / "page.html")
    words = ("overflows", "under", "cut", "small")
    assert [w for text in found["wrong"] for w in words if f" {w}" in text] == list(words)
    assert found["contrast"] < LEAST_CONTRAST
