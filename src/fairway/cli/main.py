"""The command line: one command per verb.

Human output goes to stderr; with `--json` a command prints its typed result as one line on stdout.
Exit codes: 0 done and good; 1 done and the verdict is no; 2 bad input; 3 a fault of ours; 130
stopped by Ctrl-C.
Whatever is heavy is imported inside a command, so that `--help` answers at once.
"""

# ruff: noqa: E402  -- nothing else is imported before the current folder is out of the way
from fairway import startup

startup.protect()

import functools
import json
import os
import sys
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairway.errors import BadInput, Interrupted

if TYPE_CHECKING:
    from fairway.config.schema import Recipe
    from fairway.pipeline.directory import RunDirectory
    from fairway.pipeline.results import CheckResult, Result, VerifyResult
    from fairway.report.report import Table

app = typer.Typer(
    help="Train a language model under a byte budget; prove its score with a file that decodes.",
    epilog="Recipes, run folders and exit codes: docs/commands.md.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# What typer raises for any mistake in options and arguments; it exports only this kind of it.
_Usage: Any = typer.BadParameter.__mro__[2]

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name or a TOML file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ArtifactFile = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A model.fairway file.")]
Files = Annotated[list[Path], typer.Argument(metavar="[ARTIFACT] FILE...", help="- is a pipe.")]
ModelFile = Annotated[
    Path | None, typer.Option("--model", "-m", envvar="FAIRWAY_MODEL", help="The artifact.")
]
ToStdout = Annotated[bool, typer.Option("--stdout", "-c", help="Write to standard output.")]
Overwrite = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]
Arithmetic = Annotated[
    str | None, typer.Option(help="exact (every machine decodes it) or float (this kind only).")
]
Method = Annotated[
    str | None, typer.Option("--adapt", help="Score first, then learn: none, sgd, dynamic, lora.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder; default runs/<recipe name>.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override.")]
Text = Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of the validation text.")]
Force = Annotated[str, typer.Option(metavar="VERB", help="Redo it and all that depends on it.")]


_MAX_MEMORY = Parameter(
    "max_memory",
    Parameter.KEYWORD_ONLY,
    default="",
    annotation=Annotated[
        str, typer.Option(metavar="SIZE", help="A file may ask for so much, as in 8G.")
    ],
)
_MAX_TOKENS = Parameter(
    "max_tokens",
    Parameter.KEYWORD_ONLY,
    default=0,
    annotation=Annotated[int, typer.Option(min=0, help="Tokens that a file may ask for.")],
)
_OPENS_FILES = {  # commands that open files of others
    "audit_scorer", "compress", "decompress", "export", "inspect", "prove", "sample", "score",
    "submit", "verify",
}  # fmt: skip


def command(
    function: Callable[..., Any],
    settings: dict[str, Any] | None = None,
    to: typer.Typer = app,
    name: str | None = None,
) -> Callable[..., int]:
    """Register a command, and give it `--json`, `--debug` and the exit codes.

    The function returns what `--json` prints: a Result, results by name, or None. A result with a
    complaint ends in exit code 1; ending.py has the rule for exceptions.
    """

    @functools.wraps(function)
    def run(
        as_json: bool, debug: bool, max_memory: str = "", max_tokens: int = 0, **arguments: Any
    ) -> int:
        from fairway.cli import ending
        from fairway.io import limits

        try:
            limits.raise_to(max_memory, max_tokens)
            if as_json:
                with ending.standard_output():
                    pass
            return _finish(function(**arguments), as_json)
        except KeyboardInterrupt:  # typer would take these two for itself
            raise Interrupted from None
        except BrokenPipeError as error:
            raise BadInput(ending.closed_by_reader(error)) from None
        except Exception as error:
            if debug:
                ending.show_traceback(error)
            raise

    def option(name: str, flag: str, text: str) -> Parameter:
        kind = Annotated[bool, typer.Option(flag, help=text)]
        return Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)

    extra = [
        option("as_json", "--json", "Print the result as one line of JSON on stdout."),
        option("debug", "--debug", "Show the traceback of an error."),
    ]
    if function.__name__ in _OPENS_FILES:
        extra += [_MAX_MEMORY, _MAX_TOKENS]
    parameters = [*signature(function).parameters.values(), *extra]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    to.command(name, context_settings=settings)(run)
    return run


