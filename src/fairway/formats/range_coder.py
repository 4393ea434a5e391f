"""Code symbols under integer frequencies: one function for both directions, integers only.

Range coding (G. N. N. Martin 1979) with a 64-bit low and span, renormalised byte by byte, carries
added into the bytes already written. The stream is a number in [0, 1) in base 256; every symbol
narrows the interval [low, low + span) that holds it. The span stays at or above 2^56, so that its
division into 2^30 parts loses less than 2^-25 bits per symbol.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairway.errors import BadInput
from fairway.kernels import njit

TOTAL_BITS = 30
TOTAL = 1 << TOTAL_BITS
_WORD = 1 << 64
_TOP = 1 << 56
_BYTES_PER_SYMBOL = 4  # at most: a frequency of 1 takes 30 bits

# The kernel's constants are uint64: numba turns a mixture of int64 and uint64 into float64.
_U0, _U8, _U16, _U56 = np.uint64(0), np.uint64(8), np.uint64(16), np.uint64(56)
_U30 = np.uint64(TOTAL_BITS)
_UTOP, _UTOTAL = np.uint64(_TOP), np.uint64(TOTAL)


class Coder:
    """An encoder, `Coder()`, or a decoder, `Coder(data)`, of one stream.

    The caller gives both the same cumulative frequencies; they differ in who knows the symbols.
    A decoder never fails on damaged data: past the end it reads zeros, and what it returns is in
    range, right or wrong. `check_end` says whether the stream was exactly these symbols.
    """

    def __init__(self, data: bytes | None = None) -> None:
        self.decoding = data is not None
        stream = data or b""
        self._size = len(stream)  # of what a decoder reads
        self._buffer = np.frombuffer(stream or bytes(64), np.uint8).copy()
        # low (in a decoder: stream - low), span, position in the buffer
        self._state = np.array([0, _WORD - 1, 0], np.uint64)
        self._bits = np.zeros(1)
        if self.decoding:
            self._state[0] = int.from_bytes(stream[:8].ljust(8, b"\0"), "big")
            self._state[2] = 8

    @property
    def ideal_bits(self) -> float:
        """Return the sum of -log2(frequency / 2^30) over the symbols coded so far."""
        return float(self._bits[0])

    def code(
        self, cumulative: NDArray[np.int64], symbols: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Code one symbol per row, in order.

        cumulative: int64[n, V+1], C-contiguous; each row rises strictly from 0 to 2^30.
        symbols: int64[n] in 0..V-1 to encode, None to decode. Returns the symbols, int64[n].
        Raises ValueError when a row or a symbol breaks these rules.
        """
        count = len(cumulative)
        if (symbols is None) != self.decoding or (symbols is not None and len(symbols) != count):
            raise ValueError("an encoder takes one symbol per row, a decoder takes None")
        if symbols is None:
            symbols = np.empty(count, np.int64)
        else:
            self._reserve(count * _BYTES_PER_SYMBOL)
        rows = np.ascontiguousarray(cumulative, np.int64).view(np.uint64)
        state, buffer = self._state, self._buffer
        bad = _code(state, self._bits, buffer, self._size, rows, symbols, self.decoding)
        if bad >= 0:
            raise ValueError(f"row {bad}: symbol or cumulative frequencies out of range")
        return symbols

    def code_intervals(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Encode symbols in order, of which only the entries in their tables are known.

        int64[n] each, 0 <= start < stop <= 2^30. Raises ValueError when one breaks this rule.
        """
        if self.decoding:
            raise ValueError("only an encoder knows its symbols")
        self._reserve(len(starts) * _BYTES_PER_SYMBOL)
        if _code_intervals(self._state, self._bits, self._buffer, starts, stops):
            raise ValueError("an interval is out of range")

    def run_kernel(self, kernel: Callable[..., int], symbols: int, *arguments: Any) -> int:
        """Let a compiled function code at most `symbols` symbols or bits with this coder.

        It is called as kernel(state, bits, buffer, size, decoding, *arguments) and uses `narrow`
        or `code_bit`; `bits` is where it adds up -log2 of the probabilities.
        """
        if not self.decoding:
            self._reserve(symbols * _BYTES_PER_SYMBOL)
        return kernel(self._state, self._bits, self._buffer, self._size, self.decoding, *arguments)

    def finish(self) -> bytes:
        """Return the stream: the fewest bytes that, padded with zeros, decode to the symbols."""
        low, span, written = (int(x) for x in self._state)
        stream = self._buffer[:written].copy()
        value = _shortest(low, span)
        if value >= _WORD:
            _carry(stream, written)
        return (stream.tobytes() + (value % _WORD).to_bytes(8, "big")).rstrip(b"\0")

    def check_end(self) -> None:
        """Raise BadInput unless the decoder's stream is what an encoder of these symbols writes."""
        offset, span, read = (int(x) for x in self._state)
        window = self._buffer[max(read - 8, 0) : min(read, self._size)].tobytes()
        value = int.from_bytes(window.ljust(8, b"\0"), "big")
        low = (value - offset) % _WORD
        spare = self._size > read or (self._size > 0 and self._buffer[self._size - 1] == 0)
        if spare or _shortest(low, span) % _WORD != value:
            raise BadInput(
                f"the coded stream of {self._size} bytes does not end where its symbols end: "
                "it is damaged, restore it from its source"
            )

    def _reserve(self, more: int) -> None:
        """Make room for `more` bytes; doubling keeps the cost per byte constant."""
        needed = int(self._state[2]) + more
        if needed > len(self._buffer):
            grown = np.zeros(max(needed, 2 * len(self._buffer)), np.uint8)
            grown[: len(self._buffer)] = self._buffer
            self._buffer = grown


def _shortest(low: int, span: int) -> int:
    """Return the number in [low, low + span) with the most zero bytes at its low end.

    May be 2^64, a carry. As span >= 2^56, all but its first byte are always zero.
    """
    return next(v for unit in (_WORD, _TOP) if (v := -(-low // unit) * unit) < low + span)


@njit(cache=True, nogil=True)
def _carry(buffer, position):  # type: ignore[no-untyped-def]
    """Add 1 to the number that ends before `position`."""
    position -= 1
    while buffer[position] == 255:
        buffer[position] = 0
        position -= 1
    buffer[position] += 1


@njit(cache=True, nogil=True)
def _find(row, value):  # type: ignore[no-untyped-def]
    """Return the symbol s with row[s] <= value < row[s + 1]."""
    first, last = 0, len(row) - 1
    while last - first > 1:
        middle = (first + last) >> 1
        if row[middle] <= value:
            first = middle
        else:
            last = middle
    return first


@njit(cache=True, nogil=True)
def narrow(state, buffer, size, start, width, decoding):  # type: ignore[no-untyped-def]
    """Keep [start, start + width) of the interval, uint64 in units of 2^-64; move whole bytes."""
    low, span, position = state[0], width, np.int64(state[2])
    if decoding:
        low -= start
    else:
        low += start
        if low < start:
            _carry(buffer, position)
    while span < _UTOP:
        if not decoding:
            buffer[position] = low >> _U56
        low <<= _U8
        span <<= _U8
        if decoding and position < size:
            low |= np.uint64(buffer[position])
        position += 1
    state[0], state[1], state[2] = low, span, position


@njit(cache=True, nogil=True)
def code_bit(state, buffer, size, p, bit, decoding):  # type: ignore[no-untyped-def]
    """Code one bit, 1 with probability p / 2^16, 0 < p < 2^16; the interval of 1 is the lower."""
    bound = (state[1] >> _U16) * np.uint64(p)
    if decoding:
        bit = np.int64(state[0] < bound)
    if bit == 1:
        narrow(state, buffer, size, _U0, bound, decoding)
    else:
        narrow(state, buffer, size, bound, state[1] - bound, decoding)
    return bit


@njit(cache=True, nogil=True)
def _code_intervals(state, bits, buffer, starts, stops):  # type: ignore[no-untyped-def]
    """Encode intervals int64[n]; return whether one was out of range."""
    for i in range(len(starts)):
        start, stop = starts[i], stops[i]
        if start < 0 or start >= stop or stop > TOTAL:
            return True
        unit = state[1] >> _U30
        bits[0] += TOTAL_BITS - log2(stop - start)
        narrow(state, buffer, 0, unit * np.uint64(start), unit * np.uint64(stop - start), False)
    return False


@njit(cache=True, nogil=True)
def _code(state, bits, buffer, size, tables, symbols, decoding):  # type: ignore[no-untyped-def]
    """Code symbols[i] under tables[i]; return the first bad row's index, or -1.

    state: uint64[3], bits: float64[1], buffer: uint8, tables: uint64[n, V+1], symbols: int64[n].
    """
    alphabet = tables.shape[1] - 1
    for i in range(len(symbols)):
        row = tables[i]
        unit = state[1] >> _U30
        if decoding:
            symbols[i] = _find(row, min(state[0] // unit, _UTOTAL - np.uint64(1)))
        symbol = symbols[i]
        if symbol < 0 or symbol >= alphabet:
            return i
        start, stop = row[symbol], row[symbol + 1]
        if start >= stop or stop > _UTOTAL:
            return i
        bits[0] += TOTAL_BITS - log2(stop - start)
        narrow(state, buffer, size, unit * start, unit * (stop - start), decoding)
    return -1
