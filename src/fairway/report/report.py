"""Write the report: tables and one self-contained HTML page, from typed results only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from math import log, sqrt
from pathlib import Path
from string import Template
from typing import NamedTuple

from fairway import console
from fairway.config import budget
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.io.atomic import sha256_file, write_atomic
from fairway.page.proof import has_current
from fairway.pipeline.command_results import CompareResult
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.evidence import CLAIMED, Proof, Results, read_documents
from fairway.pipeline.results import PackResult, TrainResult, Verdict
from fairway.report import charts, compressors
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
    if found.train is None and "train" not in found.stale:
        raise BadInput(
            f"{run.path} has no finished 'train' yet, so there is nothing to report on: "
            f"fairway run {run.recipe} --out {run.path} trains it"
        )
    details = _details(f"Recipe ({CLAIMED})", run.recipe)
    details += _details(f"Machine and versions ({CLAIMED})", run.env)
    name, shown = run.load().name, [_stages_table(found)]
    title = name if name == run.path.name else f"{name} in {run.path.name}"
    _write_page(
        run.report, title, _card(found), _figures(found), shown, details, _verdict(found)[0]
    )
    return run.report


def _write_page(
    file: Path,
    title: str,
    head: str,
    figures: Sequence[Figure],
    shown: Sequence[Table],
    details: str = "",
    status: str = "",
) -> None:
    """Write a page as UTF-8, with escapes for what is none: names of files need not be."""
    template = Template(Path(__file__).with_suffix(".html").read_text("utf-8"))
    kind = status.lower().replace(" ", "-")
    page = template.substitute(
        charts=charts.STYLE,
        title=_safe(title),
        badge=f' <span class="badge {kind}">{status}</span>' if status else "",
        head=head,
        figures="\n".join(map(_figure, figures)),
        tables="\n".join(map(_table, shown)),
        details=details,
    )
    write_atomic(file, page.encode("utf-8", "backslashreplace"))


def write_many(runs: Sequence[RunDirectory], file: Path) -> None:
    """Write one self-contained page about several trained runs. Raises BadInput."""
    for run in runs:
        run.require(TrainResult)
    found = {run.path.name: Results(run) for run in runs}
    rows = [
        charts.Dots(f"{name} ({r.evidence})", [r.proved_bpb])
        for name, r in found.items()
        if r.proved_bpb
    ]
    proofs = Figure("Bits per byte of the proofs, lower is better", partial(charts.dots, rows))
    figures = [proofs] if rows else []
    figures += [figure for name, r in found.items() for figure in _training(r, f" of {name}")]
    head = "".join(_headline(f"{name}: {_verdict(r)[1]}") for name, r in found.items())
    shown = [seeds_table(runs)] if len(rows) > 1 else []
    shown += [replace(_stages_table(r), title=f"{name}: the pipeline") for name, r in found.items()]
    details = "".join(
        _details(f"Recipe of {run.path.name} ({CLAIMED})", run.recipe) for run in runs
    )
    _write_page(file, f"{len(runs)} runs", head, figures, shown, details)


def write_comparison(found: CompareResult, shown: Sequence[Table], file: Path) -> None:
    """Write one self-contained page about a comparison. Raises OSError."""
    rows = [
        charts.Dots(side.names[0] + ("…" if side.names[1:] else ""), side.bpb)
        for side in (found.runs, found.against)
    ]
    caption = f"Bits per byte, lower is better ({CLAIMED} scores)"
    note = f"Dots: runs. Lines: the mean of each side. All {CLAIMED}."
    gain = found.gains[0]
    best = gain.paired or gain.welch or gain.documents
    headline = "One run a side says nothing about seeds"
    if best:
        headline = f"{best.mean:+.5f} bits per byte better by the claimed scores, p = {best.p:.2g}"
    figure = Figure(caption, partial(charts.dots, rows), note)
    _write_page(file, "Comparison", _headline(headline), [figure], shown)


# The verdict -------------------------------------------------------------------------------------


def _verdict(found: Results) -> tuple[str, str]:
    """Return in a word and in a sentence how the score is known.

    What is stale has no score: a verdict never stands beside something else.
    """
    verdict, name = found.verdict, found.run.path.name
    unproved = verdict is None and found.prove is None
    if verdict is not None and not verdict:
        return "NOT VERIFIED", f"NOT VERIFIED: {verdict.reason}"
    if "prove" in found.stale or (unproved and found.stale):
        why = "; ".join(f"{stage}.json was {why}" for stage, why in found.stale.items())
        return "stale", f"Stale: {why}. fairway run {name}/recipe.toml --out {name} repairs it"
    if unproved:
        return "not proved", "Not proved yet: fairway prove"
    known = "not verified here, fairway verify"
    if verdict is not None and verdict.decoded:
        known = f"all {verdict.decoded.text_bytes:,} bytes were decoded here"
    score = _bpb(found.proved_bpb or 0.0)
    return found.evidence, f"{score} bits per byte, {found.evidence}: {known}"


def _card(found: Results) -> str:
    """Return the verdict: the score, how it is known, and the command that checks it."""
    run, (status, sentence) = found.run, _verdict(found)
    facts: dict[str, str] = {}
    if status in ("verified", CLAIMED) and (proof := found.proof):
        facts["score"] = f"8 × {proof.proof_bytes:,} bytes of proof / {proof.text_bytes:,} of text"
        facts["score"] += "" if status == "verified" else f" ({CLAIMED})"
        facts["artifact"] = f"{proof.artifact_bytes:,} bytes"
    if run.proof_file.is_file() and run.artifact.is_file():
        files = [file.relative_to(run.path).as_posix() for file in (run.artifact, run.proof_file)]
        facts["SHA-256 of the proof"] = f"<code>{sha256_file(run.proof_file)}</code>"
        facts["check it here"] = f"<code>fairway verify {' '.join(files)}</code>"
    if has_current(run):
        name = run.page.name
        facts["in a browser"] = f'<a href="{name}">{name}</a> decodes the proof while you watch'
    figure = ""
    if status in ("verified", CLAIMED):
        score, _, sentence = sentence.partition(" ")
        figure = f'<p class="figure">{score}</p>'
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<div class="card">{figure}{_headline(sentence)}<dl>{rows}</dl></div>'


def _headline(text: str) -> str:
    return f'<p class="headline">{_safe(text)}</p>'


# Charts ------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A chart under its caption: a function of its width, in px."""

    caption: str
    draw: Callable[[float], charts.Drawing]
    note: str = ""


