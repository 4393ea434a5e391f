"""Define what a scorer is, and check what it returns.

A scorer is a function: token ids int64[N] → what each token was charged, float64[N] in nats, the
first token included (a first document boundary that is known may cost 0). It may return `Charges`
instead, and it may have an attribute `distributions`: tokens int64[N] → probabilities
float64[N, V], row t for token t, before it is looked at.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fairway.errors import BadInput

Tokens = NDArray[np.int64]
Floats = NDArray[np.float64]

# Ranges of what a scorer returns; times and bytes for each token, totals by the number of tokens.
_NATS = (-1e6, 1e6)
_TIMES = 1 << 31
_BYTES = 1 << 31
_SIDE_BYTES, _SIDE_BYTES_EACH = 1024, 8  # at most, and for each token more
_SLACK = 1e-6  # of a probability: rounding of a softmax in single precision


@dataclass(frozen=True)
class Charges:
    """What a scorer charged for N tokens. Only `nats` must be given."""

    nats: Any  # [N]: for each token, all that it was charged; of several charges their sum
    times_charged: Any = None  # [N]: how often
    bytes: Any = None  # [N]: what each token adds to the denominator of bits per byte
    total_nats: float | None = None  # the numerator that the score was computed from
    total_tokens: int | None = None
    total_bytes: int | None = None  # the denominator
    order: Any = None  # [N]: positions in the order in which a decoder would know the tokens
    side_bytes: int = 0  # told to a decoder besides the code (where lanes start); in total_nats


ARRAYS = ("nats", "times_charged", "bytes", "order")
NUMBERS = ("total_nats", "total_tokens", "total_bytes", "side_bytes")


class Caller(Protocol):
    """A way to call a scorer: in a process of its own (sandbox.py), or here."""

    has_distributions: bool

    def score(self, tokens: Tokens) -> Charges:
        """Return what the scorer charges for tokens."""

    def distributions(self, tokens: Tokens) -> Floats:
        """Return the scorer's probabilities of all tokens at every position, [N, V]."""

    def restarted(self) -> Caller:
        """Return the scorer of a new process, which never saw a text."""

    def close(self) -> None:
        """End the process."""


class Local:
    """A scorer of this process: for our own, and for tests.

    `maker` returns a scorer that never saw a text; without it, the scorer has no memory.
    """

    def __init__(
        self,
        scorer: Callable[[Tokens], Any],
        maker: Callable[[], Callable[[Tokens], Any]] | None = None,
    ) -> None:
        self._scorer, self._maker = scorer, maker
        self.has_distributions = hasattr(scorer, "distributions")

    def score(self, tokens: Tokens) -> Charges:
        """Return what the scorer charges for tokens. Raises BadInput."""
        return checked(plain(self._scorer(tokens.copy())), len(tokens))

    def distributions(self, tokens: Tokens) -> Floats:
        """Return the scorer's probabilities of all tokens, [N, V]. Raises BadInput."""
        rows = self._scorer.distributions(tokens.copy())  # type: ignore[attr-defined]
        return checked_rows(array_of(rows), len(tokens))

    def restarted(self) -> Local:
        """Return a scorer that never saw a text."""
        return self if self._maker is None else Local(self._maker(), self._maker)

    def close(self) -> None:
        """Do nothing: there is no process to end."""
        return


def load(name: str) -> Callable[[Tokens], Any]:
    """Run a file and return its scorer, `FILE.py:NAME`. Raises BadInput."""
    file, function = split(name)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.parent))
    spec.loader.exec_module(module)
    scorer = getattr(module, function, None)
    if not callable(scorer):
        raise BadInput(f"{file} has no function {function}: name another after the colon")
    return scorer  # type: ignore[no-any-return]


def split(name: str) -> tuple[Path, str]:
    """Split `FILE.py:NAME` into file and name. Raises BadInput."""
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py") or not function.isidentifier():
        raise BadInput(f"{name} names no scorer: write FILE.py:FUNCTION")
    if not Path(file).is_file():
        raise BadInput(f"cannot read {file}: there is no such file")
    return Path(file).resolve(), function


def plain(returned: Any) -> Charges:
    """Convert what a scorer returned to numpy arrays and numbers; an array alone is its nats."""
    if hasattr(returned, "nats"):
        given: dict[str, Any] = {f.name: getattr(returned, f.name, None) for f in fields(Charges)}
    elif isinstance(returned, Mapping):
        given = dict(returned)
    else:
        given = {"nats": returned}
    if unknown := set(given) - {f.name for f in fields(Charges)}:
        raise BadInput(f"the scorer returned {sorted(unknown)}, which Charges does not have")
    if given.get("nats") is None:
        raise BadInput("the scorer returned no charges: it must return a number for each token")
    arrays = {k: None if given.get(k) is None else array_of(given[k]) for k in ARRAYS}
    numbers = {k: None if given.get(k) is None else _number(k, given[k]) for k in NUMBERS}
    return Charges(**arrays, **(numbers | {"side_bytes": numbers["side_bytes"] or 0}))  # type: ignore[arg-type]


