"""Check SentencePiece models: they must keep the challenge's rule of counted bytes (rules.py).

A model is opened only if its tokens restore the normalised text of any document: then the bytes
that are charged are the bytes that count. `opened` builds the model anew from what it has checked,
with Fairway's own normaliser; nothing else of the file has any effect. An artifact holds pieces,
scores and settings: the normaliser's character map, which only an encoder needs, is named by the
rule and built by the SentencePiece library.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairway.data import rules
from fairway.data.tokenizer import (
    BPE,
    BYTE,
    CONTROL,
    MAX_VOCAB,
    NORMAL,
    THREADS,
    UNIGRAM,
    UNKNOWN,
    Tokenizer,
    Tokens,
    new_model,
    processor,
)
from fairway.errors import BadInput
from fairway.formats import byte_mixing
from fairway.io import foreign
from fairway.io.binary import Reader, varint

_SMALL_BYTES = 1 << 20  # of a model whose fields need not be counted
_BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]
_SEPARATOR = bytes([byte_mixing.SEPARATOR])
_MARK = 0xF8  # before a piece that is not normal, its type added; no byte of UTF-8
# The mark of a byte piece alone stands for all of them in order.
_ALL_BYTES = _SEPARATOR.join(bytes([_MARK + BYTE]) + name.encode() for name in _BYTE_NAMES)
_SETTINGS = ("model_type", "byte_fallback", "unk_id", "bos_id", "eos_id", "pad_id")


class ChallengeTokenizer(Tokenizer):
    """A SentencePiece model that keeps the challenge's rule: its tokens restore the counted bytes.

    Bytes of a token, the challenge's own formula: 0 for control and unknown pieces, the
    boundaries; 1 for byte pieces; else the length in UTF-8 with U+2581 as a space, the first of
    which is nothing right after a boundary.
    """

    rule = "challenge"

    def __init__(self, proto: Any, where: str) -> None:
        """Take `proto`, a ModelProto that has been checked (data/py)."""
        self._proto, self._where = proto, where
        pieces = [(piece.piece, piece.type) for piece in self._proto.pieces]
        self.vocab_size = len(pieces)
        self.bos_id = int(self._proto.trainer_spec.bos_id)
        self._is_boundary = np.array([_is_boundary(kind) for _, kind in pieces])
        first, elsewhere = zip(*(_written(*piece) for piece in pieces), strict=True)
        self._table = [*first, *elsewhere]

    def to_bytes(self) -> bytes:
        """Return settings, scores and pieces; the character map is named by the rule."""
        return b"\x02" + byte_mixing.compress(model_bytes(self._proto))

    def _forms(self, tokens: Tokens) -> NDArray[np.int64]:
        after_boundary = np.empty(tokens.size, bool)
        after_boundary[:1] = True
        after_boundary[1:] = self._is_boundary[tokens[:-1]]
        return np.where(after_boundary, 0, self.vocab_size) + tokens.astype(np.int64)

    def _encode_batch(self, documents: Sequence[bytes]) -> list[Tokens]:
        counted = rules.counted_documents(documents, self.rule)
        texts = [document.decode() for document in documents]
        encoded = self._processor.encode(texts, out_type=int, num_threads=THREADS)
        batch = [np.array(ids, np.uint16) for ids in encoded]
        for tokens, wanted in zip(batch, counted, strict=True):
            written = b"".join(self._table[form] for form in self._forms(tokens).tolist())
            if written != wanted:
                raise BadInput(
                    f"the tokenizer of {self._where} writes another text than the rule "
                    f"'challenge' counts: {rules.difference(wanted, written)}"
                )
        return batch

    @cached_property
    def _processor(self) -> Any:
        """Open the model with the rule's normaliser, which only encoding needs."""
        model = new_model()
        model.CopyFrom(self._proto)
        model.normalizer_spec.CopyFrom(rules.normalizer_spec())
        return processor(model.SerializeToString(), self._where)


def load_challenge(path: str | Path) -> Tokenizer:
    """Open the challenge's tokenizer, a SentencePiece .model file. Raises BadInput."""
    model = foreign.read_bytes(Path(path), "the tokenizer")
    return ChallengeTokenizer(opened(model, str(path)), str(path))


# The model of a tokenizer -----------------------------------------------------------------------


