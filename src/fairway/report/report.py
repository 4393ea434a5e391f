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
from fairway.pipeline.command_results import CompareResult
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.evidence import CLAIMED, Proof, Results
from fairway.pipeline.results import PackResult, TrainResult, Verdict
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


def verdict_lines(verdict: Verdict) -> list[str]:
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
    if verdict.decoded_twice:
        facts["second decoder"] = "JavaScript, run by Node: the same text"
    width = max(map(len, facts))
    return [f"{name:<{width}}  {value}" for name, value in facts.items()]


def seeds_table(runs: Sequence[RunDirectory]) -> Table:
    """Return bits per byte of runs that differ in the seed, their mean and its 95 % interval."""
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
    means = [f"{e.mean:.4f} ± {e.standard_error * sqrt(len(runs)):.4f}" for e in estimates]
    intervals = [f"{e.low:.4f} to {e.high:.4f}" for e in estimates]
    evidence = "verified" if all(r.evidence == "verified" for r in found) else CLAIMED
    body += [["mean ± sd", *means, evidence], ["95 % interval", *intervals, evidence]]
    note = (
        "sd: of one run; the interval is of the mean over seeds, by Student's t. The last column "
        "says how the bits per byte of the proof are known."
    )
    return Table("Bits per byte over seeds", ["run", *whole, "evidence"], body, note)


def _stages_table(found: Results) -> Table:
    made: list[tuple[str, float | None, int | None, float]] = []
    if r := found.prepare:
        made.append(("prepare", None, r.val_bytes, r.prepare_s))
    if t := found.train:
        made.append(("after training", t.val_bpb, None, t.train_s))
    if p := found.pack:
        made.append(("after packing", p.val_bpb_after, p.artifact_bytes, p.pack_s))
    if f := found.frozen:
        made.append((f"packed ({f.protocol})", f.bpb, None, f.seconds))
    if s := found.score:
        learned = "" if s.adaptation == "none" else f", learning by {s.adaptation}"
        made.append((f"scored ({s.protocol}{learned})", s.bpb, None, s.seconds))
    if v := found.prove:
        made.append(("proved", v.bpb, sum(v.files.values()), v.encode_s))
    rows = [
        [
            name,
            "" if bpb is None else _bpb(bpb),
            "" if size is None else f"{size:,}",
            f"{seconds:.0f}",
            CLAIMED,
        ]
        for name, bpb, size, seconds in made
    ]
    rows += [[name, "", "", "", "stale"] for name in found.stale]
    if (verdict := found.verdict) is not None and (d := verdict.decoded):
        rows.append(["decoded", _bpb(verdict.bpb), f"{d.text_bytes:,}", "", found.evidence])
    note = (
        "Bytes: of the validation text, the artifact, the proof, and the decoded text. "
        f'"{CLAIMED}": read from a result file of the run directory, and not recomputed. '
        '"verified": the proof was decoded on this machine, and the bits per byte are computed '
        "from the two files. After training and packing the text is scored in separate windows, "
        "so those two are higher than the scores with full context."
    )
    for name, why in found.stale.items():
        note += f" Stale: {name}.json was {why}."
    if verdict is not None and not verdict:
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
    headline, figures = _headline(found), _pictures(found)
    _write_page(run.report, run.path.name, headline, figures, tables(found), details)
    return run.report


def _write_page(
    file: Path,
    title: str,
    headline: str,
    figures: Sequence[tuple[str, str]],
    shown: Sequence[Table],
    details: str = "",
) -> None:
    """Write a page as UTF-8, with escapes for what is none: names of files need not be."""
    template = Template(Path(__file__).with_suffix(".html").read_text("utf-8"))
    page = template.substitute(
        title=escape(console.printable(title)),
        headline=escape(headline),
        figures="\n".join(_figure(*picture) for picture in figures),
        tables="\n".join(_table(table) for table in shown),
        details=details,
    )
    write_atomic(file, page.encode("utf-8", "backslashreplace"))


def write_many(runs: Sequence[RunDirectory], file: Path) -> None:
    """Write one self-contained page about several trained runs. Raises BadInput."""
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
    headline = ". ".join(headlines)
    figures = figures if points else figures[1:]
    _write_page(file, f"{len(runs)} runs", headline, figures, shown, details)


def write_comparison(found: CompareResult, shown: Sequence[Table], file: Path) -> None:
    """Write one self-contained page about a comparison. Raises OSError."""
    sides = (found.runs, found.against)
    points = {side.names[0] + ("…" if side.names[1:] else ""): side.bpb for side in sides}
    caption = f"Every run, and the mean of its side ({CLAIMED} scores)"
    picture = (caption, pictures.spread(points, "bits per byte"))
    gain = found.gains[0]
    best = gain.paired or gain.welch or gain.documents
    headline = "One run a side says nothing about seeds"
    if best:
        headline = f"{best.mean:+.5f} bits per byte better by the claimed scores, p = {best.p:.2g}"
    _write_page(file, "Comparison", headline, [picture], shown)


def _headline(found: Results) -> str:
    verdict = found.verdict
    if verdict is not None and not verdict:
        return f"NOT VERIFIED: {verdict.reason}"
    if verdict is not None and verdict.decoded:
        size = f"{verdict.decoded.text_bytes:,}"
        return f"{_bpb(verdict.bpb)} bits per byte, verified: all {size} bytes were decoded here"
    if found.prove is None:
        return "Not proved yet: fairway prove"
    return f"{_bpb(found.prove.bpb)} bits per byte, {CLAIMED}: not verified here, fairway verify"


def _pictures(found: Results) -> list[tuple[str, str]]:
    """Return (caption, SVG) of every picture that the results allow."""
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
