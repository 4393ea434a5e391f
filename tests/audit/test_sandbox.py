"""Foreign code in its own processes: each way to fail gets a sentence, and every wall is tried.

The probe below attacks each promise of `Isolation.rows` behind each kind of walls that this machine
can build; the others are skipped with the reason.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairway.audit import visible
from fairway.audit.sandbox import Child, Isolation, Limits, Walls
from fairway.errors import BadInput

HEAD = "import numpy as np\nimport os, socket, sys, time\n"
BACKENDS = ("bubblewrap", "namespaces", "none")
WALLS = {
    "bubblewrap": Walls(("bubblewrap",)),
    "namespaces": Walls(("namespaces",)),
    "namespaces alone": Walls(("namespaces",), landlock=False, seccomp=False),
    "Landlock and seccomp": Walls(("none",)),
    "Landlock": Walls(("none",), seccomp=False),
    "seccomp": Walls(("none",), landlock=False),
    "nothing": Walls(("none",), landlock=False, seccomp=False),
}


@pytest.fixture
def child(tmp_path):
    opened = []

    def start(body, hidden=(), name="scorer", walls=None, **limits):
        file = tmp_path / "code" / "foreign.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(HEAD + body)
        opened.append(built(f"{file}:{name}", hidden, walls or Walls(), Limits(**limits)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def built(name, hidden, walls, limits=None):
    try:
        return Child(name, hidden, [], limits or Limits(), walls)
    except BadInput as error:
        if "cannot be kept apart" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture
def port():
    """One that answers on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def nats(child, count=4):
    return child.score(np.arange(count)).nats


def test_charges_come_back(child):
    body = "def scorer(t):\n    print('noise')\n    return t * 0.5\n"
    assert nats(child(body)).tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise ValueError('at import')", r"ValueError: at import \(line 3\)"),
        ("def other(t): pass", "has no function scorer"),
    ],
)
def test_code_that_does_not_load(child, body, sentence):
    with pytest.raises(BadInput, match=sentence):
        child(body)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise KeyError(7)", r"KeyError: 7 \(line 4\)"),
        ("os._exit(3)", "ended with exit code 3 while scoring 4 tokens"),
        ("os.kill(os.getpid(), 9)", "died of SIGKILL while scoring 4 tokens"),
        ("time.sleep(60)", "did not end within 1 s"),
        ("return np.zeros(1 << 40)", "memory"),
        ("return t[:2]", "must return a number for each token"),
    ],
)
def test_calls_that_fail(child, body, sentence):
    started = child(f"def scorer(t):\n    {body}\n", call_s=1.0)
    with pytest.raises(BadInput, match=sentence):
        nats(started)


def test_a_scorer_beside_its_text_imports_its_neighbours(tmp_path, monkeypatch):
    """By its relative name, as one types it; and the text stays out of reach."""
    (tmp_path / "neighbour.py").write_text("half = 0.5\n")
    (tmp_path / "text.txt").write_text("the text")
    (tmp_path / "foreign.py").write_text(
        "from neighbour import half\n"
        "def scorer(t):\n"
        "    try:\n"
        "        open('" + str(tmp_path / "text.txt") + "')\n"
        "    except OSError:\n"
        "        return t * half\n"
        "    return t * 2.0\n"
    )
    monkeypatch.chdir(tmp_path)
    started = Child("foreign.py:scorer", [Path("text.txt")], [], Limits())
    try:
        assert nats(started).tolist() == [
            (0.5 if started.isolation.inside else 2) * n for n in range(4)
        ]
    finally:
        started.close()


def test_hidden_files_and_the_network_are_out_of_reach(child, tmp_path, port):
    secret = tmp_path / "code" / "val.txt"
    secret.parent.mkdir()
    secret.write_text("the text")
    other = tmp_path / "elsewhere.txt"
    other.write_text("more")
    body = f"""
def attempt(action):
    try:
        action()
    except OSError:
        return 1.0
    return 0.0
def scorer(t):
    files = [attempt(lambda f=f: open(f).read()) for f in {json.dumps([str(secret), str(other)])}]
    socket.setdefaulttimeout(1)
    net = attempt(lambda: socket.create_connection(("127.0.0.1", {port})))
    return np.array([*files, net, 0.0])
"""
    started = child(body, hidden=[secret])
    denied = nats(started)
    assert denied[:2].tolist() == [float(started.isolation.inside)] * 2
    assert denied[2] == 1.0 or not started.isolation.seccomp