def _finish(returned: "Result | dict[str, Result] | None", as_json: bool) -> int:
    """Print the JSON line; return the exit code, which is 1 if a verdict is no."""
    from fairway.cli import ending

    if returned is None or not _is_main_rank():
        return 0
    results = returned if isinstance(returned, dict) else {"": returned}
    if as_json:
        trees = {name: result.tree() for name, result in results.items()}
        with ending.standard_output():
            print(json.dumps(trees if isinstance(returned, dict) else trees[""], allow_nan=False))
    failures = [result.failure for result in results.values() if result.failure]
    for failure in failures:
        _error(failure)
    return 1 if failures else 0


def _error(text: str) -> None:
    from fairway import console

    console.error(text)


def _is_main_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _load(recipe: str, out: Path | None, sets: list[str] | None) -> "tuple[Recipe, RunDirectory]":
    """Return the recipe with its overrides, and the run directory that it goes to."""
    from fairway.config.toml import load
    from fairway.pipeline.directory import RunDirectory

    loaded = load(recipe, sets or [])
    return loaded, RunDirectory(out or Path("runs") / loaded.name)


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


@command
def demo() -> "dict[str, Result]":
    """Run all stages on this CPU, with a corpus that every Python ships (runs/demo)."""
    recipe, run = _load("demo", None, None)
    return _run_all(recipe, run)


