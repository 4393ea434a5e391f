"""One self-contained script from the package's own modules: what a submission is run from.

The script holds every module that its recipe needs, minified and compressed, and the recipe. It
unpacks them into a temporary folder and runs fairway.challenge.entry. docs/submit.md.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import python_minifier

import fairway
from fairway.config.schema import Recipe
from fairway.config.toml import dumps

ENTRY = "fairway.challenge.entry"
_ROOT = Path(fairway.__file__).parent
_LEFT_OUT = '''"""A part that this recipe does not use."""
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    def refuse(*a, **k): raise RuntimeError(f"{__name__}.{name} is not in this bundle")
    return type(name, (), {"__init__": refuse})
'''
# The script unpacks into a new folder of the user's own. What is compiled stays there, and numba
# reads no settings from the current folder, because it finds nothing that reads YAML.
_KERNELS = """import os, sys
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.dirname(__file__))
sys.modules["yaml"] = None
from numba import njit
del sys.modules["yaml"]
"""
_LOADER = """# coding: latin-1
# Fairway {version}, recipe {name}. python {file} --help; the source: see README.md.
import atexit,os,shutil,sys,tempfile,zlib
h=tempfile.mkdtemp();atexit.register(shutil.rmtree,h,True)
sys.modules['yaml']=None
exec(zlib.decompress('''{decoder}'''.encode('latin-1')))
del sys.modules['yaml']
t=np.zeros({size},int)
code(t,np.frombuffer('''{stream}'''.encode('latin-1'),np.uint8).astype(int),True)
p=bytes(t[8:].tolist()).decode().split('\\0')
for n,t in zip(p[::2],p[1::2]):
    f=os.path.join(h,n);os.makedirs(os.path.dirname(f),exist_ok=True);open(f,'w',encoding='utf-8').write(t)
sys.path.insert(0,h)
if __name__=='__main__':
    from fairway.challenge.entry import main
    sys.exit(main({name!r},__file__))
"""
_DECORATORS = {"property", "cached_property", "staticmethod", "classmethod", "abstractmethod"}
_GUARD = """import sys
def hook(event, arguments, source={source!r}):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(source):
        raise RuntimeError("the bundle opened " + arguments[0])
sys.addaudithook(hook)
"""


def bundle(recipe: Recipe, file: str = "train_gpt.py") -> bytes:
    """Return the script of a recipe as bytes; its length counts as code."""
    from fairway.challenge import squeeze  # numba takes half a second

    trees = {path: _tree(source) for path, source in _sources(recipe)}
    _shake(trees)
    files = {path: _minified(ast.unparse(tree)) for path, tree in trees.items()}
    terse = recipe.model_copy(update={"description": "", "hardware": ""})
    files[f"fairway/config/recipes/{recipe.name}.toml"] = dumps(terse, defaults=False)
    backwards = reversed(files.items())  # a few dozen bytes shorter
    text = "\0".join(part for item in backwards for part in item).encode()
    values = {
        "version": fairway.__version__,
        "name": recipe.name,
        "file": file,
        "size": len(text) + squeeze.LEADING,
        "decoder": _escaped(zlib.compress(_decoder().encode(), 9)).decode("latin-1"),
        "stream": _escaped(squeeze.compress(text)).decode("latin-1"),
    }
    return _LOADER.format(**values).encode("latin-1")


def _decoder() -> str:
    """Return the source of `squeeze.code`, which imports nothing of Fairway."""
    source, _, _ = (_ROOT / "challenge/squeeze.py").read_text("utf-8").partition("\n# What only")
    source = source.replace("fairway.kernels", "numba").replace("cache=True", "")
    return _minified(source, exported="code|np")


def requirements(recipe: Recipe) -> list[str]:
    """Return `name==version` of every distribution that the script imports, as installed here."""
    modules = {
        name.partition(".")[0] for _, source in _sources(recipe) for name in _imports(source)
    }
    modules = modules - sys.stdlib_module_names - {"fairway"} | {"tensorboard"}  # for torch
    installed = packages_distributions()
    names = {installed[module][0] for module in modules if module in installed}
    return sorted(f"{name}=={version(name).partition('+')[0]}" for name in names)


def _escaped(data: bytes) -> bytes:
    """Write bytes as the inside of a triple-quoted literal in a latin-1 source.

    That makes them 1 % longer, where base85 takes 25 %.
    """
    data = data.replace(b"\\", b"\\\\").replace(b"\r", b"\\r")
    data = re.sub(rb"\0(?=[0-7])", rb"\\000", data).replace(b"\0", b"\\0")
    data = data.replace(b"'''", b"''\\'")
    return data[:-1] + b"\\'" if data.endswith(b"'") else data


def _sources(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Return (path, source) of the entry and of all it imports, in the order of their names."""
    instead = dict.fromkeys(_unused(recipe), _LEFT_OUT)
    instead |= {"fairway": "pass", "fairway.kernels": _KERNELS}  # no Python interface
    found: dict[str, tuple[str, str]] = {}
    waiting = [ENTRY]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in found or path is None:
            continue
        source = instead.get(name) or path.read_text("utf-8")
        found[name] = (path.relative_to(_ROOT.parent).as_posix(), source)
        waiting += [name.rpartition(".")[0], *_imports(source)]
    return (found[name] for name in sorted(found))


