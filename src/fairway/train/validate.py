"""Bits per byte of separate windows (protocol `plain`), which training and packing print."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import torch

from fairway import console
from fairway.data.tokenizer import Tokenizer
from fairway.model.gpt import GPT

_TOKENS_PER_BATCH = 16384


@torch.inference_mode()
def validate(
    model: GPT, tokenizer: Tokenizer, tokens: np.ndarray, limit: int = 0
) -> tuple[float, float]:
    """Return nats per token and bits per byte of tokens uint16[N], the first not charged.

    limit: charge only the first so many tokens, and show no progress; 0: all of them.
    """
    tokens = tokens[: limit + 1] if limit else tokens
    ids = torch.from_numpy(tokens.astype(np.int64)).to(model.embed.tokens.device)
    window, charged = model.shape.window, len(ids) - 1
    whole = charged // window * window
    rows = list(zip(ids[:whole].view(-1, window), ids[1 : whole + 1].view(-1, window), strict=True))
    size = max(1, _TOKENS_PER_BATCH // window)
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    if whole < charged:
        batches.append([(ids[whole:-1], ids[whole + 1 :])])
    nats, done = 0.0, 0
    with nullcontext() if limit else console.track("validate", charged, "tokens") as task:
        for batch in batches:
            x, y = torch.stack([r[0] for r in batch]), torch.stack([r[1] for r in batch])
            nats += float(model.loss(x, y)) * x.numel()
            done += x.numel()
            if task:
                task.update(done)
    text_bytes = int(tokenizer.byte_lengths(tokens).sum())
    return nats / charged, nats / math.log(2) / text_bytes
