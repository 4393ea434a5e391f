"""The file: round trips, parts that sum to it, damage and hostility that are refused by name."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fairway.coding import artifact
from fairway.config.schema import Model, Pack
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats import weight_streams
from fairway.formats.artifact import HEADER_BYTES, MATRIX_PARTS, PARTS
from fairway.formats.range_coder import Coder
from fairway.formats.tensors import LARGEST_EXPONENT, Matrix, Quantized
from fairway.model.gpt import build
from fairway.model.parameters import is_matrix, kind_of, tensors_of
from fairway.quantize.gptq import FactoredHessian
from fairway.quantize.quantizers import QUANTIZERS, Uniform
from fairway.train.calibrate import Curvature

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHAPE = Model(
    num_layers=2, dim=16, num_heads=2, num_kv_heads=1, window=32, bigram_rows=16, bigram_dim=8
)
UNIFORM = Pack(quantizer="uniform", step=0.3)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutations, remake = _module(ROOT / "bench" / "mutations.py"), _module(GOLDEN / "remake.py")
bodies, sealed = mutations.bodies, mutations.sealed


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    text = " ".join(f"word{i % 37} and {i % 11} more of it" for i in range(400))
    return train_tokenizer([text.encode()], 280)


def random_weights(shape: Model, words: Tokenizer, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    tensors = tensors_of(shape, words.vocab_size)
    return {n: random.standard_normal(s, np.float32) * np.ones(s, "f4") for n, s, _, _ in tensors}


def quantized(shape: Model, words: Tokenizer, pack: Pack, log_step: float = -6.0) -> Quantized:
    weights, hessians = random_weights(shape, words), {}
    random = torch.Generator().manual_seed(0)
    for name, w in weights.items():
        if pack.quantizer == "gptq" and is_matrix(name):
            x = torch.randn(2 * w.shape[1], w.shape[1], generator=random)
            known = Curvature(x.T @ x / len(x), torch.rand(len(w), generator=random) ** 4)
            hessians[name] = FactoredHessian.of(known, kind_of(name).part)
    return QUANTIZERS[pack.quantizer](weights, hessians, pack).at(log_step)


@pytest.fixture(scope="module")
def data(words: Tokenizer) -> bytes:
    return artifact.write(SHAPE, words, quantized(SHAPE, words, UNIFORM))


def digest(made: artifact.Artifact) -> str:
    found = hashlib.sha256()
    for name, weights in made.state.items():
        found.update(f"{name} {tuple(weights.shape)}".encode() + weights.numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        SHAPE.model_copy(update={"bigram_rows": 0, "smear": False, "num_layers": 1}),
        SHAPE.model_copy(update={"mlp_mult": 2.5, "document_aware": False, "rope_base": 1e5}),
    ],
)
@pytest.mark.parametrize(
    "pack",
    [
        UNIFORM,
        Pack(),
        Pack(quantizer="rtn"),
        Pack(quantizer="rtn", mlp_bits=2, attention_bits=8, bigram_bits=3, row_scale="max"),
        Pack(quantizer="uniform", step=0.001),
    ],
    ids=["uniform", "gptq", "rtn", "rtn max", "wide"],
)
def test_round_trip(shape: Model, pack: Pack, words: Tokenizer) -> None:
    wanted = quantized(shape, words, pack)
    data = artifact.write(shape, words, wanted)
    made = artifact.read(data)
    assert made.model == shape
    assert made.tokenizer.to_bytes() == words.to_bytes()
    assert list(made.state) == [t.name for t in tensors_of(shape, words.vocab_size)]
    for name, weights in wanted.weights().items():
        assert torch.equal(made.state[name], torch.from_numpy(weights))
    for name, matrix in wanted.matrices.items():
        assert np.array_equal(made.matrices[name].codes, matrix.codes)
        assert made.matrices[name].grid == matrix.grid
    assert made.parts.keys() == {"header", *PARTS}
    assert sum(made.parts.values()) == len(data)
    assert made.sha256 == hashlib.sha256(data).hexdigest()


def test_several_streams_and_threads_hold_the_same_weights(
    words: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = quantized(SHAPE, words, UNIFORM)
    one = artifact.write(SHAPE, words, wanted)
    same = digest(artifact.read(one))
    monkeypatch.setattr(weight_streams, "STREAM_WEIGHTS", 600)
    many = artifact.write(SHAPE, words, wanted)
    assert many != one
    assert digest(artifact.read(many)) == same
    for threads in (1, 3):
        monkeypatch.setattr("fairway.formats.artifact._THREADS", threads)
        assert artifact.write(SHAPE, words, wanted) == many
        assert digest(artifact.read(many)) == same
    good = bodies(many)
    for cut, what in [(3, "stream 1 is missing"), (40, "stream 1 is truncated")]:
        with pytest.raises(BadInput, match=f"part mlp: its {what}"):
            artifact.read(sealed({**good, "mlp": good["mlp"][:cut]}))
    with pytest.raises(BadInput, match="part mlp"):  # cut for other streams than these
        artifact.read(sealed({**good, "mlp": bodies(one)["mlp"]}))


def test_initial_values_of_training_are_no_part_of_it(words: Tokenizer, data: bytes) -> None:
    other = SHAPE.model_copy(update={"qk_gain": 4.0, "embed_std": 0.5, "output_init": "scaled"})
    assert artifact.write(other, words, quantized(SHAPE, words, UNIFORM)) == data


def test_rows_of_tensors_account_for_the_parts(data: bytes) -> None:
    """Up to the first byte, the end of the stream, and ideal bits, which have 12-bit accuracy."""
    made = artifact.read(data)
    for part in (*MATRIX_PARTS, "small"):
        rows = [row for row in made.tensors if row.part == part]
        bits = sum(row.coded_bits for row in rows)
        assert 0.97 * bits <= 8 * made.parts[part] <= 1.01 * bits + 24
        for row in rows:
            assert row.bits_per_weight == pytest.approx(row.coded_bits / np.prod(row.shape))
            assert (row.smallest_step == 0) == (row.largest_code == 0) == (part == "small")
            assert row.smallest_step <= row.largest_step
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


def test_golden_artifacts() -> None:
    """Bytes and weights of the format may change only on purpose."""
    made = artifact.read(GOLDEN / "tiny.fairway")
    assert digest(made) == "974e4b1068f14d7a"
    assert remake.tiny() == (GOLDEN / "tiny.fairway").read_bytes()
    for name, matrix in remake.tiny_integers().matrices.items():
        assert np.array_equal(made.matrices[name].codes, matrix.codes)
    weights = {name: digest(artifact.read(GOLDEN / f"{name}.fairway")) for name in remake.LANES}
    assert weights == {"portable": "fa71b8efb8de6cb6", "memory": "e48c66a5c855cc5e"}


# What is refused --------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused(words: Tokenizer) -> None:
    good = quantized(SHAPE, words, UNIFORM)
    vector = np.zeros((3, 16), np.int16), 0
    for matrices, vectors, name in [
        (good.matrices, {**good.vectors, "skips": vector}, "skips"),
        (good.matrices, {**good.vectors, "stray": vector}, "stray"),
        ({n: m for n, m in good.matrices.items() if n != "embed.tokens"}, good.vectors,
         "embed.tokens"),
    ]:  # fmt: skip
        with pytest.raises(BadInput, match=f"do not fit the network: {name}"):
            artifact.write(SHAPE, words, Quantized(matrices, vectors))


def test_missing_other_newer_and_truncated_files(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(
        BadInput, match=r"cannot read the artifact .*no\.fairway: there is no such file"
    ):
        artifact.read(tmp_path / "no.fairway")
    for other in (b"", b"FW", b"PK\x03\x04 a zip file"):
        with pytest.raises(BadInput, match="not that of a Fairway artifact"):
            artifact.read(other)
    for version in (0, 2, 255):
        other = data[:4] + bytes([version]) + data[5:]
        with pytest.raises(BadInput, match=f"version {version}: it was made by another Fairway"):
            artifact.read(other)
    path = tmp_path / "cut.fairway"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"cut\.fairway cannot be opened: part \w+ is truncated: "):
        artifact.read(path)
    with pytest.raises(BadInput, match="3 bytes follow part small"):
        artifact.read(data + b"abc")


def test_mutations_are_refused_by_name_or_open_to_valid_weights(data: bytes) -> None:
    """A sample: bench/mutations.py makes and judges five thousand."""
    counts, slowest = mutations.run(data, 1500, seed=0)
    assert set(counts) <= {"refused", "opened", "unchanged"}
    assert counts["refused"] > 1000
    assert counts["opened"] >= 10  # right checksums around other weights
    assert slowest < 20


def test_flipped_bits_are_refused_by_the_part_they_hit(data: bytes) -> None:
    random = np.random.default_rng(0)
    start, where = HEADER_BYTES, ["the header"] * HEADER_BYTES
    for part, body in bodies(data).items():
        where += [f"part {part} is damaged"] * len(body)
    assert len(where) == len(data)
    for place in [*range(5, start), *random.integers(start, len(data), 100).tolist()]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(random.integers(8))
        with pytest.raises(BadInput, match=where[place]):
            artifact.read(bytes(damaged))


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
    for part in ("tokenizer", *MATRIX_PARTS, "small"):
        swapped = good["attention" if part == "mlp" else "mlp"]
        others = [b"", b"\0", b"\x02abc", b"\x01abc", b"\0" + random.bytes(9000), swapped]
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
    tensors = tensors_of(SHAPE, words.vocab_size)
    ups = [tensor for tensor in tensors if tensor.part == "mlp"]
    most = LARGEST_EXPONENT
    for code in (0, 1):  # infinity times 0 is no number, either
        matrices = {
            name: Matrix(np.full(s, code, np.int16), np.full(s[0], most), np.full(s[1], most))
            for name, s, *_ in ups
        }
        coder = Coder()
        weight_streams.code_matrices(coder, matrices, ups, "log2_quarter")
        with pytest.raises(BadInput, match=r"part mlp: blocks\.0\.mlp\.up holds a value"):
            artifact.read(sealed({**bodies(data), "mlp": b"\0" + coder.finish()}))


def test_a_small_file_cannot_claim_a_large_model(words: Tokenizer) -> None:
    """All zeros cost next to no bits: only the limit keeps such a file from taking memory."""
    shape = Model(num_layers=6, dim=192, num_heads=4, num_kv_heads=4)
    zeros = {t.name: np.zeros(t.shape) for t in tensors_of(shape, words.vocab_size)}
    tiny = artifact.write(shape, words, Uniform(zeros, {}, UNIFORM).at(0.0))
    assert len(tiny) < 30_000
    with pytest.raises(BadInput, match="weights are too many"):
        artifact.read(tiny)
