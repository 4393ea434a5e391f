"""Choose how fine the steps must be, so that the file fills the byte budget."""

from __future__ import annotations

from collections.abc import Callable

from fairway.formats.tensors import Quantized
from fairway.quantize.quantizers import COARSEST, Quantizer

_FILLED = 0.9985  # of the budget is filled well enough
_TRIES, _MORE_TRIES = 9, 7  # for log_step; then for the share of rows
_RESOLUTION = 0.01  # of log_step


def fill(
    quantizer: Quantizer,
    budget_bytes: int,
    fixed_bytes: int,
    write: Callable[[Quantized], bytes],
    note: Callable[[int, int], None],
) -> tuple[Quantized, bytes]:
    """Return the largest file of at most `budget_bytes` that was found, and its tensors.

    Two searches: for log_step; then, where sizes jump because many rows change their exponents at
    once, for the share of the rows that have the log_step before the jump. fixed_bytes: about what
    the file takes besides matrices. `note` is told number and bytes of every try. When even the
    coarsest steps take too much, the result is over the budget.
    """
    target = budget_bytes * (1 + _FILLED) / 2
    best: tuple[Quantized, bytes] | None = None
    tries = 0

    def attempt(quantized: Quantized) -> int:
        nonlocal best, tries
        data, tries = write(quantized), tries + 1
        note(tries, len(data))
        if best is None or _better(len(data), len(best[1]), budget_bytes):
            best = quantized, data
        return len(data)

    def good(size: int) -> bool:
        return _FILLED * budget_bytes <= size <= budget_bytes

    finest = quantizer.finest()
    log_step = max(quantizer.guess(8 * max(target - fixed_bytes, 1)), finest)
    fine, coarse = finest - _RESOLUTION, COARSEST  # what is too large, and what fits
    before: tuple[float, int] | None = None
    while tries < _TRIES and coarse - fine > _RESOLUTION:
        size = attempt(quantizer.at(log_step))
        if good(size):
            break
        if size > budget_bytes:
            fine = max(fine, log_step)
        else:
            coarse = min(coarse, log_step)
        slope = quantizer.bytes_per_log_step()
        if before and before[1] != size:
            slope = (size - before[1]) / (log_step - before[0])
        before = log_step, size
        log_step += (target - size) / min(slope, -1.0)
        if not fine < log_step < coarse:
            log_step = (fine + coarse) / 2
    least, most = 0.0, 1.0  # shares at the finer step: what fits, and what is too large
    while tries < _TRIES + _MORE_TRIES and finest <= fine and coarse < COARSEST:
        assert best is not None
        if good(len(best[1])):
            break
        share = (least + most) / 2
        if attempt(quantizer.at(coarse, fine, share)) > budget_bytes:
            most = share
        else:
            least = share
    assert best is not None
    return best


def _better(size: int, than: int, budget: int) -> bool:
    """Prefer what fits; then the larger one where both fit, else the smaller one."""
    if (size <= budget) != (than <= budget):
        return size <= budget
    return size > than if size <= budget else size < than
