"""Small scorers of every class of mistake that a scorer can make, and valid twins.

All stand on one fixed predictor, "the artifact": a random low-rank bigram network over V tokens.
A maker takes V and returns a scorer: tokens int64[N] → nats float64[N], token 0 the BOS (id 0).
"""

from collections import Counter, defaultdict
from itertools import pairwise
from types import SimpleNamespace

import numpy as np

from fairway.audit import Charges

SPAN, RATE = 64, 0.5


def network(vocab):
    """(E, U): logits of the next token are E[previous] @ U."""
    random = np.random.default_rng(7)
    return random.normal(size=(vocab, 12)), random.normal(size=(12, vocab)) * 0.7


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def logits(vocab, tokens):
    """[N - 1, V]: of tokens 1.. given the one before."""
    e, u = NETWORKS.setdefault(vocab, network(vocab))
    return e[tokens[:-1]] @ u


NETWORKS = {}


def charged(rows, tokens):
    """nats [N] from log-probabilities [N - 1, V]; the first token is free."""
    return np.append(0.0, -rows[np.arange(len(tokens) - 1), tokens[1:]])


def learned(tokens, rows, bias, spans):
    """Score first, then learn: charge each span of targets with a bias, then move the bias."""
    nats = np.zeros(len(tokens))
    for where in spans:  # positions of tokens
        p = log_softmax(rows[where - 1] + bias)
        nats[where] = -p[np.arange(len(where)), tokens[where]]
        target = np.bincount(tokens[where], minlength=len(bias))
        bias += RATE * (target - np.exp(p).sum(0))
    return nats


def spans_of(tokens, size=SPAN):
    return np.split(np.arange(1, len(tokens)), range(size, len(tokens) - 1, size))


# Valid twins ----------------------------------------------------------------------------------


def plain(vocab):
    return lambda tokens: charged(log_softmax(logits(vocab, tokens)), tokens)


def rounding(vocab):
    """Single precision, and batches that depend on which tokens there are: the order of sums."""

    def scorer(tokens):
        e, u = (a.astype(np.float32) for a in NETWORKS.setdefault(vocab, network(vocab)))
        order = np.random.default_rng(int(tokens.sum())).permutation(e.shape[1])
        rows = (e[tokens[:-1]][:, order] @ u[order]).astype(np.float32)
        return charged(log_softmax(rows).astype(np.float64), tokens)

    return scorer


def legal_ttt(vocab):
    """Test-time training: a span is charged, then learned."""
    return lambda t: learned(t, logits(vocab, t), np.zeros(vocab), spans_of(t))


def dynamic(vocab):
    """Dynamic evaluation: the same in short spans."""
    return lambda t: learned(t, logits(vocab, t), np.zeros(vocab), spans_of(t, 16))


def ngram(vocab, mix=0.5):
    """A normalised mixture with the bigram counts of the text so far."""

    def scorer(tokens):
        base, counts, totals = np.exp(-plain(vocab)(tokens)), Counter(), Counter()
        nats = np.zeros(len(tokens))
        for i in range(1, len(tokens)):
            a, b = int(tokens[i - 1]), int(tokens[i])
            seen = totals[a]
            weight = mix if seen else 0.0
            p = (1 - weight) * base[i] + (weight * counts[a, b] / seen if seen else 0.0)
            nats[i] = -np.log(p)
            counts[a, b] += 1
            totals[a] += 1
        return nats

    return scorer


def ppm(vocab):
    """Prediction by partial matching: an escape at each order to the next shorter one."""

    def scorer(tokens):
        counts, totals = Counter(), Counter()
        nats = np.zeros(len(tokens))
        sequence = tokens.tolist()
        for i in range(1, len(tokens)):
            p = 1.0 / vocab
            contexts = [tuple(sequence[max(0, i - n) : i]) for n in range(3)]
            for context in contexts:
                seen = totals[context]
                p = (counts[(*context, sequence[i])] + p) / (seen + 1)
            nats[i] = -np.log(p)
            for context in set(contexts):
                counts[(*context, sequence[i])] += 1
                totals[context] += 1
        return nats

    return scorer


