"""The run directory: locks, and files that are whole or absent."""

import os
import signal
import subprocess
import sys

import pytest

from fairway.config.toml import load
from fairway.errors import BadInput
from fairway.io.atomic import write_atomic
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import Verdict

RECIPE = load("tiny")
VERDICT = Verdict(verified=True, reason="", bpb=0.0, decoded=None, compared_with="", decode_s=0.0)


def test_results_are_recorded_and_forgotten(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.recorded(Verdict) is None
    run.record(VERDICT)
    assert run.recorded(Verdict) == run.require(Verdict) == VERDICT
    run.invalidate(Verdict)
    with pytest.raises(BadInput, match="has no finished 'verify' yet: fairway run"):
        run.require(Verdict)


def test_a_damaged_result_counts_as_none(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / "verify.json").write_text('{"verified": tr')
    assert run.recorded(Verdict) is None


def test_texts_of_one_name_have_a_directory_each(tmp_path):
    run = RunDirectory(tmp_path)
    a, b = (run.for_text(tmp_path / folder / "t.txt").path for folder in "ab")
    assert a != b
    assert a.name.startswith("t-")
    assert run.for_text(None) is run


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
