"""Compress the source in a submission's script: the decoder is so short that it stands there too.

Context mixing over the bits of the bytes (Mahoney's PAQ): the last 1 to 6 bytes, the last word with
and without the byte before, and the longest match each predict a bit. The predictions are mixed in
the logistic domain, by weights that are chosen by the bits so far, the last byte and the length of
the match. Integers only, so that every machine reads the same source.

The script holds this file and the stream that `code` wrote (script.py).
"""

import math

import numpy as np

from fairway.kernels import njit

WORD = 0xFFFFFFFF
STRETCH = np.array([round(256 * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)])
SQUASH = np.array([round(65536 / (1 + math.exp(-i / 256))) for i in range(-2047, 2048)])
RATES = np.array([65536 * 2 // (2 * count + 3) for count in range(256)])


@njit(cache=True)
def code(text, stream, decoding):  # type: ignore[no-untyped-def]
    """Write text int64[N] to stream int64[M], or read it from there; return the stream's length.

    The text begins with 8 zeros, which are not written.
    """
    slow = np.full((8, 1 << 22), 1 << 15, np.uint16)  # probabilities of a 1 in a context
    fast = slow.copy()
    counts = np.zeros((8, 1 << 22), np.uint8)
    weights = np.zeros((544, 17), np.int64)  # by the bits so far; the last byte; the match
    weights[:256] = 5000
    inputs = np.zeros(17, np.int64)
    hashes = np.zeros(8, np.int64)
    places = np.zeros(8, np.int64)
    recent = np.zeros(1 << 18, np.int64)  # where the last 5 bytes stood last
    matched = np.full(32, 1 << 15)  # probabilities that a match goes on
    low = word = match = length = value = at = 0
    high = WORD
    if decoding:
        for at in range(4):
            value = value << 8 | stream[at]
        at = 4
    for i in range(8, len(text)):
        hashed = 0
        for order in range(6):
            hashed = (hashed + text[i - order - 1] + 1) * 0x2F0B4C47 & WORD
            hashed ^= hashed >> 15
            hashes[order] = hashed
        hashes[6] = word
        hashes[7] = word * 7 + text[i - 2] + 99
        expected = text[match] + 256 if length else 0
        known = 1
        for shift in range(7, -1, -1):
            for c in range(8):
                place = (hashes[c] + known * 0x9E3779B1) * 0x85EBCA6B & WORD
                place = places[c] = (place ^ place >> 15) & 0x3FFFFF
                inputs[c] = STRETCH[slow[c, place] >> 4] * (counts[c, place] > 0)
                inputs[8 + c] = STRETCH[fast[c, place] >> 4] * (counts[c, place] > 0)
            likely = expected >> shift & 1
            reach = min(length, 31) if expected >> shift + 1 == known else 0
            inputs[16] = STRETCH[matched[reach] >> 4] * (2 * likely - 1) if reach else 0
            dot = 0
            for j in range(17):
                dot += (
                    weights[known, j] + weights[256 + text[i - 1], j] + weights[512 + reach, j]
                ) * inputs[j]
            p = SQUASH[min(max(dot >> 16, -2047), 2047) + 2047]
            middle = low + ((high - low) * p >> 16)
            bit = value <= middle if decoding else text[i] >> shift & 1
            if bit:
                high = middle
            else:
                low = middle + 1
            while low >> 24 == high >> 24:
                if decoding:
                    value = (value << 8 | stream[at]) & WORD
                else:
                    stream[at] = high >> 24
                at += 1
                low = low << 8 & WORD
                high = high << 8 & WORD | 255
            error = (bit << 16) - p
            for j in range(17):
                step = error * inputs[j] >> 17
                weights[known, j] += step
                weights[256 + text[i - 1], j] += step
                weights[512 + reach, j] += step
            for c in range(8):
                place = places[c]
                count = counts[c, place]
                slow[c, place] += (bit * 65535 - slow[c, place]) * RATES[count] >> 16
                fast[c, place] += (bit * 65535 - fast[c, place]) * RATES[min(count, 2)] >> 16
                counts[c, place] = min(count + 1, 250)
            if reach:
                matched[reach] += ((bit == likely) << 16) - matched[reach] >> 6
                if bit != likely:
                    length = 0
            known = known << 1 | bit
        text[i] = known & 255
        if 47 < text[i] < 58 or 64 < text[i] < 91 or 94 < text[i] < 123:
            word = (word + text[i] + 1) * 0x2F0B4C47 & WORD >> 4
        else:
            word = 0
        match += 1
        if length:
            length += 1
        hashed = 0
        for order in range(5):
            hashed = (hashed + text[i - order] + 1) * 0x2F0B4C47 & WORD
        hashed >>= 14
        if not length:
            match = recent[hashed]
            while length < min(match, 31) and text[match - 1 - length] == text[i - length]:
                length += 1
        recent[hashed] = i + 1
    if not decoding:
        for _ in range(4):
            stream[at] = high >> 24
            high = high << 8 & WORD
            at += 1
    return at


# What only the encoder needs ---------------------------------------------------------------------

LEADING = 8  # zeros before a text


def compress(text: bytes) -> bytes:
    """Return the stream of a text's bytes."""
    padded = np.frombuffer(bytes(LEADING) + text, np.uint8).astype(np.int64)
    stream = np.zeros(2 * len(padded) + 8, np.int64)
    return bytes(stream[: code(padded, stream, False)].tolist())
