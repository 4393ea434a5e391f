"""Text that a model writes on its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fairway import world
from fairway.pack import artifact
from fairway.predict.predictor import FloatPredictor


def sample(model: Path, prompt: str, tokens: int, temperature: float, seed: int) -> str:
    """The prompt and what the artifact `model` adds: `continuation`, decoded."""
    added = b"".join(continuation(model, prompt.encode(), tokens, temperature, seed))
    return prompt + added.decode(errors="replace")


def continuation(
    model: Path, prompt: bytes, tokens: int, temperature: float, seed: int
) -> Iterator[bytes]:
    """The bytes of up to `tokens` tokens after `prompt`, as they come; a document's end is the end.

    Token t is drawn from softmax(logits / temperature); 0: always the likeliest. Raises BadInput.
    """
    opened = artifact.read(model)
    here = world.start()
    network = opened.build_model(here.device)
    network.dtype = here.dtype
    tokenizer = opened.tokenizer
    random = np.random.default_rng(seed)
    predictor = FloatPredictor(network, 1)
    written = tokenizer.encode_documents([prompt]).tolist()
    shown = len(tokenizer.decode(written)[0])
    for token in written[:-1]:
        predictor.logits(np.array([token]))
    for _ in range(tokens):
        logits = predictor.logits(np.array(written[-1:]))[0]
        token = _draw(logits, temperature, random)
        if token == tokenizer.bos_id:
            return
        written.append(token)
        text = tokenizer.decode(written)[0]
        yield text[shown:]
        shown = len(text)


def _draw(logits: torch.Tensor, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    p = (logits.double() / temperature).softmax(-1).cpu().numpy()
    return int(random.choice(len(p), p=p / p.sum()))
