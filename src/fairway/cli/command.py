"""How a function becomes a command: its options, its JSON, its exit code.

Whatever is heavy is imported inside a command, so that `--help` answers at once.
"""

import functools
import json
import os
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairway.errors import BadInput, Interrupted

if TYPE_CHECKING:
    from fairway.config.schema import Recipe
    from fairway.pipeline.directory import RunDirectory
    from fairway.pipeline.results import Result

app = typer.Typer(
    help="Train a language model under a byte budget; prove its score with a file that decodes.",
    epilog="Exit codes: docs/commands.md. Keys of recipes: docs/recipes.md.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name or a TOML file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
ArtifactFile = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A model.fairway file.")]
Arithmetic = Annotated[
    str | None, typer.Option(help="exact (every machine decodes it) or float (this kind only).")
]
Method = Annotated[
    str | None, typer.Option("--adapt", help="Score first, then learn: none, sgd, dynamic, lora.")
]
Out = Annotated[Path | None, typer.Option(help="Run directory; default runs/<recipe name>.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")
]
Text = Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of the validation text.")]

_MAX_MEMORY = Parameter(
    "max_memory",
    Parameter.KEYWORD_ONLY,
    default="",
    annotation=Annotated[
        str, typer.Option(metavar="SIZE", help="Memory that a file may ask for, as in 8G.")
    ],
)
_MAX_TOKENS = Parameter(
    "max_tokens",
    Parameter.KEYWORD_ONLY,
    default=0,
    annotation=Annotated[
        int, typer.Option(min=0, help="Tokens that a file may ask for; 0: by its size.")
    ],
)


def command(
    *,
    to: typer.Typer = app,
    name: str | None = None,
    settings: dict[str, Any] | None = None,
    opens_files: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., int]]:
    """Register a function as a command, with `--json`, `--debug` and the exit codes.

    The function returns what `--json` prints: a Result, results by name, or None. A result with a
    failure ends in exit code 1; ending.py has the rule for exceptions. opens_files: the command
    opens files that others may have made, and takes limits for them.
    """

    def register(function: Callable[..., Any]) -> Callable[..., int]:
        @functools.wraps(function)
        def run(
            as_json: bool, debug: bool, max_memory: str = "", max_tokens: int = 0, **arguments: Any
        ) -> int:
            return _give(function, as_json, debug, (max_memory, max_tokens), arguments)

        extra = [
            _flag("as_json", "--json", "Print the result as one line of JSON on stdout."),
            _flag("debug", "--debug", "Show the traceback of an error."),
            *[_MAX_MEMORY, _MAX_TOKENS] * opens_files,
        ]
        parameters = [*signature(function).parameters.values(), *extra]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        to.command(name, context_settings=settings)(run)
        return run

    return register


def _flag(name: str, flag: str, text: str) -> Parameter:
    kind = Annotated[bool, typer.Option(flag, help=text)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)


def _give(
    function: Callable[..., Any],
    as_json: bool,
    debug: bool,
    most: tuple[str, int],
    arguments: dict[str, Any],
) -> int:
    """Call a command's function and return the exit code. most: memory and tokens of a file."""
    from fairway.cli import ending
    from fairway.io import limits

    try:
        limits.raise_to(*most)
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


def _finish(returned: "Result | dict[str, Result] | None", as_json: bool) -> int:
    """Print the JSON line; return the exit code, which is 1 if a verdict is no."""
    from fairway import console
    from fairway.cli import ending

    if returned is None or not is_main_rank():
        return 0
    results = returned if isinstance(returned, dict) else {"": returned}
    with ending.standard_output():
        if as_json:
            trees = {name: result.tree() for name, result in results.items()}
            tree = trees if isinstance(returned, dict) else trees[""]
            print(json.dumps(tree, allow_nan=False))
        else:
            print("".join(result.document for result in results.values()), end="")
    failures = [result.failure for result in results.values() if result.failure]
    for failure in failures:
        console.error(failure)
    return 1 if failures else 0


def is_main_rank() -> bool:
    """Return whether this process prints: under torchrun, rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def load(recipe: str, out: Path | None, sets: list[str] | None) -> "tuple[Recipe, RunDirectory]":
    """Return the recipe with its overrides, and the run directory that it goes to."""
    from fairway.config.toml import load
    from fairway.pipeline.directory import RunDirectory

    loaded = load(recipe, sets or [])
    return loaded, RunDirectory(out or Path("runs") / loaded.name)


def given(key: str, value: object) -> list[str]:
    """Return an option of a command as `--set` writes it; nothing for None."""
    return [] if value is None else [f"{key}={value}"]


def arithmetic_of(chosen: str | None) -> Any:
    """Return the arithmetic of a command without a recipe. Raises BadInput."""
    if chosen not in (None, "exact", "float"):
        raise BadInput(f"--arithmetic {chosen}: choose exact or float")
    return chosen or "exact"


def refuse_surrogates(option: str, words: str) -> None:
    """Raise BadInput where words of the command line are no UTF-8.

    Python makes surrogates of such bytes.
    """
    try:
        words.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{option} {words}: it is no UTF-8; write it in UTF-8") from None
