"""What may be said about a run directory: which verdict on its proof is known, what it only claims.

Every file of a run directory may have been written by whoever claims the score. So a verdict comes
from decoding, by this process or by an earlier one that noted it in the user's own state directory,
under the hashes of the artifact, the proof and the code that decoded. The result files are claims.
Claims that follow from the two files are compared with them; the others are shown as "claimed".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fairway import console
from fairway.data.documents import stream_documents
from fairway.errors import BadInput
from fairway.io.atomic import code_sha256, write_atomic
from fairway.pipeline import verify as verifying
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import (
    Decoded,
    FrozenResult,
    PackResult,
    PrepareResult,
    ProveResult,
    Result,
    ScoreResult,
    TrainResult,
    Verdict,
)
from fairway.pipeline.verify import File
from fairway.userfolders import user_state_folder

_decoded_here: dict[str, Decoded] = {}  # by key: what this process, or one before it, decoded


# Verdicts that are remembered --------------------------------------------------------------------


def remember(decoded: Decoded) -> None:
    """Note what a proof decoded to, for this process and in the user's own state directory."""
    key = _key(decoded.artifact_sha256, decoded.proof_sha256)
    _decoded_here[key] = decoded
    folder = user_state_folder()
    if folder is None:
        return
    try:
        (folder / "verdicts").mkdir(mode=0o700, exist_ok=True)
        write_atomic(folder / "verdicts" / f"{key}.json", decoded.model_dump_json().encode())
    except OSError as error:
        console.say(f"this verdict is not remembered: cannot write {folder}: {error.strerror}")


