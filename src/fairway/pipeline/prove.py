"""Write a text as a file that decodes from the artifact alone, and decode such a file.

`prove` writes proof/val.fwp, in the layout of docs/formats.md. `decode` reads it.

    python -P -m fairway.pipeline.prove ARTIFACT PROOF OUT    what the process of `verify` runs
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from fairway import console, distributed
from fairway.coding import artifact, online
from fairway.coding.codec import Codec, EncodedChunk
from fairway.coding.lanes import chunk_ends, documents_of
from fairway.coding.model import CodingModel, Tensors
from fairway.coding.session import FloatEnvironment, coding_session
from fairway.coding.workers import Progress, each_chunk, in_order
from fairway.config.schema import Adapt, Arithmetic
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput, Damaged, Interrupted
from fairway.formats.proof import (
    ARTIFACT_BYTES,
    LOGITS_BYTES,
    MAX_PROOF_BYTES,
    Header,
    Machine,
    ProofChunk,
    chunk_name,
    read_chunks,
    text_digest,
)
from fairway.io import checkpoint, foreign, limits
from fairway.io.atomic import replacing, write_atomic
from fairway.io.binary import Reader, Target, join
from fairway.pipeline import texts
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import Decoded, ProveResult

# prove ------------------------------------------------------------------------------------------


def prove(job: Job) -> ProveResult:
    """Code the validation split, or the documents in `job.text`, lane by lane with the artifact.

    BPB counts every byte that a decoder opens besides the artifact. A killed run goes on after
    its last finished chunk and ends with the same bytes. Raises BadInput, Interrupted.
    """
    recipe, place = job.recipe, job.place
    opened = artifact.read(job.run.artifact)
    subject = texts.load(job, opened.tokenizer)
    place.proof.mkdir(parents=True, exist_ok=True)
    how, arithmetic = recipe.adapt, online.arithmetic(recipe.adapt, recipe.prove.arithmetic)
    bos = documents_of(subject.tokens, opened.tokenizer.bos_id)
    division = online.division(how, recipe.prove.lanes)
    ends = chunk_ends(bos, len(subject.tokens), division.tokens)
    with coding_session(opened, arithmetic, adapt=how, tokens=len(subject.tokens)) as (
        model,
        environment,
    ):
        header = Header(
            machine=_machine(environment) if environment else None,
            learning=online.to_bytes(how),
            text=text_digest(subject.text_sha256, subject.lengths_sha256),
            artifact=bytes.fromhex(opened.sha256)[:ARTIFACT_BYTES],
            chunks=len(ends),
        ).to_bytes()
        partial = _Partial(place, f"{job.stamp} {header.hex()}", model)
        job.resumed = bool(partial.chunks)
        workers = environment.workers if environment else 1
        _encode(Codec(model, opened.tokenizer), partial, subject, ends, division.lanes, workers)
    chunks = in_order(partial.chunks.items())
    first, *others = (chunk.body for chunk in chunks)
    data = join([header + first, *others])
    write_atomic(place.proof_file, data)
    return ProveResult(
        bpb=8 * len(data) / subject.text_bytes,
        text_rule=opened.tokenizer.rule,
        stream_bytes=sum(chunk.stream_bytes for chunk in chunks),
        stream_ideal_bits=sum(chunk.ideal_bits for chunk in chunks),
        text_bytes=subject.text_bytes,
        text_sha256=subject.text_sha256,
        lengths_sha256=subject.lengths_sha256,
        artifact_sha256=opened.sha256,
        files={place.proof_file.name: len(data)},
        tokens=len(subject.tokens),
        lanes=max(chunk.lanes for chunk in chunks),
        adaptation=how.method,
        arithmetic=arithmetic,
        order=online.order_of(how),
        grade="device" if environment else "portable",
        encode_s=partial.seconds,
        device="cuda" if environment and environment.on_cuda else "cpu",
    )


def _machine(environment: FloatEnvironment) -> Machine:
    return Machine(
        environment.on_cuda, environment.logits_sha256[:LOGITS_BYTES], environment.description
    )


def _encode(
    codec: Codec, partial: _Partial, subject: texts.Text, ends: list[int], lanes: int, workers: int
) -> None:
    """Code the chunks that are missing. Raises Interrupted after Ctrl-C."""
    starts = [0, *ends[:-1]]
    missing = [i for i in range(len(ends)) if i not in partial.chunks]
    tokens_before = sum(ends[i] - starts[i] for i in partial.chunks)
    bits_before = sum(chunk.ideal_bits for chunk in partial.chunks.values())
    bytes_per_token = subject.text_bytes / len(subject.tokens)

    def encode(i: int, progress: Progress) -> tuple[EncodedChunk, Tensors]:
        tokens = np.array(subject.tokens[starts[i] : ends[i]])
        chunk = codec.encode(tokens, codec.tokenizer.decode(tokens), lanes, progress)
        return chunk, partial.learned()

    def report(tokens: int, bits: float) -> None:
        if stop_asked():
            raise Interrupted(
                f"stopped with {len(partial.chunks)} of {len(ends)} chunks done; "
                "the same command goes on from there"
            )
        done = tokens_before + tokens
        task.update(done, bpb=f"{(bits_before + bits) / (done * bytes_per_token):.4f}")

    with (
        console.ctrl_c() as stop_asked,
        console.track("prove", len(subject.tokens), "tokens") as task,
    ):
        for i, (chunk, learned) in each_chunk(encode, missing, workers, report):
            partial.add(i, chunk, learned)


class _Partial:
    """The chunks that are finished, in a file of JSON lines that a kill cannot spoil.

    The first line is what they depend on: another recipe, text, artifact or machine starts anew.
    What a learner had become by the end of a chunk is in a file beside it; chunks after that are
    coded again.
    """

    def __init__(self, place: RunDirectory, about: str, model: CodingModel) -> None:
        self._path, self._learned_path = place.prove_checkpoint, place.prove_learned
        self._model, self._about = model, about
        self._began = time.perf_counter()
        self._seconds_before = 0.0
        self.chunks: dict[int, EncodedChunk] = {}
        lines = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
        entries = []
        for line in lines[1:] if lines[:1] == [json.dumps(about)] else []:
            try:
                entries.append(json.loads(line))
            except ValueError:  # a line cut by a kill
                break
        if model.learns:
            entries = entries[: self._restore(len(entries))]
        for entry in entries:
            self.chunks[entry["chunk"]] = EncodedChunk(
                base64.b85decode(entry["body"]), *entry["figures"]
            )
            self._seconds_before = entry["seconds"]
        kept = [json.dumps(line) + "\n" for line in (about, *entries)]
        write_atomic(self._path, "".join(kept).encode())

    def _restore(self, chunks: int) -> int:
        """Let the learner be what it was after a chunk, of so many at most; says after which."""
        if not self._learned_path.exists():
            return 0
        tensors, note = checkpoint.load(self._learned_path)
        if note.get("about") != self._about or note["chunks"] > chunks:
            return 0
        self._model.restore(tensors)
        return int(note["chunks"])

    @property
    def seconds(self) -> float:
        """Spent on the finished chunks, by this process and those before it."""
        return self._seconds_before + time.perf_counter() - self._began

    def learned(self) -> Tensors:
        """Return a copy of everything that the model has learned: {} if it does not learn."""
        return self._model.snapshot()

    def add(self, i: int, chunk: EncodedChunk, learned: Tensors) -> None:
        self.chunks[i] = chunk
        line = {
            "chunk": i,
            "body": base64.b85encode(chunk.body).decode(),
            "figures": (chunk.stream_bytes, chunk.ideal_bits, chunk.lanes),
            "seconds": self.seconds,
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if learned:
            note = {"about": self._about, "chunks": i + 1}
            checkpoint.save(self._learned_path, learned, note)


# decode ------------------------------------------------------------------------------------------


def decode(artifact_file: Path, proof: Path, out: Path) -> Decoded:
    """Write the text that a proof holds to `out`, and return what the two files say about it.

    `out` is written whole or not at all. Raises Damaged when the bytes of a file are not what was
    written; BadInput when a file cannot be read, is another artifact's proof, or needs another
    machine.
    """
    opened = artifact.read(artifact_file)
    data = foreign.read_bytes(proof, "the proof", MAX_PROOF_BYTES, pipes=True)
    with replacing(out) as temporary, open(temporary, "wb") as file:
        return decode_to(opened, data, file)


def decode_to(opened: artifact.Artifact, data: bytes, target: Target) -> Decoded:
    """Write the text that the bytes of a proof hold to `target`, as `decode` does.

    What is written is known to be right only when this returns.
    """
    reader = Reader(data, "the proof's header")
    header = Header.read(reader)
    chunks = read_chunks(reader, header.chunks)
    how = online.from_bytes(header.learning)
    if not bytes.fromhex(opened.sha256).startswith(header.artifact):
        raise BadInput(
            f"the proof needs the artifact whose SHA-256 begins with {header.artifact.hex()}, and "
            f"this artifact has {opened.sha256}"
        )
    lanes = max((len(chunk.coded.starts) for chunk in chunks if chunk.coded), default=0)
    if lanes > 1 and online.needs_one_lane(how):
        raise Damaged(f"the proof claims to learn left to right and has {lanes} lanes")
    digest = texts.Digest()
    ideal_bits = 0.0
    try:
        for document, bits in _decode(opened, header.machine, how, chunks):
            digest.update(document)
            target.write(document)
            ideal_bits = bits
    except MemoryError:
        raise BadInput(f"the proof's {lanes} lanes need more memory than there is") from None
    if text_digest(digest.text_sha256, digest.lengths_sha256) != header.text:
        raise Damaged("the decoded text is not the one that the proof's header names")
    if not digest.text_bytes:
        raise Damaged("the proof holds a text of no bytes, which has no bits per byte")
    return Decoded(
        artifact_sha256=opened.sha256,
        artifact_bytes=sum(opened.parts.values()),
        parts=opened.parts,
        parameters=sum(values.size for values in opened.weights.values()),
        bits_per_weight=opened.bits_per_weight,
        proof_sha256=hashlib.sha256(data).hexdigest(),
        proof_bytes=len(data),
        text_sha256=digest.text_sha256,
        text_bytes=digest.text_bytes,
        lengths_sha256=digest.lengths_sha256,
        documents=digest.documents,
        tokens=sum(_tokens_of(chunk, opened.tokenizer) for chunk in chunks),
        stream_bytes=sum(chunk.stream_bytes for chunk in chunks),
        stream_ideal_bits=ideal_bits + sum(8.0 * c.stream_bytes for c in chunks if not c.coded),
        lanes=lanes,
        vocab_size=opened.tokenizer.vocab_size,
        text_rule=opened.tokenizer.rule,
        adaptation=how.method,
        arithmetic="float" if header.machine else "exact",
        order=online.order_of(how),
        grade="device" if header.machine else "portable",
    )


def _tokens_of(chunk: ProofChunk, tokenizer: Tokenizer) -> int:
    """Return how many tokens the documents of a chunk have, boundaries included."""
    if chunk.coded:
        return chunk.coded.tokens
    return sum(len(tokens) for tokens in tokenizer.encode_stream(chunk.documents))


def _decode(
    opened: artifact.Artifact, machine: Machine | None, how: Adapt, chunks: list[ProofChunk]
) -> Iterator[tuple[bytes, float]]:
    """Yield (document, bits of everything that a network decoded) of all chunks.

    Raises BadInput.
    """
    tokens = sum(chunk.tokens for chunk in chunks)
    streams = sum(len(chunk.coded.stream) for chunk in chunks if chunk.coded)
    limits.check_work("the proof", tokens, streams)
    on_cuda = bool(machine and machine.on_cuda)
    arithmetic: Arithmetic = "float" if machine else "exact"
    with (
        coding_session(opened, arithmetic, on_cuda, how, tokens) as (model, environment),
        console.track("decode", tokens, "tokens") as task,
    ):
        if machine and environment:
            environment.check_description(machine.environment)
            environment.check_logits(machine.logits)
        codec = Codec(model, opened.tokenizer)

        def decode_one(i: int, progress: Progress) -> list[bytes]:
            return codec.decode(chunks[i], progress, chunk_name(i, len(chunks)))

        ideal_bits = 0.0

        def report(done: int, bits: float) -> None:
            nonlocal ideal_bits
            ideal_bits = bits
            task.update(done)

        workers = environment.workers if environment else 1
        decoded = in_order(each_chunk(decode_one, range(len(chunks)), workers, report))
        yield from ((document, ideal_bits) for document in chain.from_iterable(decoded))


def main(arguments: list[str]) -> int:
    """Decode a proof; one line of JSON on stdout says what came out, or why nothing did."""
    distributed.leave()  # whoever started this process may be a rank of torchrun
    try:
        decoded = decode(*(Path(argument) for argument in arguments))
    except BadInput as error:
        print(json.dumps({"error": str(error), "damaged": isinstance(error, Damaged)}))
        return 2
    print(decoded.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
