"""The Python interface, the export and the upload, on a real artifact."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fairway as package
from fairway.coding import artifact
from fairway.errors import BadInput
from fairway.pipeline.results import ProveResult
from fairway.report import export


@pytest.fixture(scope="module")
def model(artifact_file):
    return package.load(artifact_file)


def test_importing_the_package_is_light():
    code = "import fairway, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_logprobs_are_the_networks(model, artifact_file):
    found = model.logprobs("the cat sat on a mat")
    network = artifact.read(artifact_file).build_model()
    with torch.inference_mode():
        ids = torch.from_numpy(found.token_ids.astype(np.int64))
        logits = network.head(network.hidden(ids[None, :-1]))[0].double()
    expected = logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]].numpy()
    assert found.logprobs == pytest.approx(expected, abs=0.02)
    assert found.text_bytes == 20
    assert found.bits_per_byte == pytest.approx(-found.logprobs.sum() / np.log(2) / 20)
    assert model.logprobs(b"the cat").token_ids[0] == 0


@settings(max_examples=8)
@given(st.binary(max_size=200))
def test_compress_restores_any_bytes(model, data):
    assert model.decompress(model.compress(data)) == data


def test_generate_repeats_itself(model):
    assert model.generate("the", 5, seed=3) == model.generate("the", 5, seed=3)
    assert model.generate("the", 5).startswith("the")


def test_an_export_is_the_same_network(artifact_file, tmp_path):
    export.export(artifact_file, tmp_path / "out")
    network, tokenizer = export.load(tmp_path / "out")
    before = artifact.read(artifact_file)
    assert tokenizer.to_bytes() == before.tokenizer.to_bytes()
    for name, tensor in before.build_model().state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="is no exported model"):
        export.load(tmp_path / "out")


class Hub(BaseHTTPRequestHandler):
    """Takes uploads as the Hub does: create, ask how to send, commit."""

    def log_message(self, *arguments):
        pass

    def answer(self, status, tree):
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, {"id": "me/model", "sha": "0" * 40})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer(401, {"error": "no"})
        elif self.path.endswith("/repos/create"):
            self.answer(200, {"url": "http://127.0.0.1/me/model", "id": "me/model"})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]  # fmt: skip
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.taken[value["path"]] = base64.b64decode(value["content"])
            self.answer(200, {"commitUrl": "http://127.0.0.1/c/1", "commitOid": "1" * 40})
        else:
            self.answer(200, {})


def test_push_uploads_the_artifact_and_a_card(tiny):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.taken = {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        words = [sys.executable, "-m", "fairway", "push", str(tiny.path), "me/model"]
        for token, code in (("hf_right", 0), ("hf_wrong", 2)):
            environment = os.environ | {"HF_ENDPOINT": url, "HF_TOKEN": token}
            environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
            assert done.returncode == code, done.stderr
        server.shutdown()
    assert "the Hub refused me/model (401)" in " ".join(done.stderr.split())
    assert server.taken["model.fairway"] == tiny.artifact.read_bytes()
    assert server.taken["val.fwp"] == tiny.proof_file.read_bytes()
    assert {"model.safetensors", "config.json", "tokenizer.fwt"} <= set(server.taken)
    bpb = tiny.require(ProveResult).bpb
    assert f"**{bpb:.4f} bits per byte**" in server.taken["README.md"].decode()
