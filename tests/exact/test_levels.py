"""Lower instruction sets, as environment variables set them, change no bit."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOWEST = {  # of oneDNN, MKL, torch and numba; bench/same_bits.py has one after the other
    "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default",
    "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "",
}  # fmt: skip


def bits(artifact, level):
    command = [sys.executable, str(ROOT / "bench" / "same_bits.py"), str(artifact)]
    command += ["--tokens", "40", "--one", "blocks"]
    return subprocess.check_output(command, env=os.environ | level, text=True).strip()


def test_lower_instruction_sets_give_the_same_bits(artifact_file):
    assert bits(artifact_file, LOWEST) == bits(artifact_file, {})
