"""Write the report: tables and one self-contained HTML page, from typed results only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import sqrt
from pathlib import Path
from string import Template

from fairway import console
from fairway.config import budget
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import write_atomic
from fairway.page.proof import has_current
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.evidence import CLAIMED, Proof, Results
from fairway.pipeline.results import (
    CompareResult,
    PackResult,
    TrainResult,
    VerifyResult,
)
from fairway.report import compressors, pictures
from fairway.significance import paired


@dataclass(frozen=True)
class Table:
    """Cells are text, ready to print; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str


def tables(found: Results) -> list[Table]:
    """Return all tables that the results of a run directory allow."""
    made = [_stages_table(found)]
    if found.parts:
        made.append(_parts_table(found.parts, found.pack))
    if (proof := found.proof) and (sizes := compressors.sizes_of_run(found.run, proof.text_sha256)):
        made.append(_compressors_table(proof, found.evidence, sizes))
    return made


def verdict_lines(verdict: VerifyResult) -> list[str]:
    """Return what the two files hold, as decoded: one fact a line. Empty: nothing was decoded."""
    d = verdict.decoded
    if d is None:
        return []
    rule = {"bytes": "the text's own", "challenge": "those after the challenge's normalization"}
    facts = {
        "bits per byte": f"{d.bpb:.6f} (8 × {d.proof_bytes:,} / {d.text_bytes:,})",
        "nats per token": f"{d.nats_per_token:.6f}, over {d.tokens:,} tokens",
        "text": f"{d.text_bytes:,} bytes, {d.documents:,} documents, SHA-256 {d.text_sha256}",
        "bytes that count": f'{rule[d.text_rule]} (rule "{d.text_rule}")',
        "compared with": verdict.compared_with or "no text; --text FILE compares one",
        "proof": f"{d.proof_bytes:,} bytes, SHA-256 {d.proof_sha256}",
        "artifact": f"{d.artifact_bytes:,} bytes, SHA-256 {d.artifact_sha256}",
        "arithmetic": f"{d.arithmetic}, grade {d.grade}",
        "learning": f"{d.adaptation}, order {d.order}, {d.lanes} lanes",
    }
    width = max(map(len, facts))
    return [f"{name:<{width}}  {value}" for name, value in facts.items()]


def seeds_table(runs: Sequence[RunDirectory]) -> Table:
    """Bits per byte of runs that differ in the seed, their mean and its 95 % interval."""
    found = [Results(run) for run in runs]
    columns = {
        f"scored ({CLAIMED})": [r.score.bpb if r.score else None for r in found],
        "proved": [r.proved_bpb for r in found],
    }
    whole: dict[str, list[float]] = {}
    for label, values in columns.items():
        known = [value for value in values if value is not None]
        if len(known) == len(runs):
            whole[label] = known
    estimates = [paired(values) for values in whole.values()]
    body = [
        [run.path.name, *(_bpb(values[i]) for values in whole.values()), found[i].evidence]
        for i, run in enumerate(runs)
    ]
    deviations = [_sd(e.standard_error, len(runs)) for e in estimates]
    means = [f"{e.mean:.4f} ± {sd:.4f}" for e, sd in zip(estimates, deviations, strict=True)]
    intervals = [f"{e.low:.4f} to {e.high:.4f}" for e in estimates]
    evidence = "verified" if all(r.evidence == "verified" for r in found) else CLAIMED
    body += [["mean ± sd", *means, evidence], ["95 % interval", *intervals, evidence]]
    note = (
        "sd: of one run; the interval is of the mean over seeds, by Student's t. The last column "
        "says how the bits per byte of the proof are known."
    )
    return Table("Bits per byte over seeds", ["run", *whole, "evidence"], body, note)


def _sd(standard_error: float, count: int) -> float:
    return standard_error * sqrt(count)


