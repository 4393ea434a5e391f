"""Read a training log that somebody else wrote: its numbers, with their units, or none.

Logs of the challenge are lines of `name:value`, printed by many different scripts. Every pattern
here is anchored at a literal name and takes its value possessively, so that reading is linear in
the length of the text, whatever the text is. A value whose form or unit is not certain is kept as
such (`unclear`), never guessed.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from fairway.errors import BadInput

MAX_LOG_BYTES = 16 << 20  # of one log; the largest of a record folder has 0.2 MB
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_NUMBER = r"(?P<number>[-+]?+(?:nan\b|inf(?:inity)?+\b|\.?[0-9][0-9,_.]*+(?:e[-+]?+[0-9]++)?+))"
_SECONDS = {
    1e-9: ("ns",),
    1e-6: ("us", "µs", "μs"),
    1e-3: ("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"),
    1.0: ("s", "sec", "secs", "second", "seconds"),
    60.0: ("m", "min", "mins", "minute", "minutes"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    86400.0: ("d", "day", "days"),
}
_BYTES = {
    1.0: ("bytes", "byte", "b"),
    1e3: ("kb",),
    1e6: ("mb",),
    1e9: ("gb",),
    2.0**10: ("kib",),
    2.0**20: ("mib",),
    2.0**30: ("gib",),
}
_TIME_UNITS = {name: factor for factor, names in _SECONDS.items() for name in names}
_BYTE_UNITS = {name: factor for factor, names in _BYTES.items() for name in names}

_IS = r"\"?[ \t]{0,40}+[:=][ \t]{0,40}+"  # between a name and its value
_UNIT = r"[ \t]?(?P<unit>[a-zµμ]*+)"
_SUFFIX = r"(?:_(?P<suffix>ms|s|secs?|seconds?|mins?|minutes?|h|hours?))?+"
_MORE_TIME = re.compile(r"[ \t]?([0-9]{1,9}(?:\.[0-9]{1,9})?)[ \t]?([a-z]{1,12})\b")
_CLOCK = re.compile(r":([0-5][0-9])(?::([0-5][0-9]))?(?:\.[0-9]+)?(?![0-9:])")
_TIME_VALUE = _SUFFIX + _IS + _NUMBER + _UNIT
_TRAIN = re.compile(r"train(?:ing)?_time" + _TIME_VALUE)
_EVAL = re.compile(r"(?:total_)?eval(?:uation)?_time" + _TIME_VALUE)
_SPENT = re.compile(r"(?:time|elapsed)" + _IS + _NUMBER + _UNIT)
_MODEL = re.compile(r"serialized model(?! raw)[^:\n]{0,60}+:[ \t]{0,40}+" + _NUMBER + _UNIT)
_CODE = re.compile(r"code size[^:\n]{0,60}+:[ \t]{0,40}+" + _NUMBER + _UNIT)
_TOTAL = re.compile(r"total submission size[^:\n]{0,60}+:[ \t]{0,40}+" + _NUMBER + _UNIT)
_SEED = re.compile(r"seed\"?[ \t]{0,40}+:[ \t]{0,40}+" + _NUMBER)
_SEED_ASSIGNED = re.compile(r"seed=" + _NUMBER)
_NAMED_SEED = re.compile(r"seed[_-]?([0-9]{1,18})")
_TOKENS = re.compile(
    r"(?:val|validation|eval)[_ ]tokens" + _IS + _NUMBER + r"(?P<unit>[a-z]*+)",
)
_TEXT_HASH = re.compile(r"(?:val|validation|text)_(?:text_)?sha256" + _IS + r"\"?([0-9a-f]{64})\b")
# On a line that begins to speak of the loader of validation text:
_LOADED_TOKENS = re.compile(r"tokens" + _IS + _NUMBER + r"(?P<unit>[a-z]*+)")
_LOADED_BYTES = re.compile(r"bytes" + _IS + _NUMBER + r"(?P<unit>[a-z]*+)")
_ARTIFACT_HASH = re.compile(r"artifact_sha256" + _IS + r"\"?([0-9a-f]{64})\b")
_LOADED_HASH = re.compile(r"sha256" + _IS + r"([0-9a-f]{64})\b")
_LENGTH = re.compile(r"(?:train|eval)_seq_len" + _IS + r"([0-9]{1,9})")
_DATASET = re.compile(r"fineweb10b_([a-z0-9]{1,40})|fineweb_([0-9]{1,9})_bpe|(caseops)")
_BPB = re.compile(r"(?:val|proved)_bpb" + _IS + _NUMBER)
_LOSS = re.compile(r"val_loss" + _IS + _NUMBER)
_LOSSES = re.compile(r"(?:train_loss|val_loss|val_bpb)" + _IS + r"([0-9.]{3,30})")
# A score that is not the packed model's: of a training step, or before the model was packed.
_NOT_FINAL = re.compile(
    r"^(?:step|diagnostic|val_step|ttp|warmup|iter|epoch|[0-9]+/[0-9]+)"
    r"|pre[-_ ]?quant|post[-_ ]?ema|unquant|before",
)
_COUNTER = re.compile(r"[\[(]?[0-9][0-9.:,tz+-]*[\])]?")  # a clock or a line number, not "12/20"
# A line of source code: many scripts print themselves into their log.
_SOURCE_PARTS = ("log(", "log0(", "print(", 'f"', "f'")
_SOURCE_STARTS = ("#", "def ", "class ", "if ", "for ", "return ")


@dataclass(frozen=True)
class Reading:
    """A number as a log prints it: the value in base units, and what its last digit leaves open."""

    value: float
    slack: float = 0.0


@dataclass
class Readings:
    """All values that a log gives for one quantity, in order."""

    values: list[Reading] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)  # no unit, an unknown unit or form
    impossible: list[str] = field(default_factory=list)  # no finite number above zero

    @property
    def last(self) -> Reading | None:
        return self.values[-1] if self.values else None

    @property
    def largest(self) -> float | None:
        return max((reading.value for reading in self.values), default=None)


@dataclass(frozen=True)
class Score:
    """A value of bits per byte after training."""

    label: str  # the line's words before the value
    bpb: Reading
    loss: Reading | None  # nats per token on the same line


@dataclass
class Log:
    """What a training log says."""

    name: str
    seeds: set[int]  # in its text
    named_seed: int | None  # in its name
    model: Readings  # bytes
    code: Readings
    total: Readings
    train: Readings  # seconds
    evaluation: Readings
    tokens: Readings  # of the validation text
    text_bytes: Readings
    text_hashes: set[str]
    artifact_hashes: set[str]
    sequence: int  # the longest sequence that it states, in tokens; 0: none
    datasets: set[str]  # sp1024, ...: names of the tokenized text
    scores: list[Score]
    impossible: list[str]  # scores that are no finite number above zero
    losses: tuple[str, ...]  # every loss and score, as printed: two runs do not share them
    prints_source: bool
    source_matches: bool

    @property
    def seed(self) -> int | None:
        """Return the seed, where the text names exactly one."""
        return next(iter(self.seeds)) if len(self.seeds) == 1 else None

    @property
    def is_run(self) -> bool:
        return bool(self.scores or self.impossible or self.total.values)

    def quantities(self) -> list[Readings]:
        """Return all that has a unit."""
        sizes = [self.model, self.code, self.total, self.text_bytes]
        return [*sizes, self.train, self.evaluation, self.tokens]

    def by_label(self) -> dict[str, Score]:
        """Return the last score of each label."""
        return {score.label: score for score in self.scores}


def read_bytes(file: Path, limit: int) -> bytes:
    """Return a regular file's bytes. Raises BadInput: another kind, larger, or not readable.

    Links are not followed, and a pipe or device does not block.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC
    try:
        with open(os.open(file, flags), "rb") as opened:
            state = os.fstat(opened.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise BadInput("it is not a regular file")
            if state.st_size > limit:
                raise BadInput(
                    f"it has {state.st_size:,} bytes, more than the {limit:,} of a check"
                )
            return opened.read(limit + 1)[:limit]
    except OSError as error:
        raise BadInput(f"it cannot be read ({error.strerror})") from None


def decode_text(data: bytes) -> str:
    """Return text with "\\n" line ends, of UTF-8, or of UTF-16 and UTF-32 as Windows writes it."""
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "")
    if not encoding:
        head = data[:4096]
        even, odd = head[::2].count(0), head[1::2].count(0)
        wide = 4 * max(even, odd) > len(head) and len(head) > 1
        encoding = ("utf-16-be" if even > odd else "utf-16-le") if wide else "utf-8"
    return "\n".join(data.decode(encoding, "replace").splitlines())


