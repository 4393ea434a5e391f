"""Text that a model writes on its own."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fairway import distributed
from fairway.coding.artifact import Artifact
from fairway.coding.lanes import Layout, Longs
from fairway.coding.session import open_model
from fairway.config.schema import NO_MEMORY, Arithmetic
from fairway.formats.coded_tokens import Starts


def sample(
    opened: Artifact,
    prompt: bytes,
    tokens: int,
    temperature: float,
    seed: int,
    arithmetic: Arithmetic = "exact",
) -> Iterator[str]:
    """Yield the text of `continuation`; bytes that are no UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # tokens may cut a character in two
    for added in continuation(opened, prompt, tokens, temperature, seed, arithmetic):
        yield decoder.decode(added)
    yield decoder.decode(b"", final=True)


def continuation(
    opened: Artifact,
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
    opened = replace(opened, memory=NO_MEMORY)
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