@command
def play(
    recipe: RecipeName,
    out: Out = None,
    sets: Sets = None,
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
    jobs = _of_seeds(recipe, out, sets, seeds) if seeds else [("", *_load(recipe, out, sets))]
    if dry_run:
        from fairway import console
        from fairway.pipeline import plan

        for _, loaded, run in jobs:
            steps = plan.plan(loaded, run, force)
            console.table(f"{loaded.name} in {run.path}", plan.COLUMNS, plan.rows(steps))
        return None
    results: dict[str, Result] = {}
    for name, loaded, run in jobs:
        results |= {name + stage: r for stage, r in _run_all(loaded, run, force).items()}
    if len(jobs) > 1:
        _show_seeds([run for _, _, run in jobs])
    return results


def _of_seeds(
    recipe: str, out: Path | None, sets: list[str] | None, seeds: str
) -> "list[tuple[str, Recipe, RunDirectory]]":
    """A recipe and a run folder per seed, beside each other, so that they share their data."""
    words = [word.strip() for word in seeds.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise BadInput(f"--seeds {seeds}: give different whole numbers, as in 1337,42,2025")
    jobs = []
    for word in words:
        loaded, run = _load(recipe, out, [*(sets or []), f"train.seed={word}"])
        folder = run.path.with_name(f"{run.path.name}-{word}")
        jobs.append((f"{word}.", loaded, type(run)(folder)))
    return jobs


def _show_seeds(runs: "list[RunDirectory]") -> None:
    from fairway.report import report

    _print([report.seeds_table(runs)])


def _run_all(recipe: "Recipe", run: "RunDirectory", force: str = "") -> "dict[str, Result]":
    """Run every stage in order, then print the tables and write the report."""
    from fairway import console
    from fairway.data.tokenizer import load_challenge
    from fairway.pipeline.pack import check_budget
    from fairway.pipeline.runner import run_stages
    from fairway.report import report

    if recipe.data.tokenizer:  # a tokenizer that is there already: what it takes is known now
        check_budget(recipe.model, load_challenge(recipe.data.tokenizer), recipe.pack)
    results = run_stages(recipe, run, force=force)
    if _is_main_rank():
        page = report.write(run)
        _print(report.tables(report.Results(run)))
        console.say(f"report: {page}")
    return results


@command
def data(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe; or fineweb, fineweb-raw: download.")
    ],
    out: Out = None,
    sets: Sets = None,
    variant: Annotated[str, typer.Option(help="Of fineweb: sp1024, sp8192.")] = "sp1024",
    shards: Annotated[
        int, typer.Option(min=0, help="To download, for training: fineweb: files of 100 M tokens.")
    ] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Of fineweb-raw.")] = 2,
) -> "Result | None":
    """Documents to tokens: corpus, split, tokenizer, shards. Or FineWeb from the Hub to disk."""
    if recipe in ("fineweb", "fineweb-raw"):
        return _download(recipe, out or Path("data"), variant, shards, processes)
    loaded, run = _load(recipe, out, sets)
    return _one("prepare", loaded, run)


def _download(name: str, out: Path, variant: str, shards: int, processes: int) -> "Result":
    from fairway import console
    from fairway.data import fineweb
    from fairway.pipeline.results import FetchResult

    if name == "fineweb":
        path, tokenizer = fineweb.shards(variant, out, shards)
        files = sorted(path.glob("*.bin"))
        source = f"--set data.source=shards --set data.path={path} --set data.tokenizer={tokenizer}"
    else:
        path, tokenizer = fineweb.documents(out, shards, processes), None
        files = sorted(path.glob("*.jsonl.zst"))
        source = f"--set data.source=files --set data.path={path}"
    console.say(f"{len(files)} files in {path}; for a recipe: {source}")
    return FetchResult(
        path=str(path),
        tokenizer=str(tokenizer or ""),
        shards=len(files),
        size_bytes=sum(file.stat().st_size for file in files),
    )


@command
def train(
    recipe: RecipeName,
    out: Out = None,
    sets: Sets = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; default: cuda if there is one.")] = "",
    replay_clock: Annotated[
        bool, typer.Option("--replay-clock", help="Repeat a run in seconds by its stored clock.")
    ] = False,
    then_pack: Annotated[bool, typer.Option("--pack", help="Then pack, in this process.")] = False,
) -> "Result | dict[str, Result] | None":
    """Tokens to weights; also under torchrun."""
    from fairway.pipeline.runner import run_stages

    loaded, run = _load(recipe, out, sets)
    names = ["train", *["pack"] * then_pack]
    results = run_stages(loaded, run, names, device=device, replay=replay_clock, again=replay_clock)
    return results if then_pack else results.get("train")


@command
def sweep(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A TOML file of variants.")],
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/<table's name>.")] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Instead of the table's.")] = "",
    sets: Sets = None,
    at_once: Annotated[int, typer.Option(min=1, help="Runs side by side on a CPU.")] = 1,
) -> "Result":
    """Variants of a recipe against it, over seeds, on held-out training text."""
    from fairway.report import sweep

    return sweep.sweep(
        sweep.load(table, seeds, sets or []), out or Path("runs") / table.stem, at_once
    )


@command
def pack(
    run: RunFolder,
    budget: Annotated[int | None, typer.Option(metavar="BYTES", help="The byte budget.")] = None,
    sets: Sets = None,
) -> "Result | None":
    """Weights to one artifact file under the byte budget."""
    overrides = [*(sets or []), *_given("pack.budget_bytes", budget)]
    recipe, folder = _reload(run, "pack", overrides)
    return _one("pack", recipe, folder)


@command
def score(
    run: RunFolder,
    protocol: Annotated[str | None, typer.Option(help="plain, sliding or rolling.")] = None,
    stride: Annotated[int | None, typer.Option(help="Of sliding windows, in tokens.")] = None,
    arithmetic: Arithmetic = None,
    method: Method = None,
    text: Text = None,
    sets: Sets = None,
) -> "Result | None":
    """Bits per byte of the validation text under the artifact."""
    overrides = [
        *(sets or []),
        *_given("score.arithmetic", arithmetic),
        *_given("adapt.method", method),
        *_given("score.protocol", protocol),
        *_given("score.stride", stride),
    ]
    recipe, folder = _reload(run, "score", overrides)
    _refuse_exact_learning(recipe, arithmetic)
    return _one("score", recipe, folder, text)


@command
def prove(
    run: RunFolder,
    arithmetic: Arithmetic = None,
    method: Method = None,
    text: Text = None,
    sets: Sets = None,
) -> "Result | None":
    """Write the validation text as a file that decodes from the artifact alone."""
    overrides = [
        *(sets or []),
        *_given("prove.arithmetic", arithmetic),
        *_given("adapt.method", method),
    ]
    recipe, folder = _reload(run, "prove", overrides)
    _refuse_exact_learning(recipe, arithmetic)
    return _one("prove", recipe, folder, text)


@command
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL PROOF | RUN")],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The text that the proof must decode to.")
    ] = None,
    text_field: Annotated[str, typer.Option(metavar="NAME", help="Of JSON lines.")] = "text",
) -> "Result | None":
    """Decode a proof in a separate process: two files, or a run directory. Trusts nothing else."""
    from fairway.pipeline import verdicts
    from fairway.pipeline.directory import Job

    if not _is_main_rank():
        return None
    if len(paths) > 2:
        raise BadInput("give an artifact and a proof: fairway verify MODEL PROOF [--text FILE]")
    if len(paths) == 2:
        verdict = verdicts.verify_files(paths[0], paths[1], text, text_field)
    elif paths[0].is_file():
        raise BadInput(f"give the proof, too: fairway verify {paths[0]} PROOF [--text FILE]")
    else:
        recipe, run = _reload(paths[0], "verify", [])
        verdict = verdicts.verify(Job(recipe, run, text), text_field)
    _show_verdict(verdict)
    return verdict


