"""Every class of the gallery is found and named; valid twins pass."""

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.audit import Charges, causality, normalisation, power
from fairway.audit.audit import audit
from fairway.audit.audit_text import AuditText
from fairway.audit.causality import helpful
from fairway.audit.experiment import Audit, changed
from fairway.errors import BadInput
from gallery import scorers as gallery
from gallery.local import Local


def audited(scorer, vocab=1024, count=300, seed=3, minutes=0.02, maker=None):
    tokens = gallery.text(vocab, count, seed)
    text = AuditText(tokens, vocab, 0, gallery.token_bytes(tokens))
    return audit(Local(scorer, maker), text, minutes, seed, "it")


def broken(result):
    return {f.condition for f in result.findings if f.verdict == "broken"}


@pytest.mark.parametrize("maker", gallery.INVALID, ids=lambda m: m.__name__)
def test_an_invalid_scorer_is_found_and_named(maker):
    _, condition = gallery.INVALID[maker]
    result = audited(maker(1024), minutes=0.1 if condition == "normalised" else 0.02)
    assert condition in broken(result)
    assert not result.valid
    assert condition in result.failure


@pytest.mark.parametrize("count", [300, 1500], ids=["short", "probed"])
@pytest.mark.parametrize("maker", gallery.CHEATERS, ids=lambda m: m.__name__)
def test_a_scorer_with_a_memory_is_found(maker, count):
    """In the way in which a score is computed: one call of a fresh process, on the whole text."""
    result = audited(maker(256), 256, count, minutes=0.05, maker=lambda: maker(256))
    assert broken(result) & gallery.CHEATERS[maker], result.findings


def test_bets_are_made_in_first_calls_too(monkeypatch):
    """Where no later call would lose them."""
    monkeypatch.setattr(normalisation, "whole_sum", lambda *_: None)
    tokens, scorer = gallery.text(256, 1500, 3), gallery.lifted_once(256)
    scorer(tokens)
    caller = Local(scorer, lambda: gallery.lifted_once(256))
    until = time.monotonic() + 120
    job = Audit(caller, AuditText(tokens, 256, 0), np.random.default_rng(3), until)
    found = normalisation.normalised(job, job.score(tokens), [], until, 0)
    assert found.verdict == "broken"
    assert "in the first call of a process sum to" in found.summary


@pytest.mark.parametrize("seed", range(3))
def test_a_memory_that_changes_nothing_passes(seed):
    def maker():
        return gallery.remembering(256)

    result = audited(maker(), 256, 1500, seed, minutes=0.05, maker=maker)
    assert result.valid, result.failure
    assert "in the first call of a process" in normalised(result).power


@pytest.mark.parametrize("maker", gallery.TWINS.values(), ids=lambda m: m.__name__)
def test_a_valid_twin_passes(maker):
    result = audited(maker(1024))
    assert result.valid, result.failure
    assert result.order == ("declared" if maker is gallery.lanes else "left-to-right")
    for found in result.findings:
        assert found.power


def test_a_large_vocabulary():
    assert "causal" in broken(audited(gallery.slot(8192), 8192))
    assert audited(gallery.legal_ttt(8192), 8192).valid


@pytest.mark.parametrize("style", causality._STYLES)
def test_a_changed_text_begins_as_it_did(style):
    """Also where the order does not begin with its beginning."""
    tokens = gallery.text(64, 200, 0)
    job = Audit(None, AuditText(tokens, 64, 0), np.random.default_rng(0), 0.0)
    for _ in range(20):
        new = changed(job, tokens, job.random.permutation(200)[:150], style)
        assert new[0] == 0
        assert (new != tokens).any()


def test_crossing_documents_is_noted():
    def said(maker):
        found = audited(maker(1024), count=1500).findings
        return next(f for f in found if f.condition == "documents")

    assert "causal, crosses documents" in said(gallery.crossing).summary
    assert said(gallery.plain).summary == "documents are scored independently"
    assert said(gallery.crossing).verdict == "noted"


def test_an_order_that_is_not_declared_is_no_order():
    assert {"causal", "order"} <= broken(audited(gallery.length_sorted(1024, declared=False)))


@pytest.mark.parametrize(("side_bytes", "valid"), [(0, False), (1, False), (200, True)])
def test_what_later_boundaries_save_is_paid_for(side_bytes, valid):
    """150 documents end in one token, which is cheap where a boundary comes next."""
    random = np.random.default_rng(0)
    documents = [[0, *random.integers(1, 31, 9), 31] for _ in range(150)]
    tokens = np.array(documents).reshape(-1)

    def scorer(ids):
        nats = np.full(len(ids), np.log(32.0))
        nats[:-1][(ids[:-1] == 31) & (ids[1:] == 0)] = 0.1
        times = np.ones(len(ids), np.int64)
        total = float(nats.sum()) + 8 * np.log(2) * side_bytes
        return Charges(nats, times, None, total, None, None, None, side_bytes)

    text = AuditText(tokens, 32, 0, np.ones(len(tokens), np.int64))
    result = audit(Local(scorer), text, 0.02, 3, "it")
    assert ("causal" in broken(result)) is not valid


