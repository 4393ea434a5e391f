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

from fairway.coding.codec import Codec, Tokens, another_text
from fairway.coding.lanes import Layout, Longs, documents_of
from fairway.coding.model import Intervals
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.formats import fwz
from fairway.formats.coded_tokens import Starts
from fairway.formats.fwz import MAX_CHUNK_BYTES, FwzChunk, Group
from fairway.io.binary import crc_bytes

TOKENS_PER_SAVED_BYTE = 32  # at most; a chunk that saves less is not worth a decoder's time
_GENERAL_QUALITY, _PRICING_QUALITY, _WINDOW_BITS = 11, 9, 24
# Bits per byte by brotli between which the network is asked: below, no small network is better;
# above, nothing is.
_ASK_FROM, _ASK_TO = 1.5, 7.8
# A piece whose samples cost so many times what brotli charges for it is not asked further.
_SAMPLES, _SAMPLE_TOKENS, _HOPELESS = 8, 128, 2.0
_PIECE_OVERHEAD_BYTES = 4  # of a piece that the network codes: its lane, and a group at times

Report = Callable[[int], None]  # told how many bytes of the chunk are done


@dataclass(frozen=True)
class _Charged:
    """The pieces that the network was asked about."""

    tokens: Tokens  # of all of them, each after a BOS
    intervals: Intervals | None  # of all tokens; None: only lockstep gives them
    pieces: list[int]
    charges: list[float]  # bytes
    counts: list[int]  # tokens


def encode(codec: Codec, text: bytes, report: Report) -> bytes:
    """Return the shortest form of a chunk of 1 to MAX_CHUNK_BYTES bytes. Raises BadInput.

    The network codes pieces only where that pays for the time that decoding them takes.
    """
    pieces = list(cut(text))
    packed = brotli.compress(text, quality=_GENERAL_QUALITY, lgwin=_WINDOW_BITS)
    plain = FwzChunk(text, is_stored=True).to_bytes(), FwzChunk(packed).to_bytes()
    without = min(plain, key=len)
    general = _general_charges(pieces, len(packed))
    charged = _ask(codec, pieces, general, report)
    chosen = {
        i
        for i, charge, tokens in zip(charged.pieces, charged.charges, charged.counts, strict=True)
        if charge + tokens / TOKENS_PER_SAVED_BYTE < general[i]
    }
    if not chosen:
        return without
    chunk = _chunk(codec, pieces, chosen, charged)
    body, coded = chunk.to_bytes(), chunk.coded
    assert coded
    pays = coded.tokens <= TOKENS_PER_SAVED_BYTE * (len(without) - len(body))
    return body if pays and coded.tokens <= fwz.most_coded_tokens(len(coded.stream)) else without


def cut(text: bytes) -> Iterator[bytes]:
    """Yield pieces of fwz.PIECE_BYTES and up to 3 more, as no character of UTF-8 is cut in two."""
    start = 0
    while start < len(text):
        stop = last = start + fwz.PIECE_BYTES
        while stop < min(last + 3, len(text)) and text[stop] & 0xC0 == 0x80:
            stop += 1
        yield text[start:stop]
        start = stop


def decode(codec: Codec, chunk: FwzChunk, name: str = "the chunk") -> bytes:
    """Return the text of a chunk, which errors call `name`.

    Raises BadInput when it is not what was encoded.
    """
    if chunk.is_stored:
        return chunk.general
    if not chunk.groups:
        return _unpack(chunk.general, MAX_CHUNK_BYTES, name)
    size = chunk.general_bytes
    general = _unpack(chunk.general, size, name) if size else b""
    if len(general) != size:
        raise BadInput(f"{name} unpacks to less than it claims: it is damaged")
    found: list[bytes] = []
    if chunk.coded:
        found = codec.decode_tokens(chunk.coded, lambda *_: None, name, MAX_CHUNK_BYTES)
    if len(found) != chunk.documents or size + sum(map(len, found)) > MAX_CHUNK_BYTES:
        raise BadInput(f"{name} decodes to more or less than it claims: it is damaged")
    if chunk.coded and crc_bytes(zlib.crc32(b"".join(found))) != chunk.checksum:
        raise another_text(name)
    text, place, document = [], 0, 0
    for by_brotli, by_network in chunk.groups:
        text.append(general[place : place + by_brotli])
        text += found[document : document + by_network]
        place, document = place + by_brotli, document + by_network
    return b"".join(text)


