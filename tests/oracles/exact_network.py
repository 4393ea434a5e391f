"""Compute exact arithmetic once more, in numpy: slow and short. The product must equal it.

It is written from docs/exact.md, whose section numbers stand beside each function, and repeats the
constants of that page. It shares only the operands (exact/operands.py) with the code that it
checks. Sums are int64; it takes one token per lane at a time.

Legend: n lanes, V vocabulary, d width, H heads, G key/value heads, h head width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairway.exact.operands import Linear, Operands

# Fraction bits, as docs/exact.md names them.
RESIDUAL_BITS, HEAD_INPUT_BITS, NORMED_BITS, ROTARY_BITS = 16, 14, 12, 14
TURN_BITS, EXPONENT_BITS, WEIGHT_BITS, GATE_BITS = 14, 12, 16, 16
CAP_STEP_BITS, CAP_REACH = 7, 8  # the table of tanh: bits between two entries, and its end
Array = NDArray[Any]
F = np.float32
TOTAL_BITS = 30
LARGEST_BITS = 28
HUGE = F(2.0**100)
HUGE_ROOT = F(2.0**50)
ZERO = F(2.0**-100)


class ExactNetwork:
    """A network that takes a token per lane and returns cumulative frequencies."""

    def __init__(self, operands: Operands, lanes: int) -> None:
        self.p = operands
        self.tokens = np.zeros((lanes, 0), np.int64)  # all that were seen, per lane
        self.embedding = np.zeros((lanes, operands.shape.dim), np.int64)  # the last, normed
        # per layer: keys, values and exponents of all positions, [lanes, G, positions, ...]
        self.memory: list[list[tuple[Array, Array, Array]]] = [[] for _ in operands.layers]

    def step(self, tokens: Array) -> Array:
        """Take a token per lane, int64[n]; return int64[n, V+1]. n never rises."""
        p, n = self.p, len(tokens)
        self.tokens = np.concatenate([self.tokens[:n], tokens[:, None]], 1)
        self.embedding = self.embedding[:n]
        position = self.tokens.shape[1] - 1
        starts = np.zeros(n, np.int64)
        if p.shape.document_aware:
            for lane, seen in enumerate(self.tokens):
                starts[lane] = max(np.flatnonzero(seen == p.bos_id), default=0)
        alone = np.full(n, position == 0)
        if p.shape.document_aware:
            alone |= tokens == p.bos_id
        before = self.tokens[:, -2] if position else np.zeros(n, np.int64)
        x = x0 = self._smear(self._embed(tokens, before, alone), alone)
        e = np.zeros(n, np.int64)
        stack: list[tuple[Array, Array]] = []
        encoders = len(p.layers) // 2
        for i, layer in enumerate(p.layers):
            if layer.skip is not None:
                skipped, scale = stack.pop()
                x, e = add(x, e, F(skipped) * layer.skip * np.ldexp(F(1), scale)[:, None])
            kept = F(x) * layer.mix[0] * np.ldexp(F(1), e)[:, None]
            x, e = add(np.zeros_like(x), np.zeros_like(e), kept)
            x, e = add(x, e, F(x0) * layer.mix[1])
            y = self._attention(i, x, position, starts)
            read = x
            x, e = add(x, e, output(layer.o, *quantized(layer.o, y)))
            read = read if layer.parallel else x
            codes, scale = quantized(layer.up, F(read))
            token_scale = (scale * inverse_rms(read))[:, None]
            hidden = np.clip(
                matmul(layer.up, codes) * layer.up.rows * token_scale, -HUGE_ROOT, HUGE_ROOT
            )
            leak = F(0.5) if p.shape.activation == "leaky2" else F(0)
            hidden = np.maximum(hidden, hidden * leak)
            codes, scale = quantized(layer.down, hidden * hidden)
            x, e = add(x, e, output(layer.down, codes, scale))
            if i < encoders:
                stack.append((x, e))
        return self._frequencies(x)

    def _embed(self, tokens: Array, before: Array, alone: Array) -> Array:
        """Return the embeddings and bigrams, normalised (2 and 3)."""
        p = self.p
        x = p.embedding[tokens].astype(np.int64)
        if p.bigram is not None and p.bigram_codes is not None and p.bigram_scales is not None:
            last = len(p.bigram_codes) - 1
            rows = np.zeros_like(tokens)
            if last:
                rows = np.where(alone, last, ((36313 * tokens) ^ (27191 * before)) % last)
            codes, scale = quantized(p.bigram, p.bigram_codes[rows])
            found = output(p.bigram, codes, scale * p.bigram_scales[rows])
            x, _ = add(x, np.zeros(len(x), np.int64), found)
        return fixed(F(x) * (inverse_rms(x) * F(1 << RESIDUAL_BITS))[:, None])

    def _smear(self, x: Array, alone: Array) -> Array:
        p, before, self.embedding = self.p, self.embedding, x
        still = (alone & p.shape.document_aware)[:, None]
        if p.smear_gate is None:
            return x
        return x + fixed(F(np.where(still, 0, before - x)) * p.smear_gate)

    def _attention(self, i: int, x: Array, position: int, starts: Array) -> Array:
        """Return the input of the output projection, float32[n, H·h] (5)."""
        p, shape = self.p, self.p.shape
        H, G, h = shape.num_heads, shape.num_kv_heads, shape.head_dim
        codes, scale = quantized(p.layers[i].qkv, F(x))
        y = matmul(p.layers[i].qkv, codes) * p.layers[i].qkv.rows
        y = y.reshape(len(x), H + 2 * G, h)
        place = position - starts
        q = [[self._head(v, t) for v in row[:H]] for row, t in zip(y, place, strict=True)]
        k = [[self._head(v, t) for v in row[H : H + G]] for row, t in zip(y, place, strict=True)]
        values = y[:, H + G :] * (scale * inverse_rms(x))[:, None, None]
        coded = [[value_codes(v, p.largest_value) for v in row] for row in values]
        v = np.array([[c for c, _ in row] for row in coded])
        e = np.array([[e for _, e in row] for row in coded])
        self.memory[i].append((np.array(k), v, e))
        out = np.zeros((len(x), H, h), np.float32)
        for lane in range(len(x)):
            first = max(int(starts[lane]), position - shape.window + 1)
            seen = self.memory[i][first:]
            for head in range(H):
                g = head // (H // G)
                keys = np.array([k[lane, g] for k, _, _ in seen])
                dots = keys @ np.array(q[lane][head])
                scores = np.rint(F(dots) * p.layers[i].score_scales[head]).astype(np.int64)
                d = scores.max() - scores
                weight = power(d) >> np.minimum(d >> EXPONENT_BITS, 31)
                share = F((1 << 46) // int(weight.sum())) * F(2.0**-30)
                exponents = np.array([e[lane, g] for _, _, e in seen])
                top = exponents.max()
                gap = np.maximum(exponents - top, -100)
                weight = np.rint(F(weight) * share * np.ldexp(F(1), gap)).astype(np.int64)
                total = weight @ np.array([v[lane, g] for _, v, _ in seen])
                if p.layers[i].exclusive:
                    total = exclude(total, v[lane, g])
                out[lane, head] = F(total) * np.ldexp(F(1), top - WEIGHT_BITS)
        gate = p.layers[i].gate
        if gate is not None:
            codes, scale = quantized(gate, F(x))
            t = output(gate, codes, scale * inverse_rms(x))
            out = out * (gates(t, p.tables.gate) * F(2.0**-GATE_BITS))[..., None]
        return out.reshape(len(x), H * h)

    def _head(self, y: Array, place: int) -> Array:
        """Normalise and rotate a query or key, int64[h] (5.1)."""
        t = self.p.tables
        largest = np.abs(y).max()
        if largest < ZERO:
            return np.zeros(len(y), np.int64)
        e, eighth = exponent_of(largest)
        limit = (1 << HEAD_INPUT_BITS) - 1
        u = np.rint(y * (F(limit * 8 / (9 + eighth)) * np.ldexp(F(1), -e))).astype(np.int64)
        n = inverse_root(int((u * u).sum()), len(u)) * F(1 << NORMED_BITS)
        a, b = np.rint(F(u) * n).astype(np.int64).reshape(2, -1)
        turn = [(int(place) * int(turn) + (1 << 63 - TURN_BITS)) % 2**64 for turn in t.turns]
        at = np.array([x >> 64 - TURN_BITS for x in turn])
        c, s = t.cosines[at].astype(np.int64), t.sines[at].astype(np.int64)
        both = np.concatenate([a * c + b * s, b * c - a * s])
        return half_up(both, NORMED_BITS + ROTARY_BITS - self.p.normed_bits)

    def _frequencies(self, x: Array) -> Array:
        """Return cumulative frequencies, by the head, softcap and masses (7)."""
        p, V = self.p, self.p.vocab_size
        codes, scale = quantized(p.head, F(x))
        scales = p.head.columns
        self.states = np.where(scales > 0, F(codes) / np.where(scales > 0, scales, F(1)), F(0))
        t = matmul(p.head, codes) * p.head.rows * (scale * inverse_rms(x))[:, None]
        z = looked_up(t, p.tables.softcap)
        d = z.max(1, keepdims=True) - z
        mass = (power(d) << 14) >> np.minimum(d >> EXPONENT_BITS, 31)
        out = np.zeros((len(x), V + 1), np.int64)
        for lane, row in enumerate(mass):
            sums = np.cumsum(row)
            factor = ((1 << TOTAL_BITS) - V << 32) // int(sums[-1])
            out[lane, 1:] = (sums * factor >> 32) + np.arange(1, V + 1)
            out[lane, V] = 1 << TOTAL_BITS
        return out


def fixed(t: Array) -> Array:
    """Round float32 to integers, saturated (1.2)."""
    limit = F(1 << LARGEST_BITS)
    result: Array = np.rint(np.clip(t, -limit, limit)).astype(np.int64)
    return result


def add(x: Array, e: Array, t: Array) -> tuple[Array, Array]:
    """Return (x, e) of x · 2^e + t, for rows of integers x and float32 t (1.1)."""
    t = np.clip(t, -HUGE, HUGE)
    x, e = x.copy(), e.copy()
    for r in range(len(x)):
        above = int(np.frexp(np.abs(t[r]).max())[1])  # |t| < 2^above
        raised = max(int(e[r]), above - LARGEST_BITS)
        if raised > e[r]:
            x[r] = half_up(x[r], min(raised - int(e[r]), 31))
        x[r] += np.rint(t[r] * np.ldexp(F(1), -raised)).astype(np.int64)
        if np.abs(x[r]).max() > 1 << LARGEST_BITS:
            x[r], raised = half_up(x[r], 1), raised + 1
        e[r] = raised
    return x, e


def half_up(x: Array, bits: int) -> Array:
    shifted: Array = (x + (1 << bits - 1)) >> bits
    return shifted


def exponent_of(x: np.float32) -> tuple[int, int]:
    """Return (e, t) with 2^e·(8+t)/8 ≤ x < 2^e·(9+t)/8."""
    mantissa, e = np.frexp(x)
    return int(e) - 1, int(mantissa * 16) - 8


def quantized(linear: Linear, x: Any) -> tuple[Array, Array]:
    """Quantize x [n, m] (1.3): codes int64[n, m], and what a code of 1 is worth, float32[n]."""
    a = F(x) * linear.columns
    codes, token_scale = np.zeros(a.shape, np.int64), np.zeros(len(a), np.float32)
    for r, row in enumerate(a):
        largest = np.abs(row).max()
        if largest >= ZERO:
            e, t = exponent_of(largest)
            codes[r] = np.rint(row * (linear.scales[t] * np.ldexp(F(1), -e)))
            token_scale[r] = linear.inverses[t] * np.ldexp(F(1), e)
    return codes, token_scale


def matmul(linear: Linear, codes: Array) -> Array:
    """Return Σ codes · codes in integers, then as float32 (1.4)."""
    weights = np.concatenate(linear.slices, 1).astype(np.int64)
    result: Array = (codes @ weights.T).astype(np.float32)
    return result


def output(linear: Linear, codes: Array, token_scale: Array) -> Array:
    """Return (Σ codes · codes) · rows · token_scale in float32 (1.4)."""
    result: Array = matmul(linear, codes) * linear.rows * token_scale[:, None]
    return result


def inverse_rms(x: Array) -> Array:
    """Return 1 / sqrt(mean(x²)) of integers [n, d]: float32[n] (1.5)."""
    found = []
    for row in x:
        shift = max(0, int(np.abs(row).max()).bit_length() - 24)
        y = row >> shift
        found.append(inverse_root(int((y * y).sum()), len(y)) * np.ldexp(F(1), -shift))
    return np.array(found, np.float32)


def inverse_root(total: int, count: int) -> np.float32:
    """Return 1 / sqrt(total / count) (1.5)."""
    mean = max(total // count, 1)
    bits = mean.bit_length()
    t = (52 - bits) >> 1 if bits < 51 else -((bits - 51) >> 1) if bits > 52 else 0
    v = mean << 2 * t if t >= 0 else mean >> -2 * t
    root = int(np.sqrt(np.float64(v)))
    while root * root > v:
        root -= 1
    while (root + 1) ** 2 <= v:
        root += 1
    return F(F((1 << 50) // root) * np.ldexp(F(1), t - 50))


def power(d: Array) -> Array:
    """Return 2^-x · 2^16, x the fraction of d ≥ 0 (1.6)."""
    f = d & (1 << EXPONENT_BITS) - 1
    result: Array = 65536 - (f * (45313 - (f * (15110 - (f * 2565 >> 12)) >> 12)) >> 12)
    return result


def looked_up(t: Array, table: Array) -> Array:
    """Interpolate a table of tanh at t / 2^16 (7)."""
    end = (CAP_REACH << 16) - 1
    u = np.rint(np.clip(t, F(-end), F(end))).astype(np.int64)
    entry = table[np.abs(u) >> CAP_STEP_BITS]
    fraction = np.abs(u) % (1 << CAP_STEP_BITS)
    z = (entry >> 32) + half_up((entry & 0xFFFFFFFF) * fraction, CAP_STEP_BITS)
    result: Array = np.where(u < 0, -z, z)
    return result


def gates(t: Array, table: Array) -> Array:
    """Return σ(2t / 2^16) with GATE_BITS, float32 (1.7)."""
    result: Array = ((1 << GATE_BITS - 1) + looked_up(t, table)).astype(np.float32)
    return result


def exclude(total: Array, own: Array) -> Array:
    """Return what attention found without its part along a token's own value (5.4)."""
    square = int(own @ own)
    if not square:
        return total
    share = (int(total @ own) << 16) // square
    result: Array = total - half_up(share * own, 16)
    return result


def value_codes(v: Array, largest_code: int) -> tuple[Array, int]:
    """Quantize a value as int64[h] · 2^e (5.2)."""
    largest = np.abs(v).max()
    if largest < ZERO:
        return np.zeros(len(v), np.int64), -100
    e = int(np.frexp(largest)[1]) - 8
    if largest * np.ldexp(F(1), -e) > largest_code:
        e += 1
    return np.rint(v * np.ldexp(F(1), -e)).astype(np.int64), e
