"""The process in which foreign code runs: limits first, then its file, then answers.

Started by sandbox.Child through enter.py, which has left the network. What the code prints goes
nowhere.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fairway.audit import sandbox, scorer
from fairway.errors import BadInput


def main() -> None:
    order = json.loads(sys.argv[1])
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.environ |= {"TMPDIR": order["folder"], "NUMBA_CACHE_DIR": order["folder"]}  # writable
    sandbox.limit(*order["limits"])
    file, _ = scorer.split(order["name"])
    readable = [*sandbox.system_folders(), file.parent, *map(Path, order["readable"])]
    hidden = [Path(p) for p in order["hidden"]]
    files_cut = sandbox.cut_files(readable, Path(order["folder"]), hidden)
    try:
        function = scorer.load(order["name"])
    except BaseException as error:
        sandbox.send(outbox, {"error": _told(error)}, {})
        return
    about = {"network_cut": sys.argv[2] == "cut", "files_cut": files_cut}
    sandbox.send(outbox, about | {"distributions": hasattr(function, "distributions")}, {})
    while True:
        try:
            head, arrays = sandbox.receive(inbox)
        except Exception:  # the parent has closed its end
            return
        sandbox.send(outbox, *_reply(function, head["call"], arrays["tokens"].copy()))


def _reply(function: Any, call: str, tokens: scorer.Tokens) -> tuple[dict[str, Any], Any]:
    try:
        if call == "distributions":
            rows = scorer.checked_rows(scorer._array(function.distributions(tokens)), len(tokens))
            return {}, {"rows": rows}
        return sandbox.answer_of(scorer.plain(function(tokens)))
    except BaseException as error:
        return {"error": _told(error)}, {}


def _told(error: BaseException) -> str:
    """The error and the line of the foreign file that it came from."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, MemoryError):
        return "it ran out of the memory that it may take (--memory)"
    trace, line = error.__traceback__, 0
    while trace is not None:
        if "fairway/audit" not in trace.tb_frame.f_code.co_filename:
            line = line if "site-packages" in trace.tb_frame.f_code.co_filename else trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}" + (f" (line {line})" if line else "")


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
