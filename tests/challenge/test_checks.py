"""`submit --check` on folders made by hand: honest ones pass, and no lie does."""

import json
import os
import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairway.challenge import logs
from fairway.challenge.checks import check

SCRIPT = "import torch\n" + "".join(f"x{i} = {i * i}\n" for i in range(300))
SEEDS = (11, 22, 33)
BPB = (1.13998, 1.14001, 1.14031)
MODEL = (15_800_001, 15_800_202, 15_800_303)
MEAN = sum(BPB) / 3
NOISE = random.Random(5).randbytes(40_000)


def log(i, **changes):
    """The text of one honest log, with some values changed."""
    says = {
        "seed": SEEDS[i], "tokens": "62021632", "model": MODEL[i], "code": len(SCRIPT),
        "total": MODEL[i] + len(SCRIPT), "train": f"{590_000 + i}ms", "bpb": f"{BPB[i]:.6f}",
        "eval": "401000ms", "loss": f"{1.92 + i / 100:.6f}", "more": "",
    } | changes  # fmt: skip
    return (
        "val_loader:shards pattern=data/fineweb10B_sp1024/fineweb_val_*.bin "
        "tokens:{tokens}\nseed:{seed}\n"
        "step:1/900 train_loss:6.9{seed} train_time:12ms step_avg:12ms\n"
        "step:900/900 val_loss:2.0100 val_bpb:1.1911 train_time:{train} step_avg:655.6ms\n"
        "Serialized model int6+zstd: {model} bytes\nCode size: {code} bytes\n"
        "Total submission size int6+zstd: {total} bytes\n{more}"
        "final_sliding_exact val_loss:{loss} val_bpb:{bpb} eval_time:{eval}\n"
    ).format(**says)


CLAIMS = {
    "author": "A", "github_id": "a", "name": "n", "blurb": "b", "date": "2026-04-01",
    "val_loss": 1.93, "val_bpb": round(MEAN, 6), "bytes_total": MODEL[2] + len(SCRIPT),
    "seeds": list(SEEDS),
    "seed_results": {str(seed): {"val_bpb": BPB[i]} for i, seed in enumerate(SEEDS)},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """An honest submission folder of somebody else."""
    made = tmp_path / "folder"
    made.mkdir()
    (made / "README.md").write_text("# A run\n")
    (made / "train_gpt.py").write_text(SCRIPT)
    for i, seed in enumerate(SEEDS):
        (made / f"train_seed{seed}.log").write_text(log(i))
    claim(made)
    return made


def claim(folder, **fields):
    claims = {k: v for k, v in (CLAIMS | fields).items() if v is not None}
    (folder / "submission.json").write_text(json.dumps(claims))


def relog(folder, **changes):
    """Change the same things in all three logs; a tuple has a value for each."""
    for i, seed in enumerate(SEEDS):
        own = {k: v[i] if isinstance(v, tuple) else v for k, v in changes.items()}
        (folder / f"train_seed{seed}.log").write_text(log(i, **own))


def rules(folder, verdict):
    return {f.rule: f.evidence for f in check(folder).findings if f.verdict == verdict}


def test_an_honest_folder_passes(folder):
    result = check(folder)
    assert {f.verdict for f in result.findings} == {"yes"}, result.findings
    assert result.failure == ""


def write(name, data):
    def lie(folder):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data.encode())

    return lie


def logged(**changes):
    return lambda folder: relog(folder, **changes)


def claimed(**fields):
    return lambda folder: claim(folder, **fields)


def one_run_thrice(folder):
    for i, seed in enumerate(SEEDS):
        text = log(0, train=f"{590_000 + i}ms").replace("seed:11", f"seed:{seed}")
        (folder / f"train_seed{seed}.log").write_text(text)
    claim(folder, val_bpb=BPB[0], val_loss=1.92, bytes_total=MODEL[0] + len(SCRIPT),
          seed_results=None)  # fmt: skip


