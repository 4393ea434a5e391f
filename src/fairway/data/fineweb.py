"""Download FineWeb from the Hugging Face Hub: the challenge's shards, or raw documents.

huggingface_hub moves the bytes: it resumes after a broken connection. After a kill, finished files
stay and unfinished files start over. Each file gets its name only after its SHA-256 was compared
with the Hub's. Once all files are there, no network is needed. While some are missing, the Hub is
asked for its list, and files that it has replaced since are downloaded again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from fairway import console
from fairway.errors import BadInput
from fairway.io.atomic import lock_folder, replacing, sha256_file, write_atomic

T = TypeVar("T")

CHALLENGE = "willdepueoai/parameter-golf"  # where the challenge's script takes its shards from
RAW, RAW_FOLDER = "HuggingFaceFW/fineweb", "sample/10BT"
_TRIES = 12
_MOST_WAIT_S = 30.0
_KNOCK_S = 3.0  # for the Hub's address to answer before anything is asked
_THREADS = 4
_INCOMING = ".download"  # the folder of files whose hash was not compared yet
_ROWS = 1000  # of a parquet file at once


@dataclass(frozen=True)
class Remote:
    """A file of a data set on the Hub. Git holds small files: their sha256 is empty."""

    path: str
    size: int
    sha256: str
    blob: str = ""  # Git's SHA-1 of a small file

    def is_in(self, file: Path) -> bool:
        """Return whether `file` has this content."""
        if not file.is_file() or file.stat().st_size != self.size:
            return False
        if self.sha256:
            return sha256_file(file) == self.sha256
        git = hashlib.sha1(b"blob %d\0" % self.size + file.read_bytes(), usedforsecurity=False)
        return self.blob in ("", git.hexdigest())


def shards(variant: str, folder: Path, train_shards: int) -> tuple[Path, Path]:
    """Download validation shards, the first `train_shards` training shards and the tokenizer.

    Returns the folder of the shards and the tokenizer's file: data.path and data.tokenizer of a
    recipe with the source `shards`. Raises BadInput.
    """
    if not (variant.startswith("sp") and variant[2:].isdecimal()):
        raise BadInput(f"--variant {variant}: give sp and the number of tokens, as in sp1024")
    shard_folder = f"datasets/datasets/fineweb10B_{variant}"
    model = f"datasets/tokenizers/fineweb_{variant[2:]}_bpe.model"

    def wanted() -> list[Remote]:
        listed = _listed(CHALLENGE, shard_folder)
        val = [f for f in listed if "/fineweb_val_" in f.path and f.path.endswith(".bin")]
        train = [f for f in listed if "/fineweb_train_" in f.path and f.path.endswith(".bin")]
        if train_shards > len(train):
            raise BadInput(
                f"--shards {train_shards}: {CHALLENGE} has {len(train)} training shards of "
                f"{variant}"
            )
        tokenizers = [f for f in _listed(CHALLENGE, "datasets/tokenizers") if f.path == model]
        if not val or not tokenizers:
            raise BadInput(f"{CHALLENGE} has no validation shards or tokenizer of {variant}")
        return [*val, *train[:train_shards], *tokenizers]

    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        plan = folder / f"{variant}-{train_shards}.json"
        remotes = _planned(plan, wanted, lambda remote: folder / remote.path, is_kept=True)
        _fetch_files(CHALLENGE, folder, remotes)
    return folder / shard_folder, folder / model


def documents(folder: Path, files: int, processes: int) -> Path:
    """Download the first parquet files of a sample of FineWeb, and write their documents.

    Each becomes a .jsonl.zst, which the source `files` reads; the parquet file is then removed.
    Returns the folder of the documents. Raises BadInput.
    """
    out = folder / "documents"
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        plan = folder / f"raw-{files}.json"
        remotes = _planned(plan, lambda: _parquet(files), lambda r: _written(out, r), is_kept=False)
        todo = [r for r in remotes if not _written(out, r).exists()]
        with (
            ProcessPoolExecutor(max(1, min(processes, len(todo)))) as pool,
            console.track("documents", len(remotes), "files") as task,
        ):
            _fetch_files(RAW, folder, todo)
            jobs = [pool.submit(_convert, folder / r.path, _written(out, r)) for r in todo]
            for done, job in enumerate(as_completed(jobs), len(remotes) - len(todo) + 1):
                job.result()
                task.update(done)
    return out


def _parquet(files: int) -> list[Remote]:
    listed = [r for r in _listed(RAW, RAW_FOLDER) if r.path.endswith(".parquet")]
    if files > len(listed):
        raise BadInput(f"--shards {files}: {RAW} has {len(listed)} files in {RAW_FOLDER}")
    return listed[:files]


def _written(out: Path, remote: Remote) -> Path:
    return out / (Path(remote.path).stem + ".jsonl.zst")


def _convert(parquet: Path, target: Path) -> None:
    """Write the column `text` as JSON lines, then remove the parquet file."""
    import zstandard
    from pyarrow import parquet as pq

    with (
        replacing(target) as temporary,
        open(temporary, "wb") as raw,
        zstandard.ZstdCompressor(level=6).stream_writer(raw) as file,
    ):
        for batch in pq.ParquetFile(parquet).iter_batches(_ROWS, columns=["text"]):
            for text in batch.column("text").to_pylist():
                file.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())
    parquet.unlink()


# Files of the Hub -------------------------------------------------------------------------------


def _listed(repository: str, folder: str) -> list[Remote]:
    """Return the files in a folder of a data set, by name. Raises BadInput."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def ask() -> list[Any]:
        return list(HfApi().list_repo_tree(repository, folder, repo_type="dataset"))

    entries = _patiently(ask, f"the folder {folder} of {repository}")
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return sorted(
        (
            Remote(f.path, f.size, f.lfs.sha256 if f.lfs else "", "" if f.lfs else f.blob_id)
            for f in files
        ),
        key=lambda remote: remote.path,
    )