def _unused(recipe: Recipe) -> Iterator[str]:
    """Return the modules that no run of the recipe and no reader of its artifact calls."""
    yield "fairway.pipeline.verdicts"  # what other people's run directories claim
    yield "fairway.pipeline.second_decoder"  # Node
    if recipe.data.source == "shards":
        yield from ("fairway.data.byte_tokenizer", "fairway.data.documents")
        yield "fairway.pipeline.prepare_documents"
        if not recipe.data.held_out_bytes:
            yield "fairway.pipeline.prepare_held_out"
    else:
        yield from ("fairway.data.challenge_tokenizer", "fairway.pipeline.prepare_shards")
    if not recipe.data.cased:
        yield "fairway.data.case"
    if recipe.adapt.method == "none":
        names = ("learning_model", "rule", "sgd", "dynamic", "lora")
        yield from (f"fairway.coding.online.{name}" for name in names)
        if (recipe.score.arithmetic, recipe.prove.arithmetic) == ("exact", "exact"):
            yield from ("fairway.coding.float_environment", "fairway.coding.float_model")
    if not recipe.memory.is_on:
        yield from ("fairway.coding.match_model", "fairway.coding.mixed_model")
    if recipe.pack.quantizer != "gptq":
        yield "fairway.quantize.gptq"
    if not recipe.train.calibration_tokens:
        yield "fairway.train.calibrate"
    if not recipe.train.sampled_tokens:
        yield "fairway.train.sampled"
    if recipe.pack.quantizer == "rtn":
        yield "fairway.quantize.allocate"


@cache
def _imports(source: str) -> frozenset[str]:
    found = set()
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _tree(source: str) -> ast.Module:
    """Parse a module without what only a type checker reads."""
    tree = ast.parse(source)
    _Runs().visit(tree)  # in place
    return ast.fix_missing_locations(tree)


class _Runs(ast.NodeTransformer):
    """Leaves out annotations, assertions, and what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        is_typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_typing else self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.Pass()

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]  # pydantic reads them
        node.body = [s if s in fields else self.visit(s) for s in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value:
            return ast.Assign([node.target], node.value)
        node.annotation = ast.Constant(0)  # it still makes the name a local one
        return node


def _file_of(module: str) -> Path | None:
    """Return a module's source file, if the module is one of this package."""
    first, *rest = module.split(".")
    if first != "fairway":
        return None
    path = _ROOT.joinpath(*rest)
    files = (path / "__init__.py", path.with_name(path.name + ".py"))
    return next((file for file in files if file.is_file()), None)


