"""A text in the terminal, each character on a background that says what it cost."""

from __future__ import annotations

import codecs
from bisect import bisect_right
from itertools import pairwise

from rich.console import Console
from rich.style import Style
from rich.text import Text

from fairway import console
from fairway.coding.lanes import documents_of
from fairway.page.charges import Charges

BOUNDS = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0)  # bits at which shades begin, as on the page
_COLOURS = (
    "#ffffff", "#fff3d6", "#ffe3a8", "#ffc978", "#ffa552", "#f4743b", "#c02a1c", "#7d0f1d"
)  # fmt: skip
_SHADES = [
    Style(color="#000000" if i < 6 else "#ffffff", bgcolor=colour)
    for i, colour in enumerate(_COLOURS)
]


def shown(charges: Charges) -> str:
    """Return a text with shades and a legend, as the terminal at standard output takes it.

    There are no shades where standard output is no terminal. Whatever a terminal would obey is
    written as an escape.
    """
    terminal = Console(highlight=False, emoji=False, soft_wrap=True)
    with terminal.capture() as captured:
        for number, part in enumerate(_documents(charges), 1):
            if len(charges.documents) > 1:
                terminal.print(Text(f"document {number} of {len(charges.documents)}", "dim"))
            terminal.print(part, end="" if part.plain.endswith("\n") else "\n")
        if terminal.color_system:
            terminal.print(_legend())
    return captured.get()


def _documents(charges: Charges) -> list[Text]:
    """Return each document; a character of several tokens has the bits of all of them."""
    bits, lengths = charges.bits.tolist(), charges.tokenizer.byte_lengths(charges.tokens).tolist()
    starts = [*documents_of(charges.tokens, charges.tokenizer.bos_id).tolist(), len(bits)]
    texts = []
    for document, (first, last) in zip(charges.documents, pairwise(starts), strict=True):
        text, decoder = Text(), codecs.getincrementaldecoder("utf-8")("backslashreplace")
        at, cost = 0, 0.0
        for token in range(first + 1, last):
            end = at + lengths[token]
            piece = decoder.decode(document[at:end], final=token + 1 == last)
            at, cost = end, cost + bits[token]
            if piece:
                _append(text, console.printable(piece, "\n\t"), cost)
                cost = 0.0
        texts.append(text)
    return texts


def _append(text: Text, piece: str, bits: float) -> None:
    """Append a piece in the shade of its bits; a line ends without one."""
    for i, line in enumerate(piece.split("\n")):
        text.append("\n" if i else "")
        text.append(line, _SHADES[bisect_right(BOUNDS, bits) - 1])


def _legend() -> Text:
    legend = Text("bits: ")
    for bound, shade in zip(BOUNDS, _SHADES, strict=True):
        legend.append(f" {bound:g} ", shade)
    return legend.append(" and more")
