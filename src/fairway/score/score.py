"""The verb `score`: bits per byte of a text under the artifact, computed in parallel.

plain: separate windows. sliding: overlapping windows, each scoring what is new in it (REFERENCE
A8). rolling: lanes at document starts, every token once with up to a window of context: what
`prove` codes. Every token but the first is charged exactly once, document boundaries included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby, islice
from math import log
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from fairway import console, world
from fairway.course import Run
from fairway.errors import BadInput, Interrupted
from fairway.model.cache import Cache
from fairway.model.gpt import GPT
from fairway.pack import artifact
from fairway.predict.exact import ExactEngine
from fairway.predict.lanes import Layout, plan
from fairway.recipe import Recipe, Score
from fairway.results import ScoreResult
from fairway.score import texts, windows
from fairway.score.bits import bits_per_byte
from fairway.score.windows import Window

_BATCH_TOKENS = 8192  # positions per forward pass
_HEAD_ROWS = 1024  # rows of logits at once
_LANES = 32  # of rolling, at most
_BLOCK = 128  # tokens of a lane per forward pass

Charges = Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Which tokens are charged, int64[k], and the nats of each, float64[k]."""


def score(recipe: Recipe, run: Run, text: Path | None = None) -> ScoreResult:
    """Score the validation split, or the documents of a file, by recipe.score.

    Results about a file stand in run.about(file). Raises BadInput; Interrupted after Ctrl-C.
    """
    opened = artifact.read(run.artifact)
    subject = texts.load(recipe, run, opened.tokenizer, text)
    place = run if text is None else run.about(text)
    stamp = run.stamp("score", recipe)
    finished = place.fresh("score", stamp, ScoreResult)
    if finished and finished.text_sha256 == subject.text_sha256:
        return finished
    here, began = world.start(), time.perf_counter()
    if recipe.score.arithmetic == "exact":
        engine = ExactEngine(opened, torch.get_num_threads(), here.device)
        charged = exact_charges(engine, subject.tokens, recipe.score)
    else:
        model = opened.build_model(here.device)
        model.dtype = here.dtype
        charged = charges(model, subject.tokens, recipe.score)
    nats = _total(charged, subject)
    count = len(subject.tokens) - 1
    result = ScoreResult(
        stamp=stamp,
        protocol=recipe.score.protocol,
        adaptation="none",
        arithmetic=recipe.score.arithmetic,
        order="left-to-right",  # nothing is learned, so nothing is shared
        bpb=bits_per_byte(nats, subject.text_bytes),
        nats_per_token=nats / max(count, 1),
        tokens=count,
        text_bytes=subject.text_bytes,
        text_sha256=subject.text_sha256,
        seconds=time.perf_counter() - began,
    )
    place.path.mkdir(parents=True, exist_ok=True)
    place.finish("score", result)
    return result


def _total(charged: Charges, subject: texts.Text) -> float:
    """Sum of all nats, with progress. Raises Interrupted after Ctrl-C."""
    nats, done, tokens = 0.0, 0, len(subject.tokens) - 1
    bytes_per_token = subject.text_bytes / max(tokens, 1)
    with console.ctrl_c() as stop_asked, console.track("score", tokens, "tokens") as task:
        for positions, charges_nats in charged:
            nats += float(charges_nats.sum())
            done += len(positions)
            task.update(done, bpb=f"{bits_per_byte(nats, done) / bytes_per_token:.4f}")
            if stop_asked():
                raise Interrupted("stopped; a score keeps nothing, start it again")
    if done != tokens:
        raise AssertionError(f"{done} of {tokens} tokens were charged")
    return nats


def charges(model: GPT, tokens: NDArray[np.uint16], how: Score) -> Charges:
    """What each of tokens uint16[N] costs in floating point, in batches and in any order.

    Token p is charged given earlier tokens only; token 0, the first BOS, is free. Raises BadInput.
    """
    ids = torch.from_numpy(tokens.astype(np.int64)).to(model.embed.tokens.device)
    if how.protocol == "rolling":
        return _rolling(model, ids, tokens)
    return _windowed(model, ids, _planned(len(tokens), model.shape.window, how))


def exact_charges(engine: ExactEngine, tokens: NDArray[np.uint16], how: Score) -> Charges:
    """The same in exact arithmetic: the lengths of the codes that `prove` writes."""
    if how.protocol == "rolling":
        found = engine.intervals(tokens, _layout(tokens, engine.operands.bos_id))
    else:
        planned = _planned(len(tokens), engine.operands.shape.window, how)
        found = engine.window_intervals(tokens, planned)
    return ((part.positions, part.lengths * log(2)) for part in found)


def _planned(tokens: int, window: int, how: Score) -> Iterator[Window]:
    if how.protocol == "plain":
        return windows.plain(tokens, window)
    if how.stride > window:
        raise BadInput(f"score.stride {how.stride} is larger than the window, {window}")
    return windows.sliding(tokens, window, how.stride)


def _layout(tokens: NDArray[np.uint16], bos_id: int) -> Layout:
    documents = np.flatnonzero(tokens == bos_id)
    return Layout(len(tokens), plan(len(tokens), documents, _LANES), boundaries=True)


@torch.inference_mode()
def _windowed(model: GPT, ids: Tensor, planned: Iterator[Window]) -> Charges:
    """Windows of one shape go through the network together; the head sees scored positions."""
    size = max(1, _BATCH_TOKENS // model.shape.window)
    for (length, scored), group in groupby(planned, lambda w: (w.end - w.start, w.end - w.first)):
        while batch := list(islice(group, size)):
            starts = torch.tensor([w.start for w in batch], device=ids.device)
            where = starts[:, None] + torch.arange(length, device=ids.device)
            hidden = model.hidden(ids[where])[:, length - scored :]
            yield _charge(model, hidden, where[:, length - scored :] + 1, ids)


@torch.inference_mode()
def _rolling(model: GPT, ids: Tensor, tokens: NDArray[np.uint16]) -> Charges:
    """All lanes advance by a block per forward pass; the cache carries a window of context."""
    layout = _layout(tokens, model.bos_id)
    first, length = (torch.from_numpy(a).to(ids.device) for a in (layout.first, layout.length))
    cache = Cache(model.shape, layout.lanes, model.dtype, ids.device)
    block = min(_BLOCK, model.shape.window)
    for done in range(0, layout.steps, block):
        active = layout.active(done)
        cache.keep(active)
        offset = torch.arange(done, min(done + block, layout.steps), device=ids.device)
        target = first[:active, None] + offset
        within = offset < length[:active, None]  # a lane that ends here is filled up with anything
        target = target.clamp(max=len(ids) - 1)
        fed = torch.where(offset == 0, model.bos_id, ids[target - 1])
        hidden = model.hidden(fed, cache)
        yield _charge(model, hidden[within], target[within], ids)


def _charge(
    model: GPT, hidden: Tensor, where: Tensor, ids: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nats of ids[where], predicted from hidden [..., d]; sums of log-likelihoods are float64."""
    positions = where.reshape(-1)
    rows = hidden.reshape(-1, hidden.shape[-1])
    nats = [
        cross_entropy(model.head(part), target, reduction="none")
        for part, target in zip(
            rows.split(_HEAD_ROWS), ids[positions].split(_HEAD_ROWS), strict=True
        )
    ]
    return positions.cpu().numpy(), torch.cat(nats).double().cpu().numpy()
