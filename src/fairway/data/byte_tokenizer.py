"""Fairway's own tokenizer, which restores any bytes, and its training.

Ids: 0 is BOS, 1..256 are the bytes 0..255, 257.. are byte-pair pieces in the
order in which they were merged. SentencePiece trains the pieces and does the encoding, without any
normalisation. What it cannot write (its own mark for a space, the characters that stand for newline
and tab, invalid UTF-8) is cut out first and written as byte tokens. Decoding is a table of bytes.
With `cased` pieces, words are in lower case behind marks, which decoding takes back (case.py).

An artifact stores only the pieces: the SentencePiece model is rebuilt from them.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fairway.data import case, rules
from fairway.data.tokenizer import (
    BPE,
    BYTE,
    MAX_VOCAB,
    NORMAL,
    THREADS,
    UNKNOWN,
    Tokenizer,
    Tokens,
    concatenate,
    new_model,
    processor,
)
from fairway.errors import BadInput
from fairway.formats import byte_mixing

BOS = 0
FIRST_BYTE = 1  # id of byte 0
FIRST_PIECE = 257

_NEWLINE, _TAB = "\ue00a", "\ue009"  # private use: its trainer stops at the real ones
_MARKS = {" ": rules.SPACE, "\n": _NEWLINE, "\t": _TAB}
_TO_MARKS = str.maketrans(_MARKS)
_FROM_MARKS = str.maketrans({mark: character for character, mark in _MARKS.items()})
# Invalid bytes decode to the surrogates U+DC80..U+DCFF (Python's surrogateescape).
_UNWRITABLE = re.compile(f"([{rules.SPACE}{_NEWLINE}{_TAB}{case.MARKS}\udc80-\udcff]+)")
# The trainer skips every sentence that holds a NUL or U+2585, its mark for unknown characters.
_UNTRAINABLE = f"{rules.SPACE}{_NEWLINE}{_TAB}\u2585\x7f" + "".join(
    chr(i) for i in range(32) if chr(i) not in _MARKS
)
_TRAIN_CHARS = 1 << 12  # per sentence
_ENCODE_CHARS = 1 << 16  # SentencePiece takes some 100 bytes of memory per character of a text


class ByteTokenizer(Tokenizer):
    """Fairway's own: any bytes in, the same bytes out."""

    rule = "bytes"
    bos_id = BOS

    def __init__(self, pieces: Sequence[str], cased: bool = False) -> None:
        """Take pieces in merge order, each of two bytes or more; cased: with marks among them."""
        self._pieces, self._cased = list(pieces), cased
        self._table = [b"", *(case.raw(i) if cased else bytes([i]) for i in range(256))]
        self._table += [case.written(p) if cased else p.encode() for p in self._pieces]
        self.vocab_size = len(self._table)

    def to_bytes(self) -> bytes:
        # UTF-8 never holds the byte 255.
        kind = b"\x03" if self._cased else b"\x01"
        return kind + byte_mixing.compress(b"\xff".join(piece.encode() for piece in self._pieces))

    def _finished(self, written: bytes) -> bytes:
        return case.unmark(written) if self._cased else written

    def most_tokens(self, text_bytes: int, documents: int) -> int:
        return (1 + self._cased) * text_bytes + documents  # a mark for every byte: "A" is two

    def spellings(self) -> list[bytes]:
        return [case.spelled(piece) if self._cased else piece for piece in self._table]

    def _forms(self, tokens: Tokens) -> npt.NDArray[np.int64]:
        return tokens.astype(np.int64)

    def _encode_batch(self, documents: Sequence[bytes]) -> list[Tokens]:
        plans = [list(_segments(document, self._cased)) for document in documents]
        texts = [part for plan in plans for part in plan if isinstance(part, str)]
        encoded = iter(self._processor.encode(texts, out_type=int, num_threads=THREADS))
        return [
            concatenate(
                self._id_of_model_id[next(encoded)]
                if isinstance(part, str)
                else np.frombuffer(part, np.uint8).astype(np.uint16) + np.uint16(FIRST_BYTE)
                for part in plan
            )
            for plan in plans
        ]

    @cached_property
    def _id_of_model_id(self) -> Tokens:
        """Map ids of the rebuilt model to ours, uint16[V + 3]: the same, then the three marks."""
        marks = [FIRST_BYTE + ord(character) for character in _MARKS]
        return np.array([*range(self.vocab_size), *marks], np.uint16)

    @cached_property
    def _processor(self) -> Any:
        """Build a SentencePiece byte-pair model that merges the pieces by rank."""
        model = new_model()
        model.trainer_spec.model_type = BPE
        model.trainer_spec.byte_fallback = True
        model.normalizer_spec.name = "identity"
        model.normalizer_spec.add_dummy_prefix = False
        model.normalizer_spec.remove_extra_whitespaces = False
        model.pieces.add(piece="<unk>", score=0.0, type=UNKNOWN)
        for byte in range(256):
            model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=BYTE)
        pieces = [piece.translate(_TO_MARKS) for piece in self._pieces]
        for rank, piece in enumerate([*pieces, *_MARKS.values()]):
            model.pieces.add(piece=piece, score=-float(rank), type=NORMAL)
        return processor(model.SerializeToString(), "the artifact")


