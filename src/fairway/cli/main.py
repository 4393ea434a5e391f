"""The command line: one module per group of commands.

Human output goes to stderr; with `--json` a command prints its typed result as one line on stdout.
Exit codes: 0 done and good; 1 done and the verdict is no; 2 bad input; 3 a fault of ours; 130
stopped by Ctrl-C.
"""

# ruff: noqa: E402  -- nothing else is imported before the current folder is out of the way
from fairway import startup

startup.protect()

import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from fairway import __version__
from fairway.cli import ending
from fairway.cli.command import app

# In the order of --help.
for group in ("stages", "files", "pages", "recipes", "experiments", "audits"):
    import_module(f"fairway.cli.{group}")


def _say_version(asked: bool) -> None:
    if asked:
        print(f"fairway {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


# What typer raises for any mistake in options and arguments; it exports only this kind of it.
_Usage: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Give the command in sys.argv, and end with its exit code."""
    ending.hold_streams()
    code = ending.exit_code(_given_command)
    ending.leave_ranks()
    ending.let_go()
    sys.exit(code)


def _given_command() -> int:
    """Do what sys.argv says; return the exit code. Raises whatever a command raises."""
    try:
        code = app(prog_name="fairway", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as left:
        if left.code:  # what typer makes of a broken pipe under --help
            raise BrokenPipeError from None
        code = 0  # and of the completion of a shell
    except _Usage as error:
        from fairway import console

        context, message = getattr(error, "ctx", None), error.format_message()
        if context and message == context.get_help():  # nothing was given
            console.result_lines(message)
            return 2
        if context:
            console.result_lines(f"{context.get_usage()}\nTry '{context.command_path} --help'.")
        console.error(message)
        return 2
    if sys.stdout is not None:
        with ending.standard_output():
            pass  # what --help printed has to get out, too
    return int(code or 0)
