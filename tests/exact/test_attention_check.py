"""The exact network's part for a GPU, where there is none."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairway.config.schema import Model
from fairway.errors import BadInput
from fairway.exact.attention_check import check_attention


class TF32(TorchDispatchMode):
    """Multiplies batches of float32 matrices with ten bits after the first."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.bmm.default and args[0].dtype == torch.float32:
            bits = [x.contiguous().numpy().view(np.int32) + (1 << 12) & -(1 << 13) for x in args]
            args = [torch.from_numpy(x.view(np.float32)) for x in bits]
        return func(*args, **(kwargs or {}))


def test_a_device_whose_attention_is_in_tf32_is_refused():
    shape = Model(num_layers=1, dim=32, num_heads=2, num_kv_heads=1, window=16)
    check_attention.__wrapped__(shape, torch.device("cpu"))
    with TF32(), pytest.raises(BadInput, match="NVIDIA_TF32_OVERRIDE"):
        check_attention.__wrapped__(shape, torch.device("cpu"))
