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
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fairway.audit import Charges
from fairway.errors import BadInput

Tokens = NDArray[np.int64]
Floats = NDArray[np.float64]

_SLACK = 1e-6  # of a probability: rounding of a softmax in single precision


ARRAYS = ("nats", "times_charged", "bytes", "order")
NUMBERS = ("total_nats", "total_tokens", "total_bytes", "side_bytes")


def _ranges(count: int) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value of each field of Charges for `count` tokens."""
    each = 1 << 31
    totals = (0, (count + 1) * each)
    return {
        "nats": (-1e6, 1e6),
        "times_charged": (0, each),
        "bytes": (0, each),
        "order": (0, count - 1),
        "total_nats": totals,
        "total_tokens": totals,
        "total_bytes": totals,
        "side_bytes": (0, 1024 + 8 * count),
    }


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
    names = {f.name for f in fields(Charges)}
    if hasattr(returned, "nats"):
        given: dict[str, Any] = {name: getattr(returned, name, None) for name in names}
    else:
        given = dict(returned) if isinstance(returned, Mapping) else {"nats": returned}
    if unknown := set(given) - names:
        raise BadInput(f"the scorer returned {sorted(unknown)}, which Charges does not have")
    if given.get("nats") is None:
        raise BadInput("the scorer returned no charges: it must return a number for each token")
    known = {name: value for name, value in given.items() if value is not None}
    return Charges(
        **{k: array_of(v) if k in ARRAYS else _number(k, v) for k, v in known.items()}  # type: ignore[arg-type]
    )


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
    given: dict[str, Any] = {}
    for name, (low, high) in _ranges(count).items():
        value = getattr(charges, name)
        if value is not None:
            check = _checked_array if name in ARRAYS else _checked_number
            given[name] = check(name, value, count, low, high)
    return Charges(**given)


def _checked_number(name: str, value: Any, count: int, low: float, high: float) -> Any:
    if not low <= value <= high:  # so for nan
        shown = value if isinstance(value, float) or abs(value) < 1 << 63 else "of too many bits"
        raise BadInput(
            f"the scorer returned {name} {shown} for {count} tokens: it must be a number from "
            f"{low} to {high:,}"
        )
    return float(value) if name == "total_nats" else value


def _checked_array(
    name: str, values: NDArray[Any], count: int, low: float, high: float
) -> NDArray[Any]:
    """Convert values [count] to float64 (nats) or int64."""
    if values.shape != (count,) or values.dtype.kind not in "iufb":
        raise BadInput(
            f"the scorer was given {count} tokens and returned {name} of shape "
            f"{list(values.shape)} and type {values.dtype}: it must return a number for each "
            "token, the first included"
        )
    wide = values if values.dtype.kind in "iu" else values.astype(np.float64)
    right = (wide >= low) & (wide <= high)  # False where it is not a number
    if name != "nats" and wide.dtype.kind == "f":
        right &= wide == np.floor(wide)
    if not right.all():
        position = int(np.flatnonzero(~right)[0])
        given, wanted = f"returned {name} {values[position]}", "value must be a whole number"
        if name == "nats":
            given, wanted = f"charged {values[position]} nats", "charge must be a number"
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
