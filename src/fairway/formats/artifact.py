"""The file model.fairway: what a decoder opens. Layout byte by byte in docs/formats.md.

A file from a stranger is read without running any of its bytes: the recipe part gives the shape,
the shape gives names and sizes of all tensors, and the file only fills them. What it claims is
held against limits before memory is taken; the first part that does not fit is named.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import numpy as np
from pydantic import BaseModel, ValidationError

from fairway.config.schema import NO_MEMORY, Memory, Model
from fairway.errors import BadInput, Damaged
from fairway.formats import weight_streams
from fairway.formats.range_coder import Coder
from fairway.formats.tensors import (
    Grid,
    Matrix,
    Part,
    Quantized,
    TensorSpec,
    Vector,
    Weights,
    step_range,
    values_from_vector,
    weights_from_codes,
)
from fairway.io import limits

MOST_BYTES = 1 << 30
MAGIC = b"FWAY"
VERSION = 1
MATRIX_PARTS: tuple[Part, ...] = ("embedding", "attention", "mlp", "bigram")
PARTS = ("recipe", "tokenizer", *MATRIX_PARTS, "small")
_PREFIX = struct.Struct("<4sB")
_ENTRY = struct.Struct("<II")  # length and CRC-32 of one part
_CRC = struct.Struct("<I")  # of the header up to here
_LENGTH = struct.Struct("<I")  # of a stream, before all but the last
HEADER_BYTES = _PREFIX.size + len(PARTS) * _ENTRY.size + _CRC.size

_RECIPE_BYTES = 4096  # at most
_INITIAL = {"embed_std", "output_init", "qk_gain"}  # of the model section; only training needs it
# A file without these means that they are off.
_SWITCHES = {
    "activation", "rotary_dims", "layer_scale", "exclusive_layers", "gate_channels",
    "parallel_layers",
    "repeat_first", "repeat_last", "repeat_times",
}  # fmt: skip
# A stranger's file may claim no more weights than its size makes plausible: a quarter bit for each.
_MAX_WEIGHTS = 1_000_000_000
_FREE_WEIGHTS, _WEIGHTS_PER_BYTE = 1_000_000, 32
_BYTES_PER_WEIGHT = 28  # while it is read: as int64, as int16, as float32, as operands
_GRIDS: tuple[Grid, ...] = get_args(Grid)
_THREADS = os.cpu_count() or 1  # of streams that are coded side by side


class TensorRow(BaseModel):
    """One tensor as stored."""

    name: str
    shape: tuple[int, ...]
    part: Part
    coded_bits: float  # codes and steps
    bits_per_weight: float
    largest_code: int
    smallest_step: float
    largest_step: float


@dataclass(frozen=True)
class Sections:
    """An artifact's parts before its weights are decoded."""

    model: Model
    memory: Memory
    bodies: Mapping[str, bytes]  # of PARTS
    sha256: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each part, header included; they sum to the file's size."""
        return {"header": HEADER_BYTES} | {part: len(self.bodies[part]) for part in PARTS}


