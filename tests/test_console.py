"""Progress and metrics."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fairway import console


@pytest.fixture(autouse=True)
def _loud(monkeypatch):
    monkeypatch.setattr(console._console, "quiet", False)


def test_words_in_brackets_are_not_markup(capsys):
    console.say("[bold] stays")
    console.warn("[red] stays")
    console.error("[red] stays")
    console.table("T", ["a", "b"], [["[x]", 1]])
    shown = capsys.readouterr()
    assert "[bold] stays" in shown.err
    assert "warning: [red] stays" in shown.err
    assert "error: [red] stays" in shown.err
    assert "[x]" in shown.err
    assert shown.out == ""


@given(st.data())
def test_a_table_is_as_wide_as_the_terminal_and_cuts_no_word(data):
    columns = data.draw(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=5))
    word = st.text("ab.9", min_size=1, max_size=11)
    cell = st.lists(word, max_size=9).map(" ".join)
    rows = data.draw(st.lists(st.lists(cell, min_size=len(columns), max_size=len(columns))))
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "_console", Console(file=shown, width=80))
        console.table("T", columns, rows)
    lines = shown.getvalue().splitlines()[1:]
    assert max(map(len, lines)) <= 80
    assert "…" not in shown.getvalue()
    words = shown.getvalue().split()
    assert all(word in words for row in [columns, *rows] for cell in row for word in cell.split())


def test_silence(capsys):
    console.silence()
    console.error("unheard")
    assert capsys.readouterr().err == ""


def test_progress_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    with console.track("reading", 100, "token") as task:
        task.update(25)  # by an earlier process
        first = capsys.readouterr().err
        task.update(50, loss="1.5")
    err = capsys.readouterr().err
    assert "reading: 25%" in first
    assert not {"0", "nan", "left"} & set(first.replace("/", " ").split()), "no speed is known yet"
    assert first.strip() == "reading: 25%"
    assert "reading: 50%" in err
    assert "token/s" in err
    assert "s left" in err
    assert "loss 1.5" in err


def test_no_speed_without_a_unit(capsys, monkeypatch):
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    with console.track("train", 1.0, "") as task:
        task.update(0.5, step=3)
    assert "/s" not in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch):
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    monkeypatch.setattr(console, "_console", terminal)
    with console.track("reading", 10, "token") as task:
        task.update(5, bpb="2.0")
    assert "reading" in shown.getvalue()
    assert "bpb 2.0" in shown.getvalue()


def test_metrics_drop_what_a_killed_process_wrote_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = console.Metrics(path, tmp_path / "board")
    for step in (1, 2, 3):
        metrics.log(step, loss=float(step))
    metrics.close()
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    metrics = console.Metrics(path, None, resume_step=2)
    metrics.log(3, loss=9.0)
    metrics.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 9.0},
    ]
    assert list((tmp_path / "board").iterdir())
