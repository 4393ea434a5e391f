from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fairway.model.gpt import build
from fairway.pipeline.data_folder import load_tokenizer, load_val
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import PrepareResult
from fairway.train.validate import validate


def test_bpb_counts_every_token_but_the_first_once(tiny: RunDirectory) -> None:
    folder = tiny.data_folder(tiny.require(PrepareResult))
    tokenizer, tokens = load_tokenizer(folder), load_val(folder)[:1000]
    from fairway.config.schema import Model

    model = build(Model(dim=16, num_heads=2, window=64), tokenizer.vocab_size, tokenizer.bos_id, 0)
    ids = torch.from_numpy(tokens.astype(np.int64))
    total = 0.0
    with torch.no_grad():
        for start in range(0, 999, 64):  # one window at a time, the short tail last
            x, y = ids[start : start + 64][: 999 - start], ids[start + 1 : start + 65]
            total += float(model.loss(x[None], y[None])) * len(x)
    nats, bpb = validate(model, tokenizer, tokens)
    assert nats == pytest.approx(total / 999, rel=1e-5)
    assert bpb == pytest.approx(
        total / math.log(2) / len(b"".join(tokenizer.decode(tokens))), rel=1e-5
    )
