"""A CodingModel that trains on the text while coding it: score first, then learn.

All lanes of a chunk advance together (lanes.py). After every `block_tokens` steps, the network
learns from the tokens coded since, and from nothing else. This update block is a function of the
layout alone, and a decoder knows its tokens by then, so it can learn the same. A text of several
chunks goes through one model, which keeps everything that it learned.

    lane 0   [ block 0 ][ block 1 ][ blo ]       block 0 is charged with weights 0, then learned;
    lane 1   [ block 0 ][ block 1 ]              block 1 is charged with weights 1, then learned ...

left-to-right: one lane, or lanes that share nothing that learns; every token is predicted from the
text before it. lanes: all lanes train one network; a token may be predicted by weights that learned
from text further on in the file.

The bits depend on the machine (floating point). `token_costs` charges an update block in one pass,
and a stepper token by token; both then learn by the same pass.
Legend: L lanes, S tokens of a lane in an update block, d width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from fairway.coding import float_model
from fairway.coding.float_model import FloatStepper
from fairway.coding.lanes import Layout, Longs, Tokens, ids_at
from fairway.coding.model import States, Tensors, TokenCosts, Window
from fairway.coding.online import new_rule, rounded
from fairway.config.schema import Adapt
from fairway.distributed import ALONE, Process
from fairway.errors import BadInput
from fairway.model.gpt import GPT

_PASS_TOKENS = 128  # of a lane per forward pass where the pass itself is not learned from


class UpdateBlock(NamedTuple):
    """What lanes code between two updates: tokens fed and tokens coded, int64[L, S].

    `within` bool[L, S] is False where a lane has ended: nothing is learned from these entries.
    """

    fed: Tensor
    coded: Tensor
    within: Tensor


class BlockCosts(NamedTuple):
    """What the tokens of an update block cost, and the states that predicted them."""

    nats: Tensor  # float32[L, S]
    states: Tensor  # [L, S, d]


class LearningModel:
    """A network and everything it has learned. Threads cannot share it: texts have an order.

    With several processes, each charges and differentiates its share of the lanes, and all make the
    same update.
    """

    learns: ClassVar[bool] = True
    has_intervals: ClassVar[bool] = False

    def __init__(self, network: GPT, adapt: Adapt, tokens: int, process: Process = ALONE) -> None:
        """Prepare to learn from `tokens` tokens. Raises BadInput if the settings do not fit."""
        self.network, self.adapt = network, rounded(adapt)
        self.bos_id, self.vocab_size = network.bos_id, network.vocab_size
        self.window: int = network.shape.window
        self.block_tokens: int = self.adapt.settings.block_tokens
        self._tokens, self._done = tokens, 0
        self.rule = new_rule(network, self.adapt)
        # Whether an update block is learned with the key/value cache as context.
        self.has_context = self.block_tokens <= self.window
        if not self.has_context and not self.rule.takes_long_blocks:
            raise BadInput(
                f"adapt.{adapt.method}.block_tokens is {self.block_tokens}, more than the window, "
                f"{self.window}"
            )
        # Without context each process learns all rows by itself.
        self.process = process if self.has_context else ALONE
        self.cache = float_model.new_cache(network, 1)

    @property
    def device(self) -> torch.device:
        return self.network.embed.tokens.device

    @property
    def share(self) -> slice:
        """Return which lanes belong to this process."""
        return slice(self.process.rank, None, self.process.size)

    def start(self, lanes: int) -> None:
        """Begin a chunk: the lanes have no past, and the network keeps what it learned."""
        own = len(range(lanes)[self.share])
        self.rule.start(own)
        self.cache = float_model.new_cache(self.network, own)

    def shrink_batch(self, lanes: int) -> None:
        """Keep the first `lanes` lanes of this process's share; the others have ended."""
        if lanes < len(self.cache.document_start):
            self.cache.shrink_batch(lanes)
            self.rule.shrink_batch(lanes)

    # Known tokens --------------------------------------------------------------------------------

    def token_costs(
        self, tokens: Tokens, layout: Layout, with_states: bool = False
    ) -> Iterator[TokenCosts]:
        """Yield the costs of this process's lanes, block after block, and learn each block."""
        self.start(layout.lanes)
        done = 0
        for part in layout.blocks(tokens, self.bos_id, self.block_tokens, self.share):
            self.shrink_batch(len(part.fed))
            fed, within = (torch.from_numpy(a).to(self.device) for a in (part.fed, part.within))
            block = UpdateBlock(fed, ids_at(tokens, part.positions, self.device), within)
            costs = self.learn(block, part.coded, with_costs=True)
            assert costs is not None
            nats = costs.nats.double().cpu().numpy()[part.within]
            states = costs.states.float().cpu().numpy()[part.within] if with_states else None
            done += self.block_tokens
            yield TokenCosts(part.positions[part.within], nats, None, states, done >= layout.steps)

    def window_costs(self, tokens: Tokens, windows: Iterable[Window]) -> Iterator[TokenCosts]:
        """Return the costs of one window after the other; an update block is learned when charged.

        Raises BadInput.
        """
        if not self.rule.lanes_share_weights:
            raise BadInput(f"{self.adapt.method} learns in lanes: score it with --protocol rolling")
        return self._window_costs(tokens, windows)

    def _window_costs(self, tokens: Tokens, windows: Iterable[Window]) -> Iterator[TokenCosts]:
        learned = -1
        for start, first, end in windows:
            learned = first if learned < 0 else learned
            fed = ids_at(tokens, slice(start, end + 1), self.device)[None]
            with torch.no_grad():
                hidden = self.network.hidden(fed[:, :-1], last=end - first)
                nats = self._nats(hidden, fed[:, first - start + 1 :])[0].double().cpu().numpy()
            is_complete = end - learned >= self.block_tokens or end == len(tokens) - 1
            if is_complete:
                self._learn_rows(_rows(tokens, learned, end, self.window, self.device))
                learned = end
            positions = np.arange(first + 1, end + 1)
            yield TokenCosts(positions, nats, is_resumable=is_complete)

    # Learning ------------------------------------------------------------------------------------

    def learn(self, block: UpdateBlock, count: int, with_costs: bool = False) -> BlockCosts | None:
        """Learn from a block that has been coded; return what its tokens cost before that.

        `block` has this process's lanes; all processes together have `count` tokens. Costs are
        computed if `with_costs`, given everything before the block and within it.
        """
        if self.has_context:
            return self._learn_in_context(block, count, with_costs)
        costs = self._block_costs(block) if with_costs else None
        self._learn_in_rows(block)
        return costs

    def _learn_in_context(
        self, block: UpdateBlock, count: int, with_costs: bool
    ) -> BlockCosts | None:
        """Learn by the pass that charges the block; the last epoch's keys and values stay."""
        self._done += count
        empty = torch.empty(*block.fed.shape, self.network.shape.dim)
        costs = BlockCosts(empty[..., 0], empty) if with_costs else None
        for epoch in range(self.rule.epochs):
            cache = self.cache
            if epoch + 1 < self.rule.epochs:
                cache = float_model.new_cache(self.network, len(block.fed))
                cache.copy_(self.cache)
            if len(block.fed):  # another process may have lanes left when this one has none
                with self.rule.applied():
                    hidden = self.network.hidden(block.fed, cache)
                    if with_costs and epoch == 0:
                        states = hidden.detach()
                        costs = BlockCosts(self._nats(states, block.coded), states)
                    counted = self.rule.begin_documents(block.coded, block.within)
                    if bool(counted.any()):
                        self.rule.loss(hidden, block.coded, counted, count).backward()
            self.rule.all_reduce(self.process)
            self.rule.step(self._progress)
        return costs

    def _learn_in_rows(self, block: UpdateBlock) -> None:
        """Learn from rows of a window, each without past."""
        missing = -block.fed.shape[1] % self.window
        rows = UpdateBlock(*(pad(t, (0, missing)).view(-1, self.window) for t in block))
        filled = rows.within.any(1)
        self._learn_rows(UpdateBlock(*(t[filled] for t in rows)))

    def _learn_rows(self, rows: UpdateBlock) -> None:
        """Learn from the tokens `within` rows of up to a window; the other tokens are context."""
        self._done += int(rows.within.sum())
        at_once = self.rule.rows or len(rows.fed)
        for _ in range(self.rule.epochs):
            for fed, coded, within in zip(*(t.split(at_once) for t in rows), strict=True):
                count = int(within.sum())
                self.rule.loss(self.network.hidden(fed), coded, within, count).backward()
                self.rule.step(self._progress)

    @torch.no_grad()
    def _block_costs(self, block: UpdateBlock) -> BlockCosts:
        size = min(_PASS_TOKENS, self.window)
        states = [self.network.hidden(fed, self.cache) for fed in block.fed.split(size, 1)]
        pairs = zip(states, block.coded.split(size, 1), strict=True)
        nats = [self._nats(hidden, coded) for hidden, coded in pairs]
        return BlockCosts(torch.cat(nats, 1), torch.cat(states, 1))

    @torch.no_grad()
    def _nats(self, hidden: Tensor, coded: Tensor) -> Tensor:
        return cross_entropy(self.network.head(hidden).mT, coded, reduction="none")

    @property
    def _progress(self) -> float:
        return self._done / max(self._tokens, 1)

    def snapshot(self) -> Tensors:
        """Return a copy of everything that was learned, between two chunks or windows."""
        copies = {name: t.clone() for name, t in self.rule.tensors().items()}
        return copies | {"done": torch.tensor(self._done)}

    def restore(self, tensors: Tensors) -> None:
        self._done = int(tensors["done"])
        for name, tensor in self.rule.tensors().items():
            tensor.copy_(tensors[name])

    # Steps ---------------------------------------------------------------------------------------

    def stepper(self, layout: Layout) -> LearningStepper:
        return LearningStepper(self, layout)

    def check_memory(self, layout: Layout, extra_bytes: int = 0) -> None:
        float_model.check_memory(self.network, layout.lanes, extra_bytes)


