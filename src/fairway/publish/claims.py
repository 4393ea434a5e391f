"""Read a JSON file that somebody else wrote, and say what is wrong with it in sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any

from fairway.errors import BadInput
from fairway.publish.contents import MAX_JSON_BYTES, shown
from fairway.publish.logs import decode_text, read_bytes

# Greatest values that a field can have: a score above 16 bits per byte says less than no model.
RANGES = {"val_loss": 100.0, "val_bpb": 16.0, "proved_bpb": 16.0, "bpb": 16.0, "bytes_total": 1e12}


@dataclass(frozen=True)
class Field:
    """What a field must be."""

    kind: type | tuple[type, ...]
    required: bool = True


def load(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the object in a JSON file, and sentences on what is wrong with it.

    A name that occurs twice is wrong: readers differ in which value they take. Numbers that are
    not finite are wrong, wherever they stand.
    """
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        twice.extend(name for name in set(names) if names.count(name) > 1)
        return dict(items)

    try:
        data = read_bytes(file, MAX_JSON_BYTES)
        tree = json.loads(decode_text(data), object_pairs_hook=pairs)
    except FileNotFoundError:
        return {}, ["it is missing"]
    except BadInput as error:
        return {}, [str(error)]
    except (ValueError, RecursionError) as error:
        return {}, [f"it is not valid JSON ({shown(str(error))})"]
    if not isinstance(tree, dict):
        return {}, ["it is not an object"]
    problems = [f"{shown(name, 40)} stands there twice" for name in sorted(set(twice))]
    problems += [f"{path} is {value}" for path, value in _not_finite(tree)]
    return tree, problems


def check(tree: dict[str, Any], fields: Mapping[str, Field]) -> list[str]:
    """Return what is wrong with the fields of an object."""
    problems = [f"no {name}" for name, f in fields.items() if f.required and name not in tree]
    for name, expected in fields.items():
        value = tree.get(name)
        if name not in tree:
            continue
        if not isinstance(value, expected.kind) or isinstance(value, bool):
            problems.append(f"{name} is {shown(json.dumps(value), 40)}")
        elif name in RANGES and not 0 < _float(value) <= RANGES[name]:
            problems.append(f"{name} is {shown(str(value), 40)}: it must be above 0 and small")
    if isinstance(day := tree.get("date"), str) and "date" in fields and not _is_date(day):
        problems.append(f"date is '{shown(day, 40)}', not YYYY-MM-DD")
    return problems


def number(value: object) -> float | None:
    """Return a finite number; None for anything else, booleans and strings included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    converted = _float(value)
    return converted if isfinite(converted) else None


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (OverflowError, ValueError, TypeError):
        return float("inf")


def _is_date(text: str) -> bool:
    found = re.match(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T[0-9:.+Z-]*)?\Z", text)
    try:
        return bool(found and date.fromisoformat(found[1]))
    except ValueError:
        return False


def _not_finite(tree: object) -> Iterator[tuple[str, str]]:
    pending: list[tuple[str, object]] = [("", tree)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
        elif isinstance(value, list):
            pending += [(f"{path}[{i}]", item) for i, item in enumerate(value)]
        elif isinstance(value, float) and not isfinite(value):
            yield shown(path, 40), str(value)
