"""Use an artifact from Python: log-probabilities, compression, samples. docs/python.md."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairway.coding import artifact, sample
from fairway.coding.compress import compress, decompress
from fairway.coding.lanes import Division
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import Score


@dataclass(frozen=True)
class LogProbs:
    """The log-probabilities of one document's tokens, each given all tokens before it."""

    token_ids: NDArray[np.uint16]  # [N], BOS first
    logprobs: NDArray[np.float64]  # [N - 1], of token_ids[1:], in nats
    text_bytes: int  # of the text that the tokens decode to

    @property
    def bits_per_byte(self) -> float:
        """Return the document's code length over its length in bytes."""
        return float(-self.logprobs.sum() / np.log(2) / max(self.text_bytes, 1))


class Model:
    """An opened artifact. It predicts in exact arithmetic: the same bits on every machine."""

    def __init__(self, path: str | Path) -> None:
        """Open an artifact. Raises BadInput that names what is wrong with the file."""
        self.path = Path(path)
        self._artifact = artifact.read(self.path)
        self._model = open_model(self._artifact)

    def logprobs(self, text: str | bytes) -> LogProbs:
        """Return the log-probability of every token. Raises BadInput for text without tokens."""
        tokenizer = self._artifact.tokenizer
        tokens = tokenizer.encode_documents([text.encode() if isinstance(text, str) else text])
        logprobs, whole = np.zeros(len(tokens)), Division(1, len(tokens))
        for costs in text_costs(self._model, tokens, Score(), whole):
            logprobs[costs.positions] = -costs.nats
        size = sum(map(len, tokenizer.decode(tokens)))
        return LogProbs(tokens, logprobs[1:], size)

    def compress(self, data: bytes) -> bytes:
        """Return a .fwz file that `decompress`, or fairway decompress, restores to `data`."""
        out = io.BytesIO()
        compress(self._artifact, io.BytesIO(data), out, "exact", lambda done: None)
        return out.getvalue()

    def decompress(self, data: bytes) -> bytes:
        """Return the inverse of `compress`. Raises BadInput for damage or another model's file."""
        out = io.BytesIO()
        decompress(self._artifact, io.BytesIO(data), out, lambda done: None)
        return out.getvalue()

    def generate(
        self, prompt: str = "", tokens: int = 200, temperature: float = 0.8, seed: int = 0
    ) -> str:
        """Return the prompt and what the model adds; temperature 0 takes the likeliest token."""
        added = sample.sample(self._artifact, prompt.encode(), tokens, temperature, seed)
        return prompt + "".join(added)
