"""Shorten JavaScript and CSS without a change in meaning: comments, indentation and blanks go.

Lines and the order of everything stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fairway.page import names

_WORD = re.compile(r"[#\w$]+")
_STRING = re.compile(r"""'(?:[^'\\\n]|\\[\s\S])*'|"(?:[^"\\\n]|\\[\s\S])*\"""")
_TEMPLATE = re.compile(r"(?:[^`\\$]|\\[\s\S]|\$(?!\{))*(`|\$\{)")
_COMMENT = re.compile(r"//[^\n]*|/\*[\s\S]*?\*/")
_BLANK = re.compile(r"\s+")
_REGEX = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/\w*")
# A slash after one of these begins a regular expression; after another word, ) or ] it divides.
_BEFORE_REGEX = re.compile(r"[({\[,;:=!&|?+\-*%<>~^]|return|typeof|case|of|in")

# Behind these and before those, the end of a line ends no statement.
_OPENING = ("", "{", "(", "[", ",")
_CLOSING = ("}", ")", "]", ",")


def script(source: str) -> str:
    """Return JavaScript without comments, indentation, empty lines and blanks that tell nothing.

    Names are short (names.py). Raises ValueError where it cannot tell a division from a regular
    expression.
    """
    tokens, gaps = [], []  # what stood before each token: a new line, a blank, nothing
    gap = ""
    for token in _tokens(source):
        if _BLANK.match(token) or _COMMENT.match(token):
            gap = "\n" if "\n" in gap + token else " "
            continue
        tokens.append(token)
        gaps.append(gap)
        gap = ""
    out = [""]
    for gap, token in zip(gaps, names.shortened(tokens), strict=True):
        if gap == "\n" and out[-1] not in _OPENING and token not in _CLOSING:
            out.append(gap)
        elif gap and _needs_blank(out[-1][-1:], token[0]):
            out.append(" ")
        out.append(token)
    return "".join(out) + "\n"


def _needs_blank(before: str, after: str) -> bool:
    """Return whether two tokens would become another one without a blank between them."""
    both_words = bool(_WORD.match(before) and _WORD.match(after))
    return (
        both_words
        or before + after in ("++", "--", "//", "/*")
        or (after == "." and before.isdigit())
    )


def _tokens(source: str) -> Iterator[str]:
    """Yield the tokens of JavaScript with all that stands between them. Raises ValueError."""
    at, last = 0, ";"
    braces: list[bool] = []  # for each open brace: whether it is the ${ of a template
    while at < len(source):
        character, in_template = source[at], False
        if character == "`" or (character == "}" and braces and braces[-1]):
            if character == "}":
                braces.pop()
            found, in_template = _TEMPLATE.match(source, at + 1), True
        elif character in "'\"":
            found = _STRING.match(source, at)
        elif blank := _BLANK.match(source, at) or _COMMENT.match(source, at):
            found = blank
        elif character == "/" and _BEFORE_REGEX.fullmatch(last):
            found = _REGEX.match(source, at)
        elif character == "/" and last == "}":
            raise ValueError("a slash after } may divide or begin a regular expression")
        else:
            found = _WORD.match(source, at) or re.compile(r"[\s\S]").match(source, at)
        if found is None:
            raise ValueError(f"a literal has no end: {source[at : at + 40]!r}")
        end = found.end()
        if in_template and found[1] == "${":
            braces.append(True)
        elif character in "{}" and not in_template:
            braces.append(False) if character == "{" else braces.pop()
        token = source[at:end]
        yield token
        if found.re not in (_BLANK, _COMMENT):
            last = "(" if in_template and found[1] == "${" else token
        at = end


def style(source: str) -> str:
    """Return CSS without comments, indentation and blanks around its punctuation."""
    parts = []
    for part in re.split(rf"({_STRING.pattern}|/\*[\s\S]*?\*/)", source):
        if part.startswith("/*"):
            continue
        if not part.startswith(("'", '"')):
            part = re.sub(r"\s+", " ", part)
            part = re.sub(r" ?([{};,]) ?", r"\1", part)
            part = re.sub(r": ", ":", part)  # before a colon, a blank is a part of a selector
        parts.append(part)
    return "".join(parts).replace(";}", "}").strip() + "\n"