def _show_verdict(verdict: "VerifyResult") -> None:
    from fairway import console
    from fairway.report import report

    for line in report.verdict_lines(verdict):
        console.say(line)
    console.say(f"verify: {verdict.sentence}")


@command
def compress(
    context: typer.Context,
    files: Files,
    output: Output = None,
    stdout: ToStdout = False,
    force: Overwrite = False,
    model: ModelFile = None,
    arithmetic: Arithmetic = None,
) -> "Result | dict[str, Result] | None":
    """Compress any file, without loss, with an artifact's model (to FILE.fwz)."""
    from fairway.coding.compress import compress

    kind = _arithmetic(arithmetic)

    def work(artifact: Path, source: Any, target: Any, report: Any) -> None:
        compress(artifact, source, target, kind, report)

    return _files(context, work, "compress", files, output, stdout, force, model)


@command
def decompress(
    context: typer.Context,
    files: Files,
    output: Output = None,
    stdout: ToStdout = False,
    force: Overwrite = False,
    model: ModelFile = None,
    test: Annotated[bool, typer.Option("--test", "-t", help="Decode, and write nothing.")] = False,
) -> "Result | dict[str, Result] | None":
    """Restore files that `compress` made, to the byte."""
    from fairway.coding.compress import decompress

    target = Path(os.devnull) if test else output
    return _files(context, decompress, "decompress", files, target, stdout, force, model, test)


def _files(
    context: typer.Context,
    work: Callable[..., None],
    verb: str,
    names: list[Path],
    output: Path | None,
    stdout: bool,
    force: bool,
    model: Path | None,
    test: bool = False,
) -> "Result | dict[str, Result] | None":
    """`work` on every file. The first argument is the artifact, unless `model` names one."""
    from fairway.coding import files

    given = context.get_parameter_source("model")
    from_environment = given is not None and given.name == "ENVIRONMENT"
    artifact, sources = files.artifact_of(names, model, from_environment)
    if test:
        jobs = [files.plan([source], output, False, True, True)[0] for source in sources]
    else:
        jobs = files.plan(sources, output, stdout, force, verb == "decompress")
    results = {str(job.source): files.run(job, artifact, work, verb) for job in jobs}
    if any(job.is_piped for job in jobs):
        return None  # standard output has bytes, and no JSON after them
    return next(iter(results.values())) if len(results) == 1 else dict(results)


