"""Foreign inputs, by the thousand: files, streams, names and values that commands must survive.

A situation is a command in a folder of its own where one thing is odd. It runs in a fork of this
process, with the streams that a shell would give it. Whatever is odd: no traceback, no waiting, the
right exit code, one sentence, no control characters on the terminal, nothing of ours left behind
and nothing of the user's changed.

    python tests/campaign.py RUN [--every N] [--jobs N] [--kind KIND]

RUN is the folder of a finished `fairway run tiny`, with its data beside it.
"""

import argparse
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TIME_S = 40
WAIT_S = 0.2  # for the other end of a pipe
ANY = frozenset({0, 1, 2})
BAD = frozenset({2})
GOOD = frozenset({0})
MODEL = "tiny/model.fairway"

Prepare = Callable[[], object]


@dataclass(frozen=True)
class Situation:
    kind: str
    name: str
    words: tuple[str, ...]
    codes: frozenset[int]
    prepare: Prepare = field(default=lambda: None)  # in the situation's folder
    streams: str = ""  # as a shell writes them: 0- 1- 2- 1=/dev/full 1| …
    env: tuple[tuple[str, str], ...] = ()


# Objects of the file system ----------------------------------------------------------------------


def _write(path: str, data: bytes | str = b"") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(
        data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    )


def _clear(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path)


def _sparse(path: str) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def _loop(path: str) -> None:
    os.symlink(os.path.basename(path), path)


