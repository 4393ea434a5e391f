"""The verbs `prove` and `verify`: the text as a file that decodes from the artifact alone.

`prove` writes proof/val.fwp; `verify` lets a fresh process, which gets copies of the artifact and
of that file and nothing else, decode it, and compares what comes out. Layout in docs/formats.md.

    python -P -m fairway.prove.proof ARTIFACT PROOF OUT      what that process runs
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

import fairway
from fairway import console, foreign, limits, world
from fairway.course import Run, replacing, sha256_file, write_atomic
from fairway.errors import BadInput, Interrupted
from fairway.pack import artifact
from fairway.predict import methods
from fairway.predict.adapt import AdaptiveEngine, Learner
from fairway.predict.lanes import chunk_ends, documents_of
from fairway.predict.rules import Tensors
from fairway.prove.codec import Chunk, Codec, Reader, Written, join, read_chunks
from fairway.prove.guard import Progress, computing, in_order, side_by_side
from fairway.prove.header import ARTIFACT_BYTES, Header, Machine, text_digest
from fairway.recipe import Recipe
from fairway.results import DataResult, ProveResult, VerifyResult
from fairway.score import texts
from fairway.train import checkpoint

# prove ------------------------------------------------------------------------------------------


def prove(recipe: Recipe, run: Run, text: Path | None = None) -> ProveResult:
    """Code the validation split, or the documents of a file, lane by lane with the artifact.

    BPB counts every byte that a decoder opens besides the artifact. A killed run goes on after
    its last finished chunk and ends with the same bytes. Results about a file stand in
    run.about(file). Raises BadInput, Interrupted.
    """
    opened = artifact.read(run.artifact)
    subject = texts.load(recipe, run, opened.tokenizer, text)
    place = run if text is None else run.about(text)
    stamp = run.stamp("prove", recipe)
    finished = place.fresh("prove", stamp, ProveResult)
    if finished and place.proof_file.exists():
        coded = (finished.text_sha256, finished.artifact_sha256)
        if coded == (subject.text_sha256, opened.sha256):
            return finished
    place.proof.mkdir(parents=True, exist_ok=True)
    how, arithmetic = recipe.adapt, methods.arithmetic(recipe.adapt, recipe.prove.arithmetic)
    bos = documents_of(subject.tokens, opened.tokenizer.bos_id)
    division = methods.division(how, recipe.prove.lanes)
    ends = chunk_ends(bos, len(subject.tokens), division.tokens)
    with computing(opened, arithmetic, how=how, tokens=len(subject.tokens)) as (engine, guard):
        header = Header(
            machine=Machine.of(guard) if guard else None,
            adapt=how,
            text=text_digest(subject.text_sha256, subject.lengths_sha256),
            artifact=bytes.fromhex(opened.sha256)[:ARTIFACT_BYTES],
            chunks=len(ends),
        ).to_bytes()
        learner = engine.learner if isinstance(engine, AdaptiveEngine) else None
        partial = _Partial(place, f"{stamp} {header.hex()}", learner)
        workers = guard.workers if guard else 1
        _encode(Codec(engine, opened.tokenizer), partial, subject, ends, division.lanes, workers)
    chunks = in_order(partial.chunks.items())
    first, *others = (chunk.body for chunk in chunks)
    data = join([header + first, *others])
    write_atomic(place.proof_file, data)
    result = ProveResult(
        stamp=stamp,
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
        order=methods.order_of(how),
        grade="device" if guard else "portable",
        encode_s=partial.seconds,
        device="cuda" if guard and guard.on_cuda else "cpu",
    )
    place.finish("prove", result)
    place.prove_checkpoint.unlink(missing_ok=True)
    place.prove_learned.unlink(missing_ok=True)
    return result


def _encode(
    codec: Codec, partial: _Partial, subject: texts.Text, ends: list[int], lanes: int, workers: int
) -> None:
    """Code the chunks that are missing. Raises Interrupted after Ctrl-C."""
    starts = [0, *ends[:-1]]
    missing = [i for i in range(len(ends)) if i not in partial.chunks]
    tokens_before = sum(ends[i] - starts[i] for i in partial.chunks)
    bits_before = sum(chunk.ideal_bits for chunk in partial.chunks.values())
    bytes_per_token = subject.text_bytes / len(subject.tokens)

    def encode(i: int, progress: Progress) -> tuple[Chunk, Tensors]:
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
        for i, (chunk, learned) in side_by_side(encode, missing, workers, report):
            partial.add(i, chunk, learned)


class _Partial:
    """The chunks that are finished, in a file of JSON lines that a kill cannot spoil.

    The first line is what they depend on: another recipe, text, artifact or machine starts anew.
    What a learner had become by the end of a chunk is in a file beside it; chunks after that are
    coded again.
    """

    def __init__(self, place: Run, about: str, learner: Learner | None) -> None:
        self._path, self._learned_path = place.prove_checkpoint, place.prove_learned
        self._learner, self._about = learner, about
        self._began = time.perf_counter()
        self._seconds_before = 0.0
        self.chunks: dict[int, Chunk] = {}
        lines = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
        entries = []
        for line in lines[1:] if lines[:1] == [json.dumps(about)] else []:
            try:
                entries.append(json.loads(line))
            except ValueError:  # a line cut by a kill
                break
        if learner:
            entries = entries[: self._restore(len(entries))]
        for entry in entries:
            self.chunks[entry["chunk"]] = Chunk(base64.b85decode(entry["body"]), *entry["figures"])
            self._seconds_before = entry["seconds"]
        kept = [json.dumps(line) + "\n" for line in (about, *entries)]
        write_atomic(self._path, "".join(kept).encode())

    def _restore(self, chunks: int) -> int:
        """Let the learner be what it was after a chunk, of so many at most; says after which."""
        assert self._learner
        if not self._learned_path.exists():
            return 0
        tensors, note = checkpoint.load(self._learned_path)
        if note.get("about") != self._about or note["chunks"] > chunks:
            return 0
        self._learner.restore(tensors)
        return int(note["chunks"])

    @property
    def seconds(self) -> float:
        """Spent on the finished chunks, by this process and those before it."""
        return self._seconds_before + time.perf_counter() - self._began

    def learned(self) -> Tensors:
        """A copy of what the learner has become; empty without one."""
        return self._learner.snapshot() if self._learner else {}

    def add(self, i: int, chunk: Chunk, learned: Tensors) -> None:
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


# verify -----------------------------------------------------------------------------------------


def verify(recipe: Recipe, run: Run, text: Path | None = None) -> VerifyResult:
    """Let a fresh process decode the proof, and compare what it writes with what was proved.

    That process works in an empty folder with copies of the two files. Raises BadInput when there
    is no proof, or `text` is not what was proved; a proof that does not hold is a result.
    """
    place = run if text is None else run.about(text)
    proved = place.need("prove")
    assert isinstance(proved, ProveResult)
    try:
        hashes = {file: sha256_file(file) for file in (run.artifact, place.proof_file)}
    except foreign.Missing as error:
        raise BadInput(f"{error}; run fairway prove again") from None
    if text is not None:
        tokenizer = artifact.read(run.artifact).tokenizer
        if texts.load(recipe, run, tokenizer, text).text_sha256 != proved.text_sha256:
            raise BadInput(f"{text} is not the text that was proved: prove it first")
    stamp = run.stamp("verify", recipe, before=proved)
    finished = place.fresh("verify", stamp, VerifyResult)
    files_sha256 = {file.name: sha256 for file, sha256 in hashes.items()}
    if finished and finished.verified and finished.files_sha256 == files_sha256:
        return finished
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copy(file, folder)) for file in hashes]
        out = Path(folder, "decoded")
        reason, lengths_sha256 = _decode_apart(copies[0], copies[1], out)
        sha256 = sha256_file(out) if out.exists() else ""
        decoded_bytes = out.stat().st_size if out.exists() else 0
    reason = reason or _difference(run, text, proved, sha256, lengths_sha256)
    result = VerifyResult(
        stamp=stamp,
        verified=not reason,
        decoded_bytes=decoded_bytes,
        text_sha256=sha256,
        files_sha256=files_sha256,
        decode_s=time.perf_counter() - began,
        reason=reason,
    )
    place.finish("verify", result)
    return result


def _difference(
    run: Run, text: Path | None, proved: ProveResult, text_sha256: str, lengths_sha256: str
) -> str:
    """In what the decoded text is not the one that was proved; empty: it is the same."""
    if text_sha256 != proved.text_sha256:
        return f"the decoded text has SHA-256 {text_sha256}, the proved one {proved.text_sha256}"
    if lengths_sha256 != proved.lengths_sha256:
        return "the decoded documents have other lengths than the proved ones"
    data = run.result("data")
    if text is None and isinstance(data, DataResult) and data.text_sha256 != text_sha256:
        return "the decoded text is not the validation text of this run: run fairway prove again"
    return ""


def _decode_apart(artifact_file: Path, proof: Path, out: Path) -> tuple[str, str]:
    """Decode in a fresh process that works in the files' folder.

    Returns (why it failed or "", SHA-256 of the decoded lengths).
    """
    home = str(Path(fairway.__file__).parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "fairway.prove.proof",
            artifact_file.name,
            proof.name,
            out.name,
        ],
        cwd=out.parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return f"the decoding process failed with exit code {done.returncode}", ""
    return said.get("error", ""), said.get("lengths_sha256", "")


def decode(artifact_file: Path, proof: Path, out: Path) -> texts.Digest:
    """Write the text that a proof holds to `out`; only if all of it is right. Raises BadInput."""
    opened = artifact.read(artifact_file)
    reader = Reader(
        foreign.read_bytes(proof, "the proof", 1 << 30, pipes=True), "the proof's header"
    )
    header = Header.read(reader)
    chunks = read_chunks(reader, header.chunks, header.version)
    if not bytes.fromhex(opened.sha256).startswith(header.artifact):
        raise BadInput(
            f"the proof needs the artifact whose SHA-256 begins with {header.artifact.hex()}, and "
            f"{artifact_file} has {opened.sha256}"
        )
    lanes = max((len(chunk.coded.starts) for chunk in chunks if chunk.coded), default=1)
    if lanes > 1 and methods.alone(header.adapt):
        raise BadInput(f"the proof claims to learn left to right and has {lanes} lanes")
    digest = texts.Digest()
    with replacing(out) as temporary, open(temporary, "wb") as file:
        try:
            for document in _decode(opened, header, chunks):
                digest.update(document)
                file.write(document)
        except MemoryError:
            raise BadInput(f"the proof's {lanes} lanes need more memory than there is") from None
        if text_digest(digest.text_sha256, digest.lengths_sha256) != header.text:
            raise BadInput("the decoded text is not the one that the proof's header names")
        if header.claims not in (None, (digest.text_bytes, digest.documents)):
            raise BadInput("the proof's header claims other bytes or documents than it holds")
    return digest


def _decode(opened: artifact.Artifact, header: Header, chunks: list[Written]) -> Iterator[bytes]:
    """The documents of all chunks. Raises BadInput."""
    tokens, machine = sum(chunk.tokens for chunk in chunks), header.machine
    streams = sum(len(chunk.coded.stream) for chunk in chunks if chunk.coded)
    limits.check_work("the proof", tokens, streams)
    on_cuda = bool(machine and machine.on_cuda)
    with (
        computing(opened, header.arithmetic, on_cuda, header.adapt, tokens) as (engine, guard),
        console.track("decode", tokens, "tokens") as task,
    ):
        if machine and guard:
            guard.check_environment(machine.environment)
            guard.check_logits(machine.logits)
        codec = Codec(engine, opened.tokenizer)

        def decode_one(i: int, progress: Progress) -> list[bytes]:
            return codec.decode(chunks[i], progress)

        def report(done: int, bits: float) -> None:
            task.update(done)

        workers = guard.workers if guard else 1
        decoded = side_by_side(decode_one, range(len(chunks)), workers, report)
        yield from chain.from_iterable(in_order(decoded))


def main(arguments: list[str]) -> int:
    """Decode a proof; one line of JSON on stdout says what came out, or why nothing did."""
    world.leave()  # whoever started this process may be a rank of torchrun
    try:
        digest = decode(*(Path(argument) for argument in arguments))
    except BadInput as error:
        print(json.dumps({"error": str(error)}))
        return 2
    print(json.dumps({"text_sha256": digest.text_sha256, "lengths_sha256": digest.lengths_sha256}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
