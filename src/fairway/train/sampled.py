"""Draw the part of the vocabulary that a training step's softmax is summed over.

The head is half of a small network's multiplications. A step needs the logits of its own targets;
the rest of the sum can be estimated. The sample holds every target of the batch, and is filled up
with other tokens, each as likely as any other. A token that is in the sample with probability π
stands for 1/π tokens (Horvitz and Thompson 1952; Jean et al. 2015; modded-nanogpt 360). π counts
how likely the token is among a batch's targets, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Train
from fairway.errors import BadInput

Longs = NDArray[np.int64]
_COUNTED = 1 << 24  # tokens of each shard that tell how frequent tokens are


class Drawn(NamedTuple):
    """A sample of K tokens of the vocabulary."""

    places: Longs  # [B, S]: of the targets among the tokens
    tokens: Longs  # [K]
    odds: NDArray[np.float32]  # [K]: one over the probability of being in the sample


class Sampler:
    """Samples of a vocabulary of V tokens; those of one step and rank are always the same."""

    def __init__(
        self, text: Sequence[NDArray[np.uint16]], vocab_size: int, targets: int, recipe: Train
    ) -> None:
        """Take the training text, uint16[N] of each shard, and how many targets a rank's step has.

        Raises BadInput where a sample is not smaller than the vocabulary.
        """
        size = recipe.sampled_tokens
        if size >= vocab_size:
            raise BadInput(
                f"train.sampled_tokens {size} must be under the vocabulary's {vocab_size} tokens; "
                "0 takes all of them"
            )
        counts = sum(np.bincount(t[:_COUNTED], minlength=vocab_size) for t in text)
        is_target = 1 - (1 - counts / np.sum(counts)) ** targets
        others = vocab_size - is_target.sum()
        drawn = min(1.0, max(size - is_target.sum(), 1.0) / others)
        self._odds = (1 / (is_target + (1 - is_target) * drawn)).astype(np.float32)
        self._size, self._seed = size, recipe.seed

    def draw(self, targets: NDArray[np.uint16], step: int, rank: int) -> Drawn | None:
        """Return a sample with all targets uint16[B, S]; None if they do not fit."""
        own, places = np.unique(targets, return_inverse=True)
        if len(own) > self._size:
            return None
        random = np.random.Generator(np.random.Philox([self._seed, step << 16 | rank]))
        others = np.delete(np.arange(len(self._odds)), own)
        rest = random.choice(others, self._size - len(own), replace=False)
        tokens = np.concatenate([own, rest])
        return Drawn(places.reshape(targets.shape), tokens, self._odds[tokens])
