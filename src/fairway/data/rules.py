"""Say which bytes of a document count, by two rules that depend on no tokenizer.

Rule "bytes": the document's own bytes. Rule "challenge": the bytes of the document after one fixed
normalisation, the one of the challenge's published tokenizers: SentencePiece's map `nmt_nfkc` of
version 0.2.1 (NFKC, and white space of all kinds becomes a space), one space for a run of spaces,
none at either end. Bits per byte of the two rules are not comparable.

Fairway builds the map itself and knows it by its SHA-256. Tokenizers that would make another text
of a document are refused when they are opened (data/challenge_tokenizer.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from fairway.errors import BadInput

Rule = Literal["bytes", "challenge"]

SPACE = "\u2581"  # SentencePiece's mark for a space
MAP_SHA256 = "79372c41389c2b9b29bc171017ab5400e352debd686b02670a42bec709015074"
# The same rule as other versions of SentencePiece write it, with Unicode's news of their day: a
# tokenizer that was trained with one of them is used with the pinned map.
OTHER_MAPS_SHA256 = {
    "51d3684747b35ef99cd4802f37cc1ee0c6bec4d060814f774efb1066d3c167f2": "0.2.0",
    "5febaab28312e9dbddb42be695c9e4380367f7ebe65121cdf894fb5d59d37eed": "0.2.2",
    "1e2c7b43d3ee9755ceaa2ac335e253d8703604e0249ee1e81156c92b46423844": "0.2.3",
}
# Settings of a SentencePiece normaliser that the rule fixes.
FLAGS = {
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": True,
    "escape_whitespaces": True,
}
_LATER = re.compile("[\u061c\ua7f1]")  # characters that versions after 0.2.1 map

NOT_UTF8 = (
    "a document is not valid UTF-8, which the challenge's tokenizer cannot write: "
    "use a tokenizer of Fairway's own"
)


def counted_bytes(document: bytes, rule: Rule) -> bytes:
    """Return the bytes of a document that count: BPB's denominator is their number.

    This is also the text that a decoder has to restore. Raises BadInput: the rule "challenge"
    knows valid UTF-8 only.
    """
    return counted_documents([document], rule)[0]


def counted_documents(documents: Sequence[bytes], rule: Rule) -> list[bytes]:
    """Return `counted_bytes` of each document. Raises BadInput."""
    if rule == "bytes":
        return list(documents)
    try:
        texts = [document.decode() for document in documents]
    except UnicodeDecodeError:
        raise BadInput(NOT_UTF8) from None
    normalizer = _normalizer()
    return [normalizer.normalize(text).replace(SPACE, " ").encode() for text in texts]


def difference(counted: bytes, other: bytes) -> str:
    """Return where another text differs from the bytes that count; empty: nowhere."""
    if counted == other:
        return ""
    pairs = zip(counted, other, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(counted), len(other)))
    return f"from byte {at} on {counted[at : at + 24]!r} became {other[at : at + 24]!r}"


def fault(counted: bytes, cut: bool = False) -> str:
    """Return why no document has these bytes after the challenge's normalisation; empty: one has.

    A text is the normalisation of some document if and only if it is UTF-8, the map leaves each
    of its characters alone, and its spaces are single and inside: the document with U+0001, which
    the map removes, between its characters shows it. `cut`: the bytes may end anywhere.
    """
    try:
        text = counted.decode()
    except UnicodeDecodeError as error:
        if not (cut and error.reason == "unexpected end of data"):
            return f"it is not valid UTF-8 at byte {error.start}"
        text = counted[: error.start].decode()
    if replaced := _mapped().intersection(text):
        return f"it holds U+{ord(min(replaced)):04X}, which the challenge's normalisation replaces"
    if text[:1] == " " or "  " in text or (text[-1:] == " " and not cut):
        return "it has a space at an end or beside another, and the challenge's normalisation none"
    return ""


def pinned_map() -> bytes:
    """Return the character map of the rule "challenge". Raises BadInput."""
    return _pinned()[0]


def normalizer_spec() -> Any:
    """Return the rule "challenge" as a NormalizerSpec of SentencePiece. Raises BadInput."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.NormalizerSpec(
        name="nmt_nfkc", precompiled_charsmap=pinned_map(), **FLAGS
    )


@cache
def _normalizer() -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceNormalizer(normalizer_spec=normalizer_spec())


@cache
def _pinned() -> tuple[bytes, list[tuple[str, str]]]:
    """Return the character map as SentencePiece stores it, and its entries (text, replacement)."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    sentencepiece.SetMinLogLevel(2)  # building a map is no news
    ours = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    entries = [entry for entry in ours.decompile() if not _LATER.search(entry[0])]
    built = sentencepiece.SentencePieceNormalizer(norm_map=entries)
    spec = sentencepiece_model_pb2.NormalizerSpec()
    spec.ParseFromString(built.serialized_normalizer_spec())
    if hashlib.sha256(spec.precompiled_charsmap).hexdigest() != MAP_SHA256:
        raise BadInput(
            f"SentencePiece {sentencepiece.__version__} cannot build the challenge's "
            "normalisation: install sentencepiece 0.2.3"
        )
    return spec.precompiled_charsmap, entries


@cache
def _mapped() -> frozenset[str]:
    """Return the characters that the map replaces or removes wherever they stand alone."""
    return frozenset(text for text, _ in _pinned()[1] if len(text) == 1)