def _cut(path: str) -> None:
    """What stood there, by half; letters where nothing did."""
    before = Path(f"{path}.before")
    data = before.read_bytes() if before.is_file() else b"half of it"
    _write(path, data[: len(data) // 2])


def _longer(path: str) -> None:
    before = Path(f"{path}.before")
    _write(path, (before.read_bytes() if before.is_file() else b"all of it") + b"\0more")


ABSENT: dict[str, Prepare] = {
    "missing": lambda path: None,
    "broken link": lambda path: os.symlink("nowhere", path),
    "link loop": _loop,
}
SPECIAL: dict[str, Prepare] = {
    "pipe": lambda path: os.mkfifo(path),
    "socket": _socket,
    "link to /dev/null": lambda path: os.symlink("/dev/null", path),
    "link to /dev/full": lambda path: os.symlink("/dev/full", path),
    "link to a pipe": lambda path: (os.mkfifo("fifo"), os.symlink(os.path.abspath("fifo"), path)),
}
FOLDERS: dict[str, Prepare] = {
    "folder": lambda path: os.mkdir(path),
    "link to a folder": lambda path: (os.mkdir("box"), os.symlink(os.path.abspath("box"), path)),
    "folder of folders": lambda path: os.makedirs(f"{path}/recipe.toml/deep"),
}
CONTENTS: dict[str, Prepare] = {
    "empty": lambda path: _write(path),
    "zeros": lambda path: _write(path, bytes(5000)),
    "noise": lambda path: _write(path, hashlib.shake_128(b"noise").digest(5000)),
    "text": lambda path: _write(path, "a letter\nof two lines\n"),
    "no UTF-8": lambda path: _write(path, b"caf\xe9 \xff\xfe\n" * 9),
    "UTF-16": lambda path: _write(path, "a letter\n".encode("utf-16")),
    "mark": lambda path: _write(path, b"\xef\xbb\xbfa letter\n"),
    "carriage returns": lambda path: _write(path, b"a\rb\r\nc\n\r"),
    "one long line": lambda path: _write(path, b"x" * 100_000),
    "JSON": lambda path: _write(path, "{}"),
    "deep": lambda path: _write(path, "[" * 100_000),
    "cut": _cut,
    "longer": _longer,
}
OBJECTS = ABSENT | SPECIAL | FOLDERS | CONTENTS | {"huge and sparse": _sparse}

# Where a command takes a file or a folder: X is it. What it wants: file, folder, out.
POSITIONS: list[tuple[str, str]] = [
    ("file", "size X"),
    ("file", "run X --dry-run --out o"),
    ("file", "prepare X --out o"),
    ("file", "train X --out o"),
    ("file", "sweep X --out o"),
    ("folder", "pack X"),
    ("folder", "score X"),
    ("folder", "prove X"),
    ("folder", "verify X"),
    ("folder", "report X"),
    ("folder", "report tiny X"),
    ("folder", "compare X --against tiny"),
    ("folder", "compare tiny --against X"),
    ("folder", "audit run X --steps 1"),
    ("folder", "submit X --out o --author A --github a"),
    ("check", "submit --check X"),
    ("folder", "push X nobody/nothing"),
    ("file", "compress -m X letter.txt"),
    ("file", "compress letter.txt -m X"),
    ("source", f"compress -m {MODEL} X -o o"),
    ("source", f"compress -m {MODEL} X -c"),
    ("source", f"compress -m {MODEL} letter.txt X"),
    ("out", f"compress -m {MODEL} letter.txt -o X"),
    ("out", f"compress -m {MODEL} letter.txt -f -o X"),
    ("out", f"compress -m {MODEL} letter.txt -f -o X/in"),
    ("file", "decompress -m X letter.fwz -o o"),
    ("file", f"decompress -m {MODEL} X -o o"),
    ("file", f"decompress -m {MODEL} X -t"),
    ("file", f"decompress -m {MODEL} X"),
    ("out", f"decompress -m {MODEL} letter.fwz -o X"),
    ("out", f"decompress -m {MODEL} letter.fwz -f -o X"),
    ("file", "sample X --tokens 1"),
    ("file", "inspect X"),
    ("file", "inspect X --json"),
    ("file", "export X -o o"),
    ("dir", f"export {MODEL} -o X"),
    ("out", "report tiny -o X"),
    ("out", "compare tiny --against tiny -o X"),
    ("any", "audit data --train X --val letter.txt"),
    ("any", "audit data --train letter.txt --val X"),
    ("any", "audit data --train letter.txt --val letter.txt --tokenizer X"),
    ("file", "audit X:score --text letter.txt --minutes 0.01"),
    ("dir", "size tiny --set data.path=X"),
    ("dir", "run tiny --dry-run --out X"),
    ("out", "pack X/tiny"),
]


def objects() -> Iterator[Situation]:
    """Every object at every position."""
    for (want, line), (name, make) in itertools.product(POSITIONS, OBJECTS.items()):
        if name == "huge and sparse" and want in ("source", "any"):
            continue  # as long as any input is, it is read
        if name == "link to /dev/full" and want == "source":
            continue
        codes = ANY
        if want in ("file", "source") and name in (ABSENT | FOLDERS):
            codes = BAD
        if want == "file" and name not in CONTENTS and "link to /dev" not in name:
            codes = BAD
        if want == "folder":
            codes = BAD
        if want == "source" and name in CONTENTS:
            codes = GOOD
        if want == "out" and name in FOLDERS and not line.endswith(("/in", "/tiny")):
            codes = BAD
        words = tuple(
            "x" + w[1:] if w.startswith("X") else w.replace("=X", "=x") for w in line.split()
        )
        yield Situation("objects", f"{line}: {name}", words, codes, lambda m=make: m("x"))


# Members of a run folder -------------------------------------------------------------------------

MEMBERS = [
    "recipe.toml",
    "prepare.json",
    "train.json",
    "pack.json",
    "score.json",
    "prove.json",
    "verify.json",
    "env.json",
    "metrics.jsonl",
    "clock.json",
    "model.fairway",
    "proof",
    "proof/val.fwp",
    "score_documents.npy",
    "weights.safetensors",
    "calibration.safetensors",
    "report.html",
    ".lock",
    "DATA/manifest.json",
    "DATA/tokenizer.fwt",
    "DATA/val_000000.bin",
    "DATA/train_000000.bin",
]
LOOKS = ["report tiny", "compare tiny --against tiny", "report tiny -o o", "score tiny --json"]
LONG_LOOKS = {
    "audit run tiny --steps 1": MEMBERS,
    "verify tiny": [
        "recipe.toml",
        "model.fairway",
        "proof",
        "proof/val.fwp",
        ".lock",
        "prepare.json",
    ],
    "submit tiny --out o": ["train.json", "proof/val.fwp"],
}


def members() -> Iterator[Situation]:
    """Every object in the place of every file of a run folder."""
    looks = [(look, member) for look in LOOKS for member in MEMBERS]
    looks += [(look, member) for look, those in LONG_LOOKS.items() for member in those]
    for (look, member), (name, make) in itertools.product(looks, OBJECTS.items()):
        if name == "huge and sparse" and not look.startswith(("report", "compare")):
            continue  # it is hashed, for hours

        def prepare(member: str = member, make: Prepare = make) -> None:
            path = f"tiny/{member}"
            if member.startswith("DATA/"):
                path = str(next(Path("data").iterdir()) / member[5:])
            if Path(path).is_file():
                shutil.copy(path, f"{path}.before")
            _clear(path)
            make(path)
            if os.path.exists(f"{path}.before"):
                os.unlink(f"{path}.before")

        yield Situation("members", f"{look}: {member}: {name}", tuple(look.split()), ANY, prepare)


# JSON, TOML and their encodings ------------------------------------------------------------------


def _json_mutations(text: str) -> Iterator[tuple[str, bytes]]:
    tree = json.loads(text)
    keys = list(tree)
    yield "a list around", json.dumps([tree]).encode()
    yield "null", b"null"
    yield "a number", b"17"
    yield "a string", b'"x"'
    yield "nested too deep", b'{"a":' * 50_000
    yield "nested, closed", b"[" * 3000 + b"]" * 3000
    yield "a mark", b"\xef\xbb\xbf" + text.encode()
    yield "UTF-16", text.encode("utf-16")
    yield "UTF-32", text.encode("utf-32")
    yield "a byte that is no UTF-8", text.encode().replace(b'"', b'"\xff', 1)
    yield "NUL bytes", text.encode() + b"\0"
    yield "a trailing comma", text.rstrip().rstrip("}").encode() + b",}"
    yield "a key twice", text.rstrip().rstrip("}").encode() + f',"{keys[0]}":1}}'.encode()
    yield "another key", json.dumps(tree | {"other": 1}).encode()
    for number, (key, value) in itertools.product(range(12), [(keys[-1], None), (keys[0], None)]):
        value = [
            None, [], {}, "x", -1, 1 << 70, 1e308, "\0", "\ud800", "../../..", True, float("nan"),
        ][number]  # fmt: skip
        yield f"{key} is {value!r}", json.dumps(tree | {key: value}).encode()
    for value in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000):
        yield f"{keys[1]} is {value[:9]}", _replaced(tree, keys[1], value)
    for key in keys:
        rest = {name: value for name, value in tree.items() if name != key}
        yield f"without {key}", json.dumps(rest).encode()
        if isinstance(tree[key], int | float):
            yield f"{key} is not finite", _replaced(tree, key, "NaN")
            yield f"{key} is negative", json.dumps(tree | {key: -1}).encode()
            yield f"{key} is 0", json.dumps(tree | {key: 0}).encode()
        if isinstance(tree[key], str):
            yield (
                f"{key} forges a line",
                json.dumps(tree | {key: "x\n\x1b[2Kverified, all\u202e"}).encode(),
            )


def _replaced(tree: dict[str, object], key: str, raw: str) -> bytes:
    return json.dumps(tree | {key: "RAW"}).replace('"RAW"', raw).encode()


def trees(run: Path) -> Iterator[Situation]:
    """Result files with one thing wrong."""
    names = [f"{v}.json" for v in ("prepare", "train", "pack", "score", "prove", "verify", "env")]
    for member in [*names, "clock.json"]:
        text = (run / member).read_text()
        looks = ["report tiny", "compare tiny --against tiny"]
        if member in ("env.json", "clock.json"):
            looks = ["report tiny", "audit run tiny --steps 1"]
        if member == "clock.json":
            text = json.dumps(json.loads(text) | {"more": 1})
        for (what, data), look in itertools.product(_json_mutations(text), looks):
            yield Situation(
                "JSON", f"{look}: {member}: {what}", tuple(look.split()), ANY,
                lambda m=member, d=data: _write(f"tiny/{m}", d),
            )  # fmt: skip


LINES = [
    b"", b"\n\n", b'{"step": 1', b'{"step": "x"}', b"[1]", b"null", b'{"loss": 1}', b"\xff\n",
    b'{"step": 1, "loss": NaN}', b'{"step": 1, "loss": Infinity, "lr": -Infinity}',
    b'{"step": 1e400, "loss": 1}', b'{"step": 1, "loss": null}', b'{"step": 1, "loss": 1e308}',
    b'{"step": 18446744073709551615, "loss": 1}', b'{"step": -5, "loss": 1, "lr": 1}',
    b"[" * 90_000, b'{"step": 1, "loss": [1]}', b"\xef\xbb\xbf{}", b'{"step": true, "loss": 1}',
    b'{"step": 1, "loss": 3.0, "a": "\\ud800"}', b"{}{}", b'{"step":1}\r\n{"step":2}\r\n',
]  # fmt: skip


def lines() -> Iterator[Situation]:
    """metrics.jsonl with odd lines: at the end, at the start, alone."""
    for line, where, look in itertools.product(
        LINES, ("end", "start", "alone"), ("report tiny", "audit run tiny --steps 1")
    ):

        def prepare(line: bytes = line, where: str = where) -> None:
            file = Path("tiny/metrics.jsonl")
            before = file.read_bytes()
            parts = {"end": before + line, "start": line + b"\n" + before, "alone": line}
            file.write_bytes(parts[where])

        name = f"{look}: {line[:40]!r} at the {where}"
        yield Situation("lines", name, tuple(look.split()), ANY, prepare)


def _toml_mutations(text: str) -> Iterator[tuple[str, bytes, frozenset[int]]]:
    data = text.encode()
    yield "a mark", b"\xef\xbb\xbf" + data, GOOD
    yield "UTF-16", text.encode("utf-16"), GOOD
    yield "UTF-16, other order", b"\xfe\xff" + text.encode("utf-16-be"), GOOD
    yield "carriage returns", text.replace("\n", "\r\n").encode(), GOOD
    yield "old line ends", text.replace("\n", "\r").encode(), BAD
    yield "UTF-16 without a mark", text.encode("utf-16-le"), BAD
    yield "UTF-32", text.encode("utf-32"), BAD
    yield "latin-1", data + b"# caf\xe9\n", BAD
    yield "NUL", data + b"\0", BAD
    yield "deep", data + b"\n[x]\na = " + b"[" * 20_000, BAD
    yield "deep tables", data + b"\n[" + b"a." * 5000 + b"b]\n", BAD
    yield "a table twice", data + data, BAD
    yield "cut", data[: len(data) // 2] + b"\nx = [", BAD
    yield "unknown key", data + b'\n[other]\n"\\u001b[31m" = 1\n', BAD
    yield "long", data + b"# " + b"x" * 1_000_000, GOOD
    yield "forged", data + b'\n["a\\nverified\\u202e"]\nx = 1\n', BAD
    for value in ("nan", "inf", "-1", "99999999999999999999999", '"x"', "[1]", "{}", "1979-05-27"):
        yield (
            f"lr is {value}",
            text.replace("[optim]\n", f"[optim]\nmatrix_lr = {value}\n").encode(),
            ANY,
        )
        yield f"dim is {value}", _with(text, "dim", value), BAD
        yield f"name is {value}", _with(text, "name", value), ANY
        yield f"seed is {value}", _with(text, "seed", value), ANY
    for value in ('"a\\u0000b"', '"\\u001b[31m\\nverified"', '"' + "x" * 5000 + '"'):
        yield f"name is {value[:20]}", _with(text, "name", value), ANY
        yield f"path is {value[:20]}", _with(text, "path", value), ANY


def _with(text: str, key: str, value: str) -> bytes:
    lines = [
        f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in text.splitlines()
    ]
    return "\n".join(lines).encode() + b"\n"


def recipes(run: Path) -> Iterator[Situation]:
    text = (run / "recipe.toml").read_text()
    for what, data, codes in _toml_mutations(text):
        yield Situation(
            "TOML", f"size: {what}", ("size", "r"), codes, lambda d=data: _write("r", d)
        )
        for look in ("run r --dry-run --out tiny", "train r --out /dev/null/o"):
            allowed = codes if look.startswith("run") else BAD
            yield Situation(
                "TOML",
                f"{look}: {what}",
                tuple(look.split()),
                allowed,
                lambda d=data: _write("r", d),
            )
        for look in ("report tiny", "audit run tiny --steps 1", "pack tiny", "verify tiny --json"):
            if look == "pack tiny" and codes != BAD:
                continue
            yield Situation(
                "TOML", f"{look}: {what}", tuple(look.split()), ANY,
                lambda d=data: _write("tiny/recipe.toml", d),
            )  # fmt: skip
    table = 'recipe = "tiny"\nseeds = [1, 1]\n'
    for what, data, _ in _toml_mutations(table + "[optim]\nname = 1\n"):
        yield Situation(
            "TOML", f"sweep: {what}", ("sweep", "t"), BAD, lambda d=data: _write("t", d)
        )


# Streams, environment, names, values -------------------------------------------------------------

GOOD_COMMANDS = [
    "size tiny",
    "size tiny --json",
    "size --help",
    "--help",
    f"inspect {MODEL}",
    f"inspect {MODEL} --json",
    f"compress -m {MODEL} letter.txt -c",
    f"compress -m {MODEL} - -o o",
    f"compress -m {MODEL} letter.txt -o o",
    f"decompress -m {MODEL} letter.fwz -c",
    f"decompress -m {MODEL} letter.fwz -t --json",
    f"sample {MODEL} --tokens 1 --json",
    "report tiny",
    "compare tiny --against tiny --json",
    "submit --check tiny",
    "run tiny --dry-run",
    "pack nowhere",
    "nonsense",
    "size --nonsense",
    f"export {MODEL} -o o",
]
STREAMS = [
    "0-", "1-", "2-", "0- 1-", "0- 2-", "1- 2-", "0- 1- 2-", "1=/dev/full", "2=/dev/full",
    "1=/dev/full 2=/dev/full", "1|", "2|", "1| 2|", "1<", "2<", "0=/dev/null", "0=letter.txt",
]  # fmt: skip


def streams() -> Iterator[Situation]:
    for line, how in itertools.product(GOOD_COMMANDS, STREAMS):
        codes = ANY
        if "0-" in how and " - " in line:
            codes = BAD
        if line.endswith(("-c", "--json")) and "1" in how:
            codes = BAD
        yield Situation("streams", f"{line} {how}", tuple(line.split()), codes, streams=how)


ENVIRONMENTS = [
    ("COLUMNS", "1"), ("COLUMNS", "0"), ("COLUMNS", "x"), ("COLUMNS", "100000"), ("LINES", "0"),
    ("TERM", "dumb"), ("TERM", ""), ("TERM", "\x1b"), ("LC_ALL", "C"), ("LANG", "xx_YY.latin9"),
    ("FAIRWAY_MODEL", ""), ("FAIRWAY_MODEL", "nowhere"), ("FAIRWAY_MODEL", "."), ("RANK", "x"),
    ("RANK", "0"), ("WORLD_SIZE", "x"), ("WORLD_SIZE", ""), ("LOCAL_RANK", "-"), ("NO_COLOR", "1"),
    ("OMP_NUM_THREADS", "x"), ("TMPDIR", "/nowhere"), ("TZ", "x/y"), ("PYTHONIOENCODING", "ascii"),
    ("_CWD", "deleted"), ("_FSIZE", "0"), ("_FSIZE", "30"), ("_NOFILE", "24"), ("_ASCII", "1"),
]  # fmt: skip


def environments() -> Iterator[Situation]:
    for (name, value), line in itertools.product(ENVIRONMENTS, GOOD_COMMANDS):
        yield Situation("environment", f"{name}={value!r} {line}", tuple(line.split()), ANY,
                        env=((name, value),))  # fmt: skip


NAMES = [
    "a b",
    "$x_{$",
    "a$",
    "${x}",
    "%s{0}",
    "'\"<b>&",
    "a\nerror: verified",
    "\x1b[2K\x1b[1Gverified",
    "\u202egnp.txt",
    "caf\u00e9",
    "\U0001f600",
    "no\udcffutf",
    "[red]x[/red]",
    ":warning:",
    "a\\",
    "~",
    "\u2028",
    "a\tb",
    "\r",
    "x" * 251,
    "x" * 255,
    "x" * 256,
    "\u00e9" * 125,
    "-dash",
    "--json",
    "a:b",
    "CON",
    ".hidden",
    "tiny.fwz",
    "a\x7f",
    "\u200bzero",
]
NAMED = [
    f"compress -m {MODEL} @",
    f"compress -m {MODEL} letter.txt -o @.fwz",
    f"decompress -m {MODEL} letter.fwz -o @",
    "inspect @",
    "size @",
    "report @/",
    "compare @/ --against tiny",
    "compare tiny --against tiny -o @",
    "report tiny -o @",
    f"export {MODEL} -o @",
    "verify @",
    "submit --check @/",
    "sweep @",
    "audit @:f",
    "run tiny --dry-run --out @",
    "pack @/",
    f"compress -m {MODEL} @ --json",
    f"compress -m {MODEL} @ -f",
    "submit nowhere --out @",
    "audit run @/ --steps 1",
    f"compress -m {MODEL} letter.txt -f -o @",
]


def names() -> Iterator[Situation]:
    for name, line in itertools.product(NAMES, NAMED):

        def prepare(name: str = name, line: str = line) -> None:
            if len(os.fsencode(name)) > 255:
                return
            if "@/" in line:
                shutil.copytree("tiny", "./" + name)
            elif "out" not in line and "-o" not in line:
                _write("./" + name, "a letter\n")

        shown = "./" + name if name.startswith("-") else name
        words = tuple(w.replace("@/", shown).replace("@", shown) for w in line.split())
        yield Situation("names", f"{line}: {name!r:.40}", words, ANY, prepare)


VALUES = [
    "",
    "=",
    "x",
    "x=",
    "=1",
    "a.b.c.d=1",
    "model=1",
    "model.dim",
    "model.dim=",
    "model.dim=x",
    "model.dim=-1",
    "model.dim=1e3",
    "model.dim=" + "9" * 4400,
    "model.dim=0x10",
    "model.dim=nan",
    "optim.matrix_lr=nan",
    "optim.matrix_lr=inf",
    "name=[[[[" + "[" * 3000,
    "name=\udcff",
    "name=\x1b[31m",
    "name=a\nverified",
    "name=" + "{a=" * 2000,
    "..=1",
    ".",
    "train.steps=0",
    "train..steps=1",
    "data.path=\udcff",
    "data.source=none",
    "model.num_heads=0",
    "model.window=0",
    "pack.budget_bytes=-1",
    "pack.budget_bytes=0",
    "pack.step=0",
    "score.stride=0",
    "prove.lanes=0",
    "model.mlp_mult=0.01",
    "model.dim=1000000000",
    "model.num_layers=1000000",
    "data.vocab_size=1",
    "data.vocab_size=0",
    "model.bigram_rows=-1",
    "model.rope_base=0",
    "\udcff=1",
    "train.seed=-1",
]
OPTIONS = [
    "run tiny --dry-run --seeds @",
    "run tiny --dry-run --force @",
    "size tiny --budget @",
    "sample MODEL --tokens @",
    "sample MODEL --tokens 1 --temperature @",
    "sample MODEL --seed @ --tokens 1",
    "sample MODEL --tokens 1 --prompt @",
    "compare tiny --against tiny --claim @",
    "score tiny --stride @",
    "score tiny --protocol @",
    "prove tiny --arithmetic @",
    "score tiny --adapt @",
    "compress -m MODEL letter.txt -o o --arithmetic @",
    "audit data --train letter.txt --val letter.txt --overlap @",
    "audit run tiny --steps @",
    "audit x.py:f --minutes @",
    "audit x.py:f --memory @",
    "audit x.py:f --seed @",
    "submit nowhere --author @ --out o",
    "submit tiny --title @ --out tiny",
    "push tiny @",
    "train tiny --device @ --out o",
    "download fineweb --variant @ --out o",
    "size tiny --set @",
]
ODD = [
    "",
    "x",
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 400,
    "\udcff",
    "\x1b[31m\nverified",
    "1,1",
    "1,x",
    ",",
    "\u0663",
    "\u00b2",
    "0x10",
    "../..",
    "none",
    "\u202e",
]


def values() -> Iterator[Situation]:
    for value in VALUES:
        yield Situation("values", f"size --set {value:.40}", ("size", "tiny", "--set", value), ANY)
    slow = ("submit tiny --author", "audit run tiny", "train tiny", "download fineweb")
    for line, value in itertools.product(OPTIONS, ODD):
        if line.startswith(slow) and value in ("0", "none", "x", "../.."):
            continue  # these are good values, and the work is long
        if "--tokens @" in line and value.startswith("9"):
            continue
        words = tuple(w.replace("@", value).replace("MODEL", MODEL) for w in line.split())
        yield Situation("values", f"{line}: {value!r:.30}", words, ANY)


def situations(run: Path) -> list[Situation]:
    """All of them, always in the same order."""
    return [
        *objects(), *members(), *trees(run), *lines(), *recipes(run), *streams(), *environments(),
        *names(), *values(),
    ]  # fmt: skip


# Running -----------------------------------------------------------------------------------------


def warm_up(run: Path, folder: Path) -> None:
    """Import and compile what commands need, so that a fork does not have to."""
    import fairway.challenge.checks
    import fairway.challenge.submission
    import fairway.coding.files
    import fairway.report.compare
    import fairway.report.export
    import fairway.report.report
    import fairway.report.sweep  # noqa: F401
    from fairway.cli.main import main

    _run(main, f"compress -m {run}/model.fairway letter.txt -o letter.fwz")
    _run(main, f"decompress -m {run}/model.fairway letter.fwz -t")


def _run(main: Callable[[], None], line: str) -> None:
    sys.argv = ["fairway", *line.split()]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(line) from None


def prepare_base(run: Path, base: Path) -> None:
    """What every situation starts from: the run, its data, a letter and the letter compressed."""
    base.mkdir()
    shutil.copytree(run, base / "tiny", ignore=shutil.ignore_patterns("tensorboard", "texts"))
    shutil.copytree(run.parent / "data", base / "data")
    (base / "letter.txt").write_text("A letter to nobody, of one line.\n")
    before = os.getcwd()
    os.chdir(base)
    try:
        warm_up(run.resolve(), base)
    finally:
        os.chdir(before)


def check(situation: Situation, base: Path) -> str:
    """Run one; return what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(prefix="situation-") as place:
        folder = Path(place) / "here"
        shutil.copytree(base, folder)
        _fork(situation.prepare, folder)
        names = ["letter.txt", "letter.fwz", *[MODEL] * (situation.kind != "members")]
        kept = {name: _state(folder / name) for name in names}
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(situation, folder, Path(place))
        _, status = os.waitpid(pid, 0)
        err = (Path(place) / "err").read_bytes()
        out = (Path(place) / "out").read_bytes()
        if os.WIFSIGNALED(status):
            late = time.monotonic() - started > TIME_S - 5
            return "it waits for ever" if late else f"killed by signal {os.WTERMSIG(status)}"
        return _wrong(situation, os.WEXITSTATUS(status), out, err, folder, kept)


def _wrong(
    situation: Situation, code: int, out: bytes, err: bytes, folder: Path, kept: dict[str, object]
) -> str:
    lines = err.decode(errors="replace").splitlines()
    if b"Traceback (most recent call last)" in err:
        where = [line.strip() for line in lines if 'File "' in line]
        what = [line for line in lines if not line.startswith((" ", "error: this is a fault"))]
        return f"traceback: {what[-1][:200]} << {where[-1]}"
    if code not in situation.codes:
        return f"exit code {code}, not {sorted(situation.codes)}: {''.join(lines[-1:])[:300]}"
    limit = dict(situation.env).get("_FSIZE")  # the file that takes stderr is limited, too
    whole = limit is None or len(err) < int(limit)
    if code == 2 and err and whole and not err.splitlines()[-1].startswith(b"error: "):
        return f"no sentence at the end: {err[-200:]!r}"
    if b"\x1b" in err or b"\r" in err or "\u202e".encode() in err:
        return f"control characters: {err[-200:]!r}"
    if code < 2 and "--json" in situation.words and out:
        try:
            json.loads(out, parse_constant=_no_constant)
        except ValueError as error:
            return f"no JSON: {error}"
    if left := [str(p.relative_to(folder)) for p in folder.rglob("*.tmp")]:
        return f"left behind: {left}"
    for name, state in kept.items():
        if situation.streams != "2=letter.txt" and _state(folder / name) != state:
            return f"{name} was changed"
    return ""


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _state(path: Path) -> object:
    """Kind, mode and content of a file that must not change."""
    if not path.is_file():
        return None
    return stat.S_IMODE(path.stat().st_mode), path.read_bytes()


def _fork(work: Prepare, folder: Path) -> None:
    """Prepare in a process of its own: it changes folders."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(folder)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, "a situation could not be prepared"


def _child(situation: Situation, folder: Path, place: Path) -> None:
    """The command, as a shell would start it. Never returns."""
    code = 120
    try:
        os.setsid()
        os.chdir(folder)
        _redirect(situation.streams, place)
        _environment(situation.env)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIME_S)
        try:
            from fairway.io import foreign

            foreign._WAIT_S = WAIT_S
        except ImportError:
            pass
        sys.argv = ["fairway", *situation.words]
        from fairway.cli.main import main as fairway

        fairway()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        code = 1
        try:
            with open(place / "err", "a") as file:
                traceback.print_exc(file=file)
        except OSError:
            pass
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = 120
    os._exit(code)


def _redirect(streams: str, place: Path) -> None:
    """Point the three streams where the situation says, and rebuild Python's from them."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for word in streams.split():
        number, how = int(word[0]), word[1:]
        if how == "-":
            os.close(number)
        elif how == "|":
            read, write = os.pipe()
            os.close(read)
            os.dup2(write, number)
        elif how == "<":
            os.dup2(os.open(os.devnull, os.O_RDONLY), number)
        else:
            os.dup2(os.open(how[1:], os.O_RDONLY if number == 0 else os.O_WRONLY), number)
    os.closerange(3, 64)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, None)
            continue
        errors = "backslashreplace" if number == 2 else "strict"
        stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def _environment(variables: tuple[tuple[str, str], ...]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name, value in variables:
        if name == "_CWD":
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir("../gone")
        elif name == "_FSIZE":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            _limit(resource.RLIMIT_FSIZE, int(value))
        elif name == "_NOFILE":
            _limit(resource.RLIMIT_NOFILE, int(value))
        elif name == "_ASCII":
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(encoding="ascii", errors="strict")
        else:
            os.environ[name] = value


def _limit(what: int, value: int) -> None:
    resource.setrlimit(what, (value, resource.getrlimit(what)[1]))


def run_all(chosen: list[Situation], base: Path, jobs: int) -> list[tuple[Situation, str]]:
    """Check situations in `jobs` processes; returns those that went wrong."""
    with tempfile.TemporaryDirectory() as place:
        pids = []
        for job in range(jobs):
            pid = os.fork()
            if pid == 0:
                with open(Path(place) / str(job), "w") as file:
                    for i in range(job, len(chosen), jobs):
                        try:
                            wrong = check(chosen[i], base)
                        except Exception:
                            wrong = "the campaign failed: " + traceback.format_exc(limit=-1)
                        if wrong:
                            print(json.dumps([i, wrong]), file=file, flush=True)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        found = [
            json.loads(line)
            for job in range(jobs)
            for line in (Path(place) / str(job)).read_text().splitlines()
        ]
    return [(chosen[i], wrong) for i, wrong in sorted(found)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kind")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        prepare_base(given.run.resolve(), base)
        all_of_them = situations(given.run)
        chosen = [s for s in all_of_them if given.kind in (None, s.kind)][
            given.start :: given.every
        ]
        began = time.monotonic()
        wrong = run_all(chosen, base, given.jobs)
    for situation, what in wrong:
        print(
            f"{situation.kind}: {situation.name}: {what}".encode(
                "ascii", "backslashreplace"
            ).decode()
        )
    counts, kinds = Counter(s.kind for s in chosen), Counter(s.kind for s, _ in wrong)
    whats = Counter(what.split(":")[0].split(",")[0] for _, what in wrong)
    for kind, count in counts.items():
        print(f"{kind}: {count} situations, {kinds[kind]} wrong")
    print(f"in all: {len(chosen)} situations, {len(wrong)} wrong {dict(whats)}, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