def under_three_names(folder):
    relog(folder, seed=11)


def base64_in_a_log(folder):
    relog(folder, more="\n".join(f"blob:{NOISE[i : i + 24].hex()}" for i in range(0, 24000, 24)))


def bigger_script(folder):
    with open(folder / "train_gpt.py", "a") as script:
        script.write("y = 1\n")


def link_out(folder):
    (folder / "weights").symlink_to("/etc")


def pipe(folder):
    os.mkfifo(folder / "extra.log")


def twice(name, value):
    def lie(folder):
        text = json.dumps(CLAIMS)
        (folder / "submission.json").write_text(f'{{"{name}": {value}, {text[1:]}')

    return lie


def raw(before, after):
    def lie(folder):
        text = (folder / "submission.json").read_text()
        assert before in text
        (folder / "submission.json").write_text(text.replace(before, after))

    return lie


TOTAL = f'"bytes_total": {CLAIMS["bytes_total"]}'
VAL = f'"val_bpb": {CLAIMS["val_bpb"]}'
LIES = {
    # sizes
    "model over the total": ("size", logged(model=17_000_000)),
    "no code counted": ("size", logged(code=0, total=MODEL)),
    "total below its parts": ("size", logged(total=tuple(m - 1 for m in MODEL))),
    "a total above the limit": ("size", logged(model=15_999_999, total=15_999_999 + len(SCRIPT))),
    "a total in MB above the limit": ("size", logged(total="17.2 MB")),
    "a rounded total": ("size", logged(total="16.0 MB")),
    "a total in MiB": ("size", logged(model="15.9 MiB", total="15.9 MiB")),
    "a total without a number": ("size", logged(total="about 15.9 million")),
    "a script that is not the counted one": ("size", bigger_script),
    "bytes_total of no log": ("size", claimed(bytes_total=12_000_000)),
    "bytes_total as text": ("schema", claimed(bytes_total=str(CLAIMS["bytes_total"]))),
    "bytes_total as a boolean": ("schema", claimed(bytes_total=True)),
    "bytes_total as a fraction": ("schema", claimed(bytes_total=15_800_303.5)),
    "bytes_total below zero": ("schema", claimed(bytes_total=-5)),
    "bytes_code of another script": ("size", claimed(bytes_code=17)),
    # what lies beside the script
    "weights as .bin": ("size", write("payload.bin", NOISE)),
    "weights as .npz": ("size", write("a/b/weights.npz", NOISE)),
    "weights without an ending": ("size", write("weights", NOISE)),
    "weights as .md": ("size", write("NOTES.md", NOISE)),
    "weights as hex in the README": ("size", write("README.md", NOISE.hex())),
    "weights as a picture": ("size", write("plot.png", NOISE)),
    "weights as .png": ("size", write(".png", NOISE)),  # a name that is all ending
    "2 MB of picture": ("size", write("plot.png", b"\x89PNG\r\n\x1a\n" + NOISE * 50)),
    "weights as a log": ("size", write("other.log", NOISE)),
    "weights as hex in a log": ("size", base64_in_a_log),
    "weights in many small papers": ("size", lambda f: [
        write(f"notes/{i}.md", NOISE[i : i + 1900].hex())(f) for i in range(0, 38000, 1900)]),
    "weights in a hidden file": ("size", write(".cache", NOISE)),
    "weights in a hidden folder": ("size", write(".git/objects/ab", NOISE)),
    "weights as a result": ("size", write("my_result.json", NOISE)),
    "weights in seed1/": ("size", write("seed1/weights.fairway", NOISE)),
    "code as .so": ("size", write("lib.so", b"\x7fELF" + NOISE)),
    "a second script": ("size", write("train_gpt2.py", "x = 1\n")),
    "a module": ("size", write("helpers.py", "x = 1\n")),
    "bytecode": ("size", write("__pycache__/helpers.pyc", NOISE)),
    "a tokenizer": ("size", write("tokenizer.json", "{}")),
    "a link out of the folder": ("files", link_out),
    "a pipe called x.log": ("files", pipe),
    # scores
    "a better score": ("score", claimed(val_bpb=1.13)),
    "a score rounded down": ("score", claimed(val_bpb=1.1)),
    "a whole number": ("score", claimed(val_bpb=1)),
    "the best seed": ("score", claimed(val_bpb=1.13998)),
    "a score just outside": ("score", claimed(val_bpb=round(MEAN - 6e-5, 6))),
    "a score before packing": ("score", lambda f: (
        relog(f, more="pre-quantization post-ema val_loss:1.9 val_bpb:1.1200\n"),
        claim(f, val_bpb=1.12))),
    "a score of a training step": ("score", lambda f: (
        relog(f, more="step:899/900 val_loss:1.9 val_bpb:1.1000 train_time:1ms\n"),
        claim(f, val_bpb=1.1))),
    "the digits of a rounded line": ("score", lambda f: (
        relog(f, more=tuple(f"final_sliding val_bpb:{b:.4f}\n" for b in BPB)),
        claim(f, val_bpb=round(MEAN - 8e-5, 6)))),
    "logs with one digit": ("score", lambda f: (relog(f, bpb="1.1"), claim(f, val_bpb=1.06))),
    "a better val_loss": ("loss", claimed(val_loss=1.5)),
    "NaN": ("schema", raw(VAL, '"val_bpb": NaN')),
    "infinity": ("schema", raw(VAL, '"val_bpb": -Infinity')),
    "1e999": ("schema", raw(VAL, '"val_bpb": 1e999')),
    "below zero": ("schema", claimed(val_bpb=-1.14)),
    "zero": ("schema", claimed(val_bpb=0)),
    "text for a number": ("schema", claimed(val_bpb=str(CLAIMS["val_bpb"]))),
    "a boolean for a number": ("schema", claimed(val_bpb=True)),
    "null": ("schema", raw(VAL, '"val_bpb": null')),
    "a list": ("schema", raw(VAL, f'"val_bpb": [{MEAN}]')),
    "NaN deep inside": ("schema", claimed(seed_results={"11": {"val_bpb": float("nan")}})),
    "two values for one name": ("schema", twice("val_bpb", 1.02)),
    "two totals": ("schema", twice("bytes_total", 9)),
    "NaN in the logs": ("numbers", logged(bpb="nan")),
    "a negative score in the logs": ("numbers", logged(bpb="-1.14")),
    "infinity in the logs": ("numbers", logged(bpb="inf")),
    "a negative time": ("numbers", logged(train="-590000ms")),
    "seed_results of another value": ("seed_results",
        claimed(seed_results={"11": {"val_bpb": 1.0}})),
    "seed_results of another size": ("seed_results",
        claimed(seed_results={"11": {"artifact_bytes": 12}})),
    "seed_results without end": ("seed_results",
        claimed(seed_results=CLAIMS["seed_results"] | {"0" * i: {} for i in range(1, 200)})),
    "seed_results of no log": ("seed_results", claimed(seed_results={"7": {"val_bpb": 1.14}})),
    # seeds
    "one seed under three names": ("seeds", under_three_names),
    "one run under three seeds": ("seeds", one_run_thrice),
    "names that contradict": ("seeds", logged(seed=(22, 33, 11))),
    "two logs": ("seeds", lambda f: (f / "train_seed33.log").unlink()),
    "a log without a seed": ("seeds", logged(seed=("x", 22, 33))),
    "seeds that did not run": ("seeds", claimed(seeds=[1, 2, 3])),
    "seeds twice": ("seeds", claimed(seeds=[11, 22, 33, 11])),
    # times
    "hours in seconds": ("time", logged(train="25200.0s")),
    "hours": ("time", logged(train="7h")),
    "hours in words": ("time", logged(train="7 hours")),
    "minutes": ("time", logged(train="420 min")),
    "hours and minutes": ("time", logged(train="1h 30min")),
    "a clock": ("time", logged(train="7:00:00")),
    "separators": ("time", logged(train="25,200,000ms")),
    "underscores": ("time", logged(train="25_200_000ms")),
    "an exponent": ("time", logged(train="2.52e7ms")),
    "the unit in the name": ("time", logged(more="train_time_s:25200\n")),
    "training_time": ("time", logged(more="training_time: 25200 seconds\n")),
    "a time without a unit": ("units", logged(train="25200")),
    "a time of an unknown unit": ("units", logged(train="7 fortnights")),
    "a time of unclear form": ("units", logged(train="25.200.000ms")),
    "evaluated for hours": ("time", logged(eval="7200.0s")),
    "evaluated for hours, in fractions of ms": ("time", logged(eval="7200000.5ms")),
    "evaluated for hours, in total": ("time", logged(more="total_eval_time:7200.1s\n")),
    # the text
    "a thousand tokens": ("text", logged(tokens="1000")),
    "half of the text": ("text", logged(tokens="31010816")),
    "the text but for one part": ("text", logged(tokens="61997056")),
    "another tokenizer's count": ("text", logged(tokens="40540160")),
    "more than the text": ("text", logged(tokens="63779840")),
    "tokens in words": ("text", logged(tokens="62M")),
    "separators in a subset": ("text", logged(tokens="1,000,000")),
    "different texts": ("text", logged(tokens=("62021632", "1000", "62021632"))),
    "a subset that is told later": ("text", logged(more="eval_tokens: 100000\n")),
    "different hashes": ("text", logged(more=tuple(f"val_sha256:{c * 64}\n" for c in "abc"))),
    "another hash in submission.json": ("text", lambda f: (
        relog(f, more=f"val_sha256:{'a' * 64}\n"), claim(f, text_sha256="b" * 64))),
    # files
    "no README": ("files", lambda f: (f / "README.md").unlink()),
    "no script": ("files", lambda f: (f / "train_gpt.py").unlink()),
    "a script under another name": ("script",
        lambda f: (f / "train_gpt.py").rename(f / "train_gpt_new.py")),
    "a script that does not compile": ("script", write("train_gpt.py", "def x(:\n")),
    "a script of brackets": ("script", write("train_gpt.py", "(" * 100_000)),
    "the log of another script": ("source", lambda f: [
        (f / f"train_seed{s}.log").write_text("# x\nimport torch\nprint(7)\n" + log(i))
        for i, s in enumerate(SEEDS)]),
    "a date that is none": ("schema", claimed(date="2026-13-45")),
    "a date in words": ("schema", claimed(date="March")),
    "no author": ("schema", claimed(author=None)),
    "deep JSON": ("schema", lambda f: (f / "submission.json").write_text("[" * 200_000)),
    "a huge whole number": ("schema", claimed(val_bpb=int("9" * 400))),
    "a list for an object": ("schema", lambda f: (f / "submission.json").write_text("[]")),
    "submission.json is a folder": ("schema", lambda f: (
        (f / "submission.json").unlink(), (f / "submission.json").mkdir())),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_no_lie_passes(folder, name):
    """Each lie gets a "no", or an "unknown" that is not enough, by a rule on its topic."""
    topic, lie = LIES[name]
    lie(folder)
    result = check(folder)
    assert result.failure
    topics = {f.topic for f in result.findings if f.verdict != "yes"}
    assert topic in topics, [f for f in result.findings if f.verdict != "yes"]


def encoded(encoding, mark=b""):
    def change(folder):
        for seed in SEEDS:
            file = folder / f"train_seed{seed}.log"
            file.write_bytes(mark + file.read_text().encode(encoding))

    return change


def in_logs(folder):
    (folder / "logs").mkdir()
    for seed in SEEDS:
        (folder / f"train_seed{seed}.log").rename(folder / "logs" / f"{seed}.txt")


def line_ends(end):
    def change(folder):
        for seed in SEEDS:
            file = folder / f"train_seed{seed}.log"
            file.write_bytes(file.read_text().replace("\n", end).encode())

    return change


def goes_on(folder):
    with open(folder / "train_seed22.log", "a") as file:
        file.write("final_ttt val_loss:2.5 val_bpb:1.3300 eval_time:1000ms\n")


def claims_bytes(folder):
    file = folder / "submission.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


HONEST = {
    "logs in logs/": in_logs,
    "UTF-16 with a mark": encoded("utf-16"),
    "UTF-16 without a mark": encoded("utf-16-le"),
    "UTF-16, the other way round": encoded("utf-16-be", b"\xfe\xff"),
    "UTF-8 with a mark": encoded("utf-8-sig"),
    "a mark in submission.json": claims_bytes,
    "CRLF": line_ends("\r\n"),
    "CR": line_ends("\r"),
    "NEL": line_ends("\x85"),
    "one log goes on": goes_on,
    "a copy of a log": lambda f: (f / "train.log").write_text(log(1)),
    "seconds": logged(train="590.123s", eval="401 s"),
    "minutes": logged(train="9.8m"),
    "separators": logged(tokens="62,021,632", model=tuple(f"{m:,}" for m in MODEL)),
    "the source in the logs": lambda f: [
        (f / f"train_seed{s}.log").write_text("# x\n" + SCRIPT + log(i))
        for i, s in enumerate(SEEDS)],
    "times before every line": lambda f: [
        (f / f"train_seed{s}.log").write_text(
            "".join(f"{1776143349 + j}.278 {line}\n" for j, line in enumerate(log(i).splitlines())))
        for i, s in enumerate(SEEDS)],
    "a folder called x.log": lambda f: (f / "tensorboard.log").mkdir(),
    "a link to nothing": lambda f: (f / "old.log").symlink_to("nowhere"),
    "a link that goes round": lambda f: (f / "old.log").symlink_to("old.log"),
    "an empty module": write("__init__.py", ""),
    "a licence and notes": lambda f: [
        write(n, "Words of a licence.\n")(f) for n in ("LICENSE", "NOTES.md", "docs/more.md")],
    "requirements and setup": lambda f: [
        write("requirements.txt", "torch\n")(f), write("setup.sh", "pip install torch\n")(f)],
    "a picture": write("plot.png", b"\x89PNG\r\n\x1a\n" + NOISE),
    "the packed model": write("final_model.int6.ptz", bytes(MODEL[0])),
    "a score with four digits": claimed(val_bpb=round(MEAN, 4)),
    "a longer sequence": logged(more="eval_seq_len: 32768\n", tokens="61997056"),
    "a tokenizer with 8,192 tokens": lambda f: [
        (f / f"train_seed{s}.log").write_text(
            log(i, tokens="40540160").replace("sp1024", "sp8192")) for i, s in enumerate(SEEDS)],
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_folders_pass(folder, name):
    HONEST[name](folder)
    result = check(folder)
    assert result.failure == "", [f for f in result.findings if f.verdict != "yes"]


def test_what_is_unknown_is_told(folder):
    """Silence about the score, sizes, seeds or the text is not enough; about times it is."""
    for seed in SEEDS:
        file = folder / f"train_seed{seed}.log"
        lines = file.read_text().splitlines()
        file.write_text("\n".join(line for line in lines if "val_loader" not in line))
    result = check(folder)
    assert not rules(folder, "no")
    assert "unknown, and must be known: text: " in result.failure
    relog(folder, train="", eval="")
    assert check(folder).failure == ""
    assert {rule.partition(":")[0] for rule in rules(folder, "unknown")} == {"time"}


def test_a_choice_among_reruns_is_not_a_yes(folder):
    """With two logs of one seed, a mean that leaves one out is a choice."""
    (folder / "train_seed33_again.log").write_text(log(2, bpb="1.170000", loss="1.98"))
    assert "more logs" in rules(folder, "unknown")["score: val_bpb = the logs' mean"]
    assert "score" in check(folder).failure


def test_a_sparse_log_is_not_read(folder):
    with open(folder / "huge.log", "wb") as file:
        file.truncate(10 << 30)
    began = time.process_time()
    assert "huge.log: it has 10,737,418,240 bytes" in str(rules(folder, "no"))
    assert time.process_time() - began < 5


def test_many_sparse_logs_are_not_read(folder):
    for i in range(100):
        with open(folder / f"x{i}.log", "wb") as file:
            file.truncate(16 << 20)
    began = time.process_time()
    assert "too many bytes" in str(rules(folder, "no"))
    assert time.process_time() - began < 20


def test_names_of_files_are_printed_safely(folder):
    """Control characters and broken Unicode in names and logs do not reach the terminal."""
    os.close(os.open(os.fsencode(folder) + b"/\x1b[31m\xff\n.bin", os.O_CREAT | os.O_WRONLY))
    (folder / "a\x1b[2J.py").write_text("x = 1\n")
    relog(folder, train="1\x1b5 ms")
    claim(folder, val_bpb="\x1b[31m\ud800")
    said = "".join(f.evidence for f in check(folder).findings)
    assert said.isprintable()
    said.encode()


PIECES = [
    "train_time:", "train_time: 9", "val_bpb:", "val_bpb:1.2 ", "seed:", "seed=1 ", "seed:1 ",
    "Serialized model", "Serialized model x: 1 bytes ", "Code size", "Total submission size:",
    "val_loader", "val_loader: tokens:1 ", "val_tokens:", "eval_time:1ms ", "time:1 val_bpb:1 ",
    " ", "\t", "9", "9,", "9.", "9_", "a", "val_loss:9", "fineweb_1", "sha256:", "#", "f'", "\r",
    "train_time:1h 3m 4s 5", "[[", "\0", "é", "12/", "eval_time:1:59:59",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_reading_is_linear(piece):
    """A line of 1 MB without an end, made to let patterns try again, takes seconds at most.

    A pattern that is quadratic takes minutes on it; the bound leaves room for a slow machine.
    """
    text = (piece * ((1 << 20) // len(piece) + 1))[: 1 << 20]
    began = time.process_time()
    logs.parse(logs.decode_text(text.encode()), "x.log", SCRIPT)
    assert time.process_time() - began < 6


@settings(max_examples=200)
@given(st.binary(max_size=400), st.sampled_from(["", "val_bpb:", "train_time:", "seed:"]))
@example(b"1e-" + b"9" * 380, "val_bpb:")
@example(b"9" * 390, "seed:")
@example(b"9" * 390 + b":59:59", "train_time:")
def test_any_bytes_are_a_log(data, key):
    """Reading ends without an exception, and says only finite numbers that are not negative."""
    log = logs.parse(key + logs.decode_text(data), "x.log", SCRIPT)
    for readings in (log.train, log.model, log.tokens):
        assert all(0 <= reading.value < float("inf") for reading in readings.values)
    assert all(0 < score.bpb.value < float("inf") for score in log.scores)


UNITS = {"ms": 0.001, "s": 1, " seconds": 1, "m": 60, " min": 60, "h": 3600, " hours": 3600}


@given(st.integers(1, 10**7), st.sampled_from(list(UNITS)), st.booleans())
def test_times_are_read_with_their_units(value, unit, separators):
    printed = f"{value:,}" if separators else str(value)
    log = logs.parse(f"step:1 train_time:{printed}{unit} step_avg:1ms\n", "x.log", "")
    assert log.train.largest == pytest.approx(value * UNITS[unit])
