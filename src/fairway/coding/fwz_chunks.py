"""A chunk of a compressed file: pieces of it, each coded by the network or by brotli.

A network that learned prose codes prose far better than a general compressor does, and program
text, tables or noise worse. So every piece goes to the one that charges less. What the network
charges is known before anything is written, from the pass that computes the probabilities: each of
its pieces is a document and a lane of its own, so that no other piece changes its charge.

Two promises hold by construction. A chunk is never longer than brotli alone or the text itself,
but for _FRAME_BYTES: both are always tried. And a decoder computes at most TOKENS_PER_SAVED_BYTE
tokens with the network for every byte that this saves: else the network is not used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

import brotli
import numpy as np

from fairway.coding.codec import (
    CRC_BYTES,
    Codec,
    Coded,
    Reader,
    Tokens,
    another_text,
    checksum_bytes,
    read_coded,
    varint,
)
from fairway.coding.lanes import Layout, Longs, Starts, documents_of
from fairway.coding.predictor import Intervals
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput

VERSION = 4  # of the format of compressed files
MAX_CHUNK_BYTES = 2_000_000  # under 2^21, so that a stored chunk's length takes 3 bytes
PIECE_BYTES = 1 << 15  # about as many tokens of prose as a lane is long elsewhere
# What a chunk begins with; k >= _GROUPED: k - _GROUPED + 1 groups.
_END, _STORED, _GENERAL, _GROUPED = 0, 1, 2, 3
_MOST_PIECES = MAX_CHUNK_BYTES // PIECE_BYTES + 1
TOKENS_PER_SAVED_BYTE = 32  # at most; a chunk that saves less is not worth a decoder's time
TOKENS_PER_STREAM_BYTE = 512  # at most, and some free: a few bytes cannot ask for hours
_FREE_TOKENS = 4096
_GENERAL_QUALITY, _PRICING_QUALITY, _WINDOW_BITS = 11, 9, 24
# Bits per byte by brotli between which the network is asked: below, no small network is better;
# above, nothing is.
_ASK_FROM, _ASK_TO = 1.5, 7.8
# A piece whose samples cost so many times what brotli charges for it is not asked further.
_SAMPLES, _SAMPLE_TOKENS, _HOPELESS = 8, 128, 2.0
_PIECE_OVERHEAD_BYTES = 4  # of a piece that the network codes: its lane, and a group at times

Report = Callable[[int], None]  # told how many bytes of the chunk are done
Group = tuple[int, int]  # bytes by brotli, then documents by the network


@dataclass(frozen=True)
class Chunk:
    """One chunk as it was read; its checksum is right."""

    name: str
    groups: list[Group]  # none: nothing of it was cut into pieces
    general: bytes  # brotli; or the text itself
    is_stored: bool
    coded: Coded | None
    checksum: bytes  # of what the network coded


@dataclass(frozen=True)
class _Charged:
    """The pieces that the network was asked about."""

    tokens: Tokens  # of all of them, each after a BOS
    intervals: Intervals | None  # of all tokens; None: only lockstep gives them
    pieces: list[int]
    charges: list[float]  # bytes
    counts: list[int]  # tokens


def end() -> bytes:
    return varint(_END)


def encode(codec: Codec, text: bytes, report: Report) -> bytes:
    """The shortest of the ways to write a text of 1 to MAX_CHUNK_BYTES. Raises BadInput.

    The network codes pieces only where that pays for the time that decoding them takes.
    """
    pieces = list(cut(text))
    packed = brotli.compress(text, quality=_GENERAL_QUALITY, lgwin=_WINDOW_BITS)
    bodies: list[bytes] = [varint(_STORED) + varint(len(text)) + text]
    bodies.append(varint(_GENERAL) + varint(len(packed)) + packed)
    without = min(bodies, key=len)
    general = _general_charges(pieces, len(packed))
    charged = _ask(codec, pieces, general, report)
    chosen = {
        i
        for i, charge, tokens in zip(charged.pieces, charged.charges, charged.counts, strict=True)
        if charge + tokens / TOKENS_PER_SAVED_BYTE < general[i]
    }
    if not chosen:
        return without
    body, tokens, stream_bytes = _body(codec, pieces, chosen, charged)
    pays = tokens <= TOKENS_PER_SAVED_BYTE * (len(without) - len(body))
    return body if pays and tokens <= _most_tokens(stream_bytes) else without


def _most_tokens(stream_bytes: int) -> int:
    """How many tokens a coded part may have, by the length of its stream."""
    return _FREE_TOKENS + TOKENS_PER_STREAM_BYTE * stream_bytes


def cut(text: bytes) -> Iterator[bytes]:
    """Pieces of PIECE_BYTES and up to 3 more, as no character of UTF-8 is cut in two."""
    start = 0
    while start < len(text):
        stop = last = start + PIECE_BYTES
        while stop < min(last + 3, len(text)) and text[stop] & 0xC0 == 0x80:
            stop += 1
        yield text[start:stop]
        start = stop


def read(reader: Reader, tokenizer: Tokenizer, version: int = VERSION) -> Chunk | None:
    """The next chunk; None for the mark of the end. Raises BadInput."""
    kind = reader.varint()
    if version == 3 and kind >= _GENERAL:  # which had no chunks by brotli alone
        kind += 1
    if kind == _END:
        reader.check()
        return None
    if kind == _STORED:
        stored = reader.take(_at_most(reader, MAX_CHUNK_BYTES))
        if not stored:
            raise reader.bad("holds nothing")
        reader.check()
        return Chunk(reader.what, [], stored, True, None, b"")
    if kind == _GENERAL:
        general = reader.take(_at_most(reader, 2 * MAX_CHUNK_BYTES))
        reader.check()
        return Chunk(reader.what, [], general, False, None, b"")
    if kind - _GROUPED >= _MOST_PIECES:
        raise reader.bad(f"claims {kind - _GROUPED + 1} groups of pieces")
    groups = [
        (_at_most(reader, MAX_CHUNK_BYTES), _at_most(reader, MAX_CHUNK_BYTES))
        for _ in range(kind - _GROUPED + 1)
    ]
    general_bytes, documents = (sum(column) for column in zip(*groups, strict=True))
    if general_bytes > MAX_CHUNK_BYTES:
        raise reader.bad(f"claims {general_bytes} bytes")
    general = reader.take(_at_most(reader, 2 * MAX_CHUNK_BYTES)) if general_bytes else b""
    if documents > _MOST_PIECES:
        raise reader.bad(f"claims {documents} pieces")
    if not (all(b for b, _ in groups[1:]) and all(d for _, d in groups[:-1]) and any(groups[-1])):
        raise reader.bad("has a group of pieces that is no group")
    most = tokenizer.most_tokens(MAX_CHUNK_BYTES, documents)
    coded = read_coded(reader, most) if documents else None
    if coded:
        _check_work(reader, coded, documents, tokenizer)
    checksum = reader.take(CRC_BYTES) if coded else b""
    reader.check()
    return Chunk(reader.what, groups, general, False, coded, checksum)


def _check_work(reader: Reader, coded: Coded, documents: int, tokenizer: Tokenizer) -> None:
    """Raise BadInput unless every piece is a lane of its own and no longer than a piece may be."""
    if len(coded.starts) != documents or coded.starts.inside.any():
        raise reader.bad(f"claims {len(coded.starts)} lanes for {documents} pieces")
    longest = int(np.diff(np.append(coded.starts.positions, coded.tokens)).max())
    if longest > tokenizer.most_tokens(PIECE_BYTES + 3, 1):
        raise reader.bad(f"claims a piece of {longest} tokens")
    if coded.tokens > _most_tokens(len(coded.stream)):
        raise reader.bad(f"claims {coded.tokens} tokens in {len(coded.stream)} bytes")


def decode(codec: Codec, chunk: Chunk) -> bytes:
    """The text of a chunk. Raises BadInput when it is not what was encoded."""
    if chunk.is_stored:
        return chunk.general
    if not chunk.groups:
        return _unpack(chunk.general, MAX_CHUNK_BYTES, chunk.name)
    general_bytes, documents = (sum(column) for column in zip(*chunk.groups, strict=True))
    general = _unpack(chunk.general, general_bytes, chunk.name) if general_bytes else b""
    if len(general) != general_bytes:
        raise BadInput(f"{chunk.name} unpacks to less than it claims: it is damaged")
    found = codec.decode_coded(chunk.coded, lambda *_: None, MAX_CHUNK_BYTES) if chunk.coded else []
    if len(found) != documents or general_bytes + sum(map(len, found)) > MAX_CHUNK_BYTES:
        raise BadInput(f"{chunk.name} decodes to more or less than it claims: it is damaged")
    if chunk.coded and checksum_bytes(zlib.crc32(b"".join(found))) != chunk.checksum:
        raise another_text(chunk.name)
    text, place, document = [], 0, 0
    for by_brotli, by_network in chunk.groups:
        text.append(general[place : place + by_brotli])
        text += found[document : document + by_network]
        place, document = place + by_brotli, document + by_network
    return b"".join(text)


def _at_most(reader: Reader, limit: int) -> int:
    value = reader.varint()
    if value > limit:
        raise reader.bad(f"claims {value} bytes or pieces")
    return value


def _general_charges(pieces: list[bytes], written_bytes: int) -> list[float]:
    """Bytes that brotli adds for each piece after those before it.

    They sum to what is written, at a quality that is too slow to be asked after every piece.
    """
    packer = brotli.Compressor(quality=_PRICING_QUALITY, lgwin=_WINDOW_BITS)
    charges = [len(packer.process(piece)) + len(packer.flush()) for piece in pieces]
    return [charge * written_bytes / sum(charges) for charge in charges]


def _ask(codec: Codec, pieces: list[bytes], general: list[float], report: Report) -> _Charged:
    """What the network charges for the pieces that it may code better.

    In floating point that is not known before they are coded: then it counts as nothing.
    """
    asked: dict[int, Tokens] = {}
    for i, piece in enumerate(pieces):
        worth = _ASK_FROM < 8 * general[i] / len(piece) < _ASK_TO or len(pieces) == 1
        if worth and (found := _tokens(codec.tokenizer, piece)) is not None:
            asked[i] = found
    rates = [general[i] / len(pieces[i]) for i in asked]
    hopeful = _hopeful(codec, list(asked.values()), rates)
    asked = {i: tokens for hope, (i, tokens) in zip(hopeful, asked.items(), strict=True) if hope}
    if not asked:
        return _Charged(np.zeros(0, np.uint16), None, [], [], [])
    counts = [len(tokens) for tokens in asked.values()]
    joined = np.concatenate(list(asked.values()))
    starts = _starts(codec, joined)
    share = sum(len(pieces[i]) for i in asked) / len(joined)
    intervals = codec.intervals(
        joined, Layout(len(joined), starts), lambda done, bits: report(int(done * share))
    )
    if intervals is None:
        return _Charged(joined, None, list(asked), [0.0] * len(asked), counts)
    charges = np.add.reduceat(intervals.lengths, starts.positions) / 8 + _PIECE_OVERHEAD_BYTES
    return _Charged(joined, intervals, list(asked), charges.tolist(), counts)


def _hopeful(codec: Codec, tokens: list[Tokens], rates: list[float]) -> list[bool]:
    """Whether samples of pieces cost little enough, next to brotli's bytes per byte."""
    if all(len(found) <= 2 * _SAMPLES * _SAMPLE_TOKENS for found in tokens):
        return [True] * len(tokens)  # samples would be most of it
    samples = [_sampled(found) for found in tokens]
    joined = np.concatenate(samples)
    starts = _starts(codec, joined)
    found = codec.intervals(joined, Layout(len(joined), starts), lambda done, bits: None)
    if found is None:
        return [True] * len(tokens)
    firsts = np.cumsum([0, *(len(sample) for sample in samples[:-1])])
    spent = np.add.reduceat(found.lengths, firsts) / 8
    written = np.add.reduceat(codec.tokenizer.byte_lengths(joined), firsts)
    hopeful: list[bool] = (spent < _HOPELESS * np.array(rates) * written).tolist()
    return hopeful


