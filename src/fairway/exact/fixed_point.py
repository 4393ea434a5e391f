"""Constants of exact arithmetic: fraction bits, limits and small tables (docs/exact.md).

The compiled kernels of the CPU and the torch operations of the GPU use the same ones.
"""

from __future__ import annotations

import numpy as np

from fairway.floating_point import ieee

SUM_LIMIT = (1 << 24) - 1  # integers up to here, and their sums, are exact in float32
LARGEST_INPUT = 32767  # codes of activations fit 16 bits

# Fraction bits
RESIDUAL_BITS = 16  # of the residual stream
EMBEDDING_BITS = 22  # of embeddings, which are smaller
HEAD_INPUT_BITS = 14  # of queries and keys before their normalisation
NORMED_BITS = 12  # of normalised queries and keys
ROTARY_BITS = 14  # of cosines and sines
TURN_BITS = 14  # of angles: a turn has 2^14 tabled ones
EXPONENT_BITS = 12  # of logarithms to base 2
POWER_BITS = 16  # of 2^-x for 0 ≤ x < 1
MASS_BITS = 30  # of 2^(logit - the largest)
WEIGHT_BITS = 16  # of attention weights: those of a query sum to 2^16
RECIPROCAL_BITS = 30  # of 2^16 / (the sum that attention weights are divided by)
SHARE_BITS = 16  # of the share of a token's own value in what attention returns
CAP_BITS = 16  # of a logit divided by the softcap
CAP_STEP_BITS = 7  # of these, the bits between two entries of the table of tanh
GATE_BITS = 16  # of gates: sigmoids in integers

CAP_REACH = 8  # where the table of tanh ends; tanh(8) = 1 - 2e-7
LARGEST_BITS = 28
LARGEST = 1 << LARGEST_BITS  # magnitude of a residual; beyond, the exponent of its row rises
HUGE = np.float32(2.0**100)  # magnitude of what is added to a residual; beyond, it saturates
HUGE_ROOT = np.float32(2.0**50)  # magnitude of what is squared; beyond, it saturates
SMALLEST = np.float32(2.0**-100)  # smaller magnitudes count as zero
ZERO_EXPONENT = -100  # of a value vector that counts as zero

# 2^-x = 1 - x·(a - x·(b - x·c)) for 0 ≤ x < 1, 16 fraction bits, within 1.6e-4.
POWER_POLYNOMIAL = (45313, 15110, 2565)
POWERS = np.ldexp(np.float32(1), np.arange(-127, 128)).astype(np.float32)  # [e + 127] = 2^e
HEAD_INPUT = (1 << HEAD_INPUT_BITS) - 1
with ieee():  # this module may be imported in any environment
    # [t]: the scale of a query or key whose largest magnitude is in [8+t, 9+t)/8.
    HEAD_SCALES = (HEAD_INPUT * 8 / np.arange(9, 17)).astype(np.float32)
