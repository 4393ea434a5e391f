"""Turn an artifact into what exact arithmetic computes with: integer codes, scales and tables.

The operands are the same on every machine: scales are powers of 2^(1/4) or fp16 numbers, products
of two scales are single IEEE operations, and transcendental numbers come from integers. Networks
that could overflow are refused (docs/exact.md has every bound).

Legend: V vocabulary, d width, H heads, G key/value heads, h head width, W window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Model
from fairway.errors import BadInput
from fairway.exact.fixed_point import (
    CAP_BITS,
    EMBEDDING_BITS,
    EXPONENT_BITS,
    LARGEST_INPUT,
    RESIDUAL_BITS,
    SUM_LIMIT,
    WEIGHT_BITS,
)
from fairway.exact.tables import Tables, tables_of
from fairway.floating_point import ieee
from fairway.formats.artifact import Contents
from fairway.formats.tensors import Matrix, step_sizes
from fairway.integer_math import ONE, ln2, sigmoid

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_ENOUGH_INPUT = 1023  # the magnitude that codes of inputs should be able to reach
_MOST_SLICES = 64
_WIDEST_HEAD = 256
_LONGEST_WINDOW = 1 << 15
_SMALLEST_COLUMN = -240  # in quarters of an octave below the largest; smaller scales become zero
_LARGEST_SCALE, _SMALLEST_SCALE = 2.0**20, 2.0**-60


@dataclass(frozen=True, repr=False)
class Linear:
    """A weight matrix [m, n] in integers: y_i = (Σ_j codes_ij · a_j) · rows_i · token_scale.

    The inputs x become a_j = rint(x_j · columns_j · s) with |a_j| ≤ largest_input, so that no
    partial sum over a slice leaves the integers that float32 holds; token_scale = 1 / s.
    """

    slices: tuple[Floats, ...]  # codes [m, n_i]; n is cut where one sum could become too large
    rows: Floats  # [m]
    columns: Floats  # [n], at most 1
    largest_input: int
    scales: Floats  # [8]: s · 2^e for inputs whose largest is in 2^e·[8+t, 9+t)/8
    inverses: Floats  # [8]: 2^-e / s

    def test_case(self, count: int) -> tuple[Floats, Floats]:
        """Return inputs float32[count, n] of all magnitudes, and their exact outputs [count, m]."""
        steps = np.arange(count * len(self.columns)).reshape(count, -1)
        codes = steps * 7919 % (2 * self.largest_input + 1) - self.largest_input
        weights = np.concatenate(self.slices, 1).astype(np.float64)
        return codes.astype(np.float32), (codes @ weights.T).astype(np.float32)


@dataclass(frozen=True, repr=False)
class Layer:
    """One pass through a layer."""

    qkv: Linear
    o: Linear
    up: Linear
    down: Linear
    score_scales: Floats  # [H]: turn q·k into base-2 logarithms with EXPONENT_BITS
    mix: Floats  # [2, d]
    gate: Linear | None  # [H, d], zero beyond its channels; its rows lead to the table of gates
    exclusive: bool  # attention's output loses its part along the token's own value
    parallel: bool  # the MLP reads what attention reads
    skip: Floats | None = None  # [d]: the weight of the encoder output that this pass adds


@dataclass(frozen=True, repr=False)
class Operands:
    """One network."""

    shape: Model
    vocab_size: int
    bos_id: int
    embedding: Ints  # [V, d], EMBEDDING_BITS
    bigram_codes: Floats | None  # [rows, bigram_dim], integers
    bigram_scales: Floats | None  # [rows]
    bigram: Linear | None  # its rows contain the bigram's scale and EMBEDDING_BITS
    smear_gate: Floats | None  # [d], σ(γ)
    layers: tuple[Layer, ...]  # one for each pass
    head: Linear  # its rows lead to logits / softcap, CAP_BITS
    tables: Tables

    def linears(self) -> Iterator[Linear]:
        """Yield every matrix that is multiplied; a repeated layer's more than once."""
        yield self.head
        if self.bigram is not None:
            yield self.bigram
        for layer in self.layers:
            yield from filter(None, (layer.qkv, layer.o, layer.up, layer.down, layer.gate))

    @property
    def normed_bits(self) -> int:
        """Fraction bits of rotated queries and keys."""
        return _normed_bits(self.shape.head_dim)

    @property
    def largest_value(self) -> int:
        """The largest code of a value, so that Σ weight · value stays under 2^24."""
        return SUM_LIMIT // ((1 << WEIGHT_BITS) + self.shape.window // 2)


