"""Shared by all tests: one finished run of the recipe `tiny`."""

import fcntl
import os
import shutil
import subprocess
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: workers that share two cores wait in circles

import pytest
import torch
from hypothesis import settings

import processes
from fairway import console
from fairway.cli import main
from fairway.config.schema import NO_MEMORY, Memory, Model, Pack
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.model.gpt import build
from fairway.pipeline import verify
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.pack import pack_weights
from short import WORDS

settings.register_profile("fairway", deadline=None)  # machines are shared: time shows nothing
settings.load_profile("fairway")


# With two workers, the first half of the tests goes to one and the second half to the other. Each
# half begins with its longest files, so that both workers end together. The first makes the run of
# `finished_tiny` and compiles its kernels for both: the second begins with what needs neither.
FIRST = ("test_meaning", "test_loop", "challenge/test_script", "test_submission", "test_planted")
SECOND = ("test_attention_backends", "test_levels", "test_bench", "test_docs", "test_sweep")


@pytest.hookimpl(trylast=True)  # after -m has taken tests out
def pytest_collection_modifyitems(items):
    def of(files):
        return [item for item in items if any(f"{file}.py" in item.nodeid for file in files)]

    first, second = of(FIRST), of(SECOND)
    rest = [item for item in items if item not in {*first, *second}]
    middle = max(len(items) // 2 - len(first), 0)
    items[:] = [*first, *rest[:middle], *second, *rest[middle:]]


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory):
    """Let verdicts be remembered in a directory of the tests, shared by all their processes."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    (root / "state").mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(root / "state"))
        yield root / "state"


@pytest.fixture(autouse=True)
def forked_decoders(request, monkeypatch):
    """Let a proof be decoded by a fork of a template, which has imported everything.

    A test that asks for `fresh_decoders` has a new interpreter for each, as users do.
    """
    if "fresh_decoders" not in request.fixturenames:
        monkeypatch.setattr(verify, "subprocess", processes.Modules)


@pytest.fixture
def fresh_decoders():
    """Let a proof be decoded by a new interpreter, as users do."""


@pytest.fixture(scope="session")
def finished_tiny(tmp_path_factory, state_home):
    """The folder of one `fairway run tiny`, made once for all test processes. Do not change it.

    Its recipe is that of `short.load_short`.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    run = root / "runs" / "tiny"
    with open(root / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run / "report.html").exists():
            command = [sys.executable, "-m", "fairway", "run", "tiny", "--out", str(run)]
            subprocess.run([*command, *WORDS], check=True)
    return run


@pytest.fixture
def tiny(finished_tiny, tmp_path):
    """A copy of the finished run, with its data beside it, to change at will."""
    shutil.copytree(finished_tiny.parent, tmp_path / "runs")
    return RunDirectory(tmp_path / "runs" / "tiny")


@pytest.fixture(scope="session")
def lively_model():
    """A small untrained network with 300 tokens, BOS 0, whose logits depend on all it can see.

    Do not change it.
    """
    shape = Model(
        num_layers=2, dim=32, num_heads=2, num_kv_heads=1, window=32, bigram_rows=64, bigram_dim=16
    )
    model = build(shape, vocab_size=300, bos_id=0, seed=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    """300 tokens, BOS 0."""
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "after", "some", "bird"]
    text = " ".join(words[i * i % 12] + words[i * 7 % 11] for i in range(2000))
    return train_tokenizer([text.encode()], 300)


@pytest.fixture(scope="session")
def artifact_file(lively_model, tokenizer, tmp_path_factory):
    """An artifact of a small network. Do not change it."""
    return packed(lively_model, tokenizer, tmp_path_factory.mktemp("artifact"))


MEMORY = Memory(ngram=3, neural_cache=32)


@pytest.fixture(scope="session")
def memory_file(lively_model, tokenizer, tmp_path_factory):
    """Like artifact_file, with an n-gram memory and a neural cache."""
    return packed(lively_model, tokenizer, tmp_path_factory.mktemp("memory"), MEMORY)


def packed(model, tokenizer, folder, memory=NO_MEMORY):
    weights = {name: t.numpy() for name, t in model.state_dict().items()}
    recipe = Pack(quantizer="uniform", step=0.1)
    file = folder / "model.fairway"
    file.write_bytes(pack_weights(model.shape, tokenizer, weights, {}, recipe, memory).data)
    return file


@pytest.fixture
def fairway(capsys, monkeypatch):
    """Give a command in this process; returns (exit code, stdout, stderr on one line)."""

    def give(*arguments):
        monkeypatch.setattr(console._console, "quiet", False)
        monkeypatch.setattr(sys, "argv", ["fairway", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        shown = capsys.readouterr()
        return ended.value.code, shown.out, " ".join(shown.err.split())

    return give


@pytest.fixture(scope="module")
def chromium():
    """Return a browser for tests that are marked slow."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ["chromium", "chromium-browser"])), None)
    assert found, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
