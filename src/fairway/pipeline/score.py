"""The verb `score`: bits per byte of a text under the artifact, computed in parallel.

plain: separate windows. sliding: overlapping windows, each scoring what is new in it (REFERENCE
A8). rolling: every token once with up to a window of context, in the chunks and lanes of `prove`.
Every token but the first is charged exactly once, document boundaries included.
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

from fairway import console, distributed
from fairway.coding import artifact, protocols
from fairway.coding.bits import bits_per_byte
from fairway.coding.exact_model import ExactEngine
from fairway.coding.lanes import Division, Part, ids_at, parts
from fairway.coding.match_model import MatchModel
from fairway.coding.online import adapt, methods
from fairway.coding.protocols import Window
from fairway.config.schema import NO_MEMORY, Memory, Score
from fairway.errors import BadInput, Interrupted
from fairway.io import checkpoint
from fairway.io.atomic import replacing
from fairway.model import loss
from fairway.model.gpt import GPT
from fairway.model.kv_cache import Cache
from fairway.pipeline import texts
from fairway.pipeline.directory import Job
from fairway.pipeline.results import ScoreResult

_BATCH_TOKENS = {"cpu": 4096, "cuda": 1 << 16}  # positions per pass
_ROLLING_TOKENS = {"cpu": 4096, "cuda": 1 << 16}
_BLOCK = 128  # tokens of a lane per forward pass
_KEEP_EVERY_S = 20.0  # at least so long between two states of an adapting score

Charges = Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Which tokens are charged, int64[k], and the nats of each, float64[k]."""


def score(job: Job) -> ScoreResult:
    """Score the validation split, or the documents in `job.text`, by recipe.score.

    Raises BadInput; Interrupted after Ctrl-C.
    """
    recipe, place = job.recipe, job.place
    opened = artifact.read(job.run.artifact)
    subject = texts.load(job, opened.tokenizer)
    here, began = distributed.start(), time.perf_counter()
    how, arithmetic = recipe.adapt, methods.arithmetic(recipe.adapt, recipe.score.arithmetic)
    documents = _Documents(subject)
    division = methods.division(how, recipe.prove.lanes)
    kept: _Kept | None = None
    if arithmetic == "exact":
        engine = ExactEngine(opened, torch.get_num_threads(), here.device)
        charged = exact_charges(engine, subject.tokens, recipe.score, division)
    else:
        model = opened.build_model(here.device, here.dtype)
        if how.method == "none":
            charged = charges(model, subject.tokens, recipe.score, opened.memory, division)
        else:
            place.path.mkdir(parents=True, exist_ok=True)
            shared = here if recipe.score.protocol == "rolling" else distributed.ALONE
            learner = adapt.Learner(model, how, len(subject.tokens), shared)
            about = " ".join((job.stamp, subject.text_sha256, opened.sha256))
            kept = _Kept(place.score_learned, about, learner, documents, here.is_main)
            job.resumed = kept.done > 0
            charged = kept.charges(subject.tokens, recipe.score, opened.memory)
    nats = _total(charged, subject, documents, recipe.run.score_limit_s, kept)
    count = len(subject.tokens) - 1
    if here.is_main:
        place.path.mkdir(parents=True, exist_ok=True)
        documents.save(place.score_documents)
    return ScoreResult(
        protocol=recipe.score.protocol,
        adaptation=how.method,
        arithmetic=arithmetic,
        order=methods.order_of(how),
        bpb=bits_per_byte(nats, subject.text_bytes),
        text_rule=opened.tokenizer.rule,
        nats_per_token=nats / max(count, 1),
        tokens=count,
        text_bytes=subject.text_bytes,
        text_sha256=subject.text_sha256,
        artifact_sha256=opened.sha256,
        seconds=time.perf_counter() - began,
    )


class _Documents:
    """What each document of a text costs; a token belongs to the document that it is in."""

    def __init__(self, subject: texts.Text) -> None:
        self._starts, self._lengths = subject.starts, subject.lengths
        self.nats = torch.zeros(len(subject.starts), dtype=torch.float64)

    def add(self, positions: NDArray[np.int64], nats: NDArray[np.float64]) -> None:
        where = np.searchsorted(self._starts, positions, side="right") - 1
        np.add.at(self.nats.numpy(), where, nats)

    def save(self, path: Path) -> None:
        """float64[D, 2]: nats and bytes of each document."""
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.stack([self.nats.numpy(), self._lengths], axis=1))


