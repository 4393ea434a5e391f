"""What a scorer is, and what it must return to be audited at all.

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
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fairway.errors import BadInput

Tokens = NDArray[np.int64]
Floats = NDArray[np.float64]


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

    def charges(self, tokens: Tokens) -> Charges: ...
    def distributions(self, tokens: Tokens) -> Floats: ...
    def fresh(self) -> Caller:
        """The scorer as a process has it that never saw a text."""

    def close(self) -> None: ...


class Local:
    """A scorer of this process: for our own, and for tests."""

    def __init__(self, scorer: Callable[[Tokens], Any]) -> None:
        self._scorer = scorer
        self.has_distributions = hasattr(scorer, "distributions")

    def charges(self, tokens: Tokens) -> Charges:
        return checked(plain(self._scorer(tokens.copy())), len(tokens))

    def distributions(self, tokens: Tokens) -> Floats:
        rows = self._scorer.distributions(tokens.copy())  # type: ignore[attr-defined]
        return checked_rows(_array(rows), len(tokens))

    def fresh(self) -> Local:
        return self

    def close(self) -> None:
        return


def load(name: str) -> Callable[[Tokens], Any]:
    """The scorer `FILE.py:NAME`. Runs the file. Raises BadInput."""
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
    """`FILE.py:NAME` in two. Raises BadInput."""
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py") or not function.isidentifier():
        raise BadInput(f"{name} names no scorer: write FILE.py:FUNCTION")
    if not Path(file).is_file():
        raise BadInput(f"cannot read {file}: there is no such file")
    return Path(file).resolve(), function


def plain(returned: Any) -> Charges:
    """What a scorer returned, as numpy arrays and numbers; an array alone is its nats."""
    if isinstance(returned, Charges) or hasattr(returned, "nats"):
        given: dict[str, Any] = {f.name: getattr(returned, f.name, None) for f in fields(Charges)}
    elif isinstance(returned, Mapping):
        given = dict(returned)
    else:
        given = {"nats": returned}
    if unknown := set(given) - {f.name for f in fields(Charges)}:
        raise BadInput(f"the scorer returned {sorted(unknown)}, which Charges does not have")
    if given.get("nats") is None:
        raise BadInput("the scorer returned no charges: it must return a number for each token")
    arrays = {k: None if given.get(k) is None else _array(given[k]) for k in ARRAYS}
    numbers = {k: None if given.get(k) is None else float(given[k]) for k in NUMBERS}
    counts = {k: v if k == "total_nats" or v is None else int(v) for k, v in numbers.items()}
    return Charges(**arrays, **(counts | {"side_bytes": counts["side_bytes"] or 0}))  # type: ignore[arg-type]


def _array(values: Any) -> NDArray[Any]:
    """Numpy's view of a list, an array, or a tensor of torch, which this file does not import."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values)


def checked(found: Charges, count: int) -> Charges:
    """The same with the right dtypes. Raises BadInput for what no experiment can be made with."""
    arrays: dict[str, Any] = {}
    for name in ARRAYS:
        values = getattr(found, name)
        if values is None:
            continue
        if values.shape != (count,) or values.dtype.kind not in "iufb":
            raise BadInput(
                f"the scorer was given {count} tokens and returned {name} of shape "
                f"{list(values.shape)} and type {values.dtype}: it must return a number for each "
                "token, the first included"
            )
        arrays[name] = values.astype(np.float64 if name == "nats" else np.int64)
    nats = arrays["nats"]
    if not np.isfinite(nats).all():
        place = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise BadInput(
            f"the scorer charged {nats[place]} nats for token {place} of {count}: every charge "
            "must be a number"
        )
    for name in NUMBERS:
        if (value := getattr(found, name)) is not None and not isfinite(value):
            raise BadInput(f"the scorer returned {name} {value}: it must be a number")
    return Charges(**arrays, **{k: getattr(found, k) for k in NUMBERS})


def checked_rows(rows: NDArray[Any], count: int) -> Floats:
    """Raises BadInput unless there is a row of numbers for each token."""
    if rows.ndim != 2 or len(rows) != count or rows.dtype.kind not in "iuf":
        raise BadInput(
            f"scorer.distributions was given {count} tokens and returned an array of shape "
            f"{list(rows.shape)} and type {rows.dtype}: it must return a row for each token"
        )
    rows = rows.astype(np.float64, copy=False)
    if not np.isfinite(rows).all():
        raise BadInput("scorer.distributions returned something that is no number")
    return rows
