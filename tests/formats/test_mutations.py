"""A sample of the campaign on proofs and compressed files: bench/mutations.py --streams."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "mutations.py"


def test_damaged_and_hostile_streams_are_refused_or_right():
    """In a process of its own, because the bench reads the artifact only once."""
    command = [sys.executable, BENCH, "--streams", "--count", "60", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("compressed file", "proof", "header of a proof in floating point"):
        assert f"refused ({kind})" in done.stdout
