"""The Python interface: docs/python.md teaches it, docs/interface.md lists it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import isfinite, log
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from fairway import console
from fairway.arguments import checked
from fairway.coding import artifact, compress, sample
from fairway.coding.artifact import Artifact
from fairway.coding.lanes import Layout, documents_of
from fairway.coding.model import CodingModel
from fairway.coding.session import open_model
from fairway.config import toml
from fairway.config.schema import Recipe, Train
from fairway.errors import BadInput
from fairway.formats.coded_tokens import Starts
from fairway.formats.range_coder import TOTAL
from fairway.io.atomic import write_atomic
from fairway.io.binary import Source, Target
from fairway.pipeline import prove, runner, score, texts, verdicts
from fairway.pipeline.directory import Job, RunDirectory, artifact_file
from fairway.pipeline.results import ScoreResult, Verdict

_TEXT = "the given text"  # what errors call a text in memory


@dataclass(frozen=True, repr=False)
class LogProbs:
    """The log-probabilities of one text's tokens, each given the tokens before it.

    For a text of N tokens, the boundary (BOS) at its beginning included. The network sees as many
    tokens as its window has, and the document memory sees all.

        >>> scored = model.logprobs("The file object must be opened first.")
        >>> dict(zip(model.token_bytes(scored.token_ids[1:]), scored.logprobs))
        {b'The': ..., b'.': ...}
        >>> scored.bits_per_byte
        2...
    """

    token_ids: NDArray[np.uint16]
    """uint16[N], the boundary first."""
    logprobs: NDArray[np.float64]
    """float64[N - 1], of `token_ids[1:]`, in nats: at most 0."""
    text_bytes: int
    """Length in bytes of the text that the tokens decode to."""

    @property
    def bits_per_byte(self) -> float:
        """Return the text's code length in bits over its length in bytes."""
        return float(-self.logprobs.sum() / log(2) / self.text_bytes)

    def __repr__(self) -> str:
        return (
            f"LogProbs({len(self.logprobs):,} tokens, {self.text_bytes:,} bytes, "
            f"{self.bits_per_byte:.4f} bits per byte)"
        )


@dataclass(frozen=True, repr=False)
class NextToken:
    """The distribution of the token that follows a prompt, over the vocabulary of V tokens."""

    probabilities: NDArray[np.float64]
    """float64[V], each above 0; they sum to 1. The boundary (BOS) stands for the end of a text."""
    _written: Callable[[int], bytes] = field(compare=False)

    @checked
    def top(self, count: int = 10) -> list[tuple[bytes, float]]:
        """Return the likeliest tokens, as (bytes that the token adds, probability).

        The end of the text adds b"". Equal probabilities come in the order of their token ids.

            >>> model.next_token("The file").top(2)
            [(b..., 0...), (b..., 0...)]
        """
        likeliest = np.argsort(-self.probabilities, kind="stable")[: max(count, 0)].tolist()
        return [(self._written(token), float(self.probabilities[token])) for token in likeliest]

    def __repr__(self) -> str:
        shown = ", ".join(f"{text!r} {p:.3f}" for text, p in self.top(3))
        return f"NextToken({shown}, ... of {len(self.probabilities):,} tokens)"


