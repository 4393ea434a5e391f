"""How a file names a method that adapts and its settings. Layout in docs/formats.md."""

from __future__ import annotations

import math
import struct

from fairway.coding.online.methods import order_of
from fairway.config.schema import Adapt
from fairway.errors import BadInput

METHODS = ("none", "sgd", "dynamic", "lora")
ORDERS = ("left-to-right", "lanes")


def to_bytes(how: Adapt) -> bytes:
    """A byte, 8 · method + 2 · u + order. u > 0: the u-th of _USUAL; 0: settings, 4 bytes each."""
    method, order = METHODS.index(how.method), ORDERS.index(order_of(how))
    values = b"".join(struct.pack(_form(value), value) for _, value in how.settings)
    usual = [_packed(settings) for settings in _USUAL[how.method]]
    if values in usual:
        return bytes([8 * method + 2 * (1 + usual.index(values)) + order])
    return bytes([8 * method + order]) + values


def size_of(first: int) -> int:
    """How many bytes follow the first of `to_bytes`. Raises BadInput."""
    method, u = first >> 3, first >> 1 & 3
    if not 0 < method < len(METHODS) or u > len(_USUAL[METHODS[method]]):
        raise BadInput(f"adapts by a method that this Fairway does not know ({first})")
    return 0 if u else 4 * len(_USUAL[METHODS[method]][0])


def from_bytes(data: bytes) -> Adapt:
    """Inverse of `to_bytes`; how many lanes there were, the lanes' starts say. Raises BadInput."""
    method, order = METHODS[data[0] >> 3], ORDERS[data[0] & 1]
    u = data[0] >> 1 & 3
    stored = _packed(_USUAL[method][u - 1]) if u else data[1:]
    values = {
        name: type(value)(struct.unpack_from(_form(value), stored, 4 * i)[0])
        for i, (name, value) in enumerate(_USUAL[method][0].items())
    }
    signs = [math.copysign(1, value) for value in values.values()]
    try:
        if min(signs) < 0:  # -0.0 would be a second way to write 0.0
            raise ValueError
        return Adapt.model_validate({"method": method, "order": order, method: values})
    except ValueError:
        raise BadInput("adapts with settings that are out of range") from None


def rounded(how: Adapt) -> Adapt:
    """With settings as a file can hold them: real numbers in float32."""
    return from_bytes(to_bytes(how)).model_copy(update={"lanes": how.lanes})


def _packed(settings: dict[str, float | int | bool]) -> bytes:
    return b"".join(struct.pack(_form(value), value) for value in settings.values())


def _form(value: object) -> str:
    return "<f" if isinstance(value, float) else "<I"


# Part of the format: what a file means that names no settings, in the order of the recipe's fields.
# The first are the defaults, the second what mini and demo have beside recall and the cache.
_USUAL: dict[str, tuple[dict[str, float | int | bool], ...]] = {
    "sgd": (
        {
            "span": 8, "rows": 32, "epochs": 1, "lr": 0.03, "momentum": 0.0, "clip": 0.0,
            "cosine": False,
        },
        {
            "span": 16, "rows": 32, "epochs": 1, "lr": 3e-3, "momentum": 0.0, "clip": 0.0,
            "cosine": False,
        },
    ),
    "dynamic": (
        {"span": 16, "lr": 1e-3, "beta": 0.9999, "eps": 1e-4, "decay": 1e-2},
        {"span": 16, "lr": 3e-4, "beta": 0.9999, "eps": 1e-4, "decay": 2e-2},
    ),
    "lora": (
        {
            "span": 16, "rank": 64, "lr": 2e-3, "beta": 0.9999, "eps": 1e-4, "decay": 3e-3,
            "reset": True,
        },
        {
            "span": 16, "rank": 64, "lr": 5e-4, "beta": 0.9999, "eps": 1e-4, "decay": 1e-2,
            "reset": True,
        },
    ),
}  # fmt: skip
