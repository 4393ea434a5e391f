"""The proof, .fwp: a header and chunks that decode to a text. docs/formats.md, "The proof".

A proof has one form: a reader refuses every other spelling of a number, a header or a stream.
What the header claims is evidence of nothing until the chunks have been decoded.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from fairway.errors import BadInput
from fairway.formats.coded_tokens import CodedTokens, most_lanes
from fairway.io.binary import Reader, varint

MAGIC, VERSION = b"FWPF", 1
MAX_PROOF_BYTES = 1 << 30
MAX_CHUNK_TOKENS = 1 << 26  # a file that claims more is refused before memory is taken
ARTIFACT_BYTES, LOGITS_BYTES = 4, 4
_EXACT, _CPU, _CUDA = 0, 1, 2  # how probabilities are computed
_TEXT_BYTES = 8
_ENVIRONMENT_BYTES, _LEARNING_BYTES = 1000, 100  # at most
_CODED = 0  # kind of a chunk; k > 0: stored, k documents


@dataclass(frozen=True)
class Machine:
    """What a proof in floating point needs to be decoded."""

    on_cuda: bool
    logits: bytes  # first LOGITS_BYTES of the hash of probe logits
    environment: str  # readable: versions and names, joined by |


@dataclass(frozen=True)
class Header:
    """What a proof says about itself."""

    machine: Machine | None  # None: exact arithmetic, every machine decodes it
    learning: bytes  # how the network learns while it codes (coding/online); empty: not at all
    text: bytes  # text_digest of what the chunks decode to
    artifact: bytes  # first ARTIFACT_BYTES of its SHA-256
    chunks: int

    def to_bytes(self) -> bytes:
        """Return the header as it stands in the file."""
        m = self.machine
        arithmetic = _EXACT if m is None else _CUDA if m.on_cuda else _CPU
        fields = [MAGIC, bytes([VERSION, arithmetic]), self.text, self.artifact]
        fields.append(varint(self.chunks))
        if m:
            fields.append(m.logits)
            for text in (m.environment.encode(), self.learning):
                fields += [varint(len(text)), text]
        return b"".join(fields)

    @staticmethod
    def read(reader: Reader) -> Header:
        """Read what `to_bytes` writes; the checksum follows after the first chunk.

        Raises BadInput.
        """
        if reader.take(len(MAGIC)) != MAGIC:
            raise BadInput("this is no proof file (it does not begin with FWPF)")
        version, arithmetic = reader.take(2)
        if version != VERSION or arithmetic > _CUDA:
            raise BadInput(
                f"the proof has format version {version}, arithmetic {arithmetic}: it was made by "
                f"another Fairway (this one reads version {VERSION}), or it is damaged"
            )
        text, artifact = reader.take(_TEXT_BYTES), reader.take(ARTIFACT_BYTES)
        chunks = reader.varint()
        if not chunks:
            raise reader.bad("holds no text")
        if arithmetic == _EXACT:
            return Header(None, b"", text, artifact, chunks)
        logits = reader.take(LOGITS_BYTES)
        try:
            environment = reader.take(reader.at_most(_ENVIRONMENT_BYTES, "bytes")).decode()
        except UnicodeDecodeError:
            raise reader.bad("is damaged") from None
        learning = reader.take(reader.at_most(_LEARNING_BYTES, "bytes"))
        machine = Machine(arithmetic == _CUDA, logits, environment)
        return Header(machine, learning, text, artifact, chunks)


@dataclass(frozen=True)
class ProofChunk:
    """One chunk: what a network coded, or documents as they are."""

    coded: CodedTokens | None  # None: stored
    documents: list[bytes]  # when stored

    @property
    def tokens(self) -> int:
        """How many tokens a network coded."""
        return self.coded.tokens if self.coded else 0

    @property
    def stream_bytes(self) -> int:
        """Bytes of the stream, or of the documents."""
        return len(self.coded.stream) if self.coded else sum(map(len, self.documents))

    def to_bytes(self) -> bytes:
        """Return the chunk as it stands in the file, without its checksum."""
        if self.coded:
            return varint(_CODED) + self.coded.to_bytes()
        numbers = [len(self.documents), *map(len, self.documents)]
        return b"".join([*map(varint, numbers), *self.documents])

    @staticmethod
    def read(reader: Reader) -> ProofChunk:
        """Read what `to_bytes` writes. Raises Damaged."""
        count = reader.varint()
        if count != _CODED:
            lengths = [reader.varint() for _ in range(count)]
            return ProofChunk(None, [reader.take(length) for length in lengths])
        coded = CodedTokens.read(reader, MAX_CHUNK_TOKENS)
        if len(coded.starts) > most_lanes(coded.tokens):
            raise reader.bad(f"claims {len(coded.starts)} lanes")
        return ProofChunk(coded, [])


def read_chunks(reader: Reader, count: int) -> list[ProofChunk]:
    """Read all chunks after the header, up to the end. Raises Damaged naming the bad one."""
    chunks = []
    for i in range(count):
        name = chunk_name(i, count)
        reader.what = name if i else f"the proof's header or {name}"
        chunks.append(ProofChunk.read(reader))
        reader.check()
    reader.check_end()
    return chunks


def chunk_name(i: int, count: int) -> str:
    """Return what messages call a chunk."""
    return f"chunk {i + 1} of {count}"


class Digest:
    """SHA-256 of a text and of its documents' lengths, document by document."""

    def __init__(self) -> None:
        self._text, self._lengths = hashlib.sha256(), hashlib.sha256()
        self.text_bytes = self.documents = 0

    def update(self, document: bytes) -> None:
        self._text.update(document)
        self._lengths.update(struct.pack("<Q", len(document)))
        self.text_bytes += len(document)
        self.documents += 1

    @property
    def text_sha256(self) -> str:
        return self._text.hexdigest()

    @property
    def lengths_sha256(self) -> str:
        return self._lengths.hexdigest()


def text_digest(text_sha256: str, lengths_sha256: str) -> bytes:
    """Return the digest of a text and its documents' lengths, from the hashes of both."""
    both = bytes.fromhex(text_sha256) + bytes.fromhex(lengths_sha256)
    return hashlib.sha256(both).digest()[:_TEXT_BYTES]


def is_proof(file: Path) -> bool:
    """Return whether a regular file begins as a proof does; False where it cannot be read."""
    try:
        if not file.is_file():
            return False
        with open(file, "rb") as opened:
            return opened.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