def _planned(
    plan: Path, ask: Callable[[], list[Remote]], place: Callable[[Remote], Path], is_kept: bool
) -> list[Remote]:
    """Return the list of files: the stored one while all files are there, else the Hub's.

    Files in their `place` that the Hub has replaced since are removed, to be downloaded again.
    is_kept: a place holds the Hub's bytes, and not what was made of them. Raises BadInput.
    """
    before = _read_plan(plan)
    missing = [
        r for r in before
        if not place(r).is_file() or (is_kept and place(r).stat().st_size != r.size)
    ]  # fmt: skip
    if before and not missing:
        return before
    what = f"{len(missing)} of {len(before)} files are" if before else "the list of files is"
    _need_hub(f"{what} not in {plan.parent} yet")
    listed = ask()
    known: dict[str, set[Remote]] = {}
    for remote in (r for file in plan.parent.glob("*.json") for r in _read_plan(file)):
        known.setdefault(remote.path, set()).add(remote)
    replaced = 0
    for remote in listed:
        if known.get(remote.path) == {remote}:
            continue
        file = place(remote)
        if file.exists() and not (is_kept and remote.is_in(file)):
            file.unlink()
            replaced += 1
    if replaced:
        console.say(
            f"the Hub has other contents of {replaced} files than {plan.parent}: they are removed "
            "and downloaded again"
        )
    write_atomic(plan, json.dumps([vars(remote) for remote in listed], indent=1).encode())
    return listed


