"""FineWeb from the Hugging Face Hub: the challenge's shards, or documents of one's own choice.

Downloads go on after a broken connection or a kill where they stopped, are compared with the Hub's
SHA-256, and are not asked for again: once all files are there, no network is needed. While some are
missing, the Hub is asked for its list again: files that it has replaced since are downloaded again.
"""

from __future__ import annotations

import hashlib
import json
import os
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
_ROWS = 1000  # of a parquet file at once


@dataclass(frozen=True)
class Remote:
    """A file of a data set on the Hub; sha256 is empty for a small one, which Git holds."""

    path: str
    size: int
    sha256: str
    blob: str = ""  # Git's SHA-1 of a small one

    def is_in(self, file: Path) -> bool:
        """Whether `file` has this content."""
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
    place = f"datasets/datasets/fineweb10B_{variant}"
    model = f"datasets/tokenizers/fineweb_{variant[2:]}_bpe.model"

    def wanted() -> list[Remote]:
        listed = _listed(CHALLENGE, place)
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
    return folder / place, folder / model


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
    found = [r for r in _listed(RAW, RAW_FOLDER) if r.path.endswith(".parquet")]
    if files > len(found):
        raise BadInput(f"--shards {files}: {RAW} has {len(found)} files in {RAW_FOLDER}")
    return found[:files]


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
    """Files of a folder of a data set, by name. Raises BadInput."""
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
    """The list of files: the one that stands beside them while all are there, else the Hub's.

    Files in their `place` that the Hub has replaced since are removed, to be downloaded again.
    is_kept: the places hold the Hub's bytes, not what was made of them. Raises BadInput.
    """
    before = _read_plan(plan)
    missing = [r for r in before if not (place(r).is_file() and _has_size(place(r), r, is_kept))]
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
        if remote.path in known:
            _part(plan.parent / remote.path).unlink(missing_ok=True)
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
    """The files of a list; none where it is missing or damaged."""
    try:
        return [Remote(**entry) for entry in json.loads(plan.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _has_size(file: Path, remote: Remote, is_kept: bool) -> bool:
    return not is_kept or file.stat().st_size == remote.size


def _need_hub(why: str) -> None:
    """Raise BadInput at once where the Hub is switched off, or nobody answers at its address."""
    from huggingface_hub import constants

    advice = "copy the files from a machine that has them, or go on where there is a network"
    if constants.is_offline_mode():
        raise BadInput(f"HF_HUB_OFFLINE forbids to ask the Hub, and {why}: unset it, or {advice}")
    if problem := _unreachable(constants.ENDPOINT):
        raise BadInput(f"no way to {constants.ENDPOINT} ({problem}), and {why}: {advice}")


def _unreachable(url: str) -> str:
    """Why no connection can be made to the host of `url`, or to the proxy on the way; or empty."""
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
    """Download what is missing, several files at a time, with one bar for all of them."""
    missing = [r for r in remotes if not _is_there(folder / r.path, r)]
    before = sum(_part(folder / r.path).stat().st_size for r in missing if _started(folder, r))
    total = sum(r.size for r in missing)
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        console.track("download", total, "bytes") as task,
    ):
        jobs = [pool.submit(_fetch, repository, folder / r.path, r) for r in missing]
        try:
            while not all(job.done() for job in jobs):
                time.sleep(0.2)
                task.update(max(before, _present_bytes(folder, missing)))
                _raise_first(jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        _raise_first(jobs)


def _raise_first(jobs: Sequence[Any]) -> None:
    for job in jobs:
        if job.done():
            job.result()


def _started(folder: Path, remote: Remote) -> bool:
    return _part(folder / remote.path).exists()


def _present_bytes(folder: Path, remotes: Sequence[Remote]) -> int:
    count = 0
    for remote in remotes:
        for file in (folder / remote.path, _part(folder / remote.path)):
            with suppress(FileNotFoundError):  # it is renamed in between
                count += file.stat().st_size
                break
    return count


def _is_there(file: Path, remote: Remote) -> bool:
    """A file gets its name only after its hash was right."""
    return file.exists() and file.stat().st_size == remote.size


def _part(file: Path) -> Path:
    return file.with_name(f".{file.name}.part")


def _fetch(repository: str, file: Path, remote: Remote) -> None:
    """Download one file, or the rest of it, and compare. Raises BadInput."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = _part(file)
    for is_resumed in (part.exists(), False):
        _patiently(lambda: _rest(repository, part, remote), f"{remote.path} of {repository}")
        if remote.is_in(part):
            break
        found = sha256_file(part)
        part.unlink()
        if not is_resumed:
            raise BadInput(
                f"{remote.path} arrived with SHA-256 {found}, the Hub names "
                f"{remote.sha256 or remote.blob}: it was removed; the same command asks the Hub "
                "for its list again, and downloads it"
            )
        console.say(f"{remote.path}: the part from before is of another file; it starts over")
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, file)


def _rest(repository: str, part: Path, remote: Remote) -> None:
    """Append what is missing. Raises what the connection raises; what came by then is kept."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    # As it arrives: of theirs, 10 MB, a kill or a cut would lose all but the whole ones.
    constants.DOWNLOAD_CHUNK_SIZE = None  # type: ignore[assignment]
    url = hf_hub_url(repository, remote.path, repo_type="dataset")
    with open(part, "ab", buffering=0) as target:
        have = target.tell()
        if have > remote.size:
            target.truncate(0)
            have = 0
        if have < remote.size:
            http_get(
                url,
                target,
                resume_size=have,
                headers=build_hf_headers(),
                expected_size=remote.size,
                tqdm_class=_silent(),
                _nb_retries=0,
            )
    if part.stat().st_size != remote.size:
        raise OSError("the connection ended early")


def _silent() -> Any:
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

    return Silent


def _patiently(ask: Callable[[], T], what: str) -> T:
    """Ask again after failures that may pass, with growing waits. Raises BadInput."""
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
        except (OSError, RuntimeError) as error:  # http_get raises these for cut connections
            if isinstance(error, OSError) and error.errno == 28:
                raise
            problem, asked = str(error) or type(error).__name__, ""
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
