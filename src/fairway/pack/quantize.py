"""Quantizers as pairs: codes from weights, weights from codes; and which tensor gets which bits.

`rtn` rounds each row to the nearest multiple of one scale (REFERENCE A7). In two places the
original's rule for 8 bits is not followed: its scale is never below 1/127, so that rows of small
embeddings lose their levels (A9-20), and it takes the 0.9999984 quantile of a row for its maximum.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairway.recipe import Pack

Part = Literal["embedding", "attention", "mlp", "bigram", "small"]
RowScale = Literal["std", "max"]

FLOAT_BITS = 16  # of tensors that are stored as they are, in fp16
SPREADS = 4.0  # standard deviations under the largest code, for row_scale "std"
_SMALLEST_SCALE = np.finfo(np.float16).smallest_normal

_PARTS: dict[str, Part] = {
    "tokens": "embedding",
    "q": "attention",
    "k": "attention",
    "v": "attention",
    "o": "attention",
    "up": "mlp",
    "down": "mlp",
    "bigram_table": "bigram",
    "bigram_proj": "bigram",
}


def part_of(name: str) -> Part:
    """The artifact's part that holds a parameter. Vectors, gains and mixes are `small`."""
    return _PARTS.get(name.rsplit(".", 1)[-1], "small")


def bits_of(part: Part, pack: Pack) -> int:
    """Bits of the codes of a part's matrices; FLOAT_BITS for `small`."""
    return {
        "embedding": pack.embed_bits,
        "attention": pack.attention_bits,
        "mlp": pack.mlp_bits,
        "bigram": pack.bigram_bits,
        "small": FLOAT_BITS,
    }[part]


def codes_from_weights(
    weights: NDArray[np.float32], bits: int, row_scale: RowScale
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """float32[rows, columns] → codes int8[rows, columns] and scales float16[rows].

    With c = 2^(bits-1) - 1: s_r = a_r / c, code = clamp(round(w / s_r), -(c+1), c), where a_r is
    max_j |w_rj| ("max", the original's) or 4·std_j(w_rj) ("std"). The entropy of the codes then
    does not depend on one outlier, and 8-bit codes keep "max": there outliers cost more than bytes.
    Raises ValueError when a weight is not finite or too large for an fp16 scale.
    """
    top = 2 ** (bits - 1) - 1
    if row_scale == "max" or bits == 8:
        reach = np.max(np.abs(weights), axis=1, initial=0.0)
    else:
        reach = SPREADS * np.sqrt(np.mean(np.square(weights, dtype=np.float64), axis=1))
    limit = reach / np.float32(top)
    if not np.all(limit <= np.finfo(np.float16).max):
        raise ValueError("a weight is not finite or too large")
    scales = np.maximum(limit, _SMALLEST_SCALE).astype(np.float16)
    codes = np.rint(weights / scales.astype(np.float32)[:, None])
    return np.clip(codes, -top - 1, top).astype(np.int8), scales


def weights_from_codes(codes: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """Codes [rows, columns] times their row's scale, in float32."""
    return codes.astype(np.float32) * scales.astype(np.float32)[:, None]


def halves_from_weights(weights: NDArray[np.float32]) -> NDArray[np.float16]:
    """Any shape. Raises ValueError when a weight is not finite or too large for fp16."""
    with np.errstate(over="ignore"):
        halves = weights.astype(np.float16)
    if not np.all(np.isfinite(halves)):
        raise ValueError("a weight is not finite or too large")
    return halves


def rounded(weights: NDArray[np.float32], bits: int, row_scale: RowScale) -> NDArray[np.float32]:
    """The weights as a decoder gets them."""
    if bits == FLOAT_BITS:
        return halves_from_weights(weights).astype(np.float32)
    return weights_from_codes(*codes_from_weights(weights, bits, row_scale))
