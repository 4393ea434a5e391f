"""The commands `page` and `view`: what they write, and what they say about files they refuse."""

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest

from fairway.page.build import proof_page
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import ProveResult


def refused(fairway, *arguments):
    code, out, err = fairway(*arguments)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    return err.rpartition("error: ")[2]


def page_of(run):
    return proof_page(run.artifact.read_bytes(), run.proof_file.read_bytes())


def test_a_run_ends_with_the_page_of_its_proof(finished_tiny):
    run = RunDirectory(finished_tiny)
    assert run.page.read_bytes() == page_of(run)
    assert '<a href="proof.html">proof.html</a>' in run.report.read_text("utf-8")


def test_the_page_of_a_run_and_of_two_files_are_one(fairway, tiny, tmp_path):
    expected = page_of(tiny)
    tiny.page.unlink()
    code, out, err = fairway("page", tiny.path, "--json")
    assert (code, tiny.page.read_bytes()) == (0, expected)
    told = {"path": str(tiny.page), "page_bytes": len(expected), "stamp": ""}
    assert json.loads(out) == told
    assert "open it in a browser" in err
    code, _, _ = fairway("page", tiny.artifact, tiny.proof_file)
    assert (code, (tiny.proof / "proof.html").read_bytes()) == (0, expected)
    code, _, _ = fairway("page", tiny.artifact, tiny.proof_file, "-o", tmp_path / "other.html")
    assert (code, (tmp_path / "other.html").read_bytes()) == (0, expected)


def test_a_report_links_to_the_page_of_its_own_proof_alone(fairway, tiny):
    tiny.page.write_bytes(tiny.page.read_bytes().replace(b"base64,", b"base64,AAAA", 1))
    assert fairway("report", tiny.path)[0] == 0
    assert "proof.html" not in tiny.report.read_text("utf-8")
    assert fairway("page", tiny.path)[0] == 0
    assert fairway("report", tiny.path)[0] == 0
    assert '<a href="proof.html">proof.html</a>' in tiny.report.read_text("utf-8")


def test_a_large_text_has_a_page_only_where_it_is_asked_for(fairway, tiny):
    proved = tiny.require(ProveResult)
    tiny.record(proved.model_copy(update={"text_bytes": 5_000_001}))
    assert fairway("run", tiny.recipe, "--out", tiny.path)[0] == 1  # the proof says otherwise
    assert not tiny.page.exists()
    assert fairway("page", tiny.path)[0] == 0
    assert tiny.page.exists()


def test_what_has_no_page(fairway, tiny, tmp_path):
    sentence = refused(fairway, "page", tiny.artifact)
    assert "give the proof, too" in sentence
    assert "fairway prove RUN writes one" in sentence
    assert "give an artifact and a proof" in refused(fairway, "page", *["x"] * 3)
    assert "is no run directory" in refused(fairway, "page", tmp_path / "nope")
    words = ("page", tiny.artifact, tiny.proof_file, "-o", tiny.artifact)
    assert "would overwrite its own input" in refused(fairway, *words)
    assert fairway("prove", tiny.path, "--arithmetic", "float")[0] == 0
    sentence = refused(fairway, "page", tiny.path)
    assert "grade device: only a machine like the one that wrote it" in sentence
    assert "fairway prove RUN --adapt none --arithmetic exact" in sentence
    tiny.proof_file.unlink()
    sentence = refused(fairway, "page", tiny.path)
    assert f"there is no {tiny.proof_file}: fairway prove {tiny.path} writes it" in sentence


def test_a_text_is_shown_as_a_page(fairway, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.txt").write_bytes(text := b"Dear reader,\n\xff\0 this is a letter.\n")
    code, out, err = fairway("view", tiny.artifact, "letter.txt", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["path"] == "view.html"
    assert told["text_bytes"] == len(text)
    assert told["bpb"] == pytest.approx(told["bits"] / len(text))
    assert f"{len(text)} bytes, {told['tokens']} tokens, " in err
    assert '"name":"letter.txt"' in (tmp_path / "view.html").read_text("utf-8")


def test_view_charges_what_score_charges(fairway, tiny, tmp_path):
    (tmp_path / "text.txt").write_text("def f(x):\n    return x + 1\n" * 40)
    (tmp_path / "lines.jsonl").write_text('{"text": "import os"}\n{"text": "print(os.name)"}\n')
    for file in ("text.txt", "lines.jsonl"):
        words = ("score", tiny.path, "--text", tmp_path / file, "--protocol", "rolling", "--json")
        scored = json.loads(fairway(*words)[1])
        target = tmp_path / "page.html"
        shown = json.loads(
            fairway("view", tiny.artifact, tmp_path / file, "-o", target, "--json")[1]
        )
        assert shown["tokens"] == scored["tokens"]
        assert shown["bpb"] == pytest.approx(scored["bpb"], rel=1e-12)


def test_a_text_is_shown_in_the_terminal(fairway, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"print(\x1b[31m1)\n")))
    code, out, err = fairway("view", tiny.artifact, "-", "--terminal")
    assert (code, out) == (0, "print(\\x1b[31m1)\n")
    assert re.search(r"14 bytes, \d+ tokens, \d+ bits, \d\.\d{4} bits per byte", err)
    assert not list(tmp_path.glob("*.html"))
    words = ("view", tiny.artifact, "-", "--terminal", "-o", "x.html")
    assert "--terminal writes no page" in refused(fairway, *words)
    (tmp_path / "empty").touch()
    assert "holds no text" in refused(fairway, "view", tiny.artifact, "empty")
    words = ("view", tiny.artifact, "empty", "-o", "empty")
    assert "would overwrite its own input" in refused(fairway, *words)
