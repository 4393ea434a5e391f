"""The Python interface: what an artifact can do, in four calls. docs/python.md."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fairway.coding import artifact, sample
from fairway.coding.compress import compress, decompress
from fairway.coding.exact_model import ExactEngine
from fairway.coding.lanes import Division
from fairway.config.schema import Score
from fairway.pipeline.score import exact_charges


@dataclass(frozen=True)
class LogProbs:
    """Of one document. token_ids uint16[N], BOS first; logprobs float64[N - 1], in nats, of
    token_ids[1:], each given all tokens before it; text_bytes of what they decode to."""

    token_ids: NDArray[np.uint16]
    logprobs: NDArray[np.float64]
    text_bytes: int

    @property
    def bits_per_byte(self) -> float:
        return float(-self.logprobs.sum() / np.log(2) / max(self.text_bytes, 1))


class Model:
    """An artifact, opened. Predictions are in exact arithmetic: the same on every machine."""

    def __init__(self, path: str | Path) -> None:
        """Raises BadInput that names what is wrong with the file."""
        self.path = Path(path)
        self._artifact = artifact.read(self.path)
        self._engine = ExactEngine(self._artifact, torch.get_num_threads())

    def logprobs(self, text: str | bytes) -> LogProbs:
        """How likely the model finds a text. Raises BadInput where it cannot be tokenized."""
        tokenizer = self._artifact.tokenizer
        tokens = tokenizer.encode_documents([text.encode() if isinstance(text, str) else text])
        found, whole = np.zeros(len(tokens)), Division(1, len(tokens))
        for positions, nats in exact_charges(self._engine, tokens, Score(), whole):
            found[positions] = -nats
        size = sum(map(len, tokenizer.decode(tokens)))
        return LogProbs(tokens, found[1:], size)

    def compress(self, data: bytes) -> bytes:
        """Any bytes as a .fwz file that `decompress`, or fairway decompress, restores."""
        out = io.BytesIO()
        compress(self.path, io.BytesIO(data), out, "exact", lambda done: None)
        return out.getvalue()

    def decompress(self, data: bytes) -> bytes:
        """Inverse of `compress`. Raises BadInput: damaged bytes, or those of another model."""
        out = io.BytesIO()
        decompress(self.path, io.BytesIO(data), out, lambda done: None)
        return out.getvalue()

    def generate(
        self, prompt: str = "", tokens: int = 200, temperature: float = 0.8, seed: int = 0
    ) -> str:
        """The prompt and what the model adds; temperature 0 takes the likeliest token."""
        return sample.sample(self.path, prompt, tokens, temperature, seed)
