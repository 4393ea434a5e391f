import threading

import pytest
import torch

from fairway.coding import artifact
from fairway.coding.session import computing, in_order, side_by_side
from fairway.errors import BadInput


@pytest.fixture
def opened(artifact_file):
    return artifact.read(artifact_file)


def test_the_same_machine_is_let_in(opened):
    with (
        computing(opened, "float") as (_, first),
        computing(opened, "float", on_cuda=False) as (_, second),
    ):
        assert first.logits_sha256 == second.logits_sha256
        second.check_environment(first.environment)
        second.check_environment_hash(first.environment_sha256[:4])
        second.check_logits(first.logits_sha256[:4])


def test_another_environment_is_named(opened):
    with computing(opened, "float", on_cuda=False) as (_, guard):
        elsewhere = guard.environment.replace(torch.__version__, "1.0")
        with pytest.raises(BadInput, match=r"another torch 1\.0 \(here 2"):
            guard.check_environment(elsewhere)
        with pytest.raises(BadInput, match="another environment"):
            guard.check_environment_hash(b"\0\1\2\3")


def test_other_logits_are_refused(opened):
    with computing(opened, "float", on_cuda=False) as (_, guard):
        other = bytes(255 - byte for byte in guard.logits_sha256)
        with pytest.raises(BadInput, match="other logits"):
            guard.check_logits(other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the sentence is for machines without a GPU")
def test_a_file_from_a_gpu_says_so(opened):
    with pytest.raises(BadInput, match="made on a GPU"), computing(opened, "float", on_cuda=True):
        pass


def test_exact_arithmetic_needs_no_guard(opened):
    with computing(opened, "exact") as (_, guard):
        assert guard is None


def test_one_thread_inside_and_as_before_after(opened):
    before = torch.get_num_threads()
    for arithmetic in ("exact", "float"):
        with computing(opened, arithmetic):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_work_side_by_side_adds_up():
    reports = []

    def work(chunk, progress):
        progress(chunk, 8.0 * chunk)
        return -chunk

    done = side_by_side(work, [3, 1, 2], 2, lambda tokens, bits: reports.append((tokens, bits)))
    assert in_order(done) == [-1, -2, -3]
    assert reports[-1] == (6, 48.0)


def test_what_report_raises_ends_all_work():
    started = threading.Barrier(2, timeout=10)

    def work(chunk, progress):
        started.wait()
        while True:
            progress(1, 8.0)

    def report(tokens, bits):
        raise BadInput("enough")

    with pytest.raises(BadInput, match="enough"):
        in_order(side_by_side(work, [0, 1], 2, report))
