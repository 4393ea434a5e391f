"""The text that is scored or proved: the validation split, or a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairway.coding.lanes import documents_of
from fairway.data import rules
from fairway.data.documents import stream_documents
from fairway.data.rules import Rule
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats.proof import Digest
from fairway.pipeline.data_folder import load_val
from fairway.pipeline.directory import Job
from fairway.pipeline.results import PrepareResult

_DOCUMENTS_AT_ONCE = 64  # a decoded text takes far more memory than its tokens


@dataclass(frozen=True)
class Text:
    """Tokens and what they decode to; the lengths' hash is over little-endian u64s."""

    tokens: NDArray[np.uint16]  # [N], BOS before each document
    text_bytes: int
    text_sha256: str
    lengths_sha256: str
    starts: NDArray[np.int64]  # [D] of the documents, in tokens
    lengths: NDArray[np.int64]  # [D] of the documents, in bytes


def load(job: Job, tokenizer: Tokenizer) -> Text:
    """Return the validation split of the run, or the documents in `job.text`, as tokens.

    Raises BadInput when there is no text, or the split is not the one that `prepare` made.
    """
    run, file = job.run, job.text
    if file is not None:
        documents = stream_documents(file, job.recipe.data.text_field)
        return of_documents(documents, str(file), tokenizer)
    prepared = run.require(PrepareResult)
    folder = run.data_folder(prepared)
    text = describe(load_val(folder), tokenizer)
    if text.text_sha256 != prepared.text_sha256:
        raise BadInput(
            f"the validation tokens in {folder} do not decode to the text that 'prepare' made: "
            f"fairway run {run.recipe} --out {run.path} --force prepare makes them again"
        )
    return text


def of_documents(documents: Iterable[bytes], name: str, tokenizer: Tokenizer) -> Text:
    """Return documents, which errors call `name`, as tokens.

    The bytes that count are computed without the tokenizer. Raises BadInput when it restores
    others.
    """
    counted = Digest()
    text = describe(_encoded(documents, name, tokenizer, counted), tokenizer)
    if text.text_bytes == 0:
        raise BadInput(f"{name} holds nothing that the artifact's tokenizer can write")
    if (text.text_sha256, text.lengths_sha256) != (counted.text_sha256, counted.lengths_sha256):
        raise BadInput(
            f"the artifact's tokenizer makes {text.text_bytes:,} bytes of {name}, and by the "
            f"rule '{tokenizer.rule}' {counted.text_bytes:,} bytes count: what it restores is "
            "another text, so its bits per byte say nothing"
        )
    return text


def _encoded(
    documents: Iterable[bytes], name: str, tokenizer: Tokenizer, counted: Digest
) -> NDArray[np.uint16]:
    """Return the tokens of documents, on disk: texts may be larger than memory.

    `counted` learns the bytes that count. Raises BadInput.
    """

    def counting() -> Iterator[bytes]:
        for document in documents:
            counted.update(rules.counted_bytes(document, tokenizer.rule))
            yield document

    with tempfile.TemporaryFile() as spilled:
        for piece in tokenizer.encode_stream(counting()):
            spilled.write(piece.tobytes())
        spilled.flush()
        if not spilled.tell():
            raise BadInput(f"{name} holds no text")
        return np.memmap(spilled, np.uint16, "r")  # the mapping outlives the name


def digest_of(documents: Iterable[bytes], name: str, rule: Rule) -> Digest:
    """Return the digest of documents, of the bytes that count under `rule`.

    No tokenizer is asked what the text is. Raises BadInput, which calls the documents `name`.
    """
    digest = Digest()
    for document in documents:
        digest.update(rules.counted_bytes(document, rule))
    if not digest.text_bytes:
        raise BadInput(f"{name} holds no text")
    return digest


def describe(tokens: NDArray[np.uint16], tokenizer: Tokenizer) -> Text:
    """Return tokens with the hashes and lengths of what they decode to."""
    digest = Digest()
    starts, lengths = documents_of(tokens, tokenizer.bos_id), []
    for part in np.split(tokens, starts[::_DOCUMENTS_AT_ONCE][1:]):
        for document in tokenizer.decode(part):
            digest.update(document)
            lengths.append(len(document))
    return Text(
        tokens,
        digest.text_bytes,
        digest.text_sha256,
        digest.lengths_sha256,
        starts,
        np.array(lengths, np.int64),
    )
