"""The file: round trips, parts that sum to it, damage and hostility that are refused by name."""

from __future__ import annotations

import hashlib
import json
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fairway.errors import BadInput
from fairway.model.gpt import build, skeleton
from fairway.pack import artifact, quantize, tensors
from fairway.rangecoder import Coder
from fairway.recipe import Model, Pack
from fairway.text.tokenizer import Tokenizer, train_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny-v1.fairway"
SHAPE = Model(
    num_layers=2, dim=16, num_heads=2, num_kv_heads=1, window=32, bigram_rows=16, bigram_dim=8
)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    text = " ".join(f"word{i % 37} and {i % 11} more of it" for i in range(400))
    return train_tokenizer([text.encode()], 280)


def random_state(shape: Model, words: Tokenizer, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = skeleton(shape, words.vocab_size, words.bos_id)
    return {name: torch.randn(s, generator=random) for name, s in shapes.items()}


@pytest.fixture(scope="module")
def data(words: Tokenizer) -> bytes:
    return artifact.write(SHAPE, words, random_state(SHAPE, words), Pack())


def bodies(data: bytes) -> dict[str, bytes]:
    lengths = struct.unpack_from("<" + "II" * len(artifact.PARTS), data, 6)[::2]
    ends = artifact.HEADER_BYTES + np.cumsum(lengths)
    return {
        part: data[end - length : end]
        for part, length, end in zip(artifact.PARTS, lengths, ends.tolist(), strict=True)
    }


def sealed(parts: dict[str, bytes]) -> bytes:
    """A file with these bodies and right checksums, as a hostile writer would make it."""
    header = struct.pack("<4sH", b"FWAY", 1)
    for body in parts.values():
        header += struct.pack("<II", len(body), zlib.crc32(body))
    return header + struct.pack("<I", zlib.crc32(header)) + b"".join(parts.values())


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        SHAPE.model_copy(update={"bigram_rows": 0, "smear": False, "num_layers": 1}),
        SHAPE.model_copy(update={"mlp_mult": 2.5, "document_aware": False, "rope_base": 1e5}),
    ],
)
@pytest.mark.parametrize(
    "bits",
    [
        Pack(),
        Pack(row_scale="max"),
        Pack(mlp_bits=2, attention_bits=8, bigram_bits=3, embed_bits=7, row_scale="max"),
    ],
)
def test_round_trip(shape: Model, bits: Pack, words: Tokenizer) -> None:
    state = random_state(shape, words)
    data = artifact.write(shape, words, state, bits)
    made = artifact.read(data)
    assert made.model == shape
    assert made.tokenizer.to_bytes() == words.to_bytes()
    assert list(made.state) == list(state)
    for name, weights in state.items():
        stored = quantize.rounded(
            weights.numpy(), quantize.bits_of(quantize.part_of(name), bits), bits.row_scale
        )
        assert torch.equal(made.state[name], torch.from_numpy(stored))
    assert sum(made.parts.values()) == len(data)
    assert made.sha256 == hashlib.sha256(data).hexdigest()
    if bits.row_scale == "max":  # rounded weights are a fixed point
        assert artifact.write(made.model, made.tokenizer, made.state, bits) == data


def test_initial_values_of_training_are_no_part_of_it(words: Tokenizer, data: bytes) -> None:
    other = SHAPE.model_copy(update={"qk_gain": 4.0, "embed_std": 0.5, "output_init": "scaled"})
    assert artifact.write(other, words, random_state(SHAPE, words), Pack()) == data


def test_rows_of_tensors_account_for_the_parts(data: bytes) -> None:
    made = artifact.read(data)
    for part in (*artifact.MATRIX_PARTS, "small"):
        rows = [row for row in made.tensors if row.part == part]
        bits = sum(row.coded_bits for row in rows)
        assert 0 <= 8 * made.parts[part] - bits <= 8 + 8  # the byte of code bits, the stream's end
        for row in rows:
            assert row.bits_per_weight == pytest.approx(row.coded_bits / np.prod(row.shape))
            assert (row.smallest_scale is None) == (part == "small")
    assert [row.name for row in made.tensors] == list(made.state)


def test_built_model_computes_as_one_with_these_weights(words: Tokenizer, data: bytes) -> None:
    made = artifact.read(data)
    model = build(SHAPE, words.vocab_size, words.bos_id, seed=1)
    model.load_state_dict(made.state)
    tokens = torch.arange(20)[None] % words.vocab_size
    built = made.build_model()
    assert torch.equal(built.logits(tokens), model.logits(tokens))
    with torch.no_grad():
        built.skips.zero_()  # a model does not share memory with the artifact
    assert made.state["skips"].any()


def test_golden_artifact() -> None:
    """Bytes and weights of format version 1 may change only on purpose, with a new version."""
    data = GOLDEN.read_bytes()
    made = artifact.read(GOLDEN)
    digest = hashlib.sha256()
    for name, weights in made.state.items():
        digest.update(f"{name} {tuple(weights.shape)}".encode() + weights.numpy().tobytes())
    assert len(data) == 9297
    assert digest.hexdigest()[:16] == "b987f31fafb680c6"
    assert made.tokenizer.decode(made.tokenizer.encode_documents([b"a word"])) == [b"a word"]
    assert artifact.write(made.model, made.tokenizer, made.state, Pack(row_scale="max")) == data


# What is refused --------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused(words: Tokenizer) -> None:
    state = random_state(SHAPE, words)
    for change, name in [
        ({"skips": torch.zeros(3, 16)}, "skips"),
        ({"stray": torch.zeros(3)}, "stray"),
        ({"embed.tokens": None}, "embed.tokens"),
    ]:
        other = {n: t for n, t in {**state, **change}.items() if t is not None}
        with pytest.raises(BadInput, match=f"do not fit the network: {name}"):
            artifact.write(SHAPE, words, other, Pack())


