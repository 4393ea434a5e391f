"""Bytes come back, damage is noticed, tokenizers take fewer bytes than by brotli."""

import time
from pathlib import Path

import brotli
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fairway.data.byte_tokenizer import train_tokenizer
from fairway.errors import BadInput
from fairway.formats.byte_mixing import MAX_BYTES, compress, decompress
from fairway.io.binary import varint


@given(st.binary(max_size=300))
@example(b"")
@example(b"\0" * 5000)
@example(b"\xff" * 5000)
@example(bytes(range(256)) * 3)
def test_bytes_come_back(text):
    packed = compress(text)
    assert decompress(packed) == text
    assert len(packed) < 1.05 * len(text) + 16


@given(st.data())
def test_damage_is_noticed_or_is_another_text(data):
    packed = bytearray(compress(b"the\xff cat\xff sat\xff on\xff a\xff mat"))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        text = decompress(bytes(packed))
    except BadInput:
        return
    assert compress(text) == bytes(packed)  # nothing else decodes to it


def test_more_than_a_tokenizer_needs_is_refused():
    with pytest.raises(BadInput, match="too many"):
        compress(bytes(MAX_BYTES + 1))
    for length in (varint(MAX_BYTES + 1), varint(1 << 60), b"\xff" * 9, b"\x80", b"", b"\x81\x00"):
        with pytest.raises(BadInput, match="length is no number in range"):
            decompress(length)


def test_golden_stream():
    """The stream's bytes are a contract: every tokenizer of an artifact is one."""
    assert compress(b" the\xff cat\xffhe\xff the cat").hex() == GOLDEN


GOLDEN = "15df7199288724a09624d600a0ce"


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("vocab_size", [290, 512, 1024])
def test_tokenizers_are_smaller_than_by_brotli_and_quick(vocab_size, cased):
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))[:60]
    tokenizer = train_tokenizer([file.read_bytes() for file in sources], vocab_size, cased)
    packed = tokenizer.to_bytes()[1:]
    began = time.process_time()
    text = decompress(packed)
    assert time.process_time() - began < 1
    assert len(packed) <= len(brotli.compress(text, mode=brotli.MODE_TEXT, quality=11))
