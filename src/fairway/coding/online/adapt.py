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

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from fairway.coding import protocols
from fairway.coding.lanes import Layout, ids_at, parts
from fairway.coding.match_model import MatchModel
from fairway.coding.online import methods
from fairway.coding.online.rules import LoraRule, Tensors, rule_of
from fairway.coding.online.settings import rounded
from fairway.coding.predictor import FloatPredictor, Longs, Predictor, States, remembering
from fairway.config.schema import NO_MEMORY, Adapt, Memory, Score
from fairway.distributed import ALONE, Process
from fairway.errors import BadInput
from fairway.model.gpt import GPT
from fairway.model.kv_cache import Cache

Floats = NDArray[np.float64]

_BLOCK = 128  # tokens per pass where nothing is learned from the pass itself


class UpdateBlock(NamedTuple):
    """What lanes code between two updates: tokens fed and tokens coded, int64[L, S].

    `within` bool[L, S] is False where a lane has ended: nothing is learned from what stands there.
    """

    fed: Tensor
    coded: Tensor
    within: Tensor


class Charge(NamedTuple):
    """What a span's tokens cost, and the states that they were predicted from."""

    nats: Tensor  # float32[L, S]
    states: Tensor  # [L, S, d]


class Learner:
    """A network and what it has become. Not safe to share by threads: texts have an order.

    With several processes in `world`, each charges and differentiates its share of the lanes, and
    all make the same update. Raises BadInput when the settings do not fit the network.
    """

    def __init__(self, model: GPT, how: Adapt, tokens: int, world: Process = ALONE) -> None:
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
        self.rule = rule_of(model, self.how)
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
            self.cache.shrink_batch(lanes)
            self.rule.keep(lanes)

    def learn(self, span: UpdateBlock, count: int, charge: bool = False) -> Charge | None:
        """Learn from a span that has been coded; what its tokens cost before that.

        `span` has this process's lanes, all processes together have `count` tokens. The cost is
        computed if `charge`, given everything before the span and within it.
        """
        if self.cached:
            return self._learn_in_context(span, count, charge)
        found = self._charge(span) if charge else None
        self._learn_in_rows(span)
        return found

    def _learn_in_context(self, span: UpdateBlock, count: int, charge: bool) -> Charge | None:
        """The pass that charges a span learns from it; the last epoch's keys and values stay."""
        self._done += count
        empty = torch.empty(*span.fed.shape, self.model.shape.dim)
        found = Charge(empty[..., 0], empty) if charge else None
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
                        states = hidden.detach()
                        found = Charge(self.nats(states, span.coded), states)
                    counted = self.rule.fresh(span.coded, span.within)
                    if bool(counted.any()):
                        self.rule.loss(hidden, span.coded, counted, count).backward()
            self.rule.share(self.world)
            self.rule.step(self._progress)
        return found

    def _learn_in_rows(self, span: UpdateBlock) -> None:
        """Rows of a window, each without what was before it."""
        window = self.model.shape.window
        missing = -span.fed.shape[1] % window
        rows = UpdateBlock(*(pad(t, (0, missing)).view(-1, window) for t in span))
        filled = rows.within.any(1)
        self.learn_rows(UpdateBlock(*(t[filled] for t in rows)))

    def learn_rows(self, rows: UpdateBlock) -> None:
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
    def _charge(self, span: UpdateBlock) -> Charge:
        size = min(_BLOCK, self.model.shape.window)
        states = [self.model.hidden(fed, self.cache) for fed in span.fed.split(size, 1)]
        nats = [self.nats(h, c) for h, c in zip(states, span.coded.split(size, 1), strict=True)]
        return Charge(torch.cat(nats, 1), torch.cat(states, 1))

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
    learner: Learner,
    tokens: NDArray[np.uint16],
    how: Score,
    done: int = 0,
    memory: Memory = NO_MEMORY,
) -> Iterator[Charged]:
    """Charge tokens uint16[N], all known, and learn from them; token 0 is free.

    `done` tokens after it have been charged before `learner` was restored. memory: of the
    artifact, for the protocol that proofs have. Raises BadInput.
    """
    if how.protocol == "rolling":
        return _rolling_charges(learner, tokens, done, memory)
    if isinstance(learner.rule, LoraRule):
        raise BadInput("lora learns in lanes: score it with --protocol rolling")
    return _windowed_charges(learner, tokens, how, done)


