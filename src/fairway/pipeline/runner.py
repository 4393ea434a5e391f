"""Run stages: decide whether a result is current, lock, resume, record, and say what happened.

Nothing else decides whether a result is current. A result depends on the code version of its
stage, the stage's keys of the recipe, the results that it needs, and on documents or a text
outside the run directory. The hashes of these stand in its `stamp`, as `part=hash` words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from fairway import console
from fairway.config.schema import Recipe
from fairway.errors import BadInput
from fairway.io.atomic import sha256_file, short_hash
from fairway.pipeline.directory import Job, R, RunDirectory
from fairway.pipeline.results import Result, Verdict
from fairway.pipeline.stage import STAGES, Stage, stages_of
from fairway.pipeline.verify import sha256_readable


def stage_of(name: str) -> Stage:
    """Return a row of the table by name. Raises BadInput."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    names = ", ".join(stage.name for stage in STAGES)
    raise BadInput(f"no stage {name}: choose one of {names}")


def downstream(name: str) -> list[Stage]:
    """Return a stage and all stages whose results depend on it, in order. Raises BadInput."""
    found = [stage_of(name)]
    for stage in STAGES:  # a stage stands after those that it needs
        if any(other.result in stage.needs for other in found):
            found.append(stage)
    return found


# What is current ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class State(Generic[R]):
    """A recorded result, and why it is not current."""

    recorded: R | None
    changed: tuple[str, ...]  # what changed since; empty: it is current

    @property
    def current(self) -> R | None:
        return None if self.changed else self.recorded

    @property
    def why_stale(self) -> str:
        """Return the reason in words; empty: there is no result, or it is current."""
        if self.recorded is None or not self.changed:
            return ""
        return f"made with other {', '.join(self.changed)}"


def state(job: Job, kind: type[R], inputs: bool = False) -> State[R]:
    """Return a stage's recorded result and what has changed since it was made.

    inputs: also read documents and texts outside the run directory, and look whether the stage's
    output files are there. Without it only hashes and the artifact are compared, so that a run
    directory can be judged on a machine that lacks the rest. Raises BadInput.
    """
    stage = stage_of(kind.stage)
    recorded = job.place.recorded(kind)
    if recorded is None:
        return State(None, ())
    changed = changes(recorded.stamp, stamp(job, kind, inputs))
    artifact_sha256 = getattr(recorded, "artifact_sha256", "")
    if artifact_sha256 and sha256_readable(job.run.artifact) != artifact_sha256:
        changed.append(job.run.artifact.name)
    if inputs:
        outputs: list[Path] = [getattr(job.place, path) for path in stage.outputs]
        changed += [file.name for file in outputs if not file.exists()]
        if not stage.is_complete(job, recorded):
            changed.append("files")
    return State(recorded, tuple(changed))


def states(run: RunDirectory) -> dict[str, State[Any]]:
    """Return the state of every cached stage by its name, by the recipe in the run directory."""
    if not run.recipe.is_file():  # nothing says what the results should have been made with
        return {s.name: State(run.recorded(s.result), ("recipe",)) for s in STAGES if s.cached}
    job = Job(run.load(), run)
    applying = stages_of(job.recipe)
    return {
        s.name: state(job, s.result) if s in applying else State(None, ())
        for s in STAGES
        if s.cached
    }


def require_current(job: Job, kinds: Iterable[type[Result]]) -> None:
    """Raise BadInput unless these stages are finished and current, and those that they need."""
    for kind in kinds:
        job.run.require(kind)
        require_current(job, stage_of(kind.stage).needs)
        if why := state(Job(job.recipe, job.run), kind).why_stale:
            raise BadInput(
                f"{kind.stage}.json in {job.run.path} is stale, it was {why}: "
                f"fairway run {job.run.recipe} --out {job.run.path} makes it again"
            )


def changes(before: str, after: str) -> list[str]:
    """Return the names of the parts in which two stamps of one stage differ."""
    old, new = (dict(word.partition("=")[::2] for word in s.split()) for s in (before, after))
    return [part for part in new if new[part] != old.get(part)]


def stamp(job: Job, kind: type[Result], inputs: bool = True) -> str:
    """Return what a stage's result depends on now, as `part=hash` words. Raises BadInput.

    inputs: with the hashes of documents and texts outside the run directory.
    """
    stage = stage_of(kind.stage)
    parts = {"code": str(stage.version)}
    for key in stage.keys:
        section, _, name = key.partition(".")
        values = getattr(job.recipe, section).what_counts()
        parts[key] = short_hash(json.dumps(values[name] if name else values))
    for needed in stage.needs:
        found = job.run.recorded(needed)
        hashes = [getattr(found, field) for field in stage_of(needed.stage).hashes] if found else []
        parts[needed.stage] = short_hash(" ".join([found.stamp, *hashes])) if found else "none"
    if inputs and stage.documents:
        parts["documents"] = short_hash(stage.documents(job.recipe))
    if inputs and job.text:
        parts["text"] = short_hash(_text_hash(job.text))
    return " ".join(f"{part}={value}" for part, value in parts.items())


