"""The text of an audit: its tokens, and the bytes that a decoder would have to restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from fairway.audit.scorer import Tokens
from fairway.coding import artifact
from fairway.data import rules
from fairway.data.challenge_tokenizer import load_challenge
from fairway.data.documents import read_documents
from fairway.data.shards import read_shard
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats.artifact import MAGIC
from fairway.io import foreign

_FIRST_PIECE_FIELD = b"\x0a"  # every SentencePiece model begins with it (field 1, a message)
_RULES = {
    "bytes": "the documents' own bytes, rule bytes",
    "challenge": "the documents' normalised text, rule challenge",
}
_DOCUMENTS_AT_ONCE = 64  # a decoded text takes far more memory than its tokens


@dataclass(frozen=True)
class AuditText:
    """Tokens int64[N] and, if a tokenizer is known, the bytes that each writes, int64[N]."""

    tokens: Tokens
    vocab_size: int
    bos_id: int | None
    lengths: Tokens | None = None
    loss: str = ""  # what the tokens do not restore of the text; empty: nothing
    rule: str = ""  # which bytes count, in words


def open_tokenizer(path: Path) -> Tokenizer:
    """Open a SentencePiece model, a tokenizer.fwt, or an artifact's tokenizer.

    The content tells which of them it is; the name does so only for a damaged one. BadInput.
    """
    data = foreign.read_bytes(path, "the tokenizer", 1 << 30)
    if data.startswith(MAGIC):
        return artifact.read(path).tokenizer
    if data.startswith(_FIRST_PIECE_FIELD) or path.suffix.lower() == ".model":
        return load_challenge(path)
    return read_tokenizer(data)


def of_text(file: Path, tokenizer: Tokenizer) -> AuditText:
    """Encode the documents of a file with `tokenizer`. Raises BadInput."""
    documents = read_documents(file)
    tokens = tokenizer.encode_documents(documents)
    loss = lost(documents, tokenizer.decode(tokens), tokenizer.rule)
    return _of(tokens.astype(np.int64), tokenizer, loss)


def of_shard(shard: Path, tokenizer: Tokenizer | None) -> AuditText:
    """Read the tokens of a shard. Without a tokenizer the first counts as BOS. Raises BadInput."""
    tokens = np.array(read_shard(shard), np.int64)
    if not tokens.size:
        raise BadInput(f"the shard {shard} holds no tokens")
    if tokenizer is not None:
        _check_rule(shard, tokens, tokenizer)
        return _of(tokens, tokenizer, "")
    return AuditText(tokens, int(tokens.max()) + 1, int(tokens[0]))


def _of(tokens: Tokens, tokenizer: Tokenizer, loss: str) -> AuditText:
    lengths = tokenizer.byte_lengths(tokens)
    return AuditText(
        tokens, tokenizer.vocab_size, tokenizer.bos_id, lengths, loss, _RULES[tokenizer.rule]
    )


def _check_rule(shard: Path, tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Refuse a shard whose tokens decode to bytes that no document can have. Raises BadInput.

    A shard may begin and end inside of a document: the first part is not looked at.
    """
    if tokenizer.rule == "bytes":
        return  # any bytes are a document
    starts = np.flatnonzero(tokens == tokenizer.bos_id)
    number = 0
    for part in np.split(tokens, starts[::_DOCUMENTS_AT_ONCE])[1:]:
        for document in tokenizer.decode(part):
            if reason := rules.fault(document, cut=number == len(starts) - 1):
                raise BadInput(
                    f"document {number} of the shard {shard} is no text by the rule "
                    f"'{tokenizer.rule}', so its bytes cannot be counted: {reason}; another "
                    "tokenizer made it"
                )
            number += 1


def lost(documents: Sequence[bytes], decoded: Sequence[bytes], rule: rules.Rule) -> str:
    """Return where decoded documents are another text than what counts; empty: nowhere.

    Under the rule "challenge" the normalised text counts: what that changes is part of its
    definition of the text, the same for every score. Anything else is an easier text.
    """
    counted = rules.counted_documents(documents, rule)
    for number, (wanted, restored) in enumerate(zip(counted, decoded, strict=True)):
        if wanted != restored:
            return f"document {number} is another text: {rules.difference(wanted, restored)}"
    return ""


def shortened(text: AuditText, count: int) -> AuditText:
    """Return the text's first `count` tokens."""
    lengths = None if text.lengths is None else text.lengths[:count]
    return replace(text, tokens=text.tokens[:count], lengths=lengths)


def slices(text: AuditText, length: int, count: int, random: np.random.Generator) -> list[Tokens]:
    """Draw `count` pieces of `length` tokens that begin with a document boundary, as texts do."""
    tokens, bos = text.tokens, text.bos_id
    if len(tokens) <= length:
        return [tokens] * count
    starts = np.flatnonzero(tokens == bos) if bos is not None else np.zeros(1, np.int64)
    starts = starts[starts + length <= len(tokens)]
    pieces = []
    for _ in range(count):
        if len(starts) >= count // 2:
            pieces.append(tokens[(at := int(random.choice(starts))) : at + length])
        else:  # few documents: begin anywhere, after a boundary of our own
            at = int(random.integers(1, len(tokens) - length + 2))
            pieces.append(np.concatenate([tokens[:1], tokens[at : at + length - 1]]))
    return pieces


def blocks(count: int, parts: int) -> list[tuple[int, int]]:
    """Cut the range 0 .. count into `parts` runs of about equal length: (first, end) of each."""
    edges = [count * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))
