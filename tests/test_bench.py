"""The benches for machines that are not here run, at the size of a test."""

import json
from pathlib import Path

import pytest

import processes

BENCH = Path(__file__).parents[1] / "bench"


def run(file: str, *words: str) -> list[dict[str, float]]:
    made = processes.script(BENCH / file, *words, "--json")
    assert made.wait() == 0, made.stderr
    return json.loads(made.stdout)


def test_the_gpu_bench_measures_steps():
    (row,) = run("gpu/speed.py", "--dry-run")
    assert row["tokens_per_s"] == pytest.approx(row["tokens"] / row["ours_step_ms"] * 1e3)
    assert 0 < row["ours_share_of_products"] < 1
    assert row["ours_update_ms"] < row["ours_step_ms"]


def test_the_gpu_bench_goes_through_the_course(tmp_path):
    rows = run("gpu/course.py", "--dry-run", "--out", str(tmp_path / "run"))
    assert rows["verify"]["verified"] == 1
    assert rows["score rolling"]["bpb"] == pytest.approx(
        rows["prove"]["bpb"], rel=2e-2
    )  # a short text: its header counts


def test_plans_for_eight_gpus_stay_within_the_limit_and_more_gpus_are_faster():
    rows = run("plan.py")
    eight = next(row for row in rows if row["gpus"] == 8)
    assert max(eight["score_s"], eight["adapt_s"], eight["encode_s"], eight["decode_s"]) < 600
    times = [row["step_ms"] for row in rows]
    assert times == sorted(times, reverse=True)


def test_a_measured_step_replaces_the_published_one(tmp_path):
    file = tmp_path / "speed.json"
    row = {"tokens": 786_432, "ours_step_ms": 500.0, "ours_update_ms": 20.0}
    file.write_text(json.dumps([row]))
    one = run("plan.py", "--measured", str(file))[0]
    # The micro-batches as measured, and the update that the plan assumes.
    assert one["step_ms"] == pytest.approx(480 + 12.5, rel=1e-6)


def test_frontier_takes_its_steps_in_time():
    eight = next(row for row in run("plan.py", "--recipe", "frontier") if row["gpus"] == 8)
    assert eight["steps_in_600_s"] > 4000
