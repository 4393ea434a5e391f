"""The compressor of a script's source: what it writes is read back, the same everywhere."""

import math
import random

import numpy as np
import pytest

from fairway.challenge import squeeze


@pytest.mark.parametrize(
    "text",
    [b"", b"a", bytes(range(256)), b"ab" * 5000, random.Random(1).randbytes(3000)],
    ids=["empty", "letter", "bytes", "periodic", "noise"],
)
def test_any_bytes_come_back(text):
    stream = squeeze.compress(text)
    again = np.zeros(len(text) + squeeze.LEADING, np.int64)
    read = squeeze.code(again, np.frombuffer(stream, np.uint8).astype(np.int64), True)
    assert bytes(again[squeeze.LEADING :].tolist()) == text
    assert read == len(stream)
    assert len(stream) < 1.1 * len(text) + 8


def test_source_takes_a_fifth_of_its_bytes():
    with open(squeeze.__file__, "rb") as file:
        source = file.read() * 2
    assert len(squeeze.compress(source)) < len(source) / 5


def test_no_entry_of_a_table_depends_on_the_last_bit_of_a_logarithm():
    """Libraries of mathematics differ there: an entry near a half might be rounded both ways."""
    exact = [256 * math.log((i + 0.5) / (4095.5 - i)) for i in range(4096)]
    exact += [65536 / (1 + math.exp(-i / 256)) for i in range(-2047, 2048)]
    away = [abs(value - math.floor(value) - 0.5) for value in exact]
    assert min(away) > 1e-6