def _stages_table(found: Results) -> Table:
    rows = []
    if r := found.prepare:
        rows.append(["prepare", "", f"{r.val_bytes:,}", f"{r.prepare_s:.0f}", CLAIMED])
    if t := found.train:
        rows.append(["after training", _bpb(t.val_bpb), "", f"{t.train_s:.0f}", CLAIMED])
    if p := found.pack:
        bpb, size = _bpb(p.val_bpb_after), f"{p.artifact_bytes:,}"
        rows.append(["after packing", bpb, size, f"{p.pack_s:.0f}", CLAIMED])
    if f := found.frozen:
        rows.append([f"packed ({f.protocol})", _bpb(f.bpb), "", f"{f.seconds:.0f}", CLAIMED])
    if s := found.score:
        learned = "" if s.adaptation == "none" else f", learning by {s.adaptation}"
        name = f"scored ({s.protocol}{learned})"
        rows.append([name, _bpb(s.bpb), "", f"{s.seconds:.0f}", CLAIMED])
    if v := found.prove:
        size = f"{sum(v.files.values()):,}"
        rows.append(["proved", _bpb(v.bpb), size, f"{v.encode_s:.0f}", CLAIMED])
    rows += [[name, "", "", "", "stale"] for name in found.stale]
    if (verdict := found.verdict) and verdict.decoded:
        size = f"{verdict.decoded.text_bytes:,}"
        rows.append(["decoded", _bpb(verdict.bpb), size, "", found.evidence])
    note = (
        "Bytes: of the validation text, the artifact, the proof, and the decoded text. "
        f'"{CLAIMED}": read from a result file of the run directory, and not recomputed. '
        '"verified": the proof was decoded on this machine, and the bits per byte are computed '
        "from the two files. After training and packing the text is scored in separate windows, "
        "so those two are higher than the scores with full context."
    )
    for name, why in found.stale.items():
        note += f" Stale: {name}.json was {why}."
    if verdict and not verdict.verified:
        note += f" NOT VERIFIED: {verdict.reason}."
    columns = ["stage", "bits per byte", "bytes", "seconds", "evidence"]
    return Table("The pipeline", columns, rows, note)


def _parts_table(parts: dict[str, int], pack: PackResult | None) -> Table:
    rows = [[name, f"{size:,}"] for name, size in parts.items()]
    size = sum(parts.values())
    rows.append(["total", f"{size:,}"])
    limit = f" Budget ({CLAIMED}): {pack.budget_bytes:,} bytes." if pack else ""
    note = (
        "Read from the artifact as it lies there; the parts sum to the file's size."
        f"{limit} {budget.sentence(size).capitalize()}."
    )
    return Table("Bytes of the artifact", ["part", "bytes"], rows, note)


def _compressors_table(proof: Proof, evidence: str, sizes: dict[str, int]) -> Table:
    def row(name: str, size: int, opened: int) -> list[str]:
        return [name, f"{size:,}", _bpb(8 * size / proof.text_bytes), f"{opened:,}"]

    opened = proof.artifact_bytes + proof.proof_bytes
    rows = [row(f"Fairway ({evidence})", proof.proof_bytes, opened)]
    rows += [row(name, size, size) for name, size in sizes.items()]
    how = "" if evidence == "verified" else f" (bytes of the text: {evidence})"
    return Table(
        f"The same text under general-purpose compressors{how}",
        ["compressor", "bytes", "bits per byte", "with the artifact"],
        rows,
        "The compressors' files include no model and need none. Fairway's file is decoded with the "
        "artifact; the last column adds its bytes.",
    )


def _bpb(value: float) -> str:
    return f"{value:.4f}"


def write(run: RunDirectory) -> Path:
    """Write the run's report.html and return its path. Raises BadInput for an empty run."""
    found = Results(run)
    if found.train is None:
        raise BadInput(f"{run.path} has no finished 'train' yet: there is nothing to report on")
    details = _link(run)
    details += _details(f"Recipe ({CLAIMED})", run.recipe)
    details += _details(f"Machine and versions ({CLAIMED})", run.env)
    page = _page(run.path.name, _headline(found), _pictures(found), tables(found), details)
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


