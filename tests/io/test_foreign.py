"""Files, names, streams and values that others made."""

import json
import math
import os
import stat
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import processes
from fairway.console import printable, read_metrics
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import check_writable, replacing, write_atomic
from fairway.pipeline.directory import RunDirectory

COMMAND = Path(sys.executable).with_name("fairway")
CAMPAIGN = Path(__file__).parents[1] / "campaign.py"

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
numbers = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


# The reader --------------------------------------------------------------------------------------


@given(trees)
def test_json_is_read_as_json(tree):
    assert foreign.parse_json(json.dumps(tree), "it") == tree


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_the_bytes_are_there_is_a_value_or_a_sentence(data):
    for parse in (foreign.parse_json, foreign.parse_toml):
        found = value_or_sentence(parse, data)
        if isinstance(found, foreign.Malformed):
            assert str(found).startswith("it ")
            assert "\n" not in str(found)
        else:
            assert json.dumps(found, default=str)


def value_or_sentence(parse, data):
    try:
        return parse(foreign.decode(data, "it"), "it")
    except foreign.Malformed as error:  # and nothing else
        return error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@given(texts)
def test_text_in_every_encoding_with_a_mark(encoding, text):
    text = text.removeprefix("\ufeff")
    assert foreign.decode(text.encode(encoding), "it") == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ('{"a": NaN}', "not finite"),
        ("[1e999]", "not finite"),
        ('{"a": 99999999999999999999}', "more than 64 bits"),
        ("9" * 5000, "no valid JSON"),
        ('["\\u0000"]', "NUL"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\ud800": 1}', "surrogate"),
        ("[" * 100_000, "nested"),
        ("[" * 100 + "]" * 100, "nested"),
        ('{"a": 1', "no valid JSON"),
        ("", "no valid JSON"),
    ],
)
def test_json_that_is_refused(text, sentence):
    with pytest.raises(foreign.Malformed, match=sentence):
        foreign.parse_json(text, "it")


@pytest.mark.parametrize("text", ["a = " + "[" * 9000, "a = nan", "a = 1\na = 2", 'a = "\\u0000"'])
def test_toml_that_is_refused(text):
    with pytest.raises(foreign.Malformed, match=r"^it "):
        foreign.parse_toml(text, "it")


def test_metrics_with_a_torn_end_are_read_up_to_it(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"step": 1, "loss": NaN}\n{"loss": 1}\n{"step": 2, "lo')
    (line,) = read_metrics(path)
    assert line["step"] == 1
    assert math.isnan(line["loss"])
    assert "2 of 3 lines" in capsys.readouterr().err
    assert read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "missing", "loop", "large"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x"
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "missing": lambda: None,
        "loop": lambda: path.symlink_to(path),
        "large": lambda: path.write_bytes(bytes(101)),
    }[kind]()
    with pytest.raises(BadInput, match=rf"the thing {path}"):
        foreign.read_bytes(path, "the thing", 100)


def test_a_pipe_is_read_when_somebody_writes_and_refused_when_nobody_does(tmp_path, monkeypatch):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"words",))
    writer.start()
    with foreign.open_pipe(path, "it") as pipe:
        assert pipe.read() == b"words"
    writer.join()
    monkeypatch.setattr(foreign, "_WAIT_S", 0.05)
    with pytest.raises(BadInput, match="nobody writes into it"):
        foreign.open_pipe(path, "it")
    with pytest.raises(BadInput, match="nobody reads from it"):
        foreign.open_sink(path)


# Writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, "a\nb", "-x"])
def test_any_name_that_the_system_takes_can_be_written(tmp_path, name):
    write_atomic(tmp_path / name, b"1")
    assert os.listdir(tmp_path) == [name]


