"""Fairway's own scorers in the form that `audit` takes: any artifact, protocol and adaptation.

from fairway.audit.fairway_scorer import fairway_scorer
scorer = fairway_scorer("model.fairway", protocol="rolling", method="dynamic")
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Literal

import numpy as np

from fairway.audit import Charges
from fairway.audit.scorer import Tokens as Ids
from fairway.coding import artifact, online
from fairway.coding.lanes import Tokens, chunks, documents_of
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import Adapt, Arithmetic, Method, Prove, Score


def fairway_scorer(
    model: str | Path,
    protocol: Literal["plain", "sliding", "rolling"] = "rolling",
    stride: int = 64,
    method: Method = "none",
    order: Literal["left-to-right", "lanes"] = "left-to-right",
    arithmetic: Arithmetic = "exact",
) -> Callable[[Ids], Charges]:
    """Return a scorer of the artifact in the file `model`. Raises BadInput."""
    opened = artifact.read(Path(model))
    how = Score(protocol=protocol, stride=stride, arithmetic=arithmetic)
    adapt = Adapt(method=method, order=order)
    division = online.division(adapt, Prove().lanes)
    fixed = open_model(opened, arithmetic) if method == "none" else None

    def scorer(ids: Ids) -> Charges:
        tokens = ids.astype(np.uint16)
        coding_model = fixed or open_model(opened, arithmetic, adapt, tokens=len(tokens))
        nats, times = np.zeros(len(tokens)), np.zeros(len(tokens), np.int64)
        for costs in text_costs(coding_model, tokens, how, division):
            np.add.at(nats, costs.positions, costs.nats)
            np.add.at(times, costs.positions, 1)
        size = opened.tokenizer.byte_lengths(tokens)
        taken, side = _order(tokens, opened.tokenizer.bos_id, adapt, protocol)
        return Charges(
            nats, times, size, float(nats.sum()) + 8 * side * log(2), int(times.sum()),
            int(size.sum()), taken, side,
        )  # fmt: skip

    return scorer


def _order(tokens: Tokens, bos_id: int, adapt: Adapt, protocol: str) -> tuple[Ids | None, int]:
    """Return the order of a proof (None: left to right), and the header bytes of its lanes."""
    documents = documents_of(tokens, bos_id)
    if protocol != "rolling" or not documents.size or documents[0]:
        return None, 0
    cut = list(chunks(tokens, bos_id, online.division(adapt, Prove().lanes)))
    side = sum(len(chunk.layout.starts.to_bytes()) - 1 for chunk in cut)  # one lane needs none
    if online.order_of(adapt) == "left-to-right":
        return None, side
    orders = [chunk.layout.order() + chunk.start for chunk in cut]
    return np.concatenate([np.zeros(1, np.int64), *orders]), side