def parse(text: str, name: str, source: str) -> Log:
    """Return what the text of a log says.

    source: the script of the same folder, with "\\n" line ends; many logs begin with a copy.
    """
    script = source.strip()
    prints_source = bool(script) and "\nimport torch" in text
    body = text.replace(script, "\n") if script and script in text else text
    matches = bool(script) and script in text
    lines = [line for line in body.lower().split("\n") if line and not _is_source(line)]
    said = "\n".join(lines)
    scores, impossible = _scores(lines)
    named = _NAMED_SEED.search(name.rpartition("/")[2].lower())
    evaluation = _readings(_EVAL, said, _TIME_UNITS)
    for line in lines:
        said_bpb = _BPB.search(line)
        if said_bpb and not _NOT_FINAL.search(_label(line[: min(said_bpb.start(), 300)])):
            _collect(evaluation, _SPENT, line, _TIME_UNITS)
    tokens, text_bytes = _readings(_TOKENS, said, {"": 1.0}), Readings()
    hashes = {match[1] for match in _alone(_TEXT_HASH, said)}
    for line in lines:
        loaded = line[line.find("val_loader") :] if "val_loader" in line else ""
        if loaded:
            _collect(tokens, _LOADED_TOKENS, loaded, {"": 1.0})
            _collect(text_bytes, _LOADED_BYTES, loaded, {"": 1.0})
            hashes |= {match[1] for match in _LOADED_HASH.finditer(loaded)}
    return Log(
        name=name,
        seeds=_seeds(said, lines),
        named_seed=int(named[1]) if named else None,
        model=_readings(_MODEL, said, _BYTE_UNITS),
        code=_readings(_CODE, said, _BYTE_UNITS),
        total=_readings(_TOTAL, said, _BYTE_UNITS),
        train=_readings(_TRAIN, said, _TIME_UNITS),
        evaluation=evaluation,
        tokens=tokens,
        text_bytes=text_bytes,
        text_hashes=hashes,
        artifact_hashes={match[1] for match in _ARTIFACT_HASH.finditer(said)},
        sequence=max((int(match[1]) for match in _LENGTH.finditer(said)), default=0),
        datasets={_dataset(match) for match in _DATASET.finditer(said)},
        scores=scores,
        impossible=impossible,
        losses=tuple(match[1] for match in _LOSSES.finditer(said)),
        prints_source=prints_source,
        source_matches=matches,
    )


