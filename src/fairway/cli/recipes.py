"""Commands before a run: recipes and their configuration, sizes, models at hand, downloads."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fairway.cli import show
from fairway.cli.command import Budget, RecipeName, Sets, app, command, completed, given

if TYPE_CHECKING:
    from fairway.pipeline.results import Result

configs = typer.Typer(
    help="What a recipe resolves to.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(configs, name="config")


@command("recipes", "recipes mini")
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of them.", autocompletion=completed)
    ] = None,
) -> "Result":
    """List the recipes that ship with Fairway, or what one is and sets."""
    from fairway import console
    from fairway.config import toml
    from fairway.pipeline.command_results import RecipeResult, RecipesResult

    found = [toml.load(name) for name in ([name] if name else toml.shipped())]
    if not name:
        rows = [[r.name, r.hardware, f"{r.pack.budget_bytes:,}", r.description] for r in found]
        console.table("Recipes", ["name", "made for", "most bytes", "what it is"], rows)
        console.result("one of them: fairway recipes NAME; all its keys: fairway config show NAME")
        return RecipesResult(recipes={recipe.name: recipe.description for recipe in found})
    (recipe,), opening = found, toml.opening(name) if name in toml.shipped() else ""
    result = RecipeResult(
        name=recipe.name,
        description=recipe.description,
        hardware=recipe.hardware,
        budget_bytes=recipe.pack.budget_bytes,
        changed=toml.changed(recipe),
    )
    show.recipe(result, opening)
    return result


@command("config show mini", "config show mini --set model.dim=256", to=configs, name="show")
def config_show(recipe: RecipeName, sets: Sets = None) -> "Result":
    """Print a recipe with all its keys, as TOML on stdout; what is no default is marked."""
    from fairway.config import toml
    from fairway.pipeline.command_results import ConfigResult

    return ConfigResult(recipe=toml.load(recipe, sets or []))


@command("models", "models experiments")
def models(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where run directories lie.")
    ] = Path("runs"),
) -> "Result":
    """List the artifacts at hand: of FAIRWAY_MODEL, and of the run directories in a folder."""
    from fairway import console
    from fairway.pipeline import verdicts
    from fairway.pipeline.command_results import ModelAtHand, ModelsResult
    from fairway.pipeline.directory import RunDirectory

    runs = [RunDirectory(place.parent) for place in sorted(folder.glob("*/model.fairway"))]
    found = [
        ModelAtHand(
            path=str(run.artifact),
            size_bytes=run.artifact.stat().st_size,
            verified_bpb=known.bpb if (known := verdicts.known(run)) else None,
        )
        for run in runs
    ]
    if (named := os.environ.get("FAIRWAY_MODEL")) and Path(named).is_file():
        size_bytes = Path(named).stat().st_size
        found.insert(0, ModelAtHand(path=named, size_bytes=size_bytes, verified_bpb=None))
    console.table(
        "Models",
        ["artifact", "bytes", "bits per byte, verified here"],
        (
            [m.path, f"{m.size_bytes:,}", f"{m.verified_bpb:.4f}" if m.verified_bpb else "-"]
            for m in found
        ),
    )
    if not found:
        console.result(f"no artifact in {folder}: fairway demo makes one")
    return ModelsResult(models=found)


@command("size mini --budget 1MB", "size mini --budget 500k --set model.dim=192")
def size(
    recipe: RecipeName,
    budget: Budget = None,
    sets: Sets = None,
) -> "Result":
    """Predict the artifact's bytes before training, and which shapes fit the byte budget."""
    from fairway.config.toml import load
    from fairway.pipeline.size import predict
    from fairway.quantize.size import GOOD_BITS_PER_WEIGHT

    found = predict(load(recipe, [*(sets or []), *given("pack.budget_bytes", budget)]))
    show.sizes(found, GOOD_BITS_PER_WEIGHT)
    return found


@command("download fineweb --shards 2", "download fineweb-raw --out texts")
def download(
    name: Annotated[
        Literal["fineweb", "fineweb-raw"],
        typer.Argument(metavar="fineweb|fineweb-raw", help="The data set."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data"),
    variant: Annotated[str, typer.Option(help="Of fineweb: sp1024, sp8192.")] = "sp1024",
    shards: Annotated[
        int, typer.Option(min=0, help="For training: files, of fineweb 100 M tokens each.")
    ] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Of fineweb-raw.")] = 2,
) -> "Result":
    """Fetch FineWeb from the Hub: token shards of the challenge, or documents."""
    from fairway import console
    from fairway.data import fineweb
    from fairway.pipeline.command_results import FetchResult

    if name == "fineweb":
        path, tokenizer = fineweb.shards(variant, out, shards)
        files = sorted(path.glob("*.bin"))
        source = f"--set data.source=shards --set data.path={path} --set data.tokenizer={tokenizer}"
    else:
        path, tokenizer = fineweb.documents(out, shards, processes), None
        files = sorted(path.glob("*.jsonl.zst"))
        source = f"--set data.source=files --set data.path={path}"
    console.result(f"{len(files)} files in {path}; for a recipe: {source}")
    return FetchResult(
        path=str(path),
        tokenizer=str(tokenizer or ""),
        shards=len(files),
        size_bytes=sum(file.stat().st_size for file in files),
    )