@cache
def _minified(source: str, exported: str = r"__\w+|[^\W_]\w*") -> str:
    """Shorten a module and the names that no other uses: those that do not match `exported`."""
    return python_minifier.minify(
        source,
        remove_literal_statements=True,
        hoist_literals=False,
        rename_globals=True,
        preserve_globals=sorted(set(re.findall(rf"\b(?:{exported})\b", source))),
        remove_annotations=False,
    )


# What nothing names ------------------------------------------------------------------------------


def _shake(trees: dict[str, ast.Module]) -> None:
    """Remove from modules the functions, classes, imports and methods that nothing kept names.

    By name alone, so it keeps too much rather than too little; nothing here is found by a string.
    """
    reached = {"__getattr__"}  # names by which modules reach into others: attributes and imports
    local = {path: set[str]() for path in trees}
    entry = ENTRY.replace(".", "/") + ".py"  # stays whole
    waiting = []
    for path, tree in trees.items():
        tree.body = [single for statement in tree.body for single in _singles(statement)]
        waiting += [(path, tree.body, statement) for statement in tree.body]
    own = _own_classes(trees)
    progress = True
    while progress:
        progress, unnamed, waiting = False, waiting, []
        for path, siblings, statement in unnamed:
            name = "" if path == entry else _bound(statement)
            if name and name not in reached and name not in local[path]:
                waiting.append((path, siblings, statement))
                continue
            progress = True
            methods: list[ast.stmt] = []
            if isinstance(statement, ast.ClassDef) and statement.name in own:
                functions = [m for m in statement.body if isinstance(m, ast.FunctionDef)]
                methods = [
                    m
                    for m in functions
                    if _names(m.decorator_list) <= _DECORATORS and not m.name.startswith("__")
                ]
                waiting += [(path, statement.body, method) for method in methods]
                statement.body.append(ast.Pass())  # where none stays
            nodes: list[ast.AST] = [statement]
            while nodes:
                node = nodes.pop()
                nodes += [child for child in ast.iter_child_nodes(node) if child not in methods]
                if isinstance(node, ast.Name):
                    local[path].add(node.id)
                elif isinstance(node, ast.Attribute | ast.alias):
                    reached.add(node.attr if isinstance(node, ast.Attribute) else node.name)
    for _, siblings, statement in waiting:
        siblings.remove(statement)


def _own_classes(trees: dict[str, ast.Module]) -> set[str]:
    """Return the classes whose methods nobody calls but by names in these modules."""
    classes = [n for tree in trees.values() for n in tree.body if isinstance(n, ast.ClassDef)]
    foreign, own = classes, {"ABC", "NamedTuple", "Section"}  # the last calls what is decorated
    while found := [c for c in foreign if _names(c.bases) <= own]:
        own |= {c.name for c in found}
        foreign = [c for c in foreign if c.name not in own]
    return own - {c.name for c in foreign}


def _names(expressions: Sequence[ast.expr]) -> set[str]:
    """Return the names that expressions are; "" for what is not a mere name."""
    return {node.id if isinstance(node, ast.Name) else "" for node in expressions}


def _singles(statement: ast.stmt) -> list[ast.stmt]:
    """Return `from x import a, b` as a statement for each name, all others as they are."""
    if not isinstance(statement, ast.ImportFrom):
        return [statement]
    module, level = statement.module, statement.level
    return [ast.ImportFrom(module, [alias], level) for alias in statement.names]


def _bound(statement: ast.stmt) -> str:
    """Return the name for whose sake alone a statement stands; empty: it stays in any case."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
        return statement.names[0].asname or statement.names[0].name
    return ""


def run_apart(
    words: Sequence[str], folder: Path, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` in `folder`, in a process that fails when it opens a file of this package.

    So do the processes that it starts: a hook on Python's own `open` is put into each of them.
    It does not see files that compiled libraries open; those know nothing of Fairway.
    """
    with tempfile.TemporaryDirectory() as guard:
        hook = _GUARD.format(source=str(_ROOT) + os.sep)
        Path(guard, "sitecustomize.py").write_text(hook, "utf-8")
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": guard},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