def opened(model: bytes, where: str) -> Any:
    """Return the ModelProto of a serialised SentencePiece model, built anew from what is checked.

    It has no normaliser: the rule's own is the only one (rules.normalizer_spec). Raises BadInput
    when the model is damaged or breaks the rule; `where` names it there.
    """
    _check_fields(model, where)
    given = new_model()
    try:
        given.ParseFromString(model)
        pieces = [(piece.piece, piece.type, piece.score) for piece in given.pieces]
    except Exception as error:  # DecodeError differs between protobuf's implementations
        raise BadInput(f"{where} holds no SentencePiece model: {error}") from None
    rebuilt = _rebuilt(
        pieces, {name: getattr(given.trainer_spec, name) for name in _SETTINGS}, where
    )
    if fault := _settings_fault(given):
        raise _broken(fault, where)
    return rebuilt


def model_bytes(proto: Any) -> bytes:
    """Return what `opened` keeps of a model: settings, scores and pieces (docs/formats.md)."""
    trainer, pieces = proto.trainer_spec, list(proto.pieces)
    scores = np.array([piece.score for piece in pieces], np.float32)
    is_ranked = np.array_equal(scores, _ranks([piece.type for piece in pieces]))
    numbers = (trainer.model_type, trainer.unk_id, trainer.bos_id, trainer.eos_id + 1)
    header = b"".join(map(varint, (*numbers, trainer.pad_id + 1, is_ranked)))
    if not is_ranked:
        header += varint(len(pieces)) + scores.astype("<f4").tobytes()
    names = [
        piece.piece.encode() if piece.type == NORMAL
        else bytes([_MARK + piece.type]) + piece.piece.encode()
        for piece in pieces
    ]  # fmt: skip
    joined = bytes([byte_mixing.SEPARATOR]).join(names)
    return header + joined.replace(_ALL_BYTES, bytes([_MARK + BYTE]))


def model_from_bytes(data: bytes, where: str) -> Any:
    """Return the ModelProto that `model_bytes` wrote. Raises BadInput; `where` names it there."""
    reader = Reader(data, "the tokenizer")
    kind, unk, bos, eos, pad, is_ranked = (
        reader.at_most(1 << 17, "as a setting") for _ in range(6)
    )
    count = 0 if is_ranked else reader.at_most(MAX_VOCAB, "pieces")
    scores = np.frombuffer(reader.take(4 * count), "<f4")
    names: list[bytes] = []
    for name in data[reader.position :].split(_SEPARATOR, MAX_VOCAB):
        names += _ALL_BYTES.split(_SEPARATOR) if name == bytes([_MARK + BYTE]) else [name]
        if len(names) > MAX_VOCAB:
            raise BadInput(f"{where} holds a SentencePiece model of too many pieces")
    is_marked = [name[:1] > bytes([_MARK]) for name in names]
    kinds = [name[0] - _MARK if m else NORMAL for name, m in zip(names, is_marked, strict=True)]
    try:
        texts = [name[marked:].decode() for name, marked in zip(names, is_marked, strict=True)]
    except UnicodeDecodeError:
        raise reader.bad("holds a piece that is no UTF-8") from None
    if is_ranked:
        scores = _ranks(kinds)
    if len(scores) != len(texts):
        raise reader.bad("has another number of scores than of pieces")
    if kind not in (UNIGRAM, BPE):
        raise reader.bad("is neither a byte-pair nor a unigram model")
    settings = dict(zip(_SETTINGS, (kind, True, unk, bos, eos - 1, pad - 1), strict=True))
    return _rebuilt(list(zip(texts, kinds, scores.tolist(), strict=True)), settings, where)


def _ranks(kinds: list[int]) -> NDArray[np.float32]:
    """Return the scores that byte-pair training gives: 0, -1, ... to normal pieces, 0 to others."""
    is_normal = np.array(kinds) == NORMAL
    return np.where(is_normal, 1 - np.cumsum(is_normal), 0).astype(np.float32)


def _rebuilt(pieces: list[tuple[str, int, float]], settings: dict[str, int], where: str) -> Any:
    """Return the ModelProto of checked pieces and settings. Raises BadInput."""
    bos = settings["bos_id"]
    if not 0 <= bos < len(pieces) <= MAX_VOCAB:
        raise BadInput(
            f"the SentencePiece model of {where} has {len(pieces)} pieces and the BOS id "
            f"{bos}: it needs a BOS piece and at most {MAX_VOCAB} pieces"
        )
    if fault := _pieces_fault(pieces, bos):
        raise _broken(fault, where)
    proto = new_model()
    for text, kind, score in pieces:
        piece = proto.pieces.add(piece=text, score=score + 0.0)  # one zero
        if kind != NORMAL:  # the default, which is not written
            piece.type = kind
    for name, value in settings.items():
        setattr(proto.trainer_spec, name, value)
    return proto


