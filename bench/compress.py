"""`fairway compress` against other compressors, on files of several kinds.

    python bench/compress.py --model runs/mini/model.fairway --data ../shared/data [--bytes 1000000]

Files: validation text of the corpus, web text, Python source of the standard library, and a mixture
(text, source, JSON, a compressed part, random bytes). Every coder at its strongest setting; those
that are missing here are left out. Speeds are megabytes of the file per second, one run each, and
Fairway's file is compared with the original after decompression.
"""

from __future__ import annotations

import argparse
import bz2
import io
import json
import lzma
import shutil
import subprocess
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import numpy as np
import torch
import zstandard

from fairway import console, distributed
from fairway.coding import artifact, compress
from fairway.data.documents import read_documents
from fairway.train.loop import commit

EXTERNAL = {  # command with {in} and {out}
    "7z ppmd": ["7z", "a", "-bd", "-y", "-m0=PPMd:mem=256m:o=16", "{out}.7z", "{in}"],
    "zpaq -m5": ["zpaq", "a", "{out}.zpaq", "{in}", "-m5"],
    "lrzip -z": ["lrzip", "-q", "-f", "-z", "-L", "9", "-p", "1", "-o", "{out}.lrz", "{in}"],
}
LIBRARIES: dict[str, Callable[[bytes], bytes]] = {
    "xz -9e": lambda d: lzma.compress(d, preset=9 | lzma.PRESET_EXTREME),
    "brotli -11": lambda d: brotli.compress(d, quality=11, lgwin=24),
    "zstd --ultra -22": lambda d: zstandard.ZstdCompressor(level=22).compress(d),
    "bzip2 -9": lambda d: bz2.compress(d, 9),
}


def files(data: Path, count: int) -> dict[str, bytes]:
    """Name and contents of what is compressed."""
    val = b"\n".join(read_documents(data / "corpus" / "val.jsonl.zst", "text"))[:count]
    web = b"\n".join(read_documents(next(data.rglob("fineweb_sample.jsonl")), "text"))[:count]
    folder = Path(sysconfig.get_path("stdlib"))
    source = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))[:count]
    part = count // 5
    noise = np.random.default_rng(1).bytes(part)
    tree = json.dumps([{"id": i, "text": t.decode()[:80]} for i, t in enumerate(web.split(b"\n"))])
    packed = zlib.compress(val)[:part]
    mixed = val[:part] + source[:part] + tree.encode()[:part] + packed + noise
    return {"val": val, "web": web, "python": source, "mixed": mixed}


def external(name: str, data: bytes) -> tuple[int, float] | None:
    """Bytes and seconds; None where the program is missing."""
    if not shutil.which(EXTERNAL[name][0]):
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "file"), Path(folder, "out")
        source.write_bytes(data)
        line = [
            word.replace("{in}", str(source)).replace("{out}", str(out)) for word in EXTERNAL[name]
        ]
        began = time.perf_counter()
        subprocess.run(line, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        return next(Path(folder).glob("out*")).stat().st_size, seconds


def fairway(model: Path, data: bytes) -> tuple[int, float, float]:
    """Bytes, seconds of compression, seconds of decompression. Raises AssertionError."""
    packed, restored = io.BytesIO(), io.BytesIO()
    began = time.perf_counter()
    opened = artifact.read(model)
    compress.compress(opened, io.BytesIO(data), packed, "exact", lambda done: None)
    middle = time.perf_counter()
    packed.seek(0)
    compress.decompress(opened, packed, restored, lambda done: None)
    end = time.perf_counter()
    assert restored.getvalue() == data
    return len(packed.getvalue()), middle - began, end - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=1_000_000, help="of each file, at most")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    artifact_bytes = args.model.stat().st_size
    fairway(args.model, b"warm")  # compiled code is loaded
    rows = []
    for name, data in files(args.data, args.bytes).items():
        size, down, up = fairway(args.model, data)
        found = {
            "Fairway": (size, down, up),
            "Fairway and its artifact": (size + artifact_bytes, down, up),
        }
        for coder, work in LIBRARIES.items():
            began = time.perf_counter()
            found[coder] = (len(work(data)), time.perf_counter() - began, 0.0)
        for coder in EXTERNAL:
            if (result := external(coder, data)) is not None:
                found[coder] = (*result, 0.0)
        for coder, (size, seconds, back) in found.items():
            speed = len(data) / 1e6 / seconds
            more = f", decompressed at {len(data) / 1e6 / back:.3f}" if back else ""
            console.say(
                f"{name} ({len(data):,} bytes): {coder} {size:,} bytes, "
                f"{8 * size / len(data):.4f} bits per byte, {speed:.3f} MB/s{more}"
            )
            rows.append(
                {
                    "file": name,
                    "bytes": len(data),
                    "coder": coder,
                    "coded_bytes": size,
                    "s": seconds,
                    "back_s": back,
                }
            )
    if args.json:
        about = {"commit": commit(), "threads": torch.get_num_threads()}
        print(json.dumps(about | distributed.describe(distributed.start("cpu")) | {"rows": rows}))


if __name__ == "__main__":
    main()
