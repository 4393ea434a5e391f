"""Write a text as a file that decodes from the artifact alone, and decode such a file.

`prove` writes proof/val.fwp, in the layout of docs/formats.md. `decode` reads it.

    python -P -m fairway.pipeline.prove ARTIFACT PROOF OUT LEVEL  what `verify` starts
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from fairway import console, distributed
from fairway.coding import artifact, online
from fairway.coding.artifact import Artifact
from fairway.coding.codec import Codec, EncodedChunk
from fairway.coding.lanes import chunk_ends, documents_of
from fairway.coding.model import CodingModel, Tensors
from fairway.coding.proof import decode_proof
from fairway.coding.session import coding_session
from fairway.coding.workers import Progress, each_chunk, in_order
from fairway.errors import BadInput, Damaged, Interrupted
from fairway.formats.proof import (
    ARTIFACT_BYTES,
    MAX_PROOF_BYTES,
    Header,
    text_digest,
)
from fairway.io import checkpoint, foreign
from fairway.io.atomic import replacing, write_atomic
from fairway.io.binary import join
from fairway.pipeline import texts
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import Decoded, ProveResult

# prove ------------------------------------------------------------------------------------------


def prove(job: Job) -> ProveResult:
    """Code the validation split, or the documents in `job.text`, lane by lane with the artifact.

    BPB counts every byte that a decoder opens besides the artifact. A killed run goes on after
    its last finished chunk and ends with the same bytes. Raises BadInput, Interrupted.
    """
    opened = artifact.read(job.run.artifact)
    return prove_text(job, opened, texts.load(job, opened.tokenizer))


def prove_text(job: Job, opened: Artifact, subject: texts.Text) -> ProveResult:
    """Code a text with an opened artifact as `prove` does. Raises BadInput, Interrupted."""
    recipe, place = job.recipe, job.place
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
            machine=environment.machine if environment else None,
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
        return chunk, partial.model.snapshot()

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
        self.model, self._about = model, about
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
        self.model.restore(tensors)
        return int(note["chunks"])

    @property
    def seconds(self) -> float:
        """Spent on the finished chunks, by this process and those before it."""
        return self._seconds_before + time.perf_counter() - self._began

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
        decoded = decode_proof(opened, data, file)
    return Decoded(
        artifact_sha256=opened.sha256,
        artifact_bytes=sum(opened.parts.values()),
        parts=opened.parts,
        parameters=sum(values.size for values in opened.weights.values()),
        bits_per_weight=opened.bits_per_weight,
        proof_sha256=hashlib.sha256(data).hexdigest(),
        proof_bytes=len(data),
        vocab_size=opened.tokenizer.vocab_size,
        text_rule=opened.tokenizer.rule,
        **vars(decoded),
    )


def main(arguments: list[str]) -> int:
    """Decode a proof; one line of JSON on stdout says what came out, or why nothing did.

    arguments: how much to print (console.py), artifact, proof, the file to write.
    """
    level, *files = arguments
    console.choose_level(int(level))
    distributed.leave()  # whoever started this process may be a rank of torchrun
    try:
        decoded = decode(*map(Path, files))
    except BadInput as error:
        print(json.dumps({"error": str(error), "damaged": isinstance(error, Damaged)}))
        return 2
    print(decoded.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
