"""How a file names a method that learns and its settings. Layout in docs/formats.md."""

from __future__ import annotations

import math
import struct

from fairway.coding.online.methods import order_of
from fairway.config.schema import Adapt
from fairway.errors import Damaged

METHODS = ("sgd", "dynamic", "lora")
ORDERS = ("left-to-right", "lanes")


def to_bytes(how: Adapt) -> bytes:
    """Return a byte, 2 · method + order, and the settings, 4 bytes each; nothing without one."""
    if how.method == "none":
        return b""
    method, order = METHODS.index(how.method), ORDERS.index(order_of(how))
    values = (struct.pack(_form(value), value) for _, value in how.settings)
    return bytes([2 * method + order]) + b"".join(values)


def from_bytes(data: bytes) -> Adapt:
    """Return what `to_bytes` wrote; how many lanes there were, the lanes' starts say.

    Raises Damaged, also where `to_bytes` would write it otherwise.
    """
    if not data:
        return Adapt()
    if data[0] >= 2 * len(METHODS):
        raise Damaged(f"the proof learns by a method that this Fairway does not know ({data[0]})")
    method, order = METHODS[data[0] >> 1], ORDERS[data[0] & 1]
    usual = dict(getattr(Adapt(), method))
    if len(data) != 1 + 4 * len(usual):
        raise Damaged("the proof's settings of learning are damaged: restore it from its source")
    values = {
        name: type(value)(struct.unpack_from(_form(value), data, 1 + 4 * i)[0])
        for i, (name, value) in enumerate(usual.items())
    }
    try:
        if min(math.copysign(1, value) for value in values.values()) < 0:
            raise ValueError  # -0.0 would be a second way to write 0.0
        how = Adapt.model_validate({"method": method, "order": order, method: values})
    except ValueError:
        raise Damaged("the proof learns with settings that are out of range") from None
    if to_bytes(how) != data:
        raise Damaged("the proof's settings of learning are not written as they should be")
    return how


def rounded(how: Adapt) -> Adapt:
    """Return it with settings as a file can hold them: real numbers in float32."""
    return from_bytes(to_bytes(how)).model_copy(update={"lanes": how.lanes})


def _form(value: object) -> str:
    return "<f" if isinstance(value, float) else "<I"
