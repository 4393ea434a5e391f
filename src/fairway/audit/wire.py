"""Exchange bounded binary frames between the audit and the process for foreign code.

The scorer can write to any descriptor of its process, so a reply is a stranger's bytes. A reply is
read only as far as the question allows: N charges for N tokens, in the types that were agreed. It
can say no more than what a scorer may return, and it echoes the question's number, so that an early
or a second reply is noticed. Anything else is Nonsense.
"""

from __future__ import annotations

import os
import select
import struct
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairway.audit import Charges
from fairway.audit.scorer import ARRAYS, NUMBERS, Floats, Tokens

CHARGES, ROWS, ERROR, READY = 1, 2, 3, 4
_MAGIC_QUESTION, _MAGIC_REPLY = b"FWQ1", b"FWR1"
_QUESTION = struct.Struct("<4sQBQ")  # magic, number, kind, tokens; then int64[tokens]
# magic, number, kind, arrays, numbers: bits, columns of ROWS or bytes of ERROR, the numbers
_REPLY = struct.Struct("<4sQBBBIdqqq")
_MAX_ERROR_BYTES = 4096
_MAX_ROWS_BYTES = 1 << 31
_CHUNK_BYTES = 1 << 20
_TYPES = {name: np.dtype("<f8" if name == "nats" else "<i8") for name in ARRAYS}


class Nonsense(ValueError):
    """Bytes that are no reply to the question."""


@dataclass(frozen=True)
class Reply:
    """An answer of the process for foreign code; `kind` says which fields it has."""

    kind: int
    charges: Charges | None = None
    rows: Floats | None = None
    text: str = ""  # of an error
    flag: bool = False  # READY: the scorer offers distributions


class Pipe:
    """Bytes to and from a process until a deadline. Raises TimeoutError, EOFError."""

    def __init__(self, inward: int, outward: int) -> None:
        self._in, self._out = inward, outward

    def write(self, data: bytes, limit_s: float) -> None:
        """Write all of data within limit_s seconds."""
        os.set_blocking(self._out, False)
        until, view = time.monotonic() + limit_s, memoryview(data)
        while view:
            left = until - time.monotonic()
            if left <= 0 or not select.select([], [self._out], [], left)[1]:
                raise TimeoutError
            try:
                view = view[os.write(self._out, view[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                continue

    def read(self, size: int, until: float) -> bytes:
        """Return `size` bytes, read until a reading of time.monotonic()."""
        parts = []
        while size:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise TimeoutError
            part = os.read(self._in, min(size, _CHUNK_BYTES))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def is_silent(self) -> bool:
        """Say whether nothing came unasked. The end of the process counts as silence."""
        if not select.select([self._in], [], [], 0)[0]:
            return True
        return not os.read(self._in, 1)


def question(number: int, kind: int, tokens: Tokens) -> bytes:
    """Write a question about tokens int64[N] as bytes."""
    head = _QUESTION.pack(_MAGIC_QUESTION, number, kind, len(tokens))
    return head + tokens.astype("<i8").tobytes()


def read_question(file: Any) -> tuple[int, int, Tokens]:
    """Read a question: number, kind, tokens int64[N]. Raises EOFError at the end."""
    head = file.read(_QUESTION.size)
    if len(head) < _QUESTION.size:
        raise EOFError
    _, number, kind, count = _QUESTION.unpack(head)
    return number, kind, np.frombuffer(file.read(8 * count), "<i8").astype(np.int64)


def reply(number: int, answer: Reply) -> bytes:
    """Write a reply to the question of that number as bytes."""
    arrays = numbers = size = 0
    values: list[float] = [0.0, 0, 0, 0]
    body = b""
    if answer.kind == CHARGES:
        assert answer.charges is not None
        for i, name in enumerate(ARRAYS):
            if (array := getattr(answer.charges, name)) is not None:
                arrays |= 1 << i
                body += np.ascontiguousarray(array, _TYPES[name]).tobytes()
        for i, name in enumerate(NUMBERS):
            if (value := getattr(answer.charges, name)) is not None:
                numbers |= 1 << i
                values[i] = value
    elif answer.kind == ROWS:
        assert answer.rows is not None
        size, body = answer.rows.shape[1], np.ascontiguousarray(answer.rows, "<f8").tobytes()
    elif answer.kind == ERROR:
        body = answer.text.encode("utf-8", "replace")[:_MAX_ERROR_BYTES]
        size = len(body)
    else:
        size = int(answer.flag)
    head = (_MAGIC_REPLY, number, answer.kind, arrays, numbers, size, *values)
    return _REPLY.pack(*head) + body


def read_reply(pipe: Pipe, number: int, kind: int, count: int, limit_s: float) -> Reply:
    """Read the reply to question `number` of that kind on `count` tokens, and check its form.

    Raises Nonsense, TimeoutError, EOFError. Ranges of values are the scorer's matter (scorer.py).
    """
    until = time.monotonic() + limit_s
    head = _REPLY.unpack(pipe.read(_REPLY.size, until))
    magic, echoed, answered, arrays, numbers, size, *values = head
    if magic != _MAGIC_REPLY or echoed != number or answered not in (kind, ERROR):
        raise Nonsense("these bytes answer no question")
    if answered != CHARGES and (arrays or numbers or any(values)):
        raise Nonsense("a reply of this kind has no numbers")
    if answered == READY:
        if size > 1:
            raise Nonsense("a flag is 0 or 1")
        answer = Reply(READY, flag=bool(size))
    elif answered == ERROR:
        if size > _MAX_ERROR_BYTES:
            raise Nonsense("the error is too long")
        answer = Reply(ERROR, text=pipe.read(size, until).decode("utf-8", "replace"))
    elif answered == ROWS:
        if not size or size * count * 8 > _MAX_ROWS_BYTES:
            raise Nonsense("rows without columns, or with too many")
        rows = np.frombuffer(pipe.read(8 * size * count, until), "<f8").reshape(count, size)
        answer = Reply(ROWS, rows=rows.astype(np.float64))
    else:
        answer = Reply(CHARGES, _charges(pipe, arrays, numbers, size, values, count, until))
    if not pipe.is_silent():
        raise Nonsense("more than one reply came")
    return answer


def _charges(
    pipe: Pipe, arrays: int, numbers: int, size: int, values: list[Any], count: int, until: float
) -> Charges:
    if size or not arrays & 1 or arrays >> len(ARRAYS) or numbers >> len(NUMBERS):
        raise Nonsense("Charges has no such fields")
    given: dict[str, Any] = {}
    for i, name in enumerate(NUMBERS):
        if numbers >> i & 1:
            given[name] = values[i]
        elif values[i] != 0:
            raise Nonsense("a number stands where none was announced")
    for i, name in enumerate(ARRAYS):
        if arrays >> i & 1:
            given[name] = np.frombuffer(pipe.read(8 * count, until), _TYPES[name])
    return Charges(**given)