# Every promise, attacked ------------------------------------------------------------------------

PROBE = """
import ctypes, resource, socket
LIMITS = resource.getrlimit(resource.RLIMIT_CORE)
AUDIT, BOX, OWN, PORT, HIDDEN = @AUDIT@, "@BOX@", "@OWN@", @PORT@, "@HIDDEN@"
LIBC = ctypes.CDLL(None, use_errno=True)

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def connect(address):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address)

def found():
    if not os.environ.get("HF_TOKEN"):
        raise OSError("none")

def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", PORT))

def is_root():
    if os.geteuid():
        raise OSError("not root")

ATTEMPTS = [
    ("reads", lambda: open(BOX + "/secret").read()),
    ("reads", lambda: open(HIDDEN).read()),
    ("reads", lambda: os.listdir(BOX)),
    ("reads", lambda: open("/etc/shadow").read()),
    ("writes", lambda: open(BOX + "/new", "w").write("x")),
    ("writes", lambda: open(BOX + "/precious", "a").write("x")),
    ("writes", lambda: open(OWN + "/new", "w").write("x")),
    ("writes", lambda: os.mkdir(BOX + "/folder")),
    ("writes", lambda: os.rename(BOX + "/movable", BOX + "/moved")),
    ("writes", lambda: os.unlink(BOX + "/removable")),
    ("writes", lambda: os.link(BOX + "/precious", BOX + "/linked")),
    ("writes", lambda: os.symlink("precious", BOX + "/symlinked")),
    ("writes", lambda: open("/proc/sys/kernel/core_pattern", "r+").write("core")),
    ("truncates", lambda: os.truncate(BOX + "/precious", 0)),
    ("truncates", lambda: os.truncate(OWN + "/foreign.py", 0)),
    ("truncates", lambda: os.open(BOX + "/precious", os.O_RDONLY | os.O_TRUNC)),
    ("attributes", lambda: os.chmod(BOX + "/modes", 0)),
    ("attributes", lambda: os.chmod(OWN + "/foreign.py", 0o600)),
    ("attributes", lambda: os.utime(BOX + "/modes", (0, 0))),
    ("attributes", lambda: os.setxattr(BOX + "/modes", "user.x", b"x")),
    ("attributes", lambda: os.chown(BOX + "/modes", os.geteuid(), os.getegid())),
    ("names", lambda: os.stat(BOX + "/secret")),
    ("names", lambda: os.stat("/etc/shadow")),
    ("network", lambda: socket.create_connection(("127.0.0.1", PORT), 1)),
    ("network", send),
    ("sockets", lambda: connect(OWN + "/socket")),
    ("sockets", lambda: connect(BOX + "/socket")),
    ("signals", lambda: os.kill(AUDIT, 0)),
    ("signals", lambda: call(LIBC.syscall(424, os.pidfd_open(AUDIT), 0, None, 0))),
    ("signals", lambda: resource.prlimit(AUDIT, resource.RLIMIT_CORE, LIMITS)),
    ("signals", lambda: os.sched_setscheduler(AUDIT, os.SCHED_OTHER, os.sched_param(0))),
    ("signals", lambda: open(f"/proc/{AUDIT}/mem", "r+b")),
    ("environments", lambda: open(f"/proc/{AUDIT}/environ").read()),
    ("environments", lambda: open(f"/proc/{AUDIT}/cmdline").read()),
    ("variables", found),
    ("kernel", lambda: call(LIBC.unshare(0x10000000))),
    ("kernel", lambda: call(LIBC.mount(b"x", b"/tmp", b"tmpfs", 0, None))),
    ("kernel", lambda: call(LIBC.syscall(425, 1, ctypes.create_string_buffer(120)))),
    ("kernel", lambda: call(LIBC.syscall(319 if os.uname().machine == "x86_64" else 279, b"x", 0))),
    ("kernel", lambda: call(LIBC.ptrace(0, 0, 0, 0))),
    ("root", is_root),
]

def scorer(t):
    refused = []
    for name, attack in ATTEMPTS:
        try:
            attack()
            refused.append(0.0)
        except (OSError, AttributeError):
            refused.append(1.0)
    return np.array(refused)
"""
ATTACKED = re.findall(r'^    \("(\w+)",', PROBE, re.MULTILINE)