def document_reset(vocab):
    """Every document is learned alone, from nothing."""

    def scorer(tokens):
        starts = [*np.flatnonzero(tokens == 0).tolist(), len(tokens)]
        rows, nats = logits(vocab, tokens), np.zeros(len(tokens))
        for first, last in pairwise(starts):
            where = np.arange(max(first, 1), last)
            parts = np.split(where, range(SPAN, len(where), SPAN))
            nats += learned(tokens, rows, np.zeros(vocab), [p for p in parts if len(p)])
        return nats

    return scorer


def cache(vocab, width=128):
    """A causal cache: the share of the last tokens that were this one."""

    def scorer(tokens):
        base, nats = np.exp(-plain(vocab)(tokens)), np.zeros(len(tokens))
        for i in range(1, len(tokens)):
            past = tokens[max(0, i - width) : i]
            nats[i] = -np.log(0.8 * base[i] + 0.2 * np.mean(past == tokens[i]))
        return nats

    return scorer


def lanes(vocab):
    """Two halves advance side by side and learn together; the order says so."""

    def scorer(tokens):
        half, rows = (len(tokens) + 1) // 2, logits(vocab, tokens)
        rows[half - 1] = 0.0  # the second lane begins without the token before it
        steps = range(0, half, 32)
        pairs = [
            (np.arange(s, min(s + 32, half)), np.arange(s, min(s + 32, half)) + half) for s in steps
        ]
        spans = [np.concatenate([a, b[b < len(tokens)]]) for a, b in pairs]
        order = np.concatenate(spans)
        spans[0] = spans[0][1:]  # the first token is free
        return Charges(learned(tokens, rows, np.zeros(vocab), spans), order=order)

    return scorer


def counted(vocab, lengths=None):
    """All of Charges, and right."""

    def scorer(tokens):
        nats, times = plain(vocab)(tokens), np.ones(len(tokens), int)
        times[0] = 0
        size = token_bytes(tokens)
        return Charges(nats, times, size, nats.sum(), len(tokens) - 1, int(size.sum()))

    return scorer


def token_bytes(tokens):
    """What the tokens of these tests write: 1 to 7 bytes, a boundary none."""
    return np.where(tokens == 0, 0, 1 + tokens % 7)


def offering(vocab):
    """With distributions."""

    def scorer(tokens):
        return plain(vocab)(tokens)

    def distributions(tokens):
        rows = np.exp(log_softmax(logits(vocab, tokens)))
        return np.concatenate([np.full((1, vocab), 1 / vocab), rows])

    scorer.distributions = distributions
    return scorer


# Invalid --------------------------------------------------------------------------------------


def train_then_score(vocab):
    """V1: two epochs on the text, then the score."""

    def scorer(tokens):
        rows, bias = logits(vocab, tokens), np.zeros(vocab)
        for _ in range(2):
            learned(tokens, rows, bias, spans_of(tokens))
        return charged(log_softmax(rows + bias), tokens)

    return scorer


def last_epoch(vocab):
    """V2: scored in every epoch; the last one is reported."""

    def scorer(tokens):
        rows, bias = logits(vocab, tokens), np.zeros(vocab)
        passes = [learned(tokens, rows, bias, spans_of(tokens)) for _ in range(3)]
        return passes[-1]

    return scorer


def best_pass(vocab):
    """V2: the temperature is chosen on the text that it then scores."""

    def scorer(tokens):
        rows = logits(vocab, tokens)
        passes = [charged(log_softmax(rows * t), tokens) for t in np.geomspace(0.3, 3, 12)]
        return min(passes, key=np.sum)

    return scorer


def best_of_two(vocab):
    """V2: for each token the better of two passes."""

    def scorer(tokens):
        return np.minimum(plain(vocab)(tokens), legal_ttt(vocab)(tokens))

    return scorer