@command
def sample(
    artifact: ArtifactFile,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="How many to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest.")] = 0.8,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    arithmetic: Arithmetic = None,
) -> "Result":
    """Let the model go on from a prompt."""
    from fairway import console
    from fairway.coding.sample import sample
    from fairway.pipeline.results import SampleResult

    _refuse_surrogates("--prompt", prompt)
    text = sample(artifact, prompt, tokens, temperature, seed, _arithmetic(arithmetic))
    console.say_lines(text)
    return SampleResult(text=text)


@command
def inspect(
    artifact: Annotated[Path, typer.Argument(metavar="FILE", help="An artifact or a proof.")],
) -> "Result":
    """What is in an artifact, byte by byte; or what the header of a proof says."""
    from fairway import console
    from fairway.config import budget
    from fairway.formats import proof
    from fairway.pipeline.inspect import inspect, inspect_proof

    if proof.is_proof(artifact):
        claims = inspect_proof(artifact)
        for name, value in claims.model_dump(exclude={"stamp"}).items():
            console.say(f"{name}: {value}")
        console.say("The header is not decoded text: fairway verify MODEL PROOF decodes it.")
        return claims
    found = inspect(artifact)
    console.table("Parts", ["part", "bytes"], found.parts.items())
    console.table(
        "Tensors",
        ["tensor", "shape", "part", "bits per weight", "largest code", "steps"],
        (
            [
                t.name, " × ".join(map(str, t.shape)), t.part, f"{t.bits_per_weight:.2f}",
                t.largest_code, f"{t.smallest_step:.2g} to {t.largest_step:.2g}",
            ]
            for t in found.tensors
        ),
    )  # fmt: skip
    console.say(
        f"{found.artifact_bytes:,} bytes, {found.weights:,} weights, "
        f"{found.bits_per_weight:.2f} bits per coded weight, "
        f"recall {found.recall or 'off'}, cache {found.cache or 'off'}; "
        f"sha256 {found.sha256}"
    )
    console.say(budget.sentence(found.artifact_bytes))
    return found


@command
def fit(
    recipe: RecipeName,
    budget: Annotated[int | None, typer.Option(metavar="BYTES", help="The byte budget.")] = None,
    sets: Sets = None,
) -> "Result":
    """Which shapes fit the byte budget, before training one."""
    from fairway import console
    from fairway.config import budget as challenge
    from fairway.config.toml import load
    from fairway.quantize.size import GOOD_BITS_PER_WEIGHT, fit

    found = fit(load(recipe, [*(sets or []), *_given("pack.budget_bytes", budget)]))
    console.table(
        f"Parts, predicted for the quantizer {found.quantizer}",
        ["part", "bytes"],
        [*found.parts.items(), ("total", found.artifact_bytes)],
    )
    console.table(
        f"Shapes at {found.budget_bytes:,} bytes, the recipe's first",
        ["layers", "width", "tokens", "bigrams", "weights", "bits", "FLOPs", "fits"],
        (
            [
                s.num_layers, s.dim, s.vocab_size, s.bigram_rows, f"{s.weights:,}",
                f"{s.bits_per_weight:.2f}", f"{s.relative_flops:.2f}", "yes" if s.fits else "",
            ]
            for s in found.shapes
        ),
    )  # fmt: skip
    console.say(
        "bits: per weight of the matrices, when the artifact fills the budget; a shape fits with "
        f"{GOOD_BITS_PER_WEIGHT} or more. FLOPs: per token of training, the recipe's "
        f"{found.flops_per_token:.3g} are 1"
    )
    console.say(challenge.sentence(found.artifact_bytes))
    return found


