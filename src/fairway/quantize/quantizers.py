"""The quantizers of `pack.quantizer`: one class and one row of QUANTIZERS each.

One number sets how fine all steps of a network are, `log_step`: log2 θ of gptq.py, or log2 of the
step of `uniform` in standard deviations of a row. Coarser steps make smaller files: per weight
half a bit for an octave of θ, one bit for an octave of steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Pack
from fairway.errors import BadInput
from fairway.formats.tensors import Matrix, Part, Quantized, Weights
from fairway.model.parameters import is_matrix, kind_of
from fairway.quantize import grids
from fairway.quantize.gptq import FactoredHessian, gptq
from fairway.quantize.grids import USEFUL_CODE, row_rms

FINEST, COARSEST = -120.0, 40.0  # values of log_step
Floats = NDArray[np.float64]
T = TypeVar("T")


class Quantizer(ABC):
    """Rounds all tensors of a network; what does not depend on log_step is computed once.

    weights: float32 by parameter. hessians: of every matrix, where `needs_curvature`. Raises
    BadInput when a weight is not finite.
    """

    needs_curvature: ClassVar[bool] = False
    bits_per_log_step: ClassVar[float] = 1.0  # that a weight saves when log_step rises by 1
    # For size.py: coded bits of a row's and a column's step; the most bits per weight that help;
    # bits per weight of a part, relative to each other.
    row_bits: ClassVar[float] = 0.0
    column_bits: ClassVar[float] = 0.0
    most_bits: ClassVar[float] = 0.0
    part_shares: ClassVar[dict[Part, float]] = {}

    def __init__(
        self, weights: Mapping[str, Weights], hessians: Mapping[str, FactoredHessian], pack: Pack
    ) -> None:
        self._matrices = {n: w for n, w in weights.items() if is_matrix(n)}
        for name, w in self._matrices.items():
            _check(name, grids.check_finite, w)
        self._hessians, self._pack = hessians, pack
        self.vectors = {
            name: _check(name, grids.vector, w)
            for name, w in weights.items()
            if name not in self._matrices
        }

    @staticmethod
    def fills(pack: Pack) -> bool:
        """Return whether log_step is chosen such that the file fills the byte budget."""
        return True

    @staticmethod
    def code_bits(pack: Pack, part: Part, reach: float) -> float:
        """Return the entropy of a Gaussian weight's code where no budget is filled.

        reach: the largest weight of a row, in standard deviations.
        """
        raise NotImplementedError

    @abstractmethod
    def _round(self, name: str, log_steps: Floats) -> Matrix:
        """Quantize one matrix; log_steps float64[m], of its rows."""

    @abstractmethod
    def _steps(self, name: str, log_step: float) -> Floats:
        """Return about the steps of a matrix: [m, 1] or [m, n]."""

    def at(self, log_step: float, finer: float = 0.0, share: float = 0.0) -> Quantized:
        """Quantize all rows at `log_step`, but the first `share` of them at `finer`.

        Raises BadInput when a weight is too large.
        """
        left = round(share * sum(len(w) for w in self._matrices.values()))
        matrices = {}
        for name, w in self._matrices.items():
            log_steps = np.full(len(w), log_step)
            log_steps[:left] = finer
            matrices[name] = _check(name, self._round, name, log_steps)
            left = max(left - len(w), 0)
        return Quantized(matrices, self.vectors)

    def bytes_per_log_step(self) -> float:
        """Return by how much the file grows per log_step while every weight takes bits: below 0."""
        weights = sum(w.size for w in self._matrices.values())
        return -weights * self.bits_per_log_step / 8

    def finest(self) -> float:
        """Return the log_step below which finer steps are of no use to any row."""
        largest = [
            (np.abs(w) / self._steps(name, 0.0)).max(axis=1, initial=0.0)
            for name, w in self._matrices.items()
        ]
        codes = np.concatenate(largest)
        codes = codes[codes > 0]
        code = self._limiting_code(codes) if codes.size else 1.0
        return float(np.log2(code / USEFUL_CODE)) / self.bits_per_log_step

    def _limiting_code(self, codes: Floats) -> float:
        """Choose among the largest codes of all rows, at log_step 0."""
        return float(codes.min())

    def guess(self, matrix_bits: float) -> float:
        """Return the log_step at which Gaussian weights take a number of bits together."""
        finest, coarsest = FINEST, COARSEST
        for _ in range(40):
            middle = (finest + coarsest) / 2
            if sum(self._gaussian_bits(name, middle) for name in self._matrices) > matrix_bits:
                finest = middle
            else:
                coarsest = middle
        return coarsest

    def _gaussian_bits(self, name: str, log_step: float) -> float:
        """Return the bits of a matrix: about ½·log2(1 + 2πe·σ²/Δ²) for each weight."""
        w = self._matrices[name]
        share = np.square(row_rms(w)[:, None] / self._steps(name, log_step))
        bits = 0.5 * np.log2(1 + 2 * np.pi * np.e * share)
        return float(np.broadcast_to(bits, w.shape).sum())


class Rtn(Quantizer):
    """Round to nearest with the recipe's bits per part: the starting system's rule."""

    row_bits = 10.3

    @staticmethod
    def fills(pack: Pack) -> bool:
        return False

    @staticmethod
    def code_bits(pack: Pack, part: Part, reach: float) -> float:
        bits = grids.bits_of(part, pack)
        if pack.row_scale == "std" and bits < 8:
            reach = grids.SPREADS
        return grids.entropy_bits((2 ** (bits - 1) - 1) / reach)

    def _round(self, name: str, log_steps: Floats) -> Matrix:
        bits = grids.bits_of(kind_of(name).part, self._pack)
        return grids.rtn(self._matrices[name], bits, self._pack.row_scale)

    def _steps(self, name: str, log_step: float) -> Floats:
        raise NotImplementedError  # it fills no budget


class Uniform(Quantizer):
    """Round each row to multiples of a share of its standard deviation."""

    row_bits, column_bits, most_bits = 2.2, 0.3, 12.2

    @staticmethod
    def fills(pack: Pack) -> bool:
        return not pack.step

    @staticmethod
    def code_bits(pack: Pack, part: Part, reach: float) -> float:
        return grids.entropy_bits(1 / pack.step)

    def _round(self, name: str, log_steps: Floats) -> Matrix:
        return grids.uniform(self._matrices[name], self._pack.step or np.exp2(log_steps))

    def _steps(self, name: str, log_step: float) -> Floats:
        steps: Floats = row_rms(self._matrices[name])[:, None] * 2.0**log_step
        return steps

    def _limiting_code(self, codes: Floats) -> float:
        return float(codes.max())  # rows are much alike: one of them says it for all


class Gptq(Quantizer):
    """Round with the loss's curvature, at steps that depend on it."""

    needs_curvature, bits_per_log_step = True, 0.5
    most_bits = 7.5
    part_shares: ClassVar[dict[Part, float]] = {
        "embedding": 1.35, "attention": 0.8, "mlp": 0.9, "bigram": 1.1,
    }  # fmt: skip

    def _round(self, name: str, log_steps: Floats) -> Matrix:
        return gptq(self._matrices[name], self._hessians[name], log_steps)

    def _steps(self, name: str, log_step: float) -> Floats:
        rows, columns = self._hessians[name].steps(log_step)
        steps: Floats = np.exp2((rows[:, None] + columns) / 4)
        return steps


QUANTIZERS: dict[str, type[Quantizer]] = {"gptq": Gptq, "uniform": Uniform, "rtn": Rtn}


def _check(name: str, quantize: Callable[..., T], *arguments: object) -> T:
    """Say which tensor cannot be stored."""
    try:
        return quantize(*arguments)
    except ValueError as error:
        raise BadInput(f"{name} cannot be packed, {error}: the training diverged") from None
