"""Pages as files: equal inputs give equal bytes, and nothing in them runs but the named script."""

import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.coding import artifact
from fairway.errors import BadInput, Damaged
from fairway.page import build
from fairway.page.build import proof_page, view_page
from fairway.page.charges import charges
from fairway.page.proof import page_of, page_of_bytes
from fairway.page.view import view
from fairway.pipeline.prove import decode

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL, PROOF = ((GOLDEN / f"memory.{ending}").read_bytes() for ending in ("fairway", "fwp"))
HOSTILE = "</script><script>alert(1)</script><!-- </textarea> {{script}} & \u2028\u202e\0 \r\n é"


class Page(html.parser.HTMLParser):
    """The elements of a page, as a browser's parser sees them."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.styles, self.links, self.policy, self.handlers = [], [], {}, "", []
        self.title = ""
        self._open = None
        self.feed(page.decode())

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self._open = (tag, named)
        self.handlers += [name for name in named if name.startswith("on") or name == "style"]
        if tag == "meta" and named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag == "a" and named.get("id") in ("model", "proof"):
            self.links[named["id"]] = named

    def handle_data(self, data):
        tag, named = self._open or ("", {})
        if tag == "script":
            self.scripts.append((named, data))
        elif tag == "style":
            self.styles.append(data)
        elif tag == "title":
            self.title += data

    def handle_endtag(self, tag):
        self._open = None

    @property
    def data(self):
        """What the scripts that are JSON hold, by id."""
        return {n["id"]: json.loads(text) for n, text in self.scripts if "type" in n}

    @property
    def programs(self):
        return [text for named, text in self.scripts if "type" not in named]


def saved(page, key):
    """The bytes that a reader saves from a link."""
    kind, _, data = page.links[key]["href"].partition(",")
    assert kind == "data:application/octet-stream;base64"
    return base64.b64decode(data, validate=True)


def hashed(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_a_page_has_one_script_and_a_policy_that_names_it():
    page = Page(proof_page(MODEL, PROOF))
    (program,), (style,) = page.programs, page.styles
    assert f"script-src 'sha256-{hashed(program)}' 'wasm-unsafe-eval';" in page.policy
    assert f"style-src 'sha256-{hashed(style)}';" in page.policy
    assert page.policy.startswith("default-src 'none'; ")
    assert not re.search(
        "unsafe-inline|unsafe-eval'(?<!wasm-unsafe-eval')|http|connect", page.policy
    )
    assert page.handlers == []


def test_equal_files_give_equal_pages():
    assert proof_page(MODEL, PROOF) == proof_page(bytes(MODEL), bytes(PROOF))
    assert proof_page(MODEL, PROOF) != proof_page(MODEL, PROOF[:-1])
    name = f"proof {hashlib.sha256(PROOF).hexdigest()[:8]}"
    page = Page(proof_page(MODEL, PROOF))
    assert page.title == f"Fairway: {name}"
    assert page.data["meta"] == {
        "kind": "proof",
        "name": name,
        "model": {
            "name": "model.fairway",
            "bytes": len(MODEL),
            "sha256": hashlib.sha256(MODEL).hexdigest(),
        },
        "proof": {
            "name": "proof.fwp",
            "bytes": len(PROOF),
            "sha256": hashlib.sha256(PROOF).hexdigest(),
        },
    }


@settings(max_examples=20)
@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_the_files_can_be_saved_from_the_page(model, proof):
    page = Page(proof_page(model, proof))
    assert (saved(page, "model"), saved(page, "proof")) == (model, proof)
    assert page.links["model"]["download"] == "model.fairway"
    assert len(page.programs) == 1


@pytest.mark.parametrize("times", [0, 1, 20])
def test_a_page_is_little_larger_than_its_files(times):
    model, proof = MODEL * times, PROOF * times
    assert len(proof_page(model, proof)) <= 1.4 * (len(model) + len(proof)) + 120_000


@settings(max_examples=30)
@given(st.text() | st.just(HOSTILE))
def test_whatever_the_text_is_it_stays_data(text):
    text = text.encode("utf-8", "replace").decode()  # names are printable before they come here
    page = view_page(text, {"name": text}, {"documents": [text]})
    read = Page(page)
    assert read.data["charges"] == {"documents": [text]}
    assert read.data["meta"]["name"] == text
    assert read.programs == Page(proof_page(MODEL, PROOF)).programs
    assert len(read.styles) == 1


def test_a_view_holds_the_text_and_its_charges(memory_file, tmp_path):
    documents = [HOSTILE, "the cat sat on the mat", "\udcff\udc80 odd bytes \ue001\ue002"]
    (tmp_path / "<i>.jsonl").write_text(
        "".join(json.dumps({"text": document}) + "\n" for document in documents)
    )
    result = view(memory_file, tmp_path / "<i>.jsonl", tmp_path / "view.html")
    data = Page((tmp_path / "view.html").read_bytes()).data
    texts = [document.encode("utf-8", "surrogatepass") for document in documents]
    made = charges(artifact.read(memory_file), texts)
    vocabulary, shown = data["charges"]["vocabulary"], data["charges"]["documents"]
    assert len(vocabulary) == made.tokenizer.vocab_size
    assert vocabulary[0] is None
    assert [base64.b64decode(d["bytes"]) for d in shown] == texts

    def column(name, form):
        return np.concatenate([np.frombuffer(base64.b64decode(d[name]), form) for d in shown])

    assert column("token", "<u2").tolist() == made.tokens.tolist()
    assert column("bits", "<f4") == pytest.approx(made.bits, rel=1e-6)
    assert column("bits", "<f4").sum() == pytest.approx(result.bits, rel=1e-6)
    assert result.bpb == pytest.approx(made.bits.sum() / sum(map(len, texts)))
    assert column("top", "<u2").reshape(-1, 5).tolist() == made.likeliest.tolist()
    probabilities = 2.0 ** -column("topBits", "<f4").reshape(-1, 5)
    assert probabilities[1:] == pytest.approx(made.likeliest_frequencies[1:] / 2**30, rel=1e-5)
    shares = column("shares", "<f4").reshape(-1, 3)
    assert shares[1:].sum(-1) == pytest.approx(1, rel=1e-6)
    assert not shares[0].any()
    for document, text in zip(shown, texts, strict=True):
        ends = np.frombuffer(base64.b64decode(document["ends"]), "<u4").tolist()
        tokens = np.frombuffer(base64.b64decode(document["token"]), "<u2").tolist()
        assert ends[0] == 0
        assert ends[-1] == len(text)
        for token, start, end in zip(tokens[1:], ends, ends[1:], strict=False):
            assert text[start:end] == base64.b64decode(vocabulary[token])


def test_templates_and_parts_must_fit():
    assert build._filled("{{a}} {{b}}", {"a": "{{b}}", "b": "{{a}}"}) == "{{b}} {{a}}"
    for template in ("{{a}}", "{{a}} {{b}} {{b}}", "{{a}} {{b}} {{c}}"):
        with pytest.raises(ValueError, match="asks for"):
            build._filled(template, {"a": "", "b": ""})


# Which files have a page.


def test_files_that_no_browser_could_decode_have_no_page(tmp_path, artifact_file):
    page_of(GOLDEN / "memory.fairway", GOLDEN / "memory.fwp")
    with pytest.raises(BadInput, match="needs the artifact whose SHA-256 begins with"):
        page_of_bytes(artifact_file.read_bytes(), PROOF)
    with pytest.raises(BadInput, match="this is no proof file"):
        page_of_bytes(MODEL, MODEL)
    with pytest.raises(BadInput, match=r"cannot be opened: .* not that of a Fairway artifact"):
        page_of_bytes(PROOF, PROOF)
    with pytest.raises(Damaged, match="the artifact cannot be opened"):
        page_of_bytes(MODEL[:-1], PROOF)
    with pytest.raises(Damaged, match="chunk 1"):
        page_of_bytes(MODEL, PROOF[:-1] + bytes([PROOF[-1] ^ 1]))
    with pytest.raises(BadInput, match="there is no such file"):
        page_of(GOLDEN / "memory.fairway", tmp_path / "nope")


@pytest.mark.parametrize("at", range(0, len(PROOF), 97))
def test_a_proof_with_a_page_decodes_or_is_named_as_damaged(at, tmp_path):
    """What `fairway page` lets through is what `fairway verify` reads, but for the text."""
    (tmp_path / "proof").write_bytes(damaged := PROOF[:at] + b"\x55" + PROOF[at + 1 :])
    try:
        page_of_bytes(MODEL, damaged)
    except BadInput as error:
        with pytest.raises(type(error)):
            decode(GOLDEN / "memory.fairway", tmp_path / "proof", tmp_path / "text")
