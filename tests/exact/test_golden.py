"""A proof that was made once, on another machine, decodes on this one."""

import hashlib
from pathlib import Path

from fairway.prove.proof import decode

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT_SHA256 = "17811b6252a54827b1a64ae6daa985c027069ea1c3422032a3b0f9a09fbe7e8c"


def test_the_golden_proof_decodes(tmp_path):
    decode(GOLDEN / "portable.fairway", GOLDEN / "portable.fwp", tmp_path / "text")
    text = (tmp_path / "text").read_bytes()
    assert hashlib.sha256(text).hexdigest() == TEXT_SHA256
    assert len(text) == 9646
