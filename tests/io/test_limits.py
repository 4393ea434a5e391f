"""Small files cannot ask for much: memory and work are known before they are taken."""

import json
import os
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import pytest

from fairway.coding import artifact
from fairway.config.schema import Memory, Model
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.errors import BadInput
from fairway.formats.artifact import HEADER_BYTES, PARTS
from fairway.formats.byte_mixing import compress
from fairway.io import limits
from fairway.io.binary import join, varint

GOLDEN = Path(__file__).parents[1] / "golden"
MEBIBYTE = 1 << 20

# What one process is given: files, one after another. It prints what each came to, and how much
# its memory has grown at most.
OPEN = """
import json, resource, sys, time
from pathlib import Path
from fairway.errors import BadInput
from fairway.coding import artifact
from fairway.coding.compress import decompress
from fairway.pipeline.prove import decode
import sentencepiece.sentencepiece_model_pb2, io
from fairway.coding.exact_model import ExactModel
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
for line in sys.stdin:
    model, file, label = json.loads(line)
    before, began, said = peak(), time.process_time(), "opened"
    try:
        if file.endswith(".fwz"):
            with open(file, "rb") as source:
                decompress(artifact.read(Path(model)), source, io.BytesIO(), lambda done: None)
        elif file.endswith(".fwp"):
            decode(Path(model), Path(file), Path(file + ".out"))
        else:
            ExactModel(artifact.read(Path(model)))
    except BadInput as error:
        said = str(error)
    print(json.dumps([label, said, peak() - before, time.process_time() - began]), flush=True)
"""