def _dataset(match: re.Match[str]) -> str:
    return "caseops" if match[3] else (match[1] or f"sp{match[2]}")


def _seeds(said: str, lines: list[str]) -> set[int]:
    """Return the seeds that a text names: `seed:1`, or `seed=1` where no line of code sets it."""
    stated = {match["number"] for match in _alone(_SEED, said)}
    if not stated:
        plain = (line for line in lines if "(" not in line)
        stated = {match["number"] for line in plain for match in _alone(_SEED_ASSIGNED, line)}
    numbers = (number(text) for text in stated)
    return {int(x.value) for x in numbers if x and isfinite(x.value) and x.value == int(x.value)}


def _scores(lines: list[str]) -> tuple[list[Score], list[str]]:
    """Return the scores after training, and those that are no number above zero."""
    scores: list[Score] = []
    impossible: list[str] = []
    for line in lines:
        found = _BPB.search(line)
        if not found:
            continue
        label = _label(line[: min(found.start(), 300)])
        if _NOT_FINAL.search(label):
            continue
        bpb = number(found["number"])
        if bpb is None or not isfinite(bpb.value) or bpb.value <= 0:
            impossible.append(found[0])
            continue
        loss_found = _LOSS.search(line)
        loss = number(loss_found["number"]) if loss_found else None
        scores.append(Score(label, bpb, loss))
    return scores, impossible


