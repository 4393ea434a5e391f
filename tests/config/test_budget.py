"""What counts against the challenge's limit."""

import re

from fairway.config import budget


def test_the_code_counts_beside_the_artifact():
    code = budget.code_bytes()
    assert 50_000 < code < 500_000
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]{3,}", budget.sentence(10**6))]
    assert numbers == [16_000_000, 10**6, code, 10**6 + code]
