"""Commands on several runs: sweep, compare, submit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairway.cli import show
from fairway.cli.command import Output, Sets, command, refuse_surrogates
from fairway.errors import BadInput

if TYPE_CHECKING:
    from fairway.pipeline.results import Result


@command("sweep table.toml --seeds 1,2,3", "sweep table.toml --at-once 2")
def sweep(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A TOML file of variants.")],
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/<table's name>.")] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Instead of the table's.")] = "",
    sets: Sets = None,
    at_once: Annotated[int, typer.Option(min=1, help="Runs side by side on a CPU.")] = 1,
) -> "Result":
    """Compare variants of a recipe with it, over seeds, on held-out training text."""
    from fairway.report import sweep

    return sweep.sweep(
        sweep.load(table, seeds, sets or []), out or Path("runs") / table.stem, at_once
    )


@command(
    "compare runs/new-1 runs/new-2 --against runs/old-1 runs/old-2",
    settings={"ignore_unknown_options": True},
)
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN... --against RUN...")],
    claim: Annotated[
        float, typer.Option(min=0.0, metavar="NATS", help="The gain claimed, per token.")
    ] = 0.005,
    output: Output = None,
) -> "Result":
    """Test whether runs are better than others: over seeds, in bits per byte and nats per token."""
    from fairway import console
    from fairway.io.atomic import check_writable
    from fairway.report import compare, report

    if output:
        check_writable(output)
    found = compare.compare(*compare.split(runs), claim)
    show.tables(compare.tables(found))
    if output:
        report.write_comparison(found, compare.tables(found), output)
        console.say(f"page: {output}")
    return found


@command(
    "submit runs/mini-1 runs/mini-2 --author Ada --github ada",
    "submit --check submission",
    opens_files=True,
)
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
        show.findings(found)
        return found
    for option, words in (("--author", author), ("--github", github), ("--title", title)):
        refuse_surrogates(option, words)
    result = submission.submit(runs, out, author, github, title)
    show.findings(result.check)
    console.say(
        f"submission: {result.folder}, {result.val_bpb:.4f} bits per byte over seeds "
        f"{result.seeds}, train_gpt.py has {result.bundle_bytes:,} bytes"
    )
    return result
