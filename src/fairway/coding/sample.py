"""Text that a model writes on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fairway import distributed
from fairway.coding import artifact
from fairway.coding.lanes import Layout, Longs
from fairway.coding.session import open_model
from fairway.config.schema import NO_MEMORY, Arithmetic
from fairway.formats.coded_tokens import Starts


def sample(
    model: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    arithmetic: Arithmetic = "exact",
) -> str:
    """Return the prompt and what the artifact `model` adds: `continuation`, decoded."""
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
    """Yield the bytes of up to `tokens` tokens after `prompt`, until the document ends.

    A token is drawn in proportion to p^(1/temperature); 0: always the likeliest. The network alone
    predicts, without the document memory. Raises BadInput.
    """
    opened = replace(artifact.read(model), memory=NO_MEMORY)
    process = distributed.start("cpu" if arithmetic == "exact" else "")
    tokenizer = opened.tokenizer
    coding_model = open_model(
        opened, arithmetic, device=process.device, dtype=process.dtype, workers=1
    )
    random = np.random.default_rng(seed)
    written = tokenizer.encode_documents([prompt]).tolist()
    stepper = coding_model.stepper(Layout(len(written) + tokens, Starts.whole()))
    shown = len(tokenizer.decode(written)[0])
    for token in written[:-1]:
        stepper.step(np.array([token]))
    for _ in range(tokens):
        frequencies = np.diff(stepper.step(np.array(written[-1:]))[0])
        token = _draw(frequencies, temperature, random)
        if token == tokenizer.bos_id:
            return
        written.append(token)
        text = tokenizer.decode(written)[0]
        yield text[shown:]
        shown = len(text)


def _draw(frequencies: Longs, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(frequencies.argmax())
    shares = np.log(frequencies / frequencies.max()) / temperature
    p = np.exp(shares)
    return int(random.choice(len(p), p=p / p.sum()))
