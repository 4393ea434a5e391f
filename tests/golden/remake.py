"""Make the golden files of this folder again, once, after a change of the formats.

    python tests/golden/remake.py export FOLDER    at a commit that reads the old files
    python tests/golden/remake.py write FOLDER     at the commit that writes the new ones

`tiny` is made from nothing: its integers come from SHAKE-256, so they are the same everywhere and
whatever the coder does. Every feature of the format is in it: exponents of rows and columns,
columns that are those of the matrix before and others, fp16 scales, a wide matrix, empty rows,
rows like the one above, large codes. `portable` and `memory` are networks that were trained once:
their integers and their proofs' texts are carried over in plain files.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fairway.coding import artifact
from fairway.coding.codec import Codec
from fairway.coding.session import coding_session
from fairway.config.schema import Memory, Model
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.formats import byte_mixing, proof, weight_streams
from fairway.formats.artifact import split
from fairway.formats.proof import Digest, Header, read_chunks, text_digest
from fairway.formats.range_coder import Coder
from fairway.formats.tensors import LARGEST_CODE, NARROW_CODE, Codes, Matrix, Quantized
from fairway.io.binary import Reader, join
from fairway.model.parameters import tensors_of

GOLDEN = Path(__file__).parent
LANES = {"portable": 1, "memory": 3}  # of the proofs of the trained networks

TINY = Model(
    num_layers=2, dim=16, num_heads=2, num_kv_heads=1, window=32, bigram_rows=16, bigram_dim=8
)
PIECES = (
    "or", "an", "it", "of", " m", "and", "ord", "ore", " it", " of", "word", " and", " more",
    " word", "mo", "nd", "rd", "re", "wo", " a", " i", " o", " w",
)  # fmt: skip


def bell(name: str, shape: tuple[int, ...]) -> Codes:
    """Return integers around 0, nearly Gaussian, of spread 209."""
    size = int(np.prod(shape))
    eight = np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * size), np.uint8)
    return (eight.reshape(size, 8).astype(np.int16).sum(1) - 1020).reshape(shape).astype(np.int16)


def matrix(name: str, shape: tuple[int, int]) -> Matrix:
    """Return the integers of a matrix of `tiny`."""
    m, n = shape
    leaf = name.rsplit(".", 1)[-1]
    codes = bell(name, shape) // (20 if leaf == "tokens" else 120)  # spreads of 10 and 2
    if leaf == "tokens":
        codes[5:8] = codes[4] + bell(f"{name} apart", (3, n)) // 120  # nearly the row above
    if leaf == "o":
        codes[1] = 0
    if leaf == "up":
        codes[0, 0] = NARROW_CODE
    if leaf == "down":  # wide
        codes[2, 1], codes[0, 3] = LARGEST_CODE, -1234
    if leaf.startswith("bigram"):
        scales = (np.abs(bell(f"{name} rows", (m,))) + 9).astype(np.float16) / np.float16(16384)
        rows = scales.view(np.uint16).astype(np.int64)
        return Matrix(codes, rows, np.zeros(n, np.int64), "fp16_row")
    rows = -20 + bell(f"{name} rows", (m,)).astype(np.int64) // 100
    owner = name.replace(".k", ".q").replace(".v", ".q")  # q, k and v have the same columns
    columns = bell(f"{owner} columns", (n,)).astype(np.int64) // 150
    return Matrix(codes, rows, columns, "log2_quarter")


def tiny_tokenizer() -> Tokenizer:
    """Return the tokenizer of `tiny`."""
    text = b"\xff".join(piece.encode() for piece in PIECES)
    return read_tokenizer(b"\1" + byte_mixing.compress(text))


def tiny_integers() -> Quantized:
    """Return the integers of `tiny`."""
    tokenizer, matrices, vectors = tiny_tokenizer(), {}, {}
    for name, shape, part, _ in tensors_of(TINY, tokenizer.vocab_size):
        if part == "small":
            vectors[name] = 200 + bell(name, shape) // 4, -28 - len(vectors)
        else:
            matrices[name] = matrix(name, shape)
    return Quantized(matrices, vectors)


def tiny() -> bytes:
    """Return the artifact `tiny`."""
    return artifact.write(TINY, tiny_tokenizer(), tiny_integers())


def export(name: str, folder: Path) -> None:
    """Write what the artifact and the proof of a trained network hold as plain files."""
    data = (GOLDEN / f"{name}.fairway").read_bytes()
    opened, sections = artifact.read(data), split(data)
    tensors = tensors_of(opened.model, opened.vocab_size)
    small = [tensor for tensor in tensors if tensor.part == "small"]
    vectors, _ = weight_streams.code_vectors(Coder(sections.bodies["small"]), None, small)
    arrays: dict[str, Any] = {}
    for key, m in opened.matrices.items():
        arrays |= {f"{key}/codes": m.codes, f"{key}/rows": m.rows, f"{key}/columns": m.columns}
        arrays[f"{key}/grid"] = np.array(m.grid == "fp16_row")
    for key, (codes, exponent) in vectors.items():
        arrays |= {f"{key}/codes": codes, f"{key}/exponent": np.array(exponent)}
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    tokenizer = sections.bodies["tokenizer"]
    (folder / f"{name}.tokenizer").write_bytes(
        tokenizer[:1] + byte_mixing.decompress(tokenizer[1:])
    )
    reader = Reader((GOLDEN / f"{name}.fwp").read_bytes(), "the proof")
    header = Header.read(reader)
    with coding_session(opened, "exact") as (model, _):
        codec = Codec(model, opened.tokenizer)
        chunks = read_chunks(reader, header.chunks)
        documents = [d for chunk in chunks for d in codec.decode(chunk, lambda *_: None)]
    note = {
        "model": opened.model.model_dump(),
        "memory": [opened.memory.ngram, opened.memory.neural_cache],
        "documents": [document.decode("latin-1") for document in documents],
    }
    (folder / f"{name}.json").write_text(json.dumps(note))


def write(name: str, folder: Path) -> None:
    """Write the artifact and the proof of a trained network from plain files."""
    note, arrays = (
        json.loads((folder / f"{name}.json").read_text()),
        np.load(folder / f"{name}.npz"),
    )
    kind_and_text = (folder / f"{name}.tokenizer").read_bytes()
    tokenizer = read_tokenizer(kind_and_text[:1] + byte_mixing.compress(kind_and_text[1:]))
    matrices, vectors = {}, {}
    for key in [key.removesuffix("/codes") for key in arrays if key.endswith("/codes")]:
        codes = arrays[f"{key}/codes"]
        if f"{key}/exponent" in arrays:
            vectors[key] = codes, int(arrays[f"{key}/exponent"])
        else:
            grid = "fp16_row" if arrays[f"{key}/grid"] else "log2_quarter"
            matrices[key] = Matrix(codes, arrays[f"{key}/rows"], arrays[f"{key}/columns"], grid)
    data = artifact.write(
        Model.model_validate(note["model"]), tokenizer, Quantized(matrices, vectors),
        Memory(**dict(zip(Memory.model_fields, note["memory"], strict=True))),
    )  # fmt: skip
    (GOLDEN / f"{name}.fairway").write_bytes(data)
    opened = artifact.read(data)
    documents, digest = [text.encode("latin-1") for text in note["documents"]], Digest()
    for document in documents:
        digest.update(document)
    with coding_session(opened, "exact") as (model, _):
        tokens = tokenizer.encode_documents(documents)
        codec = Codec(model, tokenizer)
        chunk = codec.encode(tokens, documents, LANES[name], lambda *_: None)
    header = Header(
        machine=None,
        learning=b"",
        text=text_digest(digest.text_sha256, digest.lengths_sha256),
        artifact=bytes.fromhex(opened.sha256)[: proof.ARTIFACT_BYTES],
        chunks=1,
    )
    (GOLDEN / f"{name}.fwp").write_bytes(join([header.to_bytes() + chunk.body]))


def main(verb: str, folder: Path) -> None:
    """Export or write all golden files of formats."""
    for name in LANES:
        (export if verb == "export" else write)(name, folder)
    if verb == "write":
        (GOLDEN / "tiny.fairway").write_bytes(tiny())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
