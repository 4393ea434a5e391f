"""Imports run one way. docs/architecture.md draws the rows."""

import pytest

from counts import ROOT, circles, imports

# From the bottom to the top. A package imports from the rows below its own, and from what stands to
# the left of it in its own row.
ROWS = [
    [
        "arguments",
        "errors",
        "userfolders",
        "startup",
        "kernels",
        "distributed",
        "floating_point",
        "integer_math",
        "significance",
    ],
    ["io", "console", "config"],
    ["formats"],
    ["model", "exact"],
    ["data", "train", "quantize", "coding"],
    ["pipeline"],
    ["library"],
    ["page"],
    ["audit", "challenge", "report"],
    ["cli"],
    ["__main__"],
]
LEAVES = {"audit", "challenge", "report"}
# Imports that still run the wrong way. The table only shrinks.
WRONG = {
    ("coding", "pipeline"),
}


@pytest.fixture(scope="module")
def graph():
    return imports(ROOT / "src")


def package(module):
    """Return the package below fairway/ that a module lies in; "" for fairway/__init__.py."""
    return [*module.split("."), ""][1]


def package_imports(graph):
    """Return the pairs (package, package that it imports).

    The root is left out: it holds the version, which everything may read.
    """
    pairs = {
        (package(module), package(other)) for module, others in graph.items() for other in others
    }
    return {(a, b) for a, b in pairs if a != b and a and b}


def test_every_package_has_a_row(graph):
    assert {package(module) for module in graph} - {""} == {name for row in ROWS for name in row}


def test_imports_run_one_way(graph):
    below = [name for row in ROWS for name in row]
    wrong = {(a, b) for a, b in package_imports(graph) if below.index(a) < below.index(b)}
    assert wrong <= WRONG


def test_nothing_but_the_command_line_imports_a_leaf(graph):
    wrong = {(a, b) for a, b in package_imports(graph) if b in LEAVES and a != "cli"}
    assert wrong <= WRONG


def test_pages_are_imported_by_those_who_make_or_compare_them(graph):
    importers = {a for a, b in package_imports(graph) if b == "page"}
    assert importers <= {"cli", "report", "challenge"}


def test_no_modules_import_each_other(graph):
    assert circles(graph) == []
