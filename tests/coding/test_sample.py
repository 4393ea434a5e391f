import pytest

from fairway.coding import artifact
from fairway.coding.sample import continuation, sample


@pytest.fixture(scope="module")
def opened(finished_tiny):
    return artifact.read(finished_tiny / "model.fairway")


def text(*arguments):
    return "".join(sample(*arguments))


def test_the_same_seed_writes_the_same_text(opened):
    first, again, other = (text(opened, b"The file", 30, 1.0, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_both_arithmetics_write(opened):
    """At temperature 0 they agree until two tokens are nearly as likely."""
    exact, real = (text(opened, b"The ", 8, 0, 1, kind) for kind in ("exact", "float"))
    assert exact[:8] == real[:8] != ""


def test_temperature_0_needs_no_seed(opened):
    assert text(opened, b"", 20, 0, 1) == text(opened, b"", 20, 0, 2)


def test_bytes_come_token_by_token(opened):
    given = opened, "é and more".encode(), 25, 1.0, 5
    pieces = list(continuation(*given))
    assert 1 <= len(pieces) <= 25
    assert text(*given) == b"".join(pieces).decode(errors="replace")


def test_text_comes_in_whole_characters(opened, monkeypatch):
    monkeypatch.setattr(
        "fairway.coding.sample.continuation", lambda *_: [b"a\xc3", b"\xa9", b"\xc3"]
    )
    assert list(sample(opened, b"", 3, 1.0, 0)) == ["a", "é", "", "\ufffd"]
