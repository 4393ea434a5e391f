"""The package as people install it, away from the source tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_built_package_has_its_recipes_and_works_without_the_source_tree(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)  # the build leaves its own files beside them
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("fairway-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    code = """if True:
        import sys, fairway
        from fairway.cli import main
        from fairway.pipeline.second_decoder import FOLDER
        assert fairway.__file__.startswith(sys.argv.pop()), fairway.__file__
        assert (FOLDER / "verify.mjs").is_file()
        from fairway.page.build import proof_page
        assert b"<!doctype html>" in proof_page(b"model", b"proof")
        sys.argv[1:] = ["size", "tiny"]
        main.main()
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, site], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "yes" in done.stderr
