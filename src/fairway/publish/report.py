"""The report: sentences, tables and one self-contained HTML page, from typed results only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from math import sqrt
from pathlib import Path
from string import Template
from typing import TypeVar

from fairway import budget, console, foreign
from fairway.course import Run, sha256_file, stamp_changes, write_atomic
from fairway.errors import BadInput
from fairway.publish import compressors, pictures
from fairway.results import (
    VERBS,
    CompareResult,
    DataResult,
    PackResult,
    ProveResult,
    Result,
    ScoreResult,
    TrainResult,
    VerifyResult,
)

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Table:
    """Cells are text, ready to print; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str


def sentence(result: Result) -> str:
    """One line about a verb's result."""
    match result:
        case DataResult() as r:
            return (
                f"{r.train_bytes:,} bytes to train on, {r.val_bytes:,} to score, "
                f"{r.vocab_size} tokens in the vocabulary"
            )
        case TrainResult() as r:
            return (
                f"{r.parameters:,} parameters, {r.steps} steps in {r.train_s:.0f} s "
                f"({r.tokens_per_s:,.0f} tokens/s), {r.val_bpb:.4f} bits per byte"
            )
        case PackResult() as r:
            return (
                f"{r.artifact_bytes:,} of {r.budget_bytes:,} bytes, "
                f"{r.bits_per_weight:.2f} bits per weight, {r.val_bpb_after:.4f} bits per byte"
            )
        case ScoreResult() as r:
            return f"{r.bpb:.4f} bits per byte ({r.protocol}, {r.seconds:.0f} s)"
        case ProveResult() as r:
            return (
                f"{sum(r.files.values()):,} bytes for {r.text_bytes:,} bytes of text, "
                f"{r.bpb:.4f} bits per byte ({r.encode_s:.0f} s)"
            )
        case VerifyResult() as r:
            decoded = f"{r.decoded_bytes:,} bytes decoded in {r.decode_s:.0f} s"
            return f"verified, {decoded}" if r.verified else f"NOT verified: {r.reason}"
    raise TypeError(f"no sentence for {type(result).__name__}")


class Results:
    """The results that a run folder holds, each None when there is none."""

    def __init__(self, run: Run) -> None:
        def read(kind: type[R]) -> R | None:
            verb = next(name for name, result in VERBS.items() if result is kind)
            found = run.result(verb)
            return found if isinstance(found, kind) else None

        self.data = read(DataResult)
        self.train = read(TrainResult)
        self.pack = read(PackResult)
        self.score = read(ScoreResult)
        self.prove = read(ProveResult)
        self.verify = read(VerifyResult)


def require_current(run: Run, verbs: Iterable[str]) -> None:
    """Raises BadInput unless these verbs are finished with this recipe, artifact and proof."""
    recipe = run.load()
    for verb in verbs:
        result, wrong = run.need(verb), []
        if verb != "data":  # whose stamp needs the documents
            wrong = stamp_changes(result.stamp, run.stamp(verb, recipe))
        hashes = {run.artifact.name: getattr(result, "artifact_sha256", None)}
        hashes |= getattr(result, "files_sha256", {})
        for file in (run.artifact, run.proof_file):
            sha256 = hashes.get(file.name)
            if sha256 and not (file.is_file() and sha256_file(file) == sha256):
                wrong.append(file.name)
        if wrong:
            raise BadInput(
                f"{verb}.json in {run.path} was made with other {', '.join(wrong)}: "
                f"fairway play {run.recipe} --out {run.path} brings it up to date"
            )


def tables(run: Run) -> list[Table]:
    """All tables that the results in the run folder allow."""
    found = Results(run)
    made = [_course_table(found)]
    if found.pack:
        made.append(_parts_table(found.pack, found.prove))
    if found.prove and found.pack and (sizes := compressors.sizes_of_run(run)):
        made.append(_compressors_table(found.prove, found.pack, sizes))
    return made


def seeds_table(runs: Sequence[Run]) -> Table:
    """Bits per byte of runs that differ in the seed, their mean and its 95 % interval."""
    from fairway.publish import significance

    found = [Results(run) for run in runs]
    rows, means, intervals = [], [], []
    for label, key in (("scored", "score"), ("proved", "prove")):
        values = [r.bpb for r in (getattr(results, key) for results in found) if r]
        if len(values) < len(runs):
            continue
        estimate = significance.paired(values)
        rows.append((label, [_bpb(value) for value in values]))
        means.append(f"{estimate.mean:.4f} ± {_sd(estimate.standard_error, len(values)):.4f}")
        intervals.append(f"{estimate.low:.4f} to {estimate.high:.4f}")
    body = [[run.path.name, *(cells[i] for _, cells in rows)] for i, run in enumerate(runs)]
    body += [["mean ± sd", *means], ["95 % interval", *intervals]]
    note = "sd: of one run; the interval is of the mean over seeds, by Student's t."
    return Table("Bits per byte over seeds", ["run", *(label for label, _ in rows)], body, note)


