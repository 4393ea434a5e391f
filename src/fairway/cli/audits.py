"""Commands that audit somebody else's score."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairway.cli.command import app, artifact_of, command, size

if TYPE_CHECKING:
    from fairway.pipeline.results import Result


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


@command(
    "audit scorer.py:score --text val.txt --tokenizer runs/demo",
    "audit scorer.py:score --tokens val.bin --minutes 10",
    to=audits,
    name="scorer",
    opens_files=True,
)
def audit_scorer(
    name: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="Tokens to nats.")],
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="The text to score.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="A .model, a .fwt, an artifact or a run.", callback=artifact_of
        ),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="SHARD", help="Tokens, instead of a text.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="More find rarer faults.")] = 2.0,
    read: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="The scorer may read this, too.")
    ] = None,
    memory: Annotated[
        int, typer.Option(parser=size, metavar="SIZE", help="Memory it may take, as in 8G.")
    ] = 16_000_000_000,
    gpu: Annotated[bool, typer.Option("--gpu", help="It may use the NVIDIA devices.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run it even where nothing keeps it from your files.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the audit's random choices.")] = 0,
) -> "Result":
    """Find out by experiment whether a scorer is valid. Runs foreign code."""
    from fairway.audit import report
    from fairway.audit.audit import Wanted
    from fairway.audit.audit import audit_scorer as audit

    wanted = Wanted(text, tokenizer, tokens, minutes, seed, read or [], memory, gpu, trust)
    found = audit(name, wanted)
    report.show(found)
    return found


@command("audit data --train train.txt --val val.txt", to=audits, name="data")
def audit_data(
    train: Annotated[list[Path], typer.Option(metavar="FILE", help="Training text, or shards.")],
    val: Annotated[list[Path], typer.Option(metavar="FILE", help="Validation text, or shards.")],
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The one that made the shards.")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Shared part that counts as a copy.")] = 0.2,
) -> "Result":
    """Find validation documents in training text."""
    from fairway.audit import report
    from fairway.audit.overlap import audit_data as audit

    found = audit(train, val, tokenizer, overlap)
    report.show(found)
    return found


@command(
    "audit run runs/mini-1 runs/mini-2",
    "audit run runs/demo --twin other.txt",
    to=audits,
    name="run",
)
def audit_run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of several seeds.")],
    steps: Annotated[int, typer.Option(min=0, help="Of training to replay; 0: all.")] = 20,
    twin: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text like the validation text.")
    ] = None,
) -> "Result":
    """Say where a run's artifact came from: hashes, replay, budgets, and a twin of its text."""
    from fairway.audit import report
    from fairway.audit.provenance import audit_run as audit

    found = audit(runs, steps, twin)
    report.show(found)
    return found
