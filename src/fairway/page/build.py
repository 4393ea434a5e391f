"""Build pages: one HTML file each, which opens no other file and makes no request.

A page holds a style, a script and its data. Its Content-Security-Policy names the hashes of the
style and the script, so nothing else in it can run, whatever a text or a model holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fairway.page import shorten
from fairway.page.join import joined

_FOLDER = Path(str(resources.files("fairway.page")))
_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}' 'wasm-unsafe-eval'; "
    "style-src 'sha256-{style}'; worker-src blob:; img-src data:; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types fairway-worker"
)
_UNSAFE = re.compile("[<>&\u2028\u2029]")  # in JSON inside a script element


def proof_page(model: bytes, proof: bytes) -> bytes:
    """Return the page that decodes a proof; equal files give equal pages.

    Nothing of the two files is looked at.
    """
    name = f"proof {hashlib.sha256(proof).hexdigest()[:8]}"
    files = {"model": ("model.fairway", model), "proof": ("proof.fwp", proof)}
    facts = {
        key: {"name": file, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for key, (file, data) in files.items()
    }
    links = " ".join(_link(key, *file) for key, file in files.items())
    return _page({"kind": "proof", "name": name, **facts}, links, None)


def view_page(name: str, model: Mapping[str, Any], charges: Mapping[str, Any]) -> bytes:
    """Return the page that shows what the tokens of a text cost.

    name: of the text, in one line. model: name, bytes and sha256 of the artifact. charges:
    what tokens cost, as the page reads it.
    """
    return _page({"kind": "view", "name": name, "model": model, "proof": None}, "", charges)


def _page(meta: Mapping[str, Any], files: str, charges: Mapping[str, Any] | None) -> bytes:
    style, script = shorten.style((_FOLDER / "page.css").read_text("utf-8")), _script()
    if "</style" in style.lower():
        raise ValueError("an inline style cannot hold </style")
    parts = {
        "csp": _POLICY.format(script=_hash(script), style=_hash(style)),
        "title": escape(f"Fairway: {meta['name']}"),
        "style": style,
        "files": files,
        "meta": _json(meta),
        "charges": _json(charges),
        "script": script,
    }
    template = re.sub(r"\n\s+", "\n", (_FOLDER / "page.html").read_text("utf-8"))
    return _filled(template, parts).encode()


@cache
def _script() -> str:
    return joined(_FOLDER / "main.mjs")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """Return a template with each `{{name}}` filled in; what is filled in is not looked at again.

    Raises ValueError unless every part is asked for once.
    """
    asked = re.findall(r"\{\{(\w+)\}\}", template)
    if sorted(asked) != sorted(parts):
        raise ValueError(f"the template asks for {sorted(asked)}, and there are {sorted(parts)}")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _link(key: str, name: str, data: bytes) -> str:
    """Return a link by which a reader without JavaScript can save a file."""
    address = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
    return f'<a id="{key}" download="{escape(name)}" href="{address}">{escape(name)}</a>'


def _json(value: object) -> str:
    """Return JSON that can stand in a script element of HTML."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
