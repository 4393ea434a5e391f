"""Artifacts with their tokenizer and network: formats/artifact.py knows bytes and tensors alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fairway.config.schema import NO_MEMORY, Memory, Model
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.floating_point import ieee
from fairway.formats import artifact
from fairway.formats.tensors import Quantized
from fairway.io import foreign
from fairway.model.parameters import tensors_of

if TYPE_CHECKING:  # an artifact can be inspected without torch
    import torch

    from fairway.model.gpt import GPT


@dataclass(frozen=True, kw_only=True, repr=False)
class Artifact(artifact.Contents):
    """An artifact in memory."""

    tokenizer: Tokenizer
    data: bytes  # of the whole file

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights as tensors, which share their memory."""
        import torch

        return {name: torch.from_numpy(values) for name, values in self.weights.items()}

    def build_model(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> GPT:
        """Return the network with these weights, with activations in `dtype` (None: float32)."""
        import torch

        from fairway.model.gpt import GPT

        with torch.device("meta"):
            model = GPT(self.model, self.vocab_size, self.bos_id)
        state = {name: t.to(device, copy=True) for name, t in self.state.items()}
        model.load_state_dict(state, assign=True)
        model.dtype, model.file_bytes = dtype or torch.float32, self.size_bytes
        return model


def write(
    model: Model, tokenizer: Tokenizer, quantized: Quantized, memory: Memory = NO_MEMORY
) -> bytes:
    """Return the artifact's bytes; the same for the same arguments, on every machine.

    Raises BadInput when the tensors are not those of this network.
    """
    tensors = tensors_of(model, tokenizer.vocab_size)
    return artifact.write(model, tokenizer.to_bytes(), tensors, quantized, memory)


def smallest(model: Model, tokenizer: Tokenizer, memory: Memory = NO_MEMORY) -> dict[str, int]:
    """Return the bytes of each part, header included, of an artifact whose weights are all 0."""
    tensors = tensors_of(model, tokenizer.vocab_size)
    return artifact.split(write(model, tokenizer, artifact.zeros(tensors), memory)).sizes


def read(source: Path | str | bytes) -> Artifact:
    """Open an artifact from a file or from bytes. Raises BadInput that names the wrong part."""
    where = "the artifact" if isinstance(source, bytes) else f"the artifact {source}"
    if isinstance(source, bytes):
        data = source
    else:
        data = foreign.read_bytes(Path(source), "the artifact", artifact.MOST_BYTES, pipes=True)
    try:
        with ieee():
            return _read(data)
    except BadInput as error:
        raise type(error)(f"{where} cannot be opened: {error}") from None


def _read(data: bytes) -> Artifact:
    sections = artifact.split(data)
    with artifact.naming("tokenizer"):
        tokenizer = read_tokenizer(sections.bodies["tokenizer"])
    vocab_size, bos_id = tokenizer.vocab_size, tokenizer.bos_id
    tensors = tensors_of(sections.model, vocab_size)
    contents = artifact.read(sections, tensors, vocab_size, bos_id)
    return Artifact(tokenizer=tokenizer, data=data, **vars(contents))
