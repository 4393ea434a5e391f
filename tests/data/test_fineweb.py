"""Downloads against a local server that speaks the Hub's protocol and fails as networks do."""

import hashlib
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from fairway.data import fineweb
from fairway.data.documents import read_documents
from fairway.data.shards import read_shard

PIECE = 500_000  # bytes that the server sends at once


class Hub(ThreadingHTTPServer):
    """Files of data sets; `fail` of the requests get an error, `cut` files lose a connection."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.fail, self.cut, self.slow_s = files, 0.0, set(), 0.0
        self.sent, self.requests, self.failed = dict.fromkeys(files, 0), 0, 0
        self.random, self.lock = random.Random(3), threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.requests += 1
            failing = hub.random.random() < hub.fail
            hub.failed += failing
            status = hub.random.choice([429, 500, 503])
        if failing:
            self.answer(status, Retry_After="0")
        elif path.startswith("/api/datasets/"):
            self.tree(path)
        elif "/resolve/main/" in path:
            self.resolve(path.partition("/resolve/main/")[2])
        else:
            self.content(path.removeprefix("/cdn/"))

    do_HEAD = do_GET

    def resolve(self, name):
        """HEAD: what the Hub's headers say about a file. GET: the way to its content."""
        if (data := self.server.files.get(name)) is None:
            self.answer(404)
        elif self.command == "GET":
            self.answer(302, Location=f"{self.server.url}/cdn/{name}")
        else:
            self.answer(
                200, X_Repo_Commit="0" * 40, X_Linked_Size=str(len(data)),
                X_Linked_ETag=f'"{hashlib.sha256(data).hexdigest()}"',
            )  # fmt: skip

    def tree(self, path):
        folder = path.partition("/tree/main/")[2]
        entries = [
            {
                "type": "file", "path": name, "size": len(data), "oid": "0" * 40,
                "lfs": {
                    "oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1
                },
            }
            for name, data in self.server.files.items()
            if name.rpartition("/")[0] == folder
        ]  # fmt: skip
        if not entries:
            self.answer(404)
            return
        self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")

    def content(self, name):
        hub, data = self.server, self.server.files.get(name)
        if data is None:
            self.answer(404)
            return
        first = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        with hub.lock:
            cut = name in hub.cut
            hub.cut.discard(name)
        end = first + (len(data) - first) * 7 // 8 if cut else len(data)
        for start in range(first, end, PIECE):
            piece = data[start : min(end, start + PIECE)]
            with hub.lock:
                if self.is_alone():
                    return
                self.wfile.write(piece)
                hub.sent[name] += len(piece)
            time.sleep(hub.slow_s)
        if cut:
            self.close_connection = True
            self.connection.close()

    def is_alone(self):
        """Whether the client has gone: what is sent now nobody fetches."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


def shard(seed, count=1_000_000):
    tokens = np.random.default_rng(seed).integers(0, 1024, count).astype("<u2")
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, count
    return header.tobytes() + tokens.tobytes()


@pytest.fixture
def hub():
    place = "datasets/datasets/fineweb10B_sp1024"
    files = {f"{place}/fineweb_train_{i:06d}.bin": shard(i) for i in range(4)}
    files[f"{place}/fineweb_val_000000.bin"] = shard(9)
    files["datasets/tokenizers/fineweb_1024_bpe.model"] = b"model" * 1000
    with Hub(files) as server:
        yield server
        server.shutdown()


def command(hub, out, *options):
    plain = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    words = ["download", "fineweb", "--variant", "sp1024", "--out", str(out), *options]
    return [sys.executable, "-m", "fairway", *words], os.environ | plain


def fetched(hub, out):
    return {name for name, data in hub.files.items() if (out / name).is_file()
            and (out / name).read_bytes() == data}  # fmt: skip


@pytest.fixture
def large_hub(hub):
    """Files of more than 10 MB, which huggingface_hub writes at once."""
    hub.files |= {n: shard(i, 6_000_000) for i, n in enumerate(hub.files) if n.endswith(".bin")}
    return hub


def test_failures_cuts_and_kills(large_hub, tmp_path):
    """30 % of requests fail, each file is cut once, the process is killed twice."""
    hub = large_hub
    hub.fail, hub.cut, hub.slow_s = 0.3, set(hub.files), 0.05
    words, environment = command(hub, tmp_path, "--shards", "4", "--json")
    total = sum(map(len, hub.files.values()))
    for share in (0.3, 0.6):
        with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as process:
            while sum(hub.sent.values()) < share * total and process.poll() is None:
                time.sleep(0.02)
            assert process.poll() is None
            with hub.lock:  # nothing is sent between the kill and the end of its connections
                process.kill()
                process.wait()
                finished = {name: hub.sent[name] for name in fetched(hub, tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert fetched(hub, tmp_path) == set(hub.files)
    assert not hub.cut
    assert hub.failed > 0
    assert finished == {name: hub.sent[name] for name in finished}  # never asked for again
    assert not list(tmp_path.glob(".download"))
    result = json.loads(done.stdout)
    assert result["shards"] == 5
    assert read_shard(tmp_path / "datasets/datasets/fineweb10B_sp1024/fineweb_val_000000.bin").size


def test_a_cut_connection_resumes(large_hub, tmp_path):
    hub = large_hub
    words, environment = command(hub, tmp_path, "--shards", "1")
    hub.cut = {name for name in hub.files if name.endswith(".bin")}
    assert subprocess.run(words, env=environment).returncode == 0
    names = fetched(hub, tmp_path)
    assert len(names) == 3
    assert not hub.cut & names
    again = sum(hub.sent[name] - len(hub.files[name]) for name in names)
    assert 0 <= again < 2 * 2 * PIECE  # what arrived after the last 10 MB of each shard


def test_what_is_there_needs_no_network(hub, tmp_path):
    words, environment = command(hub, tmp_path, "--shards", "1")
    assert subprocess.run(words, env=environment).returncode == 0
    before = hub.requests
    assert len(fetched(hub, tmp_path)) == 3
    assert sum(hub.sent.values()) == sum(len(hub.files[name]) for name in fetched(hub, tmp_path))
    assert subprocess.run(words, env=environment).returncode == 0
    assert hub.requests == before


def timed(words, environment):
    began = time.monotonic()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    return done.returncode, " ".join(done.stderr.split()), time.monotonic() - began


def test_offline_fails_at_once(hub, tmp_path):
    """Also with half of the files there; what is complete needs no network."""
    words, environment = command(hub, tmp_path, "--shards", "1")
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    code, said, seconds = timed(words, offline)
    assert code == 2
    assert "HF_HUB_OFFLINE forbids to ask the Hub, and the list of files is not in" in said
    assert "try 2" not in said
    assert seconds < 100  # most of it starts Python, on a shared machine; no try is repeated
    assert hub.requests == 0
    assert subprocess.run(words, env=environment).returncode == 0
    assert timed(words, offline)[0] == 0
    next(tmp_path.rglob("fineweb_val*.bin")).unlink()
    code, said, _ = timed(words, offline)
    assert code == 2
    assert "1 of 3 files are not in" in said


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_without_a_network_it_fails_at_once(hub, tmp_path, url):
    words, environment = command(hub, tmp_path, "--shards", "1")
    code, said, seconds = timed(words, environment | {"HF_ENDPOINT": url, "no_proxy": "*"})
    assert code == 2
    assert f"no way to {url} (" in said
    assert seconds < 20


def test_an_address_that_never_answers():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        full = [socket.create_connection(deaf.getsockname()) for _ in range(1)]
        began = time.monotonic()
        problem = fineweb._unreachable(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert time.monotonic() - began < 5
        assert problem
        full[0].close()


def test_retries_are_said(hub, tmp_path, monkeypatch, capfd):
    answers = iter([OSError("the line is dead"), RuntimeError("again"), None])

    def ask():
        if answer := next(answers):
            raise answer
        return "done"

    assert fineweb._patiently(ask, "the file x") == "done"
    told = capfd.readouterr().err
    assert "the file x: the line is dead; try 2 of 12 in 0.1 s" in told
    assert "the file x: again; try 3 of 12 in 0.2 s" in told


def test_a_data_set_that_was_uploaded_again(hub, tmp_path):
    """Other contents of one size, other sizes, a missing file: each comes again."""
    words, environment = command(hub, tmp_path, "--shards", "2")
    assert subprocess.run(words, env=environment).returncode == 0
    first, second, val, model = sorted(fetched(hub, tmp_path))
    for name in (first, val):
        hub.files[name] = shard(77, 1_000_000)
    hub.files[second] = shard(78, 900_000)
    (tmp_path / second).unlink()
    before = dict(hub.sent)
    code, said, _ = timed(words, environment)
    assert code == 0, said
    assert "the Hub has other contents of 2 files than" in said
    assert fetched(hub, tmp_path) == {first, second, val, model}
    assert hub.sent[model] == before[model]  # what was not replaced stays
    requests = hub.requests
    assert timed(words, environment)[0] == 0
    assert hub.requests == requests


def test_more_shards_of_a_data_set_that_was_uploaded_again(hub, tmp_path):
    """A longer list does not keep old shards beside new ones, and a lost list is no trouble."""
    words, environment = command(hub, tmp_path, "--shards", "1")
    assert subprocess.run(words, env=environment).returncode == 0
    name = next(name for name in hub.files if "val" in name)
    hub.files[name] = shard(99)
    for file in tmp_path.glob("*.json"):
        file.unlink()
    words, environment = command(hub, tmp_path, "--shards", "2")
    code, said, _ = timed(words, environment)
    assert code == 0, said
    assert "other contents of 1 files" in said
    assert len(fetched(hub, tmp_path)) == 4


def test_refusals(hub, tmp_path):
    for options, sentence in (
        (["--shards", "9"], "has 4 training shards"),
        (["--variant", "byte"], "as in sp1024"),
        (["--variant", "sp77"], "the Hub has no"),
    ):
        words, environment = command(hub, tmp_path, *options)
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert sentence in " ".join(done.stderr.split())


def test_a_wrong_hash_is_refused_and_removed(hub, tmp_path, monkeypatch):
    """As a server would send it whose list and whose files differ."""
    words, environment = command(hub, tmp_path, "--shards", "1")
    tree = Handler.tree

    def other_hashes(handler, path):
        honest = hub.files
        hub.files = {name: data[:-1] + b"!" for name, data in honest.items()}
        tree(handler, path)
        hub.files = honest

    monkeypatch.setattr(Handler, "tree", other_hashes)
    code, said, _ = timed(words, environment)
    assert code == 2
    assert "arrived with SHA-256" in said
    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.model"))


def test_raw_documents_of_another_upload_are_written_again(tmp_path):
    def parquet(words):
        pq.write_table(pa.table({"text": words}), tmp_path / "x.parquet")
        return (tmp_path / "x.parquet").read_bytes()

    out, names = tmp_path / "raw", [f"sample/10BT/{n:03d}_00000.parquet" for n in range(2)]
    files = {name: parquet([f"old {name}"]) for name in names}
    words = [sys.executable, "-m", "fairway", "download", "fineweb-raw", "--out", str(out)]
    with Hub(files) as hub:
        environment = command(hub, out)[1]
        assert subprocess.run([*words, "--shards", "1"], env=environment).returncode == 0
        hub.files |= {name: parquet([f"new {name}"]) for name in names}
        assert subprocess.run([*words, "--shards", "2"], env=environment).returncode == 0
        hub.shutdown()
    assert read_documents(out / "documents") == [f"new {name}".encode() for name in names]


def test_raw_documents(tmp_path):
    texts = [[f"document {i} of {n}\n é" for i in range(30)] for n in range(2)]
    files = {}
    for n, column in enumerate(texts):
        pq.write_table(pa.table({"text": column, "id": column}), tmp_path / "x.parquet")
        files[f"sample/10BT/{n:03d}_00000.parquet"] = (tmp_path / "x.parquet").read_bytes()
    out = tmp_path / "raw"
    with Hub(files) as hub:
        _, environment = command(hub, out)
        words = [sys.executable, "-m", "fairway", "download", "fineweb-raw", "--shards", "2"]
        words += ["--out", str(out)]
        for _ in range(2):
            assert subprocess.run(words, env=environment).returncode == 0
        assert sum(hub.sent.values()) == sum(map(len, files.values()))
        hub.shutdown()
    assert read_documents(out / "documents") == [t.encode() for column in texts for t in column]
    assert not list(out.rglob("*.parquet"))