def test_evidence_says_where():
    found = next(f for f in audited(gallery.slot(1024)).findings if f.condition == "causal")
    assert all(e.position < e.cause and abs(e.after - e.before) > 1e-3 for e in found.evidence)
    assert "#" in found.picture or "|" in found.picture


def test_a_small_leak_that_helps_is_told_from_rounding():
    """Changes far below the tolerance: as noise they are rounding, one way they are a leak."""
    random = np.random.default_rng(0)
    for seed in range(50):
        noise = np.random.default_rng(seed).normal(0, 1e-6, (3, 2000))
        assert abs(helpful(list(noise))[1]) < 6
    mean, z = helpful(list(random.normal(1e-6, 1e-6, (3, 2000))))
    assert z > 6
    assert mean == pytest.approx(1e-6, rel=0.1)


def test_a_small_leak_is_found_in_a_scorer():
    def scorer(tokens):
        nats = gallery.plain(1024)(tokens)
        return nats + 5e-5 * nats.mean() * (1 + np.sin(np.arange(len(nats))) / 2)

    found = next(f for f in audited(scorer, count=1500).findings if f.condition == "causal")
    assert found.verdict == "broken"
    assert "no rounding goes one way like that" in found.summary


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda t: np.zeros(3), "must return a number for each token"),
        (lambda t: np.full(len(t), np.nan), "every charge must be a number"),
        (lambda t: np.full(len(t), np.inf), "every charge must be a number"),
        (lambda t: {"nats": np.ones(len(t)), "nots": 1}, "Charges does not have"),
        (lambda t: Charges(np.ones(len(t)), total_nats=float("nan")), "must be a number"),
    ],
)
def test_what_is_no_charge_gets_a_sentence(returned, sentence):
    with pytest.raises(BadInput, match=sentence):
        audited(returned)


def normalised(result):
    return next(f for f in result.findings if f.condition == "normalised")


def test_bets_find_sums_above_one_in_a_declared_order(monkeypatch):
    monkeypatch.setattr(normalisation, "whole_sum", lambda *_: None)

    def scorer(tokens):
        found = gallery.lanes(256)(tokens)
        return Charges(found.nats - 0.3 * (found.nats > 1), order=found.order)

    result = audited(scorer, 256, minutes=0.05)
    assert broken(result) == {"normalised"}
    said = normalised(result)
    assert "a valid scorer looks like that with probability below 1e-" in said.summary
    assert all(e.before == 1 < e.after for e in said.evidence)


@pytest.mark.parametrize("seed", range(5))
def test_one_place_that_charges_any_token_the_same(seed):
    """Bets at suspicious places find it, where all others hide it from bets on the mean."""

    def scorer(tokens):
        nats = gallery.plain(1024)(tokens)
        nats[700:701] = 0.01
        return nats

    assert "normalised" in broken(audited(scorer, count=1500, seed=seed, minutes=0.1))


def test_a_small_excess_everywhere_takes_a_whole_sum():
    """Probabilities of less than 1e-5 are lifted to that, and none is lowered: 1.0003 or so.

    The time is more than any machine needs: the first whole sum ends the audit.
    """
    plain = gallery.plain(256)
    result = audited(lambda t: np.minimum(plain(t), -np.log(1e-5)), 256, minutes=5)
    assert "that could stand at token" in normalised(result).summary


def test_wasted_bits_pass_and_are_said():
    plain = gallery.plain(64)
    result = audited(lambda t: plain(t) + 0.2, 64, minutes=0.1)
    assert result.valid
    said = normalised(result)
    assert re.search(r"mean sum in the text is 0\.\d{4} ± 0\.\d{4}", said.summary)
    assert "one is 0.8187 with them, which only wastes bits" in said.summary
    assert re.search(r"[\d,]+ tokens drawn in the text: with probability about 0.99", said.power)


@pytest.mark.parametrize("tokens", [[0, 5], [0, 0, 0, 7], [0, 0, 0], [3, 3, 0]])
def test_texts_of_a_few_tokens(tokens):
    text = AuditText(np.array(tokens), 9, 0)
    result = audit(Local(lambda t: np.full(len(t), np.log(9.0))), text, 0.005, 0, "it")
    assert result.valid
    assert normalised(result).power


def test_negative_charges_and_false_totals_are_findings():
    negative = gallery.plain(1024)
    assert "normalised" in broken(audited(lambda t: negative(t) - 20))

    def short(tokens):
        nats = negative(tokens)
        return Charges(nats, total_nats=0.9 * nats.sum())

    assert "coverage" in broken(audited(short))


@given(st.integers(1, 5000))
def test_power_is_the_chance_to_hit(draws):
    assert (1 - power.share(draws)) ** draws == pytest.approx(power.MISS)
    assert power.reach(draws, 100) < power.share(draws)


def test_power_by_simulation():
    random = np.random.default_rng(0)
    share = power.share(20)
    missed = (random.random((20_000, 20)) > share).all(1).mean()
    assert missed == pytest.approx(0.01, abs=0.003)
