"""The page of a proof in browsers: what it shows, what it refuses, and that it asks for nothing.

Chromium is driven by Playwright and has to be there; Firefox, by firefox.py, where it is.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import firefox
import numpy as np
import pytest
import switches

from fairway.coding import artifact
from fairway.coding.codec import Codec
from fairway.coding.lanes import Layout
from fairway.coding.session import open_model
from fairway.formats.proof import ARTIFACT_BYTES, Digest, Header, ProofChunk, text_digest
from fairway.io.binary import join
from fairway.page.build import proof_page
from fairway.page.view import view

pytestmark = pytest.mark.slow

FIREFOX = next(filter(None, map(shutil.which, ["firefox-esr", "firefox"])), None)
PROBES = Path(__file__).with_name("probes.js").read_text("utf-8").split("\n", 1)[1]
DECODE_MS = 300_000
LEAST_CONTRAST = 4.5
LONGEST_TASK_MS = 200
MOST_NODES = 5000
HOSTILE = [
    b"<script>alert(1)</script></textarea></style><img src=x onerror=alert(2)>{{script}}<!-- -->",
    "left \u202eto right\u202c, \u2066alone\u2069, no\u200bspace, \ufeffmark, so\u00adft".encode(),
    b"surrogates \xed\xa0\x80\xed\xbf\xbf, cut \xe2\x82, long \xc0\xaf \xff\xfe, \x00\x07\x1b\x7f",
    "\u05d0\u05d1 \u0627\u0628 \u4e16\u754c \U0001f600 e\u0301 \u2028 \u2029 \r\n\t|".encode(),
    b"javascript:alert(3) &lt;b&gt; &#0; %00 \\u0000 ' \" ` ${alert(4)}",
]
HIDDEN = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]"


# Proofs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lanes():
    """A model with both sides of the document memory, and a proof of 16 documents in 3 lanes."""
    return switches.make("lanes-memory")


@pytest.fixture(scope="module")
def small():
    """Another such model, and a proof of 3 documents."""
    return switches.make("memory")


def header_of(opened, documents):
    """Return the header of a proof of one chunk."""
    digest = Digest()
    for document in documents:
        digest.update(document)
    text = text_digest(digest.text_sha256, digest.lengths_sha256)
    return Header(None, b"", text, bytes.fromhex(opened.sha256)[:ARTIFACT_BYTES], 1).to_bytes()


def proof_of(model, documents, header=None):
    """Return the proof of some documents, behind the header of others if there are any."""
    opened = artifact.read(model)
    codec = Codec(open_model(opened, workers=1), opened.tokenizer)
    tokens = opened.tokenizer.encode_documents(documents)
    starts = switches.Starts(np.array([0]), np.array([False]))
    intervals = codec.intervals(tokens, Layout(len(tokens), starts), lambda tokens, bits: None)
    coded, _ = codec.encode_tokens(tokens, starts, intervals)
    return join([header_of(opened, header or documents) + ProofChunk(coded, []).to_bytes()])


def stored_proof_of(model, documents):
    """Return the proof that stores documents as they are."""
    return join(
        [header_of(artifact.read(model), documents) + ProofChunk(None, documents).to_bytes()]
    )


def changed(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def costs_of(model, tokens, starts):
    """Return what Python charges at each coded token of a chunk for it, and for all, in bits."""
    opened, layout = artifact.read(model), Layout(len(tokens), starts)
    stepper = open_model(opened, workers=1).stepper(layout)
    fed, found = np.full(layout.lanes, opened.bos_id), {}
    for step in range(layout.steps):
        where = layout.positions(step)
        costs = 30 - np.log2(np.diff(stepper.step(fed[: len(where)]), axis=1))
        fed = tokens[where].astype(np.int64)
        for lane, position in enumerate(where.tolist()):
            found[position] = costs[lane, fed[lane]], costs[lane]
        stepper.observe(fed)
    return found


# Chromium ----------------------------------------------------------------------------------------


class Windows:
    """Windows of one test or module; whatever a page complained about is in `faults`."""

    def __init__(self, chromium, folder):
        self._chromium, self._folder, self._contexts, self.faults = chromium, folder, [], []

    def open(self, page, until="good", width=1280, height=900, scheme="light", **options):
        """Open a page, wait for a verdict of the kind `until`, and return its tab."""
        file = self._folder / f"page-{len(self._contexts)}.html"
        file.write_bytes(page)
        size = {"width": width, "height": height}
        context = self._chromium.new_context(viewport=size, color_scheme=scheme, **options)
        self._contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        tab.on("console", lambda line: line.type == "error" and self.faults.append(line.text))
        tab.goto(file.as_uri())
        wait_for(tab, until)
        return tab

    def close(self):
        for context in self._contexts:
            context.close()
        assert not self.faults


@pytest.fixture
def windows(chromium, tmp_path):
    opened = Windows(chromium, tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def decoded(chromium, lanes, tmp_path_factory):
    """The page of `lanes` in a window that tests share, and all that its text shows."""
    opened = Windows(chromium, tmp_path_factory.mktemp("shared"))
    tab = opened.open(proof_page(lanes.model, lanes.proof))
    yield tab, ask(tab, "readText")
    opened.close()


@pytest.fixture
def tab(decoded):
    """The shared window, at the beginning of the text, shaded by cost."""
    tab, _ = decoded
    tab.mouse.move(5, 5)
    tab.get_by_text("Cost", exact=True).click()
    to_text(tab)
    return tab


def ask(tab, probe, *arguments):
    """Return what one of the probes says."""
    return tab.evaluate(f"async (given) => await ({PROBES}).{probe}(...given)", arguments)


@contextmanager
def tasks_of(chromium):
    """Fill a list with the processor time of every task of a page's main thread, in ms.

    Processor time, as what else the machine does is no fault of the page.
    """
    tasks_ms: list[float] = []
    chromium.start_tracing(categories=["toplevel"])
    try:
        yield tasks_ms
    finally:
        events = json.loads(chromium.stop_tracing())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    for e in events:
        is_main = names.get((e["pid"], e["tid"])) == "CrRendererMain"
        if is_main and e["name"].endswith("RunTask") and "tdur" in e:
            tasks_ms.append(e["tdur"] / 1000)


def wait_for(tab, kind):
    verdict = "document.getElementById('verdict').dataset.kind"
    tab.wait_for_function(f"() => ['good', 'bad', 'plain'].includes({verdict})", timeout=DECODE_MS)
    assert tab.get_attribute("#verdict", "data-kind") == kind, state(tab)


def state(tab):
    return tab.inner_text("#state"), tab.inner_text("#reason")


def to_text(tab):
    tab.evaluate("document.getElementById('text-part').scrollIntoView()")
    tab.wait_for_function(
        "() => document.querySelectorAll('#text .row:not(.head) [data-i]').length > 0"
    )


def text_of(read):
    return bytes.fromhex("".join(shown for row in read["rows"] for _, shown in row))


# What the page shows -----------------------------------------------------------------------------


def test_the_page_decodes_its_proof_and_shows_the_very_text(decoded, lanes):
    tab, read = decoded
    text = b"".join(lanes.documents)
    assert state(tab)[0] == "Verified"
    assert tab.inner_text("#bpb") == f"{8 * len(lanes.proof) / len(text):.4f}"
    facts = tab.inner_text("#facts")
    assert lanes.text_sha256 in facts
    assert f"{len(text):,} bytes" in facts
    assert text_of(read) == text


def test_the_main_thread_is_never_busy_for_long(chromium, windows, small):
    with tasks_of(chromium) as tasks_ms:
        windows.open(proof_page(small.model, small.proof))
    assert len(tasks_ms) > 100
    assert max(tasks_ms) < LONGEST_TASK_MS


@pytest.mark.parametrize("name", ["cased", "challenge", "chunks", "stored", "empty-documents"])
def test_every_kind_of_tokenizer_and_chunk_shows_its_text(windows, name):
    made = switches.make(name)
    tab = windows.open(proof_page(made.model, made.proof))
    assert text_of(ask(tab, "readText")) == b"".join(made.documents)
    assert tab.inner_text("#documents") == f"{len(made.documents)}"


def test_tokens_have_the_bits_and_alternatives_that_python_computes(decoded, lanes):
    _, read = decoded
    shown = {int(i): token for i, token in read["tokens"].items()}
    ((tokens, starts),) = lanes.chunks
    expected = costs_of(lanes.model, tokens, starts)
    assert sorted(shown) == sorted(expected)
    for i, (bits, costs) in expected.items():
        assert shown[i]["bits"] == pytest.approx(bits, abs=1e-6)
        likeliest = shown[i]["likeliest"][:5]
        found = [cost for _, cost in likeliest]
        assert len({token for token, _ in likeliest}) == 5
        assert found == pytest.approx([costs[token] for token, _ in likeliest], abs=1e-6)
        assert found == pytest.approx(np.sort(costs)[:5], abs=1e-6)
        assert sum(shown[i]["shares"]) == pytest.approx(1, abs=1e-6)
    total = sum(token["bits"] for token in shown.values())
    assert total == pytest.approx(sum(bits for bits, _ in expected.values()), rel=1e-6)
    header_bits = 8 * 40  # and those of the checksum and the lanes' starts, at most
    assert 8 * len(lanes.proof) - header_bits < total < 8 * len(lanes.proof)


def test_pointing_at_a_token_opens_its_card_and_leaving_closes_it(tab):
    tab.locator("#text .row:not(.head) [data-i]").nth(30).hover()
    card = tab.locator("#token")
    assert "bits · probability" in card.inner_text()
    tab.mouse.move(5, 5)
    assert not card.is_visible()


def test_the_switch_shades_tokens_by_who_predicted_them(tab, decoded):
    assert {shade[0] for shade in ask(tab, "shades").values()} == {"k"}
    tab.get_by_text("Predictor").click()
    to_text(tab)
    shades = ask(tab, "shades")
    assert len(shades) > 50
    for i, shade in shades.items():
        shares = decoded[1]["tokens"][i]["shares"]
        assert shade[0] == "ngm"[shares.index(max(shares))]
    assert {shade[0] for shade in shades.values()} >= {"n", "g"}
    assert "neural cache" in tab.inner_text("#legend")


def test_documents_can_be_jumped_to(tab, lanes):
    assert tab.inner_text("#documents") == str(len(lanes.documents))

    def is_at_top(number):
        head = tab.get_by_text(re.compile(f"^Document {number}(start)?$"))
        return abs(head.bounding_box()["y"] - tab.locator("#bar").bounding_box()["height"]) < 60

    tab.fill("#document", "5")
    tab.press("#document", "Enter")
    assert is_at_top(5)
    tab.locator("#next").click()
    assert is_at_top(6)
    tab.locator("#previous").click()
    tab.locator("#previous").click()
    assert is_at_top(4)
    tab.fill("#document", "999")
    tab.press("#document", "Enter")
    assert tab.get_by_text(re.compile(f"^Document {len(lanes.documents)}")).is_visible()


def test_a_click_on_the_chart_goes_there(tab):
    tab.locator("#running svg").scroll_into_view_if_needed()
    box = tab.locator("#running svg").bounding_box()
    tab.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    tab.wait_for_timeout(200)
    assert int(tab.input_value("#document")) > 10


def test_the_keyboard_reaches_every_token_and_says_what_it_is(tab):
    tab.locator("[name=shade]:checked").focus()
    tab.keyboard.press("Tab")
    focused = "Number(document.activeElement.dataset.i)"
    first = tab.evaluate(focused)
    for _ in range(100):
        tab.keyboard.press("ArrowRight")
    assert tab.evaluate(focused) == first + 100
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate(focused) == first + 99
    top = "document.activeElement.closest('.row').getBoundingClientRect().top + scrollY"
    before = tab.evaluate(top)
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate(top) > before
    assert tab.locator("#token").is_visible()
    assert "bits, probability" in tab.inner_text("#announce")
    tab.keyboard.press("Escape")
    assert not tab.locator("#token").is_visible()


def test_parts_of_the_page_have_names_that_a_screen_reader_says(tab):
    for svg in tab.locator("svg[role=img]").all():
        assert len(svg.get_attribute("aria-label")) > 30
    assert tab.locator("svg[role=img]").count() == 2
    for role, name in (
        ("button", "Previous document"), ("button", "Next document"), ("spinbutton", "Document"),
        ("radio", "Cost"), ("radio", "Predictor"), ("group", "The text, token by token"),
        ("region", "Verified"), ("region", "The text"), ("button", "Choose files"),
    ):  # fmt: skip
        assert tab.get_by_role(role, name=name, include_hidden=True).count() == 1, (role, name)
    assert tab.locator("#announce").get_attribute("aria-live") == "polite"


def test_the_text_can_be_saved(tab, lanes):
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save the text").click()
    assert Path(download.value.path()).read_bytes() == b"".join(lanes.documents)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(decoded, scheme):
    tab, _ = decoded
    tab.emulate_media(color_scheme=scheme)
    to_text(tab)
    tab.locator("#text .row:not(.head) [data-i]").nth(30).hover()
    contrasts = ask(tab, "contrasts")
    tab.emulate_media(color_scheme="light")
    assert len(contrasts) > 60
    assert not {name: value for name, value in contrasts.items() if value < LEAST_CONTRAST}


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_is_wider_than_the_window(decoded, width):
    tab, _ = decoded
    tab.set_viewport_size({"width": width, "height": 844})
    tab.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    to_text(tab)
    tab.wait_for_timeout(200)
    right = "e.getBoundingClientRect().right"
    edges = tab.evaluate(f"[...document.querySelectorAll('#text, #text .row')].map((e) => {right})")
    widest = tab.evaluate("document.documentElement.scrollWidth")
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = false))")
    assert widest <= width
    assert max(edges[1:]) <= edges[0]


def test_a_tap_opens_the_card_on_a_phone(windows, small):
    page = proof_page(small.model, small.proof)
    tab = windows.open(page, width=390, height=844, has_touch=True, is_mobile=True)
    to_text(tab)
    tab.locator("#text .row:not(.head) [data-i]").nth(10).tap()
    box = tab.locator("#token").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844


def test_a_text_of_2_mb_holds_few_nodes(chromium, windows, small):
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"etaoin shrdlu\n", np.uint8)
    documents = [random.choice(letters, 20_000).tobytes() for _ in range(99)]
    documents.append(random.choice(letters[:-1], 100_000).tobytes())  # of one line
    proof = stored_proof_of(small.model, documents)
    with tasks_of(chromium) as tasks_ms:
        tab = windows.open(proof_page(small.model, proof))
        for share in (0.3, 0.999, 0):
            tab.evaluate(f"scrollTo(0, {share} * document.documentElement.scrollHeight)")
            tab.wait_for_timeout(300)
            assert ask(tab, "countNodes") < MOST_NODES
    assert max(tasks_ms) < LONGEST_TASK_MS
    tab.fill("#document", "73")
    tab.press("#document", "Enter")
    assert tab.get_by_text("Document 73", exact=True).is_visible()
    rows = tab.locator("#text .row:not(.head)").all_text_contents()
    assert documents[72][:300].decode() in "".join(rows)


def test_the_page_of_a_view_shows_what_python_computed(windows, small, tmp_path):
    """A page of `fairway view` proves nothing, and says so."""
    (tmp_path / "model.fairway").write_bytes(small.model)
    text = b"\n".join([*HOSTILE, *small.documents])
    (tmp_path / "<b>notes.txt").write_bytes(text)
    made = view(tmp_path / "model.fairway", tmp_path / "<b>notes.txt", tmp_path / "view.html")
    tab = windows.open((tmp_path / "view.html").read_bytes(), until="plain")
    assert state(tab)[0] == "Computed by Fairway"
    assert "no proof" in state(tab)[1]
    assert tab.inner_text("#name") == "What model.fairway knows about <b>notes.txt"
    assert tab.inner_text("#bpb") == f"{made.bpb:.4f}"
    assert not tab.locator("#by-hand").is_visible()
    read = ask(tab, "readText")
    assert text_of(read) == text
    bits = sum(token["bits"] for token in read["tokens"].values())
    assert bits == pytest.approx(made.bits, rel=1e-6)


# Other files -------------------------------------------------------------------------------------


def test_other_files_are_checked_when_they_are_dropped(windows, small):
    other = switches.make("cased")
    tab = windows.open(proof_page(small.model, small.proof))
    files = {"other.fwp": other.proof.hex(), "other.fairway": other.model.hex()}
    ask(tab, "drop", files)
    tab.wait_for_function("() => document.title.startsWith('✓ other.fwp')")
    assert other.text_sha256 in tab.inner_text("#facts")
    assert text_of(ask(tab, "readText")) == b"".join(other.documents)


def test_files_that_are_dropped_while_others_decode_take_their_place(windows, lanes, small):
    tab = windows.open(proof_page(small.model, small.proof))
    slow = {"slow.fwp": lanes.proof.hex(), "slow.fairway": lanes.model.hex()}
    ask(tab, "drop", slow)
    tab.wait_for_function("() => document.title.includes('slow.fwp')")
    ask(tab, "drop", {"fast.fwp": small.proof.hex(), "fast.fairway": small.model.hex()})
    tab.wait_for_function("() => document.title.startsWith('✓ fast.fwp')")
    tab.wait_for_timeout(1000)
    assert tab.title().startswith("✓ fast.fwp")
    assert text_of(ask(tab, "readText")) == b"".join(small.documents)


def test_other_files_are_checked_when_they_are_chosen(windows, small, tmp_path):
    tab = windows.open(proof_page(small.model, small.proof))
    (tmp_path / "new.fwp").write_bytes(proof_of(small.model, [b"another text"]))
    tab.set_input_files("#choose", tmp_path / "new.fwp")  # beside the page's own model
    tab.wait_for_function("() => document.title.startsWith('✓ new.fwp')")
    assert text_of(ask(tab, "readText")) == b"another text"
    (tmp_path / "notes.txt").write_bytes(b"no proof")
    tab.set_input_files("#choose", tmp_path / "notes.txt")
    wait_for(tab, "bad")
    assert "notes.txt is neither a model" in state(tab)[1]
    assert not tab.get_by_role("button", name="Save the text").is_visible()


# What the page refuses ---------------------------------------------------------------------------


def refused(windows, model, proof):
    """Return the reason of a red verdict, beside which there is no score and nothing to save."""
    tab = windows.open(proof_page(model, proof), until="bad")
    verdict, reason = state(tab)
    assert verdict == "Not verified"
    assert not tab.locator("#bpb").is_visible()
    assert not tab.get_by_role("button", name="Save the text").is_visible()
    return reason.lower()


def test_damage_gives_a_red_verdict_that_names_it(windows, small):
    model, proof = small.model, small.proof
    assert "chunk 1" in refused(windows, model, changed(proof, len(proof) // 2))
    assert "proof" in refused(windows, model, proof[:-3])
    assert "model" in refused(windows, changed(model, len(model) // 2), proof)
    assert "model" in refused(windows, model[:-100], proof)
    assert "proof" in refused(windows, model, b"")
    assert "model" in refused(windows, b"", proof)


def test_another_text_under_right_checksums_is_refused(windows, small):
    lie = proof_of(small.model, [b"what the stream holds"], header=[b"what the header says!"])
    assert "decoded text is not the one" in refused(windows, small.model, lie)


def test_a_proof_of_another_model_is_refused(windows, small):
    other = switches.make("cased")
    assert artifact.read(small.model).sha256[:8] in refused(windows, other.model, small.proof)


@pytest.mark.parametrize("write", [proof_of, stored_proof_of])
def test_hostile_texts_are_shown_and_never_interpreted(windows, small, write):
    """The page has no element, script or direction that a text brought."""
    tab = windows.open(proof_page(small.model, write(small.model, HOSTILE)))
    assert text_of(ask(tab, "readText")) == b"".join(HOSTILE)
    to_text(tab)
    assert tab.locator("#text :not(div, span, b, i)").count() == 0
    assert tab.locator("img, iframe, object, textarea").count() == 0
    assert tab.evaluate("document.scripts.length") == 3
    assert not re.search(HIDDEN, tab.inner_text("body"))
    labels = tab.evaluate("""[...document.querySelectorAll("#text b")]
      .map((b) => [b.dataset.hex, getComputedStyle(b, "::before").content, b.offsetWidth])""")
    seen = {code for code, label, width in labels if len(label) > 2 and width > 5}
    assert seen >= {"E2 80 AE", "ED", "00", "1B", "7F", "FF", "E2 80 8B", "EF BB BF"}
    tokens = "[...document.querySelectorAll('#text [data-i]')]"
    assert tab.evaluate(f"{tokens}.every((t) => getComputedStyle(t).unicodeBidi === 'isolate')")


# What the page asks for --------------------------------------------------------------------------


@contextmanager
def serving(page):
    """Serve one page; yield its address and the list of what was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_page_makes_no_request_and_its_policy_forbids_any(chromium, small):
    with serving(proof_page(small.model, small.proof)) as (address, asked):
        context = chromium.new_context()
        sent = []
        context.on("request", lambda request: sent.append(request.url))
        tab = context.new_page()
        tab.goto(f"{address}/proof.html")
        wait_for(tab, "good")
        tab.get_by_text("Predictor").click()
        ask(tab, "readText")
        local = ("blob:", "data:")
        assert [url for url in sent if not url.startswith(local)] == [f"{address}/proof.html"]
        tries = ask(tab, "forbidden", address)
        assert all(tries.values()), tries
        context.close()
    assert asked == ["/proof.html"]


