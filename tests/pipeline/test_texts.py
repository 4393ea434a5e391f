"""A text that is scored is the file's own, whatever the artifact's tokenizer makes of it."""

import pytest

from fairway.config import toml
from fairway.data.byte_tokenizer import ByteTokenizer
from fairway.errors import BadInput
from fairway.pipeline import texts
from fairway.pipeline.directory import Job, RunDirectory

LINES = b'{"text": "a cat  and\\na hat"}\n{"text": ""}\n{"text": "a dog"}\n'


def load(tokenizer, file, tmp_path):
    return texts.load(Job(toml.load("tiny"), RunDirectory(tmp_path / "run"), file), tokenizer)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "some.jsonl").write_bytes(LINES)
    return tmp_path / "some.jsonl"


def test_a_tokenizer_that_restores_the_bytes_scores_the_file(file, tmp_path):
    text = load(ByteTokenizer([" a", "at"]), file, tmp_path)
    assert text.text_bytes == len("a cat  and\na hat" + "a dog")


@pytest.mark.parametrize("piece", ["\u2581a", "\ue00aa"])
def test_a_tokenizer_that_restores_another_text_is_refused(file, tmp_path, piece):
    """Its reserved mark stands for one byte of the file and would be decoded to three."""
    with pytest.raises(BadInput, match="by the rule 'bytes' 21 bytes count"):
        load(ByteTokenizer([piece]), file, tmp_path)
