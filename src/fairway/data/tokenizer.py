"""Turn documents into tokens and back: what all tokenizers share.

Fairway's own tokenizer is in byte_tokenizer.py, the challenge's in challenge_tokenizer.py;
stored_tokenizer.py opens either.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fairway.data import rules
from fairway.errors import BadInput

Tokens = npt.NDArray[np.uint16]

MAX_VOCAB = 1 << 16
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # ModelProto.Type
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
THREADS = min(2, os.cpu_count() or 1)
_BATCH_BYTES = 1 << 18  # encoded together: ids are Python integers at first, 36 bytes each


class Tokenizer(ABC):
    """Documents (bytes) ↔ tokens (uint16), with a BOS token before each document.

    `rule` says which bytes of a document count (rules.py): "bytes", all; "challenge", those
    of its normalised text. What tokens decode to are these bytes, for every tokenizer that opens.
    """

    rule: ClassVar[rules.Rule]
    vocab_size: int
    bos_id: int
    _table: list[bytes]  # what each form of a token writes

    @abstractmethod
    def _encode_batch(self, documents: Sequence[bytes]) -> list[Tokens]:
        """Return the tokens of each document, without BOS."""

    @abstractmethod
    def _forms(self, tokens: Tokens) -> npt.NDArray[np.int64]:
        """Return the index into `_table` of each token, given the previous token: int64[N]."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Return all that encoding and decoding need, compact (docs/formats.md)."""

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of `to_bytes()`, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def encode(self, document: bytes) -> Tokens:
        """Return the tokens of one document without BOS, uint16[n]."""
        return self._encode_batch([document])[0]

    def encode_documents(self, documents: Iterable[bytes]) -> Tokens:
        """Return the tokens of all documents, each with BOS before it: uint16[N]."""
        return concatenate(self.encode_stream(documents))

    def encode_stream(self, documents: Iterable[bytes]) -> Iterator[Tokens]:
        """Yield the tokens of all documents, each with BOS before it, in parts."""
        bos = np.array([self.bos_id], np.uint16)
        for batch in groups(documents, _BATCH_BYTES):
            for tokens in self._encode_batch(batch):
                yield bos
                yield tokens

    def decode(self, tokens: npt.ArrayLike) -> list[bytes]:
        """Return the documents of tokens[N], whose first is BOS. Raises BadInput."""
        ids = self._checked(tokens)
        starts = np.flatnonzero(ids == self.bos_id).tolist()
        if ids.size and starts[:1] != [0]:
            raise BadInput("the tokens do not begin with a document boundary (BOS)")
        written = [self._table[form] for form in self._forms(ids).tolist()]
        ends = pairwise([*starts, len(written)])
        return [self._finished(b"".join(written[a:b])) for a, b in ends]

    def byte_lengths(self, tokens: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the bytes that each of tokens[N] writes, int64[N]; 0 for BOS.

        The first token counts as the first of a document. Raises BadInput.
        """
        return self._lengths[self._forms(self._checked(tokens))]

    def most_tokens(self, text_bytes: int, documents: int) -> int:
        """Return the most tokens of a text: each writes a byte, but BOS and the one after it."""
        return text_bytes + 2 * documents

    def spellings(self) -> list[bytes]:
        """Return what each token writes behind another one; marks of capitals are characters."""
        return self._table[-self.vocab_size :]

    @cached_property
    def _lengths(self) -> npt.NDArray[np.int64]:
        return np.array([len(self._finished(piece)) for piece in self._table], np.int64)

    def _finished(self, written: bytes) -> bytes:
        """Return the text of what tokens write, joined; its length is the sum of theirs."""
        return written

    def _checked(self, tokens: npt.ArrayLike) -> Tokens:
        ids = np.asarray(tokens)
        if ids.size and (int(ids.max()) >= self.vocab_size or int(ids.min()) < 0):
            raise BadInput(
                f"the tokens hold ids outside 0..{self.vocab_size - 1}, the tokenizer's: "
                "they are damaged or another tokenizer made them"
            )
        return ids.astype(np.uint16, copy=False)


def concatenate(parts: Iterable[Tokens]) -> Tokens:
    return np.concatenate([np.empty(0, np.uint16), *parts])


def new_model() -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto()


def processor(model: bytes, where: str) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise BadInput(f"SentencePiece refuses the tokenizer of {where}: {error}") from None


def groups(documents: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield successive documents in groups that end once they hold `size` bytes."""
    group: list[bytes] = []
    held_bytes = 0
    for document in documents:
        group.append(document)
        held_bytes += len(document)
        if held_bytes >= size:
            yield group
            group, held_bytes = [], 0
    if group:
        yield group
