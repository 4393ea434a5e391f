"""Compress the text of a tokenizer by context mixing over the bits of its bytes.

The text is a list of pieces, joined by the byte 255. Each bit's probability is a mixture, in the
logistic domain, of what seven contexts have seen (Mahoney's PAQ): the last 0 to 4 bytes, the piece
so far, and the place in it. The mixture's weights depend on how many of the contexts are new.

Integers only, 32-bit hashes: the same bits everywhere. docs/formats.md has every constant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairway.errors import BadInput
from fairway.formats.context_mixing import learn, tables
from fairway.formats.range_coder import Coder, code_bit
from fairway.io.binary import varint
from fairway.kernels import njit

SEPARATOR = 255
MAX_BYTES = 1 << 21  # of a text: no stream takes more than some seconds
_CONTEXTS = 7
_TABLE_BITS = 18  # slots of a context
_FIRST_WEIGHT = 24_000  # 16 fractional bits
_LIMIT = 255  # how much a slot's past counts at most
_BLOCK = 1 << 12  # bytes that are coded in one call
# 32-bit multipliers of hashes: the golden ratio, two of MurmurHash3, the prime of FNV-1.
_GOLDEN, _MIX, _FINAL, _FNV, _WORD = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x01000193, 0xFFFFFFFF


def compress(text: bytes) -> bytes:
    """Return the length as a varint and the stream of the bytes' bits."""
    if len(text) > MAX_BYTES:
        raise BadInput(f"{len(text):,} bytes are too many for a tokenizer")
    coder = Coder()
    _code(coder, np.frombuffer(text, np.uint8).astype(np.int64))
    return varint(len(text)) + coder.finish()


def decompress(data: bytes) -> bytes:
    """Return the text of `compress`. Raises BadInput on any other bytes."""
    size = at = 0
    while at < len(data) and at < 4:
        size |= (data[at] & 127) << 7 * at
        at += 1
        if data[at - 1] < 128:
            break
    if size > MAX_BYTES or data[:at] != varint(size):
        raise BadInput("it is damaged: its length is no number in range")
    coder, text = Coder(data[at:]), np.zeros(size, np.int64)
    _code(coder, text)
    coder.check_end()
    return text.astype(np.uint8).tobytes()


def _code(coder: Coder, text: NDArray[np.int64]) -> None:
    """Code a text int64[N] with a fresh model; a decoder fills it in."""
    slots = np.full((_CONTEXTS, 1 << _TABLE_BITS), (1 << 21) << 10, np.int64)  # as in Contexts
    weights = np.full((_CONTEXTS + 1, _CONTEXTS), _FIRST_WEIGHT, np.int64)
    piece = np.zeros(2, np.int64)  # hash of the piece so far, and its length
    logistic, squash, _, shares, _ = tables()
    for first in range(0, len(text), _BLOCK):
        last = min(first + _BLOCK, len(text))
        coder.run_kernel(
            _code_bytes, 4 * (last - first), text, first, last, slots, weights, piece,
            logistic, squash, shares,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _code_bytes(  # type: ignore[no-untyped-def]
    state, spent, buffer, size, decoding, text, first, last, slots, weights, piece,
    logistic, squash, shares,
):  # fmt: skip
    """Code bytes first .. last - 1 of text int64[N]; other arguments as in _code."""
    hashes = np.empty(_CONTEXTS, np.int64)
    places = np.empty(_CONTEXTS, np.int64)
    inputs = np.empty(_CONTEXTS, np.int64)
    for i in range(first, last):
        word = np.int64(0)  # of the last bytes
        hashes[0] = 0
        for order in range(1, 5):
            before = text[i - order] if i >= order else SEPARATOR
            word |= before << 8 * (order - 1)
            hashes[order] = word
        hashes[5], hashes[6] = piece[0], piece[1]
        for c in range(_CONTEXTS):
            hashes[c] = (hashes[c] + c) * _GOLDEN & _WORD
        known = np.int64(1)  # the byte's bits so far, after a 1
        for shift in range(7, -1, -1):
            seen, dot = np.int64(0), np.int64(0)
            for c in range(_CONTEXTS):
                hashed = (hashes[c] ^ (known * _MIX & _WORD)) * _FINAL & _WORD
                places[c] = hashed >> (32 - _TABLE_BITS)
                slot = slots[c, places[c]]
                inputs[c] = logistic[slot >> 20] if slot & 1023 else 0
                seen += (slot & 1023) > 0
            mixture = weights[seen]
            for c in range(_CONTEXTS):
                dot += mixture[c] * inputs[c]
            p = squash[min(max(dot >> 16, np.int64(-2047)), np.int64(2047)) + 2048]
            bit = code_bit(state, buffer, size, p, text[i] >> shift & 1, decoding)
            error = (bit << 16) - p
            for c in range(_CONTEXTS):
                mixture[c] += (inputs[c] * error + (1 << 13)) >> 14
                learn(slots[c], places[c], bit, shares, _LIMIT)
            known = known << 1 | bit
        byte = text[i] = known & 255
        if byte == SEPARATOR:
            piece[0] = piece[1] = 0
        else:
            piece[0] = (piece[0] ^ (byte + 1)) * _FNV & _WORD
            piece[1] += 1
    return 0
