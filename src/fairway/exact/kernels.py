"""Compute every exact operation on a CPU, compiled. docs/exact.md defines each and its range.

Two rules make results equal on every machine. Every sum is a sum of integers. Every floating-point
operation is a single IEEE product, rounding or conversion of float32 numbers, and its result
becomes an integer before anything is added to it. So neither the order of sums nor fused
multiply-add can change a bit. `_dots` and `_weighted_sum` let the compiler reorder exact sums.

Legend: N rows (tokens), d width, h head width, L lanes, G key/value heads, C slots of a ring.
Of a linear map: acc float32[N, m], the integer sums; rows float32[m] and token_scale float32[N],
whose product is what 1 in acc[n, m] is worth.
"""

from __future__ import annotations

import math

import numpy as np

from fairway.exact.fixed_point import (
    CAP_BITS,
    CAP_REACH,
    CAP_STEP_BITS,
    EXPONENT_BITS,
    GATE_BITS,
    HEAD_SCALES,
    HUGE,
    HUGE_ROOT,
    LARGEST,
    LARGEST_BITS,
    MASS_BITS,
    NORMED_BITS,
    POWER_BITS,
    POWER_POLYNOMIAL,
    POWERS,
    RECIPROCAL_BITS,
    ROTARY_BITS,
    SHARE_BITS,
    SMALLEST,
    WEIGHT_BITS,
    ZERO_EXPONENT,
)
from fairway.formats.range_coder import TOTAL
from fairway.kernels import njit

_A, _B, _C = (np.int32(c) for c in POWER_POLYNOMIAL)
_FRACTION = (1 << EXPONENT_BITS) - 1
_ONE = 1 << POWER_BITS
_MASS_SHIFT = MASS_BITS - POWER_BITS
_RECIPROCAL = np.int64(1 << WEIGHT_BITS + RECIPROCAL_BITS)
_CAP_END = (CAP_REACH << CAP_BITS) - 1
_SMALLEST_BITS = (127 + ZERO_EXPONENT) << 23  # of the float32 SMALLEST


@njit(cache=True, nogil=True, inline="always")
def _exponent(largest):  # type: ignore[no-untyped-def]
    """Return (e + 127, t) with 2^e·(8+t)/8 ≤ x < 2^e·(9+t)/8, from the bits of x > 0."""
    return largest >> 23, largest >> 20 & 7


@njit(cache=True, nogil=True)
def _quantize(a, bits, scales, inverses, codes):  # type: ignore[no-untyped-def]
    """Set codes to rint(a · s), s by a's largest magnitude; return 1 / s, or 0 if a counts as zero.

    `bits` is the memory of `a` as int32: magnitudes compare like their bits.
    """
    n = a.shape[0]
    largest = np.int32(0)
    for j in range(n):
        largest = max(largest, np.int32(bits[j] & 0x7FFFFFFF))
    if largest < _SMALLEST_BITS:
        codes[:] = np.float32(0)
        return np.float32(0)
    e, t = _exponent(largest)
    s = scales[t] * POWERS[254 - e]
    for j in range(n):
        codes[j] = np.rint(a[j] * s)
    return inverses[t] * POWERS[e]