@dataclass(frozen=True, kw_only=True, repr=False)
class Contents:
    """What an artifact says of its network."""

    model: Model
    vocab_size: int
    bos_id: int
    weights: dict[str, Weights]  # float32, in the order of the network's parameters
    matrices: dict[str, Matrix]  # the same, as integers
    parts: dict[str, int]  # bytes; they sum to the file's size
    tensors: list[TensorRow]
    sha256: str
    memory: Memory = NO_MEMORY

    @property
    def size_bytes(self) -> int:
        """Return the size of the artifact's file."""
        return sum(self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """Return the coded bits of codes and steps per weight, over the quantized matrices."""
        weights = sum(m.codes.size for m in self.matrices.values())
        return 8 * sum(self.parts[part] for part in MATRIX_PARTS) / weights


def write(
    model: Model,
    tokenizer: bytes,
    tensors: Sequence[TensorSpec],
    quantized: Quantized,
    memory: Memory = NO_MEMORY,
) -> bytes:
    """Return the artifact's bytes; the same for the same arguments, on every machine.

    tensors: of the network, in order. Raises BadInput when the quantized ones are not these.
    """
    shapes = {name: m.codes.shape for name, m in quantized.matrices.items()}
    shapes |= {name: codes.shape for name, (codes, _) in quantized.vectors.items()}
    check_shapes(shapes, tensors)
    bodies = [_write_recipe(model, memory), tokenizer]
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in MATRIX_PARTS:
            bodies.append(_write_matrices(quantized.matrices, _inside(part, tensors), pool))
    coder = Coder()
    weight_streams.code_vectors(coder, quantized.vectors, _inside("small", tensors))
    bodies.append(coder.finish())
    header = _PREFIX.pack(MAGIC, VERSION)
    header += b"".join(_ENTRY.pack(len(body), zlib.crc32(body)) for body in bodies)
    return header + _CRC.pack(zlib.crc32(header)) + b"".join(bodies)


def zeros(tensors: Sequence[TensorSpec]) -> Quantized:
    """Return these tensors with all weights 0: what takes the fewest bytes."""
    matrices: dict[str, Matrix] = {}
    vectors: dict[str, Vector] = {}
    for name, shape, part, _ in tensors:
        codes = np.zeros(shape, np.int16)
        if part == "small":
            vectors[name] = codes, 0
        else:
            rows, columns = (np.zeros(size, np.int64) for size in shape)
            matrices[name] = Matrix(codes, rows, columns)
    return Quantized(matrices, vectors)


def split(data: bytes) -> Sections:
    """Check the frame and read the recipe. Raises BadInput that names the part that is wrong."""
    bodies = _bodies(data)
    with naming("recipe"):
        model, memory = _read_recipe(bodies["recipe"])
    return Sections(model, memory, bodies, hashlib.sha256(data).hexdigest())


def read(
    sections: Sections, tensors: Sequence[TensorSpec], vocab_size: int, bos_id: int
) -> Contents:
    """Decode all weights. Raises BadInput that names the part that is wrong.

    tensors: of the network that the sections' recipe and tokenizer describe, in order.
    """
    sizes, bodies = sections.sizes, sections.bodies
    _check_size(tensors, sum(sizes.values()))
    matrices: dict[str, Matrix] = {}
    spent: dict[str, float] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in MATRIX_PARTS:
            with naming(part):
                inside = _inside(part, tensors)
                found, bits = _read_matrices(bodies[part], inside, pool)
                matrices |= found
                spent |= bits
    with naming("small"):
        vectors, bits = _read_vectors(bodies["small"], _inside("small", tensors))
        spent |= bits
    weights, rows = {}, []
    for tensor in tensors:
        with naming(tensor.part):
            values = _finite(tensor.name, vectors, matrices)
        weights[tensor.name] = values
        rows.append(_row(tensor, values, spent[tensor.name], matrices.get(tensor.name)))
    return Contents(
        model=sections.model,
        vocab_size=vocab_size,
        bos_id=bos_id,
        weights=weights,
        matrices=matrices,
        parts=sizes,
        tensors=rows,
        sha256=sections.sha256,
        memory=sections.memory,
    )


@contextmanager
def naming(part: str) -> Iterator[None]:
    """Let errors inside say in which part something was wrong."""
    try:
        yield
    except BadInput as error:
        raise type(error)(f"part {part}: {error}") from None


# The frame ------------------------------------------------------------------------------------


def _bodies(data: bytes) -> dict[str, bytes]:
    """Return the bodies of the parts. Raises BadInput where a length or a checksum is wrong."""
    if len(data) < _PREFIX.size or not data.startswith(MAGIC):
        raise BadInput("the header is not that of a Fairway artifact: give a model.fairway")
    version = _PREFIX.unpack_from(data)[1]
    if version != VERSION:
        raise BadInput(
            f"the header says format version {version}: it was made by another Fairway "
            f"(this one reads version {VERSION}), or it is damaged"
        )
    if len(data) < HEADER_BYTES:
        raise Damaged(f"the header is truncated: {len(data)} of {HEADER_BYTES} bytes")
    (checksum,) = _CRC.unpack_from(data, HEADER_BYTES - _CRC.size)
    if zlib.crc32(data[: HEADER_BYTES - _CRC.size]) != checksum:
        raise Damaged("the header is damaged; restore the file from its source")
    entries = list(_ENTRY.iter_unpack(data[_PREFIX.size : HEADER_BYTES - _CRC.size]))
    bodies, start = {}, HEADER_BYTES
    for part, (length, checksum) in zip(PARTS, entries, strict=True):
        body = data[start : start + length]
        if len(body) < length:
            raise Damaged(f"part {part} is truncated: {len(body)} of {length} bytes")
        if zlib.crc32(body) != checksum:
            raise Damaged(f"part {part} is damaged; restore the file from its source")
        bodies[part], start = body, start + length
    if start != len(data):
        raise Damaged(f"{len(data) - start} bytes follow part {PARTS[-1]}, the last one")
    return bodies


# Recipe ---------------------------------------------------------------------------------------


def _write_recipe(model: Model, memory: Memory) -> bytes:
    """Return every field by name, so that a file does not depend on later defaults.

    Switches that are off are left out; off, they will mean the same for ever.
    """
    off = {n for n in _SWITCHES if getattr(model, n) == Model.model_fields[n].default}
    tree = model.model_dump(exclude=_INITIAL | off) | memory.model_dump(exclude_defaults=True)
    return json.dumps(tree, separators=(",", ":"), sort_keys=True).encode()


def _read_recipe(body: bytes) -> tuple[Model, Memory]:
    if len(body) > _RECIPE_BYTES:
        raise BadInput(f"{len(body)} bytes are more than a shape needs")
    try:
        tree = json.loads(body)
        memory = {key: tree.pop(key) for key in Memory.model_fields.keys() & tree.keys()}
        return (
            Model.model_validate(tree, strict=True),
            Memory.model_validate(memory, strict=True),
        )
    except (ValidationError, ValueError, AttributeError, TypeError, RecursionError):
        raise BadInput("it does not describe a network; the file is damaged or newer") from None


# Tensors --------------------------------------------------------------------------------------


def check_shapes(found: Mapping[str, tuple[int, ...]], tensors: Sequence[TensorSpec]) -> None:
    """Raise BadInput at the first tensor that does not fit the network."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for name in [*shapes, *found]:
        if shapes.get(name) != found.get(name):
            raise BadInput(
                f"the weights do not fit the network: {name} should be {shapes.get(name)} and is "
                f"{found.get(name)}; train the recipe that is to be packed"
            )


def _check_size(tensors: Sequence[TensorSpec], file_bytes: int) -> None:
    weights = sum(math.prod(tensor.shape) for tensor in tensors)
    if weights > min(_MAX_WEIGHTS, _FREE_WEIGHTS + _WEIGHTS_PER_BYTE * file_bytes):
        raise BadInput(f"part recipe: {weights} weights are too many for {file_bytes} bytes")
    limits.check_memory("part recipe", _BYTES_PER_WEIGHT * weights, file_bytes)


def _inside(part: Part, tensors: Sequence[TensorSpec]) -> list[TensorSpec]:
    return [tensor for tensor in tensors if tensor.part == part]


def _write_matrices(
    matrices: Mapping[str, Matrix], tensors: Sequence[TensorSpec], pool: ThreadPoolExecutor
) -> bytes:
    """Return the grid of the steps and the streams, with the length before all but the last."""
    grid = matrices[tensors[0].name].grid if tensors else _GRIDS[0]

    def stream(group: Sequence[TensorSpec]) -> bytes:
        coder = Coder()
        weight_streams.code_matrices(coder, matrices, group, grid)
        return coder.finish()

    *others, last = pool.map(stream, weight_streams.streams(tensors))
    framed = b"".join(_LENGTH.pack(len(other)) + other for other in others)
    return bytes([_GRIDS.index(grid)]) + framed + last


def _read_matrices(
    body: bytes, tensors: Sequence[TensorSpec], pool: ThreadPoolExecutor
) -> tuple[dict[str, Matrix], dict[str, float]]:
    if not body or body[0] >= len(_GRIDS):
        raise BadInput("it does not say how its steps are stored")
    grid, groups, at = _GRIDS[body[0]], weight_streams.streams(tensors), 1
    bodies = []
    for i in range(len(groups)):
        end = len(body)
        if i + 1 < len(groups):
            if len(body) < at + _LENGTH.size:
                raise BadInput(f"its stream {i + 1} is missing")
            (length,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size
            end = at + length
        if end > len(body):
            raise BadInput(f"its stream {i + 1} is truncated")
        bodies.append(body[at:end])
        at = end

    def stream(
        stream: bytes, group: Sequence[TensorSpec]
    ) -> tuple[dict[str, Matrix], dict[str, float]]:
        coder = Coder(stream)
        found = weight_streams.code_matrices(coder, None, group, grid)
        coder.check_end()
        return found

    matrices: dict[str, Matrix] = {}
    spent: dict[str, float] = {}
    for found, bits in pool.map(stream, bodies, groups):
        matrices |= found
        spent |= bits
    return matrices, spent


def _read_vectors(
    body: bytes, tensors: Sequence[TensorSpec]
) -> tuple[dict[str, Vector], dict[str, float]]:
    coder = Coder(body)
    vectors, spent = weight_streams.code_vectors(coder, None, tensors)
    coder.check_end()
    return vectors, spent


def _finite(name: str, vectors: Mapping[str, Vector], matrices: Mapping[str, Matrix]) -> Weights:
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = matrices.get(name)
        weights = weights_from_codes(matrix) if matrix else values_from_vector(*vectors[name])
    if not np.all(np.isfinite(weights)):
        raise BadInput(f"{name} holds a value that is no finite number")
    return weights


def _row(
    tensor: TensorSpec, weights: Weights, coded_bits: float, matrix: Matrix | None
) -> TensorRow:
    smallest, largest = step_range(matrix) if matrix else (0.0, 0.0)
    return TensorRow(
        name=tensor.name,
        shape=tensor.shape,
        part=tensor.part,
        coded_bits=coded_bits,
        bits_per_weight=coded_bits / max(weights.size, 1),
        largest_code=int(np.abs(matrix.codes).max(initial=0)) if matrix else 0,
        smallest_step=smallest,
        largest_step=largest,
    )