class _Scorers(typer.core.TyperGroup):
    """`audit FILE.py:FUNCTION` is short for `audit scorer FILE.py:FUNCTION`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args[:1] and args[0] in self.commands
        return super().resolve_command(ctx, args if known else ["scorer", *args])


audits = typer.Typer(
    cls=_Scorers,
    help="Is somebody else's score valid? audit FILE.py:FUNCTION, audit data, audit run RUN.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(audits, name="audit")


@functools.partial(command, to=audits, name="scorer")
def audit_scorer(
    name: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="Tokens to nats.")],
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="The text to score.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="A .model, a .fwt or an artifact.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="SHARD", help="Tokens, instead of a text.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="More find rarer faults.")] = 2.0,
    read: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="The scorer may read this, too.")
    ] = None,
    memory: Annotated[int, typer.Option(min=1, metavar="GB", help="It may take so much.")] = 16,
    gpu: Annotated[bool, typer.Option("--gpu", help="It may use the NVIDIA devices.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the audit's random choices.")] = 0,
) -> "Result":
    """Find out by experiment whether a scorer is valid. Runs foreign code."""
    from fairway.audit import report
    from fairway.audit.audit import Wanted
    from fairway.audit.audit import audit_scorer as audit

    wanted = Wanted(text, tokenizer, tokens, minutes, seed, read or [], memory << 30, gpu)
    found = audit(name, wanted)
    report.show(found)
    return found


@functools.partial(command, to=audits, name="data")
def audit_data(
    train: Annotated[list[Path], typer.Option(metavar="FILE", help="Training text, or shards.")],
    val: Annotated[list[Path], typer.Option(metavar="FILE", help="Validation text, or shards.")],
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="That made the shards.")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Shared part that counts as a copy.")] = 0.2,
) -> "Result":
    """Find validation documents in training text."""
    from fairway.audit import report
    from fairway.audit.overlap import audit_data as audit

    found = audit(train, val, tokenizer, overlap)
    report.show(found)
    return found


@functools.partial(command, to=audits, name="run")
def audit_run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, of seeds.")],
    steps: Annotated[int, typer.Option(min=0, help="Of training to replay; 0: all.")] = 20,
    twin: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text like the validation text.")
    ] = None,
) -> "Result":
    """Where a run's artifact came from: hashes, replay, budgets, and a twin of its text."""
    from fairway.audit import report
    from fairway.audit.provenance import audit_run as audit

    found = audit(runs, steps, twin)
    report.show(found)
    return found


@command
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
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
        page = report.write(RunDirectory(folder))
        _print(report.tables(report.Results(RunDirectory(folder))))
        console.say(f"report: {page}")


@functools.partial(command, settings={"ignore_unknown_options": True})
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN... --against RUN...")],
    claim: Annotated[
        float, typer.Option(min=0.0, metavar="NATS", help="The gain claimed, per token.")
    ] = 0.005,
    output: Output = None,
) -> "Result":
    """Are runs better than others? Tests over seeds, in bits per byte and in nats per token."""
    from fairway import console
    from fairway.io.atomic import check_writable
    from fairway.report import compare, report

    if output:
        check_writable(output)
    found = compare.compare(*compare.split(runs), claim)
    _print(compare.tables(found))
    if output:
        report.write_comparison(found, compare.tables(found), output)
        console.say(f"page: {output}")
    return found