def array_of(values: Any) -> NDArray[Any]:
    """Convert a list, an array or a torch tensor to numpy, without importing torch."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except (ValueError, TypeError):  # lists of several lengths
        raise BadInput("the scorer returned a list that is no array of numbers") from None


def _number(name: str, value: Any) -> int | float:
    """Convert `value` to a Python number: an int, but for total_nats. Raises BadInput."""
    if hasattr(value, "item") and np.ndim(value) == 0:  # of numpy or torch
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"the scorer returned a {name} of type {type(value).__name__}, no number")
    if isinstance(value, int):
        return value
    if name != "total_nats" and not value.is_integer():  # nor is nan or infinity
        raise BadInput(f"the scorer returned {name} {value}: it must be a whole number")
    return value if name == "total_nats" else int(value)


def checked(charges: Charges, count: int) -> Charges:
    """Return the charges with the right dtypes. Raises BadInput at a value out of its range.

    Negative charges and counts of two are findings (counting.py): they pass. So do wrong sums.
    """
    arrays: dict[str, Any] = {}
    for name in ARRAYS:
        values = getattr(charges, name)
        if values is None:
            continue
        if values.shape != (count,) or values.dtype.kind not in "iufb":
            raise BadInput(
                f"the scorer was given {count} tokens and returned {name} of shape "
                f"{list(values.shape)} and type {values.dtype}: it must return a number for each "
                "token, the first included"
            )
        arrays[name] = _in_range(name, values, count)
    numbers = {name: getattr(charges, name) for name in NUMBERS}
    for name, value in numbers.items():
        if value is None:
            continue
        if name == "total_nats":
            numbers[name] = value = float(value) if abs(value) < 1 << 63 else value
        most = _most(name, count)
        if not 0 <= value <= most:  # so for nan
            shown = (
                value if isinstance(value, float) or abs(value) < 1 << 63 else "of too many bits"
            )
            raise BadInput(
                f"the scorer returned {name} {shown} for {count} tokens: it must be a number from "
                f"0 to {most:,}"
            )
    return Charges(**arrays, **numbers)


def _most(name: str, count: int) -> int:
    """Return the largest value that a number of Charges may have for `count` tokens."""
    if name == "side_bytes":
        return _SIDE_BYTES + _SIDE_BYTES_EACH * count
    return (count + 1) * _TIMES


def _in_range(name: str, values: NDArray[Any], count: int) -> NDArray[Any]:
    """Convert values [N] to float64 (nats) or int64. Raises BadInput for one out of its range."""
    low, high = {
        "nats": _NATS, "times_charged": (0, _TIMES), "bytes": (0, _BYTES), "order": (0, count - 1),
    }[name]  # fmt: skip
    wide = values if values.dtype.kind in "iu" else values.astype(np.float64)
    right = (wide >= low) & (wide <= high)  # False where it is not a number
    if name != "nats" and wide.dtype.kind == "f":
        right &= wide == np.floor(wide)
    if not right.all():
        position = int(np.flatnonzero(~right)[0])
        if name == "nats":
            given, wanted = f"charged {values[position]} nats", "charge must be a number"
        else:
            given, wanted = f"returned {name} {values[position]}", "value must be a whole number"
        raise BadInput(
            f"the scorer {given} for token {position} of {count}: every {wanted} from {low:,.0f} "
            f"to {high:,.0f}"
        )
    return values.astype(np.float64 if name == "nats" else np.int64)


def checked_rows(rows: NDArray[Any], count: int) -> Floats:
    """Check that there is a row of probabilities for each token. Raises BadInput."""
    if rows.ndim != 2 or len(rows) != count or not rows.size or rows.dtype.kind not in "iuf":
        raise BadInput(
            f"scorer.distributions was given {count} tokens and returned an array of shape "
            f"{list(rows.shape)} and type {rows.dtype}: it must return a row for each token"
        )
    rows = rows.astype(np.float64, copy=False)
    if not ((rows >= -_SLACK) & (rows <= 1 + _SLACK)).all():  # False where it is not a number
        raise BadInput(
            "scorer.distributions returned something that is no probability: every entry must lie "
            "between 0 and 1"
        )
    return rows
