"""Run a network in exact arithmetic on a CPU: blocks of tokens to integer frequencies.

A block may be one token of many lanes (decoding) or many tokens of one lane (encoding, scoring).
Both go through the same function and give the same bits. BLAS multiplies the matrices, kernels.py
does the rest.

Legend: L lanes, S tokens per lane and block, N = L·S rows, V vocabulary, d width.
"""

from __future__ import annotations

import numpy as np
import torch

from fairway.exact import kernels
from fairway.exact.bookkeeping import Block, Bookkeeping, Head, Longs
from fairway.exact.fixed_point import RESIDUAL_BITS
from fairway.exact.operands import Floats, Ints, Linear, Operands
from fairway.floating_point import inexact_matmul

_TEST_ROWS = 17
_HEAD_ROWS = 32  # the logits of these rows stay in the processor's cache
_NO_SKIP: Floats = np.zeros(0, np.float32)


class Network:
    """An artifact's network with the memory of `lanes` lanes that advance together.

    block: the most tokens per lane that one call takes. Rings hold window + block - 1 positions,
    so that the new keys of a block replace no key that the block needs.
    """

    def __init__(self, operands: Operands, lanes: int, block: int) -> None:
        shape = operands.shape
        self._operands, self._block = operands, block
        self._bookkeeping = Bookkeeping(operands, lanes)
        slots, h = shape.window + block - 1, shape.head_dim
        ring = (len(shape.passes), lanes, shape.num_kv_heads)
        self._keys = np.zeros((*ring, h, slots), np.int16)
        self._values = np.zeros((*ring, h, slots), np.int16)
        self._value_scales = np.ones((*ring, slots), np.float32)  # what a code of 1 is worth
        self._embedding = np.zeros((lanes, shape.dim), np.int32)  # the last token's, normed

    @property
    def lanes(self) -> int:
        """The number of lanes that are left."""
        return self._bookkeeping.lanes

    def shrink_batch(self, lanes: int) -> None:
        """Keep the first `lanes` lanes only."""
        self._bookkeeping.shrink_batch(lanes)
        self._keys, self._values = self._keys[:, :lanes], self._values[:, :lanes]
        self._value_scales, self._embedding = self._value_scales[:, :lanes], self._embedding[:lanes]

    def forward(self, tokens: Longs) -> Head:
        """Take int64[L, S], S ≤ block, as the next tokens; return the last layer's output."""
        if self._block < tokens.shape[1]:
            raise ValueError(f"a block of {tokens.shape[1]} tokens would overwrite keys it needs")
        p, N = self._operands, tokens.size
        block = self._bookkeeping.advance(tokens)
        x = self._smear(self._embed(block), block)
        x0, e, t = x.copy(), np.zeros(N, np.int32), np.empty(p.shape.dim, np.float32)
        angles = block.angles(p.tables.turns)
        rotation = p.tables.cosines[angles], p.tables.sines[angles]
        leaky = p.shape.activation == "leaky2"
        activate = kernels.leaky_squared if leaky else kernels.relu_squared
        stack = list[tuple[Ints, Ints]]()
        for i, layer in enumerate(p.layers):
            skip, skipped = (_NO_SKIP, (x, e)) if layer.skip is None else (layer.skip, stack.pop())
            kernels.mix(x, e, x0, layer.mix, skip, *skipped, t)
            y = self._attention(i, x, block, rotation)
            mlp_input = _normed_input(x, layer.up) if layer.parallel else None
            _add(x, e, layer.o, *_input(y, layer.o))
            codes, token_scale = mlp_input or _normed_input(x, layer.up)
            hidden = _matmul(codes, layer.up)
            activate(hidden, layer.up.rows, token_scale)
            _add(x, e, layer.down, *_input(hidden, layer.down))
            if i < len(p.layers) // 2:
                stack.append((x.copy(), e.copy()))
        return _Head(p, x)

    def _embed(self, block: Block) -> Ints:
        """Return the normalised embeddings, int32[N, d], RESIDUAL_BITS."""
        p = self._operands
        x = p.embedding[block.tokens.reshape(-1)]
        if p.bigram is not None:
            assert p.bigram_codes is not None
            assert p.bigram_scales is not None
            rows = block.bigram_rows.reshape(-1)
            codes, token_scale = _table_input(rows, p.bigram_codes, p.bigram_scales, p.bigram)
            no_exponents = np.zeros(len(x), np.int32)  # they stay 0: x is normalised at once
            _add(x, no_exponents, p.bigram, codes, token_scale)
        kernels.normalize(x, RESIDUAL_BITS)
        return x

    def _smear(self, x: Ints, block: Block) -> Ints:
        gate = self._operands.smear_gate
        if gate is None:
            return x
        by_lane = x.reshape(*block.tokens.shape, -1)
        previous = np.concatenate([self._embedding[:, None], by_lane[:, :-1]], 1).reshape(x.shape)
        self._embedding = by_lane[:, -1].copy()
        out, first = np.empty_like(x), block.document_first.reshape(-1)
        kernels.smear(x, previous, first, gate, out)
        return out

    def _attention(self, i: int, x: Ints, block: Block, rotation: tuple[Ints, Ints]) -> Floats:
        """Return the input of the output projection of pass i, float32[N, H·h]."""
        p, shape = self._operands, self._operands.shape
        layer, H, h, first = p.layers[i], shape.num_heads, shape.head_dim, block.positions[0]
        keys, values, value_scales = self._keys[i], self._values[i], self._value_scales[i]
        codes, token_scale = _normed_input(x, layer.qkv)
        acc, rows = _matmul(codes, layer.qkv), layer.qkv.rows
        queries = np.empty((len(x), H, h), np.float32)
        kernels.rotate_heads(acc, rows, first, *rotation, p.normed_bits, queries, keys)
        kernels.store_values(acc, rows, token_scale, first, p.largest_value, values, value_scales)
        y = np.empty((len(x), H * h), np.float32)
        kernels.attend(
            queries, keys, values, value_scales, block.starts.reshape(-1), first, shape.window,
            layer.score_scales, layer.exclusive, y,
        )  # fmt: skip
        if layer.gate is not None:
            codes, token_scale = _normed_input(x, layer.gate)
            kernels.gate_heads(
                _matmul(codes, layer.gate), layer.gate.rows, token_scale, p.tables.gate, y
            )
        return y


