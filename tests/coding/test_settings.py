import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.coding.online import settings
from fairway.config.schema import Adapt, Sgd
from fairway.config.toml import load
from fairway.errors import BadInput

HOWS = [Adapt(method="sgd"), Adapt(method="dynamic"), Adapt(method="lora")]


@given(st.sampled_from(HOWS), st.sampled_from(settings.ORDERS), st.floats(1e-6, 100.0))
def test_settings_come_back_from_a_file_as_float32(how, order, lr):
    changed = how.settings.model_copy(update={"lr": lr})
    how = how.model_copy(update={"order": order, how.method: changed})
    data = settings.to_bytes(how)
    back = settings.from_bytes(data)
    assert back.settings.lr == np.float32(lr)
    assert settings.to_bytes(back) == data
    assert settings.to_bytes(settings.rounded(how)) == data


@pytest.mark.parametrize("recipe", ["mini", "pr264"])
@pytest.mark.parametrize("method", ["none", "sgd", "dynamic", "lora"])
def test_settings_of_recipes_are_short(method, recipe):
    how = load(recipe).adapt.model_copy(update={"method": method})
    assert len(settings.to_bytes(how)) <= 29
    assert settings.rounded(settings.rounded(how)) == settings.rounded(how)


def test_settings_that_no_file_has_are_refused():
    good = settings.to_bytes(HOWS[0])
    for data, problem in [
        (b"\6" + good[1:], "method that this Fairway does not know"),
        (b"\xff", "method that this Fairway does not know"),
        (good[:-1], "are damaged"),
        (good + b"\0", "are damaged"),
        (good[:1] + b"\0\0\0\0" + good[5:], "out of range"),  # a span of 0
        (good[:-4] + b"\2\0\0\0", "not written as they should be"),  # cosine: 1 or 0
        (good[:13] + b"\xff\xff\xff\xff" + good[17:], "out of range"),  # lr: not a number
    ]:
        with pytest.raises(BadInput, match=problem):
            settings.from_bytes(data)


@pytest.mark.parametrize("name", ["momentum", "clip"])
def test_zero_has_one_sign(name):
    negative = Adapt(method="sgd", sgd=Sgd(**{"lr": 0.5, name: -0.0}))
    with pytest.raises(BadInput, match="out of range"):
        settings.from_bytes(settings.to_bytes(negative))