@pytest.mark.parametrize("name", ["blocks.1.mlp.up", "blocks.0.attn.q_gain"])
def test_diverged_weights_are_refused(name: str, words: Tokenizer) -> None:
    state = random_state(SHAPE, words)
    state[name].view(-1)[1] = float("nan")
    with pytest.raises(BadInput, match=f"{name} cannot be packed.*diverged"):
        artifact.write(SHAPE, words, state, Pack())


def test_missing_other_newer_and_truncated_files(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadInput, match=r"cannot read the artifact .*no\.fairway: No such file"):
        artifact.read(tmp_path / "no.fairway")
    for other in (b"", b"FW", b"PK\x03\x04 a zip file"):
        with pytest.raises(BadInput, match="not that of a Fairway artifact"):
            artifact.read(other)
    newer = data[:4] + struct.pack("<H", 2) + data[6:]
    with pytest.raises(BadInput, match="version 2: it was made by a newer Fairway"):
        artifact.read(newer)
    path = tmp_path / "cut.fairway"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"cut\.fairway cannot be opened: part \w+ is truncated: "):
        artifact.read(path)
    with pytest.raises(BadInput, match="3 bytes follow part small"):
        artifact.read(data + b"abc")


def test_mutations_are_refused_by_the_part_they_hit(data: bytes) -> None:
    random = np.random.default_rng(0)
    ends = dict(
        zip(artifact.PARTS, np.cumsum([len(b) for b in bodies(data).values()]), strict=True)
    )
    for _ in range(400):
        damaged, place = bytearray(data), int(random.integers(len(data)))
        kind = random.integers(4)
        if kind == 0:
            damaged[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            damaged[place:] = b""
        elif kind == 2:
            damaged += random.bytes(1 + place % 50)
        else:
            width = 1 + place % 7
            if bytes(width) == damaged[place : place + width]:
                continue
            damaged[place : place + width] = bytes(width)
        with pytest.raises(BadInput) as caught:
            artifact.read(bytes(damaged))
        hit = next((p for p, end in ends.items() if place < artifact.HEADER_BYTES + end), "")
        if kind == 0:
            named = "the header" if place < artifact.HEADER_BYTES else f"part {hit} "
            assert named in str(caught.value)
        assert "header" in str(caught.value) or "part " in str(caught.value)


@pytest.mark.parametrize(
    "recipe",
    [
        b"",
        b"[" * 4000,
        b"[1]",
        b'{"layers": 3}',
        b'{"dim": NaN}',
        b'{"dim": "16"}',
        b'{"dim": -16}',
        b'{"dim": 1e400}',
        b"\xff\xfe",
        b" " * 5000,
        json.dumps({"num_layers": 128, "dim": 8192, "num_heads": 128, "mlp_mult": 16.0}).encode(),
        json.dumps({"bigram_rows": 1 << 24, "bigram_dim": 8192}).encode(),
        b'{"dim": ' + b"9" * 3000 + b"}",
    ],
)
def test_hostile_recipes_are_refused_before_memory_is_taken(recipe: bytes, data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(BadInput, match="part recipe"):
        artifact.read(sealed({**bodies(data), "recipe": recipe}))
    assert time.perf_counter() - start < 5


def test_hostile_parts_are_refused_or_read_as_weights(data: bytes) -> None:
    """Right checksums around wrong contents. Some are other weights; the rest is named."""
    good = bodies(data)
    random = np.random.default_rng(1)
    assert sealed(good) == data
    refused = 0
    for part in ("tokenizer", *artifact.MATRIX_PARTS, "small"):
        swapped = good["attention" if part == "mlp" else "mlp"]
        others = [b"", b"\0", b"\x09abc", b"\x05abc", b"\x05" + random.bytes(9000), swapped]
        others += [good[part] + b"\x01", good[part] + b"\0", good[part][:-3]]
        for body in others:
            try:
                made = artifact.read(sealed({**good, part: body}))
            except BadInput as error:
                assert f"part {part}" in str(error)  # noqa: PT017
                refused += 1
            else:
                assert all(bool(torch.isfinite(t).all()) for t in made.state.values())
    assert refused >= 30


def test_values_that_are_no_numbers_are_refused(data: bytes, words: Tokenizer) -> None:
    shapes = skeleton(SHAPE, words.vocab_size, words.bos_id)
    ups = {name: s for name, s in shapes.items() if quantize.part_of(name) == "mlp"}
    matrices = {
        name: tensors.Matrix(np.ones(s, np.int8), np.full(s[0], np.inf, np.float16))
        for name, s in ups.items()
    }
    coder = Coder()
    tensors.code_matrices(coder, matrices, ups, 5)
    with pytest.raises(BadInput, match=r"part mlp: blocks\.0\.mlp\.up holds a value"):
        artifact.read(sealed({**bodies(data), "mlp": b"\x05" + coder.finish()}))


def test_a_small_file_cannot_claim_a_large_model(words: Tokenizer) -> None:
    """All zeros cost no bits: only the limit keeps such a file from taking memory."""
    shape = Model(num_layers=12, dim=256, num_heads=4, num_kv_heads=4)
    state = {n: torch.zeros(s) for n, s in skeleton(shape, words.vocab_size, words.bos_id).items()}
    tiny = artifact.write(shape, words, state, Pack())
    assert len(tiny) < 30_000
    with pytest.raises(BadInput, match="weights are too many"):
        artifact.read(tiny)
