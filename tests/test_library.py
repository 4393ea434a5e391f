"""The Python interface, the export and the upload, on a real artifact."""

import ast
import base64
import doctest
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fairway as package
from fairway import library
from fairway.coding import artifact
from fairway.errors import BadInput
from fairway.pipeline.results import PackResult, ProveResult
from fairway.report import export

TEXTS = ["the cat sat on a mat", b"a", b"the \xff\xfe cat", "the dog ran after some bird " * 9, "é"]


@pytest.fixture(scope="module", params=["artifact_file", "memory_file"])
def model(request):
    """A model without a document memory, and one with it."""
    return package.load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def plain(artifact_file):
    return package.load(artifact_file)


def test_importing_the_package_is_light():
    code = "import fairway, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- what it computes ---


def test_logprobs_are_the_networks(artifact_file):
    model = package.load(artifact_file)
    found = model.logprobs("the cat sat on a mat")
    network = artifact.read(artifact_file).build_model()
    with torch.inference_mode():
        ids = torch.from_numpy(found.token_ids.astype(np.int64))
        logits = network.head(network.hidden(ids[None, :-1]))[0].double()
    expected = logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]].numpy()
    assert found.logprobs == pytest.approx(expected, abs=0.02)
    assert found.text_bytes == 20
    assert found.bits_per_byte == pytest.approx(-found.logprobs.sum() / np.log(2) / 20)


def test_each_of_many_texts_is_alone(model):
    for text, found in zip(TEXTS, model.logprobs(TEXTS), strict=True):
        alone = model.logprobs(text)
        assert found.logprobs.tolist() == alone.logprobs.tolist()
        assert found.token_ids.tolist() == model.encode(text).tolist()
        assert found.text_bytes == len(text.encode() if isinstance(text, str) else text)
    assert model.logprobs([]) == []


def test_the_next_token_has_the_logprobs_probability(model):
    scored = model.logprobs(TEXTS[3])
    for i in (1, 2, len(scored.token_ids) - 1):
        prompt = model.decode(scored.token_ids[:i])
        assert model.encode(prompt).tolist() == scored.token_ids[:i].tolist()
        following = model.next_token(prompt)
        token = scored.token_ids[i]
        assert np.log(following.probabilities[token]) == pytest.approx(scored.logprobs[i - 1])
        assert following.probabilities.sum() == pytest.approx(1)
        assert following.probabilities.shape == (model.vocab_size,)
        written, p = following.top(1)[0]
        likeliest = int(following.probabilities.argmax())
        assert p == following.probabilities.max()
        assert model.decode([*scored.token_ids[:i], likeliest]) == prompt + written
    assert len(following.top(10**6)) == model.vocab_size


@settings(max_examples=20)
@given(st.binary(max_size=200) | st.text(max_size=100))
def test_tokens_write_what_was_encoded(plain, text):
    ids = plain.encode(text)
    data = text if isinstance(text, bytes) else text.encode()
    assert plain.decode(ids) == plain.decode(ids[1:].tolist()) == data
    assert b"".join(plain.token_bytes(ids)) == b"".join(plain.token_bytes(ids[1:])) == data
    assert len(plain.token_bytes(ids)) == len(ids)


@settings(max_examples=8)
@given(st.binary(max_size=200))
def test_compress_restores_any_bytes(plain, data):
    assert plain.decompress(memoryview(plain.compress(bytearray(data)))) == data


def test_files_are_compressed_as_bytes_are(plain):
    data, small, again = b"the cat sat on a mat " * 9, io.BytesIO(), io.BytesIO()
    plain.compress_file(io.BytesIO(data), small)
    assert small.getvalue() == plain.compress(data)
    plain.decompress_file(io.BytesIO(small.getvalue()), again)
    assert again.getvalue() == data
    with pytest.raises(TypeError, match="open it as binary"):
        plain.compress_file(io.StringIO("text"), small)


def test_generate_repeats_itself_piece_by_piece(plain):
    given = {"prompt": "the", "tokens": 5, "seed": 3}
    assert "".join(plain.stream(**given)) == plain.generate(**given)
    assert plain.generate(**given) != plain.generate("the", tokens=5, seed=4)
    assert plain.generate(b"the", tokens=0) == ""
    for wrong in ({"tokens": -1}, {"seed": -1}, {"temperature": -0.1}, {"temperature": np.inf}):
        with pytest.raises(BadInput, match="numbers from 0"):
            plain.stream("the", **wrong)


def test_a_proof_costs_what_the_score_says_and_holds(model, capfd):
    texts = [TEXTS[0], TEXTS[2], TEXTS[3]]
    proof, score = model.prove(texts), model.score(texts)
    whole = b"".join(text if isinstance(text, bytes) else text.encode() for text in texts)
    assert proof.text_bytes == score.text_bytes == len(whole)
    assert score.bpb * len(whole) / 8 <= len(proof.data) < score.bpb * len(whole) / 8 + 80
    assert model.decompress(bytes(proof)) == whole
    verdict = package.verify(model, proof, texts)
    assert verdict
    assert verdict.bpb == proof.bits_per_byte
    assert verdict.decoded.artifact_sha256 == model.sha256
    assert verdict.decoded.documents == 3
    assert capfd.readouterr() == ("", "")  # a library is silent