@njit(cache=True, nogil=True)
def _inverse_root(total, count):  # type: ignore[no-untyped-def]
    """Return 1 / sqrt(total / count) as float32, by an integer square root; total < 2^62."""
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
    return np.float32((np.int64(1) << 50) // root) * POWERS[127 + t - 50]


@njit(cache=True, nogil=True)
def _inverse_rms(row):  # type: ignore[no-untyped-def]
    """Return 1 / sqrt(mean(x²)) of int32 x, |x| ≤ 2^30."""
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
    return _inverse_root(total, np.int64(row.shape[0])) * POWERS[127 - shift]


@njit(cache=True, nogil=True, inline="always")
def _fixed(t):  # type: ignore[no-untyped-def]
    """Round a float32 to int32; saturate at LARGEST."""
    low, high = np.float32(-LARGEST), np.float32(LARGEST)
    return np.int32(np.rint(min(max(t, low), high)))


@njit(cache=True, nogil=True)
def table_input(rows, codes, row_scales, columns, scales, inverses, a, out, token_scale):  # type: ignore[no-untyped-def]
    """Look up rows of a table [·, n] and quantize them as the input of a linear map."""
    bits = a.view(np.int32)
    for r in range(rows.shape[0]):
        row = codes[rows[r]]
        for j in range(a.shape[0]):
            a[j] = row[j] * columns[j]
        inverse = _quantize(a, bits, scales, inverses, out[r])
        token_scale[r] = inverse * row_scales[rows[r]]


@njit(cache=True, nogil=True)
def _add_row(x, e, t, bits):  # type: ignore[no-untyped-def]
    """Add float32 t to the int32 row x · 2^e, in place; return the new e. t is overwritten.

    `bits` is the memory of `t` as int32.
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
    factor = POWERS[127 - raised]
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
def add_scaled(x, e, acc, rows, token_scale, t):  # type: ignore[no-untyped-def]
    """Add a linear map's output acc · rows · token_scale to the residual stream x · 2^e."""
    bits = t.view(np.int32)
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            t[i] = acc[r, i] * rows[i] * token_scale[r]
        e[r] = _add_row(x[r], e[r], t, bits)


@njit(cache=True, nogil=True)
def normalize(x, fraction_bits):  # type: ignore[no-untyped-def]
    """Replace each row of x by rint(x / rms(x) · 2^fraction_bits)."""
    for r in range(x.shape[0]):
        n = _inverse_rms(x[r]) * POWERS[127 + fraction_bits]
        for i in range(x.shape[1]):
            x[r, i] = _fixed(np.float32(x[r, i]) * n)


@njit(cache=True, nogil=True)
def smear(x, previous, first, gate, out):  # type: ignore[no-untyped-def]
    """Set out to x + rint(gate · (previous - x)), and to x in a document's first row."""
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            move = np.int32(0) if first[r] else np.int32(previous[r, i] - x[r, i])
            out[r, i] = x[r, i] + _fixed(np.float32(move) * gate[i])


@njit(cache=True, nogil=True, inline="always")
def _looked_up(t, table):  # type: ignore[no-untyped-def]
    """Interpolate a table of multiples of tanh at t / 2^CAP_BITS: int64."""
    u = np.int32(np.rint(min(max(t, np.float32(-_CAP_END)), np.float32(_CAP_END))))
    fraction = (1 << CAP_STEP_BITS) - 1
    size = abs(u)
    entry = table[size >> CAP_STEP_BITS]
    step = entry & 0xFFFFFFFF
    c = (entry >> 32) + ((step * (size & fraction) + (fraction + 1 >> 1)) >> CAP_STEP_BITS)
    return c if u >= 0 else -c


@njit(cache=True, nogil=True, inline="always")
def _gate(t, table):  # type: ignore[no-untyped-def]
    """Return σ(2t / 2^CAP_BITS) · 2^GATE_BITS in float32."""
    return np.float32(np.int64(1 << GATE_BITS - 1) + _looked_up(t, table))


@njit(cache=True, nogil=True)
def gate_heads(acc, rows, token_scale, table, y):  # type: ignore[no-untyped-def]
    """Multiply each head of y [N, H·h] by its gate, from acc [N, H]."""
    h = y.shape[1] // acc.shape[1]
    for r in range(y.shape[0]):
        for k in range(acc.shape[1]):
            g = _gate(acc[r, k] * rows[k] * token_scale[r], table) * POWERS[127 - GATE_BITS]
            for i in range(k * h, k * h + h):
                y[r, i] = y[r, i] * g


@njit(cache=True, nogil=True)
def _exclude(total, value, slot):  # type: ignore[no-untyped-def]
    """Subtract from total its part along v, the value in a slot: total -= (total·v / v·v) v.

    Integers in float32.
    """
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
def mix(x, e, x0, factors, skip, skipped, skipped_e, t):  # type: ignore[no-untyped-def]
    """Set x to m₀·(x + skip·skipped) + m₁·x0, each product rounded. `skip` may be empty."""
    bits = t.view(np.int32)
    for r in range(x.shape[0]):
        if skip.shape[0] > 0:
            for i in range(x.shape[1]):
                t[i] = np.float32(skipped[r, i]) * skip[i] * POWERS[127 + skipped_e[r]]
            e[r] = _add_row(x[r], e[r], t, bits)
        for i in range(x.shape[1]):
            t[i] = np.float32(x[r, i]) * factors[0, i] * POWERS[127 + e[r]]
            x[r, i] = 0
        e[r] = _add_row(x[r], np.int32(0), t, bits)
        for i in range(x.shape[1]):
            t[i] = np.float32(x0[r, i]) * factors[1, i]
        e[r] = _add_row(x[r], e[r], t, bits)


@njit(cache=True, nogil=True)
def norm_input(x, columns, scales, inverses, a, codes, token_scale):  # type: ignore[no-untyped-def]
    """Quantize x / rms(x) as the input of a linear map: codes [N, d] and each row's scale."""
    bits = a.view(np.int32)
    for r in range(x.shape[0]):
        n = _inverse_rms(x[r])
        for j in range(x.shape[1]):
            a[j] = np.float32(x[r, j]) * columns[j]
        inverse = _quantize(a, bits, scales, inverses, codes[r])
        token_scale[r] = inverse * n


@njit(cache=True, nogil=True)
def quantize_input(y, columns, scales, inverses, codes, token_scale):  # type: ignore[no-untyped-def]
    """Quantize y [N, n] as the input of a linear map; y is overwritten."""
    for r in range(y.shape[0]):
        a = y[r]
        for j in range(a.shape[0]):
            a[j] = a[j] * columns[j]
        token_scale[r] = _quantize(a, a.view(np.int32), scales, inverses, codes[r])


@njit(cache=True, nogil=True)
def relu_squared(acc, rows, token_scale):  # type: ignore[no-untyped-def]
    """Replace acc by relu(acc · rows · token_scale)²."""
    for r in range(acc.shape[0]):
        for i in range(acc.shape[1]):
            t = min(max(acc[r, i] * rows[i] * token_scale[r], np.float32(0)), HUGE_ROOT)
            acc[r, i] = t * t


@njit(cache=True, nogil=True)
def leaky_squared(acc, rows, token_scale):  # type: ignore[no-untyped-def]
    """Replace acc by max(z, z/2)² with z = acc · rows · token_scale."""
    for r in range(acc.shape[0]):
        for i in range(acc.shape[1]):
            t = min(max(acc[r, i] * rows[i] * token_scale[r], -HUGE_ROOT), HUGE_ROOT)
            t = max(t, t * np.float32(0.5))
            acc[r, i] = t * t


@njit(cache=True, nogil=True)
def _rotate_head(acc, rows, u, cos, sin, bits, out):  # type: ignore[no-untyped-def]
    """Normalise and rotate one query or key, with `bits` fraction bits."""
    h = acc.shape[0]
    largest = np.float32(0)
    for i in range(h):
        largest = max(largest, abs(acc[i] * rows[i]))
    if largest < SMALLEST:
        out[:] = 0
        return
    mantissa, e = math.frexp(largest)  # largest = mantissa · 2^e, mantissa in [1/2, 1)
    s = HEAD_SCALES[np.int64(mantissa * 16) - 8] * POWERS[128 - e]
    total = np.int64(0)
    for i in range(h):
        u[i] = np.int32(np.rint(acc[i] * rows[i] * s))
        total += np.int64(u[i]) * np.int64(u[i])
    n = _inverse_root(total, np.int64(h)) * np.float32(1 << NORMED_BITS)
    for i in range(h):
        u[i] = np.int32(np.rint(np.float32(u[i]) * n))
    shift = NORMED_BITS + ROTARY_BITS - bits
    half = np.int32(1 << shift - 1)
    for j in range(h // 2):
        a, b, c, s1 = u[j], u[j + h // 2], cos[j], sin[j]
        out[j] = np.float32((a * c + b * s1 + half) >> shift)
        out[j + h // 2] = np.float32((b * c - a * s1 + half) >> shift)


@njit(cache=True, nogil=True)
def rotate_heads(acc, rows, first, cos, sin, bits, queries, keys):  # type: ignore[no-untyped-def]
    """Split acc [N, (H+2G)·h] into queries [N, H, h] and the new keys of the ring [L, G, h, C].

    Row r belongs to lane r // S at the position first + r % S, whose slot is the position modulo C.
    """
    N, H, h = queries.shape
    S, G, C = N // keys.shape[0], keys.shape[1], keys.shape[3]
    u, key = np.empty(h, np.int32), np.empty(h, np.float32)
    for r in range(N):
        b, slot = r // S, (first + r % S) % C
        for k in range(H + G):
            at = k * h
            out = queries[r, k] if k < H else key
            _rotate_head(acc[r, at : at + h], rows[at : at + h], u, cos[r], sin[r], bits, out)
            if k >= H:
                for i in range(h):
                    keys[b, k - H, i, slot] = np.int16(key[i])


@njit(cache=True, nogil=True)
def store_values(  # type: ignore[no-untyped-def]
    acc, rows, token_scale, first, largest_code, values, value_scales
):
    """Quantize the values in acc [N, (H+2G)·h] into the ring [L, G, h, C] and its scales [L, G, C].

    Rows and slots are those of rotate_heads.
    """
    N = acc.shape[0]
    L, G, h, C = values.shape
    S, value = N // L, np.empty(h, np.float32)
    for r in range(N):
        b, slot = r // S, (first + r % S) % C
        for k in range(G):
            at = acc.shape[1] - (G - k) * h
            for i in range(h):
                value[i] = acc[r, at + i] * rows[at + i] * token_scale[r]
            largest = np.float32(0)
            for i in range(h):
                largest = max(largest, abs(value[i]))
            if largest < SMALLEST:
                for i in range(h):
                    values[b, k, i, slot] = 0
                value_scales[b, k, slot] = SMALLEST
                continue
            _, e = math.frexp(largest)
            e -= 8  # codes up to 256
            if largest * POWERS[127 - e] > largest_code:
                e += 1
            for i in range(h):
                values[b, k, i, slot] = np.int16(np.rint(value[i] * POWERS[127 - e]))
            value_scales[b, k, slot] = POWERS[127 + e]


@njit(cache=True, nogil=True, inline="always")
def _power(d):  # type: ignore[no-untyped-def]
    """Return 2^-x · 2^16, x the fraction of d ≥ 0 with EXPONENT_BITS."""
    f = np.int32(d & _FRACTION)
    x = np.int32(_B - np.int32(np.int32(f * _C) >> 12))
    x = np.int32(_A - np.int32(np.int32(f * x) >> 12))
    return np.int32(_ONE - np.int32(np.int32(f * x) >> 12))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _dots(query, keys, first, out):  # type: ignore[no-untyped-def]
    """Set out[k] to query · keys[:, first + k]: integers in float32, exact in any order."""
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
def _weighted_sum(weights, values, first, total):  # type: ignore[no-untyped-def]
    """Add weights · values[i, first:] to total[i]: integers in float32, exact in any order."""
    n = weights.shape[0]
    for i in range(total.shape[0]):
        value, dot = values[i][first : first + n], np.float32(0)
        for k in range(n):
            dot += weights[k] * np.float32(value[k])
        total[i] += dot


@njit(cache=True, nogil=True)
def _softmax(dots, scores, scale):  # type: ignore[no-untyped-def]
    """Replace dots by 2^(score - the largest) · 2^16 / their sum, not yet rounded."""
    n = dots.shape[0]
    top = np.int32(-(1 << 30))
    for k in range(n):
        scores[k] = np.int32(np.rint(dots[k] * scale))
        top = max(top, scores[k])
    mass = np.int64(0)
    for k in range(n):
        d = np.int32(top - scores[k])
        scores[k] = np.int32(_power(d) >> min(np.int32(d >> EXPONENT_BITS), np.int32(31)))
        mass += scores[k]
    share = np.float32(_RECIPROCAL // mass) * POWERS[127 - RECIPROCAL_BITS]
    for k in range(n):
        dots[k] = np.float32(scores[k]) * share


@njit(cache=True, nogil=True)
def _scale_weights(weights, scales, factor):  # type: ignore[no-untyped-def]
    """Replace weights by rint(weights · scales · factor); powers of two, so this rounds once."""
    for k in range(weights.shape[0]):
        weights[k] = np.rint(weights[k] * scales[k] * factor)


@njit(cache=True, nogil=True)
def _largest(bits, top):  # type: ignore[no-untyped-def]
    """Return the largest of `top` and positive float32 numbers, all given by their bits."""
    for k in range(bits.shape[0]):
        top = max(top, bits[k])
    return top


@njit(cache=True, nogil=True)
def attend(  # type: ignore[no-untyped-def]
    queries, keys, values, value_scales, starts, first, window, score_scales, exclusive, y
):
    """Set y [N, H·h] to what attention returns, float32. Rings and rows are those of rotate_heads.

    The query of row r at position p attends to max(starts[r], p - window + 1) .. p. `exclusive`
    takes the part along the token's own value out.
    """
    N, H, h = queries.shape
    G, C = keys.shape[1], keys.shape[3]
    S, group = N // keys.shape[0], H // G
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
            key, value, scale = keys[b, g], values[b, g], value_scales[b, g]
            bits = scale.view(np.int32)
            top = _largest(bits[:rest], _largest(bits[begin:end], np.int32(0))) >> 23
            for head in range(g * group, (g + 1) * group):
                _dots(queries[r, head], key, begin, old)
                if rest > 0:
                    _dots(queries[r, head], key, np.int64(0), new)
                _softmax(weights, scores, score_scales[head])
                _scale_weights(old, scale[begin:end], POWERS[254 - top])
                _scale_weights(new, scale[:rest], POWERS[254 - top])
                total[:] = 0
                _weighted_sum(old, value, begin, total)
                if rest > 0:
                    _weighted_sum(new, value, np.int64(0), total)
                if exclusive:
                    _exclude(total, value, p % C)
                for i in range(h):
                    y[r, head * h + i] = total[i] * POWERS[top - WEIGHT_BITS]


@njit(cache=True, nogil=True)
def logits(acc, rows, token_scale, table, out):  # type: ignore[no-untyped-def]
    """Set out int32[N, V] to softcapped base-2 logits, EXPONENT_BITS; each row's largest is 0."""
    for r in range(acc.shape[0]):
        top = np.int32(-(1 << 31))
        for i in range(acc.shape[1]):
            out[r, i] = np.int32(_looked_up(acc[r, i] * rows[i] * token_scale[r], table))
            top = max(top, out[r, i])
        for i in range(acc.shape[1]):
            out[r, i] -= top


@njit(cache=True, nogil=True)
def _masses(row):  # type: ignore[no-untyped-def]
    """Replace a row of logits by the integers 2^logit · 2^30; return their sum."""
    total = np.int64(0)
    for i in range(row.shape[0]):
        d = np.int32(-row[i])
        row[i] = np.int32(
            np.int32(_power(d) << _MASS_SHIFT) >> min(np.int32(d >> EXPONENT_BITS), np.int32(31))
        )
        total += row[i]
    return total


@njit(cache=True, nogil=True)
def cumulative(rows, out):  # type: ignore[no-untyped-def]
    """Set out int64[N, V+1] to the coder's tables of logits int32[N, V], which are overwritten.

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
    """Set starts and stops to the two entries of `cumulative` that bound each row's symbol."""
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
