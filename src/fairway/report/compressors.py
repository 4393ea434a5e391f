"""The validation text under general-purpose compressors, for comparison."""

from __future__ import annotations

import bz2
import hashlib
import lzma
from contextlib import suppress

import brotli
import zstandard
from pydantic import TypeAdapter, ValidationError

from fairway.io.atomic import write_atomic
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import PrepareResult
from fairway.userfolders import user_state_folder

_SIZES = TypeAdapter(dict[str, int])


def sizes(text: bytes) -> dict[str, int]:
    """Return the compressed bytes of `text` by compressor, each at its strongest setting."""
    return {
        "xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        "zstd --ultra -22": len(zstandard.ZstdCompressor(level=22).compress(text)),
        "brotli -q 11 -w 24": len(brotli.compress(text, quality=11, lgwin=24)),
        "bzip2 -9": len(bz2.compress(text, 9)),
    }


def sizes_of_run(run: RunDirectory, text_sha256: str) -> dict[str, int]:
    """Return `sizes` of the run's validation text, if it has this hash; empty otherwise.

    They are computed from the text, or were by this user: the run directory is not asked.
    """
    from fairway.pipeline.data_folder import load_tokenizer, load_val

    data = run.recorded(PrepareResult)
    if data is None or not run.data_folder(data).is_dir():
        return {}
    folder, state = run.data_folder(data), user_state_folder()
    note = state / "compressors" / f"{text_sha256[:32]}.json" if state else None
    if note and note.is_file():
        with suppress(OSError, ValidationError):
            return _SIZES.validate_json(note.read_bytes())
    text = b"".join(load_tokenizer(folder).decode(load_val(folder)))
    if hashlib.sha256(text).hexdigest() != text_sha256:
        return {}
    found = sizes(text)
    if note:
        with suppress(OSError):
            note.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(note, _SIZES.dump_json(found))
    return found