def _sampled(tokens: Tokens) -> Tokens:
    """Some runs of a piece's tokens, each after its BOS."""
    edges = range(1, len(tokens), -(-len(tokens) // _SAMPLES))
    runs = [tokens[edge : edge + _SAMPLE_TOKENS] for edge in edges]
    return np.concatenate([part for run in runs for part in (tokens[:1], run)])


def _tokens(tokenizer: Tokenizer, piece: bytes) -> Tokens | None:
    """BOS and the tokens of a piece; None where they do not decode to it."""
    try:
        found = tokenizer.encode_documents([piece])
    except BadInput:  # the challenge's tokenizers refuse invalid UTF-8
        return None
    return found if tokenizer.decode(found) == [piece] else None


def _starts(codec: Codec, tokens: Tokens) -> Starts:
    """A lane per document."""
    positions = documents_of(tokens, codec.tokenizer.bos_id)
    return Starts(positions, np.zeros(len(positions), bool))


def _body(
    codec: Codec, pieces: list[bytes], chosen: set[int], charged: _Charged
) -> tuple[bytes, int, int]:
    """A chunk whose pieces `chosen` are coded by the network, and the others by brotli.

    With how many tokens the network codes, and the length of their stream.
    """
    groups = _groups(pieces, chosen)
    count = stream_bytes = 0
    body = varint(_GROUPED - 1 + len(groups)) + b"".join(varint(n) for g in groups for n in g)
    if len(chosen) < len(pieces):
        general = b"".join(piece for i, piece in enumerate(pieces) if i not in chosen)
        packed = brotli.compress(general, quality=_GENERAL_QUALITY, lgwin=_WINDOW_BITS)
        body += varint(len(packed)) + packed
    if chosen:
        edges = [*_starts(codec, charged.tokens).positions.tolist(), len(charged.tokens)]
        kept: Longs = np.concatenate(
            [
                np.arange(first, last)
                for i, (first, last) in zip(charged.pieces, pairwise(edges), strict=True)
                if i in chosen
            ]
        )
        tokens = charged.tokens[kept]
        intervals = charged.intervals and charged.intervals.at(kept)
        text = b"".join(pieces[i] for i in sorted(chosen))
        coded = codec.encode_coded(tokens, _starts(codec, tokens), intervals)
        count, stream_bytes = len(tokens), coded.stream_bytes
        body += coded.body + checksum_bytes(zlib.crc32(text))
    return body, count, stream_bytes


def _groups(pieces: list[bytes], chosen: set[int]) -> list[Group]:
    """Runs of pieces by brotli, each with the run by the network that follows it."""
    groups: list[Group] = []
    for by_network, run in groupby(range(len(pieces)), lambda i: i in chosen):
        found = list(run)
        if not by_network:
            groups.append((sum(len(pieces[i]) for i in found), 0))
        elif groups:
            groups[-1] = (groups[-1][0], len(found))
        else:
            groups.append((0, len(found)))
    return groups


def _unpack(packed: bytes, most: int, name: str) -> bytes:
    """Return what a whole brotli stream holds. Raises BadInput beyond `most` bytes."""
    unpacker = brotli.Decompressor()
    try:
        # A limit of one more: what would write it is noticed, and takes no memory.
        text = unpacker.process(packed, output_buffer_limit=most + 1)
    except brotli.error:
        raise BadInput(f"{name} holds no brotli stream where it should: it is damaged") from None
    if len(text) > most or not unpacker.is_finished():
        raise BadInput(f"{name} unpacks to more or less than it claims: it is damaged")
    return bytes(text)
