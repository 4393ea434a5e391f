"""Foreign code in its own process: each way to fail gets a sentence, and files are out of reach."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from fairway.audit.sandbox import Child, Limits
from fairway.errors import BadInput

HEAD = "import numpy as np\nimport os, socket, sys, time\n"


@pytest.fixture
def child(tmp_path):
    opened = []

    def start(body, hidden=(), name="scorer", **limits):
        file = tmp_path / "code" / "foreign.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(HEAD + body)
        opened.append(Child(f"{file}:{name}", hidden, [], Limits(**limits)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def port():
    """One that answers on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def nats(child, count=4):
    return child.charges(np.arange(count)).nats


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
        assert nats(started).tolist() == [(0.5 if started.isolation.inside else 2) * n for n in range(4)]
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
