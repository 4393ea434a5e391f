"""Print the measures of the source that issues set limits on: python tests/counts.py [FOLDER]

Lines of code, circles of imports, `isinstance` on classes of our own, long files and functions,
words that the project has given up, and citations that a reader cannot open. FOLDER is a checkout;
by default this one.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


# --- lines, functions and classes ---


def code_lines(source: str) -> int:
    """Return the number of lines with code: no blank line, comment, docstring or bare string."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    text = source.splitlines()
    return sum(bool(text[line - 1].strip()) for line in lines)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_command_or_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Say whether a function may have many arguments: a command's options, a kernel's arrays."""
    return any(
        re.search(r"jit|command|callback", ast.unparse(decorator))
        for decorator in function.decorator_list
    )


def argument_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many arguments a function takes, `self` and `cls` not counted."""
    given = function.args
    names = [argument.arg for argument in given.posonlyargs + given.args + given.kwonlyargs]
    return len([name for name in names if name not in ("self", "cls")])


def own_isinstance(trees: dict[str, ast.Module]) -> list[str]:
    """Return the places where `isinstance` asks for a class that src/ defines."""
    own = {
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    return [
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if own & set(re.findall(r"\w+", ast.unparse(node.args[1])))
    ]


# --- imports ---


def imports(src: Path) -> dict[str, set[str]]:
    """Return for each module of src/ the modules of src/ that it imports, inside functions too.

    `from fairway.io import atomic` imports `fairway.io.atomic`; a package stands for its
    __init__.py. Imports that only a type checker sees are counted, too: a reader follows them.
    """
    names = {_module(path, src): path for path in sorted(src.rglob("*.py"))}
    return {
        name: {
            found if found in names else found.rpartition(".")[0]
            for found in _imported(ast.parse(path.read_text("utf-8")))
            if found in names or found.rpartition(".")[0] in names
        }
        - {name}
        for name, path in names.items()
    }


def _module(path: Path, src: Path) -> str:
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from _imported(child)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or not."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


# --- words ---


@dataclass(frozen=True)
class Word:
    """A row of the table of words: the old name, the new one, and how to find the old one.

    `where` limits the search to the paths that it matches: many old names are ordinary English
    elsewhere.
    """

    old: str
    new: str
    pattern: str
    where: str = r""


WORDS = [
    Word("course", "pipeline", r"(?<!of )\b[Cc]ourses?\b"),
    Word("play", "fairway run", r"\bplay\b"),
    Word("verb", "command, stage", r"\b[Vv]erbs?\b|VERBS?\b"),
    Word("house", "architecture", r"\b[Hh]ouse\b"),
    Word("run folder", "run directory", r"\brun(?:'s)? folders?\b"),
    Word("world", "Process", r"\bWorld\b|\bworld\b(?!_)"),
    Word(
        "sum_, scatter_sum, agree, Coming",
        "all_reduce_, reduce_scatter, broadcast, AsyncTensor",
        r"\.sum_\(|\bscatter_sum\b|\bprocess\.agree\b|\bComing\b",
    ),
    Word(
        "product, times",
        "linear, matmul",
        r"\b(?:product|times)\(|\bProduct\b",
        r"src/fairway/(?:model|exact|quantize)/",
    ),
    Word(
        "settled, saw, keep(n), fresh, forget, need, complaint",
        "opaque_op, observe, shrink_batch, cached, invalidate, require, failure",
        r"\bsettled\b|\.saw\b|\bdef saw\b|\.keep\(|\b(?:run|place)\.fresh\(|\bforget\b|\bneed\("
        r"|\b[Cc]omplaints?\b",
    ),
    Word(
        "recall",
        "match model, memory.ngram",
        r"\b[Rr]ecall(?:ing|s)?\b|\b[Rr]emembering\b|\bFORGETS\b",
    ),
    Word(
        "cache (of documents)",
        "memory.neural_cache",
        r"\b(?:pack|memory)\.cache\b",
    ),
    Word("engine", "attention backend, CodingModel", r"\b[Ee]ngines?\b|\w+Engine\b"),
    Word("span (attention)", "AttentionContext", r"\bSpan\b"),
    Word(
        "span (adaptation)",
        "update block",
        r"(?<!it )\bspans?\b",
        r"online/|adapt|score|prove|glossary|validity",
    ),
    Word(
        "fit", "fairway size", r"\bfairway fit\b|`fit`|\bfit RECIPE\b|\bdef fit\b|quantize[/.]fit\b"
    ),
    Word(
        '"quarters", "halves"',
        "log2_quarter, fp16_row",
        r"\b(?:quarters|halves)\b(?! of an octave)",
        r"quantize/|formats",
    ),
    Word(
        "feedback, level, Form, lower (of an upper triangle)",
        "ldlq, log_step, factored_hessian, upper",
        r"\b[Ff]eedback\b|\bForm\b|\blower\b|\blevels?\b",
        r"quantize/|train/calibrate",
    ),
    Word("unit, tok", "token_scale", r"\bunits?\b|\btok\b", r"src/fairway/exact/"),
    Word(
        "methods, rules, settings", "a file of online/", r"online[/.](?:methods|rules|settings)\b"
    ),
    Word(
        "pieces, guard, contexts, tensors, own, twin, subject",
        "fwz_chunks, session, context_mixing, weight_streams, fairway_scorer, twin_test, "
        "audit_text",
        r"(?<!formats/)\b(?:pieces|guard|contexts|tensors|own|twin|subject)\.py\b"
        r"|from fairway[.\w]* import (?:\w+, )*(?:pieces|guard|contexts|tensors|own|twin|subject)\b"
        r"|fairway\.(?!formats\.)(?:\w+\.)?(?:pieces|guard|contexts|tensors|own|twin|subject)\b",
    ),
    Word(
        "old packages",
        "DESIGN's packages",
        r"\bfairway[./](?:text|pack|predict|score|prove|publish)[./]|"
        r"`(?:text|pack|predict|score|prove|publish)/\w+\.py",
    ),
    Word("old commands", "run, prepare, size", r"\bfairway (?:play|data|fit)\b"),
]
# Codes are a letter and a number, A9-5, B2; a batch size ("T512 B8") and noqa's "B023" are none.
REFERENCE = (
    r"\bREFERENCE\b|\((?:card|defect) \d+\)"
    r"|(?<![\w.#-])(?<!T512 )(?<!  )"
    r"(?:A[1-9]\d?(?:-\d+)?|B\d(?:-\d+)?|[CD]\d(?:-\d+)?|R5)(?![\w.-])"
)
ONCE = {"Part": "class", "Chunk": "class", "Table": "class", "plan": "def", "charges": "def"}


def pages(root: Path) -> list[Path]:
    """Return what people read: the source with its messages, recipes, pages and the README."""
    return [
        *sorted((root / "src").rglob("*.py")),
        *sorted((root / "src").rglob("*.toml")),
        *sorted((root / "docs").rglob("*.md")),
        root / "README.md",
    ]


def hits(root: Path, pattern: str, where: str = "") -> list[str]:
    """Return "path:line: text" for every line of a page that matches."""
    return [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in pages(root)
        if re.search(where, str(path.relative_to(root)))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]


def meanings(root: Path) -> list[str]:
    """Return the definitions of a name that should have one meaning in src/ and has several."""
    found = []
    for name, kind in ONCE.items():
        lines = hits(root, rf"^\s*{kind} {name}\b", r"\.py$")
        found += lines if len(lines) > 1 else []
    return found


# --- all together ---


def measure(root: Path) -> dict[str, list[str] | int]:
    """Return each measure by name: a number, or the places that it counts."""
    src = root / "src"
    sources = {
        str(path.relative_to(root)): path.read_text("utf-8") for path in sorted(src.rglob("*.py"))
    }
    trees = {path: ast.parse(source) for path, source in sources.items()}
    every = [(path, function) for path, tree in trees.items() for function in functions(tree)]
    return {
        "lines of code": sum(map(code_lines, sources.values())),
        "circles of imports": [" ".join(circle) for circle in circles(imports(src))],
        "isinstance on own classes": own_isinstance(trees),
        "files over 450 lines": [
            f"{path}: {source.count(chr(10))}"
            for path, source in sources.items()
            if source.count("\n") > 450
        ],
        "functions over 60 lines": [
            f"{path}:{function.lineno}: {function.name}, {length} lines"
            for path, function in every
            if (length := (function.end_lineno or function.lineno) - function.lineno + 1) > 60
        ],
        "functions with more than 8 arguments": [
            f"{path}:{function.lineno}: {function.name}, {argument_count(function)} arguments"
            for path, function in every
            if argument_count(function) > 8 and not is_command_or_kernel(function)
        ],
        "citations of REFERENCE": hits(root, REFERENCE),
        "several meanings": meanings(root),
        **{f"word: {word.old}": hits(root, word.pattern, word.where) for word in WORDS},
    }


def main() -> None:
    show(measure(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))


def show(measured: dict[str, int | list[str]]) -> None:
    """Print every measure, and under it the places that it counts."""
    for name, value in measured.items():
        print(f"{name}: {value if isinstance(value, int) else len(value)}")
        for place in [] if isinstance(value, int) else value:
            print(f"    {place[:150]}")


if __name__ == "__main__":
    main()
