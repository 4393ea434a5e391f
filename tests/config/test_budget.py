"""What counts against the challenge's limit."""

from fairway.config import budget


def test_an_artifact_stands_beside_the_limit_and_no_code_is_guessed():
    said = budget.sentence(4_000_000)
    assert said.startswith("4,000,000 of the challenge's 16,000,000 bytes (25.0%)")
    assert "script counts, too" in said
