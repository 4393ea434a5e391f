import pytest

from fairway.coding.sample import continuation, sample
from fairway.errors import BadInput


def test_the_same_seed_writes_the_same_text(tiny):
    first, again, other = (sample(tiny.artifact, "The file", 30, 1.0, seed) for seed in (1, 1, 2))
    assert first.startswith("The file")
    assert first == again != other


def test_both_arithmetics_write(tiny):
    """At temperature 0 they agree until two tokens are nearly as likely."""
    exact, real = (sample(tiny.artifact, "The ", 8, 0, 1, kind) for kind in ("exact", "float"))
    assert exact[:12] == real[:12]


def test_temperature_0_needs_no_seed(tiny):
    assert sample(tiny.artifact, "", 20, 0, 1) == sample(tiny.artifact, "", 20, 0, 2)


def test_bytes_come_token_by_token(tiny):
    prompt = "é and more"
    pieces = list(continuation(tiny.artifact, prompt.encode(), 25, 1.0, 5))
    assert 1 <= len(pieces) <= 25
    added = b"".join(pieces).decode(errors="replace")
    assert sample(tiny.artifact, prompt, 25, 1.0, 5) == prompt + added


def test_a_missing_artifact_is_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="cannot read the artifact"):
        sample(tmp_path / "missing.fairway", "", 1, 1.0, 0)
