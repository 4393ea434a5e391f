"""Score first, then learn: a network that goes on training on the text that it codes.

All lanes of a layout advance together (lanes.py). After every `span` tokens the network learns from
those that were coded since, and from nothing else; so a decoder, who knows them by then, can learn
the same. Spans are a function of the layout alone. A text of several chunks goes through one
`Learner`: what it has learned, it keeps.

left-to-right: one lane, or lanes that share nothing that learns (lora): every token is predicted
from what stands before it. lanes: all lanes move one network; a token may be predicted with
weights that have learned from text further on in the file.

Bits depend on the machine (floating point), not on the way there: score runs a span in one pass,
prove and verify token by token, and both then learn by the same pass. Legend: L lanes, S tokens of
a lane in a span, W window, V vocabulary, n inputs and m outputs of a matrix, r rank.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from fairway.errors import BadInput
from fairway.model.cache import Cache
from fairway.model.gpt import GPT
from fairway.model.loss import softcapped_cross_entropy
from fairway.model.product import adapted
from fairway.predict import windows
from fairway.predict.lanes import TOKENS_PER_LANE, Layout, chunk_ends, plan
from fairway.predict.predictor import FloatPredictor, Longs
from fairway.recipe import Adapt, Arithmetic, Dynamic, Lora, Score, Sgd
from fairway.world import World

ALONE = World(0, 1, torch.device("cpu"), torch.float32)
Floats = NDArray[np.float64]
Tensors = dict[str, Tensor]

METHODS = ("none", "sgd", "dynamic", "lora")
ORDERS = ("left-to-right", "lanes")
_SLICE = 1 << 16  # weights that are updated at a time: they stay in a CPU's cache
_BLOCK = 128  # tokens per pass where nothing is learned from the pass itself


def lanes_of(how: Adapt) -> int:
    """How many lanes a text may be cut into, at most."""
    alone = how.method != "lora" and how.order == "left-to-right"
    return 1 if alone else how.lanes


def arithmetic(how: Adapt, wanted: Arithmetic) -> Arithmetic:
    """What learns computes in floating point."""
    return wanted if how.method == "none" else "float"


def order_of(how: Adapt) -> str:
    """What results say about the order: `lanes` where lanes learn from each other."""
    return "left-to-right" if how.method in ("none", "lora") else how.order


def chunk_tokens(how: Adapt) -> int:
    """Tokens of a chunk: what a kill may lose, against 16 bytes for each chunk."""
    return max(2 * TOKENS_PER_LANE * lanes_of(how), 3 << 16)


# A method in a file -----------------------------------------------------------------------------


def to_bytes(how: Adapt) -> bytes:
    """A byte, 8 · method + 2 · (settings are _USUAL) + order; then other settings, 4 bytes each."""
    method, order = METHODS.index(how.method), ORDERS.index(order_of(how))
    if how.method == "none":
        return bytes([8 * method + order])
    values = b"".join(struct.pack(_form(value), value) for _, value in how.settings)
    usual = values == _usual(how.method)
    return bytes([8 * method + 2 * usual + order]) + (b"" if usual else values)


def size_of(first: int) -> int:
    """How many bytes follow the first of `to_bytes`. Raises BadInput."""
    if first >= 8 * len(METHODS) or first & 4:
        raise BadInput(f"adapts by a method that this Fairway does not know ({first})")
    method = METHODS[first >> 3]
    return 0 if method == "none" or first & 2 else 4 * len(_USUAL[method])


def from_bytes(data: bytes) -> Adapt:
    """Inverse of `to_bytes`; how many lanes there were, the lanes' starts say. Raises BadInput."""
    method, order = METHODS[data[0] >> 3], ORDERS[data[0] & 1]
    if method == "none":
        return Adapt()
    stored = _usual(method) if data[0] & 2 else data[1:]
    values = {
        name: type(value)(struct.unpack_from(_form(value), stored, 4 * i)[0])
        for i, (name, value) in enumerate(_USUAL[method].items())
    }
    try:
        return Adapt.model_validate({"method": method, "order": order, method: values})
    except ValueError:
        raise BadInput("adapts with settings that are out of range") from None