def _general_charges(pieces: list[bytes], written_bytes: int) -> list[float]:
    """Return the bytes that brotli adds for each piece after those before it.

    They sum to what is written, at a quality that is too slow to be asked after every piece.
    """
    packer = brotli.Compressor(quality=_PRICING_QUALITY, lgwin=_WINDOW_BITS)
    charges = [len(packer.process(piece)) + len(packer.flush()) for piece in pieces]
    return [charge * written_bytes / sum(charges) for charge in charges]


def _ask(codec: Codec, pieces: list[bytes], general: list[float], report: Report) -> _Charged:
    """Return what the network charges for the pieces that it may code better.

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
    charges = np.add.reduceat(intervals.bits, starts.positions) / 8 + _PIECE_OVERHEAD_BYTES
    return _Charged(joined, intervals, list(asked), charges.tolist(), counts)


def _hopeful(codec: Codec, tokens: list[Tokens], rates: list[float]) -> list[bool]:
    """Return whether samples of pieces cost little enough, next to brotli's bytes per byte."""
    if all(len(found) <= 2 * _SAMPLES * _SAMPLE_TOKENS for found in tokens):
        return [True] * len(tokens)  # samples would be most of it
    samples = [_sampled(found) for found in tokens]
    joined = np.concatenate(samples)
    starts = _starts(codec, joined)
    found = codec.intervals(joined, Layout(len(joined), starts), lambda done, bits: None)
    if found is None:
        return [True] * len(tokens)
    firsts = np.cumsum([0, *(len(sample) for sample in samples[:-1])])
    spent = np.add.reduceat(found.bits, firsts) / 8
    written = np.add.reduceat(codec.tokenizer.byte_lengths(joined), firsts)
    hopeful: list[bool] = (spent < _HOPELESS * np.array(rates) * written).tolist()
    return hopeful


def _sampled(tokens: Tokens) -> Tokens:
    """Return some runs of a piece's tokens, each after its BOS."""
    edges = range(1, len(tokens), -(-len(tokens) // _SAMPLES))
    runs = [tokens[edge : edge + _SAMPLE_TOKENS] for edge in edges]
    return np.concatenate([part for run in runs for part in (tokens[:1], run)])


def _tokens(tokenizer: Tokenizer, piece: bytes) -> Tokens | None:
    """Return BOS and the tokens of a piece; None where they do not decode to it."""
    try:
        found = tokenizer.encode_documents([piece])
    except BadInput:  # the challenge's tokenizers refuse invalid UTF-8
        return None
    return found if tokenizer.decode(found) == [piece] else None


def _starts(codec: Codec, tokens: Tokens) -> Starts:
    """Return the starts of lanes, one for each document."""
    positions = documents_of(tokens, codec.tokenizer.bos_id)
    return Starts(positions, np.zeros(len(positions), bool))


def _chunk(codec: Codec, pieces: list[bytes], chosen: set[int], charged: _Charged) -> FwzChunk:
    """Return a chunk whose pieces `chosen` are coded by the network, and the others by brotli."""
    general = b"".join(piece for i, piece in enumerate(pieces) if i not in chosen)
    if general:
        general = brotli.compress(general, quality=_GENERAL_QUALITY, lgwin=_WINDOW_BITS)
    groups = _groups(pieces, chosen)
    if not chosen:
        return FwzChunk(general, groups=groups)
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
    coded, _ = codec.encode_tokens(tokens, _starts(codec, tokens), intervals)
    checksum = crc_bytes(zlib.crc32(b"".join(pieces[i] for i in sorted(chosen))))
    return FwzChunk(general, False, groups, coded, checksum)


def _groups(pieces: list[bytes], chosen: set[int]) -> tuple[Group, ...]:
    """Return runs of pieces by brotli, each with the run by the network that follows it."""
    groups: list[Group] = []
    for by_network, run in groupby(range(len(pieces)), lambda i: i in chosen):
        found = list(run)
        if not by_network:
            groups.append((sum(len(pieces[i]) for i in found), 0))
        elif groups:
            groups[-1] = (groups[-1][0], len(found))
        else:
            groups.append((0, len(found)))
    return tuple(groups)


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
