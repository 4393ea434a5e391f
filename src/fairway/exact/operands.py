"""What exact arithmetic computes with: an artifact's codes, scales and tables, ready to be used.

Nothing here depends on the machine: scales are powers of 2^(1/4) or fp16 numbers, products of two
of them single IEEE operations, and every transcendental number comes from integers. What could
overflow is refused (docs/exact.md has every bound).

Legend: V vocabulary, d width, H heads, G key/value heads, h head width, W window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Model
from fairway.errors import BadInput
from fairway.floating_point import ieee
from fairway.formats.artifact import Artifact
from fairway.integer_math import BITS, ONE, exponential, ln2, logarithm, pi, sigmoid
from fairway.quantize.grids import Matrix, step_sizes

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

SUM_LIMIT = (1 << 24) - 1  # integers up to here, and their sums, are exact in float32
LARGEST_INPUT = 32767  # codes of activations fit 16 bits
RESIDUAL_BITS = 16  # fraction bits of the residual stream
EMBEDDING_BITS = 22  # of embeddings, which are smaller
HEAD_INPUT_BITS = 14  # of queries and keys before their normalisation
NORMED_BITS = 12  # fraction bits of normalised queries and keys
ROTARY_BITS = 14  # of cosines and sines
TURN_BITS = 14  # a turn has 2^14 tabled angles
EXPONENT_BITS = 12  # fraction bits of logarithms to base 2
WEIGHT_BITS = 16  # attention weights of a query sum to 2^16
CAP_BITS = 16  # fraction bits of a logit divided by the softcap
CAP_STEP_BITS = 7  # of those, the bits between two entries of the softcap's table
CAP_REACH = 8  # the table ends there; tanh(8) = 1 - 2e-7
GATE_BITS = 16  # fraction bits of gates, sigmoids in integers
_ENOUGH_INPUT = 1023  # what codes of inputs should reach
_MOST_PIECES = 64
_WIDEST_HEAD = 256
_LONGEST_WINDOW = 1 << 15
_SMALLEST_COLUMN = -240  # in quarters of an octave below the largest; under it: zero
_LARGEST_SCALE, _SMALLEST_SCALE = 2.0**20, 2.0**-60


@dataclass(frozen=True, repr=False)
class Product:
    """A matrix [m, n] as it is multiplied: y_i = (Σ_j codes_ij · a_j) · rows_i · (a's scale).

    Its inputs x become a_j = rint(x_j · columns_j · s), |a_j| ≤ largest_input, so that no partial
    sum of a piece leaves float32's exact integers.
    """

    pieces: tuple[Floats, ...]  # codes [m, n_p], n cut where one sum could be too large
    rows: Floats  # [m]
    columns: Floats  # [n], at most 1
    largest_input: int
    scales: Floats  # [8]: s · 2^e for an input whose largest is 2^e·(8+t)/8 up to 2^e·(9+t)/8
    inverses: Floats  # [8]: 2^-e / s


@dataclass(frozen=True, repr=False)
class Layer:
    qkv: Product
    o: Product
    up: Product
    down: Product
    score_scales: Floats  # [H]: of q·k, to base-2 logarithms with EXPONENT_BITS
    mix: Floats  # [2, d]
    gate: Product | None  # [H, d], zero beyond its channels; its rows lead to the table of gates
    exclusive: bool  # a token's own value is taken out of what it attends to
    parallel: bool  # the MLP reads what attention reads
    skip: Floats | None = None  # [d]: of the encoder's output that this pass adds


@dataclass(frozen=True, repr=False)
class Tables:
    """Integer functions, the same for all networks of a head width and a softcap."""

    cosines: Ints  # [2^TURN_BITS]
    sines: Ints
    turns: NDArray[np.uint64]  # [h/2]: what a position adds to each angle, in 2^-64 of a turn
    softcap: NDArray[np.int64]  # log2(e) · softcap · tanh, [CAP_REACH·2^9 + 1]
    gate: NDArray[np.int64]  # 2^(GATE_BITS - 1) · tanh, the same


@dataclass(frozen=True, repr=False)
class Operands:
    """One network."""

    shape: Model
    vocab_size: int
    bos_id: int
    embedding: Ints  # [V, d], EMBEDDING_BITS
    bigram_codes: Floats | None  # [rows, bigram_dim], as integers
    bigram_scales: Floats | None  # [rows]
    bigram: Product | None  # its rows carry the bigram's scale and EMBEDDING_BITS
    smear_gate: Floats | None  # [d], σ(γ)
    smear: Product | None  # [1, d], as a layer's gate: what decides instead of σ(γ)
    smear_strength: np.float32  # of it, over 2^GATE_BITS
    layers: tuple[Layer, ...]  # one for each pass
    head: Product  # its rows lead to logits / softcap, CAP_BITS
    tables: Tables

    def products(self) -> Iterator[Product]:
        """Every matrix that is multiplied; a repeated layer's more than once."""
        yield self.head
        yield from filter(None, (self.bigram, self.smear))
        for layer in self.layers:
            yield from filter(None, (layer.qkv, layer.o, layer.up, layer.down, layer.gate))

    @property
    def normed_bits(self) -> int:
        return _normed_bits(self.shape.head_dim)

    @property
    def largest_value(self) -> int:
        """Codes of values, so that Σ weight · value stays under 2^24."""
        return SUM_LIMIT // ((1 << WEIGHT_BITS) + self.shape.window // 2)


@ieee()
def prepare(artifact: Artifact) -> Operands:
    """The operands of an artifact's network. Raises BadInput when it is not safe to compute."""
    shape, state, matrices = artifact.model, artifact.state, artifact.matrices
    _check_shape(shape, artifact.tokenizer.vocab_size)
    for name, values in state.items():
        if name not in matrices and (values.abs() > _LARGEST_SCALE).any():
            raise _unsafe(f"{name} is too large")
    small = {n: v.numpy() for n, v in state.items() if n not in matrices}
    one = np.ones(shape.dim, np.float32)
    layers = [_layer(shape, matrices, small, layer) for layer in range(shape.num_layers)]
    bigram_codes = bigram_scales = bigram = gate = None
    if shape.bigram_rows:
        scale = small["embed.bigram_scale"] * np.float32(1 << EMBEDDING_BITS)
        bigram_codes, bigram_scales, bigram = _table(matrices, "embed.bigram", one * scale)
    smear, strength = None, np.float32(0)
    if shape.smear_channels:
        smear = _gate(matrices, "embed.gate", shape.dim, 0.5 * 2.0 ** (CAP_BITS - RESIDUAL_BITS))
        strength = np.float32(small["embed.smear_strength"] * np.float32(2.0**-GATE_BITS))
    elif shape.smear:
        gates = small["embed.smear_gate"].tolist()
        gate = np.array([sigmoid(g) for g in gates], np.float32)
    embedding = state["embed.tokens"].numpy() * np.float32(1 << EMBEDDING_BITS)
    if np.abs(embedding).max(initial=0) > 1 << 28:
        raise _unsafe("embed.tokens is too large")
    cap = np.float32((1 << CAP_BITS) / shape.softcap)
    return Operands(
        shape=shape,
        vocab_size=artifact.tokenizer.vocab_size,
        bos_id=artifact.tokenizer.bos_id,
        embedding=np.rint(embedding).astype(np.int32),
        bigram_codes=bigram_codes,
        bigram_scales=bigram_scales,
        bigram=bigram,
        smear_gate=gate,
        smear=smear,
        smear_strength=strength,
        layers=tuple(_passes(shape, layers, small["skips"])),
        head=_product(matrices, ["embed.tokens"], cap),
        tables=Tables(*_circle(), _turns(shape), softcap_table(shape.softcap), gate_table()),
    )


def _layer(
    shape: Model, matrices: Mapping[str, Matrix], small: Mapping[str, Floats], layer: int
) -> Layer:
    """A layer's operands. What the inputs are divided by is in the rows of their products."""
    at, residual = f"blocks.{layer}.", np.float32(1 << RESIDUAL_BITS)
    divided = np.float32(1 / math.sqrt(layer + 1)) if shape.layer_scale else None
    gate = None
    if shape.gate_channels:  # σ(z/2) = 1/2 + tanh(z/4)/2
        quarter = 0.25 * 2.0**CAP_BITS * float(1 if divided is None else divided)
        gate = _gate(matrices, at + "attn.gate", shape.dim, quarter)
    return Layer(
        qkv=_product(matrices, [at + "attn.q", at + "attn.k", at + "attn.v"], divided),
        o=_product(matrices, [at + "attn.o"], small[at + "attn_scale"] * residual),
        up=_product(matrices, [at + "mlp.up"], divided),
        down=_product(matrices, [at + "mlp.down"], small[at + "mlp_scale"] * residual),
        score_scales=_score_scales(small[at + "attn.q_gain"], shape.head_dim),
        mix=small[at + "mix"],
        gate=gate,
        exclusive=shape.is_among_last(layer, shape.exclusive_layers),
        parallel=shape.is_among_last(layer, shape.parallel_layers),
    )


def _passes(shape: Model, layers: list[Layer], skips: Floats) -> list[Layer]:
    """The layers in the order in which they are passed, with the skips that each pass adds."""
    encoders = len(shape.passes) // 2
    found = []
    for i, layer in enumerate(shape.passes):
        skip = i - encoders
        found.append(replace(layers[layer], skip=skips[skip] if 0 <= skip < encoders else None))
    return found


def _table(
    matrices: Mapping[str, Matrix], name: str, factor: Floats | None = None
) -> tuple[Floats, Floats, Product]:
    """A table's codes [rows, n] as integers, its rows' scales, and the product that they enter."""
    table = matrices[name + "_table"]
    scales = _row_scales(table)
    _check_scales(name + "_table", scales)
    product = _product(matrices, [name + "_proj"], factor, table.columns)
    return table.codes.astype(np.float32), scales, product


def _gate(matrices: Mapping[str, Matrix], name: str, width: int, factor: float) -> Product:
    """A gate's product, of the first channels of an input `width` wide; its rows times `factor`."""
    product = _product(matrices, [name], np.float32(factor))
    missing = width - len(product.columns)
    last = np.pad(product.pieces[-1], ((0, 0), (0, missing)))
    return replace(
        product, pieces=(*product.pieces[:-1], last), columns=np.pad(product.columns, (0, missing))
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


def _product(
    matrices: Mapping[str, Matrix],
    names: list[str],
    factor: Floats | np.float32 | None = None,
    columns_before: NDArray[np.int64] | None = None,
    enough: int = _ENOUGH_INPUT,
) -> Product:
    """Matrices of equal columns, one above the other, `factor` folded into the rows' scales.

    columns_before: exponents that the inputs still have to be multiplied with.
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
    cuts = _cut(codes, enough)
    sums = [np.abs(codes[:, a:b]).sum(1, dtype=np.float64).max(initial=1) for a, b in cuts]
    largest = min(SUM_LIMIT // max(1, int(max(sums))), LARGEST_INPUT)
    if largest < 1:
        raise _unsafe(f"{names[0]} has codes that are too large")
    steps = np.arange(9, 17) / 8
    return Product(
        pieces=tuple(np.ascontiguousarray(codes[:, a:b]) for a, b in cuts),
        rows=rows.astype(np.float32),
        columns=factors.astype(np.float32),
        largest_input=largest,
        scales=(largest / steps).astype(np.float32),
        inverses=(steps / largest).astype(np.float32),
    )


def _cut(codes: Floats, enough: int) -> list[tuple[int, int]]:
    """Into how few ranges of columns codes [m, n] are cut so that inputs reach `enough`."""
    n = codes.shape[1]
    most = min(n, _MOST_PIECES)
    for count in range(1, most + 1):
        edges = [n * i // count for i in range(count + 1)]
        ranges = list(pairwise(edges))
        sums = [np.abs(codes[:, a:b]).sum(1, dtype=np.float64).max(initial=1) for a, b in ranges]
        if max(sums) * enough <= SUM_LIMIT or count == most:
            break
    return ranges


def _row_scales(matrix: Matrix, columns: int = 0) -> Floats:
    """float32[m]: fp16 numbers as they are, exponents together with that of the columns."""
    if matrix.grid == "halves":
        return matrix.rows.astype(np.uint16).view(np.float16).astype(np.float32)
    return step_sizes(matrix.rows + columns)


def _check_scales(name: str, scales: Floats) -> None:
    if scales.size and (scales.min() < _SMALLEST_SCALE or scales.max() > _LARGEST_SCALE):
        raise _unsafe(f"{name} has steps out of range")


def _normed_bits(width: int) -> int:
    """Fraction bits of queries and keys of a head, so that q·k stays under 2^24."""
    return (23 - (width - 1).bit_length()) // 2


def _score_scales(gains: Floats, width: int) -> Floats:
    """gain · log2(e) / √h, from products of normed_bits twice to EXPONENT_BITS.

    log2(e) is the float64 nearest to it, from integers; the root, the quotient and the product are
    one IEEE rounding each.
    """
    bits = EXPONENT_BITS - 2 * _normed_bits(width)
    factor = math.ldexp(ONE / ln2() / math.sqrt(width), bits)
    scales = (gains.astype(np.float64) * factor).astype(np.float32)
    if np.abs(scales).max() > 32:  # · 2^24 < 2^30
        raise _unsafe("a q_gain is too large")
    return scales


@cache
def _circle() -> tuple[Ints, Ints]:
    """Cosine and sine of all 2^TURN_BITS angles, ROTARY_BITS."""
    angle = (2 * pi()) >> TURN_BITS
    square = angle * angle >> BITS
    cos1, sin1, term = ONE, 0, ONE
    for i in range(1, 20, 2):
        term_sin = term * angle // i >> BITS
        sin1 += term_sin
        term = -(term * square // (i * (i + 1)) >> BITS)
        cos1 += term
    c, s = ONE, 0
    cosines, sines = [], []
    shift = BITS - ROTARY_BITS
    half = 1 << shift - 1
    for _ in range(1 << TURN_BITS):
        cosines.append((c + half) >> shift)
        sines.append((s + half) >> shift)
        c, s = (c * cos1 - s * sin1) >> BITS, (s * cos1 + c * sin1) >> BITS
    return np.array(cosines, np.int32), np.array(sines, np.int32)


def _turns(shape: Model) -> NDArray[np.uint64]:
    """base^(-2j/r) / 2π in 2^-64 of a turn: what one position adds to the j-th angle.

    r rotary dimensions; from j = r/2 on nothing.
    """
    width = shape.rotary_dims or shape.head_dim
    log = logarithm(Fraction(shape.rope_base))
    turns = []
    for j in range(width // 2):
        power = exponential(Fraction(-2 * j * log, width * ONE))
        turns.append((power << 63) // pi())  # / 2π
    turns += [0] * (shape.head_dim // 2 - len(turns))
    return np.array(turns, np.uint64)


def softcap_table(softcap: float) -> NDArray[np.int64]:
    """log2(e) · c · tanh with EXPONENT_BITS: see _tanh_table."""
    cap = Fraction(softcap) * (1 << EXPONENT_BITS)
    return _tanh_table((cap.numerator * ONE << 20) // (cap.denominator * ln2()))


@cache
def gate_table() -> NDArray[np.int64]:
    """tanh with GATE_BITS - 1: σ(2u) = 1/2 + tanh(u)/2."""
    return _tanh_table(1 << 20 + GATE_BITS - 1)


def _tanh_table(factor: int) -> NDArray[np.int64]:
    """factor / 2^20 · tanh(u) for u = i / 512, int64[CAP_REACH · 512 + 1].

    Each entry is value << 32 | the step to the next one, so that one look-up finds both.
    """
    per_unit = 1 << CAP_BITS - CAP_STEP_BITS
    ratio = exponential(Fraction(-2, per_unit))
    power, values = ONE, []
    for _ in range(CAP_REACH * per_unit + 1):
        tanh = ((ONE - power) << BITS) // (ONE + power)
        values.append((factor * tanh + (1 << BITS + 19)) >> BITS + 20)
        power = power * ratio >> BITS
    table = np.array(values, np.int64)
    steps = np.append(np.diff(table), 0)
    packed: NDArray[np.int64] = table << 32 | steps
    return packed
