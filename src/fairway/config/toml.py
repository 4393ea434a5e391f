"""Read, override and write recipes as TOML; name every problem at once."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from fairway.config.schema import Recipe, Section, Train
from fairway.errors import BadInput
from fairway.io import foreign


def shipped() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("fairway.config") / "recipes"
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def opening(name: str) -> str:
    """Return the comment that a shipped recipe opens with: what it is, and its command."""
    lines = _shipped_text(name).split("\n\nname")[0].splitlines()
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def _shipped_text(name: str) -> str:
    return (resources.files("fairway.config") / "recipes" / f"{name}.toml").read_text("utf-8")


def load(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Return a recipe from a shipped name or a TOML file, with `section.key=value` overrides.

    Raises BadInput with all problems at once.
    """
    if name in shipped():
        text = _shipped_text(name)
    else:
        try:
            text = foreign.read_text(Path(name), "the recipe", pipes=True)
        except foreign.Missing:
            near = difflib.get_close_matches(name, shipped(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(
                f"no recipe '{name}': name a TOML file, or one of {', '.join(shipped())} "
                f"(fairway recipes){hint}"
            ) from None
    tree = foreign.parse_toml(text, f"the recipe {name}")
    problems = [p for o in overrides if (p := _override(tree, o))]
    return _build(tree, name, problems)


def _override(tree: dict[str, Any], assignment: str) -> str | None:
    """Set one dotted key in place; return a problem or None."""
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        return f"--set {assignment}: write it as section.key=value"
    try:
        parsed: Any = tomllib.loads(f"x = {value}")["x"]
    except (ValueError, RecursionError):
        parsed = value  # a bare word is a string
    if not isinstance(parsed, str) and _is_text(key):  # data.path=2024 is a folder's name
        parsed = value
    try:
        foreign.check_values(parsed, f"--set {assignment}")
    except BadInput as error:
        return str(error)
    *sections, leaf = key.strip().split(".")
    node: Any = tree
    for name in sections:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            return f"--set {assignment}: '{name}' is not a section"
    node[leaf] = parsed
    if sections == ["train"] and leaf in ("steps", "tokens", "seconds") and parsed:
        for other in {"steps", "tokens", "seconds"} - {leaf}:
            node.pop(other, None)
    return None


def _is_text(key: str) -> bool:
    """Return whether the recipe wants a string under a dotted key."""
    kind: Any = Recipe
    for name in key.strip().split("."):
        field = getattr(kind, "model_fields", {}).get(name)
        kind = field.annotation if field else None
    return kind is str


def _build(tree: dict[str, Any], where: str, problems: list[str]) -> Recipe:
    problems = problems + _take_unknown(tree, Recipe, "")
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        problems += [_sentence(e) for e in error.errors()]
    if problems:
        raise BadInput(f"the recipe {where} has {len(problems)} problem(s): " + "; ".join(problems))
    return recipe


def _take_unknown(tree: dict[str, Any], section: type[BaseModel], prefix: str) -> list[str]:
    """Remove unknown keys, so that the rest can be checked too; one problem for each."""
    problems = []
    for key in list(tree):
        field = section.model_fields.get(key)
        kind = field.annotation if field else None
        if field is None:
            del tree[key]
            near = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.5)
            hint = f", did you mean '{near[0]}'?" if near else ""
            problems.append(f"unknown key {prefix}{key}{hint}")
        elif isinstance(tree[key], dict) and isinstance(kind, type) and issubclass(kind, Section):
            problems += _take_unknown(tree[key], kind, f"{prefix}{key}.")
    return problems


def _sentence(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{place + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}"


def dumps(recipe: Recipe, defaults: bool = True) -> str:
    """Return the recipe as TOML, or only what differs from defaults; `loads(dumps(r)) == r`."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_defaults=not defaults))


def changed(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return value and default of every key that is not at its default, by dotted name."""
    defaults = Recipe.model_construct(name="", train=Train.model_construct())
    values, usual = (dict(_flat(r.model_dump(mode="json"), "")) for r in (recipe, defaults))
    told = {"name", "description", "hardware"}
    return {k: (v, usual[k]) for k, v in values.items() if v != usual[k] and k not in told}


def _flat(tree: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of every key."""
    for key, inner in tree.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{path}{key}.")
        else:
            yield path + key, inner


def dumps_marked(recipe: Recipe) -> str:
    """Return the recipe as TOML, with the default in a comment beside each value that differs."""
    differing, section, lines = changed(recipe), "", []
    for line in dumps(recipe).splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        key = section + line.partition(" = ")[0]
        mark = f"  # default: {as_toml(differing[key][1])}" if key in differing else ""
        lines.append(line + mark)
    return "\n".join(lines) + "\n"


def as_toml(value: object) -> str:
    """Return one value as TOML in one line, as `--set` takes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def loads(text: str, where: str = "text") -> Recipe:
    """Return the recipe in a TOML text. Raises BadInput with all problems at once."""
    return _build(foreign.parse_toml(text, f"the recipe {where}"), where, [])