def _sd(standard_error: float, count: int) -> float:
    return standard_error * sqrt(count)


def _course_table(found: Results) -> Table:
    rows = []
    if found.data:
        rows.append(["data", "", f"{found.data.val_bytes:,}", f"{found.data.data_s:.0f}"])
    if found.train:
        rows.append(["after training", _bpb(found.train.val_bpb), "", f"{found.train.train_s:.0f}"])
    if found.pack:
        size = f"{found.pack.artifact_bytes:,}"
        rows.append(
            ["after packing", _bpb(found.pack.val_bpb_after), size, f"{found.pack.pack_s:.0f}"]
        )
    if found.score:
        name = f"scored ({found.score.protocol})"
        rows.append([name, _bpb(found.score.bpb), "", f"{found.score.seconds:.0f}"])
    if found.prove:
        size = f"{sum(found.prove.files.values()):,}"
        rows.append(["proved", _bpb(found.prove.bpb), size, f"{found.prove.encode_s:.0f}"])
    if found.verify:
        verdict = "verified" if found.verify.verified else "NOT VERIFIED"
        size = f"{found.verify.decoded_bytes:,}"
        rows.append(["decoded", verdict, size, f"{found.verify.decode_s:.0f}"])
    note = (
        "Bytes: of the validation text, the artifact, the proof, and the decoded text. After "
        "training and packing the text is scored in separate windows, so those two are higher "
        "than the scores with full context."
    )
    if found.score and found.prove:
        gap = found.prove.bpb - found.score.bpb
        note += f" The proof, its header included, is {gap:+.4f} from the score; the proof counts."
    return Table("The course", ["stage", "bits per byte", "bytes", "seconds"], rows, note)


def _parts_table(pack: PackResult, prove: ProveResult | None) -> Table:
    rows = [[name, f"{size:,}"] for name, size in pack.parts.items()]
    rows.append(["total", f"{pack.artifact_bytes:,}"])
    note = (
        f"Budget: {pack.budget_bytes:,} bytes. The parts sum to the file's size; "
        f"{budget.sentence(pack.artifact_bytes)}."
    )
    if prove:
        note += f" A decoder of the text opens {budget.opened_bytes(pack, prove):,} bytes."
    return Table("Bytes of the artifact", ["part", "bytes"], rows, note)


def _compressors_table(prove: ProveResult, pack: PackResult, sizes: dict[str, int]) -> Table:
    ours = sum(prove.files.values())
    opened = budget.opened_bytes(pack, prove)
    rows = [["Fairway, proved", f"{ours:,}", _bpb(prove.bpb), f"{opened:,}"]]
    for name, size in sizes.items():
        rows.append([name, f"{size:,}", _bpb(8 * size / prove.text_bytes), f"{size:,}"])
    return Table(
        "The same text under general-purpose compressors",
        ["compressor", "bytes", "bits per byte", "with the artifact"],
        rows,
        "The compressors' files include no model and need none. Fairway's file is decoded with the "
        "artifact; the last column adds its bytes.",
    )


def _bpb(value: float) -> str:
    return f"{value:.4f}"


def write(run: Run) -> Path:
    """Write the run's report.html and return its path. Raises BadInput for an empty run."""
    found = Results(run)
    if found.train is None:
        raise BadInput(f"{run.path} has no finished 'train' yet: there is nothing to report on")
    details = _details("Recipe", run.recipe) + _details("Machine and versions", run.env)
    page = _page(run.path.name, _headline(found), _pictures(run, found), tables(run), details)
    write_atomic(run.report, _bytes(page))
    return run.report


def _page(
    title: str,
    headline: str,
    figures: Sequence[tuple[str, str]],
    shown: Sequence[Table],
    details: str = "",
) -> str:
    return _PAGE.substitute(
        title=escape(console.printable(title)),
        headline=escape(headline),
        figures="\n".join(_figure(*picture) for picture in figures),
        tables="\n".join(_table(table) for table in shown),
        details=details,
    )


