"""The validation text under general-purpose compressors, for comparison."""

from __future__ import annotations

import bz2
import hashlib
import lzma

import brotli
import zstandard
from pydantic import BaseModel, NonNegativeInt, ValidationError

from fairway import foreign
from fairway.course import Run, write_atomic


class Baselines(BaseModel):
    """What baselines.json holds: bytes by compressor, of one text."""

    text_sha256: str
    text_bytes: int
    sizes: dict[str, NonNegativeInt]


def sizes(text: bytes) -> dict[str, int]:
    """Compressed bytes of `text` by compressor, each at its strongest setting."""
    return {
        "xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        "zstd --ultra -22": len(zstandard.ZstdCompressor(level=22).compress(text)),
        "brotli -q 11 -w 24": len(brotli.compress(text, quality=11, lgwin=24)),
        "bzip2 -9": len(bz2.compress(text, 9)),
    }


def sizes_of_run(run: Run) -> dict[str, int]:
    """`sizes` of the run's validation text, kept in baselines.json. Empty without the text."""
    from fairway.text.prepare import load_tokenizer, load_val

    data = run.result("data")
    if data is None or not run.data_folder(data).is_dir():
        return {}
    folder = run.data_folder(data)
    text = b"".join(load_tokenizer(folder).decode(load_val(folder)))
    sha256 = hashlib.sha256(text).hexdigest()
    kept = _read(run, sha256)
    if kept is None:
        kept = Baselines(text_sha256=sha256, text_bytes=len(text), sizes=sizes(text))
        write_atomic(run.baselines, kept.model_dump_json(indent=2).encode())
    return kept.sizes


def _read(run: Run, sha256: str) -> Baselines | None:
    """What an earlier report has kept, if it is about this text."""
    try:
        kept = Baselines.model_validate(foreign.read_json(run.baselines, "the baselines"))
    except (foreign.Missing, foreign.Damaged, ValidationError):
        return None
    return kept if kept.text_sha256 == sha256 else None
