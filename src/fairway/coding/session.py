"""The engine that codes a file, and, in floating point, the machine that it needs.

Encoder and decoder must agree in every bit of every probability. In exact arithmetic they do, on
any machine. In floating point a file names the kind of device;
the rest of the environment must match, and a mismatch is refused with a sentence instead of
decoded into garbage. On a CPU each chunk is computed by a single thread, as sums depend on their
number; several chunks run side by side instead, which is also faster: a step is too short to be
shared, and cores that wait for each other at every operation stand still when one is taken away.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from fairway import distributed
from fairway.coding.artifact import Artifact
from fairway.coding.exact_model import ExactEngine
from fairway.coding.lanes import Layout
from fairway.coding.online.adapt import AdaptiveEngine, AdaptivePredictor, Learner
from fairway.coding.predictor import Engine, FloatEngine, FloatPredictor
from fairway.config.schema import Adapt, Arithmetic
from fairway.errors import BadInput, Interrupted
from fairway.floating_point import ieee, set_ieee
from fairway.formats.coded_tokens import Starts
from fairway.model.gpt import GPT

T = TypeVar("T")
Progress = Callable[[int, float], None]  # told tokens that are done and their bits; may raise

_MATTERS = ("torch", "machine", "device", "capability", "dtype")  # of world.describe
_PROBE_LANES, _PROBE_STEPS, _PROBE_TOKENS = 32, 4, 32
_ADVICE = "decode it on a machine like the one that wrote it"


@dataclass(frozen=True)
class Guard:
    """What the bits of a logit depend on, besides artifact and tokens."""

    on_cuda: bool
    workers: int  # chunks that are computed side by side; no bit depends on it
    environment: str  # readable: the values of _MATTERS, joined by |
    logits_sha256: bytes  # of a few steps' logits for fixed tokens

    @property
    def environment_sha256(self) -> bytes:
        return hashlib.sha256(self.environment.encode()).digest()

    def check_environment(self, needed: str) -> None:
        """Raise BadInput that names what differs from the environment that a file needs."""
        there, here = needed.split("|"), self.environment.split("|")
        entries = zip(_MATTERS, there, here, strict=False)
        changes = [f"{key} {a} (here {b})" for key, a, b in entries if a != b]
        if needed != self.environment:
            raise BadInput(
                f"the file was made with another "
                f"{', '.join(changes) or 'description of it'}: {_ADVICE}"
            )

    def check_environment_hash(self, needed: bytes) -> None:
        """The same by the first bytes of its SHA-256, which cannot name what differs."""
        if not self.environment_sha256.startswith(needed):
            raise BadInput(
                f"the file was made in another environment than this ({self.environment}): "
                f"{_ADVICE}"
            )

    def check_logits(self, needed: bytes) -> None:
        """Raise BadInput unless the hash of the probe's logits begins with `needed`."""
        if not self.logits_sha256.startswith(needed):
            raise BadInput(
                f"this machine computes other logits than the one that made the file: {_ADVICE}"
            )


@contextmanager
def computing(
    artifact: Artifact,
    arithmetic: Arithmetic,
    on_cuda: bool | None = None,
    how: Adapt = Adapt(),  # noqa: B008 (frozen)
    tokens: int = 0,
) -> Iterator[tuple[Engine, Guard | None]]:
    """The artifact's engine and, in floating point, the guard of this machine.

    Inside, torch uses one thread. `on_cuda` is what a file in floating point asks for; None: a GPU
    if there is one. With adaptation `how`, the engine codes the chunks of one text of so many
    tokens, one after another. Raises BadInput.
    """
    if arithmetic == "float" and on_cuda and not torch.cuda.is_available():
        raise BadInput(f"the file was made on a GPU and there is none here: {_ADVICE}")
    here = distributed.start("" if on_cuda is None else "cuda" if on_cuda else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ieee():
            yield _engine(artifact, arithmetic, here, threads, how, tokens)
    finally:
        torch.set_num_threads(threads)


def _engine(
    artifact: Artifact,
    arithmetic: Arithmetic,
    here: distributed.Process,
    threads: int,
    how: Adapt,
    tokens: int,
) -> tuple[Engine, Guard | None]:
    """Return what `computing` gives, on the device of `here`."""
    if arithmetic == "exact":
        return ExactEngine(artifact, threads, here.device), None
    model, found = artifact.build_model(here.device, here.dtype), distributed.describe(here)
    environment = "|".join(str(found[key]) for key in _MATTERS)
    cuda, logits = here.device.type == "cuda", _probe(model)
    if how.method == "none":
        guard = Guard(cuda, 1 if cuda else threads, environment, logits.digest())
        return FloatEngine(model, artifact.memory), guard
    spoilt = Learner(artifact.build_model(here.device, here.dtype), how, tokens)
    logits.update(_probe_learning(spoilt))
    learner = Learner(model, how, tokens)
    guard = Guard(cuda, 1, environment, logits.digest())
    return AdaptiveEngine(learner, artifact.memory), guard


def side_by_side(
    work: Callable[[int, Progress], T], chunks: Sequence[int], workers: int, report: Progress
) -> Iterator[tuple[int, T]]:
    """(chunk, work(chunk, progress)) for all chunks, as they are finished.

    `report` is told the sums of what all chunks have reported; what it raises ends all work.
    """
    stop = threading.Event()
    reached: dict[int, tuple[int, float]] = {}

    def one(chunk: int) -> tuple[int, T]:
        def progress(tokens: int, bits: float) -> None:
            if stop.is_set():
                raise Interrupted("another chunk has failed")
            reached[chunk] = tokens, bits
            entries = list(reached.values())
            report(sum(t for t, _ in entries), sum(b for _, b in entries))

        torch.set_num_threads(1)  # the settings belong to a thread
        set_ieee()
        return chunk, work(chunk, progress)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def in_order(finished: Iterable[tuple[int, T]]) -> list[T]:
    """The results of all chunks, by chunk."""
    return [result for _, result in sorted(finished, key=lambda entry: entry[0])]


def _probe(model: GPT) -> hashlib._Hash:
    """SHA-256 of the logits of fixed tokens, by the step that codes."""
    predictor = FloatPredictor(model, _PROBE_LANES)
    digest = hashlib.sha256()
    for step in range(_PROBE_STEPS):
        tokens = (7919 * step + 104729 * np.arange(_PROBE_LANES)) % model.vocab_size
        digest.update(predictor.logits(tokens).cpu().numpy().tobytes())
    return digest


def _probe_learning(learner: Learner) -> bytes:
    """The logits of one lane after `learner`, which is spoilt by it, learned from one span."""
    count = min(learner.span, _PROBE_TOKENS)
    tokens = (7919 * np.arange(count + 1) % learner.model.vocab_size).astype(np.uint16)
    predictor = AdaptivePredictor(learner, Layout(count + 1, Starts.whole()))
    for before, token in pairwise(tokens.astype(np.int64)):
        predictor.step(np.array([before]))
        predictor.observe(np.array([token]))
    return (
        FloatPredictor(learner.model, 1).logits(tokens[:1].astype(np.int64)).cpu().numpy().tobytes()
    )