def test_a_verdict_trusts_the_bytes_alone(plain, tmp_path, tiny):
    proof = plain.prove(TEXTS[0])
    proof.save(tmp_path / "a.fwp")
    lie = package.Proof(proof.data, 10**6)
    for form in (lie, tmp_path / "a.fwp"):
        assert package.verify(plain, form, TEXTS[0]).bpb == proof.bits_per_byte
    assert "another text than the given text" in package.verify(plain, proof, "a cat").reason
    damaged = bytearray(proof.data)
    damaged[-5] ^= 1
    verdict = package.verify(plain.path, bytes(damaged))
    assert not verdict
    assert "damaged" in verdict.reason
    with pytest.raises(BadInput, match="needs the artifact whose SHA-256 begins with"):
        package.verify(tiny.path, proof)


def test_what_cannot_be_used_is_a_sentence(plain, tmp_path):
    for call, sentence in (
        (lambda: package.load(tmp_path / "missing"), "cannot read the artifact"),
        (lambda: package.load(tmp_path), "is no run directory"),
        (lambda: plain.decode([0, plain.vocab_size]), "outside 0"),
        (lambda: plain.decode(np.zeros((2, 2), int)), "2 dimensions"),
        (lambda: plain.encode("\ud800"), "surrogate"),
        (lambda: plain.logprobs(["the", ""]), "a text has no bytes"),
        (lambda: plain.prove(""), "the given text holds nothing"),
        (lambda: plain.score([]), "the given text holds no text"),
        (lambda: package.verify(plain, b"no proof"), "this is no proof file"),
        (lambda: plain.decompress(b"no file"), "no file that fairway compress made"),
        (lambda: package.run("tiny", overrides={"train.stepz": 1}), "did you mean 'steps'"),
        (lambda: package.run("tiny", overrides={"pack.budget_bytes": []}), "pack.budget_bytes"),
    ):
        with pytest.raises(BadInput, match=sentence):
            call()
    with pytest.raises(TypeError, match="token_ids must be"):
        plain.decode(np.zeros(2))
    with pytest.raises(TypeError, match="which is no TOML"):
        package.run("tiny", overrides={"train.steps": 1j})


def test_a_model_says_what_it_is_until_it_is_closed(artifact_file):
    with package.load(str(artifact_file)) as model:
        opened = artifact.read(artifact_file)
        assert (model.vocab_size, model.bos_id) == (300, 0)
        assert bytes(model) == artifact_file.read_bytes()
        assert model.size_bytes == artifact_file.stat().st_size
        assert model.sha256 == opened.sha256
        assert model.config == {
            "model": opened.model.model_dump(mode="json"),
            "memory": opened.memory.model_dump(mode="json"),
        }
        assert json.dumps(model.config)
        assert f"{model.size_bytes:,} bytes, 300 tokens, sha256 {model.sha256[:8]}" in repr(model)
        model.logprobs("the")
    assert "closed" in repr(model)
    model.close()
    for use in (
        lambda: model.vocab_size,
        lambda: model.config,
        lambda: bytes(model),
        lambda: model.encode("the"),
        lambda: model.logprobs("the"),
        lambda: model.stream("the"),
        lambda: model.compress(b"the"),
        lambda: model.prove("the"),
        lambda: package.verify(model, b""),
    ):
        with pytest.raises(ValueError, match="the model is closed"):
            use()


def test_a_run_continues_with_overrides(tiny, capfd):
    found = package.run(
        tiny.recipe, tiny.path, {"run.score_limit_s": 999.0}, force="verify", quiet=True
    )
    assert capfd.readouterr() == ("", "")
    assert found.path == tiny.path
    assert found.results["prove"] == tiny.require(ProveResult)
    assert found.failures == []
    assert found.verdict
    again = package.run(tiny.recipe, str(tiny.path), {"pack.budget_bytes": 10**7})
    assert "pack: ran, because another pack" in capfd.readouterr().err
    assert again.results["pack"] == tiny.require(PackResult)
    assert again.results["pack"].budget_bytes == 10**7


# --- types of arguments ---

