"""Validation documents are found in training text, whole, reformatted and in part."""

import json
import re

import numpy as np
import pytest

from fairway.audit.overlap import audit_data
from fairway.data.shards import write_shard
from fairway.errors import BadInput

WORDS = ["alpha", "beta", "gamma", "delta", "river", "stone", "cloud", "winter", "paper"]


def document(seed, words=300):
    random = np.random.default_rng(seed)
    made = [f"{WORDS[i]}{j}" for i, j in random.integers(0, (9, 900), (words, 2))]
    return " ".join(made).encode()


def write(path, documents):
    path.write_text("".join(json.dumps({"text": d.decode()}) + "\n" for d in documents))
    return path


def found(tmp_path, train, val):
    files = write(tmp_path / "train.jsonl", train), write(tmp_path / "val.jsonl", val)
    return audit_data([files[0]], [files[1]], None, 0.2)


VAL = [document(seed) for seed in range(10)]
TRAIN = [document(100 + seed) for seed in range(30)]
CHANGES = {
    "verbatim": lambda d: d,
    "reformatted": lambda d: re.sub(rb"\s", b",\n ", d).upper(),
    "truncated": lambda d: d[500:1300],
    "inside a longer one": lambda d: document(77, 200) + d + document(78, 200),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_planted_document_is_found_and_nothing_else(tmp_path, change):
    result = found(tmp_path, [*TRAIN[:9], change(VAL[4]), *TRAIN[9:]], VAL)
    assert not result.valid
    assert [e.position for e in result.findings[0].evidence] == [4]
    assert "document 9" in result.findings[0].summary


def test_clean_text_is_clean(tmp_path):
    result = found(tmp_path, TRAIN, VAL)
    assert result.valid
    assert result.findings[0].evidence == []
    assert "30 training documents" in result.findings[0].power


def test_a_short_document_is_found_whole(tmp_path):
    assert not found(tmp_path, [*TRAIN, b"brief"], [*VAL, b"brief"]).valid


def test_shards_are_read_with_their_tokenizer(tmp_path, tokenizer):
    val = write(tmp_path / "val.jsonl", VAL)
    shard = tmp_path / "fineweb_train_000000.bin"
    write_shard(shard, tokenizer.encode_documents([TRAIN[0], VAL[2]]))
    (tmp_path / "t.fwt").write_bytes(tokenizer.to_bytes())
    result = audit_data([shard], [val], tmp_path / "t.fwt", 0.2)
    assert [e.position for e in result.findings[0].evidence] == [2]
    with pytest.raises(BadInput, match="give the --tokenizer"):
        audit_data([shard], [val], None, 0.2)
