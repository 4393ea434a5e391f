"""Learning while coding: nothing before a token may depend on it, and both sides learn the same."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairway.coding import online
from fairway.coding.codec import Codec
from fairway.coding.float_model import FloatModel
from fairway.coding.lanes import Division, Layout, Starts, lane_starts
from fairway.coding.online import ORDERS
from fairway.coding.online.learning_model import LearningModel, UpdateBlock
from fairway.coding.protocols import text_costs
from fairway.config.schema import Adapt, Dynamic, Lora, Score, Sgd
from fairway.errors import BadInput
from fairway.formats.proof import read_chunks
from fairway.io.binary import Reader, join
from fairway.model.parameters import kind_of

WHOLE = Division(1, 1 << 20)
ROLLING = Score(protocol="rolling")
HOWS = {
    "sgd": Adapt(method="sgd", sgd=Sgd(block_tokens=8, lr=0.5, momentum=0.5, cosine=True)),
    "sgd, epochs": Adapt(method="sgd", sgd=Sgd(block_tokens=8, lr=0.3, epochs=2, clip=0.5)),
    "sgd, rows": Adapt(method="sgd", sgd=Sgd(block_tokens=48, lr=0.5, epochs=2, rows=2)),
    "dynamic": Adapt(method="dynamic", dynamic=Dynamic(block_tokens=8, lr=0.01)),
    "lora": Adapt(method="lora", lora=Lora(block_tokens=8, lr=0.05, rank=2)),
    "lora, warm": Adapt(method="lora", lora=Lora(block_tokens=8, lr=0.05, rank=2, reset=False)),
}
every_method = pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
orders = st.sampled_from(ORDERS)
slow = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def learner(model, how, tokens=1000):
    return LearningModel(copy.deepcopy(model), how, tokens)


def draw(random, count, share=0.06):
    """Tokens with documents of every length, the first a BOS."""
    tokens = random.integers(1, 300, count).astype(np.uint16)
    tokens[random.random(count) < share] = 0
    tokens[0] = 0
    return tokens


def starts_of(random, tokens, lanes):
    """Some lanes, at documents where there are any, else inside them."""
    places = np.sort(random.choice(np.arange(1, len(tokens)), lanes - 1, replace=False))
    positions = np.append(0, places)
    return Starts(positions, tokens[positions] != 0)


def in_lockstep(learner, tokens, layout):
    """What the coder is given for every token, in coding order: int64[k, 2]."""
    stepper = learner.stepper(layout)
    fed, found = np.zeros(layout.lanes, np.int64), []
    for step in range(layout.steps):
        where = layout.positions(step)
        table = stepper.step(fed[: len(where)])
        fed = tokens[where].astype(np.int64)
        rows = np.arange(len(where))
        found.append(np.stack([table[rows, fed], table[rows, fed + 1]], 1))
        stepper.observe(fed)
    return np.concatenate(found)


@every_method
@slow
@given(seed=st.integers(0, 2**32 - 1), lanes=st.integers(1, 4), order=orders)
def test_no_charge_depends_on_a_token_that_is_coded_later(lively_model, how, seed, lanes, order):
    """To the last bit, in the path that proves."""
    random = np.random.default_rng(seed)
    tokens = draw(random, 60)
    layout = Layout(len(tokens), starts_of(random, tokens, lanes))
    how = how.model_copy(update={"order": order})
    place = int(random.integers(len(layout.order())))
    flipped = tokens.copy()
    flipped[layout.order()[place]] = 1 + (int(tokens[layout.order()[place]]) + 7) % 299
    one, other = (in_lockstep(learner(lively_model, how), t, layout) for t in (tokens, flipped))
    np.testing.assert_array_equal(one[:place], other[:place])


@pytest.mark.parametrize("name", ["lora", "lora, warm"])
def test_adapters_of_a_lane_know_nothing_of_other_lanes(lively_model, name):
    """So lanes are a matter of speed, and every order is left to right."""
    random = np.random.default_rng(3)
    tokens, other = draw(random, 120), draw(random, 120)
    other[60:] = tokens[60:]
    layout = Layout(120, Starts(np.array([0, 60]), np.array([False, True])))
    found_costs = []
    for text in (tokens, other):
        found = in_lockstep(learner(lively_model, HOWS[name]), text, layout)
        found_costs.append(found[layout.order() >= 60])
    np.testing.assert_array_equal(*found_costs)
    assert online.order_of(HOWS[name].model_copy(update={"order": "lanes"})) == "left-to-right"


@every_method
@pytest.mark.parametrize("order", ORDERS)
def test_score_charges_what_the_proof_codes(lively_model, how, order, monkeypatch):
    """But for rounding, and for the documents that lanes start at, which a proof does not code."""
    monkeypatch.setattr("fairway.formats.coded_tokens.TOKENS_PER_LANE", 120)
    how = how.model_copy(update={"order": order, "lanes": 3})
    tokens = draw(np.random.default_rng(4), 420, 0.03)
    nats = np.zeros(len(tokens))
    times = np.zeros(len(tokens), int)
    division = online.division(how, 1)
    for costs in text_costs(learner(lively_model, how, len(tokens)), tokens, ROLLING, division):
        nats[costs.positions] = costs.nats
        times[costs.positions] += 1
    assert times[0] == 0
    assert (times[1:] == 1).all()
    documents = np.flatnonzero(tokens == 0)
    starts = lane_starts(len(tokens), documents, division.lanes)
    layout = Layout(len(tokens), starts)
    proved = in_lockstep(learner(lively_model, how, len(tokens)), tokens, layout)
    coded = (30 - np.log2(proved[:, 1] - proved[:, 0])) * np.log(2)
    np.testing.assert_allclose(nats[layout.order()].sum(), coded.sum(), rtol=2e-4)
    unchanged = np.zeros(len(tokens))
    for costs in text_costs(FloatModel(lively_model), tokens, ROLLING, division):
        unchanged[costs.positions] = costs.nats
    assert np.abs(nats - unchanged).max() > 0.01


@every_method
def test_what_nothing_compresses_is_learned_by_both_sides(lively_model, tokenizer, how):
    noise = np.random.default_rng(1).bytes(150).replace(b"\0", b"x")
    chunks = [(tokenizer.encode_documents([d]), [d]) for d in (noise, b"the cat sat on a mat " * 9)]
    total = sum(len(tokens) for tokens, _ in chunks)
    codec = Codec(learner(lively_model, how, total), tokenizer)
    made = [codec.encode(tokens, text, 1, lambda *_: None) for tokens, text in chunks]
    assert len(made[0].body) > len(noise), "it was compressed: the test says nothing"
    reader = Reader(join(chunk.body for chunk in made), "a file")
    read = read_chunks(reader, len(chunks))
    assert sum(chunk.tokens for chunk in read) == total
    decoder = Codec(learner(lively_model, how, total), tokenizer)
    for chunk, (_, documents) in zip(read, chunks, strict=True):
        assert decoder.decode(chunk, lambda *_: None) == documents


@every_method
def test_a_fresh_learner_decodes_chunk_after_chunk(lively_model, tokenizer, how):
    texts = [[b"the cat sat on a mat ", b"", b"and some bird ran after the dog " * 9], [b"xyz"] * 4]
    chunks = [(tokenizer.encode_documents(documents), documents) for documents in texts]
    total = sum(len(tokens) for tokens, _ in chunks)
    codec = Codec(learner(lively_model, how, total), tokenizer)
    made = [codec.encode(tokens, documents, 1, lambda *_: None) for tokens, documents in chunks]
    reader = Reader(join(chunk.body for chunk in made), "a file")
    assert made[0].lanes == 1, "stored: the test says nothing"
    decoder = Codec(learner(lively_model, how, total), tokenizer)
    read = read_chunks(reader, len(chunks))
    for chunk, (_, documents) in zip(read, chunks, strict=True):
        assert decoder.decode(chunk, lambda *_: None) == documents


@every_method
def test_a_restored_learner_goes_on_as_the_one_it_was_taken_from(lively_model, how):
    random = np.random.default_rng(8)
    first, second = draw(random, 100), draw(random, 100)
    layout = Layout(100, Starts.whole())
    one = learner(lively_model, how, 200)
    in_lockstep(one, first, layout)
    kept = one.snapshot()
    wanted = in_lockstep(one, second, layout)
    other = learner(lively_model, how, 200)
    other.restore(kept)
    np.testing.assert_array_equal(in_lockstep(other, second, layout), wanted)


def test_sgd_is_the_librarys(lively_model):
    how = Adapt(method="sgd", sgd=Sgd(block_tokens=16, lr=0.2, momentum=0.75, clip=0.5))
    ours = learner(lively_model, how)
    theirs = copy.deepcopy(lively_model)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.2, momentum=0.75)
    random = np.random.default_rng(1)
    for _ in range(3):
        block = one_block(random, 16)
        ours.start(1)
        ours.learn(block, 16)
        loss = torch.nn.functional.cross_entropy(theirs.logits(block.fed)[0], block.coded[0])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(ours.network.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_dynamic_evaluation_is_its_formula(lively_model):
    s = Dynamic(block_tokens=16, lr=0.01, beta=0.9, eps=0.001, decay=0.1)
    ours = learner(lively_model, Adapt(method="dynamic", dynamic=s))
    model = copy.deepcopy(lively_model)
    start = [p.detach().double() for p in model.parameters()]
    squares = [torch.zeros_like(p) for p in start]
    random = np.random.default_rng(1)
    for step in range(1, 4):
        block = one_block(random, 16)
        ours.start(1)
        ours.learn(block, 16)
        loss = torch.nn.functional.cross_entropy(model.logits(block.fed)[0], block.coded[0])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for p, g, v, p0 in zip(model.parameters(), gradients, squares, start, strict=True):
            v.mul_(0.9).add_(0.1 * g.double() ** 2)
            moved = p.double() - 0.01 * g.double() / ((v / (1 - 0.9**step)).sqrt() + 0.001)
            p.data = (moved + 0.1 * (p0 - moved)).float()
    for a, b in zip(ours.network.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_adapters_add_their_product(lively_model):
    """Against a network whose matrices are W + BA."""
    how = Adapt(method="lora", lora=Lora(block_tokens=16, rank=3, lr=0.1, decay=0.0))
    ours = learner(lively_model, how)
    random = np.random.default_rng(2)
    ours.learn(one_block(random, 16), 16)
    rule, block = ours.rule, one_block(random, 16)
    with rule.applied(), torch.no_grad():
        found = ours.network.logits(block.fed)
    merged = copy.deepcopy(lively_model)
    places = {n: p for n, p in merged.named_parameters() if kind_of(n).adapters}
    tied = places.pop("embed.tokens")
    inner = dict(zip(["embed.tokens", *places], rule._inner, strict=True))
    outer = dict(zip(["embed.tokens", *places], rule._outer, strict=True))
    with torch.no_grad():
        for name, p in places.items():
            p += outer[name][0] @ inner[name][0]
        hidden = merged.hidden(block.fed)
        tied += outer["embed.tokens"][0] @ inner["embed.tokens"][0]  # of the head alone
        torch.testing.assert_close(found, merged.head(hidden), rtol=1e-4, atol=1e-4)
    assert (found - lively_model.logits(block.fed)).abs().max() > 0.01


def test_adapters_begin_anew_with_a_document(lively_model):
    ours = learner(lively_model, HOWS["lora"])
    random = np.random.default_rng(2)
    ours.learn(one_block(random, 8), 8)
    assert all(b.abs().max() > 0 for b in ours.rule._outer)
    block = one_block(random, 8)
    block.coded[0, -1] = 0
    ours.learn(block, 8)
    assert all(b.abs().max() == 0 for b in ours.rule._outer)


@pytest.mark.parametrize("name", ["dynamic", "lora"])
def test_activations_in_bfloat16(lively_model, name):
    """As on a GPU: weights, gradients and averages stay in float32."""
    ours = learner(lively_model, HOWS[name])
    ours.network.dtype = torch.bfloat16
    ours.start(1)
    random = np.random.default_rng(2)
    charges = [ours.learn(one_block(random, 8), 8, with_costs=True) for _ in range(3)]
    assert all(torch.isfinite(charge.nats).all() for charge in charges)
    changed = ours.rule._outer if name == "lora" else ours.network.parameters()
    assert all(t.dtype == torch.float32 and t.abs().max() > 0 for t in changed)


@pytest.mark.parametrize("protocol", ["plain", "sliding"])
@pytest.mark.parametrize("name", ["sgd", "sgd, rows", "dynamic"])
def test_windows_charge_each_token_once_and_learn_after_it(lively_model, protocol, name):
    tokens, how = draw(np.random.default_rng(6), 300), HOWS[name]
    score = Score(protocol=protocol, stride=8)
    place = 200
    flipped = tokens.copy()
    flipped[place] = 1 + (tokens[place] + 5) % 299
    found = np.zeros((2, len(tokens)))
    for nats, text in zip(found, (tokens, flipped), strict=True):
        times = np.zeros(len(tokens), int)
        for costs in text_costs(learner(lively_model, how, 300), text, score, WHOLE):
            nats[costs.positions] = costs.nats
            times[costs.positions] += 1
        assert times.tolist() == [0] + [1] * 299
    block = max(how.settings.block_tokens, 32 if protocol == "plain" else 8)
    before = (place - 1) // block * block if name != "sgd, rows" else 0
    np.testing.assert_array_equal(found[0][:before], found[1][:before])
    base = np.zeros(len(tokens))
    for costs in text_costs(FloatModel(lively_model), tokens, score, WHOLE):
        base[costs.positions] = costs.nats
    np.testing.assert_allclose(found[0][1:8], base[1:8], rtol=1e-4)
    assert np.abs(found[0] - base).max() > 1e-3


def test_what_cannot_be_done_is_refused(lively_model):
    tokens = draw(np.random.default_rng(6), 50)
    with pytest.raises(BadInput, match="--protocol rolling"):
        text_costs(learner(lively_model, HOWS["lora"]), tokens, Score(protocol="plain"), WHOLE)
    with pytest.raises(BadInput, match="more than the window"):
        learner(lively_model, Adapt(method="dynamic", dynamic=Dynamic(block_tokens=33)))


def one_block(random, size):
    tokens = torch.from_numpy(random.integers(1, 300, (1, size + 1)))
    return UpdateBlock(
        tokens[:, :-1].clone(), tokens[:, 1:].clone(), torch.ones(1, size, dtype=bool)
    )
