"""JavaScript and CSS that are shorter and mean what they meant."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from node_decoder import required_node

import fairway
from fairway.page import shorten
from fairway.page.join import joined

PAGE = Path(fairway.__file__).parent / "page"

SCRIPT = r"""
// A line.
function half(x) { /* a
   block */ return x / 2 /* behind */ ; } // the end

const text = "// no comment  ' ", other = '/* none */  \' "';
const pattern = /[/"'`]\/  \/\/ x/g , more = half (4) / half(2) / 1;
const nested = `a  ${ [1].map((x) => `<${ x + 1 }  // ${ { y: "}" }.y }>`).join() }  \` $ \${ b`;
let a = 1
let b = a + + 1 - - 2
b ++
class Shape { #side = 3 ; has(o) { return #side in o } static  async  * walk() { yield 1 } }
const all = [text, other, pattern.source, pattern.flags, more, nested, a, b, 1 .toFixed(1)];
const other2 = 1, { kind, inner: deep = other2 } = { kind: "object", inner: undefined };
class Counter {
  get amount() { return kind.length }
  amounts() { return this.amount }
}
function amount({ amounts, ...rest }, ...others) { return [amounts, rest.kind, ...others] }
const method = { amount, inner() { return deep } }["inner"], names = { names: 3, amount };
outer: for (const value of [1, 2]) for (;;) continue outer;
switch (kind) { case "object": { all.push(new Counter().amounts()); } }
all.push(amount({ amounts: 1, kind: 2 }, 3, half(8)), method(), names, new Shape().has({}));
const document = { title: `${ kind } ${ [`${ deep }`] }` };
console.log(JSON.stringify([all, document.title, typeof window]));
"""


def test_comments_and_blanks_go_and_nothing_else():
    short = shorten.script(SCRIPT)
    assert "A line" not in short
    assert "block" not in short
    assert "behind" not in short
    assert re.search(r"function \w{1,2}\(x\)\{return x/2;\}\n", short)
    assert r"""/[/"'`]\/  \/\/ x/g,more=""" in short
    assert "const" not in short
    assert "static async*walk(){" in short
    assert "let b=a+ +1- -2\nb++\n" in short
    assert "half" not in short
    assert short.count("amount") == SCRIPT.count("amount")  # also a method's name
    assert short.count("document") == SCRIPT.count("document")  # also the browser's name
    assert not re.search(r"^[ \t]|[ \t]$|\n\n", short, re.MULTILINE)
    assert shorten.script(short) == short


def test_the_short_script_computes_what_the_long_one_computes():
    printed = [
        subprocess.run(
            [required_node(), "-e", source], capture_output=True, text=True, check=True
        ).stdout
        for source in (SCRIPT, shorten.script(SCRIPT))
    ]
    assert printed[0] == printed[1]
    assert printed[0].startswith('[["// no comment  ')


@pytest.mark.parametrize("source", ["'open", '"open\n"', "`open ${1}", "x = /open\n", "{} / 2"])
def test_what_cannot_be_told_is_refused(source):
    with pytest.raises(ValueError, match=r"no end|may divide"):
        shorten.script(source)


def test_a_style_keeps_its_selectors_and_strings():
    style = """
/* A comment; { */
:root { --paper: #fff ; color : red }
a :hover , a:hover > b { content: " : {  } /* */ " ; width: calc(1px + 2px) }
@media (min-width: 30rem) and (prefers-color-scheme: dark) { p { margin: 0 auto; } }
"""
    assert shorten.style(style) == (
        ":root{--paper:#fff;color :red}"
        'a :hover,a:hover > b{content:" : {  } /* */ ";width:calc(1px + 2px)}'
        "@media (min-width:30rem) and (prefers-color-scheme:dark){p{margin:0 auto}}\n"
    )
    assert shorten.style(shorten.style(style)) == shorten.style(style)


def test_the_joined_decoder_decodes(tmp_path):
    """Every rule of joining and shortening, on the decoder itself."""
    shutil.copytree(PAGE / "decoder", tmp_path / "decoder")
    (tmp_path / "main.mjs").write_text(
        'import { decode } from "./decoder/decode.mjs";\nglobalThis.decode = decode;\n'
    )
    (tmp_path / "joined.cjs").write_text(joined(tmp_path / "main.mjs"), "utf-8")
    golden = Path(__file__).parents[1] / "golden"
    (tmp_path / "run.cjs").write_text(
        'require("./joined.cjs"); const { readFileSync } = require("fs");\n'
        "const [model, proof] = process.argv.slice(2).map((f) => readFileSync(f));\n"
        "decode(new Uint8Array(model), new Uint8Array(proof), { workers: 0 })"
        ".then((r) => console.log(r.textSha256));\n"
    )
    files = [golden / "memory.fairway", golden / "memory.fwp"]
    command = [required_node(), tmp_path / "run.cjs", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plain = [required_node(), PAGE / "decoder" / "verify.mjs", *files, tmp_path / "text"]
    said = subprocess.run(plain, capture_output=True, text=True, check=True)
    assert re.fullmatch("[0-9a-f]{64}\n", done.stdout)
    assert done.stdout.strip() in said.stdout + said.stderr
