"""One thread beside busy programs, all of them otherwise; the programs are real."""

import subprocess
import sys
import time

import pytest
import torch

from fairway.train import threads
from fairway.train.threads import Threads


@pytest.fixture
def busy():
    """As many processes that count without end as there are cores."""
    count = len(threads.os.sched_getaffinity(0))
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    yield running
    end(running)


def end(running):
    for process in running:
        process.kill()
        process.wait()


def run(chooser, alone, together, steps):
    """Report steps of `alone` or `together` seconds; return the threads of each step."""
    used = []
    for _ in range(steps):
        used.append(torch.get_num_threads())
        time.sleep(0.05)
        chooser.step_took(alone if used[-1] == 1 else together)
    return used


@pytest.mark.parametrize(("alone", "last"), [(1.0, 1), (9.0, 2)])
def test_the_faster_one_goes_on_beside_others(busy, alone, last):
    before, prepared = torch.get_num_threads(), []
    torch.set_num_threads(2)
    chooser = Threads(2, lambda: prepared.append(torch.get_num_threads()))
    used = run(chooser, alone, 3.0, 14)
    assert used[:3] == [1, 1, 1]
    tried = 1 if alone < 3.0 else 3  # one step is enough to see that it is slower
    assert used[3 : 3 + tried] == [2] * tried
    assert used[3 + tried :] == [last] * (11 - tried)
    assert prepared == [1]
    chooser.close()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_all_threads_again_when_the_others_have_ended(busy):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    chooser = Threads(2, lambda: None)
    assert run(chooser, 1.0, 3.0, 6)[-1] == 1
    end(busy)
    used = run(chooser, 1.0, 3.0, 16)
    chooser.close()
    torch.set_num_threads(before)
    if threads._glance() < 0.2:  # nobody else came meanwhile
        assert used[-1] == 2


def test_with_one_thread_there_is_no_choice(busy):
    chooser = Threads(1, lambda: pytest.fail("nothing to prepare"))
    before = torch.get_num_threads()
    assert set(run(chooser, 1.0, 1.0, 8)) == {before}


def test_time_of_others_is_seen(busy):
    first = threads._used_by_others()
    time.sleep(0.5)
    assert threads._used_by_others() - first > 0.2


def test_own_time_is_not_that_of_others():
    first, end = threads._used_by_others(), time.process_time() + 0.5
    began = time.monotonic()
    while time.process_time() < end:
        pass
    cores = len(threads.os.sched_getaffinity(0))
    assert threads._used_by_others() - first < (time.monotonic() - began) * cores - 0.25


@pytest.mark.parametrize("content", [None, "", "cpu0 1 2", "cpu0 a b c d e f g h"])
def test_a_machine_that_does_not_say_counts_as_quiet(monkeypatch, tmp_path, content):
    file = tmp_path / "stat"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(threads, "_CORES", file)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 1})
    assert threads._used_by_others() <= 0