def _total(
    charged: Charges,
    subject: texts.Text,
    documents: _Documents,
    limit_s: float,
    kept: _Kept | None = None,
) -> float:
    """Sum of all nats, with progress. Raises Interrupted after Ctrl-C, BadInput at the limit."""
    nats, done, before_s = (kept.nats, kept.done, kept.seconds) if kept else (0.0, 0, 0.0)
    began, tokens = time.perf_counter(), len(subject.tokens) - 1
    bytes_per_token = subject.text_bytes / max(tokens, 1)

    def so_far() -> str:
        return f"{bits_per_byte(nats, max(done, 1)) / bytes_per_token:.4f}"

    goes_on = "the same command goes on" if kept else "a score keeps nothing, start it again"
    with console.ctrl_c() as stop_asked, console.track("score", tokens, "tokens") as task:
        for positions, charged_nats in charged:
            nats += float(charged_nats.sum())
            documents.add(positions, charged_nats)
            done += len(positions)
            task.update(done, bpb=so_far())
            if stop_asked():
                raise Interrupted(f"stopped; {goes_on}")
            seconds = before_s + time.perf_counter() - began
            if limit_s and seconds > limit_s and done < tokens:
                raise BadInput(
                    f"run.score_limit_s is {limit_s:g} s: by then {done:,} of {tokens:,} tokens "
                    f"were scored, at {so_far()} bits per byte; raise it, or choose a cheaper "
                    "protocol"
                )
    if kept:
        nats, done = kept.all_of(nats, done)
        documents.nats = kept.all_documents()
    if done != tokens:
        raise AssertionError(f"{done} of {tokens} tokens were charged")
    return nats


class _Kept:
    """What an adapting score keeps, so that a killed one goes on: totals and what was learned.

    Processes that share a score each have the totals of their own lanes.
    """

    def __init__(
        self,
        path: Path,
        about: str,
        learner: adapt.Learner,
        documents: _Documents,
        writes: bool,
    ) -> None:
        """about: what the totals depend on; those of something else are not taken up."""
        self._path, self._about, self._learner, self._writes = path, about, learner, writes
        self._documents = documents
        self._skip, self.nats, self.done, self.seconds = 0, 0.0, 0, 0.0
        if path.exists():
            tensors, note = checkpoint.load(path)
            if note["about"] == about:
                learner.restore(tensors)
                self._skip, self.seconds = note["done"], note["seconds"]
                if learner.world.is_main:
                    documents.nats += tensors["documents"]
                    self.nats, self.done = note["nats"], note["done"]
        self._began = self._saved = time.perf_counter()

    def charges(self, tokens: NDArray[np.uint16], how: Score, memory: Memory) -> Charges:
        """All that is still to be charged."""
        nats, done = self.nats, self.done
        for part in adapt.charges(self._learner, tokens, how, self._skip, memory):
            nats, done = nats + float(part.nats.sum()), done + len(part.positions)
            yield part.positions, part.nats
            due = how.protocol == "rolling" or time.perf_counter() - self._saved > _KEEP_EVERY_S
            if part.settled and due:
                self._save(*self.all_of(nats, done))

    def all_of(self, nats: float, done: int) -> tuple[float, int]:
        """The sums over all processes."""
        sums = torch.tensor([nats, done], dtype=torch.float64, device=self._learner.device)
        nats, done = self._learner.world.all_reduce_(sums).tolist()
        return nats, int(done)

    def all_documents(self) -> Tensor:
        """Nats of each document, float64[D], the sums over all processes."""
        nats = self._documents.nats.to(self._learner.device, copy=True)
        return self._learner.world.all_reduce_(nats).cpu()

    def _save(self, nats: float, done: int) -> None:
        self._saved = time.perf_counter()
        seconds = self.seconds + self._saved - self._began
        note = {"about": self._about, "nats": nats, "done": done, "seconds": seconds}
        tensors = {**self._learner.snapshot(), "documents": self.all_documents()}
        if self._writes:
            checkpoint.save(self._path, tensors, note)


