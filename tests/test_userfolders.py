"""Folders of the user's own are used only where nobody else can change what stands in them."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fairway import userfolders

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of other users")


@pytest.fixture(autouse=True)
def without_variables(monkeypatch, tmp_path):
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_made_for_the_user_alone(tmp_path):
    assert userfolders.user_state_folder() == tmp_path / ".local/state/fairway"
    assert userfolders.user_cache_folder() == tmp_path / ".cache/fairway"
    assert mode(tmp_path / ".local/state/fairway") == mode(tmp_path / ".cache/fairway") == 0o700


def test_the_variables_of_the_standard_come_first_and_only_with_whole_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.chdir(tmp_path)
    assert userfolders.user_state_folder() == tmp_path / "state/fairway"
    assert userfolders.user_cache_folder() == tmp_path / ".cache/fairway"
    assert not (tmp_path / "relative").exists()


@pytest.mark.parametrize("bits", [0o020, 0o002, 0o022])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch, bits):
    monkeypatch.setattr(userfolders, "temporary_roots", list)
    folder = tmp_path / ".cache/fairway"
    folder.mkdir(parents=True)
    assert userfolders.user_cache_folder() == folder
    folder.chmod(0o700 | bits)
    assert userfolders.user_cache_folder() is None


def test_nor_one_below_a_folder_in_which_others_can_rename_it(tmp_path):
    (tmp_path / "open").mkdir()
    inner = tmp_path / "open/inner"
    inner.mkdir(mode=0o700)
    (tmp_path / "open").chmod(0o777)
    assert not userfolders.is_safe(inner)
    (tmp_path / "open").chmod(0o1777)  # sticky, as /tmp is: nobody renames what is another's
    assert userfolders.is_safe(inner)


def test_links_of_the_user_are_followed_and_the_folders_behind_them_are_checked(tmp_path):
    disk = tmp_path / "disk/cache"
    disk.mkdir(parents=True, mode=0o700)
    (tmp_path / "second").symlink_to("disk")
    (tmp_path / ".cache").symlink_to("second/cache")
    assert userfolders.user_cache_folder() == tmp_path / ".cache/fairway"
    (tmp_path / "disk").chmod(0o777)
    assert not userfolders.is_safe(tmp_path / ".cache/fairway")
    (tmp_path / "loop").symlink_to("loop")
    assert not userfolders.is_safe(tmp_path / "loop/fairway")


@as_root
def test_what_belongs_to_another_user_is_not_used(tmp_path, monkeypatch):
    folder = tmp_path / ".local/state/fairway"
    folder.mkdir(parents=True, mode=0o700)
    os.chown(folder, 12345, 12345)
    assert userfolders.user_state_folder() is None
    os.chown(folder, 0, 0)
    os.chown(folder.parent, 12345, 12345)
    assert userfolders.user_state_folder() is None

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    monkeypatch.setattr(userfolders, "temporary_roots", lambda: [temporary])
    monkeypatch.setenv("HOME", "/dev/null")
    (tmp_path / "mine").mkdir(mode=0o700)
    trap = temporary / f"fairway-{os.getuid()}"
    trap.symlink_to(tmp_path / "mine")  # the folder behind it is good, the link is another's
    os.chown(trap, 12345, 12345, follow_symlinks=False)
    assert userfolders.user_cache_folder() is None
    trap.unlink()
    assert userfolders.user_cache_folder() == trap


@as_root
def test_a_user_whom_the_system_does_not_know():
    code = """if True:
        import grp, os, pwd  # before the change: the interpreter may be another user's
        from fairway import userfolders
        os.setgroups([]); os.setgid(12345); os.setuid(12345)
        print(userfolders.home(), userfolders.user_state_folder(), userfolders.user_cache_folder())
    """
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o1777)
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            cwd=place,
            env={"TMPDIR": place},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == ["None", "None", f"{place}/fairway-12345"], done.stderr
        assert [p.name for p in Path(place).iterdir()] == ["fairway-12345"]
        assert mode(Path(place, "fairway-12345")) == 0o700