@pytest.mark.parametrize("kind", WALLS)
def test_what_is_called_enforced_is_refused(kind, tmp_path, port, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    box, own = tmp_path / "box", tmp_path / "own"
    own.mkdir()
    box.mkdir()
    for name in ("secret", "precious", "modes", "movable", "removable"):
        (box / name).write_text(name)
    hidden = own / "hidden.txt"
    hidden.write_text("the text")
    fill = {"AUDIT": os.getpid(), "BOX": box, "OWN": own, "PORT": port, "HIDDEN": hidden}
    body = PROBE
    for name, value in fill.items():
        body = body.replace(f"@{name}@", str(value))
    file = own / "foreign.py"
    file.write_text(HEAD + body)
    with socket.socket(socket.AF_UNIX) as here, socket.socket(socket.AF_UNIX) as there:
        monkeypatch.chdir(own)
        here.bind("socket")
        here.listen()
        monkeypatch.chdir(box)
        there.bind("socket")
        there.listen()
        started = built(f"{file}:scorer", [hidden], WALLS[kind])
        try:
            refused = nats(started, len(ATTACKED))
        finally:
            started.close()
    enforced = {name: kept for name, kept, _ in started.isolation.rows()}
    passed = {name for name, no in zip(ATTACKED, refused, strict=True) if not no and enforced[name]}
    assert not passed
    if kind != "nothing":
        assert refused[ATTACKED.index("reads")] or kind == "seccomp"
        assert not all(refused) or all(enforced.values())
    if enforced["writes"]:
        names = {"secret", "precious", "modes", "movable", "removable", "socket"}
        assert {f.name for f in box.iterdir()} == names
    if enforced["writes"] and enforced["truncates"]:
        assert (box / "precious").read_text() == "precious"
    if enforced["attributes"]:
        assert (box / "modes").stat().st_mode & 0o777 == 0o644
        assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["Landlock", "seccomp", "nothing"])
def test_what_could_reach_files_or_the_network_does_not_start_without_trust(tmp_path, kind):
    marker = tmp_path / "started"
    file = tmp_path / "scorer.py"
    body = f"try: open({str(marker)!r}, 'w')\nexcept OSError: pass\n"
    file.write_text(HEAD + body + "def scorer(tokens): return tokens * 0.0\n")
    with pytest.raises(BadInput, match=r"could reach your files or the network.*--trust"):
        Child(f"{file}:scorer", [], [], Limits(), replace(WALLS[kind], trusted=False))
    assert not marker.exists()
    built(f"{file}:scorer", [], replace(WALLS["Landlock and seccomp"], trusted=False)).close()


def test_nothing_is_promised_without_walls():
    """Each promise but that of a clean environment needs one of the walls."""
    bare = Isolation("none", 0, False, False, ("/own",), False, Limits())
    assert [name for name, kept, _ in bare.rows() if kept] == ["variables"]
    assert sum(line.startswith("NOT enforced") for line in bare.lines()) == len(bare.rows())
    full = Isolation("bubblewrap", 7, True, True, ("/own",), False, Limits())
    assert all(kept for _, kept, _ in full.rows())
    assert "not enforced" not in full.summary


def test_the_page_has_the_same_table():
    """docs/audit.md: a row for each promise, a column for each kind of walls."""
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    columns = [("namespaces", 6, True), ("none", 6, True), ("none", 6, False), ("none", 0, True),
               ("none", 0, False)]  # fmt: skip
    lines = re.findall(r"^\| [^|]*\(`(\w+)`\) \| (.*) \|$", page, re.MULTILINE)
    rows = {name: cells.split(" | ") for name, cells in lines}
    for number, (backend, landlock, seccomp) in enumerate(columns):
        found = Isolation(backend, landlock, seccomp, True, (), False, Limits())
        for name, kept, _ in found.rows():
            if name != "root":
                assert rows[name][number] == ("yes" if kept else "no"), (name, columns[number])
    assert len(rows) == len(found.rows()) - 1


def alive(comm):
    """Process ids of this name, on the whole machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == comm and "Z" not in (path.parent / "stat").read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def gone(comm):
    until = time.monotonic() + 120
    while (left := alive(comm)) and time.monotonic() < until:
        time.sleep(0.02)
    return not left


DAEMON = """
import ctypes
def scorer(t):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, b"@COMM@")
            for d in range(64):
                try: os.close(d)
                except OSError: pass
            time.sleep(100)
        os._exit(0)
    os.wait()
    time.sleep(0.3)
    return t * 1.0
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_daemons_end_with_the_audit(child, backend):
    comm = f"fw{os.getpid()}{backend[:3]}"
    started = child(DAEMON.replace("@COMM@", comm), walls=Walls((backend,)))
    nats(started)
    assert alive(comm)
    started.close()
    assert not alive(comm)


