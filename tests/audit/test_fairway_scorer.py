"""Fairway's own scorers are valid, and say in which order; the command prints its result."""

import json
import re

import numpy as np
import pytest

from fairway.audit.audit import audit
from fairway.audit.audit_text import AuditText, lost
from fairway.audit.fairway_scorer import fairway_scorer
from fairway.coding import artifact
from gallery.local import Local


@pytest.mark.parametrize(
    "how",
    [
        {"protocol": "sliding", "stride": 8},
        {"protocol": "rolling"},
        {"method": "lora"},
    ],
    ids=str,
)
def test_own_scorers_are_valid(artifact_file, how):
    tokenizer = artifact.read(artifact_file).tokenizer
    tokens = tokenizer.encode_documents([b"the cat sat on a mat " * 9, b"dog ran after " * 12])
    ids = tokens.astype(np.int64)
    text = AuditText(ids, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.byte_lengths(ids))
    result = audit(Local(fairway_scorer(artifact_file, **how)), text, 0.03, 0, "own")
    assert result.valid, result.failure
    assert result.order == "left-to-right"


def test_lanes_that_learn_together_declare_their_order(artifact_file):
    tokens = np.random.default_rng(0).integers(1, 300, 4200)
    tokens[::300] = 0
    found = fairway_scorer(artifact_file, method="dynamic", order="lanes")(tokens)
    assert not np.array_equal(found.order, np.arange(4200))
    assert np.array_equal(np.sort(found.order), np.arange(4200))
    assert found.times_charged.tolist() == [0] + [1] * 4199
    assert found.side_bytes == 2


def test_the_command(artifact_file, fairway, tmp_path):
    """A valid scorer ends with 0, an invalid one with 1, nonsense with 2."""
    (tmp_path / "code").mkdir()
    file = tmp_path / "code" / "theirs.py"
    file.write_text(
        "import numpy as np\n"
        "def uniform(t): return np.full(len(t), np.log(300.0))\n"
        "def ahead(t): return np.full(len(t), np.log(300.0)) + 0.1 * (np.roll(t, -1) % 2)\n"
        "def nothing(t): return None\n"
    )
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat and the dog ran after some bird")
    about = ("--text", text, "--tokenizer", artifact_file, "--minutes", "0.05", "--json")
    code, out, err = fairway("audit", f"{file}:uniform", *about)
    assert code == 0
    assert "--minutes finds rarer ones" in err
    assert json.loads(out)["valid"] is True
    code, out, err = fairway("audit", f"{file}:ahead", *about)
    assert code == 1
    found = {f["condition"]: f for f in json.loads(out)["findings"]}
    assert found["causal"]["verdict"] == "broken"
    assert {"position", "before", "after", "cause"} == set(found["causal"]["evidence"][0])
    assert "is not valid" in err
    moved = re.findall(r"token [\d,]+: (\S+) → (\S+)", err)
    assert moved
    assert all(before != after for before, after in moved)
    code, _, err = fairway("audit", f"{file}:nothing", *about)
    assert code == 2
    assert "a number for each token" in err


def test_an_easier_text_is_a_finding():
    """V9: what the challenge's normalisation does is allowed, folding case is not."""
    assert lost([b"The  Cat\nsat"], [b"The Cat sat"], "challenge") == ""
    assert "b'The Cat' became b'the cat'" in lost([b"The Cat"], [b"the cat"], "challenge")
    assert lost([b"The  Cat"], [b"The Cat"], "bytes") != ""
