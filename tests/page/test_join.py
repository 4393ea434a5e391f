"""Modules joined into one classic script: what it computes, and which modules are refused."""

import json
import re
import subprocess

import pytest
from node_decoder import required_node

from fairway.page.join import joined

MODULES = {
    "main.mjs": """\
// The page.
import { twice, Shape } from "./inner/math.mjs";
import { SIDE } from "./inner/side.mjs";

const { a, b } = { a: SIDE, b: "// no comment" };
console.log(JSON.stringify([twice(a), new Shape().size, b, typeof twice === "function"]));
console.log(typeof globalThis.twice, typeof globalThis.SIDE);
""",
    "inner/math.mjs": """\
/**
 * Numbers.
 */
import { SIDE } from "./side.mjs";
export function twice(x) {
  // A comment.
  return 2 * x; // and another
}
export class Shape {
  get size() {
    return SIDE * SIDE; /* squared */
  }
}
""",
    "inner/side.mjs": "export const SIDE = 7;\n",
}


def written(folder, modules):
    for name, source in modules.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, "utf-8")
    return folder / "main.mjs"


def test_the_script_is_every_module_once_dependencies_first(tmp_path):
    script = joined(written(tmp_path, MODULES))
    start = "let SIDE=7;\nfunction twice(x){return 2*x;}\n"
    assert script.startswith(f'"use strict";\n(() => {{\n{start}')
    assert script.count("SIDE=7") == script.count("class ") == 1
    assert not re.search(r"^\s*(import|export|//|/\*)", script, re.MULTILINE)
    assert "A comment" not in script
    assert "Numbers" not in script
    assert '"// no comment"' in script
    assert script == joined(tmp_path / "main.mjs")


def test_the_script_computes_what_the_modules_compute(tmp_path):
    entry = written(tmp_path, MODULES)
    (tmp_path / "joined.cjs").write_text(joined(entry), "utf-8")
    printed = [
        subprocess.run([required_node(), file], capture_output=True, text=True, check=True).stdout
        for file in (entry, tmp_path / "joined.cjs")
    ]
    assert printed[0] == printed[1]
    values, names = printed[0].splitlines()
    assert json.loads(values) == [14, 49, "// no comment", True]
    assert names == "undefined undefined"  # no module leaves a global name


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"inner/side.mjs": "export const SIDE = 7;\nfunction twice() {}\n"}, "has a twice, too"),
        ({"inner/side.mjs": "export const SIDE = 7, { Shape } = 8;\nclass Shape {}\n"}, "too"),
        ({"inner/side.mjs": "const SIDE = 7;\n"}, "exports no SIDE"),
        ({"inner/side.mjs": "export default 7;\n"}, "stands before a declaration"),
        ({"inner/side.mjs": "const SIDE = 7;\nexport { SIDE };\n"}, "stands before a declaration"),
        ({"inner/side.mjs": 'import "node:fs";\nexport const SIDE = 7;\n'}, "write import {"),
        ({"inner/side.mjs": 'import { x as y } from "./math.mjs";\n'}, "write import {"),
        ({"inner/side.mjs": 'import fs from "node:fs";\n'}, "write import {"),
        ({"inner/side.mjs": 'import { twice } from "./math.mjs";\n'}, "import each other"),
        ({"inner/side.mjs": 'export const SIDE = "</SCRIPT>";\n'}, "cannot hold '</SCRIPT'"),
        ({"inner/side.mjs": 'export const SIDE = "<!--";\n'}, "cannot hold '<!--'"),
        ({"inner/side.mjs": "export const SIDE = `a\0`;\n"}, "cannot hold"),
    ],
)
def test_modules_that_break_a_rule_are_refused(changed, sentence, tmp_path):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        joined(written(tmp_path, MODULES | changed))
