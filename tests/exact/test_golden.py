"""Proofs that were made once, wherever that was, decode on this machine."""

import hashlib
from pathlib import Path

import pytest

from fairway.pipeline.prove import decode

GOLDEN = Path(__file__).parents[1] / "golden"
# portable: one lane. memory: three lanes, with a document memory.
TEXTS = {
    "portable": (9646, "17811b6252a54827b1a64ae6daa985c027069ea1c3422032a3b0f9a09fbe7e8c"),
    "memory": (13501, "1ebee5c45fc061cb627fef600b6506dd166265be4aef2628d44538c15721d02a"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_golden_proofs_decode(tmp_path, name):
    decode(GOLDEN / f"{name}.fairway", GOLDEN / f"{name}.fwp", tmp_path / "text")
    text = (tmp_path / "text").read_bytes()
    assert (len(text), hashlib.sha256(text).hexdigest()) == TEXTS[name]
