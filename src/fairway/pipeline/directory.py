"""The run folder: the only place that knows file names; what is done, what is stale.

Every file is written under a temporary name, flushed and renamed, so that a kill at any moment
leaves either the old file or the new one. docs/course.md says which change makes what stale.
"""

from __future__ import annotations

import functools
import json
import operator
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fairway.config.schema import Recipe, dumps, load
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import lock_folder, short_hash, write_atomic
from fairway.pipeline.results import VERBS, Result

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Stage:
    """What a verb's result depends on. Raise `version` when its code changes what it makes."""

    sections: tuple[str, ...]  # of the recipe, or one key of a section
    after: str | None
    version: int


STAGES: dict[str, Stage] = {
    "data": Stage(("data",), None, 1),
    "train": Stage(("model", "optim", "train"), "data", 2),
    "pack": Stage(("pack",), "train", 2),
    "score": Stage(("adapt", "score", "prove.lanes"), "pack", 4),
    "prove": Stage(("adapt", "prove"), "pack", 3),
    "verify": Stage((), "prove", 1),
}


def downstream(verb: str) -> list[str]:
    """`verb` and every verb whose result depends on it, in the order of the course."""
    found = [verb]
    for name, stage in STAGES.items():  # a stage comes after the one it depends on
        if stage.after in found:
            found.append(name)
    return found


class RunDirectory:
    """Paths and results of one run folder. Creating it touches no file."""

    def __init__(self, path: str | Path) -> None:
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
        self.prove_learned = self.path / "prove.learned"  # what an adapting network has become
        self.score_learned = self.path / "score.learned"
        self.score_documents = self.path / "score_documents.npy"
        self.report = self.path / "report.html"
        self.data_root = self.path.parent / "data"

    def about(self, text: Path) -> RunDirectory:
        """Where results about another text than the validation split go: a folder inside."""
        return RunDirectory(self.path / "texts" / text.stem)

    def data_folder(self, result: Result) -> Path:
        """Folder of the shards that `result`, a DataResult, names."""
        return self.path / str(result.folder)  # type: ignore[attr-defined]

    def load(self, sets: Sequence[str] = ()) -> Recipe:
        """The recipe in the folder, with overrides. Raises BadInput."""
        if not self.recipe.is_file():
            raise BadInput(
                f"{self.path} is no run folder (it has no recipe.toml): fairway play makes one"
            )
        return load(str(self.recipe), sets)

    def create(self, recipe: Recipe) -> None:
        """Make the folder and write the resolved recipe. Raises BadInput."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.recipe, dumps(recipe).encode())
        except OSError as error:
            raise BadInput(
                f"cannot write to the run folder {self.path}: {error.strerror}; "
                "choose another with --out"
            ) from None

    def stamp(
        self, verb: str, recipe: Recipe, source: str = "", before: Result | None = None
    ) -> str:
        """What `verb`'s result depends on, as `part=hash` words: code, sections, upstream result.

        `source` is the fingerprint of the documents, for the verb `data`; `before` the upstream
        result where it is not this run's.
        Raises BadInput when the verb before it has no result yet.
        """
        stage = STAGES[verb]
        parts, tree = {"code": str(stage.version)}, recipe.model_dump(mode="json")
        for name in stage.sections:
            value: Any = functools.reduce(operator.getitem, name.split("."), tree)
            parts[name] = short_hash(json.dumps(value))
        if stage.after:
            parts[stage.after] = short_hash((before or self.require(stage.after)).stamp)
        else:
            parts["documents"] = short_hash(source)
        return " ".join(f"{part}={value}" for part, value in parts.items())

    def result(self, verb: str) -> Result | None:
        """Return the stage's result, or None when there is none that can be read."""
        try:
            tree = foreign.read_json(self.path / f"{verb}.json", "the result")
            return VERBS[verb].model_validate(tree)
        except (foreign.Missing, foreign.Malformed, ValidationError):
            return None

    def require(self, verb: str) -> Result:
        """The verb's result. Raises BadInput when there is none."""
        result = self.result(verb)
        if result is None:
            advice = f"run fairway {verb} on it first"
            if verb in ("data", "train"):  # which take a recipe
                advice = f"fairway play {self.recipe} --out {self.path} makes it"
            raise BadInput(f"{self.path} has no finished '{verb}' yet: {advice}")
        return result

    def fresh(self, verb: str, stamp: str, kind: type[R]) -> R | None:
        """The finished result when its inputs have not changed, else None."""
        result = self.result(verb)
        return result if isinstance(result, kind) and result.stamp == stamp else None

    def finish(self, verb: str, result: Result) -> None:
        write_atomic(
            self.path / f"{verb}.json", (json.dumps(result.tree(), indent=2) + "\n").encode()
        )

    def invalidate(self, verb: str) -> None:
        """Drop a finished result and what it was made of, so that the verb runs again."""
        result = self.result(verb)
        (self.path / f"{verb}.json").unlink(missing_ok=True)
        if verb == "data" and result is not None:
            folder = self.data_folder(result).resolve()
            if folder.parent == self.data_root.resolve():
                shutil.rmtree(folder, ignore_errors=True)
        if verb == "train":
            self.checkpoint.unlink(missing_ok=True)
        if verb == "prove":
            self.prove_checkpoint.unlink(missing_ok=True)
            self.prove_learned.unlink(missing_ok=True)
        if verb == "score":
            self.score_learned.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second command. Raises BadInput with its process id."""
        with lock_folder(self.path):
            yield


def stamp_changes(before: str, after: str) -> list[str]:
    """Names of the parts in which two stamps of one verb differ."""
    old, new = (dict(word.partition("=")[::2] for word in s.split()) for s in (before, after))
    return [part for part in new if new[part] != old.get(part)]
