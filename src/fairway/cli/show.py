"""Print results as tables; sentences and pages are printed where they are made."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairway.pipeline.command_results import CheckResult, RecipeResult
    from fairway.pipeline.inspect import Inspection
    from fairway.pipeline.size import SizeResult
    from fairway.report.report import Table


def tables(found: "Sequence[Table]") -> None:
    """Print tables of a report, each with its note."""
    from fairway import console

    for table in found:
        console.table(table.title, table.columns, table.rows)
        console.result_lines(table.note + "\n")


def findings(found: "CheckResult") -> None:
    """Print the rules of a submission and whether they hold."""
    from fairway import console

    rows = [[f"{f.rule}: {f.evidence}", f.verdict] for f in found.findings]
    console.table(f"Checks of {found.folder}", ["rule", "holds"], rows)
    if not found.failure:
        unknown = [f.rule for f in found.findings if f.verdict == "unknown"]
        but = f", but these are unknown: {', '.join(unknown)}" if unknown else ""
        console.result(f"{found.folder}: no rule is broken{but}")


def inspection(found: "Inspection") -> None:
    """Print the parts and tensors of an artifact."""
    from fairway import console
    from fairway.config import budget

    console.table("Parts", ["part", "bytes"], _counts(found.parts))
    console.table(
        "Tensors: bits per weight, largest code, smallest and largest step",
        ["tensor", "shape", "part", "bits", "max", "steps"],
        (
            [
                t.name, "×".join(map(str, t.shape)), t.part, f"{t.bits_per_weight:.2f}",
                t.largest_code, f"{t.smallest_step:.2g} to {t.largest_step:.2g}",
            ]
            for t in found.tensors
        ),
    )  # fmt: skip
    console.result(
        f"{found.artifact_bytes:,} bytes, {found.weights:,} weights, "
        f"{found.bits_per_weight:.2f} bits per coded weight, "
        f"n-gram memory {found.memory.ngram or 'off'}, "
        f"neural cache {found.memory.neural_cache or 'off'}; "
        f"sha256 {found.sha256}"
    )
    console.result(budget.sentence(found.artifact_bytes))


def recipe(found: "RecipeResult", opening: str) -> None:
    """Print what a recipe is, the comment that it opens with, and what it sets."""
    from fairway import console
    from fairway.config.toml import as_toml

    console.result(f"{found.name}: {found.description}")
    console.result(
        f"made for: {found.hardware or 'not said'}; at most {found.budget_bytes:,} bytes"
    )
    console.result_lines(f"\n{opening}\n" if opening else "")
    console.result("what differs from the defaults:")
    for key, (value, default) in found.changed.items():
        console.result(f"  {key} = {as_toml(value)}  (default {as_toml(default)})")


def _counts(counts: dict[str, int]) -> list[list[str]]:
    """Return names and numbers as cells of a table."""
    return [[name, f"{count:,}"] for name, count in counts.items()]


def sizes(found: "SizeResult", good_bits_per_weight: float) -> None:
    """Print the predicted bytes of an artifact, and the shapes near it."""
    from fairway import console
    from fairway.config import budget

    console.table(
        f"Parts, predicted for the quantizer {found.quantizer}",
        ["part", "bytes"],
        _counts(found.parts | {"total": found.artifact_bytes}),
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
    console.result(
        "bits: per weight of the matrices, when the artifact fills the budget; a shape fits with "
        f"{good_bits_per_weight} or more. FLOPs: per token of training, the recipe's "
        f"{found.flops_per_token:.3g} are 1"
    )
    console.result(found.advice)
    console.result(budget.sentence(found.artifact_bytes))