def test_a_replaced_file_keeps_its_mode(tmp_path):
    path = tmp_path / "x"
    path.touch(0o600)
    write_atomic(path, b"1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_is_followed_only_where_the_user_named_it(tmp_path, follow):
    path, behind = tmp_path / "x", tmp_path / "behind"
    behind.write_bytes(b"old")
    path.symlink_to(behind)
    with replacing(path, follow=follow) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert path.is_symlink() == follow
    assert behind.read_bytes() == (b"new" if follow else b"old")


def test_an_output_that_cannot_be_written_is_found_before_the_work(tmp_path):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match="none"):
        check_writable(tmp_path / "none" / "x")
    check_writable(tmp_path / "x")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_in_a_foreign_folder_leads_nowhere(tmp_path, kind):
    victim, lock = tmp_path / "victim", tmp_path / "run" / ".lock"
    victim.write_bytes(b"precious")
    lock.parent.mkdir()
    {
        "link": lambda: lock.symlink_to(victim),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }[kind]()
    with pytest.raises(BadInput, match="cannot write to"), RunDirectory(lock.parent).lock():
        pass
    assert victim.read_bytes() == b"precious"


# Commands ----------------------------------------------------------------------------------------


@given(st.text())
def test_nothing_printed_moves_the_cursor(text):
    shown = printable(text)
    assert shown.isprintable()
    assert not text.isprintable() or shown == text


def test_a_name_forges_no_line(fairway, tmp_path):
    name = tmp_path / "x\nerror: verified\x1b[2K\u202e"
    _, _, shown = fairway("inspect", name)
    assert "x\\nerror: verified\\x1b[2K\\u202e: there is no such file" in shown


def test_modes_and_times_are_the_inputs(fairway, artifact_file, tmp_path):
    source = tmp_path / "x"
    source.write_bytes(b"a secret")
    source.chmod(0o600)
    os.utime(source, (1, 1_000_000_000))
    assert fairway("compress", "-m", artifact_file, source)[0] == 0
    packed = tmp_path / "x.fwz"
    source.unlink()
    assert fairway("decompress", "-m", artifact_file, packed)[0] == 0
    for path in (packed, source):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_mtime == 1_000_000_000


def test_pipes_and_devices_are_written_into_and_stay(fairway, artifact_file, tmp_path):
    source, pipe, found = tmp_path / "x", tmp_path / "pipe", []
    source.write_bytes(b"a letter")
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    assert fairway("compress", "-m", artifact_file, source, "-f", "-o", pipe)[0] == 0
    reader.join()
    assert found[0].startswith(b"FWZ")
    assert pipe.is_fifo()
    code, _, shown = fairway("compress", "-m", artifact_file, source, "-o", "/dev/full")
    assert (code, "/dev/full" in shown) == (2, True)
    assert Path("/dev/full").is_char_device()


def test_a_file_is_never_its_own_output(fairway, artifact_file, tmp_path):
    source = tmp_path / "x"
    source.write_bytes(b"a letter")
    code, _, shown = fairway("compress", "-m", artifact_file, source, "-f", "-o", source)
    assert code == 2
    assert "overwrite its own input" in shown
    assert source.read_bytes() == b"a letter"


def test_a_prompt_that_is_no_utf_8(fairway, artifact_file):
    code, _, shown = fairway("sample", artifact_file, "--prompt", "caf\udce9")
    assert (code, "it is no UTF-8" in shown) == (2, True)


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ('"$F" compress -m "$M" <(echo a letter) -o out', 0, ""),
        ('"$F" compress -m "$M" - -o out <&-', 2, "standard input is closed"),
        ('"$F" compress -m "$M" x -c >&-', 2, "standard output is closed"),
        ('"$F" compress -m "$M" x -c > /dev/full', 2, "the disk is full (standard output)"),
        ('"$F" inspect "$M" --json 2>&- | grep -q sha256', 0, ""),
        ('"$F" compress -m "$M" x -o out 2>/dev/full', 0, ""),
        ('mkdir gone; cd gone; rmdir ../gone; "$F" report runs/x', 2, "go to another one (cd)"),
    ],
)
def test_streams_of_a_shell(artifact_file, tmp_path, line, code, sentence):
    (tmp_path / "x").write_bytes(b"a letter")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=tmp_path,
        env=os.environ | {"F": str(COMMAND), "M": str(artifact_file)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.count("\n") == 1


def test_a_sample_of_the_campaign(finished_tiny):
    """The whole of it is `make campaign`."""
    done = processes.script(CAMPAIGN, finished_tiny, "--every", 601, "--jobs", 1)
    assert done.wait() == 0, done.stdout.decode() + done.stderr


def test_toml_stays_toml():
    assert foreign.parse_toml('a = 1\n[b]\nc = "x"', "it") == tomllib.loads('a = 1\n[b]\nc = "x"')
