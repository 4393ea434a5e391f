"""Commands on artifacts and files: compress, decompress, sample, inspect, export, push."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairway.cli import show
from fairway.cli.command import (
    Arithmetic,
    ArtifactFile,
    Output,
    RunFolder,
    artifact_of,
    command,
    refuse_surrogates,
)
from fairway.errors import BadInput

if TYPE_CHECKING:
    from fairway.pipeline.results import Result


@command(
    "compress -m runs/demo letter.txt",
    "compress -m runs/demo --rm *.txt",
    "compress -m runs/demo -d letter.txt.fwz",
    "compress -m runs/demo < letter.txt > letter.fwz",
    opens_files=True,
)
def compress(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="- or none is a pipe.")
    ] = None,
    output: Output = None,
    stdout: Annotated[
        bool, typer.Option("-c", "--stdout", help="Write to standard output.")
    ] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.")] = False,
    remove: Annotated[
        bool, typer.Option("--rm/--keep", " /-k", help="Remove FILE at the end, or keep it.")
    ] = False,
    test: Annotated[bool, typer.Option("-t", "--test", help="Decode, and write nothing.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "-m", "--model", envvar="FAIRWAY_MODEL", callback=artifact_of,
            help="An artifact or a run directory.",
        ),
    ] = None,
    restore: Annotated[bool, typer.Option("-d", "--decompress", help="Decompress.")] = False,
    arithmetic: Arithmetic = None,
) -> "Result | dict[str, Result] | None":  # fmt: skip
    """Compress any file, without loss, with an artifact's model (to FILE.fwz)."""
    from fairway.coding import artifact as artifacts
    from fairway.coding import files as coded
    from fairway.coding.compress import compress, decompress
    from fairway.pipeline.command_results import FileResult

    files, restore = files or [Path("-")], restore or test
    given = context.get_parameter_source("model")
    coded.check_files(files, with_artifacts=given is not None and given.name == "COMMANDLINE")
    if model is None:
        raise BadInput("no model: name an artifact or a run directory with -m, or in FAIRWAY_MODEL")

    def work(file: Path, source: Any, target: Any, report: Any) -> None:
        if restore:
            decompress(artifacts.read(file), source, target, report)
        else:
            compress(artifacts.read(file), source, target, arithmetic or "exact", report)

    if test:
        nowhere = Path(os.devnull)
        jobs = [coded.plan_jobs([file], nowhere, False, True, True)[0] for file in files]
    else:
        jobs = coded.plan_jobs(files, output, stdout, force, restore)
    results = {}
    for job in jobs:
        read, written = coded.run(job, model, work, "decompress" if restore else "compress")
        if remove:
            job.remove_source()
        results[str(job.source)] = FileResult(
            path=str(job.target), input_bytes=read, output_bytes=written
        )
    if any(job.is_piped for job in jobs):
        return None  # standard output has bytes, and no JSON after them
    return next(iter(results.values())) if len(results) == 1 else dict(results)


command(
    "decompress -m runs/demo letter.txt.fwz",
    "decompress -m runs/demo -c letter.txt.fwz",
    "decompress -m runs/demo -t *.fwz",
    name="decompress",
    text="Restore files that `compress` made, to the byte.",
    fixed={"restore": True, "arithmetic": None},
    opens_files=True,
)(compress)


@command(
    'sample runs/demo --prompt "Return the"',
    "sample runs/demo --tokens 500 --seed 7",
    opens_files=True,
)
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
    kind = arithmetic or "exact"
    added = sample(read(artifact), prompt.encode(), tokens, temperature, seed, kind)
    return SampleResult(text=prompt + "".join(added))


@command("inspect runs/demo", "inspect runs/demo/proof/val.fwp", opens_files=True)
def inspect(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="An artifact, a run directory or a proof.", callback=artifact_of
        ),
    ],
) -> "Result":
    """Show what is in an artifact, byte by byte; or what the header of a proof says."""
    from fairway import console
    from fairway.formats.proof import is_proof
    from fairway.pipeline import inspect as inspecting

    if is_proof(artifact):
        header = inspecting.inspect_proof(artifact)
        for name, value in header.model_dump(exclude={"stamp"}).items():
            console.result(f"{name}: {value}")
        console.say("The header is not decoded text: fairway verify MODEL PROOF decodes it.")
        return header
    found = inspecting.inspect(artifact)
    show.inspection(found)
    return found


@command("export runs/demo", "export model.fairway -o folder", opens_files=True)
def export(artifact: ArtifactFile, output: Output = None) -> None:
    """Write an artifact as safetensors, with its configuration and tokenizer (-o FOLDER)."""
    from fairway import console
    from fairway.report import export

    folder = output or artifact.with_name("export")
    export.export(artifact, folder)
    console.say(f"exported to {folder}")


@command("push runs/demo ada/fairway-demo --private")
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