@dataclass(frozen=True, repr=False)
class Proof:
    """A text, written as a file that decodes from the model alone. Its size is the score.

    `bytes(proof)` is the file (docs/formats.md). The other values are what its maker says: only
    `fairway.verify` decodes it.
    """

    data: bytes
    """The file's bytes."""
    text_bytes: int
    """Length of the text in bytes."""

    @property
    def bits_per_byte(self) -> float:
        """Return the bits of the whole file over the bytes of the text."""
        return 8 * len(self.data) / self.text_bytes

    @checked
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file (.fwp).

        A file that is there is replaced. Raises OSError.

            >>> model.prove("The file object must be opened first.").save("mine.fwp")
        """
        write_atomic(Path(path), self.data)

    def __bytes__(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return (
            f"Proof({len(self.data):,} bytes for {self.text_bytes:,} bytes of text, "
            f"{self.bits_per_byte:.4f} bits per byte)"
        )


class Model:
    """An opened artifact, which predicts text. `fairway.load` returns one.

    It predicts in exact arithmetic, so results are the same on every machine, bit for bit. A text
    is `str`, which stands for its UTF-8, or any `bytes`. Methods raise TypeError for an argument of
    another type, BadInput for a value that cannot be used, and ValueError once the model is closed.

    A model is a context manager, which closes it. `bytes(model)` is the artifact.

        >>> with fairway.load("runs/demo") as model:
        ...     print(model)
        Model('runs/demo/model.fairway', ... bytes, ... tokens, sha256 ...)
    """

    path: Path
    """The file that was opened."""

    @checked
    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the artifact in a file or a run directory.

        The file is read whole, and not needed afterwards. Raises BadInput that says what is wrong
        with it.
        """
        self.path = artifact_file(path)
        self._opened: Artifact | None = artifact.read(self.path)

    # what it is

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens in the vocabulary."""
        return self._artifact.vocab_size

    @property
    def bos_id(self) -> int:
        """Return the token that begins every text, and so ends the one before."""
        return self._artifact.bos_id

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the artifact, in hexadecimal."""
        return self._artifact.sha256

    @property
    def size_bytes(self) -> int:
        """Return the size of the artifact in bytes."""
        return self._artifact.size_bytes

    @property
    def config(self) -> dict[str, dict[str, Any]]:
        """Return the sections `model` and `memory` of its recipe.

        The keys are those of docs/recipes.md.

            >>> model.config["model"]["num_layers"]
            2
        """
        return {
            "model": self._artifact.model.model_dump(mode="json"),
            "memory": self._artifact.memory.model_dump(mode="json"),
        }

    def close(self) -> None:
        """Give the memory back. Closing twice is allowed."""
        self._opened = None
        self.__dict__.pop("_coding_model", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __bytes__(self) -> bytes:
        return self._artifact.data

    def __repr__(self) -> str:
        if self._opened is None:
            return f"Model({str(self.path)!r}, closed)"
        return (
            f"Model({str(self.path)!r}, {self.size_bytes:,} bytes, {self.vocab_size:,} tokens, "
            f"sha256 {self.sha256[:8]}…)"
        )

    @property
    def _artifact(self) -> Artifact:
        if self._opened is None:
            raise ValueError("the model is closed: fairway.load opens it again")
        return self._opened

    @cached_property
    def _coding_model(self) -> CodingModel:
        return open_model(self._artifact)

    # tokens

    @checked
    def encode(self, text: str | bytes) -> NDArray[np.uint16]:
        """Return the tokens of a text, uint16[N], the boundary (BOS) first.

        Raises BadInput where the artifact's tokenizer cannot write the text.

            >>> model.encode("The file").dtype
            dtype('uint16')
        """
        return self._artifact.tokenizer.encode_documents([_bytes(text)])

    @checked
    def decode(self, token_ids: Sequence[int] | NDArray[Any]) -> bytes:
        """Return the text that tokens write: `decode(encode(text))` is `text`, for any bytes.

        token_ids: integers [N], with or without the boundary (BOS) at the beginning; boundaries
        write nothing. Raises BadInput for ids outside the vocabulary.

            >>> model.decode(model.encode("The file"))
            b'The file'
        """
        return b"".join(self._artifact.tokenizer.decode(self._ids(token_ids)))

    @checked
    def token_bytes(self, token_ids: Sequence[int] | NDArray[Any]) -> list[bytes]:
        """Return what each token writes, in its place: joined, they are `decode(token_ids)`.

        token_ids: as `decode` takes them. Raises BadInput for ids outside the vocabulary.

            >>> model.token_bytes(model.encode("The file"))
            [b'', b'The', b' file']
        """
        ids = self._ids(token_ids)
        ends = np.cumsum(self._artifact.tokenizer.byte_lengths(ids))[len(ids) - len(token_ids) :]
        text = self.decode(ids)
        return [text[a:b] for a, b in pairwise([0, *ends.tolist()])]

    def _ids(self, token_ids: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
        """Return ids with a boundary at the beginning."""
        ids = np.asarray(token_ids)
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"token_ids must be integers, not {ids.dtype}")
        if ids.ndim != 1:
            raise BadInput(f"token_ids have {ids.ndim} dimensions: give the tokens of one text")
        boundary = [] if len(ids) and ids[0] == self.bos_id else [self.bos_id]
        return np.concatenate([np.array(boundary, np.int64), ids.astype(np.int64)])

    # prediction

    @overload
    def logprobs(self, text: str | bytes) -> LogProbs: ...  # type: ignore[overload-overlap]
    @overload
    def logprobs(self, text: Sequence[str | bytes]) -> list[LogProbs]: ...
    @checked
    def logprobs(self, text: str | bytes | Sequence[str | bytes]) -> LogProbs | list[LogProbs]:
        """Return the log-probability of every token of a text, or of each of several texts.

        Texts know nothing of each other. They are computed side by side. The document memory
        predicts, too, where the artifact has one, so the sum is what `score` charges for one text.
        Raises BadInput for a text of no bytes, or one that the artifact's tokenizer cannot write.

            >>> model.logprobs(["The file", b"The folder"])
            [LogProbs(2 tokens, 8 bytes, ... bits per byte), LogProbs(...)]
        """
        if isinstance(text, str | bytes):
            return self._logprobs([_bytes(text)])[0]
        return self._logprobs([*map(_bytes, text)])

    def _logprobs(self, documents: list[bytes]) -> list[LogProbs]:
        if not documents:
            return []
        if not all(documents):
            raise BadInput("a text has no bytes, so it has no log-probabilities: leave it out")
        tokenizer = self._artifact.tokenizer
        tokens = tokenizer.encode_documents(documents)
        starts = documents_of(tokens, tokenizer.bos_id)
        layout = Layout(len(tokens), Starts(starts, np.zeros(len(starts), bool)))
        logprobs = np.zeros(len(tokens))
        for costs in self._coding_model.token_costs(tokens, layout):
            logprobs[costs.positions] = -costs.nats
        return [
            LogProbs(ids, values[1:], int(tokenizer.byte_lengths(ids).sum()))
            for ids, values in zip(
                np.split(tokens, starts[1:]), np.split(logprobs, starts[1:]), strict=True
            )
        ]

    @checked
    def next_token(self, prompt: str | bytes = "") -> NextToken:
        """Return the distribution of the token after a prompt.

        Its logarithms are those of `logprobs`. A prompt that ends inside a word has other tokens
        than the whole word has. Raises BadInput where the tokenizer cannot write the prompt.

            >>> model.next_token("The file").probabilities.shape == (model.vocab_size,)
            True
        """
        tokens = self.encode(prompt).astype(np.int64)
        stepper = self._coding_model.stepper(Layout(len(tokens) + 1, Starts.whole()))
        for token, following in pairwise(tokens):
            stepper.step(np.array([token]))
            stepper.observe(np.array([following]))
        frequencies = np.diff(stepper.step(tokens[-1:])[0])
        return NextToken(frequencies / TOTAL, lambda token: self.token_bytes([*tokens, token])[-1])

    @checked
    def generate(
        self, prompt: str | bytes = "", tokens: int = 200, temperature: float = 0.8, seed: int = 0
    ) -> str:
        """Return what the model adds to a prompt: up to `tokens` tokens, or to the text's end.

        A token is drawn in proportion to p^(1/temperature); at 0 it is always the likeliest. The
        same arguments give the same text. The network alone predicts, without the document memory.
        Bytes that are no UTF-8 become U+FFFD. Raises BadInput for negative numbers.

            >>> model.generate("The file", tokens=3, seed=1)
            '...'
        """
        return "".join(self.stream(prompt, tokens, temperature, seed))

    @checked
    def stream(
        self, prompt: str | bytes = "", tokens: int = 200, temperature: float = 0.8, seed: int = 0
    ) -> Iterator[str]:
        """Return an iterator over the pieces of `generate`, token by token, as they are drawn.

        A piece is empty where a token ends inside a character. Raises BadInput for negative
        numbers.

            >>> for piece in model.stream("The file", tokens=3):
            ...     _ = sys.stderr.write(piece)
        """
        if min(tokens, temperature, seed) < 0 or not isfinite(temperature):
            raise BadInput("tokens, temperature and seed are numbers from 0: give such")
        return sample.sample(self._artifact, _bytes(prompt), tokens, float(temperature), seed)

    # compression

    @checked
    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return any bytes as a compressed file (.fwz).

        `fairway decompress` restores it, too.

            >>> small = model.compress(b"The file object must be opened first.")
            >>> len(small)
            4...
        """
        target = io.BytesIO()
        self.compress_file(io.BytesIO(data), target)
        return target.getvalue()

    @checked
    def decompress(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return what `compress` was given. The text of a proof is restored, too.

        Raises Damaged where the bytes are not what was written, BadInput for other files and those
        of another model.

            >>> model.decompress(model.compress(b"any bytes"))
            b'any bytes'
        """
        target = io.BytesIO()
        self.decompress_file(io.BytesIO(data), target)
        return target.getvalue()

    @checked
    def compress_file(self, source: Source, target: Target) -> None:
        """Compress what a binary file object holds into another one.

        It is read in pieces, so files may be larger than memory, or pipes.

            >>> with open("runs/demo/recipe.toml", "rb") as source, open("small", "wb") as target:
            ...     model.compress_file(source, target)
        """
        _refuse_text(source, target)
        compress.compress(self._artifact, source, target, "exact", lambda done: None)

    @checked
    def decompress_file(self, source: Source, target: Target) -> None:
        """Restore what a binary file object holds, as `decompress` does, into another one.

        What was written before an error is right, and is not all. Raises Damaged, BadInput.

            >>> with open("small", "rb") as source, open("again.toml", "wb") as target:
            ...     model.decompress_file(source, target)
        """
        _refuse_text(source, target)
        with console.quietly():
            compress.decompress(self._artifact, source, target, lambda done: None)

    # evidence

    @checked
    def score(self, text: str | bytes | Sequence[str | bytes]) -> ScoreResult:
        """Return bits per byte of a text, or of several, as `fairway score` computes them.

        Boundaries between texts are charged. Raises BadInput for a text of no bytes, Interrupted
        after Ctrl-C.

            >>> model.score(["The file object must be opened first.", "The folder is."]).sentence
            '... bits per byte (rolling, ... s)'
        """
        with self._job(text) as job:
            return score.score_text(*job)

    @checked
    def prove(self, text: str | bytes | Sequence[str | bytes]) -> Proof:
        """Write a text, or several, as a file that decodes from the model alone.

        The same model and text give the same bytes on every machine. Raises BadInput for a text of
        no bytes, Interrupted after Ctrl-C.

            >>> model.prove("The file object must be opened first.")
            Proof(... bytes for 37 bytes of text, ... bits per byte)
        """
        with self._job(text) as job:
            result = prove.prove_text(*job)
            return Proof(job[0].place.proof_file.read_bytes(), result.text_bytes)

    @contextmanager
    def _job(
        self, text: str | bytes | Sequence[str | bytes]
    ) -> Iterator[tuple[Job, Artifact, texts.Text]]:
        """Give a job in a directory that ends with it; its recipe has nothing but defaults."""
        opened, recipe = self._artifact, Recipe(name="python", train=Train(steps=1))
        encoded = texts.of_documents(_documents(text), _TEXT, opened.tokenizer)
        with TemporaryDirectory() as folder, console.quietly():
            yield Job(recipe, RunDirectory(folder)), opened, encoded


@dataclass(frozen=True, repr=False)
class Run:
    """A run directory after all stages of its recipe.

    `fairway.run` returns one.

        >>> run = fairway.run("runs/demo/recipe.toml", "runs/demo", quiet=True)
        >>> run.results["pack"].artifact_bytes, run.failures
        (..., [])
    """

    path: Path
    """The run directory: `fairway.load(run.path)` opens its artifact."""
    results: dict[str, Any]
    """The result of each stage by its name, as `fairway run --json` prints them."""

    @property
    def verdict(self) -> Verdict:
        """Return the verdict on the run's proof."""
        verdict: Verdict = self.results["verify"]
        return verdict

    @property
    def failures(self) -> list[str]:
        """Return what missed its limit, one sentence each: budgets, times, the proof."""
        return [result.failure for result in self.results.values() if result.failure]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.verdict.sentence})"


