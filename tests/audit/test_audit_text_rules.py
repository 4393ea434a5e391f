"""What an audit takes for the text of a shard: tokens that write what some document counts as."""

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

from challenge_models import train_challenge_model
from fairway.audit.audit_text import of_shard, open_tokenizer
from fairway.data.shards import write_shard
from fairway.errors import BadInput

DOCUMENTS = [f"the cat sat on {number} mats and the dog ran".encode() for number in range(200)]
SPACE_BYTES = 4 + np.array([0xE2, 0x96, 0x81], np.uint16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    text = b"\n".join(DOCUMENTS).decode()
    path = tmp_path_factory.mktemp("model") / "challenge.model"
    return train_challenge_model(path, text, hard_vocab_limit=False).read_bytes()


def written(path, data):
    path.write_bytes(data)
    return path


def test_a_shard_counts_the_bytes_of_its_documents(model, tmp_path):
    tokenizer = open_tokenizer(written(tmp_path / "good.model", model))
    tokens = tokenizer.encode_documents(DOCUMENTS)
    shard = tmp_path / "x_val_0.bin"
    write_shard(shard, tokens)
    assert of_shard(shard, tokenizer).lengths.sum() == sum(map(len, DOCUMENTS))
    write_shard(shard, tokens[3:-3])  # a shard may begin and end inside of a document
    of_shard(shard, tokenizer)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_shard_with_spaces_of_three_bytes_is_refused(model, tmp_path, place):
    tokenizer = open_tokenizer(written(tmp_path / "good.model", model))
    parts = [tokenizer.encode_documents([document]) for document in DOCUMENTS]
    parts[place] = np.concatenate([parts[place][:5], SPACE_BYTES, parts[place][5:]])
    shard = tmp_path / "x_val_0.bin"
    write_shard(shard, np.concatenate(parts))
    with pytest.raises(BadInput, match=rf"document {place % 200} of the shard .* U\+2581"):
        of_shard(shard, tokenizer)


def test_a_model_without_a_piece_for_a_space_is_refused(model, tmp_path):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    for number, piece in enumerate(proto.pieces):
        if piece.piece == "\u2581":
            piece.piece = f"Ж{number}"
    with pytest.raises(BadInput, match=r"bad\.model breaks the rule .* no piece for a lone space"):
        open_tokenizer(written(tmp_path / "bad.model", proto.SerializeToString()))