VALUES = {
    "none": None, "true": True, "int": 3, "float": 2.5, "complex": 1j, "str": "x", "bytes": b"x",
    "bytearray": bytearray(b"x"), "path": Path("x"), "empty": [], "texts": ["x", b"x"],
    "ints": [3], "mixed": ["x", 3], "bools": [True], "array": np.array([0]), "dict": {"a": 1},
    "odd dict": {1: "a"}, "object": object(), "class": int, "file": io.BytesIO(),
}  # fmt: skip
TEXT, NUMBER = {"str", "bytes"}, {"int"}
SEVERAL = TEXT | {"empty", "texts"}
FILE, IDS = {"str", "path"}, {"empty", "ints", "array"}
BUFFER, STREAM = {"bytes", "bytearray"}, {"file"}
PROMPT = {"prompt": TEXT, "tokens": NUMBER, "temperature": NUMBER | {"float"}, "seed": NUMBER}
# Which of VALUES each argument of each public function takes.
ARGUMENTS = {
    "load": {"path": FILE},
    "verify": {"model": FILE, "proof": FILE | {"bytes"}, "text": SEVERAL | {"none"}},
    "run": {
        "recipe": FILE,
        "out": FILE | {"none"},
        "overrides": {"dict", "none"},
        "force": {"str"},
        "quiet": {"true"},
    },
    "Model": {"path": FILE},
    "Model.encode": {"text": TEXT},
    "Model.decode": {"token_ids": IDS},
    "Model.token_bytes": {"token_ids": IDS},
    "Model.logprobs": {"text": SEVERAL},
    "Model.next_token": {"prompt": TEXT},
    "Model.generate": PROMPT,
    "Model.stream": PROMPT,
    "Model.compress": {"data": BUFFER},
    "Model.decompress": {"data": BUFFER},
    "Model.compress_file": {"source": STREAM, "target": STREAM},
    "Model.decompress_file": {"source": STREAM, "target": STREAM},
    "Model.score": {"text": SEVERAL},
    "Model.prove": {"text": SEVERAL},
    "Model.close": {},
    "NextToken.top": {"count": NUMBER},
    "Proof.save": {"path": FILE},
}


def public_functions():
    """Yield (name, function) of every public function, constructor and method."""
    for name in package.__all__:
        found = getattr(package, name)
        if inspect.isfunction(found):
            yield name, found
        elif found.__module__ == library.__name__:
            if "__init__" in vars(found) and found is package.Model:
                yield name, found.__init__
            for method, function in vars(found).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function


def test_a_wrong_type_is_a_type_error_with_one_sentence(plain):
    """Give every argument of every public function each kind of value that it does not take."""
    owners = {"Model": plain, "NextToken": plain.next_token("the"), "Proof": plain.prove("the")}
    functions = dict(public_functions())
    taken = {name: {*inspect.signature(f).parameters} - {"self"} for name, f in functions.items()}
    assert taken == {name: {*arguments} for name, arguments in ARGUMENTS.items()}
    for name, arguments in ARGUMENTS.items():
        owner = owners.get(name.partition(".")[0])
        good = {key: VALUES[min(kinds)] for key, kinds in arguments.items()}
        for key, kinds in arguments.items():
            for kind in VALUES.keys() - kinds:
                given = [owner] if owner else []
                with pytest.raises(TypeError) as raised:
                    functions[name](*given, **good | {key: VALUES[kind]})
                sentence = str(raised.value)
                assert f"{key} must be " in sentence, (name, key, kind)
                assert sentence.endswith(type(VALUES[kind]).__name__) or " of " in sentence
                assert "\n" not in sentence


def test_numbers_of_numpy_are_numbers(plain):
    numbers = {"tokens": np.int64(2), "temperature": np.float32(0.5), "seed": np.uint8(1)}
    assert plain.generate("the", **numbers) == plain.generate("the", 2, 0.5, 1)


# --- documentation ---


def test_nothing_else_is_public():
    assert sorted(package.__all__) == package.__all__
    assert {name for name in dir(package) if not name.startswith("_")} == {*package.__all__}
    own = {
        name
        for name, found in vars(library).items()
        if not name.startswith("_") and getattr(found, "__module__", "") == library.__name__
    }
    assert own <= {*package.__all__}
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = package.lode
    assert all(getattr(package, name) for name in package.__all__)


def documented(tree):
    """Yield (name, docstring) of every public class, function, method and field of a module."""
    for node in tree.body:
        name = getattr(node, "name", "_")
        if name.startswith("_"):
            continue
        yield name, ast.get_docstring(node)
        inside = node.body if isinstance(node, ast.ClassDef) else []
        for inner, following in pairwise([*inside, node]):
            if isinstance(inner, ast.AnnAssign) and not inner.target.id.startswith("_"):
                yield f"{name}.{inner.target.id}", inspect.cleandoc(following.value.value)
            elif isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                found = ast.get_docstring(inner)
                if "overload" not in map(ast.unparse, inner.decorator_list):
                    yield f"{name}.{inner.name}", found


def test_every_public_name_has_a_text_and_its_examples_run(finished_tiny, tmp_path, monkeypatch):
    shutil.copytree(finished_tiny.parent / "data", tmp_path / "runs" / "data")
    shutil.copytree(finished_tiny, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    names = {"fairway": package, "sys": sys, "model": package.load("runs/demo")}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    parser, examples = doctest.DocTestParser(), 0
    for name, text in documented(ast.parse(inspect.getsource(library))):
        assert text, name
        assert "\n>>>" not in text, f"{name}: a page shows an example as code if it is indented"
        assert text.split("\n\n")[0].endswith((".", ":")), name
        test = parser.get_doctest(text, names, name, "library.py", 0)
        examples += bool(test.examples)
        said = io.StringIO()
        assert runner.run(test, out=said.write, clear_globs=False).failed == 0, said.getvalue()
        names |= {"model": package.load("runs/demo")}
    assert examples >= 20


# --- export and upload ---


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