class _Head(Head):
    def __init__(self, operands: Operands, x: Ints) -> None:
        super().__init__(operands, len(x), _HEAD_ROWS)
        self._table = operands.tables.softcap
        self._codes, self._unit = _normed_input(x, self._linear)

    def _codes_on_cpu(self) -> Floats:
        return self._codes

    def _logits(self, first: int, last: int) -> Ints:
        acc = _matmul(self._codes[first:last], self._linear)
        out = np.empty(acc.shape, np.int32)
        kernels.logits(acc, self._linear.rows, self._unit[first:last], self._table, out)
        return out

    def _fill(self, first: int, last: int, out: Longs) -> None:
        kernels.cumulative(self._logits(first, last), out)

    def _bounds(self, first: int, last: int, symbols: Longs) -> tuple[Longs, Longs]:
        starts, stops = np.empty((2, len(symbols)), np.int64)
        kernels.intervals(self._logits(first, last), symbols, starts, stops)
        return starts, stops


def check_matmuls(operands: Operands) -> None:
    """Raise BadInput where this process does not multiply an artifact's matrices exactly.

    A library may choose other code for other shapes, so each matrix is tried with one row of
    inputs and with many.
    """
    for linear in {id(linear): linear for linear in operands.linears()}.values():
        codes, exact = linear.test_case(_TEST_ROWS)
        for first in (0, _TEST_ROWS - 1):
            if not np.array_equal(_matmul(codes[first:], linear), exact[first:]):
                raise inexact_matmul("this process")


def _matmul(codes: Floats, linear: Linear) -> Floats:
    """Return Σ_j codes · weights for integers [N, n]: float32[N, m].

    The sum over one slice is exact; the sum over several is rounded to float32 once.
    """
    if len(linear.slices) == 1:
        return _mm(codes, linear.slices[0])
    total = np.zeros((len(codes), len(linear.rows)), np.int32)
    first = 0
    for weights in linear.slices:
        last = first + weights.shape[1]
        total += _mm(np.ascontiguousarray(codes[:, first:last]), weights).astype(np.int32)
        first = last
    return total.astype(np.float32)


def _mm(a: Floats, b: Floats) -> Floats:
    """Return a·bᵀ; every partial sum is an integer under 2^24, so any BLAS gives these bits."""
    out: Floats = torch.mm(torch.from_numpy(a), torch.from_numpy(b).t()).numpy()
    return out


def _normed_input(x: Ints, linear: Linear) -> tuple[Floats, Floats]:
    """Quantize x / rms(x): codes float32[N, n] and each row's scale, float32[N]."""
    codes, token_scale = np.empty(x.shape, np.float32), np.empty(len(x), np.float32)
    scratch = np.empty(x.shape[1], np.float32)
    kernels.norm_input(x, *_scaling(linear), scratch, codes, token_scale)
    return codes, token_scale


def _table_input(
    rows: Longs, table: Floats, scales: Floats, linear: Linear
) -> tuple[Floats, Floats]:
    """Quantize rows of a table: codes float32[N, n] and each row's scale, float32[N]."""
    n = table.shape[1]
    codes, token_scale = np.empty((len(rows), n), np.float32), np.empty(len(rows), np.float32)
    scratch = np.empty(n, np.float32)
    kernels.table_input(rows, table, scales, *_scaling(linear), scratch, codes, token_scale)
    return codes, token_scale


def _input(y: Floats, linear: Linear) -> tuple[Floats, Floats]:
    """Quantize y, overwriting it: codes float32[N, n] and each row's scale, float32[N]."""
    codes, token_scale = np.empty_like(y), np.empty(len(y), np.float32)
    kernels.quantize_input(y, *_scaling(linear), codes, token_scale)
    return codes, token_scale


def _scaling(linear: Linear) -> tuple[Floats, Floats, Floats]:
    return linear.columns, linear.scales, linear.inverses


def _add(x: Ints, e: Ints, linear: Linear, codes: Floats, token_scale: Floats) -> None:
    """Add a linear map's output to the rows of the residual stream, x · 2^e, in place."""
    scratch = np.empty(x.shape[1], np.float32)
    kernels.add_scaled(x, e, _matmul(codes, linear), linear.rows, token_scale, scratch)