@pytest.mark.parametrize("backend", BACKENDS)
def test_daemons_end_with_a_killed_audit(tmp_path, backend):
    comm = f"fk{os.getpid()}{backend[:3]}"
    file = tmp_path / "code" / "foreign.py"
    file.parent.mkdir()
    file.write_text(HEAD + DAEMON.replace("@COMM@", comm))
    audit = (
        "import os, sys, numpy as np\n"
        "from fairway.audit.sandbox import Child, Limits, Walls\n"
        "c = Child(sys.argv[1] + ':scorer', [], [], Limits(), Walls((sys.argv[2],)))\n"
        "c.score(np.arange(4)); print('running', flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-P", "-c", audit, str(file), backend]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot be kept apart" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.stdout == "running\n"
    assert done.returncode == -signal.SIGKILL
    assert gone(comm)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scorer_cannot_kill_what_started_it(child, backend):
    body = (
        "def scorer(t):\n"
        "    for pid in (os.getppid(), int(t[0])):\n"
        "        try: os.kill(pid, 9)\n"
        "        except OSError: pass\n"
        "    time.sleep(0.2)\n"
        "    return t * 0.5\n"
    )
    started = child(body, walls=Walls((backend,)))
    assert started.score(np.full(4, os.getpid())).nats.tolist() == [os.getpid() / 2] * 4


def outcome(child, sentence):
    """The first charge, or 0 where the process was ended with this sentence."""
    try:
        return nats(child)[0]
    except BadInput as error:
        if sentence not in str(error):
            raise
        return 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_is_limited_in_all(child, backend):
    """Each process stays below the limit, all together do not."""
    body = """
def scorer(t):
    for _ in range(8):
        if os.fork() == 0:
            x = bytearray(120 << 20)
            time.sleep(30)
    time.sleep(30)
"""
    started = child(body, walls=Walls((backend,)), memory_bytes=500 << 20)
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"took more than 500 MiB of memory \(--memory\)"):
        nats(started)
    assert time.monotonic() - began < 20


