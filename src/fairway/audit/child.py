"""Run in the process for foreign code: load its file, then answer questions.

enter.py starts it within its walls. What the code prints goes nowhere.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Any

import numpy as np

from fairway.audit import scorer, wire
from fairway.errors import BadInput


def main(name: str, number: int, kernels: str) -> None:
    """Serve the scorer `name`, FILE.py:FUNCTION; `number` is that of the first reply.

    kernels: a folder of compiled code, copied to where this process may add to it; or empty.
    """
    if kernels:
        with suppress(OSError, shutil.Error):
            shutil.copytree(kernels, os.environ["NUMBA_CACHE_DIR"], copy_function=shutil.copyfile)
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    np.seterr(all="ignore")

    def send(number: int, answer: wire.Reply) -> None:
        outbox.write(wire.reply(number, answer))
        outbox.flush()

    try:
        function = scorer.load(name)
    except BaseException as error:
        send(number, wire.Reply(wire.ERROR, text=_told(error)))
        return
    send(number, wire.Reply(wire.READY, flag=hasattr(function, "distributions")))
    while True:
        try:
            number, kind, tokens = wire.read_question(inbox)
        except EOFError:  # the audit has closed its end
            return
        send(number, _answer(function, kind, tokens))


def _answer(function: Any, kind: int, tokens: scorer.Tokens) -> wire.Reply:
    try:
        if kind == wire.ROWS:
            rows = scorer.checked_rows(scorer.array_of(function.distributions(tokens)), len(tokens))
            return wire.Reply(wire.ROWS, rows=rows)
        charges = scorer.checked(scorer.plain(function(tokens)), len(tokens))
        return wire.Reply(wire.CHARGES, charges)
    except BaseException as error:
        return wire.Reply(wire.ERROR, text=_told(error))


def _told(error: BaseException) -> str:
    """Return an error as text, with the line of the foreign file that it came from."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, MemoryError):
        return "it ran out of the memory that it may take (--memory)"
    trace, line = error.__traceback__, 0
    while trace is not None:
        if "fairway/audit" not in trace.tb_frame.f_code.co_filename:
            line = line if "site-packages" in trace.tb_frame.f_code.co_filename else trace.tb_lineno
        trace = trace.tb_next
    try:
        said = str(error)
    except BaseException:
        said = "?"
    return f"{type(error).__name__}: {said}" + (f" (line {line})" if line else "")
