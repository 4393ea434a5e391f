"""Lower instruction sets, as environment variables set them, change no bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = [
    {},
    {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
]


@pytest.fixture(scope="module")
def bits(artifact_file):
    def compute(**level):
        command = [sys.executable, str(ROOT / "bench" / "same_bits.py"), str(artifact_file)]
        command += ["--tokens", "40", "--one"]
        environment = os.environ | level
        return subprocess.check_output([*command, "blocks"], env=environment, text=True).strip()

    return compute


@pytest.fixture(scope="module")
def usual(bits):
    return bits()


@pytest.mark.parametrize("level", LEVELS[1:])
def test_lower_instruction_sets_give_the_same_bits(bits, usual, level):
    assert bits(**level) == usual
