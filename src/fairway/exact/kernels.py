"""Every exact operation, compiled for the CPU. docs/exact.md says what each computes and its range.

Two rules make the results the same on every machine: whatever is summed is an integer, and every
floating-point operation is one IEEE product (or a rounding, or a conversion) of float32 numbers,
whose result is never added to anything before it has become an integer. So neither the order of
sums nor fused multiply-add can matter. `_dots` and `_weighted` may be reordered: their sums are
exact in any order.

Legend: N rows (tokens), d width, h head width, C slots of a ring of keys.
"""

from __future__ import annotations

import math

import numpy as np

from fairway.exact.operands import (
    CAP_BITS,
    CAP_REACH,
    CAP_STEP_BITS,
    EXPONENT_BITS,
    GATE_BITS,
    HEAD_INPUT_BITS,
    NORMED_BITS,
    ROTARY_BITS,
    WEIGHT_BITS,
)
from fairway.floating_point import ieee
from fairway.formats.range_coder import TOTAL
from fairway.kernels import njit

LARGEST_BITS = 28
LARGEST = 1 << LARGEST_BITS  # magnitude of a residual; beyond, its row's exponent rises
HUGE = np.float32(2.0**100)  # magnitude of what is added to one; beyond, it saturates
HUGE_ROOT = np.float32(2.0**50)
HEAD_INPUT = (1 << HEAD_INPUT_BITS) - 1
POWERS = np.ldexp(np.float32(1), np.arange(-127, 128)).astype(np.float32)  # [e + 127] = 2^e
with ieee():  # a module may be imported in any environment
    HEAD_SCALES = (HEAD_INPUT * 8 / np.arange(9, 17)).astype(np.float32)
SINK = np.float32(2.0**-100)  # what is smaller counts as zero
SHARE_BITS = 16  # fraction bits of how much of a value is in what attention found
LOG2 = (45313, 15110, 2565)  # 2^-x = 1 - x·(a - x·(b - x·c)), 16 bits, within 1.6e-4
_A, _B, _C = (np.int32(c) for c in LOG2)
_CAP_END = (CAP_REACH << CAP_BITS) - 1
_SMALLEST_BITS = 27 << 23  # of a float32 of 2^-100


@njit(cache=True, nogil=True, inline="always")
def _exponent(largest):  # type: ignore[no-untyped-def]
    """(e + 127, t) with 2^e·(8+t)/8 ≤ x < 2^e·(9+t)/8, from the bits of x > 0."""
    return largest >> 23, largest >> 20 & 7


@njit(cache=True, nogil=True)
def _quantize(a, bits, scales, inverses, powers, codes):  # type: ignore[no-untyped-def]
    """codes = rint(a · s) with the s of a's largest magnitude; returns 1 / s, or 0 for zeros.

    `bits` is the same memory as a, as int32: magnitudes compare like their bits.
    """
    n = a.shape[0]
    largest = np.int32(0)
    for j in range(n):
        largest = max(largest, np.int32(bits[j] & 0x7FFFFFFF))
    if largest < _SMALLEST_BITS:
        codes[:] = np.float32(0)
        return np.float32(0)
    e, t = _exponent(largest)
    s = scales[t] * powers[254 - e]
    for j in range(n):
        codes[j] = np.rint(a[j] * s)
    return inverses[t] * powers[e]