def write_many(runs: Sequence[Run], file: Path) -> None:
    """One self-contained page about several runs. Raises BadInput where one is not trained."""
    for run in runs:
        run.need("train")
    points = {run.path.name: [r.prove.bpb] for run in runs if (r := Results(run)).prove}
    figures = [("Bits per byte, proved", pictures.spread(points, "bits per byte"))]
    figures += [
        (f"Training of {run.path.name}", pictures.training(lines))
        for run in runs
        if (lines := console.read_metrics(run.metrics))
    ]
    headlines = [f"{run.path.name}: {_headline(Results(run))}" for run in runs]
    shown = [seeds_table(runs)] if len(points) > 1 else []
    for run in runs:
        shown += [replace(table, title=f"{run.path.name}: {table.title}") for table in tables(run)]
    details = "".join(_details(f"Recipe of {run.path.name}", run.recipe) for run in runs)
    page = _page(
        f"{len(runs)} runs",
        ". ".join(headlines),
        figures if points else figures[1:],
        shown,
        details,
    )
    write_atomic(file, _bytes(page))


def write_comparison(found: CompareResult, shown: Sequence[Table], file: Path) -> None:
    """One self-contained page about a comparison. Raises OSError."""
    sides = (found.runs, found.against)
    points = {side.names[0] + ("…" if side.names[1:] else ""): side.bpb for side in sides}
    picture = ("Every run, and the mean of its side", pictures.spread(points, "bits per byte"))
    gain = found.gains[0]
    best = gain.paired or gain.welch or gain.documents
    headline = "One run a side says nothing about seeds"
    if best:
        headline = f"{best.mean:+.5f} bits per byte better, p = {best.p:.2g}"
    write_atomic(file, _bytes(_page("Comparison", headline, [picture], shown)))


def _bytes(page: str) -> bytes:
    """The page as UTF-8, with escapes for what is none: names of files need not be."""
    return page.encode("utf-8", "backslashreplace")


def _headline(found: Results) -> str:
    if found.prove is None:
        return "Not proved yet: fairway prove"
    bpb = f"{found.prove.bpb:.4f} bits per byte"
    if found.verify is None:
        return f"{bpb}, not verified yet: fairway verify"
    if not found.verify.verified:
        return f"NOT VERIFIED: {found.verify.reason}"
    return f"{bpb}, proved: a separate process decoded all {found.verify.decoded_bytes:,} bytes"


def _pictures(run: Run, found: Results) -> list[tuple[str, str]]:
    """(caption, SVG) of every picture that the results allow."""
    made = []
    lines = console.read_metrics(run.metrics)
    if lines:
        made.append(("Training loss and learning rate", pictures.training(lines)))
    stages = {
        "after training": found.train and found.train.val_bpb,
        "after packing": found.pack and found.pack.val_bpb_after,
        "scored": found.score and found.score.bpb,
        "proved": found.prove and found.prove.bpb,
    }
    known = {name: value for name, value in stages.items() if value}
    made.append(
        ("Bits per byte through the stages", pictures.bars(known, "bits per byte", "{:.4f}"))
    )
    if found.pack:
        parts = {name: float(size) for name, size in found.pack.parts.items()}
        made.append(("Bytes of the artifact", pictures.bars(parts, "bytes", "{:,.0f}")))
    if found.prove and (sizes := compressors.sizes_of_run(run)):
        rivals = {"Fairway, proved": found.prove.bpb}
        rivals |= {name: 8 * size / found.prove.text_bytes for name, size in sizes.items()}
        caption = "Bits per byte on the same text (no model counted)"
        made.append((caption, pictures.bars(rivals, "bits per byte", "{:.3f}")))
    return made


def _figure(caption: str, svg: str) -> str:
    label = escape(caption)
    return f'<figure role="img" aria-label="{label}"><figcaption>{label}</figcaption>{svg}</figure>'


def _table(table: Table) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return (
        f"<section><h2>{escape(table.title)}</h2><div class='wide'><table><thead>"
        f"{row(table.columns, 'th')}</thead><tbody>{body}</tbody></table></div>"
        f"<p class='note'>{escape(table.note)}</p></section>"
    )


def _details(title: str, path: Path) -> str:
    try:
        text = escape(foreign.read_text(path, "the file"))
    except foreign.Missing:
        return ""
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fairway: $title</title>
<style>
:root { color-scheme: light dark; --ink: #1d2733; --paper: #fff; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde4ec; --paper: #14191f; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; }
h2, figcaption { font-size: 1rem; font-weight: 600; }
.headline { font-size: 1.1rem; }
.figures { display: grid; gap: 1.5rem;
           grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
figure { margin: 0; } figure svg { width: 100%; height: auto; max-width: 30rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
         white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.note { font-size: .9rem; opacity: .8; max-width: 44rem; }
pre { overflow-x: auto; font-size: .85rem; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="headline">$headline</p>
<div class="figures">
$figures
</div>
$tables
$details
</body>
</html>
""")
