"""A sample of the campaign on proofs and compressed files: bench/mutations.py --streams."""

from pathlib import Path

import processes

BENCH = Path(__file__).parents[2] / "bench" / "mutations.py"


def test_damaged_and_hostile_streams_are_refused_or_right():
    """In a process of its own, because the bench reads the artifact only once."""
    done = processes.script(BENCH, "--streams", "--count", 60, "--seed", 1)
    assert done.wait() == 0, done.stdout.decode() + done.stderr
    for kind in ("compressed file", "proof", "header of a proof in floating point"):
        assert f"refused ({kind})" in done.stdout.decode()