def rounded(how: Adapt) -> Adapt:
    """With settings as a file can hold them: real numbers in float32."""
    return from_bytes(to_bytes(how)).model_copy(update={"lanes": how.lanes})


def _usual(method: str) -> bytes:
    return b"".join(struct.pack(_form(value), value) for value in _USUAL[method].values())


def _form(value: object) -> str:
    return "<f" if isinstance(value, float) else "<I"


# Part of the format: what a file means that names no settings. A better default gets another bit.
_USUAL: dict[str, dict[str, float | int | bool]] = {
    "sgd": Sgd().model_dump(),
    "dynamic": Dynamic().model_dump(),
    "lora": Lora().model_dump(),
}


# Rules: from a gradient to new weights ------------------------------------------------------------


class Rule(Protocol):
    """What learns, and how."""

    def start(self, lanes: int) -> None:
        """A chunk begins, with so many lanes."""

    def keep(self, lanes: int) -> None:
        """From now on only the first `lanes` lanes exist."""

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the network computes with what was learned."""

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """What to minimise. hidden [L, S, d]; coded int64[L, S]; counted bool[L, S].

        `count` tokens are learned from in all processes together.
        """

    def share(self, world: World) -> None:
        """Add up what the processes' lanes ask for."""

    def fresh(self, coded: Tensor, within: Tensor) -> Tensor:
        """Begin anew where a document does; which of `within` [L, S] may be learned from."""

    def step(self, progress: float) -> None:
        """Update from the gradients, and clear them; progress of the text in [0, 1]."""

    def tensors(self) -> Tensors:
        """All that was learned, by name: views, to be saved or filled."""