def _text_hash(text: Path) -> str:
    """Return a hash of the names and contents of a file or folder. Raises BadInput."""
    files = [text] if not text.is_dir() else sorted(p for p in text.rglob("*") if p.is_file())
    return " ".join(f"{file.relative_to(text.parent)} {sha256_file(file)}" for file in files)


# Running -----------------------------------------------------------------------------------------


def run_stages(
    recipe: Recipe,
    run: RunDirectory,
    names: Sequence[str] = (),
    *,
    text: Path | None = None,
    force: str = "",
    **options: Any,
) -> dict[str, Result]:
    """Perform stages in order, all by default, in a directory that is locked meanwhile.

    The recipe is written into the directory. force: a stage that is done again, with all that
    depend on it. options: of the first stage's function. Under torchrun every rank calls this; all
    ranks but the main one return after the last stage that they share. Raises BadInput,
    Interrupted.
    """
    stages = [stage_of(name) for name in names] or stages_of(recipe)
    if int(os.environ.get("RANK", "0")):
        console.silence()
        return _perform_all(Job(recipe, run, text), stages, force, options)
    with run.lock():
        run.create(recipe)
        for stage in downstream(force) if force else ():
            _invalidate(Job(recipe, run), stage)
        return _perform_all(Job(recipe, run, text), stages, force, options)


def _perform_all(
    job: Job, stages: Sequence[Stage], force: str, options: dict[str, Any]
) -> dict[str, Result]:
    last = max((i for i, stage in enumerate(stages) if stage.shared(job.recipe)), default=-1)
    results: dict[str, Result] = {}
    for i, stage in enumerate(stages):
        if i > last and _is_shared_out():
            from fairway import distributed

            here = distributed.start()
            here.barrier()  # what the ranks share is recorded
            distributed.leave()
            if not here.is_main:
                return results
        if stage.cached:
            options = options if i == 0 else {}
            results[stage.name] = perform(job.recipe, job.run, stage.result, job.text, **options)
        else:
            results[stage.name] = _verdict(job, decode=bool(force) and stage in downstream(force))
    return results


def _is_shared_out() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def perform(
    recipe: Recipe,
    run: RunDirectory,
    kind: type[R],
    text: Path | None = None,
    again: bool = False,
    **options: Any,
) -> R:
    """Return a stage's current result, by running the stage if there is none.

    text: documents in a file, instead of the validation split. again: run in any case. Raises
    BadInput when a result that the stage needs is stale or missing; Interrupted.
    """
    job, stage = Job(recipe, run, text), stage_of(kind.stage)
    if _is_shared_out() and not stage.shared(recipe):
        from fairway import distributed

        here = distributed.start()
        if here.is_main:
            _perform(job, kind, again, options)
        here.barrier()
        return job.place.require(kind)
    return _perform(job, kind, again, options)


def _perform(job: Job, kind: type[R], again: bool, options: dict[str, Any]) -> R:
    """Do what `perform` says in this process, and say in one line what it was."""
    stage = stage_of(kind.stage)
    require_current(job, stage.needs)
    before = state(job, kind, inputs=True)
    if before.current is not None and not again:
        result = before.current.under(job.recipe)
        if result != before.current:
            job.place.record(result)
        console.result(f"{stage.name}: cached: {result.sentence}")
        return result
    job.stamp = stamp(job, kind)
    console.detail(f"{stage.name}: begins; its result depends on {job.stamp}")
    made = stage.function(job, **options)
    assert isinstance(made, kind)
    result = made.model_copy(update={"stamp": job.stamp})
    if int(os.environ.get("RANK", "0")) == 0:
        job.place.path.mkdir(parents=True, exist_ok=True)
        job.place.record(result)
        for path in stage.partial:
            getattr(job.place, path).unlink(missing_ok=True)
    how = "resumed" if job.resumed else "ran"
    if before.changed:
        how += f", because another {', '.join(before.changed)} made the result stale"
    console.result(f"{stage.name}: {how}: {result.sentence}")
    return result


def _verdict(job: Job, decode: bool) -> Result:
    """Return the verdict on a run that this command made or continued.

    No verdict is taken from the run directory. Where the user's own state directory remembers the
    verdict on these two files, they are not decoded again, unless `decode` asks for it.
    """
    from fairway.pipeline import verdicts  # not in the script of a submission

    known = None if decode else verdicts.known(job.run)
    if known:
        console.result(f"verify: remembered: {known.sentence}")
        return known
    verdict: Verdict = verdicts.verify(job)
    console.result(f"verify: ran: {verdict.sentence}")
    return verdict


def _invalidate(job: Job, stage: Stage) -> None:
    """Drop a result and its unfinished work, so that the stage runs again."""
    stage.remove(job.run)
    job.run.invalidate(stage.result)
    for path in stage.partial:
        getattr(job.run, path).unlink(missing_ok=True)
