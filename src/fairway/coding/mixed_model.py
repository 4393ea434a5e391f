"""Any CodingModel together with the document memory: the only place where the two are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fairway.coding.lanes import Layout, Tokens
from fairway.coding.match_model import MatchModel, MatchStepper
from fairway.coding.model import NetworkModel, Tensors, TokenCosts, Window
from fairway.config.schema import Memory


class MixedModel:
    """A CodingModel whose predictions are mixed with those of the document memory."""

    def __init__(self, inner: NetworkModel, memory: Memory, dim: int) -> None:
        """Wrap a model whose states have the width `dim`."""
        self._inner, self._memory, self._dim = inner, memory, dim
        self.bos_id, self.vocab_size, self.window = inner.bos_id, inner.vocab_size, inner.window
        self.learns, self.has_intervals = inner.learns, inner.has_intervals
        self.process = inner.process

    def token_costs(
        self, tokens: Tokens, layout: Layout, with_states: bool = False
    ) -> Iterator[TokenCosts]:
        mixture = MatchModel(self._memory, self.vocab_size, self.bos_id, tokens, layout)
        inner = self._inner.token_costs(tokens, layout, with_states=self._memory.neural_cache > 0)
        return map(mixture.mix, inner)

    def window_costs(self, tokens: Tokens, windows: Iterable[Window]) -> Iterator[TokenCosts]:
        """Yield the inner model's costs: windows do not know the document before them."""
        return self._inner.window_costs(tokens, windows)

    def stepper(self, layout: Layout) -> MatchStepper:
        self.check_memory(layout)
        inner = self._inner.stepper(layout)
        return MatchStepper(inner, self._memory, self.vocab_size, self.bos_id, layout)

    def check_memory(self, layout: Layout, extra_bytes: int = 0) -> None:
        states = min(self._memory.neural_cache, layout.steps) * (2 * self._dim + 4)
        own = layout.lanes * ((self.vocab_size + 1) * 8 + states)
        self._inner.check_memory(layout, own + extra_bytes)

    def snapshot(self) -> Tensors:
        return self._inner.snapshot()

    def restore(self, tensors: Tensors) -> None:
        self._inner.restore(tensors)
