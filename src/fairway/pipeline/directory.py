"""The run directory: the only place that knows names of files, and the job of one stage in it.

Every file is written under a temporary name, flushed and renamed, so that a kill at any moment
leaves either the old file or the new one. Whether a result is current, runner.py decides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from fairway.config.schema import Recipe
from fairway.config.toml import dumps, load
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import lock_folder, short_hash, write_atomic
from fairway.pipeline.results import PrepareResult, Result

R = TypeVar("R", bound=Result)


def artifact_file(path: str | os.PathLike[str]) -> Path:
    """Return the artifact of a run directory, or `path` itself where it is no directory.

    Raises BadInput where a directory has no artifact.
    """
    run = RunDirectory(path)
    if not run.path.is_dir() or run.artifact.is_file():
        return run.artifact if run.path.is_dir() else run.path
    run.load()
    raise BadInput(
        f"{run.path} has no {run.artifact.name} yet: fairway run {run.recipe} --out {run.path} "
        "makes it"
    )


class RunDirectory:
    """Paths and results of one run. Creating this object touches no file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.toml"
        self.env = self.path / "env.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.clock = self.path / "clock.json"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.weights = self.path / "weights.safetensors"
        self.calibration = self.path / "calibration.safetensors"
        self.artifact = self.path / "model.fairway"
        self.proof = self.path / "proof"
        self.proof_file = self.proof / "val.fwp"
        self.prove_checkpoint = self.path / "prove.partial"
        self.prove_learned = self.path / "prove.learned"  # weights that a method has changed
        self.score_learned = self.path / "score.learned"
        self.score_documents = self.path / "score_documents.npy"
        self.report = self.path / "report.html"
        self.page = self.path / "proof.html"
        self.data_root = self.path.parent / "data"

    def for_text(self, text: Path | None) -> RunDirectory:
        """Return the directory for results about another text: one per path, inside this one.

        For None, the validation split, that is this directory itself.
        """
        if text is None:
            return self
        return RunDirectory(self.path / "texts" / f"{text.stem}-{short_hash(str(text.resolve()))}")

    def data_folder(self, prepared: PrepareResult) -> Path:
        """Return the folder of the shards that a result of `prepare` names."""
        return self.path / prepared.folder

    def load(self, sets: Sequence[str] = ()) -> Recipe:
        """Return the recipe of the run, with overrides. Raises BadInput."""
        if not self.recipe.is_file():
            seeds = sorted(place.parent for place in self.path.parent.glob("*-*/recipe.toml"))
            near = [str(s) for s in seeds if s.name.rpartition("-")[0] == self.path.name]
            advice = f"there are {', '.join(near)}" if near else "fairway run RECIPE makes one"
            raise BadInput(f"{self.path} is no run directory (it has no recipe.toml): {advice}")
        return load(str(self.recipe), sets)

    def create(self, recipe: Recipe) -> None:
        """Make the directory and write the resolved recipe. Raises BadInput."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.recipe, dumps(recipe).encode())
        except OSError as error:
            raise BadInput(
                f"cannot write to the run directory {self.path}: {error.strerror}; "
                "choose another with --out"
            ) from None

    def recorded(self, kind: type[R]) -> R | None:
        """Return what a stage's result file says, current or stale; None: it cannot be read.

        Only runner.py knows which of them are current.
        """
        try:
            tree = foreign.read_json(self._result_file(kind), "the result")
            return kind.model_validate(tree)
        except (foreign.Missing, foreign.Malformed, ValidationError):
            return None

    def require(self, kind: type[R]) -> R:
        """Return what a stage's result file says. Raises BadInput when it cannot be read."""
        result = self.recorded(kind)
        if result is None:
            raise BadInput(
                f"{self.path} has no finished '{kind.stage}' yet: "
                f"fairway run {self.recipe} --out {self.path} makes it"
            )
        return result

    def record(self, result: Result) -> None:
        """Write a stage's result file."""
        text = json.dumps(result.tree(), indent=2) + "\n"
        write_atomic(self._result_file(type(result)), text.encode())

    def invalidate(self, kind: type[Result]) -> None:
        """Delete a stage's result file."""
        self._result_file(kind).unlink(missing_ok=True)

    def _result_file(self, kind: type[Result]) -> Path:
        return self.path / f"{kind.stage}.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory against a second command. Raises BadInput with its process id."""
        with lock_folder(self.path):
            yield


@dataclass
class Job:
    """What the runner asks of a stage's function."""

    recipe: Recipe
    run: RunDirectory
    text: Path | None = None  # instead of the validation split
    stamp: str = ""  # what the result depends on; partial work keeps it, and is valid only with it
    resumed: bool = field(default=False, init=False)  # set by a function that found partial work

    def part(self, name: str) -> str:
        """Return one of the hashes of the stamp, by the name of what it depends on."""
        return dict(word.partition("=")[::2] for word in self.stamp.split())[name]

    @property
    def place(self) -> RunDirectory:
        """Return the directory where results about the text go."""
        return self.run.for_text(self.text)
