"""An artifact as safetensors, and on the Hugging Face Hub with a card made of results.

A folder: model.safetensors (float32, the network's own names), config.json and tokenizer.fwt; on
the Hub also model.fairway, which they come from, and the proof.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from string import Template

import safetensors.torch
import torch

from fairway import console
from fairway.coding import artifact
from fairway.config.schema import Model
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import replacing, write_atomic
from fairway.model.gpt import GPT
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.evidence import Proved, Results, proved
from fairway.report.report import tables

_WEIGHTS, _CONFIG, _TOKENIZER = "model.safetensors", "config.json", "tokenizer.fwt"


def export(source: Path, folder: Path) -> None:
    """Write the artifact `source` into `folder`. Raises BadInput."""
    opened = artifact.read(source)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": opened.model.model_dump(),
        "vocab_size": opened.tokenizer.vocab_size,
        "bos_id": opened.tokenizer.bos_id,
        "artifact_sha256": opened.sha256,
    }
    with replacing(folder / _WEIGHTS) as temporary:
        try:
            safetensors.torch.save_file(opened.state, temporary, {"format": "pt"})
        except safetensors.SafetensorError as error:  # wraps the operating system's error
            raise BadInput(f"cannot write {folder / _WEIGHTS}: {error}") from None
    write_atomic(folder / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write_atomic(folder / _TOKENIZER, opened.tokenizer.to_bytes())


def load(folder: Path) -> tuple[GPT, Tokenizer]:
    """Load the network, in float32 on the CPU, and the tokenizer of an exported folder.

    Raises BadInput when a file is missing or its tensors are not those of the configuration.
    """
    try:
        config = foreign.read_json(folder / _CONFIG, "the configuration")
        foreign.open_file(folder / _WEIGHTS, "the weights").close()  # a pipe would make us wait
        state = safetensors.torch.load_file(folder / _WEIGHTS)
        tokenizer = read_tokenizer(foreign.read_bytes(folder / _TOKENIZER, "the tokenizer"))
        with torch.device("meta"):
            shape = Model.model_validate(config["model"])
            model = GPT(shape, config["vocab_size"], config["bos_id"])
        model.load_state_dict(state, assign=True)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:
        raise BadInput(f"{folder} is no exported model: {error}") from None
    return model, tokenizer


def push(run: RunDirectory, repository: str, private: bool = False) -> str:
    """Upload a run's artifact, its proof and its export to the Hub; returns the page's address.

    The proof is decoded first, unless it was before by this user. Raises BadInput when it does not
    hold, results are stale, or the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise BadInput(f"{repository} is no name for the Hub: {error}") from None
    found = proved(run)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        export(run.artifact, folder)
        shutil.copy(run.artifact, folder)
        shutil.copy(run.proof_file, folder)
        (folder / "README.md").write_text(card(found, repository), "utf-8")
        try:
            made = HfApi().create_repo(repository, private=private, exist_ok=True)
            console.say(f"uploading to {made}")
            HfApi().upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"{run.path.name}, proved"
            )
        except HfHubHTTPError as error:
            status = error.response.status_code
            raise BadInput(
                f"the Hub refused {repository} ({status}): check the name, and hf auth login"
            ) from None
    return str(made)


def card(found: Proved, repository: str) -> str:
    """Return the model card of a proved run."""
    decoded = found.decoded
    stages = tables(Results(found.run))[0]
    lines = [stages.columns, ["---"] * len(stages.columns), *stages.rows]
    template = Template(Path(__file__).with_name("card.md").read_text("utf-8"))
    return template.substitute(
        name=repository.rpartition("/")[2],
        bpb=f"{decoded.bpb:.4f}",
        size=f"{decoded.artifact_bytes:,}",
        parameters=f"{decoded.parameters:,}",
        vocabulary=decoded.vocab_size,
        tokens=f"{found.train.tokens:,}",
        text_bytes=f"{decoded.text_bytes:,}",
        sha256=decoded.text_sha256,
        rule=decoded.text_rule,
        table="\n".join("| " + " | ".join(cells) + " |" for cells in lines),
    )
