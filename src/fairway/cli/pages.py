"""Commands that make pages: one that decodes a proof, one that shows a text's costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairway.cli.command import ArtifactFile, Output, artifact_of, command
from fairway.errors import BadInput

if TYPE_CHECKING:
    from fairway.pipeline.results import Result


@command("page runs/demo", "page model.fairway val.fwp -o proof.html", opens_files=True)
def page(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL PROOF | RUN")],
    output: Output = None,
) -> "Result":
    """Write one HTML file that decodes a proof in any browser, without a network (proof.html)."""
    from fairway import console
    from fairway.io.atomic import write_atomic
    from fairway.page import proof
    from fairway.pipeline.directory import RunDirectory

    run = RunDirectory(paths[0])
    if len(paths) > 2:
        raise BadInput("give an artifact and a proof: fairway page MODEL PROOF [-o proof.html]")
    if len(paths) == 2:
        made = proof.page_of(artifact_of(paths[0]), paths[1])
        file = paths[1].with_name(run.page.name)
    elif paths[0].is_file():
        raise BadInput(
            f"give the proof, too: fairway page {paths[0]} PROOF; fairway prove RUN writes one"
        )
    else:
        run.load()
        made, file = proof.page_of_run(run), run.page
    _refuse_inputs(output, paths)
    file = output or file
    write_atomic(file, made)
    console.say(f"page: {file} ({len(made):,} bytes): open it in a browser, it decodes the proof")
    return proof.PageResult(path=str(file), page_bytes=len(made))


@command(
    "view runs/demo letter.txt -o letter.html",
    "view runs/demo letter.txt --terminal",
    opens_files=True,
)
def view(
    artifact: ArtifactFile,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The text; - is standard input.")],
    output: Output = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Show it here, and write no page.")
    ] = False,
) -> "Result":
    """Show a text, each token shaded by what it costs under the model (view.html)."""
    from fairway import console
    from fairway.page.view import view

    if terminal and output:
        raise BadInput(f"--terminal writes no page: leave out -o {output}, or --terminal")
    _refuse_inputs(output, [artifact, file])
    result = view(artifact, file, None if terminal else output or Path("view.html"))
    console.result(f"view: {result.sentence}")
    return result


def _refuse_inputs(output: Path | None, inputs: list[Path]) -> None:
    """Raise BadInput where the page would be written over what it is made of."""
    if output and output.exists() and any(f.exists() and output.samefile(f) for f in inputs):
        raise BadInput(f"{output} would overwrite its own input: -o FILE writes another")
