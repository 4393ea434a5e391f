"""Every command in a console block of README.md and docs/ runs, with `short` in place of `demo`."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairway.config import toml
from fairway.report import sweep
from short import load_short

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def toml_block(name: str) -> str:
    """Return the TOML that a page tells its reader to save."""
    page = (ROOT / "docs" / name).read_text("utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    return block


WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page, finished_tiny, tmp_path, fairway, monkeypatch):
    shutil.copytree(finished_tiny.parent / "data", tmp_path / "runs" / "data")
    for name in ("demo", "entry-1337"):
        shutil.copytree(finished_tiny, tmp_path / "runs" / name)
    (tmp_path / "mine.toml").write_text(toml_block("recipes.md"))
    (tmp_path / "tiny.toml").write_text(toml.dumps(load_short()))
    (tmp_path / "letter.txt").write_text("Dear reader,\n\nthis is a letter.\n")
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        words = [{"demo": "tiny.toml"}.get(word, word) for word in shlex.split(command)]
        if words[0] == "fairway":
            code, _, err = fairway(*words[1:])
        else:
            assert words[0] == "torchrun"
            command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            done = subprocess.run(command, capture_output=True, text=True)
            code, err = done.returncode, done.stderr
        assert code == 0, f"{command}\n{err}"


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_the_python_of_a_page_runs(name, finished_tiny, tmp_path, monkeypatch):
    shutil.copytree(finished_tiny, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.M | re.S)
    exec(compile(block, name, "exec"), {})


@pytest.mark.parametrize("name", ["sweep.md", "improve-a-recipe.md"])
def test_every_row_of_a_sweep_on_a_page_is_a_recipe(name, tmp_path):
    (tmp_path / "sweep.toml").write_text(toml_block(name))
    table = sweep.load(tmp_path / "sweep.toml")
    for row in table.rows():
        toml.load(table.recipe, [*table.set, *row.set])


def test_some_pages_have_commands():
    assert {"README.md", "commands.md"} <= {page.name for page in WITH_COMMANDS}


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of the page may name, as forges and mkdocs make it."""
    headings = re.findall(r"^#+ (.*)", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^):]+)\)", page.read_text("utf-8")):
            target, _, anchor = link.partition("#")
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(file), f"{page.name}: {link}"


def test_the_index_of_the_log_lists_every_entry():
    index = (ROOT / "docs/research/index.md").read_text("utf-8")
    entries = [anchor for anchor in anchors(ROOT / "docs/research/LOG.md") if anchor[:2] == "20"]
    assert len(entries) > 50
    for entry in entries:
        assert f"(LOG.md#{entry})" in index, entry


def test_make_targets_of_the_readme_exist():
    targets = re.findall(r"(?:^|`)make (\w+)", (ROOT / "README.md").read_text("utf-8"), re.M)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M)


def test_every_recipe_opens_with_its_command():
    recipes = list((ROOT / "src/fairway/config/recipes").glob("*.toml"))
    assert recipes
    for recipe in recipes:
        opening = recipe.read_text("utf-8").split("\n\n")[0]
        assert re.search(rf"Command: .*\b{recipe.stem}\b", opening), recipe.name


def test_the_architecture_is_as_drawn():
    drawn = (ROOT / "docs/architecture.md").read_text("utf-8")
    for path in (ROOT / "src/fairway").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        if not name.startswith("__"):
            assert re.search(rf"^ +{re.escape(name)} ", drawn, re.M), name


@pytest.mark.parametrize(("name", "promises"), [("validity.md", 25), ("pr264.md", 12)])
def test_every_promise_names_a_test_that_exists(name, promises):
    page = (ROOT / "docs" / name).read_text("utf-8")
    named = re.findall(r"\| (tests/\S+?\.py)::(\w+) \|", page)
    assert len(named) == page.count("| tests/")
    assert len(named) >= promises
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
