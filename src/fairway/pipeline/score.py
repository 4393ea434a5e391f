"""The stage `score`: bits per byte of a text under the artifact, with all tokens known.

The protocols (plain, sliding, rolling) are in coding/protocols.py. Every token but the first is
charged exactly once, document boundaries included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fairway import console, distributed
from fairway.coding import artifact, online
from fairway.coding.artifact import Artifact
from fairway.coding.bits import bits_per_byte
from fairway.coding.model import CodingModel, TokenCosts
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import Adapt
from fairway.data.tokenizer import Tokenizer
from fairway.distributed import Process
from fairway.errors import BadInput, Interrupted
from fairway.io import checkpoint
from fairway.io.atomic import replacing
from fairway.pipeline import texts
from fairway.pipeline.directory import Job
from fairway.pipeline.results import FrozenResult, ScoreResult

_RANGES = 64  # of positions: as many as they may have binary digits
_SAVE_EVERY_S = 20.0  # the least time between two saved states of a score by windows


def score(job: Job) -> ScoreResult:
    """Score the validation split, or the documents in `job.text`, by recipe.score.

    Raises BadInput; Interrupted after Ctrl-C.
    """
    result, documents = _scored(job, *_opened(job))
    if distributed.start().is_main:
        job.place.path.mkdir(parents=True, exist_ok=True)
        path = job.place.score_documents
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, documents)
    return result


def frozen(job: Job) -> FrozenResult:
    """Score as `score` does, without the learning that the recipe asks for.

    Raises BadInput; Interrupted after Ctrl-C.
    """
    recipe = job.recipe.model_copy(update={"adapt": Adapt()})
    return FrozenResult(**dict(score_text(Job(recipe, job.run, job.text), *_opened(job))))


def score_text(job: Job, opened: Artifact, subject: texts.Text) -> ScoreResult:
    """Score a text with an opened artifact as `score` does. Raises BadInput, Interrupted."""
    return _scored(job, opened, subject)[0]


def _opened(job: Job) -> tuple[Artifact, texts.Text]:
    """Return the artifact of the run, and the text that is to be scored. Raises BadInput."""
    opened = artifact.read(job.run.artifact)
    return opened, texts.load(job, opened.tokenizer)


def _scored(
    job: Job, opened: Artifact, subject: texts.Text
) -> tuple[ScoreResult, NDArray[np.float64]]:
    """Return the score, and float64[D, 2]: the nats and the bytes of each document."""
    recipe, place = job.recipe, job.place
    process, began = distributed.start(), time.perf_counter()
    adapt, how = recipe.adapt, recipe.score
    arithmetic = online.arithmetic(adapt, how.arithmetic)
    model = open_model(
        opened,
        arithmetic,
        adapt,
        device=process.device,
        dtype=process.dtype,
        tokens=len(subject.tokens),
        process=process if how.protocol == "rolling" else distributed.ALONE,
    )
    totals, saved = _Totals(subject), None
    if model.learns:
        place.path.mkdir(parents=True, exist_ok=True)
        depends_on = " ".join((job.stamp, subject.text_sha256, opened.sha256))
        every_s = 0.0 if how.protocol == "rolling" else _SAVE_EVERY_S
        saved = _Saved(place.score_learned, depends_on, model, totals, process.is_main, every_s)
        job.resumed = saved.done > 0
    division = online.division(adapt, recipe.prove.lanes)
    costs = text_costs(model, subject.tokens, how, division, saved.done if saved else 0)
    _add_up(costs, totals, subject, recipe.run.score_limit_s, saved)
    totals.all_reduce_(model.process)
    count = len(subject.tokens) - 1
    if totals.done != count:
        raise AssertionError(f"{totals.done} of {count} tokens were charged")
    result = ScoreResult(
        protocol=how.protocol,
        adaptation=adapt.method,
        arithmetic=arithmetic,
        order=online.order_of(adapt),
        bpb=bits_per_byte(totals.nats, subject.text_bytes),
        text_rule=opened.tokenizer.rule,
        nats_per_token=totals.nats / max(count, 1),
        tokens=count,
        text_bytes=subject.text_bytes,
        text_sha256=subject.text_sha256,
        artifact_sha256=opened.sha256,
        by_position=_by_position(totals, subject, opened.tokenizer),
        seconds=time.perf_counter() - began,
    )
    return result, np.stack([totals.sums[: len(subject.starts)].numpy(), subject.lengths], axis=1)


def _by_position(
    totals: _Totals, subject: texts.Text, tokenizer: Tokenizer
) -> list[tuple[float, int]]:
    """Return nats and bytes of the tokens at positions 1, 2-3, 4-7, ... of their documents."""
    sizes = np.zeros(_RANGES, np.int64)
    edges = np.append(subject.starts, len(subject.tokens))
    for start, end in pairwise(edges.tolist()):
        digits = np.frexp(np.arange(end - start))[1]
        np.add.at(sizes, digits, tokenizer.byte_lengths(subject.tokens[start:end]))
    used = range(1, int(sizes.nonzero()[0].max(initial=0)) + 1)
    nats = totals.sums[len(subject.starts) :].tolist()
    return [(nats[digits], int(sizes[digits])) for digits in used]


class _Totals:
    """The nats of a text so far: of all tokens, of each document, and by position in a document.

    sums: float64[D + _RANGES]: the documents, then the tokens whose position has k binary digits.
    Position 0 is the boundary before a document. Processes that share a score each have the totals
    of their own lanes.
    """

    def __init__(self, subject: texts.Text) -> None:
        self._starts = subject.starts
        self.nats, self.done = 0.0, 0
        self.sums = torch.zeros(len(subject.starts) + _RANGES, dtype=torch.float64)

    def add(self, costs: TokenCosts) -> None:
        """Add the costs of some tokens; a token belongs to the document that it is in."""
        self.nats += float(costs.nats.sum())
        self.done += len(costs.positions)
        document = np.searchsorted(self._starts, costs.positions, side="right") - 1
        digits = np.frexp(costs.positions - self._starts[document])[1]
        for rows in (document, len(self._starts) + digits):
            np.add.at(self.sums.numpy(), rows, costs.nats)

    def all_reduce_(self, process: Process) -> None:
        """Become the sums over all processes."""
        sums = torch.tensor([self.nats, self.done], dtype=torch.float64, device=process.device)
        self.nats, done = process.all_reduce_(sums).tolist()
        self.done = int(done)
        self.sums = process.all_reduce_(self.sums.to(process.device, copy=True)).cpu()


def _add_up(
    costs: Iterator[TokenCosts],
    totals: _Totals,
    subject: texts.Text,
    limit_s: float,
    saved: _Saved | None,
) -> None:
    """Add all costs to the totals, with progress.

    Raises Interrupted after Ctrl-C, BadInput when run.score_limit_s has passed.
    """
    began, tokens = time.perf_counter(), len(subject.tokens) - 1
    before_s = saved.seconds if saved else 0.0
    bytes_per_token = subject.text_bytes / max(tokens, 1)

    def so_far() -> str:
        return f"{bits_per_byte(totals.nats, max(totals.done, 1)) / bytes_per_token:.4f}"

    continues = "the same command continues" if saved else "a score keeps nothing, start it again"
    with console.ctrl_c() as stop_asked, console.track("score", tokens, "tokens") as task:
        for some in costs:
            totals.add(some)
            task.update(totals.done, bpb=so_far())
            if stop_asked():
                raise Interrupted(f"stopped; {continues}")
            seconds = before_s + time.perf_counter() - began
            if limit_s and seconds > limit_s and totals.done < tokens:
                raise BadInput(
                    f"run.score_limit_s is {limit_s:g} s: by then {totals.done:,} of {tokens:,} "
                    f"tokens were scored, at {so_far()} bits per byte; raise it, or choose a "
                    "cheaper protocol"
                )
            if saved and some.is_resumable:
                saved.save(totals, seconds)


class _Saved:
    """The state of a score by a model that learns, so that a killed one resumes."""

    def __init__(
        self,
        path: Path,
        depends_on: str,
        model: CodingModel,
        totals: _Totals,
        writes: bool,
        every_s: float,
    ) -> None:
        """Restore model and totals from a state that depends on the same things."""
        self._path, self._depends_on, self._model = path, depends_on, model
        self._writes, self._every_s = writes, every_s
        self.done, self.seconds = 0, 0.0  # tokens charged by all processes, and the time it took
        if path.exists():
            tensors, note = checkpoint.load(path)
            if note["about"] == depends_on:
                model.restore(tensors)
                self.done, self.seconds = note["done"], note["seconds"]
                if model.process.is_main:
                    totals.sums += tensors["sums"]
                    totals.nats, totals.done = note["nats"], note["done"]
        self._saved = time.perf_counter()

    def save(self, totals: _Totals, seconds: float) -> None:
        """Write the state of all processes, at most every `every_s` seconds."""
        if time.perf_counter() - self._saved < self._every_s:
            return
        self._saved = time.perf_counter()
        sums = copy(totals)
        sums.all_reduce_(self._model.process)
        note = {
            "about": self._depends_on, "nats": sums.nats, "done": sums.done, "seconds": seconds
        }  # fmt: skip
        if self._writes:
            tensors = {**self._model.snapshot(), "sums": sums.sums}
            checkpoint.save(self._path, tensors, note)