def _figures(found: Results) -> list[Figure]:
    """Return every chart that the results allow."""
    made = [*_rivals(found), *_training(found)]
    if found.parts:
        total, parts = sum(found.parts.values()), found.parts
        caption = f"Where the {total:,} bytes of the artifact go"
        limit = f"Budget ({CLAIMED}): {found.pack.budget_bytes:,} bytes. " if found.pack else ""
        note = (
            f"{limit}{budget.sentence(total).capitalize()}. Bigram: the table of pairs of tokens. "
            "Small: vectors, such as scales and gains."
        )
        made.append(Figure(caption, partial(charts.treemap, parts), note))
    return [*made, *_score_charts(found)]


def _rivals(found: Results) -> list[Figure]:
    """Return the text under general-purpose compressors, beside the proof."""
    proof, evidence = found.proof, found.evidence
    if not proof or _verdict(found)[0] not in ("verified", CLAIMED):
        return []
    sizes = compressors.sizes_of_run(found.run, proof.text_sha256)
    if not sizes:
        return []
    rows = {f"Fairway ({evidence})": proof.proof_bytes}
    rows |= dict(sorted(sizes.items(), key=lambda row: row[1]))
    drawn = [
        charts.Bar(name, bpb, f"{bpb:.3f}", "other" if name in sizes else "ours")
        for name, size in rows.items()
        for bpb in [8 * size / proof.text_bytes]
    ]
    caption = "The same text under general-purpose compressors: bits per byte, lower is better"
    if evidence != "verified":
        caption += f" (bytes of the text: {evidence})"
    both = proof.artifact_bytes + proof.proof_bytes
    note = (
        "No model is counted: the compressors need none, and Fairway's file is decoded with the "
        f"artifact. Fairway's file takes {proof.proof_bytes:,} bytes, and with the artifact "
        f"{both:,}{'' if evidence == 'verified' else f' ({CLAIMED})'}."
    )
    return [Figure(caption, partial(charts.bars, drawn), note)]


def _training(found: Results, of: str = "") -> list[Figure]:
    """Return the loss over the steps, if there is any; of: the run that is meant."""
    train = found.train
    lines = console.read_metrics(found.run.metrics)
    losses = [(float(x["step"]), x["loss"]) for x in lines if "loss" in x]
    if not train or not losses:
        return []
    nats = train.val_nats_per_token / (train.val_bpb or 1)  # per token, of a bit per byte
    points = [(float(x["step"]), x["val_bpb"] * nats) for x in lines if "val_bpb" in x]
    points.append((float(train.steps), train.val_nats_per_token))
    caption = f"Training{of} ({CLAIMED}): nats per token, lower is better"
    note = "Grey: the training loss. Green: the same, smoothed. Dots: the validation text."
    return [Figure(caption, partial(charts.losses, losses, points), note)]


def _score_charts(found: Results) -> list[Figure]:
    """Return bits per byte of the score, by document and by position."""
    if not (score := found.score):
        return []
    made = []
    with suppress(BadInput):  # damaged, or of another score: no chart
        rows = read_documents(found.run, score)
        costs = sorted((n / log(2) / b, b) for n, b in rows.tolist() if b > 0)
        caption = f"Score by document ({CLAIMED}): bits per byte, lower is better"
        note = (
            f"{len(costs):,} documents from the cheapest to the dearest, as wide as they are long. "
            "Dashed: the whole text."
        )
        made.append(Figure(caption, partial(charts.ranked, costs, score.bpb), note))
    ranges = [(nats / log(2), size) for nats, size in score.by_position[:40]]
    if len(ranges) > 1:
        caption = f"Score by position ({CLAIMED}): bits per byte, lower is better"
        note = "A bar: all tokens from this position in their document to the next bar's."
        made.append(Figure(caption, partial(charts.positions, ranges), note))
    return made


def _figure(figure: Figure) -> str:
    """Return a chart in two widths, for screens and for telephones."""
    label = _safe(figure.caption)
    drawn = "".join(
        f'<div class="{kind}">{figure.draw(width).inline(figure.caption)}</div>'
        for kind, width in (("broad", 820), ("narrow", 350))
    )
    note = f'<p class="note">{_safe(figure.note)}</p>' if figure.note else ""
    return f"<figure><figcaption>{label}</figcaption>{drawn}{note}</figure>"


def _safe(text: str) -> str:
    return escape(console.printable(text))


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