@njit(cache=True, nogil=True)
def _inverse_root(total, count, powers):  # type: ignore[no-untyped-def]
    """1 / sqrt(total / count) as a float32 with 24 bits, by integers; total < 2^62."""
    mean = max(total // count, np.int64(1))
    bits = np.int64(0)
    while mean >> bits:
        bits += 1
    t = np.int64(0)  # mean · 4^t gets 51 or 52 bits
    if bits < 51:
        t = (52 - bits) >> 1
        v = mean << (t << 1)
    elif bits > 52:
        t = -((bits - 51) >> 1)
        v = mean >> -(t << 1)
    else:
        v = mean
    root = np.int64(np.sqrt(np.float64(v)))
    while root * root > v:
        root -= 1
    while (root + 1) * (root + 1) <= v:
        root += 1
    return np.float32((np.int64(1) << 50) // root) * powers[127 + t - 50]


@njit(cache=True, nogil=True)
def _inverse_rms(row, powers):  # type: ignore[no-untyped-def]
    """1 / sqrt(mean(x²)) of int32 x, |x| ≤ 2^30."""
    largest = np.int32(0)
    for j in range(row.shape[0]):
        largest = max(largest, np.int32(abs(row[j])))
    shift = np.int32(0)
    while largest >> shift >> 24:
        shift += 1
    total = np.int64(0)
    for j in range(row.shape[0]):
        y = np.int64(row[j] >> shift)
        total += y * y
    return _inverse_root(total, np.int64(row.shape[0]), powers) * powers[127 - shift]


@njit(cache=True, nogil=True, inline="always")
def _fixed(t):  # type: ignore[no-untyped-def]
    """float32 → int32 by rint, saturated."""
    low, high = np.float32(-LARGEST), np.float32(LARGEST)
    return np.int32(np.rint(min(max(t, low), high)))


@njit(cache=True, nogil=True)
def table_input(rows, codes, row_scales, columns, scales, inverses, powers, a, out, tok):  # type: ignore[no-untyped-def]
    """Rows of a table of codes as the input of its projection."""
    bits = a.view(np.int32)
    for r in range(rows.shape[0]):
        row = codes[rows[r]]
        for j in range(a.shape[0]):
            a[j] = row[j] * columns[j]
        inverse = _quantize(a, bits, scales, inverses, powers, out[r])
        tok[r] = inverse * row_scales[rows[r]]


@njit(cache=True, nogil=True)
def _add_row(x, e, t, bits, powers):  # type: ignore[no-untyped-def]
    """x · 2^e += t, a row of int32 and of float32, which may be changed; returns the new e.

    `bits` is the same memory as t, as int32.
    """
    largest = np.int32(0)
    for i in range(x.shape[0]):
        t[i] = min(max(t[i], -HUGE), HUGE)
        largest = max(largest, np.int32(bits[i] & 0x7FFFFFFF))
    raised = max(np.int32(e), np.int32((largest >> 23) - 126 - LARGEST_BITS))
    shift = np.int32(min(raised - e, 31))
    if shift > 0:
        half = np.int32(1 << shift - 1)
        for i in range(x.shape[0]):
            x[i] = np.int32(x[i] + half) >> shift
    factor = powers[127 - raised]
    top = np.int32(0)
    for i in range(x.shape[0]):
        x[i] = np.int32(x[i] + np.int32(np.rint(t[i] * factor)))
        top = max(top, np.int32(abs(x[i])))
    if top > LARGEST:
        for i in range(x.shape[0]):
            x[i] = np.int32(x[i] + 1) >> 1
        raised = np.int32(raised + 1)
    return raised


@njit(cache=True, nogil=True)
def add_scaled(x, e, acc, rows, tok, t, powers):  # type: ignore[no-untyped-def]
    """x · 2^e += acc · rows · tok: what a product adds to the residual stream."""
    bits = t.view(np.int32)
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            t[i] = acc[r, i] * rows[i] * tok[r]
        e[r] = _add_row(x[r], e[r], t, bits, powers)


@njit(cache=True, nogil=True)
def normalize(x, bits_of_one, powers):  # type: ignore[no-untyped-def]
    """x ← rint(x / rms(x) · 2^bits_of_one), row by row."""
    for r in range(x.shape[0]):
        n = _inverse_rms(x[r], powers) * powers[127 + bits_of_one]
        for i in range(x.shape[1]):
            x[r, i] = _fixed(np.float32(x[r, i]) * n)


@njit(cache=True, nogil=True)
def smear(x, before, alone, gate, out):  # type: ignore[no-untyped-def]
    """out = x + rint(gate · (before - x)); x itself where there is nothing before."""
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            move = np.int32(0) if alone[r] else np.int32(before[r, i] - x[r, i])
            out[r, i] = x[r, i] + _fixed(np.float32(move) * gate[i])


@njit(cache=True, nogil=True, inline="always")
def _looked_up(t, table):  # type: ignore[no-untyped-def]
    """A multiple of tanh(t / 2^CAP_BITS) between the entries of its table, int64."""
    u = np.int32(np.rint(min(max(t, np.float32(-_CAP_END)), np.float32(_CAP_END))))
    fraction = (1 << CAP_STEP_BITS) - 1
    size = abs(u)
    entry = table[size >> CAP_STEP_BITS]
    step = entry & 0xFFFFFFFF
    c = (entry >> 32) + ((step * (size & fraction) + (fraction + 1 >> 1)) >> CAP_STEP_BITS)
    return c if u >= 0 else -c


@njit(cache=True, nogil=True, inline="always")
def _gate(t, table):  # type: ignore[no-untyped-def]
    """σ(2t / 2^CAP_BITS) · 2^GATE_BITS in float32."""
    return np.float32(np.int64(1 << GATE_BITS - 1) + _looked_up(t, table))


@njit(cache=True, nogil=True)
def smear_gated(x, before, alone, acc, rows, tok, table, strength, out):  # type: ignore[no-untyped-def]
    """out = x + rint(gate · strength · before); x itself where there is nothing before."""
    for r in range(x.shape[0]):
        gate = _gate(acc[r, 0] * rows[0] * tok[r], table) * strength
        for i in range(x.shape[1]):
            move = np.int32(0) if alone[r] else np.int32(before[r, i])
            out[r, i] = x[r, i] + _fixed(np.float32(move) * gate)


@njit(cache=True, nogil=True)
def gate_heads(acc, rows, tok, table, powers, y):  # type: ignore[no-untyped-def]
    """y [N, H·h] times each head's gate, of acc [N, H]."""
    h = y.shape[1] // acc.shape[1]
    for r in range(y.shape[0]):
        for k in range(acc.shape[1]):
            g = _gate(acc[r, k] * rows[k] * tok[r], table) * powers[127 - GATE_BITS]
            for i in range(k * h, k * h + h):
                y[r, i] = y[r, i] * g


@njit(cache=True, nogil=True)
def _exclude(total, value, slot):  # type: ignore[no-untyped-def]
    """total ← total - (total · v / v · v) v, v the value in a slot: integers in float32."""
    h = total.shape[0]
    along, square = np.int64(0), np.int64(0)
    for i in range(h):
        code = np.int64(value[i, slot])
        along += np.int64(total[i]) * code
        square += code * code
    if square == 0:
        return
    share = (along << SHARE_BITS) // square
    for i in range(h):
        part = (share * np.int64(value[i, slot]) + (1 << SHARE_BITS - 1)) >> SHARE_BITS
        total[i] = np.float32(np.int64(total[i]) - part)


@njit(cache=True, nogil=True)
def mix(x, e, x0, factors, skip, skipped, skipped_e, t, powers):  # type: ignore[no-untyped-def]
    """x ← m₀·(x + w·skipped) + m₁·x0, each product rounded; no skip where `skip` is empty."""
    bits = t.view(np.int32)
    for r in range(x.shape[0]):
        if skip.shape[0] > 0:
            for i in range(x.shape[1]):
                t[i] = np.float32(skipped[r, i]) * skip[i] * powers[127 + skipped_e[r]]
            e[r] = _add_row(x[r], e[r], t, bits, powers)
        for i in range(x.shape[1]):
            t[i] = np.float32(x[r, i]) * factors[0, i] * powers[127 + e[r]]
            x[r, i] = 0
        e[r] = _add_row(x[r], 0, t, bits, powers)
        for i in range(x.shape[1]):
            t[i] = np.float32(x0[r, i]) * factors[1, i]
        e[r] = _add_row(x[r], e[r], t, bits, powers)


@njit(cache=True, nogil=True)
def norm_input(x, columns, scales, inverses, powers, a, codes, tok):  # type: ignore[no-untyped-def]
    """x / rms(x) as the input of a product: codes [N, d] and per row the scale of its result."""
    bits = a.view(np.int32)
    for r in range(x.shape[0]):
        n = _inverse_rms(x[r], powers)
        for j in range(x.shape[1]):
            a[j] = np.float32(x[r, j]) * columns[j]
        inverse = _quantize(a, bits, scales, inverses, powers, codes[r])
        tok[r] = inverse * n


@njit(cache=True, nogil=True)
def input_of(y, columns, scales, inverses, powers, codes, tok):  # type: ignore[no-untyped-def]
    """y [N, n] as the input of a product; y is overwritten."""
    for r in range(y.shape[0]):
        a = y[r]
        for j in range(a.shape[0]):
            a[j] = a[j] * columns[j]
        tok[r] = _quantize(a, a.view(np.int32), scales, inverses, powers, codes[r])


@njit(cache=True, nogil=True)
def relu_squared(acc, rows, tok):  # type: ignore[no-untyped-def]
    """acc ← relu(acc · rows · tok)²."""
    for r in range(acc.shape[0]):
        for i in range(acc.shape[1]):
            t = min(max(acc[r, i] * rows[i] * tok[r], np.float32(0)), HUGE_ROOT)
            acc[r, i] = t * t


@njit(cache=True, nogil=True)
def leaky_squared(acc, rows, tok):  # type: ignore[no-untyped-def]
    """acc ← max(z, z/2)², z = acc · rows · tok."""
    for r in range(acc.shape[0]):
        for i in range(acc.shape[1]):
            t = min(max(acc[r, i] * rows[i] * tok[r], -HUGE_ROOT), HUGE_ROOT)
            t = max(t, t * np.float32(0.5))
            acc[r, i] = t * t


@njit(cache=True, nogil=True)
def angles(positions, turns, cosines, sines, shift, cos, sin):  # type: ignore[no-untyped-def]
    """Cosines and sines of positions [N] for every pair of a head, [N, h/2]."""
    half = np.uint64(1) << np.uint64(shift - 1)
    for r in range(positions.shape[0]):
        for j in range(turns.shape[0]):
            turn = np.uint64(positions[r]) * turns[j] + half
            k = np.int64(turn >> np.uint64(shift))
            cos[r, j], sin[r, j] = cosines[k], sines[k]


@njit(cache=True, nogil=True)
def _rotated_head(acc, rows, u, cos, sin, bits, head_scales, powers, out):  # type: ignore[no-untyped-def]
    """A head's query or key: normalised, rotated, with `bits` fraction bits."""
    h = acc.shape[0]
    largest = np.float32(0)
    for i in range(h):
        largest = max(largest, abs(acc[i] * rows[i]))
    if largest < SINK:
        out[:] = 0
        return
    mantissa, e = math.frexp(largest)  # largest = mantissa · 2^e, mantissa in [1/2, 1)
    s = head_scales[np.int64(mantissa * 16) - 8] * powers[128 - e]
    total = np.int64(0)
    for i in range(h):
        u[i] = np.int32(np.rint(acc[i] * rows[i] * s))
        total += np.int64(u[i]) * np.int64(u[i])
    n = _inverse_root(total, np.int64(h), powers) * np.float32(1 << NORMED_BITS)
    for i in range(h):
        u[i] = np.int32(np.rint(np.float32(u[i]) * n))
    shift = NORMED_BITS + ROTARY_BITS - bits
    half = np.int32(1 << shift - 1)
    for j in range(h // 2):
        a, b, c, s1 = u[j], u[j + h // 2], cos[j], sin[j]
        out[j] = np.float32((a * c + b * s1 + half) >> shift)
        out[j + h // 2] = np.float32((b * c - a * s1 + half) >> shift)


@njit(cache=True, nogil=True)
def heads(  # type: ignore[no-untyped-def]
    acc, rows, tok, H, G, lanes, first, cos, sin, bits, largest_value,
    head_scales, powers, queries, keys, values, units,
):  # fmt: skip
    """Split acc [N, (H+2G)·h] into queries [N, H, h] and the rings' new keys and values.

    Row r belongs to lane r // S at the position first + r % S, in the slot of that modulo C.
    """
    N, h, C = acc.shape[0], queries.shape[2], keys.shape[3]
    S = N // lanes
    u, key = np.empty(h, np.int32), np.empty(h, np.float32)
    for r in range(N):
        b, slot = r // S, (first + r % S) % C
        for k in range(H + G):
            at = k * h
            out = queries[r, k] if k < H else key
            _rotated_head(
                acc[r, at : at + h], rows[at : at + h], u, cos[r], sin[r], bits, head_scales,
                powers, out,
            )  # fmt: skip
            if k >= H:
                for i in range(h):
                    keys[b, k - H, i, slot] = np.int16(key[i])
        for k in range(G):
            at = (H + G + k) * h
            for i in range(h):
                key[i] = acc[r, at + i] * rows[at + i] * tok[r]
            largest = np.float32(0)
            for i in range(h):
                largest = max(largest, abs(key[i]))
            if largest < SINK:
                values[b, k, :, slot] = 0
                units[b, k, slot] = SINK
                continue
            _, e = math.frexp(largest)
            e -= 8  # codes up to 256
            if largest * powers[127 - e] > largest_value:
                e += 1
            for i in range(h):
                values[b, k, i, slot] = np.int16(np.rint(key[i] * powers[127 - e]))
            units[b, k, slot] = powers[127 + e]


@njit(cache=True, nogil=True, inline="always")
def _power(d):  # type: ignore[no-untyped-def]
    """2^-x · 2^16, x the fraction of d ≥ 0 with EXPONENT_BITS."""
    f = np.int32(d & 4095)
    x = np.int32(_B - np.int32(np.int32(f * _C) >> 12))
    x = np.int32(_A - np.int32(np.int32(f * x) >> 12))
    return np.int32(65536 - np.int32(np.int32(f * x) >> 12))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _dots(query, keys, first, out):  # type: ignore[no-untyped-def]
    """out[k] = query · keys[:, first + k]: integers in float32, exact in any order."""
    n, h = out.shape[0], query.shape[0]
    last = first + n
    out[:] = np.float32(0)
    for i in range(0, h - 3, 4):
        q0, q1, q2, q3 = query[i], query[i + 1], query[i + 2], query[i + 3]
        k0, k1 = keys[i][first:last], keys[i + 1][first:last]
        k2, k3 = keys[i + 2][first:last], keys[i + 3][first:last]
        for k in range(n):
            a = q0 * np.float32(k0[k]) + q1 * np.float32(k1[k])
            out[k] += a + q2 * np.float32(k2[k]) + q3 * np.float32(k3[k])
    for i in range(h // 4 * 4, h):
        key = keys[i][first:last]
        for k in range(n):
            out[k] += query[i] * np.float32(key[k])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _weighted(weights, values, first, total):  # type: ignore[no-untyped-def]
    """total[i] += weights · values[i, first:]: integers in float32, exact in any order."""
    n = weights.shape[0]
    for i in range(total.shape[0]):
        value, found = values[i][first : first + n], np.float32(0)
        for k in range(n):
            found += weights[k] * np.float32(value[k])
        total[i] += found


@njit(cache=True, nogil=True)
def _shares(dots, scores, scale, powers):  # type: ignore[no-untyped-def]
    """dots ← 2^(score - the largest) · 2^16 / their sum, before it is rounded."""
    n = dots.shape[0]
    top = np.int32(-(1 << 30))
    for k in range(n):
        scores[k] = np.int32(np.rint(dots[k] * scale))
        top = max(top, scores[k])
    mass = np.int64(0)
    for k in range(n):
        d = np.int32(top - scores[k])
        scores[k] = np.int32(_power(d) >> min(np.int32(d >> 12), np.int32(31)))
        mass += scores[k]
    share = np.float32((np.int64(1) << 46) // mass) * powers[97]
    for k in range(n):
        dots[k] = np.float32(scores[k]) * share


@njit(cache=True, nogil=True)
def _scaled(weights, units, factor):  # type: ignore[no-untyped-def]
    """weights ← rint(weights · units · factor), powers of two, so that this rounds once."""
    for k in range(weights.shape[0]):
        weights[k] = np.rint(weights[k] * units[k] * factor)


@njit(cache=True, nogil=True)
def _largest(bits, top):  # type: ignore[no-untyped-def]
    """Of positive float32 numbers, by their bits."""
    for k in range(bits.shape[0]):
        top = max(top, bits[k])
    return top


@njit(cache=True, nogil=True)
def attend(  # type: ignore[no-untyped-def]
    queries, keys, values, units, starts, lanes, first, window, score_scales, exclusive, powers, y
):
    """y [N, H·h], real numbers in float32; starts int64[N]. Exclusive: without own values.

    The rings are keys and values [lanes, G, h, C] and units [lanes, G, C]. A query at position p
    looks at max(start, p - window + 1) .. p.
    """
    N, H, h = queries.shape
    G, C = keys.shape[1], keys.shape[3]
    S, group = N // lanes, H // G
    scores, room = np.empty(window, np.int32), np.empty(window, np.float32)
    total = np.empty(h, np.float32)
    for r in range(N):
        b, p = r // S, first + r % S
        low = max(starts[r], p - window + 1)
        n = p - low + 1
        begin = low % C
        end = min(begin + n, C)  # the ring goes on at slot 0
        old, new, weights = room[: end - begin], room[end - begin : n], room[:n]
        rest = n - (end - begin)
        for g in range(G):
            key, value, unit = keys[b, g], values[b, g], units[b, g]
            bits = unit.view(np.int32)
            top = _largest(bits[:rest], _largest(bits[begin:end], np.int32(0))) >> 23
            for head in range(g * group, (g + 1) * group):
                _dots(queries[r, head], key, begin, old)
                if rest > 0:
                    _dots(queries[r, head], key, 0, new)
                _shares(weights, scores, score_scales[head], powers)
                _scaled(old, unit[begin:end], powers[254 - top])
                _scaled(new, unit[:rest], powers[254 - top])
                total[:] = 0
                _weighted(old, value, begin, total)
                if rest > 0:
                    _weighted(new, value, 0, total)
                if exclusive:
                    _exclude(total, value, p % C)
                for i in range(h):
                    y[r, head * h + i] = total[i] * powers[top - WEIGHT_BITS]


@njit(cache=True, nogil=True)
def logits(acc, rows, tok, table, out):  # type: ignore[no-untyped-def]
    """Softcapped logits to base 2, EXPONENT_BITS, int32[N, V]; the largest of each row is 0."""
    for r in range(acc.shape[0]):
        top = np.int32(-(1 << 31))
        for i in range(acc.shape[1]):
            out[r, i] = np.int32(_looked_up(acc[r, i] * rows[i] * tok[r], table))
            top = max(top, out[r, i])
        for i in range(acc.shape[1]):
            out[r, i] -= top


@njit(cache=True, nogil=True)
def _masses(row):  # type: ignore[no-untyped-def]
    """row ← 2^logit · 2^30 as integers; their sum."""
    total = np.int64(0)
    for i in range(row.shape[0]):
        d = np.int32(-row[i])
        row[i] = np.int32(
            np.int32(_power(d) << 14) >> min(np.int32(d >> EXPONENT_BITS), np.int32(31))
        )
        total += row[i]
    return total


@njit(cache=True, nogil=True)
def cumulative(rows, out):  # type: ignore[no-untyped-def]
    """Tables for the coder, int64[N, V+1], from `logits` int32[N, V], which are overwritten.

    c_i = floor(C_i · R / 2^32) + i with C_i the mass before i and R = floor((2^30 - V)·2^32 / C).
    """
    V = rows.shape[1]
    for r in range(rows.shape[0]):
        factor = (np.int64(TOTAL - V) << 32) // _masses(rows[r])
        before = np.int64(0)
        for i in range(V):
            out[r, i] = ((before * factor) >> 32) + i
            before += rows[r, i]
        out[r, V] = TOTAL


@njit(cache=True, nogil=True)
def intervals(rows, symbols, starts, stops):  # type: ignore[no-untyped-def]
    """The two entries of `cumulative` that bound each row's symbol."""
    V = rows.shape[1]
    for r in range(rows.shape[0]):
        row, symbol = rows[r], symbols[r]
        factor = (np.int64(TOTAL - V) << 32) // _masses(row)
        before = np.int64(0)
        for i in range(symbol):
            before += row[i]
        starts[r] = ((before * factor) >> 32) + symbol
        after = before + row[symbol]
        stops[r] = ((after * factor) >> 32) + symbol + 1 if symbol + 1 < V else TOTAL