def _broken(fault: str, where: str) -> BadInput:
    return BadInput(
        f"the tokenizer of {where} breaks the rule 'challenge' of which bytes count: {fault}"
    )


def _written(text: str, kind: int) -> tuple[bytes, bytes]:
    """Return what a piece writes right after a document's start or a control token, and elsewhere.

    A mark for a space is a space. The first one of a piece is nothing where it would begin a text.
    """
    if kind == BYTE:
        byte = bytes([_BYTE_NAMES.index(text)])
        return byte, byte
    if kind != NORMAL:
        return b"", b""
    whole = text.replace(rules.SPACE, " ").encode()
    return whole.removeprefix(b" "), whole


def _is_boundary(kind: int) -> bool:
    """Return whether a piece writes nothing, so that a text begins after it."""
    return kind in (CONTROL, UNKNOWN)


def _settings_fault(model: Any) -> str:
    """Return why the settings would change the text of a document; empty if they do not."""
    spec, trainer = model.normalizer_spec, model.trainer_spec
    sha256 = hashlib.sha256(spec.precompiled_charsmap).hexdigest()
    if sha256 != rules.MAP_SHA256 and sha256 not in rules.OTHER_MAPS_SHA256:
        return (
            f"its normaliser's character map has SHA-256 {sha256}, not that of nmt_nfkc; train it "
            "with normalization_rule_name=nmt_nfkc"
        )
    for name, value in rules.FLAGS.items():
        if getattr(spec, name) != value:
            return f"its normaliser has {name}={not value}; train it with {name}={value}"
    if model.denormalizer_spec.precompiled_charsmap:
        return "it has a denormaliser, which would rewrite what the tokens say"
    if trainer.model_type not in (UNIGRAM, BPE):
        return "it is neither a byte-pair nor a unigram model"
    if not trainer.byte_fallback:
        return "it cannot write every character; train it with byte_fallback=True"
    if trainer.treat_whitespace_as_suffix:
        return "it writes a space at the end of words; train it with that setting off"
    return ""


def _pieces_fault(pieces: list[tuple[str, int, float]], bos: int) -> str:
    """Return why tokens of these pieces would not restore a text; empty if they do."""
    kinds = {text: kind for text, kind, _ in pieces}
    if len(kinds) < len(pieces):
        twice = Counter(text for text, _, _ in pieces).most_common(1)[0][0]
        return f"it has the piece {twice!r} twice"
    for text, kind, score in pieces:
        if kind not in (NORMAL, UNKNOWN, CONTROL, BYTE):
            return f"its piece {text!r} is user-defined or unused: only plain pieces may be text"
        if not text or "\0" in text or not math.isfinite(score):
            return f"its piece {text!r} is empty, holds a NUL or has no finite score"
        if kind == BYTE and text not in _BYTE_NAMES:
            return f"it has {text!r} for a byte, not <0x41>"
        if _is_boundary(kind) and len(text) == 1:
            return f"its control piece {text!r} is a character, which it would not write"
    missing = [name for name in _BYTE_NAMES if kinds.get(name) != BYTE]
    if missing:
        return f"it has no byte piece {missing[0]}"
    if pieces[bos][1] != CONTROL:
        return f"its BOS piece {pieces[bos][0]!r} is not a control piece"
    if sum(kind == UNKNOWN for kind in kinds.values()) != 1:
        return "it does not have one piece for unknown text"
    if kinds.get(rules.SPACE) != NORMAL:
        return (
            "it has no piece for a lone space (U+2581), so a space would become the three byte "
            "tokens of U+2581 and count as three bytes; use a tokenizer that has it"
        )
    return ""


def _check_fields(model: bytes, where: str) -> None:
    """Raise BadInput when a model has more fields than pieces can need: each costs memory.

    A field of protobuf may have two bytes, and becomes an object of a hundred.
    """
    if len(model) <= _SMALL_BYTES:
        return
    count, waiting = 0, [(0, len(model), True)]
    while waiting:
        at, end, is_outer = waiting.pop()
        while at < end:
            count += 1
            key, at = _number(model, at)
            kind = key & 7
            if kind == 0:
                _, at = _number(model, at)
            elif kind == 2:
                size, at = _number(model, at)
                if is_outer:
                    waiting.append((at, min(at + size, end), False))
                at += size
            else:
                at += {1: 8, 5: 4}.get(kind, 1)
            if count > 8 * MAX_VOCAB:
                raise BadInput(f"{where} holds a SentencePiece model of too many pieces or fields")


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a varint and where it ends; whatever stands there where it is damaged."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at] if at < len(data) else 0
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            break
    return value, at
