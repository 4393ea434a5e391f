"""Fairway's own scorers, as `audit` wants them: any artifact, protocol and adaptation.

from fairway.audit.fairway_scorer import fairway_scorer
scorer = fairway_scorer("model.fairway", protocol="rolling", method="dynamic")
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import log
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fairway.audit.scorer import Charges, Tokens
from fairway.coding import artifact
from fairway.coding.exact_model import ExactEngine
from fairway.coding.lanes import documents_of, parts
from fairway.coding.online import adapt, methods
from fairway.config.schema import Adapt, Arithmetic, Prove, Score
from fairway.pipeline.score import charges, exact_charges


def fairway_scorer(
    model: str | Path,
    protocol: Literal["plain", "sliding", "rolling"] = "rolling",
    stride: int = 64,
    method: Literal["none", "sgd", "dynamic", "lora"] = "none",
    order: Literal["left-to-right", "lanes"] = "left-to-right",
    arithmetic: Arithmetic = "exact",
) -> Callable[[Tokens], Charges]:
    """A scorer of the artifact in the file `model`. Raises BadInput."""
    opened = artifact.read(Path(model))
    how = Score(protocol=protocol, stride=stride, arithmetic=arithmetic)
    learns = Adapt(method=method, order=order)
    engine = ExactEngine(opened, torch.get_num_threads())
    network = opened.build_model()

    def scorer(ids: Tokens) -> Charges:
        tokens = ids.astype(np.uint16)
        if method != "none":
            learner = adapt.Learner(deepcopy(network), learns, len(tokens))
            parts = [
                (p.positions, p.nats)
                for p in adapt.charges(learner, tokens, how, memory=opened.memory)
            ]
        elif arithmetic == "exact":
            parts = list(exact_charges(engine, tokens, how))
        else:
            parts = list(charges(network, tokens, how, opened.memory))
        nats, times = np.zeros(len(tokens)), np.zeros(len(tokens), np.int64)
        for positions, charged in parts:
            np.add.at(nats, positions, charged)
            np.add.at(times, positions, 1)
        size = opened.tokenizer.byte_lengths(tokens)
        taken, side = _order(tokens, opened.tokenizer.bos_id, learns, protocol)
        return Charges(
            nats, times, size, float(nats.sum()) + 8 * side * log(2), int(times.sum()),
            int(size.sum()), taken, side,
        )  # fmt: skip

    return scorer


def _order(
    tokens: NDArray[np.uint16], bos_id: int, how: Adapt, protocol: str
) -> tuple[Tokens | None, int]:
    """The order of a proof (None: left to right), and what its header says of the lanes."""
    documents = documents_of(tokens, bos_id)
    if protocol != "rolling" or not documents.size or documents[0]:
        return None, 0
    found = list(parts(tokens, bos_id, methods.division(how, Prove().lanes)))
    side = sum(len(part.layout.starts.to_bytes()) - 1 for part in found)  # a lane needs no start
    if methods.order_of(how) == "left-to-right":
        return None, side
    orders = [part.layout.order() + part.start for part in found]
    return np.concatenate([np.zeros(1, np.int64), *orders]), side
