"""Check the arguments of public functions by their annotations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_WIDER: dict[Any, Any] = {int: Integral, float: Real}  # those of numpy, too


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Raise TypeError, in one sentence, where an argument is not of its annotated type.

    `bool` is no number here, and a text is no sequence.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        signature, hints = _declared(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints and not _is(value, hints[name]):
                wanted, given = _words(hints[name]), _kind(value)
                raise TypeError(f"{function.__qualname__}: {name} must be {wanted}, not {given}")
        return function(*args, **kwargs)

    return call


@cache
def _declared(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    return inspect.signature(function), typing.get_type_hints(function)


def _is(value: object, hint: Any) -> bool:
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is UnionType:
        return any(_is(value, one) for one in inner)
    if not isinstance(value, _WIDER.get(kind, kind)):
        return False
    if kind in (Sequence, Mapping):
        is_text = isinstance(value, str | bytes | bytearray | memoryview)
        return not is_text and all(_is(one, inner[0]) for one in value)
    return hint is bool or not isinstance(value, bool)


def _words(hint: Any) -> str:
    """Return an annotation as a sentence names it."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is UnionType:
        return " or ".join(map(_words, inner))
    if kind in (Sequence, Mapping):
        return f"a {kind.__name__.lower()} of {_words(inner[0])}"
    return "None" if kind is NoneType else kind.__name__


def _kind(value: object) -> str:
    inner = value if isinstance(value, list | tuple | dict) else ()
    kinds = sorted({type(one).__name__ for one in inner})
    return type(value).__name__ + (f" of {' and '.join(kinds)}" if kinds else "")