def _label(start: str) -> str:
    """Return the words that name a score, without times and counters: "final stride:64"."""
    words = start.partition("val_loss")[0].split()
    return " ".join(word for word in words if not _COUNTER.fullmatch(word)).strip(": ")[:100]


def number(text: str) -> Reading | None:
    """Return a printed number and half a unit of its last digit; None where its form is unclear.

    nan and inf are numbers here (and not finite). "25,200,000" and "25_200_000" have separators.
    """
    text = text.rstrip(",._")
    digits = text.replace("_", "")
    if re.fullmatch(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?", digits):
        digits = digits.replace(",", "")
    if len(digits) > 400:
        return None
    try:
        value = float(digits)
    except ValueError:
        return None
    if not isfinite(value):
        return Reading(value)
    mantissa, _, exponent = digits.lower().partition("e")
    fraction = mantissa.partition(".")[2]
    power = max(-300, min(int(exponent or 0), 300)) - len(fraction)
    return Reading(value, 0.5 * 10.0**power if fraction or exponent else 0.0)


def _readings(pattern: re.Pattern[str], text: str, units: dict[str, float]) -> Readings:
    found = Readings()
    _collect(found, pattern, text, units)
    return found


def _is_source(line: str) -> bool:
    return line.lstrip().startswith(_SOURCE_STARTS) or any(x in line for x in _SOURCE_PARTS)


def _alone(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield the matches that do not begin within a word."""
    for match in pattern.finditer(text):
        before = text[match.start() - 1 : match.start()]
        if not (before.isalnum() or before == "_"):
            yield match


def _collect(found: Readings, pattern: re.Pattern[str], text: str, units: dict[str, float]) -> None:
    """Add what `text` says to `found`; each value in seconds, bytes or tokens."""
    for match in _alone(pattern, text):
        groups = match.groupdict()
        value = number(match["number"])
        suffix, unit = groups.get("suffix") or "", groups.get("unit") or ""
        if suffix and unit not in units:
            unit = suffix  # train_time_ms:25 next
        factor, more, slack = units.get(unit), 0.0, value.slack if value else 0.0
        if units is _TIME_UNITS and value:
            clock = _CLOCK.match(text, match.end("number"), match.end("number") + 40)
            if clock:  # 1:59:59
                parts = [part for part in clock.groups() if part]
                factor = 60.0 ** len(parts)
                more = sum(float(x) * 60.0**i for i, x in enumerate(reversed(parts)))
                slack = 1.0 / factor
            elif factor:
                more = _compound(text, match.end())
            if suffix and (clock or unit != suffix):
                factor = None
        if value is None or factor is None:
            found.unclear.append(match[0])
        elif not isfinite(value.value * factor) or value.value < 0:
            found.impossible.append(match[0])
        else:
            found.values.append(Reading(value.value * factor + more, slack * factor))


def _compound(text: str, at: int) -> float:
    """Return the seconds that follow a first value: the "30min" of "1h 30min"."""
    seconds = 0.0
    for _ in range(3):
        match = _MORE_TIME.match(text, at)
        factor = _TIME_UNITS.get(match[2]) if match else None
        if not match or not factor:
            break
        seconds += float(match[1]) * factor
        at = match.end()
    return seconds


def labels_of_all(logs: list[Log]) -> Iterator[str]:
    """Return labels of scores that every log has, the last one of the first log first."""
    if logs:
        for label in reversed(logs[0].by_label()):
            if all(label in log.by_label() for log in logs):
                yield label