def test_without_javascript_the_page_says_how_to_check_it(chromium, small, tmp_path):
    (tmp_path / "page.html").write_bytes(proof_page(small.model, small.proof))
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    assert "fairway verify" in tab.inner_text("noscript")
    tab.get_by_text("Check it without this page").click()
    for name, data in (("model.fairway", small.model), ("proof.fwp", small.proof)):
        with tab.expect_download() as download:
            tab.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == name
        assert Path(download.value.path()).read_bytes() == data
    context.close()


# Firefox -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not FIREFOX, reason="no Firefox here")
def test_firefox_decodes_the_proof_too(small, tmp_path):
    (tmp_path / "page.html").write_bytes(proof_page(small.model, small.proof))
    with firefox.running(FIREFOX, tmp_path) as browser:
        browser.resize(1280, 900)
        browser.open(tmp_path / "page.html")
        browser.wait("['good', 'bad'].includes(document.getElementById('verdict').dataset.kind)")
        assert browser.run("return document.getElementById('state').textContent") == "Verified"
        facts = browser.run("return document.getElementById('facts').textContent")
        assert small.text_sha256 in facts
        read = browser.run(f"return ({PROBES}).readText()")
        assert text_of(read) == b"".join(small.documents)
        ((tokens, starts),) = small.chunks
        for i, (bits, _) in costs_of(small.model, tokens, starts).items():
            assert read["tokens"][str(i)]["bits"] == pytest.approx(bits, abs=1e-6)
        tries = browser.run(f"return ({PROBES}).forbidden('http://127.0.0.1:9')")
        assert all(tries[name] for name in tries if name != "eval"), tries  # Marionette may
        browser.run("document.getElementById('text-part').scrollIntoView()")
        tokens = "[...document.querySelectorAll('#text .row:not(.head) [data-i]')]"
        boxes = f"{tokens}.map((token) => token.getBoundingClientRect())"
        inside = "(box) => box.top > 200 && box.bottom < 600 && box.width > 5"
        box = browser.wait(f"{boxes}.find({inside})")
        browser.point(round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2))
        browser.wait("!document.getElementById('token').hidden")
