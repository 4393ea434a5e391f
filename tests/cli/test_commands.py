"""The command line: exit codes, sentences, and what is skipped."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import typer

import processes
from fairway import __version__ as fairway_version
from fairway import console
from fairway.cli import ending, main
from fairway.config import toml
from fairway.config.schema import Recipe, Train
from fairway.errors import Interrupted
from fairway.pipeline.results import (
    PrepareResult,
    ProveResult,
    ScoreResult,
    TrainResult,
)
from short import WORDS

HEAVY = ("torch", "numpy", "pydantic", "rich", "matplotlib")


def test_help_answers_at_once():
    code = (
        "import sys; sys.argv = ['fairway', '--help']\n"
        "from fairway.cli.main import main\n"
        "try: main()\n"
        f"finally: assert not set({HEAVY}) & set(sys.modules)"
    )
    plain = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    seconds = []
    for _ in range(5):
        before = os.times()
        command = [sys.executable, "-c", code]
        shown = subprocess.run(command, capture_output=True, text=True, env=plain)
        after = os.times()  # CPU time: other tests run beside this one
        seconds.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        assert shown.returncode == 0, shown.stderr
        assert "verify" in shown.stdout
    assert min(seconds) < 0.3


def commands_of(group, path=()):
    """Yield the words and the object of every command."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands_of(typer.main.get_command(main.app)))


