"""Put words in lower case behind marks: "The" and "the" share their pieces (CaseOps, #1729).

    " The USA's iPhone"  →  TITLE " the" CAPS " usa's iPhone"

A mark stands before the space before its word, as no piece reaches over a space from the right.
Only ASCII letters change, so a text keeps its length in bytes, and every mark writes none.
"""

from __future__ import annotations

import re

TITLE, CAPS = "\ue001", "\ue002"
MARKS = TITLE + CAPS

_CAPITALS = re.compile("( ?(?<![A-Za-z]))([A-Z]+[a-z]*)(?![A-Za-z])")

# In written bytes marks are two that UTF-8 does not have; behind a third, a byte is itself.
_ESCAPE, _CAPS, _TITLE = 0xFD, 0xFE, 0xFF
_MARKED = re.compile(rb"\xff( ?)([a-z])|\xfe( ?)([a-z]+)|\xfd(.)|[\xfe\xff]", re.DOTALL)


def mark(text: str) -> str:
    """Return a text with words like "The" and "THE" in lower case, a mark before each.

    All other words stay. The text holds no marks of its own.
    """

    def marked(match: re.Match[str]) -> str:
        space, word = match.groups()
        if word[1:].islower() or len(word) == 1:
            return TITLE + space + word.lower()
        return CAPS + space + word.lower() if word.isupper() else match.group()

    return _CAPITALS.sub(marked, text)


def written(piece: str) -> bytes:
    """Return the bytes of a piece for `unmark`."""
    data = piece.encode()
    return data.replace(TITLE.encode(), bytes([_TITLE])).replace(CAPS.encode(), bytes([_CAPS]))


def raw(byte: int) -> bytes:
    """Return a byte that is no mark, for `unmark`."""
    return bytes([_ESCAPE, byte] if byte >= _ESCAPE else [byte])


def spelled(data: bytes) -> bytes:
    """Return the bytes of a piece or a byte for a reader: marks are the characters MARKS."""

    def plain(match: re.Match[bytes]) -> bytes:
        byte: bytes = match[1]
        return byte or (TITLE if match[0] == b"\xff" else CAPS).encode()

    return re.sub(rb"\xfd(.)|[\xfe\xff]", plain, data, flags=re.DOTALL)


def unmark(data: bytes) -> bytes:
    """Return the text of joined pieces. A mark without a word behind it writes nothing."""

    def plain(match: re.Match[bytes]) -> bytes:
        title_space, letter, caps_space, word, byte = match.groups(b"")
        return title_space + letter.upper() + caps_space + word.upper() + byte

    return _MARKED.sub(plain, data)
