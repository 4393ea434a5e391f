"""Small models and proofs, one for each thing that the formats can name.

The integers come from a seeded generator, so nothing is trained. A second decoder must decode every
proof to the text that the first one coded.

    python tests/page/switches.py FOLDER    writes NAME.fairway, NAME.fwp and NAME.json of each

NAME.json holds what helps to find a first difference: hashes of every tensor's integers, operands,
activations of the first steps, and a hash of the frequencies of every step.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from challenge_models import train_challenge_model
from fairway.coding import artifact
from fairway.coding.codec import Codec
from fairway.coding.lanes import Layout
from fairway.coding.session import open_model
from fairway.config.schema import NO_MEMORY, Memory, Model
from fairway.data.challenge_tokenizer import load_challenge
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.exact.operands import prepare
from fairway.formats import byte_mixing
from fairway.formats.coded_tokens import Starts
from fairway.formats.proof import ARTIFACT_BYTES, Digest, Header, ProofChunk, text_digest
from fairway.formats.tensors import Grid, Matrix, Quantized, Vector
from fairway.io.binary import join
from fairway.model.parameters import tensors_of
from oracles.exact_network import ExactNetwork

BASE: dict[str, Any] = {
    "num_layers": 2, "dim": 24, "num_heads": 4, "num_kv_heads": 2, "mlp_mult": 2.0, "window": 32,
    "bigram_rows": 64, "bigram_dim": 8,
}  # fmt: skip
PLAIN = {"bigram_rows": 0, "smear": False}
DEEP = {"num_layers": 5}
REPEATED = {"num_layers": 4, "repeat_first": 1, "repeat_last": 2, "repeat_times": 2}
ALL_SWITCHES = {
    "num_layers": 3, "activation": "leaky2", "rotary_dims": 4, "layer_scale": True,
    "exclusive_layers": 1, "gate_channels": 6, "parallel_layers": 2, "repeat_first": 0,
    "repeat_last": 1, "repeat_times": 1,
}  # fmt: skip
WORDS = [
    "the", "cat", "sat", "on", "a", "Mat", "and", "the", "DOG", "ran", "after", "some", "Bird;",
    "USA", "it's\n\t", "-->", "Iphone", "<script>alert(1)</script>", "</textarea>", "\u202e",
    "\x00", "\u00e9\u4e16\U0001f600",
]  # fmt: skip
Integers = NDArray[np.int64]
Change = Callable[[str, NDArray[np.int16], Integers, Integers], None]
"""Change codes, rows and columns of a named matrix in place."""


def _nothing(name: str, codes: NDArray[np.int16], rows: Integers, columns: Integers) -> None:
    return


@dataclass(frozen=True)
class Case:
    """A model and the text that it codes."""

    model: dict[str, Any] = field(default_factory=dict)  # changes of BASE
    memory: Memory = NO_MEMORY
    kind: int = 1  # of the tokenizer
    unigram: bool = False  # for kind 2: scores that are no ranks
    fp16_parts: tuple[str, ...] = ()  # parts whose grid is fp16_row
    change: Change = _nothing
    vectors: dict[str, tuple[int, float]] = field(default_factory=dict)  # exponent, mean value
    documents: int = 6
    words: int = 25  # of a document
    repeats: bool = False  # documents repeat their own phrases
    empty_documents: bool = False  # two of three have no bytes
    lanes: Callable[[int], list[tuple[int, bool]]] = lambda tokens: [(0, False)]
    stored: tuple[int, ...] = ()  # which of the chunks are stored
    chunks: int = 1


def _wide(name: str, codes: NDArray[np.int16], rows: Integers, columns: Integers) -> None:
    """Codes beyond 127 in some matrices, and sums that cut others in ranges of columns."""
    if name.endswith(("0.attn.q", "1.mlp.down", "embed.tokens", "bigram_proj")):
        codes *= 37
        rows -= 20
    if name.endswith(("0.mlp.up", "1.attn.o")):
        codes *= 900
        rows -= 39


def _far_columns(name: str, codes: NDArray[np.int16], rows: Integers, columns: Integers) -> None:
    """A column so small that it counts as 0, and columns that differ by octaves."""
    if name != "embed.tokens":
        columns[1:2] -= 250
        columns[2:5] += np.array((9, -14, 3))[: len(columns[2:5])]


def _zeros(name: str, codes: NDArray[np.int16], rows: Integers, columns: Integers) -> None:
    """Heads without queries or values, an MLP and a bigram table without any."""
    if name.endswith(("0.attn.q", "1.attn.v")):
        codes[:6] = 0
    if name.endswith(("1.mlp.up", "bigram_table")):
        codes[:] = 0


def _large(name: str, codes: NDArray[np.int16], rows: Integers, columns: Integers) -> None:
    """Outputs that make the residual stream grow by octaves."""
    if name.endswith((".o", ".down")):
        rows += 40


def _three_lanes(tokens: int) -> list[tuple[int, bool]]:
    return [(0, False), (tokens // 3, True), (tokens // 2 + 5, True)]


def _copied(name: str, codes: NDArray[np.int16], rows: Integers, columns: Integers) -> None:
    """Rows that are nearly the row above."""
    for row in range(1, len(codes), 2):
        codes[row] = codes[row - 1]
        codes[row, row % codes.shape[1]] += 1


CASES = {
    "base": Case(),
    "plain": Case(PLAIN | {"num_layers": 1}),
    "no-bigram": Case({"bigram_rows": 0}),
    "no-smear": Case({"smear": False}),
    "bigram-of-one-row": Case({"bigram_rows": 1}),
    "bigram-of-two-rows": Case({"bigram_rows": 2, "bigram_dim": 5}),
    "blind": Case({"document_aware": False}),
    "blind-plain": Case(PLAIN | {"document_aware": False}),
    "leaky2": Case({"activation": "leaky2"}),
    "rotary": Case({"rotary_dims": 4, "rope_base": 123.456}),
    "layer-scale": Case({"layer_scale": True, "num_layers": 3}),
    "exclusive": Case({"exclusive_layers": 1}),
    "exclusive-all": Case({"exclusive_layers": 9}),
    "gate": Case({"gate_channels": 6}),
    "gate-scaled": Case({"gate_channels": 24, "layer_scale": True}),
    "parallel": Case({"parallel_layers": 1, "num_layers": 3}),
    "repeated": Case(REPEATED),
    "repeated-odd": Case(REPEATED | {"repeat_times": 1, "num_layers": 3}),
    "all-switches": Case(ALL_SWITCHES),
    "deep": Case({"num_layers": 7, "softcap": 12.3, "rope_base": 500.5}),
    "softcap-low": Case({"softcap": 0.3}),
    "one-head": Case({"num_heads": 1, "num_kv_heads": 1, "dim": 10, "mlp_mult": 1.37}),
    "each-head-its-own": Case({"num_kv_heads": 4}),
    "narrow-heads": Case({"num_heads": 12, "num_kv_heads": 3}),
    "short-window": Case({"window": 8}),
    "fp16-rows": Case(fp16_parts=("embedding", "attention", "mlp", "bigram")),
    "fp16-some": Case(fp16_parts=("embedding", "mlp")),
    "wide": Case(change=_wide),
    "far-columns": Case(change=_far_columns),
    "zeros": Case({"gate_channels": 3, "exclusive_layers": 2}, change=_zeros),
    "large": Case({"num_layers": 6, "exclusive_layers": 2}, change=_large),
    "copied-rows": Case(change=_copied),
    "cased": Case(kind=3),
    "challenge": Case(kind=2),
    "challenge-unigram": Case(kind=2, unigram=True),
    "ngram": Case(memory=Memory(ngram=4), repeats=True, documents=4, words=120),
    "ngram-1": Case(memory=Memory(ngram=1), repeats=True, documents=3),
    "neural-cache": Case(memory=Memory(neural_cache=40), repeats=True, documents=4, words=120),
    "memory": Case(
        {"num_layers": 3}, Memory(ngram=3, neural_cache=64), repeats=True, documents=3, words=200
    ),
    "memory-far-columns": Case(
        memory=Memory(ngram=2, neural_cache=7), repeats=True, change=_far_columns
    ),
    "lanes": Case(documents=12, words=120, lanes=_three_lanes),
    "lanes-memory": Case(
        {"num_layers": 1}, Memory(ngram=2, neural_cache=16), repeats=True, documents=16, words=90,
        lanes=_three_lanes,
    ),
    "chunks": Case(documents=6, chunks=3),
    "stored": Case(documents=6, chunks=3, stored=(0, 2)),
    "stored-only": Case(documents=3, stored=(0,)),
    "empty-documents": Case(documents=9, empty_documents=True),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """The files of a case, and what a decoder must find."""

    model: bytes
    parts: list[bytes]  # of the proof, without their checksums
    documents: list[bytes]
    text_sha256: str
    chunks: list[tuple[NDArray[np.uint16], Starts | None]]  # tokens; no starts: stored

    @property
    def proof(self) -> bytes:
        """The proof's file."""
        return join(self.parts)


