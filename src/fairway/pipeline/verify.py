"""The verdict on a proof, from the two files alone: an artifact and a proof.

A fresh process gets copies of both files in an empty directory and decodes. What it found is
compared with the text that the caller has, if there is one. Nothing is read from a run directory:
whoever claims a score may have written everything in it. docs/validity.md says what this shows.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairway import console
from fairway.errors import BadInput, Damaged
from fairway.io import foreign
from fairway.io.atomic import sha256_file
from fairway.pipeline import second_decoder
from fairway.pipeline.results import Decoded, Verdict

_NAMES = ("the artifact", "the proof")
MOST_BYTES = 1 << 30  # of each file

File = Path | bytes  # a file by its path, or what it holds


def decode_apart(artifact: File, proof: File) -> Decoded:
    """Decode a proof in a fresh process and return what it found.

    The process works in an empty directory with copies of the two files and nothing else, and the
    hashes of the copies are checked against what it says it decoded. Raises Damaged or BadInput
    with the process's own sentence, RuntimeError when it ends without one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        copies = _copied(artifact, proof, place, pipes=True)
        answer = _run(place, [str(console.level()), copies[0].name, copies[1].name, "decoded"])
        if "error" in answer:
            kind = Damaged if answer.get("damaged") else BadInput
            names = {
                copy.name: "in memory" if isinstance(file, bytes) else str(file)
                for copy, file in zip(copies, (artifact, proof), strict=True)
            }
            said = re.sub("|".join(names), lambda copy: names[copy[0]], str(answer["error"]))
            raise kind(said)
        decoded = Decoded.model_validate(answer)
        written = sha256_file(place / "decoded")
        hashes = [sha256_file(copy) for copy in copies] + [written]
        if hashes != [decoded.artifact_sha256, decoded.proof_sha256, decoded.text_sha256]:
            raise RuntimeError("the decoding process reports about other files than it was given")
        return decoded


def _copied(artifact: File, proof: File, place: Path, pipes: bool) -> tuple[Path, Path]:
    """Return copies of an artifact and a proof in the directory `place`. Raises BadInput."""
    copies = place / "model.fairway", place / "proof.fwp"
    for what, source, copy in zip(_NAMES, (artifact, proof), copies, strict=True):
        if not isinstance(source, bytes):
            source = foreign.read_bytes(source, what, MOST_BYTES, pipes=pipes)
        copy.write_bytes(source)
    return copies


def sha256_readable(file: Path) -> str:
    """Return the SHA-256 of a file that `verify` would read; empty: there is none.

    A stranger's directory may hold a file of any size under any name.
    """
    try:
        small = file.is_file() and file.stat().st_size <= MOST_BYTES
        return sha256_file(file) if small else ""
    except (OSError, BadInput):
        return ""


def _run(place: Path, arguments: list[str]) -> dict[str, object]:
    """Return the JSON line of the decoding process. Raises BadInput, RuntimeError."""
    home = str(Path(__file__).parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fairway.pipeline.prove", *arguments],
        cwd=place,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    if done.returncode == -signal.SIGKILL:
        raise BadInput(
            "the decoding process was killed, as the system does when memory runs out: "
            "free some and verify again"
        )
    raise RuntimeError(f"the decoding process failed with exit code {done.returncode}")


def verify_files(artifact: File, proof: File) -> Verdict:
    """Decode a proof and return the verdict, without comparing any text.

    A file that is damaged is a verdict ("no"). Raises BadInput when a file cannot be read, is no
    file of this kind, belongs to another artifact, or needs another machine.
    """
    began = time.perf_counter()
    try:
        decoded, reason = decode_apart(artifact, proof), ""
    except Damaged as error:
        decoded, reason = None, str(error)
    return Verdict(
        verified=not reason,
        reason=reason,
        bpb=decoded.bpb if decoded else 0.0,
        decoded=decoded,
        compared_with="",
        decode_s=time.perf_counter() - began,
    )


def decoded_twice(verdict: Verdict, artifact: Path, proof: Path) -> Verdict:
    """Return a verdict after the second decoder has decoded, too: "no" where it does not agree.

    Raises BadInput without Node, and for pipes, which can be read only once.
    """
    decoded = verdict.decoded
    if decoded is None:
        return verdict
    with tempfile.TemporaryDirectory() as scratch:
        copies = _copied(artifact, proof, Path(scratch), pipes=False)
        if [*map(sha256_file, copies)] != [decoded.artifact_sha256, decoded.proof_sha256]:
            raise BadInput(f"{artifact} or {proof} has changed while it was verified: do it again")
        try:
            sha256 = second_decoder.decode(*copies, Path(scratch) / "decoded")
        except Damaged as error:
            return refused(verdict, str(error))
    if sha256 != decoded.text_sha256:
        return refused(verdict, f"the second decoder finds another text, with SHA-256 {sha256}")
    return verdict.model_copy(update={"decoded_twice": True})


def compared(verdict: Verdict, name: str, text_sha256: str, lengths_sha256: str) -> Verdict:
    """Return the verdict after the decoded text is compared with the text called `name`.

    text_sha256, lengths_sha256: of that text and of the lengths of its documents.
    """
    decoded = verdict.decoded
    if decoded is None:
        return verdict
    if decoded.text_sha256 != text_sha256:
        reason = (
            f"it decodes to another text than {name}: "
            f"SHA-256 {decoded.text_sha256}, not {text_sha256}"
        )
    elif decoded.lengths_sha256 != lengths_sha256:
        reason = f"it decodes to the text of {name}, cut into other documents"
    else:
        return verdict.model_copy(update={"compared_with": name})
    return refused(verdict, reason)


def refused(verdict: Verdict, reason: str) -> Verdict:
    """Return the verdict "no"; a reason that it has already stays."""
    reason = "; ".join(filter(None, [verdict.reason, reason]))
    return verdict.model_copy(update={"verified": False, "reason": reason})
