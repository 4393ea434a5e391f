"""The environment that a floating-point file needs: kind of machine, and what its logits are.

Encoder and decoder must agree in every bit of every probability. In exact arithmetic they do, on
any machine. A floating-point file names the kind of device, and the rest of the environment must
match: a mismatch is an error, so that nothing is decoded into garbage.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fairway import distributed
from fairway.coding.artifact import Artifact
from fairway.coding.float_model import FloatStepper
from fairway.coding.lanes import Layout
from fairway.coding.online.learning_model import LearningModel
from fairway.config.schema import Adapt
from fairway.distributed import Process
from fairway.errors import BadInput
from fairway.formats.coded_tokens import Starts
from fairway.formats.proof import LOGITS_BYTES, Machine
from fairway.model.gpt import GPT

_ENVIRONMENT_KEYS = ("torch", "machine", "device", "capability", "dtype")  # distributed.describe
_PROBE_LANES, _PROBE_STEPS, _PROBE_TOKENS = 32, 4, 32
ADVICE = "decode it on a machine like the one that wrote it"


@dataclass(frozen=True)
class FloatEnvironment:
    """Everything that the bits of a logit depend on, besides artifact and tokens."""

    on_cuda: bool
    workers: int  # chunks that are computed side by side; no bit depends on it
    description: str  # readable: the values of _ENVIRONMENT_KEYS, joined by |
    logits_sha256: bytes  # of a few steps' logits for fixed tokens

    @property
    def description_sha256(self) -> bytes:
        return hashlib.sha256(self.description.encode()).digest()

    @property
    def machine(self) -> Machine:
        """Return what the header of a proof says of this environment."""
        return Machine(self.on_cuda, self.logits_sha256[:LOGITS_BYTES], self.description)

    def check_description(self, needed: str) -> None:
        """Raise BadInput that names what differs from the environment that a file needs."""
        there, here = needed.split("|"), self.description.split("|")
        entries = zip(_ENVIRONMENT_KEYS, there, here, strict=False)
        changes = [f"{key} {a} (here {b})" for key, a, b in entries if a != b]
        if needed != self.description:
            raise BadInput(
                f"the file was made with another "
                f"{', '.join(changes) or 'description of it'}: {ADVICE}"
            )

    def check_description_hash(self, needed: bytes) -> None:
        """Raise BadInput unless the description's SHA-256 begins with `needed`."""
        if not self.description_sha256.startswith(needed):
            raise BadInput(
                f"the file was made in another environment than this ({self.description}): {ADVICE}"
            )

    def check_logits(self, needed: bytes) -> None:
        """Raise BadInput unless the hash of the probe's logits begins with `needed`."""
        if not self.logits_sha256.startswith(needed):
            raise BadInput(
                f"this machine computes other logits than the one that made the file: {ADVICE}"
            )


def float_environment(
    artifact: Artifact, adapt: Adapt, tokens: int, process: Process, threads: int
) -> FloatEnvironment:
    """Return the environment of this process; its threads may each compute a chunk."""
    network = artifact.build_model(process.device, process.dtype)
    facts, logits, workers = distributed.describe(process), _probe(network), threads
    if adapt.method != "none":
        workers = 1
        logits.update(_probe_learning(LearningModel(network, adapt, tokens)))
    on_cuda = process.device.type == "cuda"
    description = "|".join(str(facts[key]) for key in _ENVIRONMENT_KEYS)
    return FloatEnvironment(on_cuda, 1 if on_cuda else workers, description, logits.digest())


def _probe(network: GPT) -> hashlib._Hash:
    """Return the SHA-256 of the logits of fixed tokens, by the step that codes."""
    stepper = FloatStepper(network, _PROBE_LANES)
    digest = hashlib.sha256()
    for step in range(_PROBE_STEPS):
        tokens = (7919 * step + 104729 * np.arange(_PROBE_LANES)) % network.vocab_size
        digest.update(stepper.logits(tokens).cpu().numpy().tobytes())
    return digest


def _probe_learning(model: LearningModel) -> bytes:
    """Return the logits of one lane after `model`, which this changes, learned from one block."""
    count = min(model.block_tokens, _PROBE_TOKENS)
    tokens = (7919 * np.arange(count + 1) % model.vocab_size).astype(np.uint16)
    stepper = model.stepper(Layout(count + 1, Starts.whole()))
    for before, token in pairwise(tokens.astype(np.int64)):
        stepper.step(np.array([before]))
        stepper.observe(np.array([token]))
    after = FloatStepper(model.network, 1).logits(tokens[:1].astype(np.int64))
    return after.cpu().numpy().tobytes()