def tokenizer_of(case: Case) -> Tokenizer:
    """Return the tokenizer of a case: its pieces are given, or SentencePiece trains them."""
    if case.kind == 2:
        text = "\n".join(f"the cat sat on a mat and ran after some birds {i}" for i in range(400))
        with TemporaryDirectory() as folder:
            settings = {"model_type": "unigram", "vocab_size": 310} if case.unigram else {}
            file = train_challenge_model(Path(folder) / "challenge.model", text, **settings)
            return load_challenge(file)
    pieces = ["th", "at", "the", " th", " a", "an", "and", " c", "\u4e16", "og", "ra", "er", " the"]
    pieces += ["<s", "\n\n", "ir", "us", "usa", "do", "dog", "\u00e9", " s", "ip"]
    marks = ["\ue001", "\ue002"] if case.kind == 3 else []
    text = b"\xff".join(piece.encode() for piece in marks + pieces)
    return read_tokenizer(bytes([case.kind]) + byte_mixing.compress(text))


def integers_of(case: Case, shape: Model, tokenizer: Tokenizer, seed: int) -> Quantized:
    """Return random integers that make a lively network."""
    random = np.random.default_rng(seed)
    matrices: dict[str, Matrix] = {}
    vectors: dict[str, Vector] = {}
    columns_of_layer: dict[str, Integers] = {}
    for name, size, part, _ in tensors_of(shape, tokenizer.vocab_size):
        leaf = name.rsplit(".", 1)[-1]
        if part == "small":
            exponent, mean = {
                "q_gain": (-40, 1500), "mix": (-44, 1600), "skips": (-44, 900),
                "attn_scale": (-42, 1500), "mlp_scale": (-42, 1200), "bigram_scale": (-40, 700),
                "smear_gate": (-38, 0),
            }[leaf]  # fmt: skip
            codes = np.rint(random.normal(mean, 400, size)).astype(np.int16)
            if leaf == "mix":
                codes[1] //= 3
            vectors[name] = codes, exponent
            continue
        m, n = size
        spread = 12 if leaf == "tokens" else 3
        codes = np.rint(random.normal(0, spread, size)).clip(-127, 127).astype(np.int16)
        weight = 0.02 if leaf == "tokens" else 1.5 / np.sqrt(n)
        exponent = round(4 * np.log2(weight / spread))
        rows = exponent + random.integers(-3, 4, m)
        columns = random.integers(-2, 3, n)
        if leaf in ("q", "k", "v"):
            columns = columns_of_layer.setdefault(name.rsplit(".", 1)[0], columns).copy()
        case.change(name, codes, rows, columns)
        grid: Grid = "fp16_row" if part in case.fp16_parts else "log2_quarter"
        if grid == "fp16_row":
            rows = (2.0 ** (rows / 4)).astype(np.float16).view(np.uint16).astype(np.int64)
            columns = np.zeros(n, np.int64)
        matrices[name] = Matrix(codes, rows, columns, grid)
    return Quantized(matrices, vectors)