@command
def submit(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of several seeds.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("submission"),
    author: Annotated[str, typer.Option(help="Your name.")] = "",
    github: Annotated[str, typer.Option(metavar="ID", help="Your GitHub name.")] = "",
    title: Annotated[str, typer.Option(help="Default: the recipe's name.")] = "",
    only_check: Annotated[
        bool, typer.Option("--check", help="RUN is a submission folder: check it.")
    ] = False,
) -> "Result":
    """Write runs as a submission to the challenge, or check any submission folder."""
    from fairway import console
    from fairway.challenge import checks, submission

    if only_check:
        if len(runs) != 1:
            raise BadInput("give one folder: fairway submit --check FOLDER")
        found = checks.check(runs[0])
        _show_findings(found)
        return found
    for option, words in (("--author", author), ("--github", github), ("--title", title)):
        _refuse_surrogates(option, words)
    result = submission.submit(runs, out, author, github, title)
    _show_findings(result.check)
    console.say(
        f"submission: {result.folder}, {result.val_bpb:.4f} bits per byte over seeds "
        f"{result.seeds}, train_gpt.py has {result.bundle_bytes:,} bytes"
    )
    return result


@command
def export(artifact: ArtifactFile, output: Output = None) -> None:
    """Write an artifact as safetensors, with its configuration and tokenizer (-o FOLDER)."""
    from fairway import console
    from fairway.report import export

    folder = output or artifact.with_name("export")
    export.export(artifact, folder)
    console.say(f"exported to {folder}")


@command
def push(
    run: RunFolder,
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="On the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="For your eyes only.")] = False,
) -> None:
    """Upload a run's artifact, proof and export to the Hugging Face Hub, with a card."""
    from fairway import console
    from fairway.pipeline.directory import RunDirectory
    from fairway.report import export

    console.say(f"pushed: {export.push(RunDirectory(run), repository, private)}")


def _show_findings(found: "CheckResult") -> None:
    from fairway import console

    rows = [[f"{f.rule}: {f.evidence}", f.verdict] for f in found.findings]
    console.table(f"Checks of {found.folder}", ["rule", "holds"], rows)


def _print(tables: "list[Table]") -> None:
    from fairway import console

    for table in tables:
        console.table(table.title, table.columns, table.rows)
        console.say_lines(table.note + "\n")


def _arithmetic(chosen: str | None) -> Any:
    """Of a command without a recipe."""
    if chosen not in (None, "exact", "float"):
        raise BadInput(f"--arithmetic {chosen}: choose exact or float")
    return chosen or "exact"


def _refuse_exact_learning(recipe: "Recipe", arithmetic: str | None) -> None:
    """Also where the run adapts since an earlier command. Raises BadInput."""
    method = recipe.adapt.method
    if arithmetic == "exact" and method != "none":
        raise BadInput(
            f"--adapt {method} learns in floating point: leave out --arithmetic exact, and the "
            "proof will name the kind of machine that it needs; or --adapt none"
        )


def _refuse_surrogates(option: str, words: str) -> None:
    """Python gives bytes of the command line that are no UTF-8 as surrogates. Raises BadInput."""
    try:
        words.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{option} {words}: it is no UTF-8; write it in UTF-8") from None


def _given(key: str, value: object) -> list[str]:
    return [] if value is None else [f"{key}={value}"]


def main() -> None:
    """Give the command in sys.argv, and end with its exit code."""
    from fairway.cli import ending

    ending.hold_streams()
    code = ending.exit_code(_given_command)
    ending.leave_ranks()
    ending.let_go()
    sys.exit(code)


def _given_command() -> int:
    """Do what sys.argv says; return the exit code. Raises whatever a command raises."""
    from fairway.cli import ending

    try:
        code = app(prog_name="fairway", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit:  # what typer makes of a broken pipe under --help
        raise BrokenPipeError from None
    except _Usage as error:
        from fairway import console

        context, message = getattr(error, "ctx", None), error.format_message()
        if context and message == context.get_help():  # nothing was given
            console.say_lines(message)
            return 2
        if context:
            console.say_lines(f"{context.get_usage()}\nTry '{context.command_path} --help'.")
        console.error(message)
        return 2
    if sys.stdout is not None:
        with ending.standard_output():
            pass  # what --help printed has to get out, too
    return int(code or 0)