def parse(data: bytes, cased: bool) -> ByteTokenizer:
    """Return the tokenizer of pieces that the byte 255 separates. Raises BadInput."""
    if data.count(b"\xff") >= MAX_VOCAB:
        raise BadInput("the tokenizer is damaged: its pieces are too many")
    try:
        pieces = [piece.decode() for piece in data.split(b"\xff")] if data else []
    except UnicodeDecodeError:
        raise BadInput("the tokenizer is damaged: a piece is not UTF-8") from None
    tokenizer = ByteTokenizer(pieces, cased)
    if len(set(tokenizer._table)) < tokenizer.vocab_size or tokenizer.vocab_size > MAX_VOCAB:
        raise BadInput("the tokenizer is damaged: its pieces are too many or not distinct")
    if any(mark in piece for piece in pieces for mark in _MARKS.values()):
        raise BadInput(
            "the tokenizer is damaged: a piece holds U+2581, U+E009 or U+E00A, which stand for "
            "a space, a tab and a newline and would restore another text"
        )
    if cased and not set(case.MARKS) <= set(pieces):
        raise BadInput("the tokenizer is damaged: it lacks the marks of capital letters")
    return tokenizer


def train_tokenizer(documents: Iterable[bytes], vocab_size: int, cased: bool = False) -> Tokenizer:
    """Train Fairway's tokenizer with `vocab_size` ids. Equal documents give an equal tokenizer.

    SentencePiece byte-pair training: pieces do not reach over a space, digits stand alone, runs of
    spaces may be pieces. Raises BadInput when the documents allow fewer pieces.

    cased: words in lower case behind marks, which are the first two pieces (case.py).
    """
    texts = [document.decode("utf-8", "surrogateescape") for document in documents]
    if cased:
        texts = [case.mark(text) for text in texts]
    always = case.MARKS if cased else ""
    pieces = _train_pieces(texts, vocab_size, always)
    if FIRST_PIECE + len(pieces) == vocab_size:
        return ByteTokenizer(pieces, cased)
    largest = vocab_size
    while FIRST_PIECE + len(pieces) < largest:  # a smaller vocabulary has a smaller alphabet
        largest = FIRST_PIECE + len(pieces)
        pieces = _train_pieces(texts, largest, always)
    if not pieces:
        raise BadInput("there is too little train text for a tokenizer: give it more documents")
    raise BadInput(
        f"data.vocab_size {vocab_size} is too large for this train text: "
        f"it allows at most {largest}"
    )


def _train_pieces(texts: Sequence[str], vocab_size: int, always: str) -> list[str]:
    """Train vocab_size - 257 pieces in merge order, or as many as the texts allow.

    The characters `always` are the first of them.
    """
    single, longer = _alphabet(texts, vocab_size, always)
    if not {*single, *longer}.difference(always):
        return []
    model = _train_model(_sentences(texts, single + longer), vocab_size + len(single))
    merged = [
        piece.piece.translate(_FROM_MARKS)
        for piece in model.pieces
        if piece.type == NORMAL and len(piece.piece) > 1
    ]
    return (longer + merged)[: vocab_size - FIRST_PIECE]  # a mark may be in no text


def _alphabet(texts: Sequence[str], vocab_size: int, always: str) -> tuple[list[str], list[str]]:
    """Return the characters that training sees: of one byte, and longer ones that earn a piece.

    A longer character earns one when it saves more byte tokens than a usual piece saves tokens:
    about one in 8 · vocab_size characters of the text. They get at most half of the pieces.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in [c for c in counts if c in _UNTRAINABLE or "\udc80" <= c <= "\udcff"]:
        del counts[character]
    least = counts.total() / (8 * vocab_size)
    earning = {c: n for c, n in counts.items() if ord(c) > 127 and c not in always}
    saved = {c: n * (len(c.encode()) - 1) for c, n in earning.items()}
    ranked = sorted((-s, c) for c, s in saved.items() if s >= least)
    longer = [*always, *(c for _, c in ranked)][: max(len(always), (vocab_size - FIRST_PIECE) // 2)]
    return sorted(c for c in counts if ord(c) < 128), longer


def _train_model(sentences: Iterator[str], size: int) -> Any:
    """Train a ModelProto of `size` pieces or less: unknown, bytes, merges, single characters."""
    import sentencepiece

    model, proto = io.BytesIO(), new_model()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        max_sentence_length=8 * _TRAIN_CHARS,
        num_threads=THREADS,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    proto.ParseFromString(model.getvalue())
    return proto


def _sentences(texts: Iterable[str], alphabet: Sequence[str]) -> Iterator[str]:
    """Yield stretches of texts in the alphabet alone, with newlines and tabs marked."""
    other = re.compile(f"[^{re.escape(''.join(alphabet))}]+")
    for text in texts:
        for stretch in other.split(text):
            for part in _cut(_mark_lines(stretch), _TRAIN_CHARS):
                yield from (
                    part[i : i + 2 * _TRAIN_CHARS] for i in range(0, len(part), 2 * _TRAIN_CHARS)
                )


def _segments(document: bytes, cased: bool) -> Iterator[str | bytes]:
    """Split a document into text for SentencePiece (str) and bytes that become byte tokens."""
    text = document.decode("utf-8", "surrogateescape")
    for i, part in enumerate(_UNWRITABLE.split(text)):
        if i % 2:
            yield part.encode("utf-8", "surrogateescape")
        elif part:
            marked = case.mark(part) if cased else part
            yield from _cut(_mark_lines(marked), _ENCODE_CHARS)


def _mark_lines(text: str) -> str:
    return text.replace("\n", _NEWLINE).replace("\t", _TAB)


def _cut(text: str, size: int) -> Iterator[str]:
    """Cut at a space that follows another character, where no piece reaches over; 0 or more parts.

    Parts are a little over `size` characters, the last one shorter.
    """
    start = 0
    while len(text) - start > size:
        end = text.find(" ", start + size)
        while end > 0 and text[end - 1] == " ":
            end = text.find(" ", end + 1)
        if end < 0:
            break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
