"""Open the tokenizer that an artifact or a data folder holds."""

from __future__ import annotations

from fairway.data import byte_tokenizer, challenge_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats import byte_mixing


def read_tokenizer(data: bytes) -> Tokenizer:
    """Return the tokenizer whose `to_bytes` gave `data`. Raises BadInput on any other bytes."""
    if data[:1] in (b"\x01", b"\x03"):
        text = byte_mixing.decompress(data[1:])
        return byte_tokenizer.parse(text, cased=data[:1] == b"\x03")
    if data[:1] == b"\x02":
        proto = challenge_tokenizer.model_from_bytes(
            byte_mixing.decompress(data[1:]), "the artifact"
        )
        return challenge_tokenizer.ChallengeTokenizer(proto, "the artifact")
    raise BadInput("the tokenizer is damaged or was made by a newer Fairway")
