"""Save named tensors and a JSON note in one safetensors file, written atomically. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import replacing


def save(path: Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Write tensors and a note to `path`. Raises OSError when the disk is full."""
    named = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(named, temporary, {"note": json.dumps(note)})
        except safetensors.SafetensorError as error:  # wraps the operating system's error
            raise BadInput(f"cannot write {path}: {error}") from None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the note of a file. Raises BadInput if it is missing or damaged."""
    foreign.open_file(path, "the file").close()  # a pipe would make us wait
    try:
        with safetensors.safe_open(path, "pt") as file:
            note = foreign.parse_json((file.metadata() or {}).get("note", "{}"), f"{path}", False)
            if not isinstance(note, dict):
                raise ValueError("its note is no table")
            return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}; remove it to start again") from None
