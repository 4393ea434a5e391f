"""The file model.fairway: what a decoder opens. Layout byte by byte in docs/formats.md.

A file from a stranger is read without running any of its bytes: the recipe part gives the shape,
the shape gives names and sizes of all tensors, and the file only fills them. What it claims is
held against limits before memory is taken; the first part that does not fit is named.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from fairway.errors import BadInput
from fairway.model.gpt import GPT, skeleton
from fairway.pack import quantize, tensors
from fairway.pack.tensors import Shapes
from fairway.rangecoder import Coder
from fairway.recipe import Model, Pack
from fairway.text.tokenizer import Tokenizer

Weights = NDArray[np.float32]

MAGIC = b"FWAY"
VERSION = 1
MATRIX_PARTS: tuple[quantize.Part, ...] = ("embedding", "attention", "mlp", "bigram")
PARTS = ("recipe", "tokenizer", *MATRIX_PARTS, "small")
_PREFIX = struct.Struct("<4sH")
_ENTRY = struct.Struct("<II")  # length and CRC-32 of one part
_CRC = struct.Struct("<I")  # of the header up to here
HEADER_BYTES = _PREFIX.size + len(PARTS) * _ENTRY.size + _CRC.size

_RECIPE_BYTES = 4096  # at most
_INITIAL = {"embed_std", "output_init", "qk_gain"}  # of the model section; only training needs it
# A stranger's file may claim no more weights than its size makes plausible: half a bit for each.
_MAX_WEIGHTS = 1_000_000_000
_FREE_WEIGHTS, _WEIGHTS_PER_BYTE = 1_000_000, 16
_NO_SCALES = np.empty(0, np.float16)


class TensorRow(BaseModel):
    """One tensor as stored."""

    name: str
    shape: tuple[int, ...]
    part: quantize.Part
    code_bits: int  # of one code before entropy coding; 16: stored as fp16
    coded_bits: float  # histogram, codes and scales
    bits_per_weight: float
    smallest_scale: float | None  # None: stored as fp16
    largest_scale: float | None


@dataclass(frozen=True)
class Artifact:
    """An artifact in memory."""

    model: Model
    tokenizer: Tokenizer
    state: dict[str, torch.Tensor]  # float32, in the order of the network's parameters
    parts: dict[str, int]  # bytes; they sum to the file's size
    tensors: list[TensorRow]
    sha256: str

    def build_model(self, device: torch.device | str = "cpu") -> GPT:
        """The network with these weights."""
        with torch.device("meta"):
            model = GPT(self.model, self.tokenizer.vocab_size, self.tokenizer.bos_id)
        state = {name: t.to(device, copy=True) for name, t in self.state.items()}
        model.load_state_dict(state, assign=True)
        return model


def write(
    model: Model, tokenizer: Tokenizer, state: Mapping[str, torch.Tensor], pack: Pack
) -> bytes:
    """The artifact's bytes; the same for the same arguments, on every machine.

    Raises BadInput when `state` is not the state of this network, or holds a value that is not
    finite or does not fit.
    """
    shapes = skeleton(model, tokenizer.vocab_size, tokenizer.bos_id)
    weights = _checked(state, shapes)
    bodies = [_write_recipe(model), tokenizer.to_bytes()]
    for part in MATRIX_PARTS:
        inside = {name: weights[name] for name in _inside(part, shapes)}
        bodies.append(_write_matrices(inside, quantize.bits_of(part, pack), pack.row_scale))
    bodies.append(_write_small({name: weights[name] for name in _inside("small", shapes)}))
    header = _PREFIX.pack(MAGIC, VERSION)
    header += b"".join(_ENTRY.pack(len(body), zlib.crc32(body)) for body in bodies)
    return header + _CRC.pack(zlib.crc32(header)) + b"".join(bodies)


def read(source: Path | str | bytes) -> Artifact:
    """The artifact in a file or in bytes. Raises BadInput that names the part that is wrong."""
    where = "the artifact" if isinstance(source, bytes) else f"the artifact {source}"
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {where}: {error.strerror}") from None
    try:
        return _read(data)
    except BadInput as error:
        raise BadInput(f"{where} cannot be opened: {error}") from None


def _read(data: bytes) -> Artifact:
    bodies = _split(data)
    with _naming("recipe"):
        model = _read_recipe(bodies["recipe"])
    with _naming("tokenizer"):
        tokenizer = Tokenizer.from_bytes(bodies["tokenizer"])
    shapes = skeleton(model, tokenizer.vocab_size, tokenizer.bos_id)
    _check_size(shapes, len(data))
    found: dict[str, tuple[Weights, TensorRow]] = {}
    for part in MATRIX_PARTS:
        with _naming(part):
            found |= _read_matrices(bodies[part], part, _inside(part, shapes))
    with _naming("small"):
        found |= _read_small(bodies["small"], _inside("small", shapes))
    return Artifact(
        model=model,
        tokenizer=tokenizer,
        state={name: torch.from_numpy(found[name][0]) for name in shapes},
        parts={"header": HEADER_BYTES} | {name: len(body) for name, body in bodies.items()},
        tensors=[found[name][1] for name in shapes],
        sha256=hashlib.sha256(data).hexdigest(),
    )


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Say in which part something was wrong."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"part {part}: {error}") from None


# The frame ------------------------------------------------------------------------------------


def _split(data: bytes) -> dict[str, bytes]:
    """Bodies of the parts, with right lengths and checksums."""
    if len(data) < _PREFIX.size or not data.startswith(MAGIC):
        raise BadInput("the header is not that of a Fairway artifact; is it another kind of file?")
    version = _PREFIX.unpack_from(data)[1]
    if version > VERSION:
        raise BadInput(
            f"the header says format version {version}: it was made by a newer Fairway "
            f"(this one reads up to {VERSION}), or it is damaged"
        )
    if len(data) < HEADER_BYTES:
        raise BadInput(f"the header is truncated: {len(data)} of {HEADER_BYTES} bytes")
    (checksum,) = _CRC.unpack_from(data, HEADER_BYTES - _CRC.size)
    if version < 1 or zlib.crc32(data[: HEADER_BYTES - _CRC.size]) != checksum:
        raise BadInput("the header is damaged; restore the file from its source")
    entries = list(_ENTRY.iter_unpack(data[_PREFIX.size : HEADER_BYTES - _CRC.size]))
    bodies, start = {}, HEADER_BYTES
    for part, (length, checksum) in zip(PARTS, entries, strict=True):
        body = data[start : start + length]
        if len(body) < length:
            raise BadInput(f"part {part} is truncated: {len(body)} of {length} bytes")
        if zlib.crc32(body) != checksum:
            raise BadInput(f"part {part} is damaged; restore the file from its source")
        bodies[part], start = body, start + length
    if start != len(data):
        raise BadInput(f"{len(data) - start} bytes follow part {PARTS[-1]}, the last one")
    return bodies


# Recipe ---------------------------------------------------------------------------------------


def _write_recipe(model: Model) -> bytes:
    """Every field by name: a default that changes later must not change what old files mean."""
    tree = model.model_dump(exclude=_INITIAL)
    return json.dumps(tree, separators=(",", ":"), sort_keys=True).encode()


def _read_recipe(body: bytes) -> Model:
    if len(body) > _RECIPE_BYTES:
        raise BadInput(f"{len(body)} bytes are more than a shape needs")
    try:
        return Model.model_validate(json.loads(body), strict=True)
    except (ValidationError, ValueError, RecursionError):
        raise BadInput("it does not describe a network; the file is damaged or newer") from None


# Tensors --------------------------------------------------------------------------------------


def _checked(state: Mapping[str, torch.Tensor], shapes: Shapes) -> dict[str, Weights]:
    """The weights as arrays. Raises BadInput at the first that does not fit the network."""
    for name in [*shapes, *state]:
        expected, found = shapes.get(name), tuple(state[name].shape) if name in state else None
        if expected != found:
            raise BadInput(
                f"the weights do not fit the network: {name} should be {expected} and is {found}; "
                "train the recipe that is to be packed"
            )
    return {name: state[name].detach().cpu().float().numpy() for name in shapes}


def _check_size(shapes: Shapes, file_bytes: int) -> None:
    weights = sum(math.prod(shape) for shape in shapes.values())
    if weights > min(_MAX_WEIGHTS, _FREE_WEIGHTS + _WEIGHTS_PER_BYTE * file_bytes):
        raise BadInput(f"part recipe: {weights} weights are too many for {file_bytes} bytes")


def _inside(part: quantize.Part, shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if quantize.part_of(name) == part}


def _write_matrices(weights: dict[str, Weights], bits: int, row_scale: quantize.RowScale) -> bytes:
    """One byte, the bits of a code before entropy coding; then the stream."""
    coder = Coder()
    matrices = {}
    for name, w in weights.items():
        with _fitting(name):
            matrices[name] = tensors.Matrix(*quantize.codes_from_weights(w, bits, row_scale))
    tensors.code_matrices(coder, matrices, {name: w.shape for name, w in weights.items()}, bits)
    return bytes([bits]) + coder.finish()


def _read_matrices(
    body: bytes, part: quantize.Part, shapes: Shapes
) -> dict[str, tuple[Weights, TensorRow]]:
    bits, coder = body[0] if body else 0, Coder(body[1:])
    if not 2 <= bits <= 8:
        raise BadInput(f"its codes cannot have {bits} bits")
    matrices, spent = tensors.code_matrices(coder, None, shapes, bits)
    coder.check_end()
    found = {}
    for name, matrix in matrices.items():
        weights = quantize.weights_from_codes(matrix.codes, matrix.scales)
        row = _row(name, part, weights, bits, spent[name], matrix.scales)
        found[name] = _finite(name, weights), row
    return found


def _write_small(weights: dict[str, Weights]) -> bytes:
    coder = Coder()
    halves = {}
    for name, w in weights.items():
        with _fitting(name):
            halves[name] = quantize.halves_from_weights(w)
    tensors.code_small(coder, halves, {name: w.shape for name, w in weights.items()})
    return coder.finish()


def _read_small(body: bytes, shapes: Shapes) -> dict[str, tuple[Weights, TensorRow]]:
    coder = Coder(body)
    halves = tensors.code_small(coder, None, shapes)
    coder.check_end()
    bits_each = coder.ideal_bits / max(sum(h.size for h in halves.values()), 1)
    found = {}
    for name, half in halves.items():
        weights = half.astype(np.float32)
        row = _row(name, "small", weights, quantize.FLOAT_BITS, bits_each * half.size)
        found[name] = _finite(name, weights), row
    return found


def _row(
    name: str,
    part: quantize.Part,
    weights: Weights,
    code_bits: int,
    coded_bits: float,
    scales: NDArray[np.float16] = _NO_SCALES,
) -> TensorRow:
    return TensorRow(
        name=name,
        shape=weights.shape,
        part=part,
        code_bits=code_bits,
        coded_bits=coded_bits,
        bits_per_weight=coded_bits / max(weights.size, 1),
        smallest_scale=float(scales.min()) if scales.size else None,
        largest_scale=float(scales.max()) if scales.size else None,
    )


def _finite(name: str, weights: Weights) -> Weights:
    if not np.all(np.isfinite(weights)):
        raise BadInput(f"{name} holds a value that is no finite number")
    return weights


@contextmanager
def _fitting(name: str) -> Iterator[None]:
    """Say which tensor cannot be stored."""
    try:
        yield
    except ValueError as error:
        raise BadInput(f"{name} cannot be packed, {error}: the training diverged") from None
