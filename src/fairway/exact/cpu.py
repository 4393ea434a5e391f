"""The network in exact arithmetic on a CPU: tokens → integer masses, a block of tokens at a time.

A block may be one token of many lanes (decoding) or many tokens of one lane (encoding, scoring):
the same function, and the same bits. Products go to BLAS, the rest to ops.py.

Legend: L lanes, S tokens per lane and block, N = L·S rows, V vocabulary, d width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fairway.exact import kernels
from fairway.exact.operands import RESIDUAL_BITS, TURN_BITS, Floats, Ints, Operands, Product
from fairway.floating_point import inexact_matmul

_TRIED_ROWS = 17
HEAD_ROWS = 32  # whose logits are made at a time: they stay in the cache
_NO_SKIP: Floats = np.zeros(0, np.float32)

Longs = NDArray[np.int64]


class Network:
    """An artifact's network with the memory of `lanes` lanes that advance together.

    block: the most tokens per lane that one call takes. Rings hold window + block - 1 positions,
    so that a block's new keys replace none that it still needs.
    """

    def __init__(self, operands: Operands, lanes: int, block: int) -> None:
        shape = operands.shape
        self._operands, self.lanes, self._block = operands, lanes, block
        slots, h = shape.window + block - 1, shape.head_dim
        ring = (len(shape.passes), lanes, shape.num_kv_heads)
        self._keys = np.zeros((*ring, h, slots), np.int16)
        self._values = np.zeros((*ring, h, slots), np.int16)
        self._units = np.ones((*ring, slots), np.float32)  # of values: what a code of 1 is worth
        self._position = 0
        self._document = np.zeros(lanes, np.int64)  # where each lane's document starts
        self._token = np.full(lanes, -1, np.int64)  # the last one
        self._embedding = np.zeros((lanes, shape.dim), np.int32)  # its normed embedding

    def shrink_batch(self, lanes: int) -> None:
        """From now on only the first `lanes` lanes exist."""
        self.lanes = lanes
        self._keys, self._values = self._keys[:, :lanes], self._values[:, :lanes]
        self._units, self._document = self._units[:, :lanes], self._document[:lanes]
        self._token, self._embedding = self._token[:lanes], self._embedding[:lanes]

    def forward(self, tokens: Longs) -> Head:
        """Take int64[L, S], S ≤ block, as the next tokens; the last layer's output."""
        p, shape = self._operands, self._operands.shape
        lanes, S = tokens.shape
        if self._block < S:
            raise ValueError(f"a block of {S} tokens would overwrite keys that it needs")
        N, flat = lanes * S, np.ascontiguousarray(tokens).reshape(-1)
        positions = np.arange(self._position, self._position + S)
        starts = self._starts(tokens, positions).reshape(-1)
        before = np.concatenate([self._token[:, None], tokens[:, :-1]], 1).reshape(-1)
        alone = before < 0
        if shape.document_aware:
            alone |= flat == p.bos_id
        x = self._smear(self._embed(flat, before, alone), alone, lanes, S)
        x0, e, t = x.copy(), np.zeros(N, np.int32), np.empty(shape.dim, np.float32)
        pairs = (N, shape.head_dim // 2)
        cos, sin = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
        relative = np.tile(positions, lanes) - starts
        tables = p.tables
        kernels.angles(
            relative, tables.turns, tables.cosines, tables.sines, 64 - TURN_BITS, cos, sin
        )  # fmt: skip
        stack = list[tuple[Ints, Ints]]()
        for i, layer in enumerate(p.layers):
            skip, skipped = (_NO_SKIP, (x, e)) if layer.skip is None else (layer.skip, stack.pop())
            kernels.mix(x, e, x0, layer.mix, skip, *skipped, t, kernels.POWERS)
            y = self._attention(i, x, lanes, starts, cos, sin)
            mlp_input = _norm_input(x, layer.up) if layer.parallel else None
            _add(x, e, layer.o, *_input(y, layer.o))
            codes, tok = mlp_input or _norm_input(x, layer.up)
            hidden = _multiply(layer.up, codes)
            squared = (
                kernels.leaky_squared if shape.activation == "leaky2" else kernels.relu_squared
            )
            squared(hidden, layer.up.rows, tok)
            _add(x, e, layer.down, *_input(hidden, layer.down))
            if i < len(p.layers) // 2:
                stack.append((x.copy(), e.copy()))
        self._position += S
        self._document = starts.reshape(lanes, S)[:, -1].copy()
        self._token = tokens[:, -1].astype(np.int64)
        return Head(p, x)

    def _starts(self, tokens: Longs, positions: Longs) -> Longs:
        """Position of the first token that each one may look at: its document's; int64[L, S]."""
        if not self._operands.shape.document_aware:
            return np.zeros(tokens.shape, np.int64)
        starts = np.where(tokens == self._operands.bos_id, positions, -1)
        starts[:, 0] = np.maximum(starts[:, 0], self._document)
        found: Longs = np.maximum.accumulate(starts, 1)
        return found

    def _embed(self, tokens: Longs, before: Longs, alone: NDArray[np.bool_]) -> Ints:
        p = self._operands
        x = p.embedding[tokens]
        if p.bigram is not None:
            assert p.bigram_codes is not None
            assert p.bigram_scales is not None
            last = len(p.bigram_codes) - 1
            rows = np.zeros_like(tokens)
            if last:
                mixed = np.bitwise_xor(36313 * tokens, 27191 * np.maximum(before, 0)) % last
                rows = np.where(alone, last, mixed)
            found = _table_input(rows, p.bigram_codes, p.bigram_scales, p.bigram)
            _add(x, np.zeros(len(x), np.int32), p.bigram, *found)  # normalised at once
        kernels.normalize(x, RESIDUAL_BITS, kernels.POWERS)
        return x

    def _smear(self, x: Ints, alone: NDArray[np.bool_], lanes: int, S: int) -> Ints:
        p, gate = self._operands, self._operands.smear_gate
        if gate is None and p.smear is None:
            return x
        by_lane = x.reshape(lanes, S, -1)
        before = np.concatenate([self._embedding[:, None], by_lane[:, :-1]], 1).reshape(x.shape)
        self._embedding = by_lane[:, -1].copy()
        out, still = np.empty_like(x), alone & p.shape.document_aware
        if p.smear is None:
            kernels.smear(x, before, still, gate, out)
            return out
        codes, tok = _input(x.astype(np.float32), p.smear)
        kernels.smear_gated(
            x, before, still, _multiply(p.smear, codes), p.smear.rows, tok, p.tables.gate,
            p.smear_strength, out,
        )  # fmt: skip
        return out

    def _attention(
        self, i: int, x: Ints, lanes: int, starts: Longs, cos: Ints, sin: Ints
    ) -> Floats:
        """What goes into the output projection of pass i, float32[N, d]."""
        p, shape = self._operands, self._operands.shape
        layer, H, G, h = p.layers[i], shape.num_heads, shape.num_kv_heads, shape.head_dim
        codes, tok = _norm_input(x, layer.qkv)
        acc = _multiply(layer.qkv, codes)
        queries = np.empty((len(x), H, h), np.float32)
        rings = self._keys[i], self._values[i], self._units[i]
        kernels.heads(
            acc, layer.qkv.rows, tok, H, G, lanes, self._position, cos, sin, p.normed_bits,
            p.largest_value, kernels.HEAD_SCALES, kernels.POWERS, queries, *rings,
        )  # fmt: skip
        y = np.empty((len(x), H * h), np.float32)
        kernels.attend(
            queries, *rings, starts, lanes, self._position, shape.window, layer.score_scales,
            layer.exclusive, kernels.POWERS, y,
        )  # fmt: skip
        if layer.gate is not None:
            codes, tok = _norm_input(x, layer.gate)
            acc = _multiply(layer.gate, codes)
            kernels.gate_heads(acc, layer.gate.rows, tok, p.tables.gate, kernels.POWERS, y)
        return y


class Head:
    """The last layer's output x [N, d], and what its tokens' probabilities are."""

    def __init__(self, operands: Operands, x: Ints) -> None:
        self._head, self._table = operands.head, operands.tables.softcap
        self._vocab_size = operands.vocab_size
        self._codes, self._tok = _norm_input(x, self._head)

    @property
    def states(self) -> Floats:
        """What is multiplied, at any scale: float32[N, d]."""
        return states(self._head, self._codes)

    def logits(self, first: int, last: int) -> Ints:
        """Of some rows: int32[·, V], to base 2, EXPONENT_BITS, the largest of each row 0."""
        acc = _multiply(self._head, self._codes[first:last])
        out = np.empty(acc.shape, np.int32)
        kernels.logits(acc, self._head.rows, self._tok[first:last], self._table, out)
        return out

    def cumulative(self, out: Longs) -> None:
        """Fill in the coder's tables, int64[N, V+1]."""
        for first in range(0, len(self._codes), HEAD_ROWS):
            last = min(first + HEAD_ROWS, len(self._codes))
            kernels.cumulative(self.logits(first, last), out[first:last])

    def intervals(self, symbols: Longs, row: int = 0) -> tuple[Longs, Longs]:
        """Where the tables from `row` on begin and end the symbols int64[k]: two of int64[k]."""
        if len(symbols) and not 0 <= symbols.min() <= symbols.max() < self._vocab_size:
            raise IndexError("a symbol is not in the vocabulary")  # compiled code would not notice
        starts, stops = np.empty(len(symbols), np.int64), np.empty(len(symbols), np.int64)
        for first in range(0, len(symbols), HEAD_ROWS):
            last = min(first + HEAD_ROWS, len(symbols))
            rows = self.logits(row + first, row + last)
            at = slice(first, last)
            kernels.intervals(rows, symbols[at], starts[at], stops[at])
        return starts, stops


def states(head: Product, codes: Floats) -> Floats:
    """Codes without the scales of columns; 0 where that is 0."""
    return np.divide(codes, head.columns, out=np.zeros_like(codes), where=head.columns > 0)


def _multiply(product: Product, codes: Floats) -> Floats:
    """Σ_j codes · a for integers in float32 [N, n]: float32[N, m], rounded where it has pieces."""
    if len(product.pieces) == 1:
        return _matmul(codes, product.pieces[0])
    total = np.zeros((len(codes), len(product.rows)), np.int32)
    first = 0
    for piece in product.pieces:
        last = first + piece.shape[1]
        total += _matmul(np.ascontiguousarray(codes[:, first:last]), piece).astype(np.int32)
        first = last
    return total.astype(np.float32)


def check_matmuls(operands: Operands) -> None:
    """Raise BadInput where this process does not multiply an artifact's matrices exactly.

    A library may choose other code for other shapes, so each matrix is tried with one row of
    inputs and with many.
    """
    tried = set()
    for product in operands.products():
        if id(product) in tried:
            continue
        tried.add(id(product))
        n, largest = len(product.columns), product.largest_input
        steps = np.arange(_TRIED_ROWS * n).reshape(_TRIED_ROWS, n)
        codes = (steps * 7919 % (2 * largest + 1) - largest).astype(np.float32)
        exact = np.zeros((_TRIED_ROWS, len(product.rows)))
        first = 0
        for piece in product.pieces:
            last = first + piece.shape[1]
            exact += codes[:, first:last].astype(np.float64) @ piece.T.astype(np.float64)
            first = last
        for first in (0, _TRIED_ROWS - 1):
            found = _multiply(product, np.ascontiguousarray(codes[first:]))
            if not np.array_equal(found, exact[first:].astype(np.float32)):
                raise inexact_matmul("this process")


def _matmul(a: Floats, b: Floats) -> Floats:
    """a·bᵀ; every partial sum is an integer under 2^24, so any BLAS gives these bits."""
    out: Floats = torch.mm(torch.from_numpy(a), torch.from_numpy(b).t()).numpy()
    return out


def _norm_input(x: Ints, product: Product) -> tuple[Floats, Floats]:
    codes, tok = np.empty(x.shape, np.float32), np.empty(len(x), np.float32)
    a = np.empty(x.shape[1], np.float32)
    kernels.norm_input(x, *_scaling(product), kernels.POWERS, a, codes, tok)
    return codes, tok


def _table_input(
    rows: Longs, table: Floats, scales: Floats, product: Product
) -> tuple[Floats, Floats]:
    n = table.shape[1]
    codes, tok = np.empty((len(rows), n), np.float32), np.empty(len(rows), np.float32)
    a = np.empty(n, np.float32)
    kernels.table_input(rows, table, scales, *_scaling(product), kernels.POWERS, a, codes, tok)
    return codes, tok


def _input(y: Floats, product: Product) -> tuple[Floats, Floats]:
    codes, tok = np.empty_like(y), np.empty(len(y), np.float32)
    kernels.input_of(y, *_scaling(product), kernels.POWERS, codes, tok)
    return codes, tok


def _scaling(product: Product) -> tuple[Floats, Floats, Floats]:
    return product.columns, product.scales, product.inverses


def _add(x: Ints, e: Ints, product: Product, codes: Floats, tok: Floats) -> None:
    """Add a product's result to the rows of the residual stream, x · 2^e."""
    t = np.empty(x.shape[1], np.float32)
    kernels.add_scaled(x, e, _multiply(product, codes), product.rows, tok, t, kernels.POWERS)
