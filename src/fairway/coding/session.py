"""Open the model that codes a file.

On a CPU one thread computes each chunk, because sums depend on the number of threads (workers.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fairway import distributed
from fairway.coding.artifact import Artifact
from fairway.coding.exact_model import ExactModel
from fairway.coding.float_environment import ADVICE, FloatEnvironment, float_environment
from fairway.coding.float_model import FloatModel
from fairway.coding.mixed_model import MixedModel
from fairway.coding.model import CodingModel, NetworkModel
from fairway.coding.online.learning_model import LearningModel
from fairway.config.schema import Adapt, Arithmetic
from fairway.distributed import ALONE, Process
from fairway.errors import BadInput
from fairway.floating_point import ieee


def open_model(
    artifact: Artifact,
    arithmetic: Arithmetic = "exact",
    adapt: Adapt = Adapt(),  # noqa: B008 (frozen)
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tokens: int = 0,
    process: Process = ALONE,
    workers: int = 0,
) -> CodingModel:
    """Return the model of an artifact, in the arithmetic and by the way of learning that are asked.

    dtype: of floating-point activations. tokens: of the whole text, for a model that learns, which
    shares its lanes out to all processes of `process`. workers: threads of exact arithmetic; 0: all
    of torch's. Raises BadInput.
    """
    model: NetworkModel
    if adapt.method != "none":
        model = LearningModel(artifact.build_model(device, dtype), adapt, tokens, process)
    elif arithmetic == "exact":
        model = ExactModel(artifact, workers or torch.get_num_threads(), device)
    else:
        model = FloatModel(artifact.build_model(device, dtype))
    if artifact.memory.is_on:
        return MixedModel(model, artifact.memory, artifact.model.dim)
    return model


@contextmanager
def coding_session(
    artifact: Artifact,
    arithmetic: Arithmetic,
    on_cuda: bool | None = None,
    adapt: Adapt = Adapt(),  # noqa: B008 (frozen)
    tokens: int = 0,
) -> Iterator[tuple[CodingModel, FloatEnvironment | None]]:
    """Give the artifact's model and, in floating point, the environment of this machine.

    Inside, torch uses one thread. `on_cuda` is the device that a floating-point file asks for;
    None: a GPU if there is one. A model that learns codes the chunks of one text, one after
    another, of `tokens` tokens together. Raises BadInput.
    """
    if arithmetic == "float" and on_cuda and not torch.cuda.is_available():
        raise BadInput(f"the file was made on a GPU and there is none here: {ADVICE}")
    process = distributed.start("" if on_cuda is None else "cuda" if on_cuda else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ieee():
            model = open_model(
                artifact,
                arithmetic,
                adapt,
                device=process.device,
                dtype=process.dtype,
                tokens=tokens,
                workers=threads,
            )
            environment = None
            if arithmetic == "float":
                environment = float_environment(artifact, adapt, tokens, process, threads)
            yield model, environment
    finally:
        torch.set_num_threads(threads)