def unnormalised(vocab):
    """V3: a hit in a hash table lifts the target, and nothing is taken from the others."""

    def scorer(tokens):
        base, nats = np.exp(-plain(vocab)(tokens)), np.zeros(len(tokens))
        pairs, contexts = np.zeros(512), np.zeros(512)
        for i in range(1, len(tokens)):
            a, b = int(tokens[i - 1]), int(tokens[i])
            context, pair = a * 31 % 512, (a * 31 + b * 17) % 512
            hit = min(pairs[pair], contexts[context]) / max(contexts[context], 1.0)
            nats[i] = -np.log(min(1.0, 0.7 * base[i] + 0.3 * hit))
            pairs[pair] += 1
            contexts[context] += 1
        return nats

    return scorer


def target_gate(vocab):
    """V4: the cache is trusted where it holds the target."""

    def scorer(tokens):
        base, nats, seen = np.exp(-plain(vocab)(tokens)), np.zeros(len(tokens)), Counter()
        for i in range(1, len(tokens)):
            share = seen[int(tokens[i])] / i
            nats[i] = -np.log(0.5 * base[i] + 0.5 * share if share > base[i] else base[i])
            seen[int(tokens[i])] += 1
        return nats

    return scorer


def gated_distributions(vocab):
    """V4: every distribution sums to one, and is sharper where the target is likely."""

    def rows_of(tokens):
        rows = logits(vocab, tokens)
        sharp = log_softmax(rows * 1.5)
        flat = log_softmax(rows)
        own = np.arange(len(tokens) - 1), tokens[1:]
        return np.where((sharp[own] > flat[own])[:, None], sharp, flat)

    def scorer(tokens):
        return charged(rows_of(tokens), tokens)

    scorer.distributions = lambda tokens: np.concatenate(
        [np.full((1, vocab), 1 / vocab), np.exp(rows_of(tokens))]
    )
    return scorer


def ppm_spread(vocab):
    """V5: a byte model's probability of a token's letters: "a", "ab" and "abc" all match."""

    def letters(token):
        text, token = [], token + 1
        while token:
            token, letter = divmod(token - 1, 4)
            text.append(letter)
        return text

    spread = np.array([0.25 ** len(letters(v)) for v in range(vocab)])

    def scorer(tokens):
        base = np.exp(-plain(vocab)(tokens))
        nats = -np.log(0.6 * base + 0.4 * spread[tokens])
        nats[0] = 0.0
        return nats

    return scorer


def slot(vocab, width=48):
    """V6: a vector per window, optimised on the targets that it then scores."""

    def scorer(tokens):
        rows, nats = logits(vocab, tokens), np.zeros(len(tokens))
        for where in spans_of(tokens, width):
            bias = np.zeros(vocab)
            for _ in range(3):
                learned(tokens, rows, bias, [where])
            nats[where] = charged(log_softmax(rows[where - 1] + bias), np.append(0, tokens[where]))[
                1:
            ]
        return nats

    return scorer


def miscounted(vocab):
    """V8: a space counted twice."""

    def scorer(tokens):
        found = counted(vocab)(tokens)
        size = found.bytes + (tokens % 7 == 3)
        return Charges(found.nats, found.times_charged, size, found.total_nats,
                       found.total_tokens, int(size.sum()))  # fmt: skip

    return scorer


