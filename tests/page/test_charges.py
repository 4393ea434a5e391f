"""Charges of a text: they are those of `score`, and the alternatives are the model's."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairway.coding import artifact
from fairway.coding.lanes import Layout, Starts, documents_of
from fairway.coding.online import USUAL_DIVISION
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import Score
from fairway.errors import BadInput
from fairway.formats.range_coder import TOTAL
from fairway.page import charges as charging
from fairway.page.charges import PIPE, bits_of, charges, read_documents

DOCUMENTS = [b"the cat sat on the mat and the cat sat on the dog", b"a bird", b"some bird ran" * 30]
TEXTS = st.lists(
    st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)), min_size=1, max_size=4
)


@pytest.fixture(params=["artifact_file", "memory_file"])
def opened(request):
    return artifact.read(request.getfixturevalue(request.param))


def test_every_bit_is_charged_as_score_charges_it(opened):
    made = charges(opened, DOCUMENTS)
    model = open_model(opened, workers=1)
    scored = np.zeros(len(made.tokens))
    for costs in text_costs(model, made.tokens, Score(protocol="rolling"), USUAL_DIVISION):
        scored[costs.positions] = costs.intervals.bits
    assert made.bits.tolist() == scored.tolist()
    assert made.bits[0] == 0
    assert (made.bits[1:] > 0).all()
    assert made.bpb == pytest.approx(scored.sum() / sum(map(len, DOCUMENTS)), rel=1e-12)


def test_the_likeliest_tokens_are_the_models(opened):
    made = charges(opened, DOCUMENTS[:1])
    stepper = open_model(opened, workers=1).stepper(Layout(len(made.tokens), Starts.whole()))
    for i, (before, token) in enumerate(zip(made.tokens[:-1], made.tokens[1:], strict=True), 1):
        frequencies = np.diff(stepper.step(np.array([int(before)]))[0]).tolist()
        ranked = sorted(range(len(frequencies)), key=lambda s: (-frequencies[s], s))[:5]
        assert made.likeliest[i].tolist() == ranked
        assert made.likeliest_frequencies[i].tolist() == [frequencies[s] for s in ranked]
        assert made.parts[i].sum() == frequencies[token]
        stepper.observe(np.array([int(token)]))


def test_parts_are_the_networks_alone_without_a_memory(artifact_file, memory_file):
    alone = charges(artifact.read(artifact_file), DOCUMENTS).parts
    assert not alone[:, 1:].any()
    mixed = charges(artifact.read(memory_file), DOCUMENTS).parts
    assert (mixed[1:, 0] > 0).all()
    assert (mixed >= 0).all()
    assert mixed[:, 1].any()
    assert mixed[:, 2].any()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_any_bytes_are_charged(memory_file, documents):
    opened = artifact.read(memory_file)
    made = charges(opened, documents)
    assert made.documents == opened.tokenizer.decode(made.tokens)
    assert len(documents_of(made.tokens, 0)) == len(documents)
    coded = made.parts.sum(-1)[1:]
    assert ((coded >= 1) & (coded < TOTAL)).all()


def test_bits_of_frequencies():
    bits = bits_of(np.array([0, TOTAL, TOTAL // 2, 1]))
    assert bits.tolist() == [0.0, 0.0, 1.0, 30.0]


def test_a_vocabulary_of_three_has_five_alternatives():
    symbols, frequencies = charging._likeliest(np.array([[3, 9, 3]]))
    assert symbols.tolist() == [[1, 0, 2, 2, 2]]
    assert frequencies.tolist() == [[9, 3, 3, 3, 3]]


def test_texts_that_cannot_be_shown(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(BadInput, match="holds no text"):
        read_documents(tmp_path / "empty.txt", tokenizer)
    (tmp_path / "large.txt").write_bytes(b"x" * 5_000_001)
    with pytest.raises(BadInput, match="too many to look at: give a part"):
        read_documents(tmp_path / "large.txt", tokenizer)
    with pytest.raises(BadInput, match="nope"):
        read_documents(tmp_path / "nope.txt", tokenizer)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(BadInput, match="standard input is closed"):
        read_documents(PIPE, tokenizer)
