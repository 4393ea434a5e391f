import threading

import pytest

from fairway.coding.workers import each_chunk, in_order, side_by_side
from fairway.errors import BadInput


def test_work_side_by_side_adds_up():
    reports = []

    def work(chunk, progress):
        progress(chunk, 8.0 * chunk)
        return -chunk

    done = each_chunk(work, [3, 1, 2], 2, lambda tokens, bits: reports.append((tokens, bits)))
    assert in_order(done) == [-1, -2, -3]
    assert reports[-1] == (6, 48.0)


def test_what_report_raises_ends_all_work():
    started = threading.Barrier(2, timeout=120)

    def work(chunk, progress):
        started.wait()
        while True:
            progress(1, 8.0)

    def report(tokens, bits):
        raise BadInput("enough")

    with pytest.raises(BadInput, match="enough"):
        in_order(each_chunk(work, [0, 1], 2, report))


def test_results_come_while_threads_stay_a_few_ahead():
    made = []

    def work(item):
        for i in range(100):
            made.append((item, i))
            yield item, i

    results = side_by_side(work, range(3), 2)
    first = next(results)
    assert len(made) < 100
    rest = list(results)
    assert sorted([first, *rest]) == [(item, i) for item in range(3) for i in range(100)]


def test_threads_end_with_their_consumer():
    before = threading.active_count()

    def work(item):
        while True:
            yield item

    results = side_by_side(work, range(2), 2)
    next(results)
    results.close()
    assert threading.active_count() == before