@checked
def load(path: str | os.PathLike[str]) -> Model:
    """Open the artifact in a file or a run directory.

    Raises BadInput that says what is wrong with it.

        >>> model = fairway.load("runs/demo/model.fairway")
    """
    return Model(path)


@checked
def verify(
    model: Model | str | os.PathLike[str],
    proof: Proof | bytes | str | os.PathLike[str],
    text: str | bytes | Sequence[str | bytes] | None = None,
) -> Verdict:
    """Decode a proof in a fresh process, and return the verdict.

    It trusts nothing but the bytes of the two files, which may be given by their names. text: what
    the proof must decode to. The verdict is true where the proof holds; `verdict.reason` says why
    it does not. Raises BadInput where a file cannot be read, or is another model's proof.

        >>> text = "The file object must be opened first."
        >>> verdict = fairway.verify(model, model.prove(text), text)
        >>> bool(verdict), verdict.compared_with
        (True, 'the given text')
        >>> print(fairway.verify("runs/demo", "runs/demo/proof/val.fwp").sentence)
        verified, ... bits per byte, ... bytes, compared with no text
    """
    documents = None if text is None else _documents(text)
    with console.quietly():
        return verdicts.verify_proof(_file(model), _file(proof), documents, _TEXT)


@checked
def run(
    recipe: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    force: str = "",
    quiet: bool = False,
) -> Run:
    """Run all stages of a recipe; stages whose inputs did not change are skipped.

    recipe: a shipped name or a TOML file. out: the run directory; runs/NAME by default. overrides:
    values by dotted key, as in {"train.steps": 100}. force: a stage that runs again, with all that
    depend on it. quiet: print no progress on stderr. Raises BadInput with all problems of the
    recipe at once, Interrupted after Ctrl-C, when the same call resumes.

        >>> fairway.run("runs/demo/recipe.toml", "runs/demo", quiet=True)
        Run('runs/demo', verified, ... bits per byte, ...)
    """
    sets = [f"{key}={_toml(key, value)}" for key, value in (overrides or {}).items()]
    loaded = toml.load(os.fspath(recipe), sets)
    directory = RunDirectory(out or Path("runs") / loaded.name)
    with console.quietly(quiet):
        return Run(directory.path, runner.run_stages(loaded, directory, force=force))


def _toml(key: str, value: object) -> str:
    try:
        return toml.as_toml(value)
    except TypeError:
        raise TypeError(f"run: overrides[{key!r}] is of {type(value)}, which is no TOML") from None


def _bytes(text: str | bytes) -> bytes:
    try:
        return text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise BadInput("the text holds half of a surrogate pair: give bytes instead") from None


def _documents(text: str | bytes | Sequence[str | bytes]) -> list[bytes]:
    return [*map(_bytes, [text] if isinstance(text, str | bytes) else text)]


def _file(given: Any) -> Path | bytes:
    """Return the name of a file, or the bytes of what `load` or `prove` returned."""
    return artifact_file(given) if isinstance(given, str | os.PathLike) else bytes(given)


def _refuse_text(*files: object) -> None:
    if any(isinstance(file, io.TextIOBase) for file in files):
        raise TypeError("the file is open as text: open it as binary, with mode 'rb' or 'wb'")