def _rolling_charges(
    learner: Learner, tokens: NDArray[np.uint16], done: int, memory: Memory
) -> Iterator[Charged]:
    """In the order of a proof, whose chunks and lanes these are."""
    device, model = learner.device, learner.model
    division = methods.division(learner.how, 1)
    for start, part, layout in parts(tokens, model.bos_id, division):
        if start + len(part) - 1 <= done:
            continue
        learner.start(layout.lanes)
        mixture = (
            MatchModel(memory, model.vocab_size, model.bos_id, part, layout)
            if any(memory)
            else None
        )
        for first in range(0, layout.steps, learner.span):
            last = first + learner.span
            block = layout.block(part, model.bos_id, first, last, learner.share)
            learner.keep(len(block.where))
            fed, within = (torch.from_numpy(a).to(device) for a in (block.fed, block.within))
            span = UpdateBlock(fed, ids_at(part, block.where, device), within)
            charge = learner.learn(span, layout.coded(first, last), charge=True)
            assert charge is not None
            nats = charge.nats.double().cpu().numpy()[block.within]
            where = block.where[block.within]
            if mixture:
                states = charge.states.float().cpu().numpy()[block.within] if memory.cache else None
                nats = mixture.nats(where, nats, states)
            yield Charged(where + start, nats, last >= layout.steps)


def _windowed_charges(
    learner: Learner, tokens: NDArray[np.uint16], how: Score, done: int
) -> Iterator[Charged]:
    """A window at a time; what has been charged is learned when it is a span or more."""
    device, window = learner.device, learner.model.shape.window
    learned = done
    for start, first, end in protocols.planned(len(tokens), window, how):
        if end <= done:
            continue
        seen = ids_at(tokens, slice(start, end + 1), device)[None]
        with torch.no_grad():
            hidden = learner.model.hidden(seen[:, :-1], last=end - first)
            nats = learner.nats(hidden, seen[:, first - start + 1 :])[0].double().cpu().numpy()
        complete = end - learned >= learner.span or end == len(tokens) - 1
        if complete:
            learner.learn_rows(_rows(tokens, learned, end, window, device))
            learned = end
        yield Charged(np.arange(first + 1, end + 1), nats, complete)


def _rows(
    tokens: NDArray[np.uint16], first: int, last: int, window: int, device: torch.device
) -> UpdateBlock:
    """Rows of a window that end with position `last`; tokens up to `first` are context alone."""
    ends = np.arange(last, first, -window)[::-1]
    where = ends[:, None] + np.arange(-min(window, last), 0)
    within = where >= first
    where = where.clip(0)
    counted = torch.from_numpy(within).to(device)
    return UpdateBlock(ids_at(tokens, where, device), ids_at(tokens, where + 1, device), counted)


# Learning in lockstep ----------------------------------------------------------------------------


class AdaptiveEngine:
    """Codes the chunks of one text, in their order, with one learner."""

    learns = True

    def __init__(self, learner: Learner, memory: Memory = NO_MEMORY) -> None:
        self.learner, self.memory = learner, memory

    def predictor(self, layout: Layout) -> Predictor:
        inner, model = AdaptivePredictor(self.learner, layout), self.learner.model
        return remembering(inner, self.memory, model.vocab_size, model.bos_id, layout)

    def intervals(self, tokens: NDArray[np.uint16], layout: Layout) -> None:
        return None


class AdaptivePredictor:
    """One token at a time, with the weights of the span; learns when a span is complete."""

    def __init__(self, learner: Learner, layout: Layout) -> None:
        learner.start(layout.lanes)
        self._learner, self._layout = learner, layout
        self._inner = FloatPredictor(learner.model, layout.lanes)
        self._bos = learner.model.bos_id
        columns = min(learner.span, layout.steps)
        self._fed, self._coded = np.zeros((2, layout.lanes, columns), np.int64)
        self._step = 0

    def step(self, tokens: Longs) -> Longs:
        column = self._step % self._learner.span
        if column == 0:
            self._begin(len(tokens))
        fed = self._fed[: self._lanes, column]
        fed[: len(tokens)], fed[len(tokens) :] = tokens, self._bos  # some ended within the span
        with self._learner.rule.applied():
            return self._inner.step(fed)[: len(tokens)]

    @property
    def states(self) -> States:
        return self._inner.states

    def observe(self, tokens: Longs) -> None:
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
        span = UpdateBlock(*(torch.from_numpy(a.copy()).to(device) for a in arrays))
        self._learner.learn(span, int(within.sum()))