def remembered(artifact: Path, proof: Path) -> Decoded | None:
    """Return what these two files were seen to decode to, or None if nobody here has decoded them.

    The files are hashed now; a note about other bytes, or by other code, does not count.
    """
    hashes = verifying.sha256_readable(artifact), verifying.sha256_readable(proof)
    if not all(hashes):
        return None
    key = _key(*hashes)
    if key in _decoded_here:
        return _decoded_here[key]
    folder = user_state_folder()
    if folder is None:
        return None
    try:
        note = Decoded.model_validate_json((folder / "verdicts" / f"{key}.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return note if (note.artifact_sha256, note.proof_sha256) == hashes else None


def _key(artifact_sha256: str, proof_sha256: str) -> str:
    return f"{artifact_sha256[:32]}-{proof_sha256[:32]}-{code_sha256()[:16]}"


def decoded(artifact: Path, proof: Path) -> Decoded:
    """Return what two files decode to, in a fresh process unless this user has decoded them.

    Raises Damaged, BadInput.
    """
    known = remembered(artifact, proof)
    if known is None:
        known = verifying.decode_apart(artifact, proof)
        remember(known)
    return known


# Verification ------------------------------------------------------------------------------------


def verify_files(artifact: Path, proof: Path, text: Path | None, text_field: str) -> Verdict:
    """Decode a proof and return the verdict. What a reviewer has: two files, and perhaps a text.

    text: a file or folder of documents. text_field: of JSON lines. Raises BadInput.
    """
    if text is None:
        return verify_proof(artifact, proof)
    if not text.exists():
        raise BadInput(f"there is no text {text}: name the file that the proof should decode to")
    return verify_proof(artifact, proof, stream_documents(text, text_field), str(text))


def verify_proof(
    artifact: File, proof: File, documents: Iterable[bytes] | None = None, name: str = ""
) -> Verdict:
    """Decode a proof and return the verdict, after a comparison with the text called `name`.

    The bytes of the documents are compared with the decoded ones, under the rule of the artifact's
    tokenizer. A single document may be the whole text written down without its boundaries: then
    only the bytes are compared. Raises BadInput.
    """
    from fairway.pipeline import texts

    verdict = verifying.verify_files(artifact, proof)
    if verdict.decoded is None:
        return verdict
    remember(verdict.decoded)
    if documents is None:
        return verdict
    digest = texts.digest_of(documents, name, verdict.decoded.text_rule)
    if digest.documents == 1 != verdict.decoded.documents:
        name, lengths = f"{name}, which has no boundaries", verdict.decoded.lengths_sha256
    else:
        lengths = digest.lengths_sha256
    return verifying.compared(verdict, name, digest.text_sha256, lengths)


def verify(job: Job, text_field: str = "text") -> Verdict:
    """Decode the proof of a run directory and compare its claims with the decoded text.

    It always decodes. The verdict is "no" when the proof is damaged, decodes to another text than
    the validation split that prepare.json names (or than `job.text`), or when a result file states
    a figure that the two files contradict (`disagreements`). The verdict is also written to
    verify.json, which nothing reads. text_field: of JSON lines. The recipe is not used: the
    claimant may have written it. Raises BadInput when a file is missing, or belongs to another
    artifact.
    """
    run, place = job.run, job.place
    if not place.proof_file.is_file():
        text = f" --text {job.text}" if job.text else ""
        raise BadInput(
            f"there is no proof {place.proof_file}: fairway prove {run.path}{text} writes it"
        )
    if job.text is None and run.recorded(PrepareResult) is None:
        raise BadInput(
            f"{run.path} has no prepare.json that can be read, so nothing says which text is its "
            f"validation text: fairway verify {run.artifact} {place.proof_file} [--text FILE]"
        )
    verdict = verify_files(run.artifact, place.proof_file, job.text, text_field)
    verdict = _with_claims(verdict, run, place)
    try:
        place.record(verdict)
    except OSError as error:  # somebody else's directory; the verdict does not depend on it
        console.say(f"verify.json is not written: {error.strerror}")
    return verdict


def known(run: RunDirectory) -> Verdict | None:
    """Return the verdict on a run's proof without decoding, or None where nobody here decoded it.

    The claims are compared anew each time.
    """
    found = remembered(run.artifact, run.proof_file)
    if found is None or run.recorded(PrepareResult) is None:
        return None
    verdict = Verdict(
        verified=True, reason="", bpb=found.bpb, decoded=found, compared_with="", decode_s=0.0
    )
    return _with_claims(verdict, run, run)


# Claims ------------------------------------------------------------------------------------------


def _with_claims(verdict: Verdict, run: RunDirectory, place: RunDirectory) -> Verdict:
    """Return the verdict after the run's claims are compared with it."""
    decoded = verdict.decoded
    if decoded is None:
        return verdict
    prepared = run.recorded(PrepareResult)
    if place is run and prepared:
        name = "the validation text that prepare.json names"
        verdict = verifying.compared(verdict, name, prepared.text_sha256, prepared.lengths_sha256)
    lies = [
        f"{claim.file} says {claim.field} = {_short(claim.said)}, the two files give "
        f"{_short(claim.true)}"
        for claim in disagreements(run, place, decoded)
    ]
    return verifying.refused(verdict, "; ".join(lies)) if lies else verdict


def _short(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 100 else text[:100] + "…"


@dataclass(frozen=True)
class Claim:
    """A field of a result file that disagrees with the two files."""

    file: str
    field: str
    said: object
    true: object


def disagreements(run: RunDirectory, place: RunDirectory, decoded: Decoded) -> Iterator[Claim]:
    """Yield every claim of the result files that the artifact and the proof contradict.

    pack.json and score.json of another artifact are stale and not compared. prove.json is always
    compared: the proof that lies there decodes with the artifact that lies there. Figures that do
    not follow from the two files are not compared: losses, steps, seconds, the bits per byte of a
    score.
    place: the directory of the proof's results, which is the run or a text inside it.
    """
    for kind, fields in _truth(run, place, decoded).items():
        directory = place if kind in (FrozenResult, ScoreResult, ProveResult) else run
        file = f"{kind.stage}.json"
        result = directory.recorded(kind)
        if result is None:
            if (directory.path / file).exists():
                yield Claim(file, "the whole file", "unreadable", "a result of this version")
            continue
        sha256 = getattr(result, "artifact_sha256", decoded.artifact_sha256)
        if sha256 != decoded.artifact_sha256 and kind is not ProveResult:
            continue
        for field, true in fields.items():
            said = getattr(result, field)
            if not _same(said, true):
                yield Claim(file, field, said, true)


def _same(said: object, true: object) -> bool:
    if isinstance(said, float) and isinstance(true, float):
        return abs(said - true) <= 1e-9 * abs(true)
    return said == true


Truth = dict[type[Result], dict[str, object]]


def truth(decoded: Decoded, proof_name: str) -> Truth:
    """Return what result files must say, by stage and field, because the two files say it."""
    text: dict[str, object] = {
        "text_sha256": decoded.text_sha256,
        "text_rule": decoded.text_rule,
    }
    documents: dict[str, object] = {"lengths_sha256": decoded.lengths_sha256}
    scored = text | {"text_bytes": decoded.text_bytes, "tokens": decoded.tokens - 1}
    return {
        PrepareResult: text
        | documents
        | {
            "val_bytes": decoded.text_bytes,
            "val_documents": decoded.documents,
            "val_tokens": decoded.tokens,
            "vocab_size": decoded.vocab_size,
        },
        TrainResult: {"parameters": decoded.parameters},
        PackResult: {
            "artifact_bytes": decoded.artifact_bytes,
            "parts": decoded.parts,
            "bits_per_weight": decoded.bits_per_weight,
        },
        FrozenResult: scored,
        ScoreResult: scored,
        ProveResult: text
        | documents
        | {
            "bpb": decoded.bpb,
            "text_bytes": decoded.text_bytes,
            "artifact_sha256": decoded.artifact_sha256,
            "files": {proof_name: decoded.proof_bytes},
            "stream_bytes": decoded.stream_bytes,
            "stream_ideal_bits": decoded.stream_ideal_bits,
            "tokens": decoded.tokens,
            "lanes": decoded.lanes,
            "adaptation": decoded.adaptation,
            "arithmetic": decoded.arithmetic,
            "order": decoded.order,
            "grade": decoded.grade,
        },
    }


def _truth(run: RunDirectory, place: RunDirectory, decoded: Decoded) -> Truth:
    """Return `truth` about a run's result files; prepare.json is about the run's own text alone."""
    found = truth(decoded, place.proof_file.name)
    if place is not run:
        del found[PrepareResult]
    if pack := run.recorded(PackResult):
        found[PackResult]["within_budget"] = decoded.artifact_bytes <= pack.budget_bytes
    return found