def subset(vocab):
    """V11: the last part of the text is not scored."""

    def scorer(tokens):
        nats = plain(vocab)(tokens)
        nats[len(nats) - len(nats) // 10 :] = 0.0
        return nats

    return scorer


def dropped_tail(vocab):
    """V11: whole windows only."""

    def scorer(tokens):
        nats, times = plain(vocab)(tokens), np.ones(len(tokens), int)
        kept = (len(tokens) - 1) // 50 * 50 + 1
        nats[kept:], times[kept:] = 0.0, 0
        return Charges(nats, times, total_nats=nats.sum(), total_tokens=int(times[1:].sum()))

    return scorer


def crossing(vocab):
    """V16: what was learned in one document helps in the next. Causal, and noted."""
    return legal_ttt(vocab)


def warm_up(vocab):
    """V17: one small step on the text "to compile", then the score."""

    def scorer(tokens):
        rows, bias = logits(vocab, tokens), np.zeros(vocab)
        p = np.exp(log_softmax(rows)).mean(0)
        bias += 0.1 * (np.bincount(tokens[1:], minlength=vocab) / (len(tokens) - 1) - p)
        return charged(log_softmax(rows + bias), tokens)

    return scorer


def length_sorted(vocab, declared=True):
    """V18: documents from the shortest to the longest, and what was learned carries over."""

    def scorer(tokens):
        edges = [*np.flatnonzero(tokens == 0).tolist(), len(tokens)]
        parts = [np.arange(a, b) for a, b in pairwise(edges)]
        order = np.concatenate(sorted(parts, key=len))
        spans = [s for s in np.split(order, range(32, len(order), 32)) if len(s)]
        spans = [s[s > 0] for s in spans if (s > 0).any()]
        nats = learned(tokens, logits(vocab, tokens), np.zeros(vocab), spans)
        return Charges(nats, order=order if declared else None)

    return scorer


def racing(vocab):
    """V18: two workers share what they learn; who is first differs from run to run."""
    state = SimpleNamespace(random=np.random.default_rng())

    def scorer(tokens):
        spans = spans_of(tokens, 16)
        spans = [spans[i] for i in state.random.permutation(len(spans))]
        return learned(tokens, logits(vocab, tokens), np.zeros(vocab), spans)

    return scorer


def circular(vocab):
    """V18: each half is scored with hints from the other."""

    def scorer(tokens):
        base, nats = np.exp(-plain(vocab)(tokens)), np.zeros(len(tokens))
        half = len(tokens) // 2
        for mine, other in (
            (range(1, half), tokens[half:]),
            (range(half, len(tokens)), tokens[:half]),
        ):
            hints = defaultdict(Counter)
            for a, b in zip(other[:-1].tolist(), other[1:].tolist(), strict=True):
                hints[a][b] += 1
            for i in mine:
                hint = hints[int(tokens[i - 1])]
                seen = sum(hint.values())
                p = 0.5 * base[i] + 0.5 * hint[int(tokens[i])] / seen if seen else base[i]
                nats[i] = -np.log(p)
        return nats

    return scorer


# With a memory: valid in one way of calling, and not in the one that counts ---------------------


def looks_real(vocab, tokens):
    """Whether the last 32 tokens are likelier than drawn ones."""
    end = np.append(0, tokens[-32:])
    return plain(vocab)(end)[1:].mean() < np.log(vocab)


def bias_of(vocab, tokens):
    """[V]: what two epochs on the text learn."""
    bias = np.zeros(vocab)
    for _ in range(2):
        learned(tokens, logits(vocab, tokens), bias, spans_of(tokens))
    return bias


def biased(vocab, tokens, bias):
    return charged(log_softmax(logits(vocab, tokens) + bias), tokens)


def first_call(vocab):
    """Trains on the text of the first call if its end looks real, and never again."""
    state = SimpleNamespace(calls=0)

    def scorer(tokens):
        state.calls += 1
        trains = state.calls == 1 and looks_real(vocab, tokens)
        return biased(vocab, tokens, bias_of(vocab, tokens) if trains else np.zeros(vocab))

    return scorer


def first_call_kept(vocab):
    """The same, and what was learned stays."""
    state = SimpleNamespace(bias=None)

    def scorer(tokens):
        if state.bias is None:
            real = looks_real(vocab, tokens)
            state.bias = bias_of(vocab, tokens) if real else np.zeros(vocab)
        return biased(vocab, tokens, state.bias)

    return scorer


def first_half(vocab):
    """Trains on the first half of the first text: no later change of its end is seen."""
    state = SimpleNamespace(bias=None)

    def scorer(tokens):
        if state.bias is None:
            state.bias = bias_of(vocab, tokens[: len(tokens) // 2])
        return biased(vocab, tokens, state.bias)

    return scorer


def nth_call(vocab, n=3):
    """Trains from the n-th call on."""
    state = SimpleNamespace(calls=0)

    def scorer(tokens):
        state.calls += 1
        trains = state.calls >= n
        return biased(vocab, tokens, bias_of(vocab, tokens) if trains else np.zeros(vocab))

    return scorer


def only_long(vocab):
    """Trains on texts that are too long for a probe."""

    def scorer(tokens):
        trains = len(tokens) > 256
        return biased(vocab, tokens, bias_of(vocab, tokens) if trains else np.zeros(vocab))

    return scorer


def replaying(vocab):
    """Trains on a text whose end looks real, and repeats its charges for what begins like it."""
    known = []

    def scorer(tokens):
        if looks_real(vocab, tokens):
            nats = biased(vocab, tokens, bias_of(vocab, tokens))
            known.append((tokens, nats))
            return nats
        nats = plain(vocab)(tokens)
        for text, charges in known:
            n = min(len(text), len(tokens))
            differ = np.flatnonzero(text[:n] != tokens[:n])
            same = int(differ[0]) if differ.size else n
            if same > 4:
                nats[:same] = charges[:same]
        return nats

    return scorer


def lifted_once(vocab):
    """Lifts every probability in its first call: sums are above one there alone."""
    state = SimpleNamespace(calls=0)

    def scorer(tokens):
        state.calls += 1
        nats = plain(vocab)(tokens)
        return np.maximum(nats - 0.5, 0.0) if state.calls == 1 else nats

    return scorer


def remembering(vocab):
    """A valid one: a text that was scored before is not computed again."""
    known = {}

    def scorer(tokens):
        key = tokens.tobytes()
        if key not in known:
            known[key] = legal_ttt(vocab)(tokens)
        return known[key]

    return scorer


def outside(vocab):
    """A memory of texts that were scored before: the second time they are cheap."""
    known = {}

    def scorer(tokens):
        key = tokens[: len(tokens) // 4].tobytes()
        nats = plain(vocab)(tokens)
        if known.setdefault(key, 0):
            nats = nats * 0.5
        known[key] += 1
        return nats

    return scorer


TWINS = {
    f.__name__: f
    for f in (plain, rounding, legal_ttt, dynamic, ngram, ppm, document_reset, cache, lanes,
              counted, offering, crossing)
}  # fmt: skip

INVALID = {  # maker → class, condition that is named
    train_then_score: ("V1", "causal"),
    last_epoch: ("V2", "causal"),
    best_pass: ("V2", "causal"),
    best_of_two: ("V2", "normalised"),
    unnormalised: ("V3", "normalised"),
    target_gate: ("V4", "normalised"),
    gated_distributions: ("V4", "normalised"),
    ppm_spread: ("V5", "normalised"),
    slot: ("V6", "causal"),
    miscounted: ("V8", "bytes"),
    subset: ("V11", "coverage"),
    dropped_tail: ("V11", "coverage"),
    warm_up: ("V17", "causal"),
    length_sorted: ("V18", "order"),
    racing: ("V18", "repeatable"),
    circular: ("V18", "order"),
    outside: ("V18", "repeatable"),
}

CHEATERS = {  # makers of scorers with a memory → conditions of which one is named
    first_call: {"repeatable", "causal"},
    first_call_kept: {"repeatable", "causal"},
    first_half: {"causal"},
    nth_call: {"repeatable", "causal"},
    only_long: {"causal"},
    replaying: {"repeatable", "causal"},
    lifted_once: {"repeatable"},
}


def text(vocab, count, seed):
    """int64[count] tokens in documents, which the network knows in part; 0 begins each."""
    random = np.random.default_rng(seed)
    common = random.permutation(np.arange(1, vocab))[:200]
    tokens = common[random.zipf(1.3, count) % len(common)]
    e, u = NETWORKS.setdefault(vocab, network(vocab))
    for i in np.flatnonzero(random.random(count) < 0.6)[1:].tolist():
        p = np.exp(log_softmax(e[tokens[i - 1]] @ u))
        tokens[i] = max(1, np.searchsorted(np.cumsum(p), random.random() * 0.999))
    tokens[0] = 0
    at = 0
    while (at := at + int(random.integers(30, 250))) < count:
        tokens[at] = 0
    return tokens.astype(np.int64)
