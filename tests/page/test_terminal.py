"""A text in the terminal: every character is there, and none of them is obeyed."""

import re

import pytest

from fairway.coding import artifact
from fairway.page import terminal
from fairway.page.charges import charges

HOSTILE = "the \x1b[31mcat\x07 sat\r\non\t\u202ea mat\0 été ".encode() + b"\xff\xfe \xc3"
SHOWN = "the \\x1b[31mcat\\x07 sat\\r\non      \\u202ea mat\\x00 été \\xff\\xfe \\xc3"


def test_without_a_terminal_the_text_is_plain(memory_file):
    made = charges(artifact.read(memory_file), [HOSTILE])
    assert terminal.shown(made) == SHOWN + "\n"


def test_documents_are_told_apart(memory_file):
    made = charges(artifact.read(memory_file), [b"the cat", b"a dog"])
    assert terminal.shown(made) == "document 1 of 2\nthe cat\ndocument 2 of 2\na dog\n"


def test_a_terminal_gets_shades_and_a_legend(memory_file, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    made = charges(artifact.read(memory_file), [HOSTILE])
    painted = terminal.shown(made)
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted).startswith(SHOWN + "\nbits:  0  0.5  1 ")
    dearest = max(made.bits)
    shade = terminal._SHADES[sum(bound <= dearest for bound in terminal.BOUNDS) - 1]
    red, green, blue = shade.bgcolor.get_truecolor()
    assert f"48;2;{red};{green};{blue}m" in painted


@pytest.mark.parametrize("shade", terminal._SHADES)
def test_text_can_be_read_on_every_shade(shade):
    def light(colour):
        parts = [c / 255 for c in colour.get_truecolor()]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted([light(shade.color), light(shade.bgcolor)])
    assert (bright + 0.05) / (dark + 0.05) >= 4.5
