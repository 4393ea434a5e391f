"""The challenge's shard format, and a sentence for each kind of damage."""

import numpy as np
import pytest

from fairway.data.shards import HEADER_BYTES, read_shard, write_shard
from fairway.errors import BadInput


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.array([1, 2, 65535], np.uint16))
    return path


def test_layout_is_the_challenges(shard):
    header = [20240520, 1, 3, *[0] * 253]
    assert shard.read_bytes() == np.array(header, "<i4").tobytes() + b"\1\0\2\0\xff\xff"


def test_reads_what_was_written(shard, tmp_path):
    tokens = read_shard(shard)
    assert tokens.tolist() == [1, 2, 65535]
    assert isinstance(tokens, np.memmap)
    assert not tokens.flags.writeable
    write_shard(tmp_path / "empty.bin", np.empty(0, np.uint16))
    assert read_shard(tmp_path / "empty.bin").size == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:100], "header is cut short"),
        (lambda data: b"\0" + data[1:], "no token shard"),
        (lambda data: data[:4] + b"\2" + data[5:], "version 2"),
        (lambda data: data[:-1], "header says 3 tokens"),
        (lambda data: data + b"\0\0", "header says 3 tokens"),
        (lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:HEADER_BYTES], "header says -1"),
    ],
)
def test_damage_is_named(shard, damage, message):
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(BadInput, match=message):
        read_shard(shard)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(BadInput, match="cannot read the shard"):
        read_shard(tmp_path / "none.bin")
