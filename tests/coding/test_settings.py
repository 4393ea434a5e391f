"""The bytes of a way of learning in a proof's header."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.coding import online
from fairway.config.schema import Adapt, Sgd
from fairway.config.toml import load
from fairway.errors import Damaged

ADAPTS = [Adapt(method=method) for method in online.RULES]


@given(st.sampled_from(ADAPTS), st.sampled_from(online.ORDERS), st.floats(1e-6, 100.0))
def test_settings_come_back_from_a_file_as_float32(adapt, order, lr):
    changed = adapt.settings.model_copy(update={"lr": lr})
    adapt = adapt.model_copy(update={"order": order, adapt.method: changed})
    data = online.to_bytes(adapt)
    back = online.from_bytes(data)
    assert back.settings.lr == np.float32(lr)
    assert back.settings == adapt.settings.model_copy(update=dict(back.settings))
    assert online.to_bytes(back) == data
    assert online.to_bytes(online.rounded(adapt)) == data


@pytest.mark.parametrize("recipe", ["mini", "pr264"])
@pytest.mark.parametrize("method", online.RULES)
def test_a_header_holds_every_setting_of_a_recipe(method, recipe):
    adapt = load(recipe).adapt.model_copy(update={"method": method})
    back = online.from_bytes(online.to_bytes(adapt))
    assert dict(back.settings) == pytest.approx(dict(adapt.settings), rel=1e-7)
    assert online.rounded(online.rounded(adapt)) == online.rounded(adapt)


def test_what_learns_nothing_takes_no_bytes():
    assert online.to_bytes(Adapt()) == b""
    assert online.from_bytes(b"") == Adapt()


def test_every_method_has_its_own_code_and_all_its_settings():
    codes = {rule.code for rule in online.RULES.values()}
    assert len(codes) == len(online.RULES)
    for adapt in ADAPTS:
        assert len(online.to_bytes(adapt)) == 1 + 4 * len(dict(adapt.settings))


@given(st.sampled_from(ADAPTS), st.data())
def test_no_other_bytes_mean_the_same_settings(adapt, data):
    """Whatever is accepted is what `to_bytes` writes."""
    wrong = bytearray(online.to_bytes(adapt))
    place = data.draw(st.integers(0, len(wrong) - 1))
    wrong[place] ^= data.draw(st.integers(1, 255))
    try:
        accepted = online.from_bytes(bytes(wrong))
    except Damaged:
        return
    assert online.to_bytes(accepted) == wrong


def test_settings_that_no_file_has_are_refused():
    good = online.to_bytes(ADAPTS[0])
    unknown = 2 * max(rule.code for rule in online.RULES.values()) + 2
    for data, problem in [
        (bytes([unknown]) + good[1:], "method that this Fairway does not know"),
        (b"\xff", "method that this Fairway does not know"),
        (good[:-1], "are damaged"),
        (good + b"\0", "are damaged"),
        (good[:1] + b"\0\0\0\0" + good[5:], "out of range"),  # a span of 0
        (good[:-4] + b"\2\0\0\0", "out of range"),  # cosine: 1 or 0
        (good[:13] + b"\xff\xff\xff\xff" + good[17:], "out of range"),  # lr: not a number
    ]:
        with pytest.raises(Damaged, match=problem):
            online.from_bytes(data)


@pytest.mark.parametrize("name", ["momentum", "clip"])
def test_zero_has_one_sign(name):
    negative = Adapt(method="sgd", sgd=Sgd(**{"lr": 0.5, name: -0.0}))
    with pytest.raises(Damaged, match="out of range"):
        online.from_bytes(online.to_bytes(negative))