class _WholeNetwork:
    """All weights of a network, shared by all lanes, side by side in one vector."""

    def __init__(self, model: GPT) -> None:
        self._model = model
        parameters = list(model.parameters())
        self._weights = torch.cat([p.detach().reshape(-1) for p in parameters])
        self._gradients = torch.zeros_like(self._weights)
        place = 0
        for p in parameters:
            here = slice(place, place + p.numel())
            p.data = self._weights[here].view(p.shape)
            p.grad = self._gradients[here].view(p.shape)
            place += p.numel()

    def start(self, lanes: int) -> None:
        return

    def keep(self, lanes: int) -> None:
        return

    def applied(self) -> AbstractContextManager[None]:
        return nullcontext()

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """This process's part of the mean nats."""
        head, cap = self._model.embed.tokens, self._model.shape.softcap
        mean = softcapped_cross_entropy(hidden[counted], head, coded[counted], cap)
        return mean * (int(counted.sum()) / count)

    def share(self, world: World) -> None:
        world.sum_(self._gradients)

    def fresh(self, coded: Tensor, within: Tensor) -> Tensor:
        return within

    def _slices(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        yield from zip(*(v.split(_SLICE) for v in vectors), strict=True)


class SgdRule(_WholeNetwork):
    """m ← μm + g;  θ ← θ - η·m."""

    def __init__(self, model: GPT, settings: Sgd) -> None:
        super().__init__(model)
        self._settings = settings
        self._momentum = torch.zeros_like(self._weights)

    @torch.no_grad()
    def step(self, progress: float) -> None:
        s, g = self._settings, self._gradients
        if s.clip:
            g.mul_((s.clip / (g.norm() + 1e-6)).clamp(max=1))
        lr = s.lr * (0.5 + 0.5 * math.cos(math.pi * progress)) if s.cosine else s.lr
        for w, g, m in self._slices(self._weights, self._gradients, self._momentum):
            m.mul_(s.momentum).add_(g)
            w.add_(m, alpha=-lr)
            g.zero_()

    def tensors(self) -> Tensors:
        return {"weights": self._weights, "momentum": self._momentum}


class DynamicRule(_WholeNetwork):
    """θ ← θ - η·g/(√v̂ + ε) + δ(θ₀ - θ); v the running mean of g², v̂ free of its start at 0.

    After Krause, Kahembwe, Murray and Renals, Dynamic Evaluation (2018, 2019), whose v comes from
    the training text; here it comes from the text itself, and costs no bytes.
    """

    def __init__(self, model: GPT, settings: Dynamic) -> None:
        super().__init__(model)
        self._update = _RmsUpdate(settings, [self._weights])

    @torch.no_grad()
    def step(self, progress: float) -> None:
        self._update([self._weights], [self._gradients])
        self._gradients.zero_()

    def tensors(self) -> Tensors:
        learned = self._update
        return {
            "weights": self._weights, "squares": learned.squares[0], "steps": learned.steps
        }  # fmt: skip


class _RmsUpdate:
    """The dynamic rule on some tensors; `squares` is v, `start` is θ₀."""

    def __init__(self, settings: Dynamic | Lora, weights: list[Tensor]) -> None:
        self._settings = settings
        self.start = [w.clone() for w in weights]
        self.squares = [torch.zeros_like(w) for w in weights]
        self.steps = torch.zeros((), dtype=torch.int64)

    def keep(self, lanes: int) -> None:
        """Of tensors with a first dimension of lanes, only so many are left."""
        self.start = [t[:lanes] for t in self.start]
        self.squares = [t[:lanes] for t in self.squares]

    def __call__(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        s = self._settings
        self.steps += 1
        unbias = 1 / (1 - s.beta ** int(self.steps))
        for tensors in zip(weights, gradients, self.squares, self.start, strict=True):
            for w, g, v, w0 in zip(*(t.view(-1).split(_SLICE) for t in tensors), strict=True):
                v.mul_(s.beta).addcmul_(g, g, value=1 - s.beta)
                w.addcdiv_(g, (v * unbias).sqrt_().add_(s.eps), value=-s.lr)
                w.lerp_(w0, s.decay)


class LoraRule:
    """y = Wx + B(Ax) with A [r, n], B [m, r] for every lane alone; B = 0 where a document begins.

    A begins uniform in ±1/√n, the same for all lanes (REFERENCE B2-3), and stays warm.
    """

    def __init__(self, model: GPT, settings: Lora) -> None:
        self._model, self._settings = model, settings
        for p in model.parameters():
            p.requires_grad_(False)
        named = model.named_parameters()
        self._adapted = [p for name, p in named if name.rsplit(".", 1)[-1] in _ADAPTED]
        self.start(1)

    def start(self, lanes: int) -> None:
        random, device = torch.Generator().manual_seed(0), self._adapted[0].device
        rank = self._settings.rank
        self._inner, self._outer = [], []  # all A, all B
        for p in self._adapted:
            m, n = p.shape
            a = (torch.rand(rank, n, generator=random) * 2 - 1) / math.sqrt(n)
            self._inner.append(a.to(device).repeat(lanes, 1, 1).requires_grad_())
            self._outer.append(torch.zeros(lanes, m, rank, device=device).requires_grad_())
        self._update = _RmsUpdate(self._settings, [t.detach() for t in self._all])
        self._starting = torch.zeros(lanes, dtype=torch.bool, device=device)

    @property
    def _all(self) -> list[Tensor]:
        return self._inner + self._outer

    def keep(self, lanes: int) -> None:
        self._inner, self._outer = (
            [t.detach()[:lanes].requires_grad_() for t in ts] for ts in (self._inner, self._outer)
        )
        self._update.keep(lanes)
        self._starting = self._starting[:lanes]

    def applied(self) -> AbstractContextManager[None]:
        pairs = zip(self._adapted, self._inner, self._outer, strict=True)
        return adapted({id(p): (a, b) for p, a, b in pairs})

    def share(self, world: World) -> None:
        return

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """The sum of every lane's mean nats: what one lane does is nothing to the others."""
        nats = cross_entropy(self._model.head(hidden).mT, coded, reduction="none")
        return ((nats * counted).sum(1) / counted.sum(1).clamp(min=1)).sum()

    def fresh(self, coded: Tensor, within: Tensor) -> Tensor:
        if not self._settings.reset:
            return within
        places = torch.arange(coded.shape[1], device=coded.device)
        last = torch.where((coded == self._model.bos_id) & within, places, -1).amax(1)
        self._starting = last >= 0
        return within & (places > last[:, None])

    @torch.no_grad()
    def step(self, progress: float) -> None:
        if self._settings.reset:
            for b in self._outer:
                b[self._starting] = 0
        zeros = [torch.zeros_like(t) for t in self._all]
        gradients = [z if t.grad is None else t.grad for t, z in zip(self._all, zeros, strict=True)]
        self._update(self._all, gradients)
        for t in self._all:
            t.grad = None

    def tensors(self) -> Tensors:
        return {}  # lanes begin with their chunk


_ADAPTED = {"q", "k", "v", "o", "up", "down", "tokens"}


# Learning along a layout --------------------------------------------------------------------------


class Span(NamedTuple):
    """What lanes code between two updates: tokens fed and tokens coded, int64[L, S].

    `within` bool[L, S] is False where a lane has ended: nothing is learned from what stands there.
    """

    fed: Tensor
    coded: Tensor
    within: Tensor


class Learner:
    """A network and what it has become. Not safe to share by threads: texts have an order.

    With several processes in `world`, each charges and differentiates its share of the lanes, and
    all make the same update. Raises BadInput when the settings do not fit the network.
    """

    def __init__(self, model: GPT, how: Adapt, tokens: int, world: World = ALONE) -> None:
        """tokens: of the whole text, which schedules run along."""
        self.model, self.how = model, rounded(how)
        settings: Any = self.how.settings
        self.span: int = settings.span
        self._tokens, self._done = tokens, 0
        window = model.shape.window
        self.cached = self.span <= window  # learned with the cache as context
        if not self.cached and self.how.method != "sgd":
            raise BadInput(
                f"adapt.{self.how.method}.span is {self.span}, longer than the window, {window}"
            )
        self.world = world if self.cached else ALONE  # rows are learned by each process for itself
        rules = {"sgd": SgdRule, "dynamic": DynamicRule, "lora": LoraRule}
        self.rule: Rule = rules[self.how.method](model, settings)
        self.cache = self._new_cache(1)

    @property
    def device(self) -> torch.device:
        return self.model.embed.tokens.device

    @property
    def share(self) -> slice:
        """Which lanes are this process's."""
        return slice(self.world.rank, None, self.world.size)

    def start(self, lanes: int) -> None:
        """A chunk begins: lanes have no past, the network has what it learned."""
        mine = len(range(lanes)[self.share])
        self.rule.start(mine)
        self.cache = self._new_cache(mine)

    def _new_cache(self, lanes: int) -> Cache:
        return Cache(self.model.shape, lanes, self.model.dtype, self.device)

    def keep(self, lanes: int) -> None:
        """From now on only the first `lanes` lanes of this process's share exist."""
        if lanes < len(self.cache.document_start):
            self.cache.keep(lanes)
            self.rule.keep(lanes)

    def learn(self, span: Span, count: int, charge: bool = False) -> Tensor | None:
        """Learn from a span that has been coded; nats float32[L, S] of its tokens before that.

        `span` has this process's lanes, all processes together have `count` tokens. The nats are
        computed if `charge`, given everything before the span and within it.
        """
        if self.cached:
            return self._learn_in_context(span, count, charge)
        nats = self._charge(span) if charge else None
        self._learn_in_rows(span)
        return nats

    def _learn_in_context(self, span: Span, count: int, charge: bool) -> Tensor | None:
        """The pass that charges a span also learns from it; keys and values of the last epoch
        stay."""
        self._done += count
        nats = torch.empty(span.fed.shape)
        epochs = getattr(self.how.settings, "epochs", 1)
        for epoch in range(epochs):
            cache = self.cache
            if epoch + 1 < epochs:
                cache = self._new_cache(len(span.fed))
                cache.copy_(self.cache)
            if len(span.fed):  # another process may have lanes left when this one has none
                with self.rule.applied():
                    hidden = self.model.hidden(span.fed, cache)
                    if charge and epoch == 0:
                        nats = self.nats(hidden.detach(), span.coded)
                    counted = self.rule.fresh(span.coded, span.within)
                    if bool(counted.any()):
                        self.rule.loss(hidden, span.coded, counted, count).backward()
            self.rule.share(self.world)
            self.rule.step(self._progress)
        return nats

    def _learn_in_rows(self, span: Span) -> None:
        """Rows of a window, each without what was before it."""
        window = self.model.shape.window
        missing = -span.fed.shape[1] % window
        rows = Span(*(pad(t, (0, missing)).view(-1, window) for t in span))
        filled = rows.within.any(1)
        self.learn_rows(Span(*(t[filled] for t in rows)))

    def learn_rows(self, rows: Span) -> None:
        """Learn from the tokens `within` rows of up to a window; the rest of a row is context."""
        self._done += int(rows.within.sum())
        settings = self.how.settings
        at_once = getattr(settings, "rows", len(rows.fed))
        for _ in range(getattr(settings, "epochs", 1)):
            for fed, coded, within in zip(*(t.split(at_once) for t in rows), strict=True):
                count = int(within.sum())
                self.rule.loss(self.model.hidden(fed), coded, within, count).backward()
                self.rule.step(self._progress)

    @torch.no_grad()
    def _charge(self, span: Span) -> Tensor:
        nats = []
        for fed, coded in zip(span.fed.split(_BLOCK, 1), span.coded.split(_BLOCK, 1), strict=True):
            nats.append(self.nats(self.model.hidden(fed, self.cache), coded))
        return torch.cat(nats, 1)

    @torch.no_grad()
    def nats(self, hidden: Tensor, coded: Tensor) -> Tensor:
        return cross_entropy(self.model.head(hidden).mT, coded, reduction="none")

    def snapshot(self) -> Tensors:
        """A copy of what was learned, between two chunks."""
        copies = {name: t.clone() for name, t in self.rule.tensors().items()}
        return copies | {"done": torch.tensor(self._done)}

    def restore(self, tensors: Tensors) -> None:
        """Become what `snapshot` has copied."""
        self._done = int(tensors["done"])
        for name, tensor in self.rule.tensors().items():
            tensor.copy_(tensors[name])

    @property
    def _progress(self) -> float:
        return self._done / max(self._tokens, 1)


class Charged(NamedTuple):
    """Which tokens were charged, [k], and the nats of each."""

    positions: Longs
    nats: Floats
    settled: bool  # all before is charged and learned: a snapshot taken now can go on from here


def charges(
    learner: Learner, tokens: NDArray[np.uint16], how: Score, done: int = 0
) -> Iterator[Charged]:
    """Charge tokens uint16[N], all known, and learn from them; token 0 is free.

    `done` tokens after it have been charged before `learner` was restored. Raises BadInput.
    """
    if how.protocol == "rolling":
        return _rolling_charges(learner, tokens, done)
    if isinstance(learner.rule, LoraRule):
        raise BadInput("lora learns in lanes: score it with --protocol rolling")
    return _windowed_charges(learner, tokens, how, done)


def _rolling_charges(learner: Learner, tokens: NDArray[np.uint16], done: int) -> Iterator[Charged]:
    """In the order of a proof, whose chunks and lanes these are."""
    documents = np.flatnonzero(tokens == learner.model.bos_id)
    ends = chunk_ends(documents, len(tokens), chunk_tokens(learner.how))
    for start, end in pairwise([0, *ends]):
        if end <= done:
            continue
        part = tokens[start : end + 1]  # with the BOS that ends it, which is charged, too
        inside = documents[(documents >= start) & (documents < end)] - start
        starts = plan(end - start, inside, lanes_of(learner.how))
        layout = Layout(len(part), starts, boundaries=True)
        learner.start(layout.lanes)
        device = learner.device
        for first in range(0, layout.steps, learner.span):
            last = first + learner.span
            block = layout.block(part, learner.model.bos_id, first, last, learner.share)
            learner.keep(len(block.where))
            arrays = (block.fed, part[block.where].astype(np.int64), block.within)
            span = Span(*(torch.from_numpy(a).to(device) for a in arrays))
            nats = learner.learn(span, layout.coded(first, last), charge=True)
            assert nats is not None
            charged = nats.double().cpu().numpy()[block.within]
            yield Charged(block.where[block.within] + start, charged, last >= layout.steps)


def _windowed_charges(
    learner: Learner, tokens: NDArray[np.uint16], how: Score, done: int
) -> Iterator[Charged]:
    """A window at a time; what has been charged is learned when it is a span or more."""
    device, window = learner.device, learner.model.shape.window
    learned = done
    for start, first, end in windows.planned(len(tokens), window, how):
        if end <= done:
            continue
        seen = torch.from_numpy(tokens[start : end + 1].astype(np.int64)).to(device)[None]
        with torch.no_grad():
            hidden = learner.model.hidden(seen[:, :-1])[:, first - start :]
            nats = learner.nats(hidden, seen[:, first - start + 1 :])[0].double().cpu().numpy()
        complete = end - learned >= learner.span or end == len(tokens) - 1
        if complete:
            learner.learn_rows(_rows(tokens, learned, end, window, device))
            learned = end
        yield Charged(np.arange(first + 1, end + 1), nats, complete)


def _rows(
    tokens: NDArray[np.uint16], first: int, last: int, window: int, device: torch.device
) -> Span:
    """Rows of a window that end with position `last`; tokens up to `first` are context alone."""
    ends = np.arange(last, first, -window)[::-1]
    where = ends[:, None] + np.arange(-min(window, last), 0)
    within = where >= first
    where = where.clip(0)
    arrays = (tokens[where].astype(np.int64), tokens[where + 1].astype(np.int64), within)
    return Span(*(torch.from_numpy(a).to(device) for a in arrays))


# Learning in lockstep ----------------------------------------------------------------------------


class AdaptiveEngine:
    """Codes the chunks of one text, in their order, with one learner."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def predictor(self, layout: Layout) -> AdaptivePredictor:
        return AdaptivePredictor(self.learner, layout)

    def intervals(self, tokens: NDArray[np.uint16], layout: Layout) -> None:
        return None


class AdaptivePredictor:
    """One token at a time, with the weights of the span; learns when a span is complete."""

    def __init__(self, learner: Learner, layout: Layout) -> None:
        learner.start(layout.lanes)
        self._learner, self._layout = learner, layout
        self._inner = FloatPredictor(learner.model, layout.lanes)
        self._bos = learner.model.bos_id
        self._fed, self._coded = np.zeros((2, layout.lanes, learner.span), np.int64)
        self._step = 0

    def step(self, tokens: Longs) -> Longs:
        column = self._step % self._learner.span
        if column == 0:
            self._begin(len(tokens))
        fed = self._fed[: self._lanes, column]
        fed[: len(tokens)], fed[len(tokens) :] = tokens, self._bos  # some ended within the span
        with self._learner.rule.applied():
            return self._inner.step(fed)[: len(tokens)]

    def saw(self, tokens: Longs) -> None:
        column = self._step % self._learner.span
        self._coded[: len(tokens), column] = tokens
        self._step += 1
        if column + 1 == self._learner.span or self._step == self._layout.steps:
            self._learn(column + 1)

    def _begin(self, lanes: int) -> None:
        self._lanes = lanes
        self._learner.keep(lanes)
        if self._learner.cached:
            self._inner.follow(self._learner.cache)

    def _learn(self, columns: int) -> None:
        offset = np.arange(self._step - columns, self._step)
        within = offset < self._layout.length[: self._lanes, None]
        arrays = (self._fed[: self._lanes, :columns], self._coded[: self._lanes, :columns], within)
        device = self._learner.device
        span = Span(*(torch.from_numpy(a.copy()).to(device) for a in arrays))
        self._learner.learn(span, int(within.sum()))
