"""The pages of reference say what the code says: every key, every command, every option."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import typer

from fairway.cli.main import app
from fairway.config import toml

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["recipes.md", "commands.md", "json.md", "interface.md"])
def test_a_page_is_what_the_script_writes(generate, name):
    by_hand, mark, generated = (DOCS / name).read_text("utf-8").partition(generate.MARK)
    assert by_hand
    assert mark
    assert generated == generate.pages()[name], "python docs/generate.py writes the page anew"


def part(page: str, title: str) -> str:
    """Return what stands under a title of a page."""
    found = re.search(rf"^### {re.escape(title)}$(.*?)(?=^### |\Z)", page, re.M | re.S)
    assert found, title
    return found[1]


def test_every_key_of_a_recipe_has_a_row_with_a_meaning():
    page = (DOCS / "recipes.md").read_text("utf-8")

    def check(tree: dict, path: str) -> None:
        table = part(page, f"[{path}]" if path else "Before the first section")
        for key, value in tree.items():
            if isinstance(value, dict):
                check(value, f"{path}.{key}" if path else key)
            else:
                assert re.search(rf"^\| `{key}` \| [^|]+ \| [^|]+ \| \S.+\. \|$", table, re.M), key

    check(tomllib.loads(toml.dumps(toml.load("demo"))), "")


def test_every_command_and_option_has_an_entry():
    page = (DOCS / "commands.md").read_text("utf-8")

    def check(group, path: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                check(command, f"{path} {name}")
                continue
            entry = part(page, f"{path} {name}")
            for parameter in command.params:
                for option in [word for word in parameter.opts if word.startswith("--")]:
                    assert f"{option}`" in entry or f"{option} " in entry or f"`{option}`" in page

    check(typer.main.get_command(app), "fairway")


def test_every_result_has_a_table(generate):
    source = "".join(file.read_text("utf-8") for file in (DOCS.parent / "src").rglob("*.py"))
    named = set(re.findall(r"^class (\w+)\((?:\w+, )?\w*Result\):", source, re.M))
    bases = {"ChargedResult", "FrozenResult"}  # the second is a score, without learning
    assert named - bases == {result.__name__ for result in generate.RESULTS.values()}
