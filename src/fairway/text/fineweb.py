"""FineWeb from the Hugging Face Hub: the challenge's shards, or documents of one's own choice.

Downloads go on after a broken connection or a kill where they stopped, are compared with the Hub's
SHA-256, and are not asked for again: once all files are there, no network is needed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fairway import console
from fairway.course import lock_folder, replacing, sha256_file, write_atomic
from fairway.errors import BadInput

T = TypeVar("T")

CHALLENGE = "willdepueoai/parameter-golf"  # where the challenge's script takes its shards from
RAW, RAW_FOLDER = "HuggingFaceFW/fineweb", "sample/10BT"
_TRIES = 12
_MOST_WAIT_S = 30.0
_THREADS = 4
_ROWS = 1000  # of a parquet file at once


@dataclass(frozen=True)
class Remote:
    """A file of a data set on the Hub; sha256 is empty for a small one, which Git holds."""

    path: str
    size: int
    sha256: str


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

    with lock_folder(folder):
        _fetch_all(CHALLENGE, folder, f"{variant}-{train_shards}", wanted)
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
        remotes = _planned(plan, lambda: _parquet(files))
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
        (Remote(f.path, f.size, f.lfs.sha256 if f.lfs else "") for f in files),
        key=lambda remote: remote.path,
    )


def _planned(plan: Path, wanted: Callable[[], list[Remote]]) -> list[Remote]:
    """The list of files, asked for once and kept beside them."""
    if not plan.exists():
        entries = [vars(remote) for remote in wanted()]
        write_atomic(plan, json.dumps(entries, indent=1).encode())
    return [Remote(**entry) for entry in json.loads(plan.read_text("utf-8"))]


def _fetch_all(
    repository: str, folder: Path, name: str, wanted: Callable[[], list[Remote]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    remotes = _planned(folder / f"{name}.json", wanted)
    _fetch_files(repository, folder, remotes)


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
    _patiently(lambda: _rest(repository, part, remote), f"{remote.path} of {repository}")
    found = sha256_file(part)
    if remote.sha256 and found != remote.sha256:
        part.unlink()
        raise BadInput(
            f"{remote.path} arrived with SHA-256 {found}, the Hub names {remote.sha256}: it was "
            "removed; the same command downloads it again"
        )
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
        wait = float(asked) if asked.isdecimal() else 0.1 * 2**attempt
        time.sleep(min(wait, _MOST_WAIT_S))
    raise BadInput(
        f"cannot download {what}: {problem}, {_TRIES} times; the same command goes on from here"
    )
