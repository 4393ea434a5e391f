"""Shared by all tests: one finished run of the recipe `tiny`."""

import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from fairway.course import Run


@pytest.fixture(scope="session")
def finished_tiny(tmp_path_factory):
    """The folder of one `fairway play tiny`, made once for all test processes. Do not change it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    run = root / "runs" / "tiny"
    with open(root / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run / "report.html").exists():
            command = [sys.executable, "-m", "fairway", "play", "tiny", "--out", str(run)]
            subprocess.run(command, check=True)
    return run


@pytest.fixture
def tiny(finished_tiny, tmp_path):
    """A copy of the finished run, with its data beside it, to change at will."""
    shutil.copytree(finished_tiny.parent, tmp_path / "runs")
    return Run(tmp_path / "runs" / "tiny")
