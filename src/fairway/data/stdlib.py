"""Make documents of what every Python ships: docstrings and source of the standard library."""

from __future__ import annotations

import ast
import builtins
import importlib
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from fairway.data.listing import name_below

_SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"
}  # fmt: skip


def library() -> Path:
    """Return the folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


@cache
def modules() -> tuple[Path, ...]:
    """Return the source files of the standard library, without tests, sorted."""
    root = library()
    return tuple(
        sorted(
            (
                file
                for file in root.rglob("*.py")
                if not _SKIPPED_FOLDERS.intersection(file.relative_to(root).parts)
            ),
            key=lambda file: file.relative_to(root).parts,
        )
    )


def listing() -> list[tuple[str, ...]]:
    """Return names and sizes of the source files, and the version of Python."""
    root = library()
    files = [(name_below(root, file), str(file.stat().st_size)) for file in modules()]
    return [*files, ("python", platform.python_version())]


def sources() -> list[bytes]:
    """Return a document per source file."""
    return [source for file in modules() if (source := file.read_bytes())]


@cache
def docstrings() -> list[bytes]:
    """Return a document per module, per module built into the interpreter, and per pydoc topic.

    Each docstring appears once, under the name or signature of what it documents.
    """
    seen: set[str] = set()
    documents = [_document(_documented(ast.parse(source)), seen) for source in sources()]
    documents += [_document(_documented_names(name), seen) for name in sys.builtin_module_names]
    from pydoc_data.topics import topics

    documents += [topics[name].strip() + "\n" for name in sorted(topics)]
    return [document.encode() for document in documents if document]


def _document(documented: Iterable[tuple[str, str]], seen: set[str]) -> str:
    """Join (heading, docstring) pairs, without docstrings that were seen before."""
    parts = []
    for heading, docstring in documented:
        if docstring.strip() and docstring not in seen:
            seen.add(docstring)
            parts.append(f"{heading}\n\n{docstring.strip()}\n" if heading else f"{docstring}\n")
    return "\n".join(parts)


def _documented(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (heading, docstring) of a definition and of all below it, in source order."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield _heading(node), docstring
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):  # no definition is inside an expression
            yield from _documented(child)


def _heading(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"{node.name}({ast.unparse(node.args)})"
    return ""


def _documented_names(module: str) -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of a module written in C and of what it defines, two levels deep."""
    try:
        members = vars(builtins if module == "builtins" else importlib.import_module(module))
    except ImportError:
        return  # listed by the interpreter, but not for this platform
    yield "", members.get("__doc__") or ""
    for name, value in sorted(members.items()):
        yield name, _own_docstring(value)
        if isinstance(value, type):
            for method, function in sorted(vars(value).items()):
                yield f"{name}.{method}", _own_docstring(function)


def _own_docstring(value: object) -> str:
    docstring = getattr(value, "__doc__", None)
    return docstring if isinstance(docstring, str) else ""
