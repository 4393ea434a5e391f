"""The key/value cache: what a model keeps of seen tokens, for lanes that advance in lockstep.

Keys and values of the last W positions lie in a ring buffer: position p in slot p mod W. Attention
does not depend on the order of keys, so nothing is shifted; each slot knows its position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairway.config.schema import Model


class Cache:
    """Ring buffers [lanes, G, W, h] per pass; per lane the document's start and the last token."""

    def __init__(
        self, shape: Model, lanes: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        ring = (len(shape.passes), lanes, shape.num_kv_heads, shape.window, shape.head_dim)
        self.window = shape.window
        self.keys = torch.zeros(ring, dtype=dtype, device=device)
        self.values = torch.zeros(ring, dtype=dtype, device=device)
        self.position = 0  # tokens seen per lane
        self.slots = torch.full((shape.window,), -1, device=device)  # position held by each slot
        self.document_start = torch.zeros(lanes, dtype=torch.int64, device=device)
        self.last_token = torch.full((lanes,), -1, dtype=torch.int64, device=device)
        self.last_embedding: Tensor | None = None

    def shrink_batch(self, lanes: int) -> None:
        """Keep only the first `lanes` lanes."""
        self.keys, self.values = self.keys[:, :lanes], self.values[:, :lanes]
        self.document_start = self.document_start[:lanes]
        self.last_token = self.last_token[:lanes]
        if self.last_embedding is not None:
            self.last_embedding = self.last_embedding[:lanes]

    def copy_(self, other: Cache) -> None:
        """Become a copy of `other`, with its number of lanes."""
        self.keys, self.values = other.keys.clone(), other.values.clone()
        self.position, self.slots = other.position, other.slots.clone()
        self.document_start = other.document_start.clone()
        self.last_token, last = other.last_token.clone(), other.last_embedding
        self.last_embedding = None if last is None else last.clone()

    def smear_state(self, x: Tensor) -> Tensor:
        """Return the embedding before x [B, S, d]: [B, 1, d], zeros at the start."""
        return torch.zeros_like(x[:, :1]) if self.last_embedding is None else self.last_embedding

    def extend(self, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values to attend to, [B, G, n, h], in the order of `key_positions`.

        k, v [B, G, S, h] belong to the next S positions of pass `index`, S ≤ W; they replace the
        oldest ones. No gradient reaches earlier calls.
        """
        seen, new = min(self.position, self.window), k.shape[2]
        slots = slot_indices(self.position, new, self.window, k.device)
        if _in_place(new):  # its slot is out of every query's reach: the ring needs no copy
            keys, values = self.keys[index], self.values[index]
            keys[:, :, slots], values[:, :, slots] = k, v
            used = min(self.position + 1, self.window)
            return keys[:, :, :used], values[:, :, :used]
        old_k, old_v = self.keys[index][:, :, :seen], self.values[index][:, :, :seen]
        all_k, all_v = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        self.keys[index][:, :, slots] = k.detach()
        self.values[index][:, :, slots] = v.detach()
        return all_k, all_v

    def key_positions(self, new: int) -> Tensor:
        """Return the positions of the keys that `extend` returns for `new` tokens: int64[n]."""
        coming = torch.arange(self.position, self.position + new, device=self.slots.device)
        if _in_place(new):
            slots = self.slots.clone()
            slots[self.position % self.window] = self.position
            return slots[: min(self.position + 1, self.window)]
        return torch.cat([self.slots[: min(self.position, self.window)], coming])

    def advance(self, tokens: Tensor, bos_id: int) -> None:
        """Count tokens int64[B, S] as seen, after all layers have been extended."""
        new = tokens.shape[1]
        coming = torch.arange(self.position, self.position + new, device=tokens.device)
        self.slots[coming % self.window] = coming
        self.document_start = document_starts(tokens, bos_id, coming, self.document_start)[:, -1]
        self.last_token = tokens[:, -1]
        self.position += new


def _in_place(new: int) -> bool:
    """Return whether new keys are written before attention; learning needs the old ring."""
    return new == 1 and not torch.is_grad_enabled()


def slot_indices(position: int, new: int, window: int, device: torch.device) -> Tensor:
    """Return the slots of `new` positions from `position` on: int64[new]."""
    return torch.arange(position, position + new, device=device) % window


def document_starts(
    tokens: Tensor, bos_id: int, positions: Tensor, before: Tensor | None
) -> Tensor:
    """Return the position of the BOS of each token's document: int64[B, S].

    before: int64[B], that of the token before the row. Without one, -1 stands for a start that is
    not in the row.
    """
    starts = torch.where(tokens == bos_id, positions, -1)
    if before is not None:
        starts = torch.cat([torch.maximum(starts[:, :1], before[:, None]), starts[:, 1:]], 1)
    return starts.cummax(1).values
