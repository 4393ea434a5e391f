"""What an audit is given: texts, shards and tokenizers are told by content, not by name."""

import numpy as np
import pytest

from fairway.audit.audit_text import of_text, open_tokenizer
from fairway.audit.overlap import audit_data
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.data.shards import write_shard
from fairway.errors import BadInput

TEXT = b"The letter that nobody has given an ending, and yet it is a text. " * 9


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], 270)


@pytest.mark.parametrize("name", ["letter", "letter.TXT", "letter.eml"])
def test_a_text_of_any_name(tmp_path, tokenizer, name):
    (tmp_path / name).write_bytes(TEXT)
    text = of_text(tmp_path / name, tokenizer)
    assert text.lengths.sum() == len(TEXT)
    assert text.loss == ""


@pytest.mark.parametrize("name", ["t", "t.fwt", "t.FWT", "t.bin"])
def test_a_tokenizer_of_any_name(tmp_path, tokenizer, name):
    (tmp_path / name).write_bytes(tokenizer.to_bytes())
    assert open_tokenizer(tmp_path / name).to_bytes() == tokenizer.to_bytes()


def test_an_artifact_of_any_name(finished_tiny, tmp_path):
    (tmp_path / "x.model").write_bytes((finished_tiny / "model.fairway").read_bytes())
    assert open_tokenizer(tmp_path / "x.model").vocab_size == 512


def test_no_tokenizer(tmp_path):
    for name, message in (("a.model", "no SentencePiece model"), ("a.fwt", "is damaged")):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(BadInput, match=message):
            open_tokenizer(tmp_path / name)


@pytest.mark.parametrize("name", ["shard.bin", "SHARD.BIN", "shard", "shard.txt"])
def test_a_shard_of_any_name(tmp_path, tokenizer, name):
    fwt, train = tmp_path / "t.fwt", tmp_path / name
    fwt.write_bytes(tokenizer.to_bytes())
    write_shard(train, tokenizer.encode_documents([TEXT, b"another"]).astype(np.uint16))
    (tmp_path / "val").write_bytes(TEXT)
    found = audit_data([train], [tmp_path / "val"], fwt, 0.2)
    assert not found.valid
    assert "exact copy" in found.findings[0].summary
    with pytest.raises(BadInput, match="is a token shard: give the --tokenizer"):
        audit_data([train], [tmp_path / "val"], None, 0.2)
