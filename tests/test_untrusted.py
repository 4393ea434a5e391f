"""Commands that look at other people's files run none of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("fairway")
MODULES = ["fairway", "torch", "numpy", "json", "zstandard", "sitecustomize", "train_gpt"]


@pytest.fixture
def trapped(tiny, tmp_path, fairway):
    """A run, a compressed file and a submission whose folders hold modules that leave a trace."""
    text = tmp_path / "text"
    text.write_bytes(b"what a decoder reads\n")
    assert fairway("compress", "-m", tiny.artifact, text)[0] == 0
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')\n"
    for folder in (tiny.path, tmp_path):
        for module in MODULES:
            (folder / f"{module}.py").write_text(code)
    text.unlink()
    return tiny, tmp_path, trace


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (["verify", "{run}"], [0]),
        (["inspect", "{run}/model.fairway"], [0]),
        (["page", "{run}"], [0]),
        (["view", "{run}/model.fairway", "{run}/recipe.toml", "--terminal"], [0]),
        (["decompress", "-m", "{run}/model.fairway", "{folder}/text.fwz"], [0]),
        (["submit", "--check", "{run}"], [1]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
@pytest.mark.parametrize("inside", ["run", "folder"])
def test_no_module_of_theirs_is_imported(trapped, words, codes, inside):
    run, folder, trace = trapped
    (run.path / "verify.json").unlink()  # so that it is decoded again
    places = {"run": str(run.path), "folder": str(folder)}
    done = subprocess.run(
        [COMMAND, *(word.format(**places) for word in words)],
        cwd=places[inside],
        capture_output=True,
        text=True,
    )
    assert done.returncode in codes, done.stderr
    assert not trace.exists()


def test_the_trap_works(trapped):
    run, _, trace = trapped
    unsafe = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", "import train_gpt"], cwd=run.path, env=unsafe, check=True)
    assert trace.exists()
