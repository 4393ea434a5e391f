"""The run folder: what is stale, locks, and files that are whole or absent."""

import os
import signal
import subprocess
import sys

import pytest

from fairway.config.schema import Recipe, load
from fairway.errors import BadInput
from fairway.io.atomic import write_atomic
from fairway.pipeline.directory import STAGES, RunDirectory, downstream, stamp_changes
from fairway.pipeline.results import DataResult, VerifyResult

RECIPE = load("tiny")

# The table of docs/course.md: one change per section, and the verbs whose stamps it changes.
CHANGES = {
    "data.vocab_size=301": {"data"},
    "model.dim=64": {"train"},
    "optim.matrix_lr=0.5": {"train"},
    "train.steps=41": {"train"},
    "pack.mlp_bits=4": {"pack"},
    "score.protocol=plain": {"score"},
    "prove.lanes=3": {"score", "prove"},
    "prove.arithmetic=float": {"prove"},
    "description=another": set(),
}


def verdict(stamp: str = "") -> VerifyResult:
    return VerifyResult(
        stamp=stamp,
        verified=True,
        reason="",
        bpb=0.0,
        decoded=None,
        compared_with="",
        decode_s=0.0,
    )


def finished(tmp_path) -> RunDirectory:
    """A run in which every verb is finished; the values do not matter here."""
    run = RunDirectory(tmp_path / "run")
    run.create(RECIPE)
    for verb in STAGES:
        stamp = run.stamp(verb, RECIPE, "documents")
        (run.path / f"{verb}.json").write_text(_any_result(verb, stamp))
    return run


def _any_result(verb: str, stamp: str) -> str:
    from fairway.pipeline.results import VERBS

    samples = {"int": 1, "float": 1.0, "str": "x", "bool": True}
    literals = {"text_rule": "bytes", "arithmetic": "float", "grade": "device", "decoded": None}
    kind = VERBS[verb]
    values = {
        name: literals.get(name, samples.get(str(kind.__annotations__.get(name)), {}))
        for name in kind.model_fields
    }
    return kind.model_construct(**{**values, "stamp": stamp}).model_dump_json()


def stale(run: RunDirectory, recipe: Recipe, source: str = "documents") -> set[str]:
    """Verbs whose own stamp differs, upstream results staying as they are."""
    return {
        verb
        for verb in STAGES
        if run.result(verb) is None or run.result(verb).stamp != run.stamp(verb, recipe, source)
    }


@pytest.mark.parametrize(("change", "verbs"), CHANGES.items())
def test_a_change_makes_exactly_its_verb_stale(tmp_path, change, verbs):
    run = finished(tmp_path)
    assert stale(run, RECIPE) == set()
    assert stale(run, load("tiny", [change])) == verbs


def test_other_documents_and_other_code_make_stale(tmp_path, monkeypatch):
    run = finished(tmp_path)
    assert stale(run, RECIPE, "other documents") == {"data"}
    newer = STAGES["pack"].__class__(STAGES["pack"].sections, "train", STAGES["pack"].version + 1)
    monkeypatch.setitem(STAGES, "pack", newer)
    assert stale(run, RECIPE) == {"pack"}


def test_a_new_result_makes_the_next_verbs_stale(tmp_path):
    run = finished(tmp_path)
    changed = run.stamp("pack", load("tiny", ["pack.mlp_bits=4"]))
    run.finish("pack", run.result("pack").model_copy(update={"stamp": changed}))
    assert stale(run, RECIPE) == {"pack", "score", "prove"}


def test_the_stamp_says_what_changed(tmp_path):
    run = finished(tmp_path)
    other = load("tiny", ["model.dim=64", "train.steps=41"])
    before, after = run.result("train").stamp, run.stamp("train", other)
    assert stamp_changes(before, after) == ["model", "train"]
    assert stamp_changes(before, before) == []
    assert stamp_changes("", before) == ["code", "model", "optim", "train", "data"]


def test_downstream():
    assert downstream("data") == list(STAGES)
    assert downstream("pack") == ["pack", "score", "prove", "verify"]
    assert downstream("score") == ["score"]
    assert downstream("prove") == ["prove", "verify"]


def test_fresh_forget_and_need(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.fresh("verify", "s", VerifyResult) is None
    run.finish("verify", verdict("s"))
    assert run.fresh("verify", "s", VerifyResult) == verdict("s")
    assert run.fresh("verify", "t", VerifyResult) is None
    assert run.fresh("verify", "s", DataResult) is None
    for verb in STAGES:
        run.invalidate(verb)
    with pytest.raises(BadInput, match="has no finished 'verify' yet: run fairway verify"):
        run.require("verify")


def test_a_damaged_result_counts_as_none(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / "verify.json").write_text('{"verified": tr')
    assert run.result("verify") is None


HOLDER = """
import sys, time
from fairway.pipeline.directory import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_command_is_told_who_holds_the_folder(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=f"in use by process {holder.pid}: wait"), run.lock():
            pass
        holder.kill()
    with run.lock():  # a killed process holds nothing
        pass


WRITER = """
import os, signal, sys
from pathlib import Path
from fairway.io.atomic import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_atomic(path, b"whole")
    done = subprocess.run([sys.executable, "-c", WRITER, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"whole"


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "x", "text")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "enter", [lambda run: run.create(RECIPE), lambda run: run.lock().__enter__()]
)
def test_an_unwritable_folder_is_one_sentence(tmp_path, enter):
    (tmp_path / "file").write_text("")
    run = RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(BadInput, match="cannot write to"):
        enter(run)