@ieee()
def prepare(artifact: Contents) -> Operands:
    """Return the operands of an artifact's network. Raises BadInput if it could overflow."""
    shape, weights, asked = artifact.model, artifact.weights, set[str]()
    matrices = _Recording(artifact.matrices, asked)
    _check_shape(shape, artifact.vocab_size)
    for name, values in weights.items():
        if name not in matrices and (np.abs(values) > _LARGEST_SCALE).any():
            raise _unsafe(f"{name} is too large")
    small = _Recording({n: v for n, v in weights.items() if n not in matrices}, asked)
    one = np.ones(shape.dim, np.float32)
    layers = [_layer(shape, matrices, small, layer) for layer in range(shape.num_layers)]
    bigram_codes = bigram_scales = bigram = gate = None
    if shape.bigram_rows:
        scale = small["embed.bigram_scale"] * np.float32(1 << EMBEDDING_BITS)
        bigram_codes, bigram_scales, bigram = _table(matrices, "embed.bigram", one * scale)
    if shape.smear:
        gates = small["embed.smear_gate"].tolist()
        gate = np.array([sigmoid(g) for g in gates], np.float32)
    embedding = weights["embed.tokens"] * np.float32(1 << EMBEDDING_BITS)
    if np.abs(embedding).max(initial=0) > 1 << 28:
        raise _unsafe("embed.tokens is too large")
    cap = np.float32((1 << CAP_BITS) / shape.softcap)
    operands = Operands(
        shape=shape,
        vocab_size=artifact.vocab_size,
        bos_id=artifact.bos_id,
        embedding=np.rint(embedding).astype(np.int32),
        bigram_codes=bigram_codes,
        bigram_scales=bigram_scales,
        bigram=bigram,
        smear_gate=gate,
        layers=tuple(_passes(shape, layers, small["skips"])),
        head=_linear(matrices, ["embed.tokens"], cap),
        tables=tables_of(shape),
    )
    if unknown := sorted(set(weights) - asked):
        raise _unsafe(f"exact arithmetic has no {unknown[0]}")
    return operands


class _Recording(dict[str, Any]):
    """A dictionary that adds each name it is asked for to a set."""

    def __init__(self, items: Mapping[str, Any], asked: set[str]) -> None:
        super().__init__(items)
        self._asked = asked

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        return super().__getitem__(name)


def _layer(
    shape: Model, matrices: Mapping[str, Matrix], small: Mapping[str, Floats], layer: int
) -> Layer:
    """Return a layer's operands. A division of the inputs is folded into the rows of matrices."""
    at, residual = f"blocks.{layer}.", np.float32(1 << RESIDUAL_BITS)
    divided = np.float32(1 / math.sqrt(layer + 1)) if shape.layer_scale else None
    gate = None
    if shape.gate_channels:  # σ(z/2) = 1/2 + tanh(z/4)/2
        quarter = 0.25 * 2.0**CAP_BITS * float(1 if divided is None else divided)
        gate = _gate(matrices, at + "attn.gate", shape.dim, quarter)
    return Layer(
        qkv=_linear(matrices, [at + "attn.q", at + "attn.k", at + "attn.v"], divided),
        o=_linear(matrices, [at + "attn.o"], small[at + "attn_scale"] * residual),
        up=_linear(matrices, [at + "mlp.up"], divided),
        down=_linear(matrices, [at + "mlp.down"], small[at + "mlp_scale"] * residual),
        score_scales=_score_scales(small[at + "attn.q_gain"], shape.head_dim),
        mix=small[at + "mix"],
        gate=gate,
        exclusive=shape.is_among_last(layer, shape.exclusive_layers),
        parallel=shape.is_among_last(layer, shape.parallel_layers),
    )


def _passes(shape: Model, layers: list[Layer], skips: Floats) -> list[Layer]:
    """Return the layers in the order of the passes, with the skip that each pass adds."""
    encoders = len(shape.passes) // 2
    passes = []
    for i, layer in enumerate(shape.passes):
        skip = i - encoders
        passes.append(replace(layers[layer], skip=skips[skip] if 0 <= skip < encoders else None))
    return passes


def _table(
    matrices: Mapping[str, Matrix], name: str, factor: Floats | None = None
) -> tuple[Floats, Floats, Linear]:
    """Return a table's codes [rows, n], the scales of its rows, and its projection."""
    table = matrices[name + "_table"]
    scales = _row_scales(table)
    _check_scales(name + "_table", scales)
    linear = _linear(matrices, [name + "_proj"], factor, table.columns)
    return table.codes.astype(np.float32), scales, linear


def _gate(matrices: Mapping[str, Matrix], name: str, width: int, factor: float) -> Linear:
    """Return a gate's matrix, padded from its channels to `width`, with `factor` in its rows."""
    linear = _linear(matrices, [name], np.float32(factor))
    missing = width - len(linear.columns)
    last = np.pad(linear.slices[-1], ((0, 0), (0, missing)))
    return replace(
        linear, slices=(*linear.slices[:-1], last), columns=np.pad(linear.columns, (0, missing))
    )


