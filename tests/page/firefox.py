"""Drive an installed Firefox: its own remote protocol, Marionette, over one socket.

Playwright drives the Chromium of a distribution, but only a Firefox that it patched itself. The
protocol: messages are JSON behind their length in bytes, LENGTH:[0, number, command, parameters],
and answers LENGTH:[1, number, error, result]. The commands are those of WebDriver.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

START_S = 60


class Firefox:
    """A running browser with one window."""

    def __init__(self, port):
        self._socket, self._number = _connected(port), 0
        self._read()  # its greeting
        self._send("WebDriver:NewSession", {"capabilities": {}})
        self._send("WebDriver:SetTimeouts", {"script": 120_000, "pageLoad": 120_000})

    def resize(self, width, height):
        self._send("WebDriver:SetWindowRect", {"width": width, "height": height})

    def open(self, file):
        self._send("WebDriver:Navigate", {"url": Path(file).as_uri()})

    def run(self, script, *arguments):
        """Return what the body of a function returns when the page runs it."""
        parameters = {"script": script, "args": list(arguments), "sandbox": None}
        return self._send("WebDriver:ExecuteScript", parameters)["value"]

    def wait(self, condition, timeout_s=120):
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found := self.run(f"return {condition}"):
                return found
            time.sleep(0.1)
        raise TimeoutError(f"{condition} is still false after {timeout_s} s")

    def point(self, x, y):
        """Move the mouse to a point of the window."""
        move = {"type": "pointerMove", "x": x, "y": y, "duration": 0}
        actions = [{"type": "pointer", "id": "mouse", "actions": [move]}]
        self._send("WebDriver:PerformActions", {"actions": actions})

    def screenshot(self):
        """Return what the window shows as a PNG file."""
        return base64.b64decode(self._send("WebDriver:TakeScreenshot", {"full": False})["value"])

    def quit(self):
        self._send("Marionette:Quit", {"flags": ["eForceQuit"]})
        self._socket.close()

    def _send(self, command, parameters):
        self._number += 1
        message = json.dumps([0, self._number, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, number, error, result = self._read()
        assert number == self._number
        if error:
            raise RuntimeError(f"{command}: {error}")
        return result

    def _read(self):
        length = b""
        while not length.endswith(b":"):
            length += self._take(1)
        return json.loads(self._take(int(length[:-1])))

    def _take(self, size):
        parts = []
        while size:
            part = self._socket.recv(size)
            assert part, "Firefox closed the connection"
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _connected(port):
    end = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=150)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@contextmanager
def running(program, folder, dark=False):
    """Start a browser without a window, with a fresh profile in `folder`, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    profile = folder / "profile"
    profile.mkdir()
    settings = {
        "marionette.port": port,
        "layout.css.prefers-color-scheme.content-override": 0 if dark else 1,
        "datareporting.policy.dataSubmissionEnabled": False,
        "app.update.disabledForTesting": True,
    }
    lines = [
        f"user_pref({json.dumps(key)}, {json.dumps(value)});" for key, value in settings.items()
    ]
    (profile / "user.js").write_text("\n".join(lines))
    process = subprocess.Popen(
        [program, "--headless", "--marionette", "--no-remote", "--profile", str(profile)],
        env={**os.environ, "HOME": str(folder), "MOZ_CRASHREPORTER_DISABLE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        browser = Firefox(port)
        try:
            yield browser
        finally:
            browser.quit()
            process.wait(30)
    finally:
        process.kill()
        process.wait()