def _read_plan(plan: Path) -> list[Remote]:
    """Return the files of a stored list; none where it is missing or damaged."""
    try:
        return [Remote(**entry) for entry in json.loads(plan.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _need_hub(why: str) -> None:
    """Raise BadInput at once where the Hub is switched off, or nobody answers at its address."""
    from huggingface_hub import constants

    advice = "copy the files from a machine that has them, or go on where there is a network"
    if constants.is_offline_mode():
        raise BadInput(f"HF_HUB_OFFLINE forbids to ask the Hub, and {why}: unset it, or {advice}")
    if problem := _unreachable(constants.ENDPOINT):
        raise BadInput(f"no way to {constants.ENDPOINT} ({problem}), and {why}: {advice}")


def _unreachable(url: str) -> str:
    """Return why nobody answers at the host of `url`, or at its proxy; empty if someone does."""
    address = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    answers: list[str] = []

    def knock() -> None:
        try:
            socket.create_connection((address.hostname or "", port), _KNOCK_S).close()
            answers.append("")
        except OSError as error:
            answers.append(error.strerror or str(error))

    thread = threading.Thread(target=knock, daemon=True)  # looking up a name has no timeout
    thread.start()
    thread.join(_KNOCK_S + 0.5)
    return answers[0] if answers else f"no answer in {_KNOCK_S:.0f} seconds"


def _fetch_files(repository: str, folder: Path, remotes: Sequence[Remote]) -> None:
    """Download missing files, several at a time, with one bar for all of them. Raises BadInput."""
    incoming = folder / _INCOMING
    shutil.rmtree(incoming, ignore_errors=True)  # of a process that was killed
    missing = [r for r in remotes if not _is_there(folder / r.path, r)]
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        console.track("download", sum(r.size for r in missing), "bytes") as task,
    ):
        jobs = [pool.submit(_fetch, repository, folder / r.path, r, incoming) for r in missing]
        try:
            while not all(job.done() for job in jobs):
                time.sleep(0.2)
                finished = sum(r.size for r in missing if _is_there(folder / r.path, r))
                task.update(finished + _bytes_below(incoming))
                _raise_first(jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        _raise_first(jobs)
    shutil.rmtree(incoming, ignore_errors=True)


def _raise_first(jobs: Sequence[Any]) -> None:
    for job in jobs:
        if job.done():
            job.result()


def _bytes_below(folder: Path) -> int:
    count = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it is renamed in between
            count += file.stat().st_size if file.is_file() else 0
    return count


def _is_there(file: Path, remote: Remote) -> bool:
    """Return whether a file is complete: it got its name only after its hash was right."""
    return file.exists() and file.stat().st_size == remote.size


def _fetch(repository: str, file: Path, remote: Remote, incoming: Path) -> None:
    """Download one file to `incoming`, compare its hash, and move it. Raises BadInput."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    where = f"{remote.path} of {repository}"
    arrived = Path(
        _patiently(
            lambda: hf_hub_download(
                repository, remote.path, repo_type="dataset", local_dir=incoming
            ),
            where,
        )
    )
    if not remote.is_in(arrived):
        sha256 = sha256_file(arrived)
        arrived.unlink()
        raise BadInput(
            f"{remote.path} arrived with SHA-256 {sha256}, the Hub names "
            f"{remote.sha256 or remote.blob}: it was removed; the same command asks the Hub "
            "for its list again, and downloads it"
        )
    with open(arrived, "rb") as handle:
        os.fsync(handle.fileno())
    file.parent.mkdir(parents=True, exist_ok=True)
    os.replace(arrived, file)


def _patiently(ask: Callable[[], T], what: str) -> T:
    """Return ask(), tried again after failures that may pass. Raises BadInput."""
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(_TRIES):
        try:
            return ask()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403, 404):
                raise BadInput(
                    f"the Hub has no {what} for you ({status}): check the name, and hf auth login"
                ) from None
            problem, asked = f"status {status}", error.response.headers.get("Retry-After", "")
        except (OSError, RuntimeError) as error:  # no metadata, a file that is cut short, Xet
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            cause = error.__cause__ or error
            problem, asked = str(cause) or type(cause).__name__, ""
        except Exception as error:
            if "httpx" not in type(error).__module__:
                raise
            problem, asked = str(error) or type(error).__name__, ""
        if attempt + 1 < _TRIES:
            wait = min(float(asked) if asked.isdecimal() else 0.1 * 2**attempt, _MOST_WAIT_S)
            console.say(f"{what}: {problem}; try {attempt + 2} of {_TRIES} in {wait:.1f} s")
            time.sleep(wait)
    raise BadInput(
        f"cannot download {what}: {problem}, {_TRIES} times; the same command goes on from here"
    )
