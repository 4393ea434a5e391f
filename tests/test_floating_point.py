"""Exact arithmetic whatever a library has done to the process: rounding, subnormals, products."""

import ctypes
import os
import platform
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fairway import floating_point
from fairway.coding import exact_model, workers
from fairway.errors import BadInput
from fairway.pipeline.prove import decode

GOLDEN = Path(__file__).parent / "golden"
X86 = platform.machine() == "x86_64"
LIBRARY = floating_point._library()
# FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO
MODES = {"down": 0x400, "up": 0x800, "zero": 0xC00} if X86 else {}
MXCSR = 28  # where glibc's fenv_t has that register


def round_to(mode):
    assert LIBRARY.fesetround(mode) == 0


def flush():
    """What a library compiled with -ffast-math does when it is loaded."""
    state = (ctypes.c_uint8 * floating_point._ENV_BYTES)()
    LIBRARY.fegetenv(state)
    register = int.from_bytes(bytes(state[MXCSR : MXCSR + 4]), "little") | 0x8040
    state[MXCSR : MXCSR + 4] = register.to_bytes(4, "little")
    LIBRARY.fesetenv(state)


SPOILT = {name: lambda mode=mode: round_to(mode) for name, mode in MODES.items()}
if X86 and LIBRARY:
    SPOILT["flush"] = flush
SPOILT["flush by torch"] = lambda: torch.set_flush_denormal(True)


@pytest.fixture(params=SPOILT)
def spoilt(request):
    """The main thread in another environment, which is shown to be one."""
    before = (ctypes.c_byte * floating_point._ENV_BYTES)()
    LIBRARY.fegetenv(before)
    SPOILT[request.param]()
    with pytest.raises(BadInput, match=r"rounds numbers|flushes subnormal"):
        floating_point.check()
    yield request.param
    LIBRARY.fesetenv(before)
    floating_point.check()


def test_golden_proofs_decode_in_any_environment(spoilt, tmp_path):
    decode(GOLDEN / "memory.fairway", GOLDEN / "memory.fwp", tmp_path / "text")
    with pytest.raises(BadInput):  # it has been given back as it was
        floating_point.check()


def test_every_thread_of_ours_has_the_ieee_default(spoilt):
    """A thread inherits the environment of the one that starts it."""
    found = []

    def work(item):
        floating_point.check()
        yield item

    found = sorted(workers.side_by_side(work, range(4), 2))
    assert found == [0, 1, 2, 3]
    complaints = []

    def inherit():
        try:
            floating_point.check()
        except BadInput as error:
            complaints.append(str(error))

    thread = threading.Thread(target=inherit)
    thread.start()
    thread.join()
    assert complaints


@pytest.mark.skipif(not MODES, reason="the numbers of the rounding modes are those of x86-64")
def test_a_process_that_is_in_another_mode_from_the_start(tmp_path):
    """Constants that are made when modules are imported are the same, too."""
    code = (
        "import ctypes, ctypes.util, sys\n"
        "from pathlib import Path\n"
        "assert ctypes.CDLL(ctypes.util.find_library('m')).fesetround(0x400) == 0\n"
        "from fairway.pipeline.prove import decode\n"
        "decode(*map(Path, sys.argv[1:]))\n"
    )
    files = GOLDEN / "memory.fairway", GOLDEN / "memory.fwp", tmp_path / "text"
    environ = os.environ | {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True, env=environ)


def test_reduced_products_are_taken_back(tmp_path):
    """Where torch's setting has an effect on this machine, it is taken back."""
    expected = decode(GOLDEN / "memory.fairway", GOLDEN / "memory.fwp", tmp_path / "before")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert (
            decode(GOLDEN / "memory.fairway", GOLDEN / "memory.fwp", tmp_path / "text") == expected
        )
        assert torch.get_float32_matmul_precision() == "medium"  # the caller's own setting stays
    finally:
        torch.set_float32_matmul_precision(before)
    assert (tmp_path / "text").read_bytes() == (tmp_path / "before").read_bytes()


def test_products_in_bfloat16_are_noticed():
    """autocast computes them so on every machine; the engine switches it off."""
    wrong = pytest.raises(BadInput, match="multiplies float32 matrices inexactly")
    with torch.autocast("cpu", dtype=torch.bfloat16), wrong:
        floating_point.check()
    floating_point.check()


def test_a_proof_decodes_inside_autocast(tmp_path):
    expected = decode(GOLDEN / "memory.fairway", GOLDEN / "memory.fwp", tmp_path / "before")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            decode(GOLDEN / "memory.fairway", GOLDEN / "memory.fwp", tmp_path / "text") == expected
        )
    assert (tmp_path / "text").read_bytes() == (tmp_path / "before").read_bytes()


def test_an_inexact_product_of_the_artifact_is_refused(monkeypatch, artifact_file):
    """As a library would compute it that rounds inputs to bfloat16."""
    from fairway.coding import artifact
    from fairway.exact import cpu

    matmul = cpu._matmul

    def rounded(codes, linear):
        slices = [torch.from_numpy(s).bfloat16().float().numpy() for s in linear.slices]
        return matmul(
            torch.from_numpy(codes).bfloat16().float().numpy(), replace(linear, slices=slices)
        )

    opened = artifact.read(artifact_file)
    exact_model.ExactModel(opened)
    monkeypatch.setattr(cpu, "_matmul", rounded)
    with pytest.raises(BadInput, match="ONEDNN_DEFAULT_FPMATH_MODE"):
        exact_model.ExactModel(opened)


def test_constants_come_from_integers():
    """Those that floating point once made: the same numbers, by integers alone."""
    from fairway.coding import match_model
    from fairway.exact import operands
    from fairway.formats.tensors import step_sizes
    from fairway.integer_math import ONE, ln2

    powers = 2.0 ** (16 - np.arange(1024) / 64)
    assert np.array_equal(match_model._WEIGHTS, np.rint(powers))
    assert step_sizes(np.arange(4)).tolist() == [
        float(np.float32(2.0 ** (i / 4))) for i in range(4)
    ]
    assert float.hex(ONE / ln2()) == "0x1.71547652b82fep+0"
    gains = np.array([1.5, 0.1, -3], np.float32)
    for width in range(2, 257, 2):
        bits = 12 - 2 * operands._normed_bits(width)
        factor = 1.4426950408889634 / np.sqrt(width) * 2.0**bits
        expected = (gains.astype(np.float64) * factor).astype(np.float32)
        assert np.array_equal(operands._score_scales(gains, width), expected)
