"""Rules on the text of a submission: is it one text, and is it the challenge's?"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fairway.challenge.contents import shown
from fairway.challenge.logs import Log
from fairway.challenge.submitted import Submission, counted, finding, judged, listed
from fairway.pipeline.command_results import RuleFinding
from fairway.pipeline.results import Decoded

# FineWeb's validation text: 50,000 documents, 151,080,891 bytes. Scores are of all of its tokens
# but a last part of less than one sequence; these are the counts for sequences of 2,048 tokens that
# the challenge's accepted records state, by the name of the tokenized text.
TEXT_BYTES = 151_080_891
_COUNTS = {
    "sp1024": (62_021_632,),
    "sp4096": (45_508_608, 45_514_752),  # two tokenizers have had this name
    "sp8192": (40_540_160,),
    "caseops": (47_851_520,),
    "byte260": (151_130_112,),
    "bytes": (151_078_912,),
}
_SEQUENCE = 2048
_LONGEST = 65536


def text(given: Submission) -> Iterator[RuleFinding]:
    """Check that one text was scored, and whether it can be the challenge's."""
    facts = [proof.facts for proof in given.proofs if proof.facts]
    hashes = {h for log in given.logs for h in log.text_hashes}
    hashes |= {fact.text_sha256 for fact in facts}
    lengths = {fact.lengths_sha256 for fact in facts}
    sizes = {x.value for log in given.logs for x in log.text_bytes.values}
    sizes |= {float(fact.text_bytes) for fact in facts}
    counts = {x.value for log in given.logs for x in log.tokens.values}
    by_tokenizer: dict[frozenset[str], set[float]] = {}  # one text has several counts
    for log in given.logs:
        by_tokenizer.setdefault(frozenset(log.datasets), set()).update(
            x.value for x in log.tokens.values
        )
    claimed = given.claims.get("text_sha256")
    if claimed is not None:
        hashes.add(shown(str(claimed)))
    groups: list[tuple[str, Collection[object]]] = [
        ("hashes of the text", hashes),
        ("hashes of its documents' lengths", lengths),
        ("sizes in bytes", sizes),
        *(("counts of tokens", _without_remainders(c)) for c in by_tokenizer.values()),
    ]
    several = [
        f"{len(values)} {what}: {shown(listed(sorted(values, key=str), 3), 300)}"
        for what, values in groups
        if len(values) > 1
    ]
    tokens = {float(fact.tokens) for fact in facts}
    if facts and counts and max(counts) > max(sizes) + 50_000:
        several.append(f"{max(counts):,.0f} tokens of a text of {max(sizes):,.0f} bytes")
    elif tokens and counts and max(abs(a - b) for a in counts for b in tokens) > _LONGEST:
        several.append(f"{counted(counts)} tokens in the logs, {counted(tokens)} decoded")
    known = hashes or sizes or counts
    rule = "text: one in submission.json, logs and proofs"
    yield judged(rule, several, [] if known else ["no log states a text"], "one text")
    proved = {proof.seed for proof in given.proofs if proof.facts}
    if facts and given.logs and {log.seed for log in given.logs} <= proved:
        yield _decoded_text(given, facts)
    else:
        said: dict[bool | None, dict[str, None]] = {True: {}, False: {}, None: {}}
        for log in given.logs:
            good, sentence = _published(log)
            said[good][sentence] = None
        rule = "text: tokens in the logs = FineWeb's validation text"
        yield judged(rule, said[False], said[None] or given.no_logs, listed(said[True], 3))


def _decoded_text(given: Submission, facts: list[Decoded]) -> RuleFinding:
    """Say whether the text that the proofs hold has the size of the challenge's."""
    size, sha256 = facts[0].text_bytes, facts[0].text_sha256
    if abs(size - TEXT_BYTES) <= TEXT_BYTES // 100:
        return finding("challenge's text: decoded bytes", True, f"{size:,} bytes were decoded")
    said = (
        f"not FineWeb's validation text: the proofs hold {size:,} bytes with SHA-256 {sha256}, "
        f"the challenge's text has {TEXT_BYTES:,} bytes"
    )
    return finding("challenge's text: decoded bytes", None, said)


def _without_remainders(counts: set[float]) -> set[float]:
    """Merge counts of tokens of one text: each may leave out the last part of a sequence."""
    largest = max(counts, default=0.0)
    same = {c for c in counts if largest - c < min(_LONGEST, largest / 100)}
    return counts - same | ({largest} if same else set())


def _published(log: Log) -> tuple[bool | None, str]:
    """Say whether a log's counts of tokens fit the challenge's validation text, and why."""
    counts = [reading.value for reading in log.tokens.values]
    if not counts:
        return None, f"{log.name} states no count of validation tokens"
    named = {name for name in log.datasets if name in _COUNTS}
    if "caseops" in log.datasets:
        named = {"caseops"}
    other = sorted(log.datasets - named) if not named else []
    allowed = [low for name in (named or _COUNTS) for low in _COUNTS[name]]
    wrong = [count for count in counts if not any(_is_count(count, x, log) for x in allowed)]
    if not wrong:
        return (
            True,
            f"{counts[-1]:,.0f} validation tokens ({', '.join(sorted(named)) or 'published'})",
        )
    said = f"{log.name} states {counted(wrong)} validation tokens"
    if other and min(wrong) * 8 >= TEXT_BYTES:
        return None, f"{said} of {shown(', '.join(other))}, whose count is not known here"
    published = ", ".join(f"{n}: {counted(_COUNTS[n])}" for n in sorted(named or _COUNTS))
    return False, f"{said}; FineWeb's validation text has {published}"


def _is_count(count: float, low: int, log: Log) -> bool:
    """Say whether a count covers the whole text but for the rest of one sequence.

    low: the count with sequences of 2,048 tokens, so that the text has up to 2,048 more.
    """
    sequence = min(max(log.sequence, 1), _LONGEST)
    if sequence > _SEQUENCE and count % sequence == 0:
        return count in (low // sequence * sequence, (low + _SEQUENCE) // sequence * sequence)
    return low <= count <= low + _SEQUENCE
