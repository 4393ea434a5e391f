"""Commands on artifacts and files: compress, decompress, sample, inspect, export, push."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairway.cli import show
from fairway.cli.command import (
    Arithmetic,
    ArtifactFile,
    Output,
    RunFolder,
    arithmetic_of,
    command,
    refuse_surrogates,
)
from fairway.errors import BadInput

if TYPE_CHECKING:
    from fairway.pipeline.results import Result

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="- is a pipe.")]
ModelFile = Annotated[
    Path | None, typer.Option("--model", "-m", envvar="FAIRWAY_MODEL", help="The artifact.")
]
ToStdout = Annotated[bool, typer.Option("--stdout", "-c", help="Write to standard output.")]
Overwrite = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]


@command(opens_files=True)
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
    from fairway.coding import artifact
    from fairway.coding.compress import compress

    kind = arithmetic_of(arithmetic)

    def work(model: Path, source: Any, target: Any, report: Any) -> None:
        compress(artifact.read(model), source, target, kind, report)

    return _files(work, "compress", _artifact(context, files, model), files, output, stdout, force)


@command(opens_files=True)
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
    from fairway.coding import artifact
    from fairway.coding.compress import decompress

    def work(model: Path, source: Any, target: Any, report: Any) -> None:
        decompress(artifact.read(model), source, target, report)

    target, named = Path(os.devnull) if test else output, _artifact(context, files, model)
    return _files(work, "decompress", named, files, target, stdout, force, test)


def _artifact(context: typer.Context, names: list[Path], model: Path | None) -> Path:
    """Return the artifact that -m or FAIRWAY_MODEL names. Raises BadInput."""
    from fairway.coding import files

    given = context.get_parameter_source("model")
    files.check_files(names, with_artifacts=given is not None and given.name == "COMMANDLINE")
    if model is None:
        raise BadInput("no artifact: name it with -m MODEL, or set FAIRWAY_MODEL to one")
    return model


def _files(
    work: Callable[..., None],
    command: str,
    artifact: Path,
    sources: list[Path],
    output: Path | None,
    stdout: bool,
    force: bool,
    test: bool = False,
) -> "Result | dict[str, Result] | None":
    """Do `work` on every file."""
    from fairway.coding import files
    from fairway.pipeline.command_results import FileResult

    if test:
        jobs = [files.plan_jobs([source], output, False, True, True)[0] for source in sources]
    else:
        jobs = files.plan_jobs(sources, output, stdout, force, command == "decompress")
    results = {}
    for job in jobs:
        read, written = files.run(job, artifact, work, command)
        results[str(job.source)] = FileResult(
            path=str(job.target), input_bytes=read, output_bytes=written
        )
    if any(job.is_piped for job in jobs):
        return None  # standard output has bytes, and no JSON after them
    return next(iter(results.values())) if len(results) == 1 else dict(results)


@command(opens_files=True)
def sample(
    artifact: ArtifactFile,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="How many to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest.")] = 0.8,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    arithmetic: Arithmetic = None,
) -> "Result":
    """Let the model go on from a prompt."""
    from fairway.coding.artifact import read
    from fairway.coding.sample import sample
    from fairway.pipeline.command_results import SampleResult

    refuse_surrogates("--prompt", prompt)
    kind = arithmetic_of(arithmetic)
    added = sample(read(artifact), prompt.encode(), tokens, temperature, seed, kind)
    return SampleResult(text=prompt + "".join(added))


@command(opens_files=True)
def inspect(
    artifact: Annotated[Path, typer.Argument(metavar="FILE", help="An artifact or a proof.")],
) -> "Result":
    """Show what is in an artifact, byte by byte; or what the header of a proof says."""
    from fairway import console
    from fairway.formats.proof import is_proof
    from fairway.pipeline import inspect as inspecting

    if is_proof(artifact):
        header = inspecting.inspect_proof(artifact)
        for name, value in header.model_dump(exclude={"stamp"}).items():
            console.say(f"{name}: {value}")
        console.say("The header is not decoded text: fairway verify MODEL PROOF decodes it.")
        return header
    found = inspecting.inspect(artifact)
    show.inspection(found)
    return found


@command(opens_files=True)
def export(artifact: ArtifactFile, output: Output = None) -> None:
    """Write an artifact as safetensors, with its configuration and tokenizer (-o FOLDER)."""
    from fairway import console
    from fairway.report import export

    folder = output or artifact.with_name("export")
    export.export(artifact, folder)
    console.say(f"exported to {folder}")


@command()
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