def _check_shape(shape: Model, vocab_size: int) -> None:
    if shape.head_dim > _WIDEST_HEAD:
        raise _unsafe(f"its heads are {shape.head_dim} wide, and {_WIDEST_HEAD} is the most")
    if shape.window > _LONGEST_WINDOW:
        raise _unsafe(f"its window is {shape.window}, and {_LONGEST_WINDOW} is the most")
    if vocab_size >= 1 << 16:
        raise _unsafe("its vocabulary is too large")
    if not 2.0**-10 <= shape.softcap <= 2.0**10:
        raise _unsafe("its softcap is out of range")


def _unsafe(problem: str) -> BadInput:
    return BadInput(
        f"the artifact's network cannot be computed exactly: {problem}; use --arithmetic float"
    )


def _linear(
    matrices: Mapping[str, Matrix],
    names: list[str],
    factor: Floats | np.float32 | None = None,
    columns_before: NDArray[np.int64] | None = None,
) -> Linear:
    """Return matrices of equal columns, stacked, with `factor` folded into the scales of rows.

    columns_before: int64[n], exponents of scales that the inputs still have to be multiplied with.
    """
    parts = [matrices[name] for name in names]
    columns = parts[0].columns
    if any(not np.array_equal(part.columns, columns) for part in parts):
        raise _unsafe(f"{', '.join(names)} differ in the steps of their columns")
    codes = np.concatenate([part.codes for part in parts]).astype(np.float32)
    if columns_before is not None:
        columns = columns + columns_before
    top = int(columns.max())
    below = columns - top
    factors = np.where(below < _SMALLEST_COLUMN, np.float32(0), step_sizes(below))
    rows = np.concatenate([_row_scales(part, top) for part in parts])
    _check_scales(names[0], rows)
    if factor is not None:
        rows = rows * factor
    cuts = _cut(codes)
    sums = [np.abs(codes[:, a:b]).sum(1, dtype=np.float64).max(initial=1) for a, b in cuts]
    largest = min(SUM_LIMIT // max(1, int(max(sums))), LARGEST_INPUT)
    if largest < 1:
        raise _unsafe(f"{names[0]} has codes that are too large")
    steps = np.arange(9, 17) / 8
    return Linear(
        slices=tuple(np.ascontiguousarray(codes[:, a:b]) for a, b in cuts),
        rows=rows.astype(np.float32),
        columns=factors.astype(np.float32),
        largest_input=largest,
        scales=(largest / steps).astype(np.float32),
        inverses=(steps / largest).astype(np.float32),
    )


def _cut(codes: Floats) -> list[tuple[int, int]]:
    """Cut the columns of codes [m, n] into the fewest ranges whose inputs reach _ENOUGH_INPUT."""
    n = codes.shape[1]
    most = min(n, _MOST_SLICES)
    for count in range(1, most + 1):
        edges = [n * i // count for i in range(count + 1)]
        ranges = list(pairwise(edges))
        sums = [np.abs(codes[:, a:b]).sum(1, dtype=np.float64).max(initial=1) for a, b in ranges]
        if max(sums) * _ENOUGH_INPUT <= SUM_LIMIT or count == most:
            break
    return ranges


def _row_scales(matrix: Matrix, columns: int = 0) -> Floats:
    """Return the scales of rows, float32[m]: fp16 numbers, or steps of exponents plus `columns`."""
    if matrix.grid == "fp16_row":
        return matrix.rows.astype(np.uint16).view(np.float16).astype(np.float32)
    return step_sizes(matrix.rows + columns)


def _check_scales(name: str, scales: Floats) -> None:
    if scales.size and (scales.min() < _SMALLEST_SCALE or scales.max() > _LARGEST_SCALE):
        raise _unsafe(f"{name} has steps out of range")


def _normed_bits(width: int) -> int:
    """Return the fraction bits of queries and keys with which q·k stays under 2^24."""
    return (23 - (width - 1).bit_length()) // 2


def _score_scales(gains: Floats, width: int) -> Floats:
    """Return gain · log2(e) / √h, scaled so that q·k gets EXPONENT_BITS: float32[H].

    log2(e) is the nearest float64, from integers. The root, the quotient and the product are one
    IEEE rounding each.
    """
    bits = EXPONENT_BITS - 2 * _normed_bits(width)
    factor = math.ldexp(ONE / ln2() / math.sqrt(width), bits)
    scales = (gains.astype(np.float64) * factor).astype(np.float32)
    if np.abs(scales).max() > 32:  # · 2^24 < 2^30
        raise _unsafe("a q_gain is too large")
    return scales