def documents_of(case: Case, seed: int) -> list[bytes]:
    """Return random documents; with `repeats` they come back to their own phrases."""
    random = np.random.default_rng(seed)
    documents = []
    for i in range(case.documents):
        if case.empty_documents and i % 3 != 1:
            documents.append(b"")
            continue
        words = [WORDS[int(i)] for i in random.integers(len(WORDS), size=case.words)]
        if case.repeats:
            phrases = [words[i : i + 5] for i in range(0, 30, 5)]
            words = [w for i in random.integers(6, size=case.words // 5) for w in phrases[int(i)]]
        text = " ".join(words).encode()
        documents.append(text if case.kind == 2 else text + bytes([0xFF, 0xC3])[: len(words) % 3])
    return documents


def make(name: str) -> Made:
    """Return the files of a case by its name."""
    return made_of(CASES[name], list(CASES).index(name))


def made_of(case: Case, seed: int) -> Made:
    """Return the files of a case, by the project's own encoder."""
    tokenizer = tokenizer_of(case)
    shape = Model.model_validate(BASE | case.model)
    integers = integers_of(case, shape, tokenizer, seed)
    data = artifact.write(shape, tokenizer, integers, case.memory)
    opened = artifact.read(data)
    codec = Codec(open_model(opened, workers=1), tokenizer)
    documents = documents_of(case, seed)
    counted = tokenizer.decode(tokenizer.encode_documents(documents))
    chunks, bodies, digest = [], [], Digest()
    for i in range(case.chunks):
        own = documents[len(documents) * i // case.chunks : len(documents) * (i + 1) // case.chunks]
        tokens = tokenizer.encode_documents(own)
        written = tokenizer.decode(tokens)
        for document in written:
            digest.update(document)
        if i in case.stored:
            chunks.append((tokens, None))
            bodies.append(ProofChunk(None, written).to_bytes())
            continue
        positions, inside = zip(*_lanes(case, tokens, tokenizer.bos_id), strict=True)
        starts = Starts(np.array(positions), np.array(inside))
        layout = Layout(len(tokens), starts)
        intervals = codec.intervals(tokens, layout, lambda tokens, bits: None)
        chunks.append((tokens, starts))
        bodies.append(ProofChunk(codec.encode_tokens(tokens, starts, intervals)[0], []).to_bytes())
    header = Header(
        machine=None,
        learning=b"",
        text=text_digest(digest.text_sha256, digest.lengths_sha256),
        artifact=bytes.fromhex(opened.sha256)[:ARTIFACT_BYTES],
        chunks=len(bodies),
    )
    parts = [header.to_bytes() + bodies[0], *bodies[1:]]
    return Made(data, parts, counted, digest.text_sha256, chunks)


def random_case(random: np.random.Generator) -> Case:
    """Return a case with a random shape, random switches and a random document memory."""

    def pick(*values: Any) -> Any:
        return values[int(random.integers(len(values)))]

    heads, layers = pick(1, 2, 3, 4, 6), pick(1, 2, 3, 4, 5)
    width = pick(*(h for h in (2, 4, 6, 8, 10, 16) if h * heads >= 8))
    first = int(random.integers(layers))
    model = {
        "num_layers": layers,
        "dim": heads * width,
        "num_heads": heads,
        "num_kv_heads": pick(*(g for g in (1, 2, 3, 6) if heads % g == 0)),
        "mlp_mult": pick(0.9, 1.5, 2.0, 3.3),
        "window": pick(8, 9, 17, 64),
        "rope_base": pick(1.5, 100.0, 1e4, 1e6),
        "softcap": pick(1.0, 7.7, 30.0, 40.0),
        "bigram_rows": pick(0, 1, 2, 50, 257),
        "bigram_dim": pick(1, 3, 8),
        "smear": pick(False, True),
        "document_aware": pick(False, True, True),
        "activation": pick("relu2", "leaky2"),
        "rotary_dims": pick(*range(0, width + 1, 2)),
        "layer_scale": pick(False, True),
        "exclusive_layers": pick(0, 1, layers),
        "gate_channels": pick(0, 1, 3, heads * width),
        "parallel_layers": pick(0, 1, layers),
        "repeat_first": first,
        "repeat_last": pick(*range(first, layers)),
        "repeat_times": pick(0, 0, 1, 3),
    }
    return Case(
        model,
        Memory(ngram=pick(0, 0, 1, 4), neural_cache=pick(0, 0, 5, 100)),
        kind=pick(1, 3),
        fp16_parts=pick((), ("embedding",), ("attention", "bigram")),
        change=pick(_nothing, _wide, _far_columns, _zeros, _large, _copied),
        documents=pick(3, 4, 9),
        words=pick(30, 40, 60),
        repeats=pick(False, True),
        chunks=pick(1, 1, 3),
    )


def _lanes(case: Case, tokens: NDArray[np.uint16], bos: int) -> list[tuple[int, bool]]:
    """Return starts, of which those at a BOS are not inside a document."""
    starts = case.lanes(len(tokens))
    middle = np.flatnonzero(tokens == bos)[len(starts) :]
    if len(starts) > 1 and len(middle):
        starts[1] = (int(middle[0]), False)
    return starts


# What a decoder computes on its way --------------------------------------------------------------


class _Recorder(ExactNetwork):
    """The oracle of exact arithmetic, which says what it computed at the last step."""

    def step(self, tokens: Any) -> Any:
        self.seen: dict[str, Any] = {"fed": tokens.tolist()}
        self.passes: list[dict[str, Any]] = []
        table = super().step(tokens)
        self.seen |= {"passes": self.passes, "frequencies": _shown(table)}
        return table

    def _embed(self, tokens: Any, before: Any, alone: Any) -> Any:
        x = super()._embed(tokens, before, alone)
        self.seen["embedded"] = _shown(x)
        return x

    def _smear(self, x: Any, alone: Any) -> Any:
        x = super()._smear(x, alone)
        self.seen["smeared"] = _shown(x)
        return x

    def _attention(self, i: int, x: Any, position: int, starts: Any) -> Any:
        y = super()._attention(i, x, position, starts)
        keys, values, exponents = self.memory[i][-1]
        self.passes.append(
            {
                "x of attention": _shown(x),
                "keys": _shown(keys),
                "values": _shown(values),
                "exponents of values": _shown(exponents),
                "y": _shown(y),
            }
        )
        return y

    def _frequencies(self, x: Any) -> Any:
        self.seen["x of head"] = _shown(x)
        table = super()._frequencies(x)
        self.seen["states"] = _shown(self.states)
        return table


def _shown(values: Any) -> str:
    """Return shape, hash and the first eight of numbers, as little-endian int64 or float32."""
    flat = np.asarray(values)
    flat = flat.astype("<f4" if flat.dtype.kind == "f" else "<i8")
    sha256 = hashlib.sha256(np.ascontiguousarray(flat).tobytes()).hexdigest()[:16]
    first = ", ".join(repr(v.item()) for v in flat.ravel()[:8])
    return f"{flat.dtype.name}{list(flat.shape)} {sha256}: {first}"


def details(made: Made) -> dict[str, Any]:
    """Return what helps to find where another decoder first differs."""
    opened = artifact.read(made.model)
    p = prepare(opened)
    linears = {"head": p.head} | ({"bigram": p.bigram} if p.bigram else {})
    for i, layer in enumerate(p.layers):
        for name in ("qkv", "o", "up", "down", "gate"):
            if (linear := getattr(layer, name)) is not None:
                linears[f"pass {i} {name}"] = linear
    found: dict[str, Any] = {
        "text_sha256": made.text_sha256,
        "documents": [len(document) for document in made.documents],
        "vocabulary": opened.vocab_size,
        "bos": opened.bos_id,
        "tensors": {
            t.name: {
                "codes": _shown(opened.matrices[t.name].codes),
                "rows": _shown(opened.matrices[t.name].rows),
                "columns": _shown(opened.matrices[t.name].columns),
            }
            if t.name in opened.matrices
            else _shown(opened.weights[t.name])
            for t in opened.tensors
        },
        "embedding": _shown(p.embedding),
        "smear gate": None if p.smear_gate is None else _shown(p.smear_gate),
        "linears": {
            name: {
                "A": linear.largest_input,
                "ranges": [part.shape[1] for part in linear.slices],
                "rows": _shown(linear.rows),
                "columns": _shown(linear.columns),
            }
            for name, linear in linears.items()
        },
        "passes": [
            {
                "score scales": _shown(layer.score_scales),
                "mix": _shown(layer.mix),
                "skip": None if layer.skip is None else _shown(layer.skip),
                "exclusive": layer.exclusive,
                "parallel": layer.parallel,
            }
            for layer in p.layers
        ],
        "cosines": _shown(p.tables.cosines),
        "sines": _shown(p.tables.sines),
        "turns": [str(turn) for turn in p.tables.turns],
        "table of softcap": _shown(p.tables.softcap >> 32),
        "table of gates": _shown(p.tables.gate >> 32),
    }
    found["chunks"] = [_steps(opened, tokens, starts) for tokens, starts in made.chunks]
    return found


def _steps(
    opened: artifact.Artifact, tokens: NDArray[np.uint16], starts: Starts | None
) -> dict[str, Any]:
    """Return activations of the first steps of a chunk, and hashes of the tables of all steps."""
    if starts is None:
        return {"stored": len(tokens)}
    layout = Layout(len(tokens), starts)
    stepper, oracle = open_model(opened).stepper(layout), _Recorder(prepare(opened), layout.lanes)
    fed = np.full(layout.lanes, opened.bos_id, np.int64)
    first, tables = [], []
    for step in range(layout.steps):
        where = layout.positions(step)
        table = stepper.step(fed[: len(where)])
        if step < 4:
            oracle.step(fed[: len(where)])
            first.append(oracle.seen)
        tables.append(_shown(table))
        if step < 4:
            first[-1]["frequencies after the memory"] = _shown(table)
        fed = tokens[where].astype(np.int64)
        stepper.observe(fed)
    coded = tokens[layout.order()].tolist()
    return {"steps": first, "tables": tables, "coded tokens": coded}


def main(folder: Path) -> None:
    """Write all cases."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        made = make(name)
        (folder / f"{name}.fairway").write_bytes(made.model)
        (folder / f"{name}.fwp").write_bytes(made.proof)
        (folder / f"{name}.json").write_text(json.dumps(details(made), indent=1))
        (folder / f"{name}.text").write_bytes(b"".join(made.documents))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
