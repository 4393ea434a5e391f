"""Join JavaScript modules into one classic script, because modules do not load under file://.

    main.mjs ─import▶ chart.mjs                      (() => {
             ─import▶ decoder/decode.mjs       ▶       chart, decode, main: dependencies first
                                                     })();

Modules keep to a few rules, which are checked here: an import is one line of names at column 0, an
export stands before a declaration, and all names at the top of all modules are different.
"""

from __future__ import annotations

import re
from pathlib import Path

from fairway.page import shorten

_IMPORT = re.compile(r'import \{ (\w+(?:, \w+)*) \} from "(\.{1,2}/[\w./-]+\.mjs)";')
_DECLARED = re.compile(
    r"(export )?(?:(?:async )?function\*? |class |(?:const|let|var) )(\w+|[\[{][^=]*[\]}])"
)


def joined(entry: Path) -> str:
    """Return the script of a module and of all that it imports. Raises ValueError.

    Import lines, the word `export`, comments and blanks are left out. The names of the modules are
    not global names.
    """
    modules: dict[Path, str] = {}  # dependencies first
    _collect(entry.resolve(), [], modules)
    owners: dict[str, Path] = {}
    exports: dict[Path, set[str]] = {}
    bodies = []
    for path, source in modules.items():
        exports[path] = set()
        lines = []
        for line in source.removesuffix("\n").split("\n"):
            if imported := _IMPORT.fullmatch(line):
                other = (path.parent / imported[2]).resolve()
                if missing := set(imported[1].split(", ")) - exports[other]:
                    raise ValueError(f"{path.name}: {other.name} exports no {', '.join(missing)}")
                continue
            if line.startswith(("import ", "import{", "import(")):
                raise ValueError(f'{path.name}: write import {{ a, b }} from "./x.mjs"; not {line}')
            if declared := _DECLARED.match(line):
                for name in re.findall(r"\w+", declared[2]):
                    if name in owners:
                        raise ValueError(f"{path.name}: {owners[name].name} has a {name}, too")
                    owners[name] = path
                    exports[path] |= {name} if declared[1] else set()
            elif line.startswith("export"):
                raise ValueError(f"{path.name}: an export stands before a declaration, not {line}")
            lines.append(line.removeprefix("export "))
        bodies.append("\n".join(lines))
    body = shorten.script("\n".join(bodies))
    script = f'"use strict";\n(() => {{\n{body}}})();\n'
    if found := re.search(r"</script|<!--|\r|\0", script, re.IGNORECASE):
        raise ValueError(f"an inline script cannot hold {found[0]!r}")
    return script


def _collect(path: Path, importers: list[Path], modules: dict[Path, str]) -> None:
    """Add a module to `modules`, after all that it imports. Raises ValueError."""
    if path in importers:
        names = " imports ".join(p.name for p in [*importers[importers.index(path) :], path])
        raise ValueError(f"modules import each other: {names}")
    if path in modules:
        return
    source = path.read_text("utf-8")
    for line in source.split("\n"):
        if imported := _IMPORT.fullmatch(line):
            _collect((path.parent / imported[2]).resolve(), [*importers, path], modules)
    modules[path] = source
