"""Give short names to what a script declares, the same one wherever the old name stands.

A name is a text here: no scopes are looked at. So a name is renamed only if nothing that stands
outside the script can see it, wherever it occurs: no property, key, method or string has it, and
no browser does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from string import ascii_letters

_DECLARES = ("const", "let", "function", "class")
_NAME = re.compile(r"[A-Za-z_$][\w$]*")
# What stands before the { of a block. Before that of an object or a pattern stands something else.
_BEFORE_BLOCK = re.compile(r"[);{}>]|else|do|try|catch|finally|")
_BEFORE_KEY = ("{", ",", "}", ";", "get", "set", "static", "async", "*")
_AFTER_KEY = (",", "}", ":", "=", "(", ";")
# Names that the language or a browser gives a meaning without a declaration of ours.
_FOREIGN = re.compile(
    "alert|arguments|async|await|blur|closed?|confirm|constructor|crypto|document|done|event|"
    "external|fetch|find|focus|frames|get|history|length|location|name|navigator|next|of|open|"
    "origin|parent|performance|print|process|prompt|return|screen|scroll|self|set|static|status|"
    "stop|target|then|toJSON|toString|top|undefined|value|valueOf|window"
)


def shortened(tokens: Sequence[str]) -> list[str]:
    """Return the tokens of a script with short names, and `let` for `const`."""
    names = _renamed(tokens)
    return ["let" if token == "const" else names.get(token, token) for token in tokens]


def _renamed(tokens: Sequence[str]) -> dict[str, str]:
    """Return the new name of each name that may have one: the shortest to what saves the most."""
    counts = Counter(token for token in tokens if _NAME.fullmatch(token))
    fixed = {literal[1:-1] for literal in tokens if literal[0] in "'\"`"}
    fixed |= set(_properties(tokens))
    declared = {name for before, name in pairwise(tokens) if before in _DECLARES}
    may = [
        name
        for name in declared - fixed
        if len(name) > 2 and _NAME.fullmatch(name) and not _FOREIGN.fullmatch(name)
    ]
    new = (name for name in _short_names() if name not in counts and name not in fixed)
    return dict(zip(sorted(may, key=lambda name: (-counts[name], name)), new, strict=False))


def _properties(tokens: Sequence[str]) -> Iterator[str]:
    """Yield the names that stand for a property: behind a dot, as a key, as a method or field."""
    brackets: list[bool] = []  # of each open bracket: whether a name inside may be a key
    padded = ["", "", *tokens, ""]
    for i, token in enumerate(tokens, 2):
        before, after = padded[i - 1], padded[i + 1]
        if token[0] in ")]}":
            brackets.pop()
        if token in ("(", "[") or token.endswith("${"):
            brackets.append(False)
        elif token == "{":
            brackets.append(not _BEFORE_BLOCK.fullmatch(before))
        elif _NAME.fullmatch(token):
            is_member = before == "." and padded[i - 2] != "."  # behind ... is none
            may_be_key = bool(brackets and brackets[-1])
            if is_member or (may_be_key and before in _BEFORE_KEY and after in _AFTER_KEY):
                yield token


def _short_names() -> Iterator[str]:
    for size in count(1):
        for i in range(len(ascii_letters) ** size):
            digits = []
            for _ in range(size):
                i, digit = divmod(i, len(ascii_letters))
                digits.append(ascii_letters[digit])
            yield "".join(digits)