def parsed(words):
    """Return the command that the words name, after reading its options as a call would."""
    group = typer.main.get_command(main.app)
    context = group.make_context("fairway", list(words))
    while hasattr(group, "commands"):
        name, group, words = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = group.make_context(name, list(words), parent=context)
    return group


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_examples_that_parse(fairway, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("runs/demo/model.fairway", "runs/demo/proof/val.fwp", "model.fairway"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    code, out, _ = fairway(*words, "-h")
    assert code == 0
    assert fairway(*words, "--help")[1] == out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert {"--json", "--quiet", "--verbose"} <= set(re.findall(r"--\w+", out))
    examples = re.findall(r"^    fairway (.*)$", out.partition("Examples:")[2], re.M)
    assert examples
    for example in examples:
        given = shlex.split(example.partition(" <")[0])
        assert parsed(given).name == words[-1], example


def test_the_version(fairway):
    assert fairway("--version") == (0, f"fairway {fairway_version}\n", "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [("rec", {"recipes"}), ("recipes m", {"mini"}), ("run d", {"demo"}), ("audit d", {"data"}),
     ("compress --std", {"--stdout"}), ("score x --protocol r", {"rolling"})],
)  # fmt: skip
def test_a_shell_completes_commands_options_and_recipes(fairway, monkeypatch, words, offered):
    monkeypatch.setenv("_FAIRWAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"fairway {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    code, out, err = fairway()
    assert (code, set(out.split()), err) == (0, offered, "")


def test_quiet_and_verbose(fairway, tiny):
    words = ("run", tiny.recipe, "--out", tiny.path)
    _, _, usual = fairway(*words)
    code, _, quiet = fairway(*words, "-q")
    assert code == 0
    assert "report: " in usual
    assert "report: " not in quiet
    assert "verify: remembered: verified" in quiet
    assert "┃" in usual
    assert "┃" not in quiet  # the report has these tables
    tiny.invalidate(ScoreResult)
    verbose = fairway(*words, "-v")[2]
    assert "score: begins; its result depends on code=" in verbose
    assert "begins" not in usual


def test_a_run_directory_stands_for_its_artifact(fairway, tiny, tmp_path):
    (tmp_path / "letter").write_text("Dear reader")
    (tmp_path / "empty").mkdir()
    for words in (
        ("inspect", tiny.path), ("sample", tiny.path, "--tokens", 1), ("export", tiny.path),
        ("compress", "-m", tiny.path, tmp_path / "letter"),
        ("decompress", "-m", tiny.path, "-t", tmp_path / "letter.fwz"),
        ("verify", tiny.path, tiny.proof_file), ("page", tiny.path, tiny.proof_file),
        ("view", tiny.path, tmp_path / "letter", "-o", tmp_path / "view.html"),
    ):  # fmt: skip
        code, _, err = fairway(*words)
        assert code == 0, err
    assert "is no run directory" in refused(fairway, "inspect", tmp_path / "empty")
    tiny.artifact.unlink()
    sentence = refused(fairway, "sample", tiny.path)
    assert f"fairway run {tiny.recipe} --out {tiny.path} makes it" in sentence


@pytest.mark.parametrize(
    "words",
    [("recipes",), ("config", "show", "pr264"), ("models", "."), ("submit", "--check", "{folder}"),
     ("inspect", "{artifact}"), ("inspect", "{proof}"),
     ("page", "{artifact}", "{proof}", "-o", "{folder}/page.html")],
)  # fmt: skip
def test_commands_that_compute_nothing_import_no_torch(words, finished_tiny, tmp_path):
    (tmp_path / "README.md").write_text("# a submission\n")
    places = {
        "artifact": finished_tiny / "model.fairway",
        "proof": finished_tiny / "proof" / "val.fwp",
        "folder": tmp_path,
    }
    given = [word.format(**places) for word in words]
    code = (
        f"import sys; sys.argv = ['fairway', *{given!r}]\n"
        "from fairway.cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "AssertionError" not in shown.stderr
    assert shown.returncode == (1 if words[0] == "submit" else 0), shown.stderr  # its check says no


def test_recipes_and_their_configuration(fairway):
    code, out, err = fairway("recipes", "--json")
    assert code == 0
    assert {"demo", "mini", "pr264", "tiny"} <= set(json.loads(out)["recipes"])
    assert "pr264" in err
    code, out, err = fairway("config", "show", "tiny", "--set", "data.path=2024")
    assert (code, err) == (0, "")
    assert toml.loads(out) == toml.load("tiny", ["data.path=2024"])
    assert 'path = "2024"  # default: ""\n' in out
    assert "train_bytes = 200000  # default: 0\n" in out
    assert "\nseed = 1337\n" in out
    code, out, _ = fairway("config", "show", "tiny", "--json")
    assert json.loads(out)["recipe"]["name"] == "tiny"


def test_what_a_recipe_is(fairway):
    for name in toml.shipped():
        code, out, err = fairway("recipes", name, "--json")
        told, recipe = json.loads(out), toml.load(name)
        assert code == 0
        assert recipe.hardware
        assert (told["description"], told["hardware"]) == (recipe.description, recipe.hardware)
        assert "Command: fairway " in err
        assert all(f"{key} = " in err for key in told["changed"])
    assert toml.changed(Recipe(name="x", train=Train(steps=1))) == {"train.steps": (1, 0)}


@pytest.mark.parametrize(
    "words",
    [("recipes",), ("models", "{root}"), ("size", "mini"), ("size", "pr264", "--budget", "1MB"),
     ("inspect", "{run}"), ("run", "tiny", "--dry-run", "--out", "{root}/new"), ("report", "{run}"),
     ("compare", "{run}", "--against", "{run}"), ("submit", "--check", "{run}")],
)  # fmt: skip
def test_every_table_fits_80_columns_and_cuts_nothing(words, finished_tiny, monkeypatch, capsys):
    places = {"run": finished_tiny, "root": finished_tiny.parent}
    monkeypatch.setattr(sys, "argv", ["fairway", *(word.format(**places) for word in words)])
    monkeypatch.setattr(console._console, "quiet", False)
    with pytest.raises(SystemExit):
        main.main()
    table = [line for line in capsys.readouterr().err.splitlines() if line[:1] in "┏┃┡│└"]
    assert table
    assert max(map(len, table)) <= 80
    assert not any("…" in line for line in table)
    if words[0] == "inspect":
        assert "blocks.0.attn.q_gain" in " ".join(table).split()


def test_models_at_hand(fairway, tiny, monkeypatch):
    monkeypatch.setenv("FAIRWAY_MODEL", str(tiny.artifact))
    code, out, _ = fairway("models", tiny.path.parent, "--json")
    assert code == 0
    named, found = json.loads(out)["models"]
    assert named["path"] == found["path"] == str(tiny.artifact)
    assert found["size_bytes"] == tiny.artifact.stat().st_size
    assert found["verified_bpb"] == tiny.require(ProveResult).bpb


# Bad input: one sentence and exit code 2.


def refused(fairway, *arguments):
    code, out, err = fairway(*arguments)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    return err.rpartition("error: ")[2]


def test_an_unknown_device_is_a_sentence(fairway, tiny):
    for device in ("gpu", "cuda:9", "meta"):
        sentence = refused(fairway, "train", tiny.recipe, "--out", tiny.path, "--device", device)
        assert f"{device!r} is not one of 'cpu', 'cuda'" in sentence
    if not torch.cuda.is_available():
        tiny.invalidate(TrainResult)
        train = ("train", tiny.recipe, "--out", tiny.path, "--device", "cuda")
        assert "there is no CUDA device here" in refused(fairway, *train)


def test_unknown_keys_and_stages(fairway, tmp_path):
    out = tmp_path / "run"
    sentence = refused(fairway, "run", "tiny", "--out", out, "--set", "model.dims=3")
    assert "unknown key model.dims, did you mean 'dim'?" in sentence
    assert "no stage packing: choose one of" in refused(
        fairway, "run", "tiny", "--out", out, "--force", "packing"
    )
    assert not out.exists()


def test_missing_files(fairway, tmp_path):
    assert "no recipe 'nope'" in refused(fairway, "run", "nope")
    assert "is no run directory" in refused(fairway, "verify", tmp_path / "nope")
    missing = tmp_path / "nope.fairway"
    assert str(missing) in refused(fairway, "inspect", missing)
    assert str(missing) in refused(fairway, "sample", missing, "--prompt", "x")
    assert "there is nothing to report on" in refused(fairway, "report", tmp_path)
    assert "fairway models lists the artifacts at hand" in refused(fairway, "inspect", missing)
    assert "did you mean demo?" in refused(fairway, "run", "dmeo")
    for recipe, variant in (("pr264", "sp1024"), ("frontier", "sp8192")):
        for command in ("run", "prepare"):
            sentence = refused(fairway, command, recipe, "--out", tmp_path / "run")
            assert f"fairway download fineweb --variant {variant} fetches" in sentence
    assert f"no artifact in {tmp_path}: fairway demo makes one" in fairway("models", tmp_path)[2]
    source = ("--set", "data.source=files", "--set", f"data.path={tmp_path / 'nope'}")
    assert "nope" in refused(fairway, "prepare", "tiny", "--out", tmp_path / "run", *source)


def test_exact_arithmetic_of_what_learns(fairway, tiny):
    """Also where an earlier command made the run adapt."""
    for verb in ("score", "prove"):
        words = (verb, tiny.path, "--arithmetic", "exact")
        assert "learns in floating point" in refused(fairway, *words, "--adapt", "dynamic")
        recipe = tiny.recipe.read_text("utf-8")
        tiny.create(tiny.load(["adapt.method=dynamic"]))
        assert "--adapt none" in refused(fairway, *words)
        tiny.recipe.write_text(recipe, "utf-8")


def test_missing_input_of_compress(fairway, tiny, tmp_path):
    missing = tmp_path / "nope.txt"
    assert "cannot read" in refused(fairway, "compress", "-m", tiny.artifact, missing)
    assert "-o FILE" in refused(fairway, "decompress", "-m", tiny.artifact, missing)


def test_an_empty_corpus(fairway, tmp_path):
    (tmp_path / "text").mkdir()
    source = ("--set", "data.source=files", "--set", f"data.path={tmp_path / 'text'}")
    assert str(tmp_path / "text") in refused(
        fairway, "prepare", "tiny", "--out", tmp_path / "run", *source
    )


def test_a_vocabulary_larger_than_the_corpus_allows(fairway, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "train.txt").write_text("one two three " * 50)
    (folder / "val.txt").write_text("four five six " * 50)
    options = ["data.source=files", f"data.path={folder}", "data.vocab_size=5000"]
    sets = [word for option in options for word in ("--set", option)]
    sentence = refused(fairway, "prepare", "tiny", "--out", tmp_path / "run", *sets)
    assert "vocab" in sentence


def test_a_damaged_shard(fairway, tiny):
    for shard in tiny.data_folder(tiny.require(PrepareResult)).glob("*.bin"):
        shard.write_bytes(shard.read_bytes()[:1100])
    tiny.invalidate(TrainResult)
    sentence = refused(fairway, "train", "tiny", *WORDS, "--out", tiny.path)
    assert ".bin" in sentence


def test_a_truncated_artifact(fairway, tiny):
    tiny.artifact.write_bytes(tiny.artifact.read_bytes()[:-100])
    assert "model.fairway" in refused(fairway, "inspect", tiny.artifact)


def test_an_artifact_of_a_newer_version(fairway, tiny):
    data = bytearray(tiny.artifact.read_bytes())
    data[4] += 1
    tiny.artifact.write_bytes(data)
    assert "newer" in refused(fairway, "inspect", tiny.artifact)


def test_an_unwritable_folder(fairway, tmp_path):
    (tmp_path / "file").write_text("")
    sentence = refused(fairway, "prepare", "tiny", "--out", tmp_path / "file" / "run")
    assert "cannot write to" in sentence
    assert "choose another with --out" in sentence


def test_a_full_disk(tiny, tmp_path):
    """On a real file system of one page, filled, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    letter = tmp_path / "letter"
    letter.write_text("Dear reader")
    script = (
        f"mount -t tmpfs -o size=4k none {disk} && head -c 4096 /dev/zero > {disk / 'filled'} && "
        f"exec {sys.executable} -m fairway compress -m {tiny.artifact} {letter} -o {disk / 'out'}"
    )
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"]).returncode:
        pytest.skip("this machine does not allow mount namespaces")
    done = subprocess.run([*namespace, script], capture_output=True, text=True)
    if "mount:" in done.stderr:
        pytest.skip("this machine does not allow mounts in a namespace")
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "full", "x"), "the disk is full (x)"),
        (OSError(errno.EACCES, "no", "x"), "no permission (x)"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory"),
        (RuntimeError("can't allocate memory: you tried"), "out of memory"),
        (BrokenPipeError(errno.EPIPE, "gone"), "whoever read standard output has closed it"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "no such file (x): check the name"),
        (OSError(errno.EIO, "Input/output error", "x"), "input/output error (x): "),
        (OSError("without a number"), "without a number: "),
        (RuntimeError("Symlink loop from 'x'"), "its links lead in a circle (x): "),
    ],
)
def test_sentences_of_errors(capsys, error, sentence):
    assert ended(error) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {sentence}")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), KeyError("x"), RecursionError(), AssertionError()]
)
def test_a_fault_of_ours_has_its_own_code_a_traceback_and_advice(capsys, error):
    assert ended(error) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.splitlines()[-1].startswith("error: this is a fault of Fairway")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted()])
def test_ctrl_c_has_its_own_code(error):
    assert ended(error) == 130


def ended(error):
    def work():
        raise error

    console._console.quiet = False
    return ending.exit_code(work)


def test_verbose_shows_the_traceback(fairway):
    code, _, shown = fairway("run", "nope", "-v")
    assert code == 2
    assert shown.startswith("Traceback (most recent call last):")
    assert "error: no recipe 'nope'" in shown


def test_only_the_verbs_own_section_can_be_overridden(fairway, tiny):
    sentence = refused(fairway, "pack", tiny.path, "--set", "model.dim=64")
    assert "'pack' reads only ['pack', 'memory', 'run']" in sentence


def test_two_commands_on_one_folder(fairway, tiny):
    with tiny.lock():
        assert f"in use by process {os.getpid()}" in refused(fairway, "prove", tiny.path)


# Verdicts: exit code 1.


def test_over_budget(fairway, tiny):
    rtn = ("--set", "pack.quantizer=rtn")
    code, out, err = fairway("pack", tiny.path, "--budget", 9_000, *rtn, "--json")
    assert code == 1
    assert json.loads(out)["within_budget"] is False
    assert "over pack.budget_bytes" in err
    code, out, err = fairway("pack", tiny.path, "--budget", 10, *rtn, "--json")
    assert code == 2
    assert "is less than the smallest artifact of this shape takes" in err


def test_a_damaged_proof_is_not_verified(fairway, tiny):
    tiny.proof_file.write_bytes(tiny.proof_file.read_bytes()[:-10])
    code, out, err = fairway("verify", tiny.path, "--json")
    assert code == 1, err
    assert json.loads(out)["verified"] is False
    assert "the proof does not hold" in err


# The course.


def test_finished_work_is_skipped(fairway, tiny):
    before = {path: path.read_bytes() for path in tiny.path.glob("*.json")}
    code, out, err = fairway("run", "tiny", *WORDS, "--out", tiny.path, "--json")
    assert code == 0, err
    assert err.count(": cached: ") == 5
    assert "verify: remembered: verified" in err
    results = json.loads(out)
    assert list(results) == ["prepare", "train", "pack", "score", "prove", "verify"]
    assert results["verify"]["verified"] is True
    assert results["prove"]["text_bytes"] == results["prepare"]["val_bytes"]
    assert {path: path.read_bytes() for path in before} == before


def test_force_redoes_a_verb_and_what_depends_on_it(fairway, tiny):
    code, _, err = fairway("run", "tiny", *WORDS, "--out", tiny.path, "--force", "score")
    assert code == 0, err
    assert err.count(": cached: ") == 4


def test_dry_run_says_what_would_run_and_why(fairway, tiny):
    code, _, err = fairway("run", "tiny", *WORDS, "--out", tiny.path, "--dry-run")
    assert code == 0
    assert err.count("│ finished") == 6
    sets = ("--set", "pack.mlp_bits=4", "--set", "score.stride=8")
    _, _, err = fairway("run", "tiny", *WORDS, "--out", tiny.path, "--dry-run", *sets)
    assert err.count("│ finished") == 2
    assert "changed: pack" in err
    assert "after pack" in err
    _, _, err = fairway("run", "tiny", *WORDS, "--out", tiny.path, "--dry-run", "--force", "score")
    assert err.count("│ finished") == 5
    assert "would run (--force score)" in err


def test_dry_run_looks_for_the_documents(fairway, tmp_path):
    words = ("run", "tiny", "--dry-run", "--set", "data.source=files", "--set", "data.path=/nope")
    assert "there is no file or folder /nope" in refused(fairway, *words)


def test_a_name_without_its_seed_is_no_run_directory(fairway, tiny):
    tiny.path.rename(seeded := tiny.path.with_name("tiny-42"))
    sentence = refused(fairway, "score", tiny.path)
    assert f"(it has no recipe.toml): there are {seeded}" in sentence


def test_dry_run_of_a_new_run_makes_nothing(fairway, tmp_path):
    code, _, err = fairway("run", "tiny", "--out", tmp_path / "new", "--dry-run")
    assert code == 0
    assert err.count("would run") == 6
    assert list(tmp_path.iterdir()) == []


def test_score_protocols(fairway, tiny):
    scores = {}
    for protocol in ("plain", "sliding"):
        code, out, _ = fairway("score", tiny.path, "--protocol", protocol, "--json")
        assert code == 0
        scores[protocol] = json.loads(out)
        assert scores[protocol]["protocol"] == protocol
    assert scores["sliding"]["bpb"] < scores["plain"]["bpb"]


def test_compress_and_decompress_any_bytes(fairway, tiny, tmp_path):
    letter = tmp_path / "letter.txt"
    letter.write_bytes("Grüße,\r\n\t▁ 🙂\xff".encode("latin-1", "ignore") + b"\xff\x00 end")
    code, out, _ = fairway("compress", "-m", tiny.artifact, letter, "--json")
    assert code == 0
    assert json.loads(out)["input_bytes"] == letter.stat().st_size
    before = letter.read_bytes()
    letter.unlink()
    assert fairway("decompress", "-m", tiny.artifact, tmp_path / "letter.txt.fwz")[0] == 0
    assert letter.read_bytes() == before


def test_sample_and_inspect(fairway, tiny):
    options = ("--prompt", "The", "--tokens", "5")
    code, out, err = fairway("sample", tiny.artifact, *options)
    assert code == 0
    assert out.startswith("The")
    assert err == ""
    assert json.loads(fairway("sample", tiny.artifact, *options, "--json")[1])["text"] == out[:-1]
    code, out, err = fairway("inspect", tiny.artifact, "--json")
    assert code == 0
    assert sum(json.loads(out)["parts"].values()) == tiny.artifact.stat().st_size
    assert "bits per weight" in err
    assert "of the challenge's 16,000,000 bytes" in err


def test_size_says_which_shapes_fit(fairway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fairway("size", "tiny", "--budget", 20_000, "--set", "model.dim=48", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["budget_bytes"] == 20_000
    assert found["shapes"][0]["dim"] == 48
    assert "of the challenge's 16,000,000 bytes" in err
    assert "yes" in err
    assert re.search(r"\d+ of \d+ shapes fit; the largest: .*", err)
    code, _, err = fairway("size", "tiny", "--budget", 100)
    assert code == 1
    assert "no shape fits: the recipe needs about" in err
    assert "make data.vocab_size or model.dim smaller" in err
    assert "over pack.budget_bytes" in err
    assert "pack.budget_bytes" in refused(fairway, "size", "tiny", "--budget", 0)
    assert "no recipe 'nope'" in refused(fairway, "size", "nope")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_saves_and_the_same_command_goes_on(tiny):
    tiny.invalidate(TrainResult)
    tiny.metrics.unlink()
    words = ["train", "tiny", *WORDS, "--out", tiny.path, "--set", "train.steps=100000"]
    training = processes.command(*words)
    processes.until(lambda: tiny.metrics.exists() and tiny.metrics.stat().st_size, training)
    training.send_signal(signal.SIGINT)
    assert training.wait() == 130, training.stderr
    assert "the same command goes on from here" in training.stderr
    assert "Traceback" not in training.stderr
    assert tiny.checkpoint.exists()


def test_other_ranks_are_silent(fairway, tiny, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, out, err = fairway("pack", tiny.path, "--json")
    assert (code, out, err) == (0, "", "")


def test_ranks_of_torchrun_go_through_several_stages_together(tiny):
    tiny.invalidate(ScoreResult)
    first, second = processes.ranks("run", "tiny", *WORDS, "--out", tiny.path)
    assert first.wait() == 0, first.stderr
    assert second.wait() == 0, second.stderr
    assert "verify: remembered: verified" in " ".join(first.stderr.split())
    assert tiny.require(ScoreResult).bpb > 0