def charges(
    model: GPT,
    tokens: NDArray[np.uint16],
    how: Score,
    memory: Memory = NO_MEMORY,
    division: Division = methods.USUAL,
) -> Charges:
    """What each of tokens uint16[N] costs in floating point, in batches and in any order.

    Token p is charged given earlier tokens only; token 0, the first BOS, is free. memory: of the
    artifact, and division: of a proof, both for rolling alone. Raises BadInput.
    """
    if how.protocol == "rolling":
        return _rolling(model, tokens, memory, division)
    return _windowed(model, tokens, protocols.planned(len(tokens), model.shape.window, how))


def exact_charges(
    engine: ExactEngine,
    tokens: NDArray[np.uint16],
    how: Score,
    division: Division = methods.USUAL,
) -> Charges:
    """The same in exact arithmetic: the lengths of the codes that `prove` writes."""
    if how.protocol == "rolling":
        for start, part, layout in parts(tokens, engine.operands.bos_id, division):
            for found in engine.intervals(part, layout):
                yield found.positions + start, found.lengths * log(2)
        return
    planned = protocols.planned(len(tokens), engine.operands.shape.window, how)
    for found in engine.window_intervals(tokens, planned):
        yield found.positions, found.lengths * log(2)


@torch.inference_mode()
def _windowed(model: GPT, tokens: NDArray[np.uint16], planned: Iterator[Window]) -> Charges:
    """Windows of one shape go through the network together; the head sees scored positions."""
    device = model.embed.tokens.device
    size = max(1, _BATCH_TOKENS[device.type] // model.shape.window)
    for (length, scored), group in groupby(planned, lambda w: (w.end - w.start, w.end - w.first)):
        while batch := list(islice(group, size)):
            where = np.array([w.start for w in batch])[:, None] + np.arange(length)
            hidden = model.hidden(ids_at(tokens, where, device), last=scored)
            yield _charge(model, hidden, where[:, length - scored :] + 1, tokens)


def _rolling(model: GPT, tokens: NDArray[np.uint16], memory: Memory, division: Division) -> Charges:
    """Chunk after chunk, some lanes at a time, mixed with what was before if there is `memory`."""
    lanes, size = _ROLLING_TOKENS[model.embed.tokens.device.type] // _BLOCK, model.vocab_size
    for part in parts(tokens, model.bos_id, division):
        mixture = (
            MatchModel(memory, size, model.bos_id, part.tokens, part.layout)
            if any(memory)
            else None
        )
        for first in range(0, part.layout.lanes, lanes):
            for where, nats, states in _roll(model, part, slice(first, first + lanes)):
                if mixture:
                    kept = states.float().cpu().numpy() if memory.cache else None
                    nats = mixture.nats(where, nats, kept)
                yield where + part.start, nats


@torch.inference_mode()
def _roll(
    model: GPT, part: Part, lanes: slice
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], Tensor]]:
    """Lanes advance by a block per forward pass; the cache carries a window of context.

    With the states [k, d] that led to the predictions.
    """
    device, lengths = model.embed.tokens.device, part.layout.length[lanes]
    cache = Cache(model.shape, len(lengths), model.dtype, device)
    block = min(_BLOCK, model.shape.window)
    for done in range(0, int(lengths[0]), block):
        found = part.layout.block(part.tokens, model.bos_id, done, done + block, lanes)
        cache.shrink_batch(len(found.fed))
        hidden = model.hidden(torch.from_numpy(found.fed).to(device), cache)
        states = hidden[torch.from_numpy(found.within).to(device)]
        yield *_charge(model, states, found.where[found.within], part.tokens), states


def _charge(
    model: GPT, hidden: Tensor, where: NDArray[np.int64], tokens: NDArray[np.uint16]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nats of tokens[where], predicted from hidden [..., d]; sums of them are float64."""
    positions = where.reshape(-1)
    rows = hidden.reshape(-1, hidden.shape[-1])
    targets = ids_at(tokens, positions, hidden.device)
    charged = loss.nats(rows, model.embed.tokens, targets, model.shape.softcap)
    return positions, charged.double().cpu().numpy()
