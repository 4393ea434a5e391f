"""Try out attention's products on a device before exact arithmetic relies on them."""

from __future__ import annotations

from functools import cache
from math import prod

import torch
from torch import Tensor

from fairway.config.schema import Model
from fairway.exact.fixed_point import SUM_LIMIT
from fairway.floating_point import inexact_matmul

_TEST_INPUT = 4095  # has more bits than TF32


@cache
def check_attention(shape: Model, device: torch.device) -> None:
    """Raise BadInput where attention's products are inexact, in the sizes of scoring and decoding.

    A library may choose other code for batches of matrices, and for other sizes.
    """

    def integers(largest: int, *size: int) -> Tensor:
        numbers = torch.arange(prod(size), device=device) * 7919 % (2 * largest + 1) - largest
        return numbers.view(size).float()

    h, heads = shape.head_dim, shape.num_kv_heads
    for lanes, tokens in ((8, 256), (64, 1)):
        rows, keys = shape.num_heads // heads * tokens, shape.window + tokens - 1
        for n in (h, keys):  # queries by keys, weights by values
            largest = min(_TEST_INPUT, SUM_LIMIT // n)
            left = integers(largest, lanes * heads, rows, n)
            right = integers(SUM_LIMIT // (largest * n), lanes * heads, keys, h)
            right = right.mT if n == h else right
            if not torch.equal((left @ right).double(), left.double() @ right.double()):
                raise inexact_matmul("this device")
