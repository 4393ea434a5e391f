"""How a function becomes a command: its options, its examples, its JSON, its exit code.

Whatever is heavy is imported inside a command, so that `--help` answers at once.
"""

import functools
import json
import os
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from fairway.errors import BadInput, Interrupted

if TYPE_CHECKING:
    from fairway.config.schema import Recipe
    from fairway.pipeline.directory import RunDirectory
    from fairway.pipeline.results import Result

_MaybePath = TypeVar("_MaybePath", Path, None)

app = typer.Typer(
    help="Train a language model under a byte budget; prove its score with a file that decodes.",
    epilog="Begin with: fairway demo. Commands: docs/commands.md. Recipes: docs/recipes.md.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def size(text: object) -> int:
    """Return the bytes of a size on the command line."""
    from fairway.config import sizes

    try:
        return sizes.parse(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def artifact_of(path: _MaybePath) -> _MaybePath:
    """Return the artifact of a run directory; any other path as it is. Raises BadInput."""
    if path is None:
        return path
    if not os.path.lexists(path):
        raise BadInput(
            f"cannot read {path}: there is no such file; fairway models lists the artifacts at "
            "hand, and fairway demo makes one"
        )
    from fairway.pipeline.directory import artifact_file

    return artifact_file(path)


def completed(begun: str) -> list[str]:
    """Return the shipped recipes whose names begin so, for the completion of a shell."""
    from fairway.config.toml import shipped

    return [name for name in shipped() if name.startswith(begun)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A shipped name or a TOML file.", autocompletion=completed
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
ArtifactFile = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="An artifact or a run directory.", callback=artifact_of),
]
Arithmetic = Annotated[
    Literal["exact", "float"] | None,
    typer.Option(help="exact: every machine decodes it; float: this kind only."),
]
Method = Annotated[
    str | None,
    typer.Option("--adapt", help="Score first, then learn, by this method of docs/adapt.md."),
]
Out = Annotated[Path | None, typer.Option(help="Run directory; default runs/<recipe name>.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")
]
Text = Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of the validation text.")]
Budget = Annotated[
    int | None, typer.Option(parser=size, metavar="SIZE", help="The byte budget, as in 16MB.")
]

_MAX_MEMORY = Parameter(
    "max_memory",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        int | None,
        typer.Option(parser=size, metavar="SIZE", help="Memory a file may ask for, as in 8G."),
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
    *examples: str,
    to: typer.Typer = app,
    name: str | None = None,
    text: str | None = None,
    fixed: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    opens_files: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command, with the options of every command and the exit codes.

    The function returns what `--json` prints: a Result, results by name, or None. A result with a
    failure ends in exit code 1; ending.py has the rule for exceptions. examples: for `--help`,
    without the first word. text: the help, instead of the docstring. fixed: arguments that are no
    options of this command. opens_files: the command opens files that others may have made, and
    takes limits for them.
    """
    fixed = fixed or {}

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(
            as_json: bool,
            quiet: bool,
            verbose: bool,
            max_memory: int | None = None,
            max_tokens: int = 0,
            **arguments: Any,
        ) -> int:
            from fairway import console
            from fairway.io import limits

            console.choose_level(verbose - quiet)
            limits.raise_to(max_memory or 0, max_tokens)
            try:
                return _give(function, as_json, verbose, arguments | fixed)
            finally:
                console.choose_level(0)  # of what this process does without a command

        extra = [
            _flag("as_json", "Print the result as one line of JSON on stdout.", "--json"),
            _flag("quiet", "Print results and errors only.", "-q", "--quiet"),
            _flag("verbose", "Print more: times, reasons, tracebacks.", "-v", "--verbose"),
            *[_MAX_MEMORY, _MAX_TOKENS] * opens_files,
        ]
        own = [p for p in signature(function).parameters.values() if p.name not in fixed]
        parameters = [*own, *extra]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        lines = "\n".join(f"  fairway {example}" for example in examples)
        epilog = f"\b\nExamples:\n{lines}"
        to.command(name, help=text, epilog=epilog, context_settings=settings)(run)
        return function

    return register


def _flag(name: str, text: str, *flags: str) -> Parameter:
    kind = Annotated[bool, typer.Option(*flags, help=text)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)


def _give(
    function: Callable[..., Any], as_json: bool, verbose: bool, arguments: dict[str, Any]
) -> int:
    """Call a command's function and return the exit code."""
    from fairway.cli import ending

    try:
        if as_json:
            with ending.standard_output():
                pass
        return _finish(function(**arguments), as_json)
    except KeyboardInterrupt:  # typer would take these two for itself
        raise Interrupted from None
    except BrokenPipeError as error:
        raise BadInput(ending.closed_by_reader(error)) from None
    except Exception as error:
        if verbose:
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


def refuse_surrogates(option: str, words: str) -> None:
    """Raise BadInput where words of the command line are no UTF-8.

    Python makes surrogates of such bytes.
    """
    try:
        words.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{option} {words}: it is no UTF-8; write it in UTF-8") from None
