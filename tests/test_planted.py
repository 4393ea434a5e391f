"""A stranger's folder is looked at from inside, and nothing that lies in it is run or read.

The folder holds a bait for every library of ours, and for Python: modules with the name of each
importable thing, settings, caches of pickles, programs, libraries. Code in a bait leaves a mark;
the kernel (inotify) tells which files were opened, by whatever code.
"""

import ctypes
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from numba.core.caching import CacheImpl
from numba.core.registry import CPUDispatcher

import fairway.audit.overlap  # with the next four, all that has kernels
import fairway.coding.match_model
import fairway.data.corpus
import fairway.exact.kernels
import fairway.formats.context_mixing
from fairway import startup
from fairway.challenge import script
from fairway.config.toml import load

SOURCES = Path(fairway.__file__).parents[1]
PYTHON = [sys.executable, "-P"]
ASKED_FOR = {"model.fairway", "letter.txt", "letter.txt.fwz", "val.fwp", "metrics.jsonl", ".lock"}
MADE_BY_RUNS = {".json", ".toml", ".tmp", ".html"}


class Bait:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"echo pickle >> {self.mark}",)


def kernels():
    """Every kernel of the package that is cached."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("fairway."):
            found = [k for k in vars(module).values() if isinstance(k, CPUDispatcher)]
            yield from (k for k in found if k.stats.cache_path)


def plant_pickles(cache, mark):
    for kernel in kernels():
        file = kernel.py_func.__code__.co_filename
        folder = cache / CacheImpl._locator_classes[0].get_suitable_cache_subpath(file)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / kernel._cache._cache_file._index_name).write_bytes(pickle.dumps(Bait(mark)))


def plant(folder, mark):
    """Put a bait for everything that may be taken from the current folder."""
    run = f"open({str(mark)!r}, 'a').write(__name__ + '\\n')\n"
    (folder / ".numba_config.yaml").write_text("cache_dir: .cache\nboundscheck: 1\n")
    for cache in (".cache", "~/.cache/numba", "__pycache__"):
        plant_pickles(folder / cache, mark)
    modules = {*packages_distributions(), *sys.stdlib_module_names, "fairway", "triton", "yaml"}
    modules |= {"sitecustomize", "usercustomize", "tensorflow", "notf", "agg", "cuda"}
    site = folder / f"~/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    site.mkdir(parents=True)
    for name in modules - {"model", "__main__"}:
        if name.isidentifier():
            (folder / f"{name}.py").write_text(run)
    (site / "usercustomize.py").write_text(run)
    (site / "bait.pth").write_text(f"import os; os.system('echo pth >> {mark}')\n")
    metadata = folder / "bait-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: bait\nVersion: 1.0\n")
    groups = ("pydantic", "torch.backends", "networkx.backends")
    points = "".join(f"[{group}]\nagg = agg\n" for group in (*groups, "fsspec.specs"))
    (metadata / "entry_points.txt").write_text(points)
    for name in (
        ".env", ".netrc", "pyproject.toml", "setup.cfg", "pydistutils.cfg", ".numpy-site.cfg",
        "site.cfg", "pyvenv.cfg", "python311._pth", "openssl.cnf", "fonts.conf", ".gitconfig",
        "specs", "libtbb.so.12", "libsvml.so", "libgomp.so.1", "libcuda.so.1", "libomp.so",
        "locale/en/LC_MESSAGES/messages.mo", "~/.netrc", "~/.cache/huggingface/token", "token",
        ".cache/huggingface/token", "~/.config/fsspec/a.json", ".tensorboardrc", "logging.conf",
        "triton/config.json", "~/.triton/cache/a.json", "torchinductor_root/fxgraph/a",
        "C", "C.UTF-8/LC_MESSAGES/SYS_LC_MESSAGES",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("bait")
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (folder / ".git/config").write_text(f"[core]\nfsmonitor = echo git >> {mark}; false\n")
    for name in ("git", "gcc", "g++", "cc", "ld", "ldconfig", "fc-list", "nvidia-smi", "uname"):
        (folder / name).write_text(f"#!/bin/sh\necho program {name} >> {mark}\n")
        (folder / name).chmod(0o755)


@contextmanager
def opened(folder):
    """Yield a set that fills with the files below `folder` that any process opens."""
    system = ctypes.CDLL(None, use_errno=True)
    handle = system.inotify_init1(os.O_NONBLOCK)
    watched = {}
    for place, _, _ in os.walk(folder):
        watched[system.inotify_add_watch(handle, os.fsencode(place), 0x20)] = place  # IN_OPEN
    assert -1 not in watched
    names = set()
    try:
        yield names
        while True:
            try:
                data = os.read(handle, 1 << 20)
            except BlockingIOError:
                break
            while data:
                place, mask, _, size = struct.unpack_from("iIII", data)
                name = data[16 : 16 + size].rstrip(b"\0").decode()
                assert not mask & 0x4000  # the queue has not run over
                if not mask & 0x40000000:  # a folder
                    names.add(os.path.relpath(os.path.join(watched[place], name), folder))
                data = data[16 + size :]
    finally:
        os.close(handle)


@pytest.fixture
def stranger(finished_tiny, tmp_path):
    """A folder to look at, full of baits, and the mark that no bait may leave."""
    folder, mark = tmp_path / "stranger", tmp_path / "mark"
    folder.mkdir()
    plant(folder, mark)
    for name in ("model.fairway", "prove.json", "score.json", "pack.json", "train.json",
                 "env.json", "recipe.toml", "metrics.jsonl", "prepare.json"):  # fmt: skip
        (folder / name).write_bytes((finished_tiny / name).read_bytes())
    (folder / "proof").mkdir()
    (folder / "proof/val.fwp").write_bytes((finished_tiny / "proof/val.fwp").read_bytes())
    (folder / "letter.txt").write_text("Dear reader, nothing here is what it seems.\n")
    return folder, mark


def environment(**more):
    """What careless users have: empty entries in paths, which stand for the current folder."""
    known = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    for name in ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        known.pop(name, None)  # this process has pinned them, too
    return known | {"PATH": f":{os.environ['PATH']}:", "PYTHONPATH": str(SOURCES)} | more


def commands(*lines):
    """A program that gives commands one after the other and says how each ended."""
    return f"""if True:
        import sys
        from fairway.cli import main as cli
        for line in {list(lines)!r}:
            sys.argv = ["fairway", *line.split()]
            try:
                cli.main()
            except SystemExit as end:
                print("ended", line.split()[0], end.code or 0)
    """


def taken(names):
    """Opened files that nobody asked for."""
    others = {name for name in names if Path(name).name not in ASKED_FOR}
    return {name for name in others if Path(name).suffix not in MADE_BY_RUNS}


def test_commands_inside_a_strangers_folder_run_and_read_nothing_of_it(stranger):
    folder, mark = stranger
    program = commands(
        "inspect model.fairway",
        "sample model.fairway --tokens 2",
        "compress -m model.fairway letter.txt",
        "decompress -t -m model.fairway letter.txt.fwz",
        "view model.fairway letter.txt",
        "page .",
        "report .",
    )
    with opened(folder) as names:
        done = subprocess.run(
            [*PYTHON, "-c", program],
            cwd=folder, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
    ends = ["ended inspect 0", "ended sample 0", "ended compress 0", "ended decompress 0"]
    said = [line for line in done.stdout.splitlines() if line.startswith("ended ")]
    assert said[:4] == ends, done.stderr
    for command in ("view", "page", "report"):
        assert f"ended {command} 0" in done.stdout, done.stderr
    assert not mark.exists(), mark.read_text()
    assert not taken(names)
    assert {"model.fairway", "letter.txt"} <= names  # so it does see what is opened


def test_nor_do_the_processes_that_a_command_starts(stranger):
    folder, mark = stranger
    with opened(folder) as names:
        done = subprocess.run(
            [*PYTHON, "-c", commands("verify .", "submit --check .")],
            cwd=folder, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
    assert "ended verify 0" in done.stdout, done.stderr
    assert "ended submit 1" in done.stdout, done.stderr  # it is no submission
    assert not mark.exists(), mark.read_text()
    assert "proof/val.fwp" in names


def test_the_python_interface_takes_no_settings_or_caches_from_there(stranger):
    folder, mark = stranger
    code = "import fairway; print(len(fairway.load('model.fairway').compress(b'a letter')) > 0)"
    with opened(folder) as names:
        done = subprocess.run(
            [*PYTHON, "-c", code],
            cwd=folder, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
    assert done.stdout == "True\n", done.stderr
    assert not mark.exists(), mark.read_text()
    assert names == {"model.fairway"}


def test_nor_does_the_single_script(stranger, tmp_path):
    folder, mark = stranger
    file = tmp_path / "train_gpt.py"
    file.write_bytes(script.bundle(load("tiny")))
    with opened(folder) as names:
        done = subprocess.run(
            [sys.executable, file, "--help"],
            cwd=folder, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not mark.exists(), mark.read_text()
    assert not names


# Each bait works where nobody protects, so the tests above can fail.


def bitten(folder, mark, *command, **more):
    """Return what the mark says after a command, and what the command opened."""
    with opened(folder) as names:
        subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True)
    said = set(mark.read_text().split()) if mark.exists() else set()
    mark.unlink(missing_ok=True)
    return said, names


def test_the_baits_are_good(stranger, tmp_path):
    folder, mark = stranger
    unprotected = """if True:
        import pathlib, sys, types
        import numba
        sys.modules["fairway.kernels"] = types.SimpleNamespace(njit=numba.njit)
        from fairway.coding import artifact
        artifact.read(pathlib.Path("model.fairway"))
    """
    said, names = bitten(folder, mark, *PYTHON, "-c", unprotected)
    assert ".numba_config.yaml" in names
    assert "pickle" in said

    said, _ = bitten(folder, mark, sys.executable, "-c", "import json")  # without -P
    assert said == {"json"}
    said, _ = bitten(folder, mark, sys.executable, "-c", "", PATH=":")
    git = "import subprocess; subprocess.run(['git', 'status'])"
    said, _ = bitten(folder, mark, *PYTHON, "-c", git)
    assert {"program", "git"} <= said

    (tmp_path / "few").mkdir()
    shutil.copy(folder / "sitecustomize.py", tmp_path / "few")
    said, _ = bitten(tmp_path / "few", mark, *PYTHON, "-c", "", PYTHONPATH=":/nowhere")
    assert said == {"sitecustomize"}


def test_no_module_or_program_comes_from_the_current_folder(tmp_path):
    """Though the user's PATH and PYTHONPATH have empty entries; nor for processes of ours."""
    (tmp_path / "planted.py").touch()
    (tmp_path / "planted").write_text("#!/bin/sh\n")
    (tmp_path / "planted").chmod(0o755)
    code = """if True:
        import importlib.util, shutil, subprocess, sys
        found = lambda: (bool(importlib.util.find_spec("planted")), bool(shutil.which("planted")))
        print(*found())
        from fairway import startup
        startup.protect()
        importlib.invalidate_caches()
        print(*found())
        print(subprocess.run([sys.executable, "-c", "import planted"]).returncode)
    """
    paths = {"PATH": f"{os.environ['PATH']}:", "PYTHONPATH": f":{SOURCES}"}
    done = subprocess.run(
        [*PYTHON, "-c", code],
        cwd=tmp_path, env=environment() | paths, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", "False", "False", "1"], done.stderr
    assert "ModuleNotFoundError" in done.stderr


def test_the_commit_is_asked_of_our_own_repository_only(tmp_path):
    """And not of one around the folder that Fairway is installed in."""
    site = tmp_path / "venv/lib/python3/site-packages"
    shutil.copytree(SOURCES / "fairway", site / "fairway", ignore=shutil.ignore_patterns("*.pyc"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a stranger's"]):
        subprocess.run([*git, *words], check=True)
    code = "from fairway.train.loop import commit; print(repr(commit()))"
    done = subprocess.run(
        [*PYTHON, "-c", code], env=environment(PYTHONPATH=str(site)), capture_output=True, text=True
    )
    assert done.stdout == "''\n", done.stderr


# Users of containers: no home, an installation that they cannot write to, other users' traps.

MAY_READ = "+dac_read_search"  # the interpreter may lie in a folder of root's
AS_12345 = [
    "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", f"--inh-caps=-all,{MAY_READ}",
    f"--ambient-caps={MAY_READ}", f"--bounding-set=-all,{MAY_READ}",
]  # fmt: skip
as_12345 = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can become another user, by setpriv",
)


@pytest.fixture
def public():
    """A folder for temporary files that everybody may write to, as /tmp is."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o1777)
        yield Path(place)


def owned(path):
    """Give a folder and all in it to the user 12345."""
    for place in (path, *path.rglob("*")):
        os.chown(place, 12345, 12345, follow_symlinks=False)


@as_12345
def test_a_user_without_home_works_in_a_strangers_folder(stranger, public):
    folder, mark = Path(shutil.copytree(stranger[0], public / "stranger")), stranger[1]
    if startup.kernel_cache():  # compiled code of this machine, which saves the test a minute
        kept = Path(startup.kernel_cache())
        shutil.copytree(kept, public / "fairway-12345" / kept.name)
        os.chmod(public / "fairway-12345", 0o700)
        owned(public / "fairway-12345")
    owned(folder)
    before = set(os.listdir(folder))
    lines = (
        "inspect model.fairway",
        "compress -m model.fairway letter.txt",
        "verify .",
        "report .",
    )
    with opened(folder) as names:
        done = subprocess.run(
            [*AS_12345, *PYTHON, "-c", commands(*lines)],
            cwd=folder, capture_output=True, text=True,
            env={"TMPDIR": str(public), "PYTHONPATH": str(SOURCES), "PATH": "/usr/bin:"},
        )  # fmt: skip
    for line in lines:
        assert f"ended {line.split()[0]} 0" in done.stdout, done.stderr
    assert "not kept" not in done.stderr
    assert not mark.exists(), mark.read_text()
    assert not taken(names)
    new = {"letter.txt.fwz", "verify.json", "report.html"}
    assert set(os.listdir(folder)) - before == new


def test_caches_are_pinned_unless_the_user_has_named_a_folder(tmp_path):
    code = """if True:
        import os
        from fairway import startup
        startup.protect()
        for name in startup._CACHES: print(os.environ[name])
    """
    own = {"HOME": str(tmp_path), "PYTHONPATH": str(SOURCES)}
    given = {"NUMBA_CACHE_DIR": "/mine", "TRITON_CACHE_DIR": "relative"}
    done = subprocess.run([*PYTHON, "-c", code], env=own | given, capture_output=True, text=True)
    cache = tmp_path / ".cache/fairway"
    rest = [str(cache / name) for name in ("inductor", "triton")]
    assert done.stdout.split() == ["/mine", *rest], done.stderr


@as_12345
@pytest.mark.parametrize("home", [None, "", "/", ".", "/nowhere"])
def test_without_a_usable_home_caches_lie_among_temporary_files(public, home):
    code = """if True:
        import grp, os, pwd
        from fairway import startup
        startup.protect()
        print(startup.kernel_cache(), os.path.expanduser("~"))
    """
    own = {"TMPDIR": str(public), "PYTHONPATH": str(SOURCES)}
    own |= {} if home is None else {"HOME": home}
    done = subprocess.run(
        [*AS_12345, *PYTHON, "-c", code], cwd=public, env=own, capture_output=True, text=True
    )
    cache, found = done.stdout.split()
    assert Path(cache).parent == public / "fairway-12345", done.stderr
    chosen = {"": "/", "/": "/", "/nowhere": "/nowhere"}  # no relative path, so left as it is
    assert found == chosen.get(home, f"{public}/fairway-12345")
    assert os.listdir(public) == ["fairway-12345"]
    assert not done.stderr


@as_12345
@pytest.mark.parametrize("trap", ["folder", "link", "file"])
def test_a_trap_at_the_name_of_the_cache_is_left_alone(public, trap):
    """Another user has made something where our cache would be."""
    name = public / "fairway-12345"
    if trap == "folder":
        name.mkdir()
        os.chmod(name, 0o777)
    elif trap == "link":
        (public / "theirs").mkdir()
        os.chmod(public / "theirs", 0o777)
        name.symlink_to(public / "theirs")
    else:
        name.touch()
    code = """if True:
        import grp, os, pwd
        from fairway import startup, userfolders
        userfolders.temporary_roots = lambda: [userfolders.Path(os.environ["TMPDIR"])]
        startup.protect()
        folder = os.path.dirname(startup.kernel_cache())
        print(folder, oct(os.stat(folder).st_mode & 0o777), os.environ["HOME"] == folder)
    """
    done = subprocess.run(
        [*AS_12345, *PYTHON, "-c", code],
        env={"TMPDIR": str(public), "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
    )  # fmt: skip
    folder, mode, is_home = done.stdout.split()
    assert folder.startswith(f"{public}/fairway-"), done.stderr
    assert folder != str(name)
    assert (mode, is_home) == ("0o700", "True")
    assert done.stderr.count("not kept") == 1
    assert not Path(folder).exists()  # it ended with the process
    assert not list(name.iterdir() if trap != "file" else [])


@as_12345
def test_where_nothing_can_be_written_compiled_code_is_kept_nowhere(public):
    code = """if True:
        import grp, os, pwd
        from fairway import startup, userfolders
        userfolders.temporary_roots = list
        startup.protect()
        from fairway.kernels import njit
        kernel = njit(cache=True)(lambda x: x + 1)
        print(kernel(1), startup.kernel_cache() == "", kernel.stats.cache_path)
    """
    done = subprocess.run(
        [*AS_12345, *PYTHON, "-c", code],
        cwd=public, env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2", "True", "None"], done.stderr
    assert not list(public.iterdir())
