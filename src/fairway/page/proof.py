"""The page of a proof: from two files, or from a run directory.

Nothing is decoded here; the page does that, wherever somebody opens it.
"""

from __future__ import annotations

from pathlib import Path

from fairway.errors import BadInput
from fairway.formats import artifact
from fairway.formats.proof import Header, read_chunks
from fairway.io import foreign
from fairway.io.atomic import write_atomic
from fairway.io.binary import Reader
from fairway.page.build import proof_page
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import ProveResult, Result

MOST_FILE_BYTES = 1 << 27  # of a model and of a proof: a browser keeps both in memory, twice
_MOST_TEXT_BYTES = 5_000_000  # of a text whose page is made unasked: a browser needs minutes


class PageResult(Result):
    """A page that was written."""

    path: str
    page_bytes: int


def page_of(model: Path, proof: Path) -> bytes:
    """Return the page of an artifact and its portable proof. Raises BadInput."""
    files = foreign.read_bytes(model, "the artifact", MOST_FILE_BYTES, pipes=True)
    return page_of_bytes(files, foreign.read_bytes(proof, "the proof", MOST_FILE_BYTES, pipes=True))


def page_of_bytes(model: bytes, proof: bytes) -> bytes:
    """Return the page of the bytes of an artifact and its portable proof.

    Raises BadInput where no page could decode them: one is damaged, they do not belong together,
    or the proof is of grade device.
    """
    try:
        sha256 = artifact.split(model).sha256
    except BadInput as error:
        raise type(error)(f"the artifact cannot be opened: {error}") from None
    reader = Reader(proof, "the proof's header")
    header = Header.read(reader)
    if header.machine:
        raise BadInput(
            "the proof is of grade device: only a machine like the one that wrote it "
            f"({header.machine.environment}) decodes it, and a browser is none; "
            "fairway prove RUN --adapt none --arithmetic exact writes one that any machine decodes"
        )
    if not sha256.startswith(needed := header.artifact.hex()):
        raise BadInput(
            f"the proof needs the artifact whose SHA-256 begins with {needed}, and this artifact "
            f"has {sha256}: give the one that it needs"
        )
    read_chunks(reader, header.chunks)
    return proof_page(model, proof)


def is_small(text_bytes: int, grade: str) -> bool:
    """Return whether the page of a proof of such a text is made unasked."""
    return grade == "portable" and text_bytes <= _MOST_TEXT_BYTES


def page_of_run(run: RunDirectory) -> bytes:
    """Return the page of a run's proof. Raises BadInput that says how to make what is missing."""
    for file, stage in ((run.artifact, "pack"), (run.proof_file, "prove")):
        if not file.is_file():
            raise BadInput(f"there is no {file}: fairway {stage} {run.path} writes it")
    return page_of(run.artifact, run.proof_file)


def write_small(run: RunDirectory) -> Path | None:
    """Write the page of a run whose text is small, else remove it; return the written file.

    Raises BadInput.
    """
    proved = run.require(ProveResult)
    if not is_small(proved.text_bytes, proved.grade):
        run.page.unlink(missing_ok=True)
        return None
    write_atomic(run.page, page_of_run(run))
    return run.page


def has_current(run: RunDirectory) -> bool:
    """Return whether a run directory has the page of the proof that lies in it now."""
    try:
        page = foreign.read_bytes(run.page, "the page", 3 * MOST_FILE_BYTES)
        return page == page_of_run(run)
    except BadInput:
        return False
