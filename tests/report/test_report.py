"""The report page: complete, self-contained, and made of results only."""

import bz2
import shutil
from html.parser import HTMLParser

import pytest

from fairway.errors import BadInput
from fairway.io.atomic import sha256_file
from fairway.pipeline import verdicts
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.evidence import Results
from fairway.pipeline.results import PackResult, PrepareResult, ProveResult
from fairway.pipeline.stage import stages_of
from fairway.report import compressors, report

VOID = {"meta", "br", "img", "path", "circle", "rect"}


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
    assert page.loads == ["proof.html"]  # a link to the page beside it
    assert page.counts["svg"] == 2 * 5  # each chart for screens and for telephones
    assert page.counts["table"] == 1
    assert '<h1>tiny <span class="badge verified">verified</span></h1>' in text
    assert sha256_file(tiny.proof_file) in text
    assert "fairway verify model.fairway proof/val.fwp" in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert "bits per byte, verified: all" in text
    for value in ("after training", "after packing", "scored", "proved", "xz -9e", "bzip2 -9"):
        assert value in text
    assert "num_layers = 2" in text.replace("&quot;", '"')


def test_tables_agree_with_the_results(tiny):
    course, parts, rivals = report.tables(Results(tiny))
    pack, prove = tiny.require(PackResult), tiny.require(ProveResult)
    cells = {row[0]: row for row in course.rows}
    assert cells["proved"][1] == f"{prove.bpb:.4f}"
    assert cells["decoded"][1] == f"{prove.bpb:.4f}"
    assert cells["decoded"][-1] == "verified"
    assert {row[-1] for name, row in cells.items() if name != "decoded"} == {"claimed"}
    assert [int(row[1].replace(",", "")) for row in parts.rows[:-1]] == list(pack.parts.values())
    assert parts.rows[-1][1] == f"{pack.artifact_bytes:,}"
    ours = sum(prove.files.values())
    assert rivals.rows[0][1] == f"{ours:,}"
    assert rivals.rows[0][3] == f"{ours + pack.artifact_bytes:,}"
    for table in (course, parts, rivals):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_compressors_run_once_per_text(tiny, monkeypatch):
    sha256 = tiny.require(PrepareResult).text_sha256
    found = compressors.sizes_of_run(tiny, sha256)
    assert found
    monkeypatch.setattr(compressors, "sizes", lambda text: pytest.fail("compressed again"))
    assert compressors.sizes_of_run(tiny, sha256) == found


def test_another_text_is_not_compressed_in_its_place(tiny):
    assert compressors.sizes_of_run(tiny, "0" * 64) == {}


def test_compressed_sizes():
    text = b"the same words again and again, " * 200
    found = compressors.sizes(text)
    assert found["bzip2 -9"] == len(bz2.compress(text, 9))
    assert all(0 < size < len(text) for size in found.values())


def test_a_run_without_its_data_has_no_rivals(tiny):
    shutil.rmtree(tiny.data_folder(tiny.require(PrepareResult)))
    assert [table.title for table in report.tables(Results(tiny))] == [
        "The pipeline",
        "Bytes of the artifact",
    ]
    report.write(tiny)


def test_what_nobody_here_decoded_is_claimed(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(verdicts, "_decoded_here", {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    page = report.write(tiny).read_text("utf-8")
    assert "bits per byte, claimed: not verified here, fairway verify" in page
    assert "verified:" not in page.replace("&quot;verified&quot;:", "")


def test_the_proof_of_a_replaced_artifact_is_stale(tiny, fairway):
    old = tiny.require(ProveResult)
    assert fairway("pack", tiny.path, "--budget", 10_000)[0] == 0
    stages, parts = report.tables(Results(tiny))
    rows = {row[0]: row[1:] for row in stages.rows}
    assert rows["after packing"][1] == parts.rows[-1][1] == f"{tiny.artifact.stat().st_size:,}"
    assert rows["score"] == rows["prove"] == ["", "", "", "stale"]
    assert "decoded" not in rows
    assert "Stale: prove.json was made with other pack, model.fairway" in stages.note
    page = report.write(tiny).read_text("utf-8")
    assert '<span class="badge stale">stale</span>' in page
    assert "Stale: score.json was made with other pack, model.fairway; prove.json was made" in page
    assert f"{old.bpb:.4f}" not in page
    other = shutil.copytree(tiny.path, tiny.path.with_name("other"))
    code, _, err = fairway("compare", tiny.path, "--against", other)
    assert code == 2
    assert "score.json in" in err
    assert "is stale, it was made with other pack, model.fairway" in err


def test_an_unfinished_run_says_what_is_missing(tiny):
    tiny.invalidate(ProveResult)
    tiny.proof_file.unlink()
    assert "Not proved yet: fairway prove" in report.write(tiny).read_text("utf-8")


def test_a_proof_that_does_not_hold_is_the_headline(tiny):
    tiny.record(tiny.require(ProveResult).model_copy(update={"order": "<none>"}))
    page = report.write(tiny).read_text("utf-8")
    assert "NOT VERIFIED: prove.json says order = &lt;none&gt;, the two files give left" in page


def test_an_empty_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match="there is nothing to report on"):
        report.write(RunDirectory(tmp_path))


def test_every_stage_has_a_sentence(tiny):
    for stage in stages_of(tiny.load()):
        assert len(tiny.require(stage.result).sentence) > 20


def test_a_changed_recipe_is_not_shown_beside_the_verdict(tiny):
    text = tiny.recipe.read_text("utf-8")
    tiny.recipe.write_text(text.replace("matrix_lr = 0.02", "matrix_lr = 0.04"), "utf-8")
    page = report.write(tiny).read_text("utf-8")
    assert '<span class="badge stale">stale</span>' in page
    assert "Stale: train.json was made with other optim" in page
    assert "prove.json was made from a stale pack.json" in page
    assert 'class="figure"' not in page
    assert page.count(">stale</td>") == 4  # train, pack, score, prove
    assert "verified: all" not in page


def test_what_strangers_wrote_is_escaped(tiny):
    run = RunDirectory(tiny.path.rename(tiny.path.with_name("<b>bold")))
    text = run.recipe.read_text("utf-8")
    run.recipe.write_text(text.replace('name = "tiny"', 'name = "<img src=x>"'), "utf-8")
    page = Page(report.write(run).read_text("utf-8"))
    assert not page.counts.keys() & {"b", "img"}
    assert page.open == []


def test_one_page_for_several_runs(tiny, tmp_path, fairway):
    other = RunDirectory(shutil.copytree(tiny.path, tiny.path.with_name("other")))
    page = tmp_path / "all.html"
    code, _, err = fairway("report", tiny.path, other.path, "-o", page)
    assert code == 0, err
    text = page.read_text("utf-8")
    found = Page(text)
    assert found.open == []
    assert found.loads == []
    assert found.counts["svg"] == 2 * 3
    assert "Bits per byte over seeds" in text
    assert "other: the pipeline" in text
