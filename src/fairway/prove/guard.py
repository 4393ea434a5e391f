"""On which machine floating-point logits have the same bits: what a file needs, what is here.

Encoder and decoder must agree in every bit of every probability. Threads and the kind of device
are chosen by the encoder and set by the decoder; the rest must match, and a mismatch is refused
with a sentence instead of decoded into garbage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from fairway import world
from fairway.errors import BadInput
from fairway.model.gpt import GPT
from fairway.pack.artifact import Artifact
from fairway.predict.predictor import FloatPredictor

_MATTERS = ("torch", "machine", "device", "capability", "dtype")  # of world.describe
_PROBE_LANES, _PROBE_STEPS = 32, 4
_ADVICE = "decode it on a machine like the one that wrote it"


@dataclass(frozen=True)
class Guard:
    """What the bits of a logit depend on, besides artifact and tokens."""

    on_cuda: bool
    threads: int
    environment: str  # readable, key=value|key=value
    logits_sha256: bytes  # of a few steps' logits for fixed tokens

    @property
    def environment_sha256(self) -> bytes:
        return hashlib.sha256(self.environment.encode()).digest()

    @property
    def place(self) -> int:
        """Threads and kind of device in one number."""
        return self.threads << 1 | self.on_cuda

    def check_environment(self, needed: str) -> None:
        """Raise BadInput that names what differs from the environment that a file needs."""
        here = _entries(self.environment)
        changes = [
            f"{key} {value} (here {here.get(key)})"
            for key, value in _entries(needed).items()
            if value != here.get(key)
        ]
        if changes:
            raise BadInput(f"the file was made with another {', '.join(changes)}: {_ADVICE}")

    def check_environment_hash(self, needed: bytes) -> None:
        """The same by the first bytes of its SHA-256, which cannot name what differs."""
        if not hashlib.sha256(self.environment.encode()).digest().startswith(needed):
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
def computing(artifact: Artifact, place: int | None = None) -> Iterator[tuple[GPT, Guard]]:
    """The artifact's network and the guard of this machine; inside, torch's threads are fixed.

    `place` is what a file asks for (`Guard.place`); None: what this process has. Raises BadInput.
    """
    threads, wanted = torch.get_num_threads(), ""
    if place is not None:
        threads, wanted = place >> 1, "cuda" if place & 1 else "cpu"
        if not 0 < threads <= 1024:
            raise BadInput(f"the file asks for {threads} threads: it is damaged")
        if wanted == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"the file was made on a GPU and there is none here: {_ADVICE}")
    here = world.start(wanted)
    with _threads(threads):
        model = artifact.build_model(here.device)
        model.dtype = here.dtype
        found = world.describe(here)
        environment = "|".join(f"{key}={found[key]}" for key in _MATTERS)
        yield model, Guard(here.device.type == "cuda", threads, environment, _probe(model))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _probe(model: GPT) -> bytes:
    """SHA-256 of the logits of fixed tokens, by the step that codes."""
    predictor = FloatPredictor(model, _PROBE_LANES)
    digest = hashlib.sha256()
    for step in range(_PROBE_STEPS):
        tokens = (7919 * step + 104729 * np.arange(_PROBE_LANES)) % model.vocab_size
        digest.update(predictor.logits(tokens).cpu().numpy().tobytes())
    return digest.digest()


def _entries(environment: str) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in environment.split("|"))
