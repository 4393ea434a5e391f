"""Run a network in exact arithmetic by torch operations, for a GPU: the bits of cpu.py.

Each operation of docs/exact.md becomes a torch operation on integers, or a single product of
float32 numbers in a kernel of its own, so that nothing can be fused. Matrices are multiplied in
float32 without TF32. Every matrix is tried out once, and attention in its real sizes, as the
library may choose to disobey.

Legend: L lanes, S tokens per lane and block, N = L·S rows, V vocabulary, d width, H heads, G
key/value heads, h head width, n keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairway.exact.attention_check import check_attention
from fairway.exact.bookkeeping import Block, Bookkeeping, Head, Longs
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
    RESIDUAL_BITS,
    ROTARY_BITS,
    SHARE_BITS,
    SMALLEST,
    WEIGHT_BITS,
    ZERO_EXPONENT,
)
from fairway.exact.operands import Floats, Layer, Linear, Operands
from fairway.floating_point import inexact_matmul
from fairway.formats.range_coder import TOTAL

_HEAD_ROWS = 2048  # rows whose logits are on the device at a time
_TEST_ROWS = 64
_NO_KEY = -(1 << 30)  # a score below all others
_NO_EXPONENT = -128  # an exponent below all others


class _DeviceLinear:
    """A Linear on the device."""

    def __init__(self, linear: Linear, device: torch.device) -> None:
        self._slices = [torch.from_numpy(weights).to(device) for weights in linear.slices]
        self.rows, self.columns, self.scales, self.inverses = (
            torch.from_numpy(values).to(device)
            for values in (linear.rows, linear.columns, linear.scales, linear.inverses)
        )
        codes, exact = (torch.from_numpy(x).to(device) for x in linear.test_case(_TEST_ROWS))
        if not torch.equal(self.matmul(codes), exact):
            raise inexact_matmul("this device")

    def matmul(self, codes: Tensor) -> Tensor:
        """Return Σ_j codes · weights for integers [N, n]: float32[N, m]."""
        if len(self._slices) == 1:
            return codes @ self._slices[0].T
        total = torch.zeros(len(codes), len(self.rows), dtype=torch.int32, device=codes.device)
        first = 0
        for weights in self._slices:
            last = first + weights.shape[1]
            total += (codes[:, first:last] @ weights.T).to(torch.int32)
            first = last
        return total.to(torch.float32)

    def output(self, codes: Tensor, token_scale: Tensor) -> Tensor:
        """Return the map of the inputs that the codes stand for, float32[N, m]."""
        return self.matmul(codes) * self.rows * token_scale[:, None]


class DeviceOperands:
    """Operands on a device, shared by all networks there. Raises BadInput."""

    def __init__(self, operands: Operands, device: torch.device) -> None:
        self.operands, self.device = operands, device
        torch.backends.cuda.matmul.allow_tf32 = False  # sets fp32_precision, too
        check_attention(operands.shape, device)
        self.powers, self.head_scales = self.tensor(POWERS), self.tensor(HEAD_SCALES)
        tables = operands.tables
        self.cosines, self.sines = self.tensor(tables.cosines), self.tensor(tables.sines)
        self.softcap_table, self.gate_table = self.tensor(tables.softcap), self.tensor(tables.gate)
        self.embedding = self.tensor(operands.embedding)
        self._linears: dict[int, _DeviceLinear] = {}
        self.head = self.linear(operands.head)
        self.bigram = self.optional(operands.bigram)
        self.smear_gate = None if operands.smear_gate is None else self.tensor(operands.smear_gate)
        self.layers = [_DeviceLayer(self, layer) for layer in operands.layers]

    def tensor(self, values: np.ndarray[Any, Any]) -> Tensor:
        """Copy an array to the device."""
        return torch.from_numpy(values).to(self.device)

    def linear(self, linear: Linear) -> _DeviceLinear:
        """Copy a linear map to the device, once if several passes share it."""
        if id(linear) not in self._linears:
            self._linears[id(linear)] = _DeviceLinear(linear, self.device)
        return self._linears[id(linear)]

    def optional(self, linear: Linear | None) -> _DeviceLinear | None:
        """Copy a linear map to the device where the network has it."""
        return None if linear is None else self.linear(linear)


class _DeviceLayer:
    """A Layer on the device."""

    def __init__(self, on: DeviceOperands, layer: Layer) -> None:
        self.qkv, self.o = on.linear(layer.qkv), on.linear(layer.o)
        self.up, self.down = on.linear(layer.up), on.linear(layer.down)
        self.gate = on.optional(layer.gate)
        self.exclusive, self.parallel = layer.exclusive, layer.parallel
        self.score_scales, self.mix = on.tensor(layer.score_scales), on.tensor(layer.mix)
        self.skip = None if layer.skip is None else on.tensor(layer.skip)


class DeviceNetwork:
    """As cpu.Network, on a device: `lanes` lanes that advance together, in blocks of any size."""

    def __init__(self, on_device: DeviceOperands, lanes: int) -> None:
        self._on, self._operands = on_device, on_device.operands
        self._powers, self._layers = on_device.powers, on_device.layers
        self._bookkeeping = Bookkeeping(self._operands, lanes)
        # Of the last window - 1 positions, per pass: keys, values, exponents of values.
        self._memory: list[tuple[Tensor, Tensor, Tensor] | None] = [None] * len(self._layers)
        self._embedding = torch.zeros_like(on_device.embedding[:1]).repeat(lanes, 1)  # the last's

    @property
    def lanes(self) -> int:
        """The number of lanes that are left."""
        return self._bookkeeping.lanes

    def shrink_batch(self, lanes: int) -> None:
        """Keep the first `lanes` lanes only."""
        self._bookkeeping.shrink_batch(lanes)
        self._memory = [m and (m[0][:lanes], m[1][:lanes], m[2][:lanes]) for m in self._memory]
        self._embedding = self._embedding[:lanes]

    def forward(self, tokens: Longs) -> Head:
        """Take int64[L, S] as the next tokens; return the last layer's output."""
        block = self._bookkeeping.advance(tokens)
        x = x0 = self._smeared(self._embedded(block), block)
        e = zeros = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        angles = self._on.tensor(block.angles(self._operands.tables.turns))[:, None]
        rotation = self._on.cosines[angles], self._on.sines[angles]  # [N, 1, h/2]
        reach = self._reach(block)
        stack: list[tuple[Tensor, Tensor]] = []
        for i, layer in enumerate(self._layers):
            if layer.skip is not None:
                skipped, scale = stack.pop()
                x, e = self._sum(x, e, skipped.float() * layer.skip * self._power(scale)[:, None])
            kept = x.float() * layer.mix[0] * self._power(e)[:, None]
            x, e = self._sum(torch.zeros_like(x), zeros, kept)
            x, e = self._sum(x, e, x0.float() * layer.mix[1])
            y = self._attention(i, x, rotation, reach)
            mlp_input = self._normed_input(x, layer.up) if layer.parallel else None
            x, e = self._sum(x, e, layer.o.output(*self._input(y, layer.o)))
            mlp_input = mlp_input or self._normed_input(x, layer.up)
            hidden = self._activated(layer.up.output(*mlp_input))
            x, e = self._sum(x, e, layer.down.output(*self._input(hidden * hidden, layer.down)))
            if i < len(self._layers) // 2:
                stack.append((x, e))
        return _DeviceHead(self, x)

    def _power(self, exponents: Tensor | int) -> Tensor:
        """Return 2^e in float32 for |e| ≤ 127."""
        return self._powers[127 + exponents]

    def _reach(self, block: Block) -> Tensor:
        """Return which keys each token attends to: bool[L, S, n]."""
        window, positions = self._operands.shape.window, block.positions
        keys = np.arange(max(0, positions[0] - (window - 1)), positions[-1] + 1)
        low = np.maximum(block.starts, positions - window + 1)
        return self._on.tensor((keys >= low[..., None]) & (keys <= positions[:, None]))

    def _activated(self, z: Tensor) -> Tensor:
        """Return what the MLP squares: relu(z), or max(z, z/2)."""
        limit = float(HUGE_ROOT)
        if self._operands.shape.activation == "relu2":
            return z.clamp(0, limit)
        z = z.clamp(-limit, limit)
        return torch.maximum(z, z * 0.5)

    def _gate(self, linear: _DeviceLinear, codes: Tensor, token_scale: Tensor) -> Tensor:
        """Return σ with GATE_BITS, float32[N, m]."""
        t = linear.output(codes, token_scale)
        return (_interpolated(t, self._on.gate_table) + (1 << GATE_BITS - 1)).float()

    def _embedded(self, block: Block) -> Tensor:
        """Return the normalised embeddings, int32[N, d], RESIDUAL_BITS."""
        p = self._operands
        x = self._on.embedding[self._on.tensor(block.tokens.reshape(-1))]
        if self._on.bigram is not None:
            assert p.bigram_codes is not None
            assert p.bigram_scales is not None
            rows = block.bigram_rows.reshape(-1)
            codes, token_scale = self._input(self._on.tensor(p.bigram_codes[rows]), self._on.bigram)
            token_scale = token_scale * self._on.tensor(p.bigram_scales[rows])
            zeros = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            x, _ = self._sum(x, zeros, self._on.bigram.output(codes, token_scale))
        n = self._inverse_rms(x) * self._power(RESIDUAL_BITS)
        return _fixed(x.float() * n[:, None])

    def _smeared(self, x: Tensor, block: Block) -> Tensor:
        gate = self._on.smear_gate
        if gate is None:
            return x
        by_lane = x.view(*block.tokens.shape, -1)
        previous = torch.cat([self._embedding[:, None], by_lane[:, :-1]], 1).reshape(x.shape)
        self._embedding = by_lane[:, -1]
        first = self._on.tensor(block.document_first.reshape(-1, 1))
        return x + _fixed(torch.where(first, 0, previous - x).float() * gate)

    def _attention(
        self, i: int, x: Tensor, rotation: tuple[Tensor, Tensor], reach: Tensor
    ) -> Tensor:
        """Return the input of the output projection of pass i, float32[N, H·h]."""
        shape, layer = self._operands.shape, self._layers[i]
        H, G, h = shape.num_heads, shape.num_kv_heads, shape.head_dim
        L, S = reach.shape[:2]
        codes, token_scale = self._normed_input(x, layer.qkv)
        y = (layer.qkv.matmul(codes) * layer.qkv.rows).view(len(x), H + 2 * G, h)
        rotated = self._rotated(y[:, : H + G], *rotation)
        v, e = self._values(y[:, H + G :] * token_scale[:, None, None])
        q = rotated[:, :H].view(L, S, G, H // G, h).permute(0, 2, 3, 1, 4)
        k = rotated[:, H:].view(L, S, G, h).transpose(1, 2)
        v, e = v.view(L, S, G, h).transpose(1, 2), e.view(L, S, G).transpose(1, 2)
        own, memory = v, self._memory[i]
        if memory is not None:
            k, v, e = (torch.cat([old, new], 2) for old, new in zip(memory, (k, v, e), strict=True))
        keep = shape.window - 1
        self._memory[i] = k[:, :, -keep:], v[:, :, -keep:], e[:, :, -keep:]
        dots = q.reshape(L, G, -1, h) @ k.mT
        scores = dots.view(L, G, H // G, S, -1)
        scale = layer.score_scales.view(G, H // G, 1, 1)
        allowed = reach[:, None, None]
        z = torch.where(allowed, torch.round(scores * scale).to(torch.int32), _NO_KEY)
        d = z.amax(-1, keepdim=True) - z
        mass = torch.where(allowed, _two_to_minus(d), 0)
        total = mass.sum(-1, keepdim=True, dtype=torch.int64)
        share = torch.div(1 << WEIGHT_BITS + RECIPROCAL_BITS, total, rounding_mode="floor").float()
        exponents = torch.where(allowed, e[:, :, None, None], _NO_EXPONENT)  # [L, G, 1, S, n]
        top = exponents.amax(-1, keepdim=True)
        gap = (exponents - top).clamp(min=ZERO_EXPONENT)
        share = share * self._power(-RECIPROCAL_BITS)
        weight = torch.round(mass.float() * share * self._power(gap))
        y = (weight.reshape(L, G, -1, weight.shape[-1]) @ v).view(L, G, H // G, S, h)
        if layer.exclusive:
            y = _excluded(y, own[:, :, None])
        y = y * self._power(top - WEIGHT_BITS)
        y = y.permute(0, 3, 1, 2, 4).reshape(len(x), H, h)
        if layer.gate is not None:
            gate = self._gate(layer.gate, *self._normed_input(x, layer.gate))
            y = y * (gate * self._power(-GATE_BITS))[..., None]
        return y.reshape(len(x), H * h)

    def _rotated(self, y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Normalise and rotate queries and keys [N, ·, h]; integers in float32."""
        largest = y.abs().amax(-1)
        e, t = _exponent(largest)
        s = self._on.head_scales[t] * self._power(-e)
        u = torch.round(y * s[..., None]).to(torch.int64)
        n = self._inverse_root((u * u).sum(-1), y.shape[-1]) * self._power(NORMED_BITS)
        a, b = torch.round(u.float() * n[..., None]).to(torch.int32).chunk(2, -1)
        both = torch.cat([a * cos + b * sin, b * cos - a * sin], -1)
        rotated = _half_up(both, NORMED_BITS + ROTARY_BITS - self._operands.normed_bits).float()
        return torch.where(_is_zero(largest)[..., None], 0.0, rotated)

    def _values(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize values [N, G, h]: integers in float32, and exponents [N, G]."""
        largest = v.abs().amax(-1)
        e = torch.frexp(largest)[1].long() - 8  # codes up to 256
        e += largest * self._power(-e.clamp(-127, 127)) > self._operands.largest_value
        zero = _is_zero(largest)
        e = torch.where(zero, ZERO_EXPONENT, e)
        codes = torch.round(v * self._power(-e)[..., None])
        return torch.where(zero[..., None], 0.0, codes), e

    def _input(self, x: Tensor, linear: _DeviceLinear) -> tuple[Tensor, Tensor]:
        """Quantize x float32[N, n]: integers in float32, and each row's scale."""
        a = x * linear.columns
        largest = a.abs().amax(-1)
        e, t = _exponent(largest)
        s = linear.scales[t] * self._power(-e)
        zero = _is_zero(largest)
        codes = torch.where(zero[:, None], 0.0, torch.round(a * s[:, None]))
        return codes, torch.where(zero, 0.0, linear.inverses[t] * self._power(e))

    def _normed_input(self, x: Tensor, linear: _DeviceLinear) -> tuple[Tensor, Tensor]:
        """Quantize x / rms(x) of int32[N, d]: integers in float32, and each row's scale."""
        codes, token_scale = self._input(x.float(), linear)
        return codes, token_scale * self._inverse_rms(x)

    def _sum(self, x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x, e) of x · 2^e + t, for rows of int32 x and float32 t."""
        t = t.clamp(-float(HUGE), float(HUGE))
        above = torch.frexp(t.abs().amax(-1))[1].long()
        raised = torch.maximum(e, above - LARGEST_BITS)
        x = _shifted(x, (raised - e).clamp(max=31))
        x = x + torch.round(t * self._power(-raised)[:, None]).to(torch.int32)
        over = (x.abs().amax(-1) > LARGEST).long()
        return _shifted(x, over), raised + over

    def _inverse_rms(self, x: Tensor) -> Tensor:
        """Return 1 / sqrt(mean(x²)) of int32[N, d]: float32[N]."""
        shift = (_bit_length(x.abs().amax(-1)) - 24).clamp(min=0)
        y = (x >> shift[:, None].int()).long()
        n = self._inverse_root((y * y).sum(-1), x.shape[-1])
        return n * self._power(-shift)

    def _inverse_root(self, total: Tensor, count: int) -> Tensor:
        """Return 1 / sqrt(total / count) of int64 in float32, by an integer square root."""
        mean = torch.div(total, count, rounding_mode="floor").clamp(min=1)
        bits = _bit_length(mean)
        up = torch.where(bits < 51, (52 - bits) >> 1, 0)
        down = torch.where(bits > 52, (bits - 51) >> 1, 0)
        v = (mean << (up << 1)) >> (down << 1)
        root = v.double().sqrt().long()
        root -= (root * root > v).long()
        root += ((root + 1) * (root + 1) <= v).long()
        n = torch.div(1 << 50, root, rounding_mode="floor").float()
        return n * self._power(up - down - 50)


class _DeviceHead(Head):
    def __init__(self, network: DeviceNetwork, x: Tensor) -> None:
        super().__init__(network._operands, len(x), _HEAD_ROWS)
        self._on_device = network._on
        self._codes, self._unit = network._normed_input(x, self._on_device.head)

    def _codes_on_cpu(self) -> Floats:
        codes: Floats = self._codes.cpu().numpy()
        return codes

    def _sums(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return the summed masses of all symbols, int64[·, V], and the factor to frequencies."""
        t = self._on_device.head.output(self._codes[first:last], self._unit[first:last])
        z = _interpolated(t, self._on_device.softcap_table)
        d = (z.amax(-1, keepdim=True) - z).to(torch.int32)
        sums = _two_to_minus(d, MASS_BITS).cumsum(-1, dtype=torch.int64)
        total = (TOTAL - self._vocab_size) << 32
        return sums, torch.div(total, sums[:, -1:], rounding_mode="floor")

    def _fill(self, first: int, last: int, out: Longs) -> None:
        sums, factor = self._sums(first, last)
        counts = torch.arange(1, self._vocab_size + 1, device=sums.device)
        out[:, 1:] = (((sums * factor) >> 32) + counts).cpu().numpy()
        out[:, 0], out[:, -1] = 0, TOTAL

    def _bounds(self, first: int, last: int, symbols: Longs) -> tuple[Longs, Longs]:
        sums, factor = self._sums(first, last)
        symbol = torch.from_numpy(symbols).to(sums.device)[:, None]
        after = sums.gather(1, symbol)
        before = torch.where(symbol > 0, sums.gather(1, (symbol - 1).clamp(min=0)), 0)
        start, stop = (((s * factor) >> 32) + symbol for s in (before, after))
        stop = torch.where(symbol == self._vocab_size - 1, TOTAL, stop + 1)
        return start[:, 0].cpu().numpy(), stop[:, 0].cpu().numpy()


def _interpolated(t: Tensor, table: Tensor) -> Tensor:
    """Interpolate a table of multiples of tanh at t / 2^CAP_BITS: int64."""
    end = float((CAP_REACH << CAP_BITS) - 1)
    u = torch.round(t.clamp(-end, end)).to(torch.int32)
    entry = table[(u.abs() >> CAP_STEP_BITS).long()]
    fraction = u.abs() & ((1 << CAP_STEP_BITS) - 1)
    z = (entry >> 32) + _half_up((entry & 0xFFFFFFFF) * fraction, CAP_STEP_BITS)
    return torch.where(u < 0, -z, z)


def _excluded(total: Tensor, own: Tensor) -> Tensor:
    """Subtract from `total` its part along `own`; both are integers in float32 [..., h]."""
    y, v = total.long(), own.long()
    square = (v * v).sum(-1, keepdim=True)
    along = (y * v).sum(-1, keepdim=True) << SHARE_BITS
    share = torch.div(along, square.clamp(min=1), rounding_mode="floor")
    return (y - _half_up(share * v, SHARE_BITS)).float()


def _fixed(t: Tensor) -> Tensor:
    """Round float32 to int32; saturate at LARGEST."""
    limit = float(LARGEST)
    return torch.round(t.clamp(-limit, limit)).to(torch.int32)


def _shifted(x: Tensor, shift: Tensor) -> Tensor:
    """Divide rows of int32[N, d] by 2^shift[N], rounded half up."""
    half = torch.where(shift > 0, 1 << (shift - 1).clamp(min=0), 0)
    return (x + half[:, None].to(torch.int32)) >> shift[:, None].to(torch.int32)


def _half_up(x: Tensor, bits: int) -> Tensor:
    """Divide by 2^bits, rounded half up."""
    return (x + (1 << bits - 1)) >> bits


def _is_zero(largest: Tensor) -> Tensor:
    """Return whether a vector of this largest magnitude counts as zero."""
    return largest < float(SMALLEST)


def _exponent(largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return (e, t) with 2^e·(8+t)/8 ≤ x < 2^e·(9+t)/8; anything in range for x = 0."""
    mantissa, e = torch.frexp(largest)
    return (e.long() - 1).clamp(-126, 126), ((mantissa * 16).long() - 8).clamp(0, 7)


def _bit_length(x: Tensor) -> Tensor:
    """Return the bits of integers that are not negative, int64."""
    powers = 1 << torch.arange(62, device=x.device)
    return (x[..., None] >= powers).sum(-1)


def _two_to_minus(d: Tensor, bits: int = POWER_BITS) -> Tensor:
    """Return 2^(bits - d / 2^EXPONENT_BITS) of d ≥ 0, int32."""
    a, b, c = POWER_POLYNOMIAL
    f = d & ((1 << EXPONENT_BITS) - 1)
    inner = b - (f * c >> EXPONENT_BITS)
    power = (1 << POWER_BITS) - (f * (a - (f * inner >> EXPONENT_BITS)) >> EXPONENT_BITS)
    return (power << bits - POWER_BITS) >> (d >> EXPONENT_BITS).clamp(max=31)
