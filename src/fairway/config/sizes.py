"""Sizes in bytes as people write them: 300k, 16MB, 1.5G are powers of ten; 8GiB, powers of two."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_SIZE = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))? ?(?:([KMGT])(i?))?B?", re.IGNORECASE)


def parse(text: str) -> int:
    """Return the bytes of a size such as "300k" or "16MB". Raises ValueError."""
    match = _SIZE.fullmatch(text.strip().replace("_", ""))
    if not match:
        raise ValueError(f"{text!r} is no size: give bytes, as in 300k, 16MB or 8G")
    whole, part, letter, binary = match.groups("")
    power = "KMGT".index(letter.upper()) + 1 if letter else 0
    unit: int = (1024 if binary else 1000) ** power
    return int(whole + part) * unit // int(10 ** len(part))


Bytes = Annotated[int, BeforeValidator(lambda v: parse(v) if isinstance(v, str) else v)]
"""A key of a recipe that takes a number of bytes, or a size."""
