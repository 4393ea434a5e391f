"""How coarse the steps must be: one number for the whole network, that fills the byte budget.

The number is θ of gptq.py, or the step of `uniform`; both as logarithms, `level` here. Coarser
steps make smaller files: per weight half a bit for an octave of θ, one bit for an octave of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Pack
from fairway.errors import BadInput
from fairway.formats.tensors import Matrix, Quantized, Weights
from fairway.model.parameters import is_matrix, kind_of
from fairway.quantize import gptq, grids
from fairway.quantize.gptq import USEFUL_CODE, FactoredHessian

_FILLED = 0.9985  # of the budget is filled well enough
_TRIES, _MORE_TRIES = 9, 7  # for the level; then for the share of rows
_FINEST, _COARSEST = -120.0, 40.0  # levels
_RESOLUTION = 0.01  # of levels

T = TypeVar("T")


class Quantizer:
    """`at(level)` gives every tensor's codes; what does not depend on the level is kept.

    Raises BadInput when a weight is not finite.
    """

    def __init__(
        self, weights: Mapping[str, Weights], hessians: Mapping[str, FactoredHessian], pack: Pack
    ) -> None:
        self._matrices = {n: w for n, w in weights.items() if is_matrix(n)}
        for name, w in self._matrices.items():
            _fitting(name, grids.check_finite, w)
        self._forms, self._pack = hessians, pack
        self.fills = pack.quantizer != "rtn" and not pack.step
        self.vectors = {
            name: _fitting(name, grids.vector, w)
            for name, w in weights.items()
            if name not in self._matrices
        }

    def at(self, level: float, finer: float = 0.0, share: float = 0.0) -> Quantized:
        """All rows at `level`, but the first `share` of them at `finer`.

        Raises BadInput when a weight is too large.
        """
        left = round(share * sum(len(w) for w in self._matrices.values()))
        matrices = {}
        for name, w in self._matrices.items():
            levels = np.full(len(w), level)
            levels[:left] = finer
            matrices[name] = _fitting(name, self._matrix, name, levels)
            left = max(left - len(w), 0)
        return Quantized(matrices, self.vectors)

    def _matrix(self, name: str, level: NDArray[np.float64]) -> Matrix:
        """level: of each row."""
        weights, pack = self._matrices[name], self._pack
        if pack.quantizer == "rtn":
            bits = grids.bits_of(kind_of(name).part, pack)
            return grids.rtn(weights, bits, pack.row_scale)
        if pack.quantizer == "uniform":
            return grids.uniform(weights, pack.step or np.exp2(level))
        return gptq.gptq(weights, self._forms[name], level)

    def bytes_per_level(self) -> float:
        """By how much the file grows per level while every weight takes bits: a negative number."""
        weights = sum(w.size for w in self._matrices.values())
        return -weights / (16 if self._pack.quantizer == "gptq" else 8)

    def finest(self) -> float:
        """The level below which finer steps are of no use: all of gptq's rows have their finest,
        or one of the rows of `uniform`, which are much alike."""
        gptq_rows = self._pack.quantizer == "gptq"
        codes = np.concatenate([self._largest_codes(name) for name in self._matrices])
        codes = codes[codes > 0]
        code = float(codes.min() if gptq_rows else codes.max()) if codes.size else 1.0
        return float(np.log2(code / USEFUL_CODE) * (2 if gptq_rows else 1))

    def _largest_codes(self, name: str) -> NDArray[np.float64]:
        """Of every row, about, at level 0."""
        codes = np.abs(self._matrices[name]) / self._steps(name, 0.0)
        largest: NDArray[np.float64] = codes.max(axis=1, initial=0.0)
        return largest

    def guess(self, matrix_bits: float) -> float:
        """The level at which Gaussian weights take so many bits together (docs/pack.md)."""
        finest, coarsest = _FINEST, _COARSEST
        for _ in range(40):
            middle = (finest + coarsest) / 2
            if sum(self._bits(name, middle) for name in self._matrices) > matrix_bits:
                finest = middle
            else:
                coarsest = middle
        return coarsest

    def _bits(self, name: str, level: float) -> float:
        """Bits of a matrix if its rows are Gaussian: ½·log2(1 + 2πe·σ²/Δ²) each, roughly."""
        w = self._matrices[name]
        share = np.square(_spread(w) / self._steps(name, level))
        bits = 0.5 * np.log2(1 + 2 * np.pi * np.e * share)
        return float(np.broadcast_to(bits, w.shape).sum())

    def _steps(self, name: str, level: float) -> NDArray[np.float64]:
        """About the steps of a matrix: [m, 1] or [m, n]."""
        if self._pack.quantizer == "uniform":
            steps: NDArray[np.float64] = _spread(self._matrices[name]) * 2.0**level
        else:
            rows, columns = self._forms[name].steps(level)
            steps = np.exp2((rows[:, None] + columns) / 4)
        return steps


def _spread(weights: Weights) -> NDArray[np.float64]:
    """Root mean square of each row, [m, 1], and a little where it is 0."""
    squares = np.square(weights, dtype=np.float64).mean(axis=1, keepdims=True)
    spread: NDArray[np.float64] = np.maximum(np.sqrt(squares), 1e-30)
    return spread


def fill(
    quantizer: Quantizer,
    budget_bytes: int,
    fixed_bytes: int,
    write: Callable[[Quantized], bytes],
    note: Callable[[int, int], None],
) -> tuple[Quantized, bytes]:
    """The largest file of at most `budget_bytes` that was found, and its tensors.

    Two searches: for the level; then, where sizes jump because many rows change their exponents
    at once, for the share of the rows that are at the level before the jump. fixed_bytes: about
    what the file takes besides matrices. `note` is told number and bytes of every try. When even
    the coarsest steps take too much, the result is over the budget.
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
    level = max(quantizer.guess(8 * max(target - fixed_bytes, 1)), finest)
    fine, coarse = finest - _RESOLUTION, _COARSEST  # what is too large, and what fits
    before: tuple[float, int] | None = None
    while tries < _TRIES and coarse - fine > _RESOLUTION:
        size = attempt(quantizer.at(level))
        if good(size):
            break
        if size > budget_bytes:
            fine = max(fine, level)
        else:
            coarse = min(coarse, level)
        slope = quantizer.bytes_per_level()
        if before and before[1] != size:
            slope = (size - before[1]) / (level - before[0])
        before = level, size
        level += (target - size) / min(slope, -1.0)
        if not fine < level < coarse:
            level = (fine + coarse) / 2
    least, most = 0.0, 1.0  # shares at the finer level: what fits, and what is too large
    while tries < _TRIES + _MORE_TRIES and finest <= fine and coarse < _COARSEST:
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
    """Fitting beats not fitting; then larger beats smaller where both fit, else smaller."""
    if (size <= budget) != (than <= budget):
        return size <= budget
    return size > than if size <= budget else size < than


def _fitting(name: str, make: Callable[..., T], *arguments: object) -> T:
    """Say which tensor cannot be stored."""
    try:
        return make(*arguments)
    except ValueError as error:
        raise BadInput(f"{name} cannot be packed, {error}: the training diverged") from None