def write_many(runs: Sequence[RunDirectory], file: Path) -> None:
    """One self-contained page about several runs. Raises BadInput where one is not trained."""
    for run in runs:
        run.require(TrainResult)
    found = {run.path.name: Results(run) for run in runs}
    points = {f"{name} ({r.evidence})": [r.proved_bpb] for name, r in found.items() if r.proved_bpb}
    figures = [("Bits per byte of the proofs", pictures.spread(points, "bits per byte"))]
    figures += [
        (f"Training of {run.path.name} ({CLAIMED})", pictures.training(lines))
        for run in runs
        if (lines := console.read_metrics(run.metrics))
    ]
    headlines = [f"{name}: {_headline(r)}" for name, r in found.items()]
    shown = [seeds_table(runs)] if len(points) > 1 else []
    for name, results in found.items():
        shown += [replace(table, title=f"{name}: {table.title}") for table in tables(results)]
    details = "".join(
        _details(f"Recipe of {run.path.name} ({CLAIMED})", run.recipe) for run in runs
    )
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
    caption = f"Every run, and the mean of its side ({CLAIMED} scores)"
    picture = (caption, pictures.spread(points, "bits per byte"))
    gain = found.gains[0]
    best = gain.paired or gain.welch or gain.documents
    headline = "One run a side says nothing about seeds"
    if best:
        headline = f"{best.mean:+.5f} bits per byte better by the claimed scores, p = {best.p:.2g}"
    write_atomic(file, _bytes(_page("Comparison", headline, [picture], shown)))


def _bytes(page: str) -> bytes:
    """The page as UTF-8, with escapes for what is none: names of files need not be."""
    return page.encode("utf-8", "backslashreplace")


def _headline(found: Results) -> str:
    verdict = found.verdict
    if verdict and not verdict.verified:
        return f"NOT VERIFIED: {verdict.reason}"
    if verdict and verdict.decoded:
        size = f"{verdict.decoded.text_bytes:,}"
        return f"{_bpb(verdict.bpb)} bits per byte, verified: all {size} bytes were decoded here"
    if found.prove is None:
        return "Not proved yet: fairway prove"
    return f"{_bpb(found.prove.bpb)} bits per byte, {CLAIMED}: not verified here, fairway verify"


def _pictures(found: Results) -> list[tuple[str, str]]:
    """(caption, SVG) of every picture that the results allow."""
    made = []
    lines = console.read_metrics(found.run.metrics)
    if lines:
        made.append((f"Training loss and learning rate ({CLAIMED})", pictures.training(lines)))
    stages = {
        f"after training ({CLAIMED})": found.train and found.train.val_bpb,
        f"after packing ({CLAIMED})": found.pack and found.pack.val_bpb_after,
        f"scored ({CLAIMED})": found.score and found.score.bpb,
        f"proved ({found.evidence})": found.proved_bpb,
    }
    known = {name: value for name, value in stages.items() if value}
    made.append(
        ("Bits per byte through the stages", pictures.bars(known, "bits per byte", "{:.4f}"))
    )
    if found.parts:
        parts = {name: float(size) for name, size in found.parts.items()}
        made.append(("Bytes of the artifact", pictures.bars(parts, "bytes", "{:,.0f}")))
    if (proof := found.proof) and (sizes := compressors.sizes_of_run(found.run, proof.text_sha256)):
        rivals = {f"Fairway ({found.evidence})": 8 * proof.proof_bytes / proof.text_bytes}
        rivals |= {name: 8 * size / proof.text_bytes for name, size in sizes.items()}
        caption = "Bits per byte on the same text (no model counted)"
        if found.evidence != "verified":
            caption += f" (bytes of the text: {found.evidence})"
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


def _link(run: RunDirectory) -> str:
    """Return a link to the page of the proof; empty where the run has none of this proof."""
    if not has_current(run):
        return ""
    name = run.page.name
    return f"<p><a href='{name}'>{name}</a> decodes the proof in any browser.</p>"


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
