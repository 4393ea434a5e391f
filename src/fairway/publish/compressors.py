"""The validation text under general-purpose compressors, for comparison."""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma

import brotli
import zstandard

from fairway.course import Run, write_atomic


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
    kept = json.loads(run.baselines.read_text("utf-8")) if run.baselines.exists() else {}
    if kept.get("text_sha256") != sha256:
        kept = {"text_sha256": sha256, "text_bytes": len(text), "sizes": sizes(text)}
        write_atomic(run.baselines, json.dumps(kept, indent=2).encode())
    found: dict[str, int] = kept["sizes"]
    return found
