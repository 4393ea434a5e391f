"""Every block of code in README.md and docs/ does what its language says.

console: commands that run, with `short` in place of `demo`. python: runs, after the blocks above
it. toml: a recipe or a sweep. json: parses. sh: commands for another machine, or with a FILE of the
reader's: they parse as the real command line does. text: output, drawings and formulas. A block
with a title is saved under that name, as its reader is told to.
"""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from fairway.cli.main import app
from fairway.config import toml
from fairway.report import sweep
from short import load_short

ROOT = Path(__file__).parent.parent
NAMES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES = [*[ROOT / name for name in NAMES], *sorted((ROOT / "docs").rglob("*.md"))]
SHIPPED = {file.stem for file in (ROOT / "src/fairway/config/recipes").glob("*.toml")}
SHELL = {"cd", "do", "done", "export", "for", "git"}


@dataclass(frozen=True)
class Block:
    """A block of a page: what stands between two lines of three backticks."""

    page: Path
    language: str
    title: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.code[:60]}"


def blocks_of(page: Path) -> list[Block]:
    found = re.findall(
        r'^```(\w*)(?: title="(\S+)")?\n(.*?)^```$', page.read_text("utf-8"), re.M | re.S
    )
    return [Block(page, *parts) for parts in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


# --- blocks that run ---


# Two audits, each as long as its --minutes; two trainings and a script that compiles its kernels
SLOW = {"audit-a-scorer.md", "submit.md"}
PAGES_THAT_RUN = [
    pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else [])
    for page in sorted({block.page for block in of("console", "python")})
]


@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_the_blocks_of_a_page_run(page, finished_tiny, tmp_path, fairway, monkeypatch):
    shutil.copytree(finished_tiny.parent / "data", tmp_path / "runs" / "data")
    for name in ("demo", "entry-1337"):
        shutil.copytree(finished_tiny, tmp_path / "runs" / name)
    (tmp_path / "tiny.toml").write_text(toml.dumps(load_short()))
    (tmp_path / "letter.txt").write_text("Dear reader,\n\nthis is a letter.\n")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks_of(page):
        if block.title:
            (tmp_path / block.title).write_text(block.code)
        elif block.language == "python":
            exec(compile(block.code, str(block), "exec"), names)
        elif block.language == "console":
            for command, output in commands(block.code):
                run(command, output, fairway)


def commands(code: str) -> list[tuple[str, str]]:
    """Return each command of a console block with the output that the page shows, if any."""
    parts = re.split(r"^\$ ", code, flags=re.M)
    assert not parts[0], code
    cut = [part.partition("\n") for part in parts[1:]]
    return [(command, output) for command, _, output in cut]


def run(command: str, output: str, fairway) -> None:
    """Run a command. A page says after `# exit code` that it fails, and shows with what message."""
    words = [{"demo": "tiny.toml"}.get(word, word) for word in shlex.split(command, comments=True)]
    if words[0] == "fairway":
        *given, out_file = words[1:] if ">" in words else [*words[1:], ""]
        code, out, err = fairway(*[word for word in given if word != ">"])
        if out_file:
            Path(out_file).write_text(out)
    else:
        assert words[0] in {"cmp", "cp", "printf", "torchrun"}
        if words[0] == "torchrun":
            command = shlex.join([sys.executable, "-m", "torch.distributed.run", *words[1:]])
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        code, err = done.returncode, done.stderr
    expected = re.search(r"# exit code (\d)", command)
    assert code == (int(expected[1]) if expected else 0), f"{command}\n{err}"
    if code:
        assert " ".join(output.split()) in err


# --- blocks that are checked ---


def test_every_block_has_a_language_that_is_tested():
    assert {block.language for block in BLOCKS} <= {
        "console",
        "python",
        "toml",
        "json",
        "sh",
        "text",
    }
    for page in PAGES:
        fenced = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
        assert not re.search(r"(^|\n\n) {4,}(?![-*] )\S", fenced), f"{page.name}: an indented block"
        assert "```" not in fenced, page.name
    assert len(of("console")) > 20
    assert len(of("sh")) > 10


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_a_command_for_another_machine_is_one_that_exists(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in shell_commands(block.code):
        for file in [word for word in words if re.fullmatch(r"[\w.]+", word)]:
            Path(file).touch()  # a reader has MODEL and FILE
        if words[0] == "fairway" or ("-m", "fairway") in pairwise(words):
            values = parsed(words[words.index("fairway") + 1 :])
            if (recipe := values.get("recipe")) in SHIPPED:
                toml.load(recipe, values.get("sets") or [])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.M)
        elif words[0] == "python":
            script = (ROOT / words[1]).read_text("utf-8")
            for option in [word for word in words if word.startswith("--")]:
                assert f'"{option}"' in script, option
        else:
            assert words[0] in SHELL or re.match(r"\w+=", words[0]), words


def shell_commands(code: str) -> list[list[str]]:
    lines = re.sub(r"\$\w+", "1", code.replace("\\\n", " ")).splitlines()
    parts = [part for line in lines for part in re.split(r"&&|;", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def parsed(words: list[str], command=None, name="fairway"):
    """Return the arguments and options of a command, as the real command line reads them."""
    command = command or typer.main.get_command(app)
    context = command.make_context(name, list(words))
    if not hasattr(command, "commands"):
        return context.params
    name, command, rest = command.resolve_command(
        context, [*context._protected_args, *context.args]
    )
    return parsed(rest, command, name)


def test_a_command_that_does_not_exist_is_found():
    for wrong in (["train", "pr264", "--sett", "a=1"], ["fit", "demo"], ["train"]):
        with pytest.raises(Exception, match=r"No such|Missing"):
            parsed(wrong)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_a_recipe_or_a_sweep_of_a_page_is_one(block, tmp_path):
    file = tmp_path / "page.toml"
    file.write_text(block.code)
    if "row" not in tomllib.loads(block.code):
        toml.load(str(file))
        return
    table = sweep.load(file)
    for row in table.rows():
        toml.load(table.recipe, [*table.set, *row.set])


@pytest.mark.parametrize("block", [*of("json"), *[b for b in of("python") if b.title]], ids=str)
def test_what_a_page_shows_or_lets_save_parses(block):
    (json.loads if block.language == "json" else ast.parse)(block.code)


# --- links and names ---


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


def test_links_to_other_sites_go_to_these_alone():
    found = {link for page in PAGES for link in re.findall(r"\w+://[^\s)>\"`]+", page.read_text())}
    sites = ("github.com/openai/parameter-golf", "keepachangelog.com", "semver.org")
    assert not [link for link in found if not link.removeprefix("https://").startswith(sites)]


def test_the_index_of_the_log_lists_every_entry():
    index = (ROOT / "docs/research/index.md").read_text("utf-8")
    entries = [anchor for anchor in anchors(ROOT / "docs/research/LOG.md") if anchor[:2] == "20"]
    assert len(entries) > 50
    for entry in entries:
        assert f"(LOG.md#{entry})" in index, entry


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


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
