"""Runs of one recipe with several seeds."""

from __future__ import annotations

from collections.abc import Sequence

from fairway.errors import BadInput
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import TrainResult


def distinct_seeds(runs: Sequence[RunDirectory]) -> list[int]:
    """Return the seed of each trained run. Raises BadInput unless the runs differ in it alone."""
    seeds = [run.require(TrainResult).seed for run in runs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            twice = ", ".join(str(r.path) for r, s in zip(runs, seeds, strict=True) if s == seed)
            raise BadInput(f"{twice} have one seed ({seed}): each seed belongs in once")
    first, *others = [_flat(run.load().model_dump()) for run in runs]
    for run, tree in zip(runs[1:], others, strict=True):
        for key in sorted(tree.keys() - {"train.seed", "name", "description"}):
            if tree[key] != first[key]:
                raise BadInput(
                    f"{runs[0].path} and {run.path} differ in {key} ({first[key]} and {tree[key]}):"
                    " runs of one recipe may differ only in the seed"
                )
    return seeds


def _flat(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        name = prefix + key
        flat |= _flat(value, name + ".") if isinstance(value, dict) else {name: value}
    return flat
