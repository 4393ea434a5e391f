"""Text that a model writes on its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairway import distributed
from fairway.coding import artifact
from fairway.coding.exact_model import ExactEngine, ExactPredictor
from fairway.coding.predictor import FloatPredictor, Predictor
from fairway.config.schema import Arithmetic


def sample(
    model: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    arithmetic: Arithmetic = "exact",
) -> str:
    """The prompt and what the artifact `model` adds: `continuation`, decoded."""
    added = b"".join(continuation(model, prompt.encode(), tokens, temperature, seed, arithmetic))
    return prompt + added.decode(errors="replace")


def continuation(
    model: Path,
    prompt: bytes,
    tokens: int,
    temperature: float,
    seed: int,
    arithmetic: Arithmetic = "exact",
) -> Iterator[bytes]:
    """The bytes of up to `tokens` tokens after `prompt`, as they come; a document's end is the end.

    A token is drawn in proportion to p^(1/temperature); 0: always the likeliest. Raises BadInput.
    """
    opened = artifact.read(model)
    here = distributed.start()
    predictor: Predictor
    if arithmetic == "exact":
        predictor = ExactPredictor(ExactEngine(opened), 1)
    else:
        predictor = FloatPredictor(opened.build_model(here.device, here.dtype), 1)
    tokenizer = opened.tokenizer
    random = np.random.default_rng(seed)
    written = tokenizer.encode_documents([prompt]).tolist()
    shown = len(tokenizer.decode(written)[0])
    for token in written[:-1]:
        predictor.step(np.array([token]))
    for _ in range(tokens):
        frequencies = np.diff(predictor.step(np.array(written[-1:]))[0])
        token = _draw(frequencies, temperature, random)
        if token == tokenizer.bos_id:
            return
        written.append(token)
        text = tokenizer.decode(written)[0]
        yield text[shown:]
        shown = len(text)


def _draw(frequencies: NDArray[np.int64], temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(frequencies.argmax())
    shares = np.log(frequencies / frequencies.max()) / temperature
    p = np.exp(shares)
    return int(random.choice(len(p), p=p / p.sum()))
