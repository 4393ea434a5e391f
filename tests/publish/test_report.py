"""The report page: complete, self-contained, and made of results only."""

import bz2
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from fairway.course import Run
from fairway.errors import BadInput
from fairway.publish import compressors, pictures, report
from fairway.results import Result

VOID = {"meta", "br", "img", "path", "use", "rect"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a reader's browser would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.counts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.loads += [
            value
            for key, value in attributes
            if key in ("src", "href", "xlink:href") and not value.startswith("#")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_of_a_finished_run(tiny):
    text = report.write(tiny).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    assert page.counts["svg"] == 4
    assert page.counts["table"] == 3
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert "proved: a separate process decoded all" in text
    for value in ("after training", "after packing", "scored", "proved", "xz -9e", "bzip2 -9"):
        assert value in text
    assert "num_layers = 2" in text.replace("&quot;", '"')


def test_tables_agree_with_the_results(tiny):
    course, parts, rivals = report.tables(tiny)
    pack, prove = tiny.need("pack"), tiny.need("prove")
    cells = {row[0]: row for row in course.rows}
    assert cells["proved"][1] == f"{prove.bpb:.4f}"
    assert cells["decoded"][1] == "verified"
    assert [int(row[1].replace(",", "")) for row in parts.rows[:-1]] == list(pack.parts.values())
    assert parts.rows[-1][1] == f"{pack.artifact_bytes:,}"
    ours = sum(prove.files.values())
    assert rivals.rows[0][1] == f"{ours:,}"
    assert rivals.rows[0][3] == f"{ours + pack.artifact_bytes:,}"
    for table in (course, parts, rivals):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_compressors_run_once_per_text(tiny, monkeypatch):
    kept = json.loads(tiny.baselines.read_text("utf-8"))
    assert kept["text_sha256"] == tiny.need("data").text_sha256
    monkeypatch.setattr(compressors, "sizes", lambda text: pytest.fail("compressed again"))
    assert compressors.sizes_of_run(tiny) == kept["sizes"]


def test_compressed_sizes():
    text = b"the same words again and again, " * 200
    found = compressors.sizes(text)
    assert found["bzip2 -9"] == len(bz2.compress(text, 9))
    assert all(0 < size < len(text) for size in found.values())


def test_a_run_without_its_data_has_no_rivals(tiny):
    tiny.forget("data")
    assert [table.title for table in report.tables(tiny)] == ["The course", "Bytes of the artifact"]
    report.write(tiny)


@pytest.mark.parametrize(
    ("verb", "headline"),
    [("verify", "not verified yet: fairway verify"), ("prove", "Not proved yet: fairway prove")],
)
def test_an_unfinished_run_says_what_is_missing(tiny, verb, headline):
    tiny.forget(verb)
    assert headline in report.write(tiny).read_text("utf-8")


def test_a_failed_proof_is_the_headline(tiny):
    failed = tiny.need("verify").model_copy(update={"verified": False, "reason": "<other> text"})
    tiny.finish("verify", failed)
    assert "NOT VERIFIED: &lt;other&gt; text" in report.write(tiny).read_text("utf-8")
    assert report.sentence(failed) == "NOT verified: <other> text"


def test_an_empty_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match="there is nothing to report on"):
        report.write(Run(tmp_path))


def test_every_result_has_a_sentence(tiny):
    for verb in ("data", "train", "pack", "score", "prove", "verify"):
        assert len(report.sentence(tiny.need(verb))) > 20
    with pytest.raises(TypeError, match="no sentence for Result"):
        report.sentence(Result())


def test_pictures_take_the_ink_of_the_page_and_stay_the_same():
    svg = pictures.bars({"a": 1.0, "b": 2.0}, "bytes", "{:.1f}")
    assert svg == pictures.bars({"a": 1.0, "b": 2.0}, "bytes", "{:.1f}")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert re.search(r">2\.0<", svg)


def test_one_page_for_several_runs(tiny, tmp_path, fairway):
    other = Run(shutil.copytree(tiny.path, tiny.path.with_name("other")))
    page = tmp_path / "all.html"
    code, _, err = fairway("report", tiny.path, other.path, "-o", page)
    assert code == 0, err
    text = page.read_text("utf-8")
    found = Page(text)
    assert found.open == []
    assert found.loads == []
    assert found.counts["svg"] == 3
    assert "Bits per byte over seeds" in text
    assert "other: The course" in text
