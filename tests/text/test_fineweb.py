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

from fairway.text import fineweb
from fairway.text.corpus import read_documents
from fairway.text.shards import read_shard

PIECE = 50_000  # bytes that the server sends at once


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
            self.answer(302, Location=f"{hub.url}/cdn/{path.partition('/resolve/main/')[2]}")
        else:
            self.content(path.removeprefix("/cdn/"))

    do_HEAD = do_GET

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
        end = first + (len(data) - first) // 2 if cut else len(data)
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
    words = ["data", "fineweb", "--variant", "sp1024", "--out", str(out), *options]
    return [sys.executable, "-m", "fairway", *words], os.environ | plain


def fetched(hub, out):
    return {name for name, data in hub.files.items() if (out / name).is_file()
            and (out / name).read_bytes() == data}  # fmt: skip


def test_failures_cuts_and_kills(hub, tmp_path):
    """30 % of requests fail, each file is cut once, the process is killed twice."""
    hub.fail, hub.cut, hub.slow_s = 0.3, set(hub.files), 0.05
    words, environment = command(hub, tmp_path, "--shards", "4", "--json")
    total = sum(map(len, hub.files.values()))
    for share in (0.3, 0.6):
        with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while sum(hub.sent.values()) < share * total and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert process.poll() is None
            with hub.lock:  # nothing is sent between the kill and the end of its connections
                process.kill()
                process.wait()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert fetched(hub, tmp_path) == set(hub.files)
    assert not hub.cut
    assert hub.failed > 0
    again = sum(hub.sent.values()) - total
    print(f"{again:,} of {total:,} bytes twice")
    assert 0 <= again <= 2 * 4 * PIECE  # at a kill, what four connections had not read yet
    result = json.loads(done.stdout)
    assert result["shards"] == 5
    assert read_shard(tmp_path / "datasets/datasets/fineweb10B_sp1024/fineweb_val_000000.bin").size


def test_what_is_there_needs_no_network(hub, tmp_path):
    words, environment = command(hub, tmp_path, "--shards", "1")
    assert subprocess.run(words, env=environment).returncode == 0
    before = hub.requests
    assert len(fetched(hub, tmp_path)) == 3
    assert sum(hub.sent.values()) == sum(len(hub.files[name]) for name in fetched(hub, tmp_path))
    assert subprocess.run(words, env=environment).returncode == 0
    assert hub.requests == before


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


def test_a_wrong_hash_is_refused_and_removed(tmp_path, monkeypatch):
    def arrive(repository, part, remote):
        part.write_bytes(b"other")

    monkeypatch.setattr(fineweb, "_rest", arrive)
    remote = fineweb.Remote("a/x.bin", 5, hashlib.sha256(b"right").hexdigest())
    with pytest.raises(fineweb.BadInput, match="arrived with SHA-256"):
        fineweb._fetch("some/set", tmp_path / "a/x.bin", remote)
    assert not list((tmp_path / "a").iterdir())


def test_raw_documents(tmp_path):
    texts = [[f"document {i} of {n}\n é" for i in range(30)] for n in range(2)]
    files = {}
    for n, column in enumerate(texts):
        pq.write_table(pa.table({"text": column, "id": column}), tmp_path / "x.parquet")
        files[f"sample/10BT/{n:03d}_00000.parquet"] = (tmp_path / "x.parquet").read_bytes()
    out = tmp_path / "raw"
    with Hub(files) as hub:
        _, environment = command(hub, out)
        words = [sys.executable, "-m", "fairway", "data", "fineweb-raw", "--shards", "2"]
        words += ["--out", str(out)]
        for _ in range(2):
            assert subprocess.run(words, env=environment).returncode == 0
        assert sum(hub.sent.values()) == sum(map(len, files.values()))
        hub.shutdown()
    assert read_documents(out / "documents") == [t.encode() for column in texts for t in column]
    assert not list(out.rglob("*.parquet"))
