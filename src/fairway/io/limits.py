"""Limit the memory and work that a file may ask for: a multiple of its size, unless raised.

Files come from strangers, and a few bytes can ask for gigabytes or hours. Code that is about to
take memory for a file says first how much. A claim far beyond the size of the file is refused with
a sentence. The whole process has one setting, which threads share.
"""

from __future__ import annotations

from fairway.errors import BadInput

FREE_BYTES = 1 << 30  # that any file may ask for
BYTES_PER_BYTE = 320  # that each byte of a file adds
FREE_TOKENS = 1 << 22
TOKENS_PER_BYTE = 1024

_most_bytes = _most_tokens = 0  # 0: by the file's size


def raise_to(memory_bytes: int = 0, tokens: int = 0) -> None:
    """Set the limits that the user gives; 0: by the file's size."""
    global _most_bytes, _most_tokens
    _most_bytes, _most_tokens = memory_bytes, tokens


def check_memory(what: str, needed_bytes: int, file_bytes: int) -> None:
    """Raise BadInput when `what` needs more memory than a file of that size may ask for."""
    allowed = _most_bytes or FREE_BYTES + BYTES_PER_BYTE * file_bytes
    if needed_bytes > allowed:
        raise BadInput(
            f"{what} asks for {_shown(needed_bytes)} of memory, and {_shown(allowed)} is the most "
            f"{_because(_most_bytes, file_bytes)}: if you trust the file, raise it with "
            f"--max-memory {-(-needed_bytes // 10**9)}G"
        )


def check_work(what: str, tokens: int, file_bytes: int) -> None:
    """Raise BadInput when `what` claims more tokens than a file of that size may ask for."""
    allowed = _most_tokens or FREE_TOKENS + TOKENS_PER_BYTE * file_bytes
    if tokens > allowed:
        raise BadInput(
            f"{what} asks for the work of {tokens:,} tokens, and {allowed:,} is the most "
            f"{_because(_most_tokens, file_bytes)}: if you trust the file, raise it with "
            f"--max-tokens {tokens}"
        )


def _because(most: int, file_bytes: int) -> str:
    return "that you allow" if most else f"for {file_bytes:,} bytes"


def _shown(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