def test_memory_that_processes_share_counts_once(child):
    body = """
x = np.ones(25 << 20, np.uint8)
def scorer(t):
    pids = [os.fork() or time.sleep(0.5) or os._exit(0) for _ in range(8)]
    for pid in pids: os.waitpid(pid, 0)
    return t * 1.0
"""
    assert nats(child(body, memory_bytes=400 << 20)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_processes_are_limited_in_all(child, backend):
    body = """
def scorer(t):
    n = 0
    try:
        while n < 400:
            if os.fork() == 0: time.sleep(30); os._exit(0)
            n += 1
    except OSError: pass
    time.sleep(0.3)
    return t * 0.0 + n
"""
    started = child(body, walls=Walls((backend,)), processes=40)
    assert outcome(started, "ran more than 40 processes") < 40


@pytest.mark.parametrize("backend", BACKENDS)
def test_written_bytes_are_limited_in_all(child, backend):
    body = """
def scorer(t):
    n = 0
    try:
        for i in range(40):
            with open(f"{os.environ['TMPDIR']}/{i}", "wb") as f:
                f.write(bytes(4 << 20))
            n += 4
    except OSError: pass
    time.sleep(1.2)
    return t * 0.0 + n
"""
    started = child(body, walls=Walls((backend,)), file_bytes=64 << 20)
    assert outcome(started, "wrote more than 64 MiB") <= 64


def test_nothing_is_kept_from_process_to_process(child):
    """Neither in its folder nor beside its file: each begins as the first did."""
    body = """
def scorer(t):
    seen = 0
    for folder in {"/tmp", "/dev/shm", os.environ["TMPDIR"], os.path.dirname(__file__)}:
        path = os.path.join(folder, "fairway-test-memory")
        seen += os.path.exists(path)
        try: open(path, "w").write("seen")
        except OSError: pass
    return t * 0.0 + seen
"""
    started = child(body)
    assert nats(started)[0] == 0
    assert nats(started)[0] > 0
    other = started.restarted()
    try:
        assert nats(other)[0] == 0
    finally:
        other.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_of_fairway_are_not_compiled_again(child, backend, tmp_path, monkeypatch):
    """The process has a copy: what it adds there reaches nobody."""
    kept = tmp_path / "kept"
    (kept / "below").mkdir(parents=True)
    (kept / "below" / "kernel.nbi").write_text("compiled")
    monkeypatch.setattr(visible, "_copies", [])
    monkeypatch.setattr(visible.startup, "kernel_cache", lambda: str(kept))
    body = """
def scorer(t):
    folder = os.environ["NUMBA_CACHE_DIR"] + "/below/"
    found = open(folder + "kernel.nbi").read() == "compiled"
    open(folder + "kernel.nbi", "w").write("planted")
    open(folder + "other.nbi", "w").write("planted")
    return t * 0.0 + found
"""
    started = child(body, walls=Walls((backend,)))
    assert nats(started)[0] == 1
    started.close()
    files = {f.name: f.read_text() for f in (kept / "below").iterdir()}
    assert files == {"kernel.nbi": "compiled"}
    again = started.restarted()
    assert nats(again)[0] == 1
    again.close()


def test_a_home_is_no_folder_of_the_scorer(tmp_path, monkeypatch):
    """A scorer that lies in it may read its own file alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "foreign.py").write_text(
        "def scorer(t):\n"
        "    try: open(__file__.replace('foreign.py', 'token'))\n"
        "    except OSError: return t * 0.5\n"
    )
    started = built(f"{tmp_path / 'foreign.py'}:scorer", [], Walls())
    assert nats(started)[2] == 1.0
    started.close()
    with pytest.raises(BadInput, match="--read / would show files of everybody"):
        Child(f"{tmp_path / 'foreign.py'}:scorer", [], [Path("/")], Limits())


def test_a_scorer_that_stops_reading_is_given_up(child):
    body = """
import signal
def stop(*_): os.kill(os.getpid(), signal.SIGSTOP)
signal.signal(signal.SIGALRM, stop)
def scorer(t):
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return t * 0.5
"""
    started = child(body, call_s=1.0)
    nats(started)
    time.sleep(0.3)
    with pytest.raises(BadInput, match="did not end within 1 s"):
        nats(started, 1_000_000)


# Replies are a stranger's bytes -----------------------------------------------------------------

FORGE = """
import fcntl, stat, struct
from fairway.audit import wire
from fairway.audit.scorer import Charges
def pipes():
    for d in range(3, 64):
        try:
            writes = fcntl.fcntl(d, fcntl.F_GETFL) & 3 == os.O_WRONLY
            if writes and stat.S_ISFIFO(os.fstat(d).st_mode): yield d
        except OSError: pass
def say(data):
    for d in pipes(): os.write(d, data)
def scorer(t):
    number = sys._getframe(1).f_back.f_locals["number"]
    good = wire.reply(number, wire.Reply(wire.CHARGES, Charges(np.full(len(t), 2.0))))
    @BODY@
    return np.full(len(t), 1.0)
"""


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("say(b'x' * 4096)", "these bytes answer no question"),
        ("say(good + good)", "more than one reply came"),
        ("say(good.replace(b'FWR1', b'FWR2'))", "answer no question"),
        ("say(wire.reply(number + 1, wire.Reply(wire.ERROR, text='x')))", "answer no question"),
        ("say(wire.reply(number, wire.Reply(wire.ROWS, rows=np.ones((4, 2)))))", "no question"),
        ("say(good[:13] + bytes([255]) + good[14:])", "Charges has no such fields"),
        ("say(good[:14] + bytes([255]) + good[15:])", "Charges has no such fields"),
        ("say(good[:15] + struct.pack('<I', 7) + good[19:])", "Charges has no such fields"),
        ("say(good[:19] + struct.pack('<d', 7) + good[27:])", "none was announced"),
        ("say(good[:-32] + np.full(4, np.nan).tobytes())", "more than one|must be a number"),
        ("say(good[:30]); os._exit(0)", "ended with exit code 0"),
        ("say(good)", "before it was asked|more than one reply"),
    ],
)
def test_forged_replies_are_no_answer(child, body, sentence):
    started = child(FORGE.replace("@BODY@", body))

    def twice():
        nats(started)
        time.sleep(0.2)
        nats(started)

    with pytest.raises(BadInput, match=sentence):
        twice()


def test_errors_are_one_line_without_control_characters(child):
    started = child("def scorer(t):\n    raise ValueError('a\\x1b[2Jb\\nc')\n")
    with pytest.raises(BadInput) as raised:
        nats(started)
    assert str(raised.value).isprintable()
