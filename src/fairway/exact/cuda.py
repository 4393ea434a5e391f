"""The network in exact arithmetic by torch operations, for a GPU: the bits of network.py.

Every operation is one of docs/exact.md's, on tensors: integers, or single products of float32
numbers, each a kernel of its own, so that nothing can be fused. Products of matrices are float32
with TF32 switched off; each is compared with integers once, as the library may choose otherwise.

Legend: L lanes, S tokens per lane and block, N = L·S rows, V vocabulary, d width, H heads, G
key/value heads, h head width, n keys.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairway import floating_point
from fairway.exact import kernels
from fairway.exact.cpu import states
from fairway.exact.operands import (
    CAP_REACH,
    CAP_STEP_BITS,
    EXPONENT_BITS,
    GATE_BITS,
    NORMED_BITS,
    RESIDUAL_BITS,
    ROTARY_BITS,
    TURN_BITS,
    WEIGHT_BITS,
    Layer,
    Operands,
    Product,
)
from fairway.formats.range_coder import TOTAL

Longs = NDArray[np.int64]
_HEAD_ROWS = 2048  # whose logits are on the device at a time
_NO_KEY = -(1 << 30)  # a score under all others


class _Product:
    """A Product on the device."""

    def __init__(self, product: Product, device: torch.device) -> None:
        self.pieces = [torch.from_numpy(p).to(device) for p in product.pieces]
        self.rows = torch.from_numpy(product.rows).to(device)
        self.columns = torch.from_numpy(product.columns).to(device)
        self.scales = torch.from_numpy(product.scales).to(device)
        self.inverses = torch.from_numpy(product.inverses).to(device)
        self._check(product.largest_input)

    def __call__(self, codes: Tensor) -> Tensor:
        """Σ weight · code, float32[N, m]."""
        if len(self.pieces) == 1:
            return codes @ self.pieces[0].T
        total = torch.zeros(len(codes), len(self.rows), dtype=torch.int32, device=codes.device)
        first = 0
        for piece in self.pieces:
            last = first + piece.shape[1]
            total += (codes[:, first:last] @ piece.T).to(torch.int32)
            first = last
        return total.to(torch.float32)

    def _check(self, largest: int) -> None:
        """Raise BadInput where a float32 product of integers is not what integers give."""
        n = len(self.columns)
        steps = torch.arange(64 * n, device=self.rows.device).view(64, n)
        codes = (steps * 7919 % (2 * largest + 1) - largest).to(torch.float32)
        exact = codes.double() @ torch.cat([p.double() for p in self.pieces], 1).T
        if not torch.equal(self(codes), exact.to(torch.float32)):
            raise floating_point.inexact_matmul("this device")


class DeviceOperands:
    """The operands on a device, once for all networks there. Raises BadInput."""

    def __init__(self, operands: Operands, device: torch.device) -> None:
        self.operands, self.device = operands, device
        torch.backends.cuda.matmul.allow_tf32 = False
        self.powers = torch.from_numpy(kernels.POWERS).to(device)
        made: dict[int, _Product] = {}  # a layer's are shared by its passes

        def upload(product: Product) -> _Product:
            if id(product) not in made:
                made[id(product)] = _Product(product, device)
            return made[id(product)]

        self.layers = [
            tuple(upload(p) for p in (layer.qkv, layer.o, layer.up, layer.down))
            for layer in operands.layers
        ]
        self.gates, self.smear = (
            [None if layer.gate is None else upload(layer.gate) for layer in operands.layers],
            None if operands.smear is None else upload(operands.smear),
        )
        self.head = _Product(operands.head, device)
        self.bigram = None if operands.bigram is None else _Product(operands.bigram, device)
        self.embedding = torch.from_numpy(operands.embedding).to(device)
        t = operands.tables
        self.cosines, self.sines, self.softcap, self.gate = (
            torch.from_numpy(table).to(device) for table in (t.cosines, t.sines, t.softcap, t.gate)
        )
        self.head_scales = torch.from_numpy(kernels.HEAD_SCALES).to(device)


class DeviceNetwork:
    """As network.Network: `lanes` lanes that advance together."""

    def __init__(self, uploaded: DeviceOperands, lanes: int) -> None:
        operands, device = uploaded.operands, uploaded.device
        self._operands, self._device, self.lanes = operands, device, lanes
        self._powers, self._layers, self._head = uploaded.powers, uploaded.layers, uploaded.head
        self._bigram, self._embedding = uploaded.bigram, uploaded.embedding
        self._gates, self._smear = uploaded.gates, uploaded.smear
        self._gate_table = uploaded.gate
        self._cosines, self._sines = uploaded.cosines, uploaded.sines
        self._softcap, self._head_scales = uploaded.softcap, uploaded.head_scales
        # Of the last window - 1 positions, per layer: keys, values, exponents of values.
        self._memory: list[tuple[Tensor, Tensor, Tensor] | None] = [None] * len(self._layers)
        self._position = 0
        self._document = np.zeros(lanes, np.int64)
        self._token = np.full(lanes, -1, np.int64)
        self._last = torch.zeros(lanes, operands.shape.dim, dtype=torch.int32, device=device)

    def shrink_batch(self, lanes: int) -> None:
        """From now on only the first `lanes` lanes exist."""
        self.lanes = lanes
        self._memory = [m and (m[0][:lanes], m[1][:lanes], m[2][:lanes]) for m in self._memory]
        self._document, self._token = self._document[:lanes], self._token[:lanes]
        self._last = self._last[:lanes]

    def forward(self, tokens: Longs) -> DeviceHead:
        """Take int64[L, S] as the next tokens; the last layer's output."""
        p, shape = self._operands, self._operands.shape
        lanes, S = tokens.shape
        positions = np.arange(self._position, self._position + S)
        starts = np.zeros(tokens.shape, np.int64)
        before = np.concatenate([self._token[:, None], tokens[:, :-1]], 1)
        alone = before < 0
        if shape.document_aware:
            starts = np.where(tokens == p.bos_id, positions, -1)
            starts[:, 0] = np.maximum(starts[:, 0], self._document)
            starts = np.maximum.accumulate(starts, 1)
            alone |= tokens == p.bos_id
        x = x0 = self._smeared(self._embedded(tokens, before, alone), alone)
        e = none = torch.zeros(len(x), dtype=torch.int64, device=self._device)
        cos, sin = self._rotary(positions - starts)
        oldest = max(0, self._position - (shape.window - 1))
        keys = np.arange(oldest, self._position + S)
        low = np.maximum(starts, positions - shape.window + 1)
        mask = (keys >= low[..., None]) & (keys <= positions[:, None])
        reach = torch.from_numpy(mask).to(self._device)  # [L, S, n]
        stack: list[tuple[Tensor, Tensor]] = []
        for i, layer in enumerate(p.layers):
            qkv, o, up, down = self._layers[i]
            if layer.skip is not None:
                skipped, scale = stack.pop()
                t = skipped.float() * self._vector(layer.skip) * self._powers[127 + scale, None]
                x, e = self._sum(x, e, t)
            m = self._vector(layer.mix)
            kept = x.float() * m[0] * self._powers[127 + e, None]
            x, e = self._sum(torch.zeros_like(x), none, kept)
            x, e = self._sum(x, e, x0.float() * m[1])
            y = self._attention(i, layer, qkv, x, lanes, cos, sin, reach)
            mlp_input = self._normed(x, up) if layer.parallel else None
            x, e = self._add(x, e, o, *self._input(y, o))
            codes, unit = mlp_input or self._normed(x, up)
            hidden = self._activated(up(codes) * up.rows * unit[:, None])
            x, e = self._add(x, e, down, *self._input(hidden * hidden, down))
            if i < len(p.layers) // 2:
                stack.append((x, e))
        self._position += S
        self._document, self._token = starts[:, -1].copy(), tokens[:, -1].astype(np.int64)
        return DeviceHead(self, x)

    def _activated(self, z: Tensor) -> Tensor:
        """What is squared: relu(z), or max(z, z/2)."""
        limit = float(kernels.HUGE_ROOT)
        if self._operands.shape.activation == "relu2":
            return z.clamp(0, limit)
        z = z.clamp(-limit, limit)
        return torch.maximum(z, z * 0.5)

    def _gate(self, product: _Product, codes: Tensor, unit: Tensor) -> Tensor:
        """σ with GATE_BITS, float32[N, m]."""
        t = product(codes) * product.rows * unit[:, None]
        return (_looked_up(t, self._gate_table) + (1 << GATE_BITS - 1)).float()

    def _vector(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def _embedded(self, tokens: Longs, before: Longs, alone: NDArray[np.bool_]) -> Tensor:
        p = self._operands
        x = self._embedding[torch.from_numpy(tokens.reshape(-1)).to(self._device)]
        if self._bigram is not None:
            assert p.bigram_codes is not None
            assert p.bigram_scales is not None
            last = len(p.bigram_codes) - 1
            rows = np.zeros(tokens.size, np.int64)
            if last:
                mixed = np.bitwise_xor(36313 * tokens, 27191 * np.maximum(before, 0)) % last
                rows = np.where(alone, last, mixed).reshape(-1)
            codes, unit = self._input(self._vector(p.bigram_codes[rows]), self._bigram)
            unit = unit * self._vector(p.bigram_scales[rows])
            none = torch.zeros(len(x), dtype=torch.int64, device=self._device)
            x, _ = self._add(x, none, self._bigram, codes, unit)
        n = self._inverse_rms(x) * self._powers[127 + RESIDUAL_BITS]
        return _fixed(x.float() * n[:, None])

    def _smeared(self, x: Tensor, alone: NDArray[np.bool_]) -> Tensor:
        gate, smear = self._operands.smear_gate, self._smear
        if gate is None and smear is None:
            return x
        by_lane = x.view(self.lanes, -1, x.shape[-1])
        before = torch.cat([self._last[:, None], by_lane[:, :-1]], 1).reshape(x.shape)
        self._last = by_lane[:, -1]
        aware = alone.reshape(-1, 1) & self._operands.shape.document_aware
        still = torch.from_numpy(aware).to(self._device)
        if smear is not None:
            strength = self._gate(smear, *self._input(x.float(), smear))
            strength = strength * float(self._operands.smear_strength)
            return x + _fixed(torch.where(still, 0, before).float() * strength)
        assert gate is not None
        move = torch.where(still, 0, before - x)
        return x + _fixed(move.float() * self._vector(gate))

    def _rotary(self, places: Longs) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 1, h/2], int32."""
        half = np.uint64(1 << 63 - TURN_BITS)
        turns = places.reshape(-1, 1).astype(np.uint64) * self._operands.tables.turns + half
        at = torch.from_numpy((turns >> np.uint64(64 - TURN_BITS)).astype(np.int64))
        at = at.to(self._device)[:, None]
        return self._cosines[at], self._sines[at]

    def _attention(
        self,
        i: int,
        layer: Layer,
        qkv: _Product,
        x: Tensor,
        lanes: int,
        cos: Tensor,
        sin: Tensor,
        reach: Tensor,
    ) -> Tensor:
        """float32[N, H·h]."""
        shape = self._operands.shape
        H, G, h = shape.num_heads, shape.num_kv_heads, shape.head_dim
        codes, unit = self._normed(x, qkv)
        y = (qkv(codes) * qkv.rows).view(len(x), H + 2 * G, h)
        rotated = self._rotated(y[:, : H + G], cos, sin)
        values = y[:, H + G :] * unit[:, None, None]
        v, e = self._values(values)
        S = len(x) // lanes
        q = rotated[:, :H].view(lanes, S, G, H // G, h).permute(0, 2, 3, 1, 4)
        k = rotated[:, H:].view(lanes, S, G, h).transpose(1, 2)
        v, e = v.view(lanes, S, G, h).transpose(1, 2), e.view(lanes, S, G).transpose(1, 2)
        own, memory = v, self._memory[i]
        if memory is not None:
            k, v, e = (torch.cat([old, new], 2) for old, new in zip(memory, (k, v, e), strict=True))
        keep = shape.window - 1
        self._memory[i] = k[:, :, -keep:], v[:, :, -keep:], e[:, :, -keep:]
        dots = q.reshape(lanes, G, -1, h) @ k.mT
        scores = dots.view(lanes, G, H // G, S, -1)
        scale = self._vector(layer.score_scales).view(G, H // G, 1, 1)
        allowed = reach[:, None, None]
        z = torch.where(allowed, torch.round(scores * scale).to(torch.int32), _NO_KEY)
        d = z.amax(-1, keepdim=True) - z
        mass = torch.where(allowed, _power(d) >> (d >> EXPONENT_BITS).clamp(max=31), 0)
        total = mass.sum(-1, keepdim=True, dtype=torch.int64)
        share = torch.div(1 << 46, total, rounding_mode="floor").float() * self._powers[97]
        exponents = torch.where(allowed, e[:, :, None, None], -128)  # [L, G, 1, S, n]
        top = exponents.amax(-1, keepdim=True)
        gap = (exponents - top).clamp(min=-100)
        weight = torch.round(mass.float() * share * self._powers[127 + gap])
        y = (weight.reshape(lanes, G, -1, weight.shape[-1]) @ v).view(lanes, G, H // G, S, h)
        if layer.exclusive:
            y = _excluded(y, own[:, :, None])
        y = y * self._powers[127 + top - WEIGHT_BITS]
        y = y.permute(0, 3, 1, 2, 4).reshape(len(x), H, h)
        if (gate := self._gates[i]) is not None:
            share = self._gate(gate, *self._normed(x, gate)) * self._powers[127 - GATE_BITS]
            y = y * share[..., None]
        return y.reshape(len(x), H * h)

    def _rotated(self, y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries and keys [N, ·, h], normalised and rotated."""
        largest = y.abs().amax(-1)
        e, t = _exponent(largest)
        s = self._head_scales[t] * self._powers[127 - e]
        u = torch.round(y * s[..., None]).to(torch.int64)
        n = self._inverse_root((u * u).sum(-1), y.shape[-1]) * self._powers[127 + NORMED_BITS]
        a, b = torch.round(u.float() * n[..., None]).to(torch.int32).chunk(2, -1)
        both = torch.cat([a * cos + b * sin, b * cos - a * sin], -1)
        found = _half_up(both, NORMED_BITS + ROTARY_BITS - self._operands.normed_bits).float()
        return torch.where((largest < float(kernels.SINK))[..., None], 0.0, found)

    def _values(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Codes in float32 and exponents."""
        largest = v.abs().amax(-1)
        e = torch.frexp(largest)[1].long() - 8
        e += largest * self._powers[127 - e.clamp(-127, 127)] > self._operands.largest_value
        none = largest < float(kernels.SINK)
        e = torch.where(none, -100, e)
        codes = torch.round(v * self._powers[127 - e][..., None])
        return torch.where(none[..., None], 0.0, codes), e

    def _input(self, x: Tensor, product: _Product) -> tuple[Tensor, Tensor]:
        """1.3: codes of x float32[N, n], and what one unit of theirs is worth."""
        a = x * product.columns
        largest = a.abs().amax(-1)
        e, t = _exponent(largest)
        s = product.scales[t] * self._powers[127 - e]
        none = largest < float(kernels.SINK)
        codes = torch.where(none[:, None], 0.0, torch.round(a * s[:, None]))
        return codes, torch.where(none, 0.0, product.inverses[t] * self._powers[127 + e])

    def _normed(self, x: Tensor, product: _Product) -> tuple[Tensor, Tensor]:
        codes, unit = self._input(x.float(), product)
        return codes, unit * self._inverse_rms(x)

    def _add(
        self, x: Tensor, e: Tensor, product: _Product, codes: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._sum(x, e, product(codes) * product.rows * unit[:, None])

    def _sum(self, x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """1.1: x · 2^e + t, rows of int32 and of float32."""
        t = t.clamp(-float(kernels.HUGE), float(kernels.HUGE))
        above = torch.frexp(t.abs().amax(-1))[1].long()
        raised = torch.maximum(e, above - kernels.LARGEST_BITS)
        x = _shifted(x, (raised - e).clamp(max=31))
        x = x + torch.round(t * self._powers[127 - raised, None]).to(torch.int32)
        over = (x.abs().amax(-1) > kernels.LARGEST).long()
        return _shifted(x, over), raised + over

    def _inverse_rms(self, x: Tensor) -> Tensor:
        """1.5: of int32[N, d], float32[N]."""
        shift = (_bit_length(x.abs().amax(-1)) - 24).clamp(min=0)
        y = (x >> shift[:, None].int()).long()
        n = self._inverse_root((y * y).sum(-1), x.shape[-1])
        return n * self._powers[127 - shift]

    def _inverse_root(self, total: Tensor, count: int) -> Tensor:
        mean = torch.div(total, count, rounding_mode="floor").clamp(min=1)
        bits = _bit_length(mean)
        up = torch.where(bits < 51, (52 - bits) >> 1, 0)
        down = torch.where(bits > 52, (bits - 51) >> 1, 0)
        v = (mean << (up << 1)) >> (down << 1)
        root = v.double().sqrt().long()
        root -= (root * root > v).long()
        root += ((root + 1) * (root + 1) <= v).long()
        n = torch.div(1 << 50, root, rounding_mode="floor").float()
        return n * self._powers[127 + up - down - 50]


class DeviceHead:
    """As network.Head."""

    def __init__(self, network: DeviceNetwork, x: Tensor) -> None:
        self._network = network
        self._codes, self._unit = network._normed(x, network._head)

    @property
    def states(self) -> NDArray[np.float32]:
        """What is multiplied, at any scale: float32[N, d]."""
        return states(self._network._operands.head, self._codes.cpu().numpy())

    def _sums(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Masses of all symbols, summed up: int64[·, V]; and the factor that makes them tables."""
        head, V = self._network._head, self._network._operands.vocab_size
        t = head(self._codes[first:last]) * head.rows * self._unit[first:last, None]
        z = _looked_up(t, self._network._softcap)
        d = (z.amax(-1, keepdim=True) - z).to(torch.int32)
        mass = (_power(d) << 14) >> (d >> EXPONENT_BITS).clamp(max=31)
        sums = mass.cumsum(-1, dtype=torch.int64)
        factor = torch.div((TOTAL - V) << 32, sums[:, -1:], rounding_mode="floor")
        return sums, factor

    def cumulative(self, out: Longs) -> None:
        """Fill in the coder's tables, int64[N, V+1]."""
        V = out.shape[1] - 1
        counts = torch.arange(1, V + 1, device=self._codes.device)
        for first in range(0, len(self._codes), _HEAD_ROWS):
            sums, factor = self._sums(first, first + _HEAD_ROWS)
            table = ((sums * factor) >> 32) + counts
            out[first : first + len(table), 1:] = table.cpu().numpy()
        out[:, 0], out[:, V] = 0, TOTAL

    def intervals(self, symbols: Longs, row: int = 0) -> tuple[Longs, Longs]:
        """Where the tables from `row` on begin and end the symbols int64[k]: two of int64[k]."""
        V = self._network._operands.vocab_size
        if len(symbols) and not 0 <= symbols.min() <= symbols.max() < V:
            raise IndexError("a symbol is not in the vocabulary")
        starts, stops = np.empty(len(symbols), np.int64), np.empty(len(symbols), np.int64)
        for first in range(0, len(symbols), _HEAD_ROWS):
            last = min(first + _HEAD_ROWS, len(symbols))
            sums, factor = self._sums(row + first, row + last)
            symbol = torch.from_numpy(symbols[first:last]).to(sums.device)[:, None]
            after = sums.gather(1, symbol)
            before = torch.where(symbol > 0, sums.gather(1, (symbol - 1).clamp(min=0)), 0)
            start, stop = (((s * factor) >> 32) + symbol for s in (before, after))
            stop = torch.where(symbol == V - 1, TOTAL, stop + 1)
            starts[first:last] = start[:, 0].cpu().numpy()
            stops[first:last] = stop[:, 0].cpu().numpy()
        return starts, stops


def _looked_up(t: Tensor, table: Tensor) -> Tensor:
    """7: t / 2^16 in a table of tanh, between its entries: int64."""
    end = float((CAP_REACH << 16) - 1)
    u = torch.round(t.clamp(-end, end)).to(torch.int32)
    entry = table[(u.abs() >> CAP_STEP_BITS).long()]
    fraction = u.abs() & ((1 << CAP_STEP_BITS) - 1)
    z = (entry >> 32) + _half_up((entry & 0xFFFFFFFF) * fraction, CAP_STEP_BITS)
    return torch.where(u < 0, -z, z)


def _excluded(total: Tensor, own: Tensor) -> Tensor:
    """5.4: integers in float32 [..., h] without their part along `own`."""
    y, v = total.long(), own.long()
    square = (v * v).sum(-1, keepdim=True)
    along = (y * v).sum(-1, keepdim=True) << kernels.SHARE_BITS
    share = torch.div(along, square.clamp(min=1), rounding_mode="floor")
    return (y - _half_up(share * v, kernels.SHARE_BITS)).float()


def _fixed(t: Tensor) -> Tensor:
    limit = float(kernels.LARGEST)
    return torch.round(t.clamp(-limit, limit)).to(torch.int32)


def _shifted(x: Tensor, shift: Tensor) -> Tensor:
    """Rows of int32 [N, d], rounded half up to 2^shift [N]."""
    half = torch.where(shift > 0, 1 << (shift - 1).clamp(min=0), 0)
    return (x + half[:, None].to(torch.int32)) >> shift[:, None].to(torch.int32)


def _half_up(x: Tensor, bits: int) -> Tensor:
    return (x + (1 << bits - 1)) >> bits


def _exponent(largest: Tensor) -> tuple[Tensor, Tensor]:
    """(e, t) with 2^e·(8+t)/8 ≤ x < 2^e·(9+t)/8; for 0 anything in range."""
    mantissa, e = torch.frexp(largest)
    return (e.long() - 1).clamp(-126, 126), ((mantissa * 16).long() - 8).clamp(0, 7)


def _bit_length(x: Tensor) -> Tensor:
    """int64, of integers that are not negative."""
    powers = 1 << torch.arange(62, device=x.device)
    return (x[..., None] >= powers).sum(-1)


def _power(d: Tensor) -> Tensor:
    """1.6: 2^-x · 2^16 for x the fraction of d ≥ 0: int32."""
    a, b, c = kernels.LOG2
    f = d & ((1 << EXPONENT_BITS) - 1)
    return 65536 - (f * (a - (f * (b - (f * c >> 12)) >> 12)) >> 12)
