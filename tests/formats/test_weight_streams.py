"""Streams of matrices and vectors: round trips, shared columns, several streams, damage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fairway.errors import BadInput
from fairway.formats import weight_streams
from fairway.formats.range_coder import Coder
from fairway.formats.tensors import (
    LARGEST_CODE,
    LARGEST_EXPONENT,
    NARROW_CODE,
    Grid,
    Matrix,
    TensorSpec,
    Vector,
)
from fairway.formats.weight_streams import VECTOR_KIND

NAMES = ("q", "k", "v", "o", "up", "down", "tokens", "bigram_table", "bigram_proj")
exponents = st.integers(-LARGEST_EXPONENT, LARGEST_EXPONENT)
codes = st.one_of(
    st.integers(-3, 3), st.integers(-130, 130), st.integers(-LARGEST_CODE, LARGEST_CODE)
)


@st.composite
def matrices(draw: st.DrawFn, grid: Grid) -> dict[str, Matrix]:
    """Up to five of one stream; few widths, so that columns can be shared."""
    found: dict[str, Matrix] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=True)):
        m, n = draw(st.integers(0, 6)), draw(st.sampled_from([0, 1, 4]))
        columns = np.zeros(n, np.int64)
        if grid == "log2_quarter":
            before = [x.columns for x in found.values() if len(x.columns) == n]
            columns = draw(
                st.sampled_from([*before, draw(arrays(np.int64, n, elements=exponents))])
            )
        rows = exponents if grid == "log2_quarter" else st.integers(1, 0x7BFF)
        found[name] = Matrix(
            draw(arrays(np.int16, (m, n), elements=codes)),
            draw(arrays(np.int64, m, elements=rows)),
            columns,
            grid,
        )
    return found


def matrix_spec(name: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, shape, "mlp", NAMES.index(name))


def vector_spec(name: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, shape, "small", VECTOR_KIND)


def specs_of(stream: Mapping[str, Matrix]) -> list[TensorSpec]:
    return [matrix_spec(name, matrix.codes.shape) for name, matrix in stream.items()]


def encoded(stream: Mapping[str, Matrix], grid: Grid) -> bytes:
    coder = Coder()
    weight_streams.code_matrices(coder, stream, specs_of(stream), grid)
    return coder.finish()


def assert_equal(found: Matrix, wanted: Matrix) -> None:
    assert found.codes.dtype == np.int16
    assert np.array_equal(found.codes, wanted.codes)
    assert np.array_equal(found.rows, wanted.rows)
    assert np.array_equal(found.columns, wanted.columns)
    assert found.grid == wanted.grid


@settings(deadline=None, max_examples=120)
@given(st.data(), st.sampled_from(["log2_quarter", "fp16_row"]))
def test_matrices_round_trip_and_their_bits_sum_to_the_stream(
    data: st.DataObject, grid: Grid
) -> None:
    stream = data.draw(matrices(grid))
    body = encoded(stream, grid)
    coder = Coder(body)
    found, spent = weight_streams.code_matrices(coder, None, specs_of(stream), grid)
    coder.check_end()
    assert list(found) == list(spent) == list(stream)
    for name, matrix in stream.items():
        assert_equal(found[name], matrix)
    assert sum(spent.values()) == pytest.approx(coder.ideal_bits)
    assert 0.95 * sum(spent.values()) - 8 <= 8 * len(body) <= 1.01 * sum(spent.values()) + 16


def test_equal_columns_of_neighbours_are_stored_once() -> None:
    random = np.random.default_rng(0)

    def stream(*columns: np.ndarray) -> dict[str, Matrix]:
        rows, code = np.zeros(4, np.int64), np.zeros((4, 64), np.int16)
        return {name: Matrix(code, rows, c) for name, c in zip("qkv", columns, strict=True)}

    one, other = random.integers(-99, 99, (2, 64))
    shared = len(encoded(stream(one, one, one), "log2_quarter"))
    assert len(encoded(stream(one, other, other), "log2_quarter")) > shared + 40
    assert (
        len(encoded(stream(one, other, one), "log2_quarter")) > shared + 80
    )  # only the last counts


def test_codes_over_127_need_the_mark_of_a_wide_matrix() -> None:
    rows, columns = np.zeros(2, np.int64), np.zeros(3, np.int64)
    for largest, wide in [(NARROW_CODE, 0), (-NARROW_CODE, 0), (NARROW_CODE + 1, 1)]:
        code = np.array([[0, 1, 0], [0, largest, 2]], np.int16)
        body = encoded({"up": Matrix(code, rows, columns)}, "log2_quarter")
        assert (body[0] < 128) == wide  # the first bit; 1 is the lower half
        if wide:
            flipped = bytes([body[0] ^ 128]) + body[1:]
            with pytest.raises(BadInput, match="up holds a number out of range"):
                weight_streams.code_matrices(
                    Coder(flipped), None, [matrix_spec("up", (2, 3))], "log2_quarter"
                )


@settings(deadline=None, max_examples=80)
@given(
    st.dictionaries(
        st.sampled_from(["skips", "mix", "gain", "one"]),
        st.tuples(
            st.sampled_from([(), (0,), (7,), (2, 5)]).flatmap(
                lambda shape: arrays(np.int16, shape, elements=codes)
            ),
            exponents,
        ),
    )
)
def test_vectors_round_trip(vectors: dict[str, Vector]) -> None:
    specs = [vector_spec(name, values.shape) for name, (values, _) in vectors.items()]
    encoder = Coder()
    weight_streams.code_vectors(encoder, vectors, specs)
    decoder = Coder(encoder.finish())
    found, spent = weight_streams.code_vectors(decoder, None, specs)
    decoder.check_end()
    assert list(found) == list(spent) == list(vectors)
    for name, (values, exponent) in vectors.items():
        assert np.array_equal(found[name][0], values)
        assert found[name][0].shape == values.shape
        assert found[name][1] == exponent


def test_slowly_changing_exponents_are_cheap() -> None:
    """A list is coded as differences to a running mean, not as numbers of its own size."""
    random = np.random.default_rng(1)
    rows = -300 + np.rint(np.linspace(0, 100, 800) + random.standard_normal(800)).astype(np.int64)
    stream = {"up": Matrix(np.zeros((800, 1), np.int16), rows, np.zeros(1, np.int64))}
    assert 8 * len(encoded(stream, "log2_quarter")) < 3.2 * 800  # the noise has 2.1 bits


@given(
    st.lists(
        st.builds(
            TensorSpec,
            name=st.text(min_size=1),
            shape=st.tuples(st.integers(0, 9), st.integers(0, 9)),
            part=st.just("mlp"),
            coder_kind=st.just(4),
        )
    ),
    st.integers(1, 99),
)
def test_streams_partition_the_tensors_in_order(specs: list[TensorSpec], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_streams, "STREAM_WEIGHTS", limit)
        groups = weight_streams.streams(specs)
    assert [spec for group in groups for spec in group] == specs
    sizes = [[math.prod(spec.shape) for spec in group] for group in groups]
    assert all(sum(s) <= limit or sum(map(bool, s)) == 1 for s in sizes)
    for group, following in pairwise(sizes):  # none ends early
        assert sum(group) + following[0] > limit


# Damage ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=80), st.sampled_from(["log2_quarter", "fp16_row"]))
def test_any_bytes_decode_to_valid_tensors_or_are_refused(data: bytes, grid: Grid) -> None:
    with suppress(BadInput):
        specs = [matrix_spec("q", (4, 6)), matrix_spec("k", (0, 3))]
        found, _ = weight_streams.code_matrices(Coder(data), None, specs, grid)
        low = 1 if grid == "fp16_row" else -LARGEST_EXPONENT
        assert found["q"].rows.min() >= low
        assert np.abs(found["q"].columns).max() <= LARGEST_EXPONENT
        assert np.abs(found["q"].codes.astype(int)).max() <= LARGEST_CODE
    with suppress(BadInput):
        specs = [vector_spec("c", (5,)), vector_spec("d", ())]
        vectors, _ = weight_streams.code_vectors(Coder(data), None, specs)
        assert vectors["d"][0].shape == ()
        assert abs(vectors["c"][1]) <= LARGEST_EXPONENT


@pytest.mark.parametrize(
    ("grid", "rows", "columns"),
    [
        ("log2_quarter", [0, LARGEST_EXPONENT + 1], [0, 0]),
        ("log2_quarter", [0, -LARGEST_EXPONENT - 1], [0, 0]),
        ("log2_quarter", [0, 0], [LARGEST_EXPONENT + 1, 0]),
        ("fp16_row", [0x3C00, 0], [0, 0]),
        ("fp16_row", [0x3C00, 0x7C00], [0, 0]),  # infinity
        ("fp16_row", [0x3C00, 0xBC00], [0, 0]),  # negative
    ],
)
def test_steps_out_of_range_are_refused(grid: Grid, rows: list[int], columns: list[int]) -> None:
    """As a hostile encoder writes them, which checks nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_streams, "_check", lambda *_: None)
        code = np.ones((2, 2), np.int16)
        body = encoded({"q": Matrix(code, np.array(rows), np.array(columns), grid)}, grid)
    with pytest.raises(BadInput, match="q holds a number out of range"):
        weight_streams.code_matrices(Coder(body), None, [matrix_spec("q", (2, 2))], grid)


@pytest.mark.parametrize("exponent", [LARGEST_EXPONENT + 1, -512, 511])
def test_vectors_of_impossible_steps_are_refused(exponent: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_streams, "_check", lambda *_: None)
        coder = Coder()
        vector = np.ones(2, np.int16), exponent
        weight_streams.code_vectors(coder, {"c": vector}, [vector_spec("c", (2,))])
    with pytest.raises(BadInput, match="c holds a number out of range"):
        weight_streams.code_vectors(Coder(coder.finish()), None, [vector_spec("c", (2,))])
