"""RMS normalisation with an explicit epsilon: the library's default depends on its version."""

import torch
from torch import Tensor

EPS = 1.1920929e-07  # fp32 epsilon, whatever the dtype of the input (REFERENCE A2-3)


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + EPS) over the last dimension, computed in fp32, returned in x's dtype."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=EPS)
