"""What a proof says about itself, before its chunks. Layout byte by byte in docs/formats.md."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from fairway.coding.codec import PROOF_VERSION, Reader, varint
from fairway.coding.online import settings
from fairway.coding.session import Guard
from fairway.config.schema import Adapt, Arithmetic
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.pipeline.results import HeaderResult

MAGIC = b"FWPF"
_EXACT, _CPU, _CUDA = 0, 1, 2  # how probabilities are computed
_TEXT_BYTES, ARTIFACT_BYTES, _LOGITS_BYTES = 8, 4, 4
_ENVIRONMENT_BYTES = 1000  # at most
_NO_METHOD = b"\0"
# Words of environments, for deflate: part of the format.
_WORDS = (
    b"NVIDIA H100 80GB HBM3|NVIDIA H200|9.0|NVIDIA A100-SXM4-80GB|8.0|bfloat16"
    b"Intel(R) Xeon(R) Platinum Processor|Intel(R) Core(TM) |Apple M|aarch64|arm64|DEFAULT|float32"
    b"2.9.0+cpu|2.11.0+cu130|2.13.0+cpu|x86_64|AMD EPYC|AVX2|float32|x86_64|AMD EPYC|AVX512|float32"
)


@dataclass(frozen=True)
class Machine:
    """What a proof in floating point needs to be decoded."""

    on_cuda: bool
    logits: bytes  # first bytes of the hash of probe logits
    environment: str

    @staticmethod
    def of(guard: Guard) -> Machine:
        return Machine(guard.on_cuda, guard.logits_sha256[:_LOGITS_BYTES], guard.environment)


@dataclass(frozen=True)
class Header:
    machine: Machine | None  # None: exact arithmetic, every machine decodes it
    adapt: Adapt  # how the network learns while it codes
    text: bytes  # text_digest of what the chunks decode to
    artifact: bytes  # first bytes of its SHA-256
    chunks: int
    version: int = PROOF_VERSION  # of the file that it was read from
    claims: tuple[int, int] | None = None  # bytes and documents; only versions before 3 have them

    @property
    def arithmetic(self) -> Arithmetic:
        return "float" if self.machine else "exact"

    def to_bytes(self) -> bytes:
        m = self.machine
        kind = _EXACT if m is None else _CUDA if m.on_cuda else _CPU
        out = [MAGIC, bytes([PROOF_VERSION, kind]), self.text, self.artifact, varint(self.chunks)]
        if m:
            packed = _pack_words(m.environment)
            how = _NO_METHOD if self.adapt.method == "none" else settings.to_bytes(self.adapt)
            out += [m.logits, varint(len(packed)), packed, how]
        return b"".join(out)

    @staticmethod
    def read(reader: Reader) -> Header:
        """The first chunk's checksum is still to be held against it. Raises BadInput."""
        if reader.take(len(MAGIC)) != MAGIC:
            raise BadInput("this is no proof file (it does not begin with FWPF)")
        version, kind = reader.take(2)
        if version == 1:
            return _read_version_1(reader, kind)
        if version not in (2, PROOF_VERSION) or kind > _CUDA:
            raise BadInput(
                f"the proof has format version {version}, arithmetic {kind}: it was made by "
                f"a newer Fairway (this one reads up to {PROOF_VERSION}), or it is damaged"
            )
        text, artifact = reader.take(_TEXT_BYTES), reader.take(ARTIFACT_BYTES)
        claims = (reader.varint(), reader.varint()) if version == 2 else None
        chunks = reader.varint()
        if not chunks:
            raise reader.bad("holds no text")
        machine, how = None, Adapt()
        if kind != _EXACT:
            logits = reader.take(_LOGITS_BYTES)
            environment = _unpack_words(reader.take(_length(reader)), reader)
            machine = Machine(kind == _CUDA, logits, environment)
            how = _read_adapt(reader, version)
        if version == 2:
            reader.check()
        return Header(machine, how, text, artifact, chunks, version, claims)


def is_proof(file: Path) -> bool:
    """Return whether a regular file begins as a proof does; False where it cannot be read."""
    try:
        if not file.is_file():
            return False
        with open(file, "rb") as opened:
            return opened.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def inspect(file: Path) -> HeaderResult:
    """Return what the header of a proof says. Raises BadInput."""
    data = foreign.read_bytes(file, "the proof", 1 << 30)
    header = Header.read(Reader(data, "the proof's header"))
    return HeaderResult(
        proof_bytes=len(data),
        proof_sha256=hashlib.sha256(data).hexdigest(),
        version=header.version,
        artifact_sha256_begins=header.artifact.hex(),
        text_digest=header.text.hex(),
        chunks=header.chunks,
        arithmetic=header.arithmetic,
        grade="device" if header.machine else "portable",
        environment=header.machine.environment if header.machine else "",
        adaptation=header.adapt.method,
    )


def text_digest(text_sha256: str, lengths_sha256: str) -> bytes:
    """Of a text and the lengths of its documents, by the hashes of both."""
    both = bytes.fromhex(text_sha256) + bytes.fromhex(lengths_sha256)
    return hashlib.sha256(both).digest()[:_TEXT_BYTES]


def _read_adapt(reader: Reader, version: int) -> Adapt:
    first = reader.take(1)
    if first == _NO_METHOD:
        return Adapt()
    try:
        data = first + reader.take(settings.size_of(first[0]))
        how = settings.from_bytes(data)
        if version == PROOF_VERSION and settings.to_bytes(how) != data:
            raise BadInput("adapts with settings that are not written as they should be")
        return how
    except BadInput as error:
        raise reader.bad(str(error)) from None


def _length(reader: Reader) -> int:
    length = reader.varint()
    if length > _ENVIRONMENT_BYTES:
        raise reader.bad("is damaged")
    return length


def _pack_words(environment: str) -> bytes:
    packer = zlib.compressobj(9, wbits=-15, zdict=_WORDS)
    return packer.compress(environment.encode()) + packer.flush()


def _unpack_words(packed: bytes, reader: Reader) -> str:
    unpacker = zlib.decompressobj(wbits=-15, zdict=_WORDS)
    try:
        unpacked = unpacker.decompress(packed, _ENVIRONMENT_BYTES)
        if not unpacker.eof or unpacker.unused_data:
            raise reader.bad("is damaged")
        return unpacked.decode()
    except (zlib.error, UnicodeDecodeError):
        raise reader.bad("is damaged") from None


def _read_version_1(reader: Reader, arithmetic: int) -> Header:
    """Whole hashes, the environment in clear; arithmetic 0 is floating point, 1 exact."""
    if arithmetic > 1:
        raise reader.bad("is damaged")
    needs_machine = arithmetic == 0
    device = reader.take(1)[0] if needs_machine else 0
    if device > 1:
        raise reader.bad("is damaged")
    on_cuda = device == 1
    text, lengths, made_by = (reader.take(32) for _ in range(3))
    logits = reader.take(8) if needs_machine else b""
    text_bytes, documents, chunks = (reader.varint() for _ in range(3))
    machine = None
    if needs_machine:
        try:
            environment = reader.take(_length(reader)).decode()
        except UnicodeDecodeError:
            raise reader.bad("is damaged") from None
        machine = Machine(on_cuda, logits, environment)
    reader.check()
    digest = text_digest(text.hex(), lengths.hex())
    return Header(machine, Adapt(), digest, made_by, chunks, 1, (text_bytes, documents))
