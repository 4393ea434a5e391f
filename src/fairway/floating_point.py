"""Set and check the floating-point environment that exact arithmetic needs.

IEEE-754 leaves two choices to the program, and both belong to a thread: the direction of rounding,
and whether subnormal numbers are flushed to zero. Any library may have changed them, and a new
thread inherits them from the thread that started it. `set_ieee` sets both.

A third choice belongs to the process: a library may multiply float32 matrices in fewer bits (TF32,
bfloat16). `check` asks torch for all bits, and multiplies integers to see whether it obeys. To
read an artifact takes the first two choices only, and no torch.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np

from fairway.errors import BadInput

_ENV_BYTES = 512  # more than the size of any fenv_t
_TO_NEAREST = 0  # FE_TONEAREST, on every system


@contextmanager
def ieee() -> Iterator[None]:
    """Give this thread the IEEE-754 default inside the block. Can be used as a decorator."""
    library, before = _library(), (ctypes.c_byte * _ENV_BYTES)()
    if library:
        library.fegetenv(before)
    set_ieee()
    try:
        yield
    finally:
        if library:
            library.fesetenv(before)


def set_ieee() -> None:
    """Let this thread round to nearest and keep subnormal numbers, until something changes it."""
    if library := _library():
        library.fesetround(_TO_NEAREST)
    if not _keeps_subnormals():
        import torch

        torch.set_flush_denormal(False)


def check() -> None:
    """Raise BadInput if this thread or process cannot compute exact arithmetic."""
    one, half, ulp = (np.full(4, x, np.float32) for x in (1, 2.0**-24, 2.0**-23))
    ties = np.rint(np.array([0.5, 1.5, -0.5, -1.5], np.float32))
    rounds = (one + half == 1).all() and (one + 3 * half == 1 + 2 * ulp).all()
    rounds &= (-one - half == -1).all() and ties.tolist() == [0, 2, 0, -2]
    if not rounds:
        raise _refused("rounds numbers in another direction than to the nearest", "fesetround")
    if not _keeps_subnormals():
        raise _refused("flushes subnormal numbers to zero", "set_flush_denormal, -ffast-math")
    if not multiplies_exactly():
        import torch

        with suppress(RuntimeError):  # torch refuses to mix its old and its new settings
            torch.set_float32_matmul_precision("highest")
        if not multiplies_exactly():
            raise inexact_matmul("this process")


def _keeps_subnormals() -> bool:
    smallest, normal = (np.full(4, x, np.float32) for x in (2.0**-149, 2.0**-126))
    return bool((normal * np.float32(0.5) > 0).all() and (smallest * np.float32(2.0**30) > 0).all())


def multiplies_exactly() -> bool:
    """Return whether float32 matmuls are exact where every partial sum is an integer < 2^24."""
    import torch

    rows, weights = _integers(33, 256), _integers(48, 256)
    exact = rows.astype(np.int64) @ weights.T.astype(np.int64)
    for first in (0, 32):  # libraries have other code for a single row
        product = torch.mm(torch.from_numpy(rows[first:]), torch.from_numpy(weights).t())
        if product.dtype != torch.float32 or not np.array_equal(product.numpy(), exact[first:]):
            return False
    return True


def inexact_matmul(where: str) -> BadInput:
    """Return the error to raise where a matmul of integers was not exact."""
    return BadInput(
        f"{where} multiplies float32 matrices inexactly, so exact arithmetic cannot be computed: "
        "take back what asks for fewer bits (torch.set_float32_matmul_precision, TF32, "
        "NVIDIA_TF32_OVERRIDE, ONEDNN_DEFAULT_FPMATH_MODE, autocast)"
    )


def _refused(problem: str, culprit: str) -> BadInput:
    return BadInput(
        f"this process {problem}, so exact arithmetic cannot be computed: a library that it loads "
        f"has set this ({culprit}) and it cannot be taken back"
    )


@cache
def _integers(rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return float32[rows, columns] of nine-bit integers, so that a matmul's sums stay < 2^24."""
    numbers = np.arange(rows * columns).reshape(rows, columns)
    return (numbers * 7919 % 509 - 254).astype(np.float32)


@cache
def _library() -> Any:
    """Return the library with C's <fenv.h>, or None on a system that has it elsewhere."""
    for name in (None, ctypes.util.find_library("m")):
        with suppress(OSError, AttributeError, TypeError):
            library = ctypes.CDLL(name)
            if library.fegetenv and library.fesetenv and library.fesetround:
                return library
    return None
