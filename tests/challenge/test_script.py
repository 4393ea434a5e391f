"""The single script: what is in it, and that it works where nothing else can be seen."""

import ast
import subprocess
import sys

import pytest

from challenge_models import train_challenge_model
from fairway.challenge import script
from fairway.config.toml import dumps, load, loads
from fairway.data.challenge_tokenizer import load_challenge
from fairway.data.shards import write_shard
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import ScoreResult, TrainResult, Verdict
from fairway.pipeline.runner import run_stages

SETS = ["train.steps=4", "data.train_bytes=15000", "data.val_fraction=0.0003"]  # 94 bytes of text
SMALL = [word for value in [*SETS, "data.vocab_size=300"] for word in ("--set", value)]


@pytest.fixture(scope="module")
def source():
    return script.bundle(load("tiny"))


@pytest.mark.parametrize(("name", "most"), [("pr264", 60_000), ("frontier", 70_000)])
def test_scripts_are_small(name, most):
    assert len(script.bundle(load(name))) < most


def test_the_script_is_one_valid_source(source, tmp_path):
    assert not {b"\0", b"\r"} & {source[i : i + 1] for i in range(len(source))}
    ast.parse(source)
    assert source == script.bundle(load("tiny"))


@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 3, b"\\0'\n\r\0001\\'", b"'''''''", b"\0008\0"]
)
def test_any_bytes_survive_in_the_literal(data):
    literal = b"# coding: latin-1\nx='''" + script._escaped(data) + b"'''.encode('latin-1')"
    names = {}
    exec(compile(literal, "x", "exec"), names)
    assert names["x"] == data


def test_only_what_the_recipe_uses():
    paths = dict(script._sources(load("pr264")))
    assert "fairway/challenge/entry.py" in paths
    assert not any("matplotlib" in source for source in paths.values())
    assert "not in this bundle" in paths["fairway/data/byte_tokenizer.py"]
    assert "fairway/data/corpus.py" not in paths
    assert "not in this bundle" not in paths["fairway/data/shards.py"]
    assert "fairway/cli/main.py" not in paths


def test_the_script_trains_scores_and_proves_alone(source, tmp_path):
    """Two ranks of torchrun share the training, and the first does the rest."""
    (tmp_path / "train_gpt.py").write_bytes(source)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train_gpt.py"]
    words += ["--out", "run", "--seed", "7", *SMALL]
    done = script.run_apart(words, tmp_path, timeout_s=800)
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "run")
    assert run.require(Verdict).verified
    trained = run.require(TrainResult)
    assert (trained.seed, trained.world_size) == (7, 2)
    assert f"Code size: {len(source)} bytes" in done.stdout
    assert done.stdout == (run.path / "train.log").read_text("utf-8")
    assert f"val_bpb:{run.require(Verdict).bpb:.8f}" in done.stdout


def test_a_script_for_shards_makes_what_the_package_makes(tmp_path):
    words = [f"{a}{b}" for a in "bcdfghlmnprst" for b in ("an", "ori", "ets", "ul")]
    documents = [" ".join(words[i % 7 :: 1 + i % 11] * 4).encode() for i in range(60)]
    model = train_challenge_model(
        tmp_path / "small.model", b"\n".join(documents).decode(), hard_vocab_limit=False
    )
    tokenizer = load_challenge(model)
    for split, part in (("val", documents[:9]), ("train", documents[9:])):
        write_shard(tmp_path / f"x_{split}_0.bin", tokenizer.encode_documents(part))
    shape = "num_layers=2 dim=32 num_heads=2 num_kv_heads=1 window=64 bigram_rows=64 bigram_dim=8"
    sets = [f"model.{value}" for value in shape.split()]
    sets += [f"data.path={tmp_path}", f"data.tokenizer={model}"]
    sets += [f"data.vocab_size={tokenizer.vocab_size}", "score.stride=16"]
    sets += ["train.seconds=0", "train.steps=3", "train.batch_tokens=256", "train.compile=false"]
    recipe = load("pr264", sets)
    (tmp_path / "train_gpt.py").write_bytes(script.bundle(load("pr264")))
    words = ["train_gpt.py", *(word for value in sets for word in ("--set", value))]
    done = script.run_apart(words, tmp_path, timeout_s=800)
    assert done.returncode == 0, done.stderr
    alone, here = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "here")
    run_stages(recipe, here)
    assert alone.artifact.read_bytes() == here.artifact.read_bytes()
    assert alone.proof_file.read_bytes() == here.proof_file.read_bytes()
    assert alone.require(ScoreResult).bpb == here.require(ScoreResult).bpb
    assert alone.require(Verdict).verified


def test_a_script_that_reads_the_source_tree_is_stopped(tmp_path):
    file = tmp_path / "peek.py"
    file.write_text(
        f"import subprocess, sys\nsys.path.insert(0, {str(script._ROOT.parent)!r})\n"
        "if sys.argv[1] == 'here': import fairway.errors\n"
        "else: sys.exit(subprocess.call([sys.executable, __file__, 'here']))\n"
    )
    for where in ("here", "child"):
        done = script.run_apart([str(file), where], tmp_path)
        assert done.returncode != 0
        assert "the bundle opened" in done.stderr
    plain = subprocess.run([sys.executable, str(file), "here"], capture_output=True)
    assert plain.returncode == 0


def test_the_recipe_in_the_script_is_the_recipe():
    for name in ("tiny", "pr264"):
        recipe = load(name)
        assert loads(dumps(recipe, defaults=False)) == recipe


def test_requirements_are_what_the_script_imports():
    names = {line.partition("==")[0] for line in script.requirements(load("tiny"))}
    assert {"torch", "numpy", "numba", "zstandard", "pydantic"} <= names
    assert not {"brotli", "scipy", "matplotlib", "typer", "python_minifier", "fairway"} & names
