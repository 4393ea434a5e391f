"""Read a JSON file that somebody else wrote, and say what is wrong with it in sentences."""

from __future__ import annotations

import json
import re
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fairway.challenge.contents import MAX_JSON_BYTES, shown
from fairway.challenge.logs import decode_text, read_bytes
from fairway.errors import BadInput
from fairway.io import foreign


def _is_date(text: str) -> str:
    found = re.match(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T[0-9:.+Z-]*)?\Z", text)
    date.fromisoformat(found[1] if found else text)
    return text


class Claims(BaseModel):
    """The fields of a file that are looked at, each of its type and in its range."""

    model_config = ConfigDict(strict=True)


Score = Annotated[float, Field(gt=0, le=16)]  # above 16 bits per byte no model is needed


class SubmissionClaims(Claims):
    author: str
    github_id: str
    name: str
    blurb: str
    date: Annotated[str, AfterValidator(_is_date)]
    val_loss: float = Field(gt=0, le=100)
    val_bpb: Score
    bytes_total: int = Field(gt=0, le=10**12)
    proved_bpb: Score = 1.0


class ProveClaims(Claims):
    bpb: Score
    text_sha256: str


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


def check(tree: dict[str, Any], kind: type[Claims]) -> list[str]:
    """Return what is wrong with the fields of an object."""
    try:
        kind.model_validate(tree)
    except ValidationError as error:
        return [_sentence(problem["loc"][0], problem) for problem in error.errors()]
    return []


def _sentence(name: object, problem: Any) -> str:
    if problem["type"] == "missing":
        return f"no {name}"
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{name} is {shown(json.dumps(problem['input']), 40)}: {shown(reason, 80)}"


def number(value: object) -> float | None:
    """Return a finite number; None for anything else, booleans and strings included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:
        return None