def opened(jobs):
    """{label: (sentence, bytes, seconds)} of (model, file, label), in a process of their own."""
    lines = "".join(json.dumps([str(m), str(f), label]) + "\n" for m, f, label in jobs)
    done = subprocess.run(
        [sys.executable, "-c", OPEN], input=lines, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {label: rest for label, *rest in map(json.loads, done.stdout.splitlines())}


def changed(data, part, body):
    """An artifact with another body of one part, and right lengths and checksums."""
    bodies, at = [], HEADER_BYTES
    for name, (length, _) in zip(PARTS, struct.iter_unpack("<II", data[5:61]), strict=True):
        bodies.append(body if name == part else data[at : at + length])
        at += length
    header = data[:5] + b"".join(struct.pack("<II", len(b), zlib.crc32(b)) for b in bodies)
    return header + struct.pack("<I", zlib.crc32(header)) + b"".join(bodies)


EXTREMES = {
    "num_layers": [0, 128, 1 << 40], "dim": [0, 8, 8192, 1 << 40], "num_heads": [0, 128],
    "num_kv_heads": [0, 128], "mlp_mult": [0, 0.001, 16.0, 1e300], "window": [0, 32768, 65536],
    "rope_base": [0, 1.0000001, 1e308], "softcap": [0, 1e-300, 40.0],
    "bigram_rows": [0, 1 << 24, 1 << 60], "bigram_dim": [0, 8192], "rotary_dims": [1 << 40, 2],
    "gate_channels": [1 << 40, 16], "exclusive_layers": [1 << 60],
    "parallel_layers": [1 << 60], "ngram": [4, 1 << 40, -1], "neural_cache": [4096, 1 << 40],
    "repeat_times": [16, 1 << 40], "repeat_last": [1, 1 << 40],
}  # fmt: skip


def test_every_field_of_an_artifact_at_its_extremes(tmp_path):
    """One sentence or an artifact that opens, in little memory and little time."""
    data = (GOLDEN / "memory.fairway").read_bytes()
    length = struct.unpack_from("<I", data, 5)[0]
    recipe = json.loads(data[HEADER_BYTES : HEADER_BYTES + length])
    jobs = []
    for name, values in EXTREMES.items():
        for value in values:
            body = json.dumps(recipe | {name: value}).encode()
            file = tmp_path / f"{name} {value}"
            file.write_bytes(changed(data, "recipe", body))
            jobs.append((file, "", f"{name} {value}"))
    for name in TEXTS:
        file = tmp_path / name
        file.write_bytes(changed(data, "tokenizer", tokenizer(name)))
        jobs.append((file, "", name))
    found = opened([(GOLDEN / "memory.fairway", "", "warm"), *jobs])
    assert found.pop("warm")[0] == "opened"
    assert len(found) == len(jobs)
    for label, (said, grown, seconds) in found.items():
        assert grown < 250 * MEBIBYTE, (label, said, grown)
        assert seconds < 5, (label, said, seconds)
    assert sum(said != "opened" for said, _, _ in found.values()) > len(jobs) // 2


SETTINGS = bytes([2, 3, 1, 3, 1, 1])  # of a byte-pair model whose scores are ranks
# A million empty pieces, also as groups of all bytes; Fairway's own with as many; a long piece.
TEXTS = {
    "empty pieces": (b"\2", SETTINGS + b"\xff" * (1 << 20)),
    "groups of bytes": (b"\2", SETTINGS + b"\xff\xfe" * (1 << 19)),
    "no pieces": (b"\2", SETTINGS),
    "own pieces": (b"\1", b"\xff" * (1 << 20)),
    "a long piece": (b"\3", b"x" * (1 << 20)),
}


@cache
def tokenizer(name):
    kind, text = TEXTS[name]
    return kind + compress(text)


@pytest.mark.parametrize("name", TEXTS)
def test_tokenizers_that_unpack_to_much(name):
    assert len(tokenizer(name)) < 1500
    with pytest.raises(BadInput):
        read_tokenizer(tokenizer(name))


def test_a_tokenizer_that_claims_too_much_is_not_decoded():
    with pytest.raises(BadInput, match="no number in range"):
        read_tokenizer(b"\1" + varint(1 << 30))


@pytest.fixture(scope="module")
def greedy(tmp_path_factory, tokenizer):
    """An artifact of some 20 kB with a window and repetitions that cost gigabytes per lane."""
    from fairway.config.schema import Pack
    from fairway.model.gpt import build
    from fairway.pipeline.pack import pack_weights

    shape = Model(
        num_layers=4, dim=32, num_heads=2, num_kv_heads=2, window=32768, bigram_rows=0,
        repeat_first=0, repeat_last=3, repeat_times=16, output_init="scaled",
    )  # fmt: skip
    weights = {n: t.numpy() for n, t in build(shape, 300, 0, seed=1).state_dict().items()}
    file = tmp_path_factory.mktemp("greedy") / "model.fairway"
    recipe = Pack(quantizer="uniform", step=0.5)
    memory = Memory(neural_cache=4096)
    file.write_bytes(pack_weights(shape, tokenizer, weights, {}, recipe, memory).data)
    return file


def hostile(model, tmp_path):
    """Small files that ask for much, by name."""
    made_by = bytes.fromhex(artifact.read(model).sha256)[:4]
    pieces, tokens = 40, 40 * 64
    lanes = b"".join(map(varint, [tokens, pieces, *[2 * 64] * (pieces - 1)]))
    coded = lanes + varint(2) + b"ab"
    head = b"FWPF\1\0" + bytes(8) + made_by + varint(1)
    long, many = 1 << 26, 4096
    spread = [2 * (long // many)] * (many - 1)
    files = {
        "lanes.fwz": join([b"FWZ\1\2" + made_by, varint(3) + varint(0) + varint(pieces) + coded
                           + bytes(4), varint(0)]),
        "work.fwp": join([head + varint(0) + b"".join(map(varint, [long, 1, 2])) + b"ab"]),
        "lanes.fwp": join([head + varint(0) + b"".join(map(varint, [long, many, *spread, 2]))
                           + b"ab"]),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return [(model, tmp_path / name, name) for name in files]


def test_small_files_do_not_take_gigabytes(greedy, tmp_path):
    assert greedy.stat().st_size < 60_000
    found = opened([(greedy, "", "warm"), *hostile(greedy, tmp_path)])
    found.pop("warm")
    for label, (said, grown, seconds) in found.items():
        assert "--max-memory" in said or "--max-tokens" in said, (label, said)
        assert "asks for" in said
        assert grown < 200 * MEBIBYTE, (label, grown)
        assert seconds < 5, (label, seconds)


def test_who_trusts_a_file_lets_it(greedy, tmp_path, fairway):
    (_, file, _), *_ = hostile(greedy, tmp_path)
    code, _, said = fairway("decompress", "-t", "-m", greedy, file)
    assert (code, "with --max-memory" in said) == (2, True)
    code, _, said = fairway("inspect", greedy, "--max-memory", "1K")
    assert (code, "that you allow" in said) == (2, True)
    code, _, said = fairway("inspect", greedy, "--max-memory", "much")
    assert (code, "as in 300k, 16MB or 8G" in said) == (2, True)
    assert fairway("inspect", greedy)[0] == 0


def test_limits_follow_from_the_size_unless_they_are_raised():
    most = limits.FREE_BYTES + 10 * limits.BYTES_PER_BYTE
    limits.check_memory("it", most, 10)
    limits.check_work("it", limits.FREE_TOKENS, 0)
    with pytest.raises(BadInput, match=r"it asks for 1.1 GB.*--max-memory 2G"):
        limits.check_memory("it", most + 1, 10)
    with pytest.raises(BadInput, match="it asks for the work of 4,194,305 tokens"):
        limits.check_work("it", limits.FREE_TOKENS + 1, 0)
    limits.raise_to(2 * 10**9, limits.FREE_TOKENS + 1)
    try:
        limits.check_memory("it", most + 1, 10)
        limits.check_work("it", limits.FREE_TOKENS + 1, 0)
    finally:
        limits.raise_to()


def test_an_mlp_without_width_is_no_recipe():
    with pytest.raises(ValueError, match="leaves the MLP no width"):
        Model(mlp_mult=0.001)
