"""Read a JSON file that somebody else wrote, and say what is wrong with it in sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any

from fairway.challenge.contents import MAX_JSON_BYTES, shown
from fairway.challenge.logs import decode_text, read_bytes
from fairway.errors import BadInput
from fairway.io import foreign

# Greatest values that a field can have: a score above 16 bits per byte says less than no model.
RANGES = {"val_loss": 100.0, "val_bpb": 16.0, "proved_bpb": 16.0, "bpb": 16.0, "bytes_total": 1e12}


@dataclass(frozen=True)
class Field:
    """What a field must be."""

    kind: type | tuple[type, ...]
    required: bool = True


def load(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the object in a JSON file, and sentences on what is wrong with it.

    A name that occurs twice is wrong, as readers differ in which value they take; so are numbers
    that are not finite, wherever they stand (fairway.io.foreign).
    """
    try:
        text = decode_text(read_bytes(file, MAX_JSON_BYTES))
        tree = foreign.parse_json(text, "it")
    except BadInput as error:
        return {}, [shown(str(error), 200)]
    if not isinstance(tree, dict):
        return {}, ["it is not an object"]
    return tree, []


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
