"""Ways of learning from a text while coding it, score first.

A way of learning is one file of this package: `sgd`, `dynamic` or `lora`. It owns its update, its
lane policy and the bytes of its settings in a proof's header. Two places outside the file know it:
the settings are a section of the recipe, so their type stands in config/schema.py (config imports
nothing from here); and RULES below names the class. This file derives everything else.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from fairway.coding.lanes import Division
from fairway.coding.online.dynamic import DynamicRule
from fairway.coding.online.lora import LoraRule
from fairway.coding.online.rule import Rule
from fairway.coding.online.sgd import SgdRule
from fairway.config.schema import Adapt, Arithmetic, Prove
from fairway.errors import Damaged
from fairway.formats.coded_tokens import TOKENS_PER_LANE
from fairway.model.gpt import GPT

RULES: dict[str, type[Any]] = {"sgd": SgdRule, "dynamic": DynamicRule, "lora": LoraRule}
ORDERS = ("left-to-right", "lanes")
CHUNK_TOKENS_PER_LANE = 2 * TOKENS_PER_LANE  # a kill loses one chunk at most; more are slower
CHUNK_TOKENS = 3 << 16  # the least of a model that learns; a chunk costs 12 bytes


def new_rule(network: GPT, adapt: Adapt) -> Rule:
    """Return the rule of a method, on this network. It may change the network's weights."""
    rule: Rule = RULES[adapt.method](network, adapt.settings)
    return rule


def order_of(adapt: Adapt) -> str:
    """Return the order that results name: `lanes` where lanes learn from each other."""
    shares = adapt.method != "none" and RULES[adapt.method].lanes_share_weights
    return adapt.order if shares else "left-to-right"


def needs_one_lane(adapt: Adapt) -> bool:
    """Return whether lanes share weights that may only learn from the text before a token."""
    return (
        adapt.method != "none"
        and RULES[adapt.method].lanes_share_weights
        and adapt.order == "left-to-right"
    )


def division(adapt: Adapt, lanes: int) -> Division:
    """Return how a proof cuts a text. lanes: the most where nothing is learned."""
    if adapt.method == "none":
        return Division(lanes, lanes * CHUNK_TOKENS_PER_LANE)
    lanes = 1 if needs_one_lane(adapt) else adapt.lanes
    return Division(lanes, max(lanes * CHUNK_TOKENS_PER_LANE, CHUNK_TOKENS))


USUAL_DIVISION = division(Adapt(), Prove().lanes)


def arithmetic(adapt: Adapt, wanted: Arithmetic) -> Arithmetic:
    """Return the arithmetic that is used: a network that learns computes in floating point."""
    return wanted if adapt.method == "none" else "float"


# The bytes in a proof's header -------------------------------------------------------------------


def to_bytes(adapt: Adapt) -> bytes:
    """Return a method in a proof's header: a byte 2 · code + order, then the rule's settings.

    b"" is the method `none`. Real numbers are float32.
    """
    if adapt.method == "none":
        return b""
    rule = RULES[adapt.method]
    values = (value for _, value in adapt.settings)
    return bytes([2 * rule.code + ORDERS.index(order_of(adapt))]) + struct.pack(
        rule.layout, *values
    )


def from_bytes(data: bytes) -> Adapt:
    """Return the inverse of `to_bytes`; the lanes' starts say how many lanes there were.

    Raises Damaged, also for bytes that `to_bytes` does not write.
    """
    if not data:
        return Adapt()
    names = {rule.code: name for name, rule in RULES.items()}
    name, order = names.get(data[0] >> 1), ORDERS[data[0] & 1]
    if name is None:
        raise Damaged(f"the proof learns by a method that this Fairway does not know ({data[0]})")
    layout = RULES[name].layout
    if len(data) != 1 + struct.calcsize(layout):
        raise Damaged("the proof's settings of learning are damaged: restore it from its source")
    fields = type(getattr(Adapt(), name)).model_fields
    values = struct.unpack(layout, data[1:])
    try:
        if any(math.copysign(1, value) < 0 for value in values):  # -0.0 is a second 0.0
            raise ValueError
        settings = dict(zip(fields, values, strict=True))
        adapt = Adapt.model_validate({"method": name, "order": order, name: settings})
    except ValueError:
        raise Damaged("the proof learns with settings that are out of range") from None
    if to_bytes(adapt) != data:
        raise Damaged("the proof's settings of learning are not written as they should be")
    return adapt


def rounded(adapt: Adapt) -> Adapt:
    """Return the settings as a proof's header holds them, with real numbers in float32."""
    return from_bytes(to_bytes(adapt)).model_copy(update={"lanes": adapt.lanes})
