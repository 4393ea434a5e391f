"""Commands of the pipeline: all stages of a recipe, or one stage of a run directory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fairway.cli import show
from fairway.cli.command import (
    Arithmetic,
    Budget,
    Method,
    Out,
    Output,
    RecipeName,
    RunFolder,
    Sets,
    Text,
    artifact_of,
    command,
    given,
    is_main_rank,
    load,
)
from fairway.errors import BadInput

if TYPE_CHECKING:
    from fairway.config.schema import Recipe
    from fairway.pipeline.directory import RunDirectory
    from fairway.pipeline.results import Result

Force = Annotated[str, typer.Option(metavar="STAGE", help="Redo it and all that depends on it.")]


@command("demo", "demo --quiet")
def demo(sets: Sets = None) -> "dict[str, Result]":
    """Run all stages on this CPU, with a corpus that every Python ships (runs/demo)."""
    from fairway import console

    recipe, run = load("demo", None, sets)
    console.say(
        "demo: 3 to 5 minutes on two quiet cores, longer where other work or an older processor "
        "slows it; nothing ends it early. Training takes most of that time, and says soon how long"
    )
    return _run_all(recipe, run)


@command(
    "run mini",
    "run mini --set pack.budget_bytes=500k --out runs/half",
    "run demo --dry-run",
)
def run(
    recipe: RecipeName,
    out: Out = None,
    sets: Sets = None,
    method: Method = None,
    force: Force = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    seeds: Annotated[
        str, typer.Option(metavar="1,2,3", help="One run per seed: folder OUT-SEED each.")
    ] = "",
) -> "dict[str, Result] | None":
    """Run all stages of a recipe. Stages whose inputs did not change are skipped."""
    from fairway.pipeline.runner import stage_of

    if force:
        stage_of(force)
    sets = [*(sets or []), *given("adapt.method", method)]
    jobs = _of_seeds(recipe, out, sets, seeds) if seeds else [("", *load(recipe, out, sets))]
    if dry_run:
        from fairway import console
        from fairway.pipeline import plan

        for _, loaded, place in jobs:
            steps = plan.plan(loaded, place, force)
            console.table(f"{loaded.name} in {place.path}", plan.COLUMNS, plan.rows(steps))
        return None
    results: dict[str, Result] = {}
    for name, loaded, place in jobs:
        results |= {name + stage: r for stage, r in _run_all(loaded, place, force).items()}
    if len(jobs) > 1 and is_main_rank():
        from fairway.report import report

        show.tables([report.seeds_table([place for _, _, place in jobs])])
    return results


def _of_seeds(
    recipe: str, out: Path | None, sets: list[str], seeds: str
) -> "list[tuple[str, Recipe, RunDirectory]]":
    """Return a recipe and a run directory per seed, side by side, so that they share their data."""
    words = [word.strip() for word in seeds.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise BadInput(f"--seeds {seeds}: give different whole numbers, as in 1337,42,2025")
    jobs = []
    for word in words:
        loaded, run = load(recipe, out, [*sets, f"train.seed={word}"])
        folder = run.path.with_name(f"{run.path.name}-{word}")
        jobs.append((f"{word}.", loaded, type(run)(folder)))
    return jobs


def _run_all(recipe: "Recipe", run: "RunDirectory", force: str = "") -> "dict[str, Result]":
    """Run every stage in order, then print the tables and write the report."""
    from fairway import console
    from fairway.data.challenge_tokenizer import load_challenge
    from fairway.page.proof import write_small
    from fairway.pipeline.pack import check_budget
    from fairway.pipeline.prepare_shards import check_there
    from fairway.pipeline.runner import run_stages

    if recipe.data.source == "shards":
        check_there(recipe.data)
    if recipe.data.tokenizer:  # a tokenizer that is there already: what it takes is known now
        tokenizer = load_challenge(recipe.data.tokenizer)
        check_budget(recipe.model, tokenizer, recipe.pack, recipe.memory)
    results = run_stages(recipe, run, force=force)
    if is_main_rank():
        page = write_small(run)
        _write_report(run)
        if page:
            console.say(f"page: {page}: open it in a browser, it decodes the proof")
    return results


def _write_report(run: "RunDirectory") -> None:
    """Print the tables of a run and write its page."""
    from fairway import console
    from fairway.pipeline.evidence import Results
    from fairway.report import report

    page = report.write(run)
    if console.level() >= 0:
        show.tables(report.tables(Results(run)))
    console.say(f"report: {page}")


@command("prepare mini --set data.source=files --set data.path=texts")
def prepare(recipe: RecipeName, out: Out = None, sets: Sets = None) -> "Result | None":
    """Turn documents into tokens: corpus, split, tokenizer, shards."""
    loaded, place = load(recipe, out, sets)
    return _one("prepare", loaded, place)


@command("train demo", "train demo --device cpu --pack")
def train(
    recipe: RecipeName,
    out: Out = None,
    sets: Sets = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Default: cuda if there is one.")
    ] = None,
    replay_clock: Annotated[
        bool, typer.Option("--replay-clock", help="Repeat a run in seconds by its stored clock.")
    ] = False,
    then_pack: Annotated[bool, typer.Option("--pack", help="Then pack, in this process.")] = False,
) -> "Result | dict[str, Result] | None":
    """Turn tokens into weights; also under torchrun."""
    from fairway.pipeline.runner import run_stages

    loaded, run = load(recipe, out, sets)
    names = ["train", *["pack"] * then_pack]
    again, chosen = replay_clock, device or ""
    results = run_stages(loaded, run, names, device=chosen, replay=again, again=again)
    return results if then_pack else results.get("train")


@command("pack runs/demo", "pack runs/demo --budget 300k")
def pack(
    run: RunFolder,
    budget: Budget = None,
    sets: Sets = None,
) -> "Result | None":
    """Turn weights into one artifact file under the byte budget."""
    overrides = [*(sets or []), *given("pack.budget_bytes", budget)]
    recipe, folder = _reload(run, "pack", overrides)
    return _one("pack", recipe, folder)


@command(
    "score runs/demo",
    "score runs/demo --protocol sliding --stride 32",
    "score runs/demo --text letter.txt",
    opens_files=True,
)
def score(
    run: RunFolder,
    protocol: Annotated[
        Literal["plain", "sliding", "rolling"] | None,
        typer.Option(help="How much context a token gets."),
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Of sliding windows, in tokens.")] = None,
    arithmetic: Arithmetic = None,
    method: Method = None,
    text: Text = None,
    sets: Sets = None,
) -> "Result | None":
    """Measure bits per byte of the validation text under the artifact."""
    overrides = [*(sets or []), *given("score.protocol", protocol), *given("score.stride", stride)]
    return _coded("score", run, overrides, arithmetic, method, text)


@command("prove runs/demo", "prove runs/demo --text letter.txt", opens_files=True)
def prove(
    run: RunFolder,
    arithmetic: Arithmetic = None,
    method: Method = None,
    text: Text = None,
    sets: Sets = None,
) -> "Result | None":
    """Write the validation text as a file that decodes from the artifact alone."""
    return _coded("prove", run, sets or [], arithmetic, method, text)


@command(
    "verify runs/demo/model.fairway runs/demo/proof/val.fwp",
    "verify runs/demo --with node",
    opens_files=True,
)
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL PROOF | RUN")],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The text that the proof must decode to.")
    ] = None,
    text_field: Annotated[str, typer.Option(metavar="NAME", help="Of JSON lines.")] = "text",
    second: Annotated[
        Literal["node"] | None, typer.Option("--with", help="Then the second decoder, by Node.")
    ] = None,
) -> "Result | None":
    """Decode a proof in a separate process: two files, or a run directory. Trusts nothing else."""
    from fairway import console
    from fairway.pipeline import verdicts
    from fairway.pipeline.directory import Job
    from fairway.report import report

    if not is_main_rank():
        return None
    if len(paths) > 2:
        raise BadInput("give an artifact and a proof: fairway verify MODEL PROOF [--text FILE]")
    if len(paths) == 2:
        files = artifact_of(paths[0]), paths[1]
        verdict = verdicts.verify_files(*files, text, text_field)
    elif paths[0].is_file():
        raise BadInput(f"give the proof, too: fairway verify {paths[0]} PROOF [--text FILE]")
    else:
        recipe, run = _reload(paths[0], "verify", [])
        job = Job(recipe, run, text)
        files = job.run.artifact, job.place.proof_file
        verdict = verdicts.verify(job, text_field)
    if second:
        from fairway.pipeline.verify import decoded_twice

        verdict = decoded_twice(verdict, *files)
    for line in report.verdict_lines(verdict):
        console.result(line)
    console.result(f"verify: {verdict.sentence}")
    return verdict


def _reload(folder: Path, name: str, sets: list[str]) -> "tuple[Recipe, RunDirectory]":
    """Return the recipe of an existing run. Only what the stage depends on can be overridden."""
    from fairway.pipeline.directory import RunDirectory
    from fairway.pipeline.runner import stage_of

    run, keys = RunDirectory(folder), (*stage_of(name).keys, "run")
    run.load()
    for assignment in sets:
        key = assignment.partition("=")[0].strip() + "."
        if not any(key.startswith(f"{part}.") for part in keys):
            raise BadInput(
                f"--set {assignment}: '{name}' reads only {list(keys)} of the recipe; "
                "use fairway run RECIPE to change what comes before it"
            )
    return run.load(sets), run


def _one(
    name: str, recipe: "Recipe", run: "RunDirectory", text: Path | None = None
) -> "Result | None":
    """Run one stage. Return its result; None on other ranks of torchrun."""
    from fairway.pipeline.runner import run_stages

    return run_stages(recipe, run, [name], text=text).get(name)


def _coded(
    name: str, run: Path, sets: list[str], arithmetic: str | None, method: str | None,
    text: Path | None,
) -> "Result | None":  # fmt: skip
    """Run `score` or `prove`. Raises BadInput where a method learns that any command chose."""
    sets = [*sets, *given(f"{name}.arithmetic", arithmetic), *given("adapt.method", method)]
    recipe, folder = _reload(run, name, sets)
    if arithmetic == "exact" and recipe.adapt.method != "none":
        raise BadInput(
            f"--adapt {recipe.adapt.method} learns in floating point: leave out --arithmetic exact,"
            " and the proof will name the kind of machine that it needs; or --adapt none"
        )
    return _one(name, recipe, folder, text)


@command("report runs/demo", "report runs/mini-1 runs/mini-2 -o both.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    output: Output = None,
) -> None:
    """Write each run's tables and one self-contained page, RUN/report.html; -o: one for all."""
    from fairway import console
    from fairway.io.atomic import check_writable
    from fairway.pipeline.directory import RunDirectory
    from fairway.report import report

    if output:
        check_writable(output)
        report.write_many([RunDirectory(folder) for folder in runs], output)
        console.say(f"report: {output}")
        return
    for folder in runs:
        _write_report(RunDirectory(folder))
