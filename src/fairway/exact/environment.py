"""The floating-point environment of exact arithmetic, set and checked wherever it computes.

IEEE-754 leaves two things to the program. Whether results round to the nearest number, and whether
subnormal numbers are flushed to zero, belongs to a thread: any library may have changed it, and a
new thread inherits it from the one that started it. Whether products of float32 matrices may be
computed in fewer bits belongs to the process, and to the library. The first two are set here. The
last is put back where torch lets it be, and tried out: a product of integers shows it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
import torch

from fairway.errors import BadInput

_ENV_BYTES = 512  # more than any fenv_t
_TO_NEAREST = 0  # FE_TONEAREST, on every system


@contextmanager
def ieee() -> Iterator[None]:
    """Inside, this thread has the environment that exact arithmetic needs. Also a decorator."""
    library, before = _library(), (ctypes.c_byte * _ENV_BYTES)()
    if library:
        library.fegetenv(before)
    settle()
    try:
        yield
    finally:
        if library:
            library.fesetenv(before)


def settle() -> None:
    """Give this thread that environment, for good: what every thread of ours begins with."""
    if library := _library():
        library.fesetround(_TO_NEAREST)
    torch.set_flush_denormal(False)


def check() -> None:
    """Raise BadInput that says in what this thread's environment is not as it should be."""
    one, half, ulp = (np.full(4, x, np.float32) for x in (1, 2.0**-24, 2.0**-23))
    ties = np.rint(np.array([0.5, 1.5, -0.5, -1.5], np.float32))
    rounds = (one + half == 1).all() and (one + 3 * half == 1 + 2 * ulp).all()
    rounds &= (-one - half == -1).all() and ties.tolist() == [0, 2, 0, -2]
    if not rounds:
        raise _refused("rounds numbers in another direction than to the nearest", "fesetround")
    smallest, normal = (np.full(4, x, np.float32) for x in (2.0**-149, 2.0**-126))
    if not ((normal * np.float32(0.5) > 0).all() and (smallest * np.float32(2.0**30) > 0).all()):
        raise _refused("flushes subnormal numbers to zero", "set_flush_denormal, -ffast-math")
    if not multiplies():
        with suppress(RuntimeError):  # torch refuses where its old and new settings are mixed
            torch.set_float32_matmul_precision("highest")
        if not multiplies():
            raise inexact("this process")


def multiplies() -> bool:
    """Whether products of float32 matrices are exact where every partial sum is an integer."""
    rows, weights = _integers(33, 256), _integers(48, 256)
    exact = rows.astype(np.int64) @ weights.T.astype(np.int64)
    for first in (0, 32):  # libraries have other code for a single row
        found = torch.mm(torch.from_numpy(rows[first:]), torch.from_numpy(weights).t())
        if found.dtype != torch.float32 or not np.array_equal(found.numpy(), exact[first:]):
            return False
    return True


def inexact(what: str) -> BadInput:
    """To be raised where a product of integers was not exact."""
    return BadInput(
        f"{what} multiplies float32 matrices inexactly, so exact arithmetic cannot be computed: "
        "take back what asks for fewer bits (torch.set_float32_matmul_precision, TF32, "
        "ONEDNN_DEFAULT_FPMATH_MODE, autocast)"
    )


def _refused(problem: str, culprit: str) -> BadInput:
    return BadInput(
        f"this process {problem}, so exact arithmetic cannot be computed: a library that it loads "
        f"has set this ({culprit}) and it cannot be taken back"
    )


@cache
def _integers(rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32[rows, columns] of nine bits: a product's sums stay under 2^24."""
    numbers = np.arange(rows * columns).reshape(rows, columns)
    return (numbers * 7919 % 509 - 254).astype(np.float32)


@cache
def _library() -> Any:
    """C's <fenv.h>; None on a system that has it elsewhere."""
    for name in (None, ctypes.util.find_library("m")):
        with suppress(OSError, AttributeError, TypeError):
            library = ctypes.CDLL(name)
            if library.fegetenv and library.fesetenv and library.fesetround:
                return library
    return None