class LearningStepper:
    """One token of every lane at a time, with fixed weights inside an update block."""

    def __init__(self, model: LearningModel, layout: Layout) -> None:
        model.start(layout.lanes)
        self._model, self._layout = model, layout
        self._inner = FloatStepper(model.network, layout.lanes)
        columns = min(model.block_tokens, layout.steps)
        self._fed, self._coded = np.zeros((2, layout.lanes, columns), np.int64)
        self._step = 0

    def step(self, tokens: Longs) -> Longs:
        column = self._step % self._model.block_tokens
        if column == 0:
            self._begin(len(tokens))
        fed = self._fed[: self._lanes, column]
        fed[: len(tokens)] = tokens
        fed[len(tokens) :] = self._model.bos_id  # these lanes ended within the block
        with self._model.rule.applied():
            return self._inner.step(fed)[: len(tokens)]

    @property
    def states(self) -> States:
        return self._inner.states

    def memory_parts(self, tokens: Longs) -> Longs:
        return np.zeros((len(tokens), 2), np.int64)

    def observe(self, tokens: Longs) -> None:
        column = self._step % self._model.block_tokens
        self._coded[: len(tokens), column] = tokens
        self._step += 1
        if column + 1 == self._model.block_tokens or self._step == self._layout.steps:
            self._learn(column + 1)

    def _begin(self, lanes: int) -> None:
        self._lanes = lanes
        self._model.shrink_batch(lanes)
        if self._model.has_context:
            self._inner.follow(self._model.cache)

    def _learn(self, columns: int) -> None:
        steps = np.arange(self._step - columns, self._step)
        within = steps < self._layout.length[: self._lanes, None]
        arrays = (self._fed[: self._lanes, :columns], self._coded[: self._lanes, :columns], within)
        block = UpdateBlock(*(torch.from_numpy(a.copy()).to(self._model.device) for a in arrays))
        self._model.learn(block, int(within.sum()))


def _rows(tokens: Tokens, first: int, last: int, window: int, device: torch.device) -> UpdateBlock:
    """Return rows of a window that end with position `last`; tokens up to `first` are context."""
    ends = np.arange(last, first, -window)[::-1]
    where = ends[:, None] + np.arange(-min(window, last), 0)
    within = where >= first
    where = where.clip(0)
    counted = torch.from_numpy(within).to(device)
    return UpdateBlock(ids_at(tokens, where, device), ids_at(tokens, where + 1, device), counted)
