"""The package as people install it, away from the source tree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fairway as package

ROOT = Path(__file__).parents[1]
SHORT = ["train.steps=20", "data.train_bytes=300_000", "data.val_fraction=0.002", "model.dim=32",
         "model.window=64", "train.batch_tokens=1024", "train.calibration_tokens=4096"]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the source: the build leaves its own files beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run([sys.executable, "-m", *words], check=True)
    (built,) = folder.glob("fairway-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_a_clean_environment(wheel, tmp_path):
    """Dependencies are those of this environment, so nothing is downloaded."""
    home, bin_dir = tmp_path / "clean", tmp_path / "clean" / "bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", bin_dir / "python"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    ours = [p for p in sys.path if p.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(ours))
    assert (site / "fairway/py.typed").is_file()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*words):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done

    code = "import fairway, importlib.metadata as m; print(fairway.__file__, m.version('fairway'))"
    file, version = run(bin_dir / "python", "-P", "-c", code).stdout.split()
    assert file.startswith(str(site))
    assert version == package.__version__
    assert package.__version__ in run(bin_dir / "fairway", "--version").stdout
    said = run(bin_dir / "fairway", "demo", *[w for s in SHORT for w in ("--set", s)]).stderr
    assert "verified" in said
    assert b"<!doctype html>" in (tmp_path / "runs/demo/proof.html").read_bytes().lower()[:100]
    files = tmp_path / "runs/demo/model.fairway", tmp_path / "runs/demo/proof/val.fwp"
    run(bin_dir / "fairway", "verify", *files, "--with", "node")  # its decoder is in the wheel


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fairway.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", package.__version__)
    assert "version:" not in (ROOT / "CITATION.cff").read_text("utf-8").replace("cff-version:", "")


def test_every_extra_is_of_use():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    assert {"gpu", "hf", "docs", "dev"} <= set(extras)
    assert "fairway[hf]" in extras["dev"]  # the tests of upload and download need it


@pytest.mark.parametrize("words", [("download", "fineweb"), ("push", "RUN", "me/model")])
def test_a_command_that_lacks_an_extra_says_which(words, fairway, tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    given = [{"RUN": tiny.path}.get(word, word) for word in words]
    code, _, err = fairway(*given)
    assert code == 2
    assert "needs huggingface_hub: pip install 'fairway[hf]'" in err
