"""What counts against the challenge's 16,000,000 bytes; beside it, all that a decoder opens."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

CHALLENGE_BYTES = 16_000_000  # decimal; model and code. Challenge README, "size" (REFERENCE D)


def sentence(artifact_bytes: int) -> str:
    """An artifact under the challenge's rule: its bytes and those of the code that reads it."""
    counted = artifact_bytes + code_bytes()
    return (
        f"of the challenge's {CHALLENGE_BYTES:,} bytes: {artifact_bytes:,} (artifact) + "
        f"{code_bytes():,} (Fairway's code, zipped) = {counted:,}, {counted / CHALLENGE_BYTES:.1%}"
    )


@cache
def code_bytes() -> int:
    """Of a zip file with every source file of this package."""
    root, buffer = Path(__file__).parents[1], io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(root.rglob("*.py")):
            entry = zipfile.ZipInfo(path.relative_to(root.parent).as_posix())
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return len(buffer.getvalue())
