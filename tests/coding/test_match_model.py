"""What a document said before is mixed in: normalised, causal, the same for encoder and decoder."""

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.coding import artifact, match_model
from fairway.coding.codec import Codec
from fairway.coding.lanes import Division, Layout, Starts, chunk_ends, documents_of, lane_starts
from fairway.coding.match_model import MatchModel, MatchStepper
from fairway.coding.model import Intervals, TokenCosts
from fairway.coding.online import division
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import Adapt, Memory, Score, Sgd
from fairway.formats.range_coder import TOTAL

BOS, V = 0, 8
GOLDEN = "e188831254e1f27051a61c6c038e7fc716dd8126608740d850175a20bac7cf20"
MEMORY = Memory(ngram=3, neural_cache=32)  # of memory_artifact
MEMORIES = st.builds(Memory, ngram=st.integers(0, 4), neural_cache=st.sampled_from([0, 1, 5, 64]))
TEXTS = st.lists(st.lists(st.integers(1, V - 1), max_size=40), min_size=1, max_size=6)


STATES = np.random.default_rng(5).normal(size=(V, V, 6)).astype(np.float32)


def states_after(tokens, before):
    """A state for each pair of last tokens, some of them alike."""
    return STATES[tokens, 0] + STATES[0, before] / 2


class Uniform:
    """A network that predicts every token alike, from states of its own."""

    def __init__(self, lanes):
        self._last = np.full(lanes, BOS)

    def step(self, tokens):
        self.states = states_after(tokens, self._last[: len(tokens)])
        self._last = tokens.copy()
        row = np.arange(V + 1, dtype=np.int64) * (TOTAL // V)
        return np.repeat(row[None], len(tokens), 0)

    def observe(self, tokens):
        return


def joined(documents):
    return np.array([t for document in documents for t in [BOS, *document]], np.uint16)


def tables(tokens, layout, memory):
    """(positions, mixed tables) of every step, lanes in lockstep."""
    stepper = MatchStepper(Uniform(layout.lanes), memory, V, BOS, layout)
    fed = np.full(layout.lanes, BOS, np.int64)
    for step in range(layout.steps):
        where = layout.positions(step)
        yield where, stepper.step(fed[: len(where)]).copy()
        fed = tokens[where].astype(np.int64)
        stepper.observe(fed)


def layout_of(tokens, cuts):
    documents = documents_of(tokens, BOS)
    chosen = np.unique([0, *(documents[c % len(documents)] for c in cuts)])
    return Layout(len(tokens), Starts(chosen, np.zeros(len(chosen), bool)))


@settings(max_examples=60)
@given(TEXTS, st.lists(st.integers(0, 5), max_size=3), MEMORIES)
def test_encoder_and_decoder_mix_alike(documents, cuts, memory):
    tokens = joined(documents)
    layout = layout_of(tokens, cuts)
    known = MatchModel(memory, V, BOS, tokens, layout)
    found = {}
    for first, length in zip(layout.first.tolist(), layout.length.tolist(), strict=True):
        at = np.arange(first, first + length)
        for piece in np.array_split(np.arange(length), 3):
            network = network_costs(tokens, at[piece], first)
            mixed = known.mix(network)
            pairs = zip(*mixed.intervals, strict=True)
            found |= dict(zip(mixed.positions.tolist(), pairs, strict=True))
    for where, table in tables(tokens, layout, memory):
        assert (table[:, 0] == 0).all()
        assert (table[:, -1] == TOTAL).all()
        assert (np.diff(table) >= 1).all()
        for lane, position in enumerate(where.tolist()):
            symbol = int(tokens[position])
            assert found[position] == (table[lane, symbol], table[lane, symbol + 1])


def network_costs(tokens, positions, first):
    """What `Uniform` would say of a lane that begins at `first`."""
    starts = tokens[positions].astype(np.int64) * (TOTAL // V)
    fed = np.where(positions == first, BOS, tokens[positions - 1])
    before = np.where(positions - first < 2, BOS, tokens[positions - 2])
    intervals = Intervals(starts, starts + TOTAL // V)
    return TokenCosts.of(positions, intervals, states_after(fed, before))


class Definition:
    """One lane by docs/exact.md, section 8, with its numbers and in plain integers."""

    def __init__(self, memory):
        self.memory, self.documents, self.units = memory, [[]], [[]]
        rows = match_model._START[: memory.ngram + 1]
        self.shares = [[x * (1 << 20) // 1000 for x in row] for row in rows]

    def table(self, state):
        """C' from a uniform C, and what learning needs of it."""
        K, C = self.memory.ngram, self.memory.neural_cache
        h, units = self.documents[-1], self.units[-1]
        _, exponent = np.frexp(np.abs(state).max())
        y = np.rint(np.ldexp(state.astype(float), 20 - exponent))
        self.unit = np.rint(y * 1024 / np.sqrt(sum(int(v) ** 2 for v in y))).astype(int)
        self.asked = {}  # k: (bucket, n, c of every token)
        near = list(zip(h, units, strict=True))[-C:] if C else []
        if near:
            dots = [int(unit @ self.unit) for _, unit in near]
            steps = [(max(dots) - dot) // 512 for dot in dots]
            weights = [round(2.0 ** (16 - s / 64)) if s < 1024 else 0 for s in steps]
            alike = min(max(max(dots) // (1 << 16) - 8, 0), 7)
            count = [
                sum(w for w, (t, _) in zip(weights, near, strict=True) if t == v) for v in range(V)
            ]
            self.asked[0] = 3 * alike + min(sum(weights) // (1 << 17), 2), sum(weights), count
        for k in range(1, K + 1):
            sequels = [h[j + k] for j in range(len(h) - k) if h[j : j + k] == h[len(h) - k :]]
            if len(h) >= k and sequels:
                bucket = 3 * min(len(sequels), 8) + min(len(set(sequels)), 3) - 4
                self.asked[k] = bucket, len(sequels), [sequels.count(v) for v in range(V)]
        rest, added, self.from_cache = TOTAL - V, [0] * V, [0] * V
        for k in sorted(self.asked, reverse=True):
            bucket, n, count = self.asked[k]
            share = rest * self.shares[k][bucket] // (1 << 20)
            if k:
                parts = [share // n * c for c in count]
            else:
                factor = (share << 16) // n
                parts = [0] * V
                for weight, (token, _) in zip(weights, near, strict=True):
                    parts[token] += weight * factor // (1 << 16)
                self.from_cache = parts
            rest -= sum(parts)
            added = [a + b for a, b in zip(added, parts, strict=True)]
        self.added = added
        below = np.cumsum([0, *added])
        return [w + (TOTAL // V * w - w) * rest // TOTAL + int(below[w]) for w in range(V)] + [
            TOTAL
        ]

    def observe(self, token):
        q, likely, s = TOTAL // V, {}, 1 << 20
        for k in sorted(self.asked):
            bucket, n, count = self.asked[k]
            share = self.shares[k][bucket]
            p = share * (TOTAL * count[token] // n) // (1 << 20)
            q = max(p + q * ((1 << 20) - share) // (1 << 20), 1)
            likely[k] = p * (1 << 20) // q
        for k in sorted(self.asked, reverse=True):
            bucket = self.asked[k][0]
            share = self.shares[k][bucket]
            share += s * (likely[k] - share) // (1 << 27)
            self.shares[k][bucket] = min(max(share, 1 << 8), (1 << 20) - (1 << 14))
            s = s * ((1 << 20) - likely[k]) // (1 << 20)
        self.documents[-1].append(token)
        self.units[-1].append(self.unit)
        if token == BOS:
            self.documents.append([])
            self.units.append([])


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 3), max_size=50), min_size=1, max_size=3), MEMORIES)
def test_the_mixture_is_its_definition(documents, memory):
    """Through all documents of a lane."""
    tokens = joined(documents)
    layout = Layout(len(tokens), Starts.whole())
    network, definition = Uniform(1), Definition(memory)
    stepper, fed = MatchStepper(network, memory, V, BOS, layout), np.zeros(1, np.int64)
    for token in tokens[1:].tolist():
        table = stepper.step(fed)[0].tolist()
        assert table == definition.table(network.states[0])
        for symbol in range(V):
            ngrams, cache = stepper.memory_parts(np.array([symbol]))[0].tolist()
            assert ngrams + cache == definition.added[symbol]
            assert cache == definition.from_cache[symbol]
        fed = np.array([token])
        stepper.observe(fed)
        definition.observe(token)


def test_the_mixture_has_its_golden_bits():
    """Of 300 tokens, with states from integers: with other bits, proofs would not decode."""

    class Counted(Uniform):
        def step(self, tokens):
            table = super().step(tokens)
            self.at = getattr(self, "at", -1) + 1
            place = np.arange(24) * 104729 + self.at * self.at % 11 * 7919
            self.states = ((place % 2001 - 1000) / 16).astype(np.float32)[None]
            return table

    tokens = np.array([(i * i // 3 + i // 7) % 7 + 1 if i % 90 else BOS for i in range(300)])
    stepper = MatchStepper(
        Counted(1), Memory(ngram=4, neural_cache=64), V, BOS, Layout(300, Starts.whole())
    )
    digest = hashlib.sha256()
    for fed, token in pairwise(tokens.tolist()):
        digest.update(stepper.step(np.array([fed])).astype("<i8").tobytes())
        stepper.observe(np.array([token]))
    assert digest.hexdigest() == GOLDEN


def test_weights_are_powers_of_two_rounded():
    """In integers: (2w - 1)^64 ≤ 2^(64·17 - i) ≤ (2w + 1)^64."""
    for i, weight in enumerate(match_model._WEIGHTS.tolist()):
        assert (2 * weight - 1) ** 64 < 1 << 64 * 17 - i < (2 * weight + 1) ** 64


@pytest.mark.parametrize(
    ("memory", "bits"),
    [
        (Memory(ngram=4, neural_cache=0), 1.3),
        (Memory(ngram=0, neural_cache=512), 2.2),
        (Memory(ngram=4, neural_cache=512), 1.3),
    ],  # states know two tokens
)
def test_what_repeats_gets_cheap_and_what_does_not_stays_dear(memory, bits):
    random = np.random.default_rng(3)
    again = np.tile(random.integers(1, V, 50), 8)
    never = random.integers(1, V, 400)
    costs = []
    for document in (again, never):
        tokens = joined([document.tolist()])
        layout = Layout(len(tokens), Starts.whole())
        at = np.arange(1, len(tokens))
        known = MatchModel(memory, V, BOS, tokens, layout)
        costs.append(known.mix(network_costs(tokens, at, 1)).intervals.bits.mean())
    assert costs[0] < bits
    assert costs[1] < 3 * 1.06


def test_documents_and_lanes_do_not_know_each_other():
    document = [1, 2, 3, 4, 5, 6, 7] * 5
    one, two = joined([document]), joined([[7, 6, 5] * 9, document])
    last = [
        table
        for _, table in tables(
            one, Layout(len(one), Starts.whole()), Memory(ngram=3, neural_cache=9)
        )
    ]
    apart = layout_of(two, [1])
    lane = [t for where, t in tables(two, apart, Memory(ngram=3, neural_cache=9)) if len(where)]
    which = next(i for i, first in enumerate(apart.first) if first > 1)
    for mine, table in zip(last, lane, strict=False):
        if which < len(table):
            np.testing.assert_array_equal(mine[0], table[which])


@pytest.fixture
def memory_artifact(memory_file):
    return artifact.read(memory_file)


WORDS = [
    b"the cat sat on the mat and the dog ran after the cat, " * 6,
    b"a bird",
    b"the cat sat " * 40,
]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("arithmetic", ["exact", "float"])
def test_texts_come_back(memory_artifact, arithmetic, lanes, monkeypatch):
    monkeypatch.setattr("fairway.formats.coded_tokens.TOKENS_PER_LANE", 16)
    opened = memory_artifact
    assert opened.memory == MEMORY
    tokenizer = opened.tokenizer
    tokens = tokenizer.encode_documents(WORDS)

    def codec():
        return Codec(open_model(opened, arithmetic, workers=2), tokenizer)

    quiet = lambda done, bits: None  # noqa: E731
    starts = lane_starts(len(tokens), documents_of(tokens, tokenizer.bos_id), lanes)
    layout = Layout(len(tokens), starts)
    coder = codec()
    coded, _ = coder.encode_tokens(tokens, starts, coder.intervals(tokens, layout, quiet))
    assert codec().decode_tokens(coded, quiet) == WORDS
    without = open_model(replace(opened, memory=Memory()), workers=1)
    bits = sum(float(costs.intervals.bits.sum()) for costs in without.token_costs(tokens, layout))
    assert 8 * len(coded.stream) < 0.8 * bits


@pytest.mark.parametrize(
    "how",
    [
        Adapt(method="dynamic"),
        Adapt(method="dynamic", order="lanes", lanes=3),  # some end within a block
        Adapt(method="lora", lanes=3),
        Adapt(method="sgd"),
        Adapt(method="sgd", sgd=Sgd(block_tokens=64)),  # longer than the window: it learns in rows
    ],
    ids=["dynamic", "dynamic in lanes", "lora", "sgd", "sgd in rows"],
)
def test_with_adaptation_a_proof_costs_what_the_score_says(memory_artifact, how, monkeypatch):
    monkeypatch.setattr("fairway.formats.coded_tokens.TOKENS_PER_LANE", 16)
    opened, tokenizer = memory_artifact, memory_artifact.tokenizer
    tokens = tokenizer.encode_documents(WORDS)
    documents = documents_of(tokens, tokenizer.bos_id)
    starts = lane_starts(len(tokens), documents, division(how, 1).lanes)
    assert (len(starts) > 1) == (how.method == "lora" or how.order == "lanes")
    free = [0, *starts.positions[~starts.inside]]  # paid for by the header

    def learner(memory=MEMORY):
        return open_model(replace(opened, memory=memory), "float", how, tokens=len(tokens))

    def score(memory):
        nats = np.zeros(len(tokens))
        for costs in text_costs(learner(memory), tokens, Score(), division(how, 1)):
            nats[costs.positions] = costs.nats
        nats[free] = 0.0
        return nats.sum()

    codec = Codec(learner(), tokenizer)
    coded, ideal_bits = codec.encode_tokens(tokens, starts, None)
    assert ideal_bits == pytest.approx(score(MEMORY) / np.log(2), rel=1e-3)
    assert score(MEMORY) < 0.9 * score(Memory())
    decoder = Codec(learner(), tokenizer)
    assert decoder.decode_tokens(coded, lambda done, bits: None) == WORDS


@pytest.mark.parametrize("floating", [False, True])
def test_a_score_is_what_the_proof_codes(memory_artifact, floating, monkeypatch):
    """λ belongs to a lane, so a score has a proof's chunks and lanes: the same integers."""
    monkeypatch.setattr("fairway.formats.coded_tokens.TOKENS_PER_LANE", 16)
    model, tokenizer = open_model(memory_artifact, workers=2), memory_artifact.tokenizer
    tokens = tokenizer.encode_documents(WORDS * 4)
    documents = documents_of(tokens, tokenizer.bos_id)
    division = Division(3, len(tokens) // 3)
    ends = chunk_ends(documents, len(tokens), division.tokens)
    codec, proved, free = Codec(model, tokenizer), 0.0, [0]
    for start, end in pairwise([0, *ends]):
        part = tokens[start:end]
        chunk = codec.encode(part, tokenizer.decode(part), division.lanes, lambda *_: None)
        assert chunk.lanes > 1, "no lanes: the test says nothing"
        starts = lane_starts(end - start, documents_of(part, tokenizer.bos_id), division.lanes)
        free += [start, *(start + starts.positions[~starts.inside])]  # paid for by the header
        proved += chunk.ideal_bits
    assert len(ends) > 1, "one chunk: the test says nothing"

    if floating:
        model = open_model(memory_artifact, "float")
    nats = np.zeros(len(tokens))
    for costs in text_costs(model, tokens, Score(), division):
        nats[costs.positions] += costs.nats
    assert (nats[1:] > 0).all()
    nats[free] = 0.0
    assert nats.sum() / np.log(2) == pytest.approx(proved, rel=1e-3 if floating else 1e-12)


def test_floating_point_charges_the_same(memory_artifact):
    opened = memory_artifact
    tokens = opened.tokenizer.encode_documents(WORDS)
    exact, floating = (sorted_nats(open_model(opened, a), tokens) for a in ("exact", "float"))
    np.testing.assert_allclose(exact, floating, rtol=0.02, atol=0.02)


def sorted_nats(model, tokens):
    costs = list(text_costs(model, tokens, Score(), division(Adapt(), 128)))
    positions = np.concatenate([some.positions for some in costs])
    return np.concatenate([some.nats for some in costs])[np.argsort(positions)]
