import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.coding.online import settings
from fairway.config.schema import Adapt, Dynamic, Lora, Sgd, load
from fairway.errors import BadInput

HOWS = [Adapt(method="sgd"), Adapt(method="dynamic"), Adapt(method="lora")]


@given(st.sampled_from(HOWS), st.sampled_from(settings.ORDERS), st.floats(1e-6, 100.0))
def test_settings_come_back_from_a_file_as_float32(how, order, lr):
    changed = how.settings.model_copy(update={"lr": lr})
    how = how.model_copy(update={"order": order, how.method: changed})
    data = settings.to_bytes(how)
    assert len(data) == 1 + settings.size_of(data[0])
    back = settings.from_bytes(data)
    assert back.settings.lr == np.float32(lr)
    assert settings.to_bytes(back) == data
    assert settings.to_bytes(settings.rounded(how)) == data


@pytest.mark.parametrize("recipe", ["mini", "pr264"])
@pytest.mark.parametrize("method", ["sgd", "dynamic", "lora"])
def test_usual_settings_take_one_byte(method, recipe):
    """They are the recipes' defaults; once these change, the format needs another entry."""
    how = load(recipe).adapt.model_copy(update={"method": method})
    assert len(settings.to_bytes(how)) == 1
    assert settings.rounded(settings.rounded(how)) == settings.rounded(how)


@pytest.mark.parametrize(
    ("byte", "what"),
    [
        (8 * 1 + 2, Sgd(span=8, lr=0.03)),
        (8 * 1 + 4, Sgd(span=16, lr=3e-3)),
        (8 * 2 + 2, Dynamic(span=16, lr=1e-3, beta=0.9999, eps=1e-4, decay=1e-2)),
        (8 * 2 + 4, Dynamic(span=16, lr=3e-4, beta=0.9999, eps=1e-4, decay=2e-2)),
        (8 * 3 + 2, Lora(span=16, rank=64, lr=2e-3, beta=0.9999, eps=1e-4, decay=3e-3)),
        (8 * 3 + 4, Lora(span=16, rank=64, lr=5e-4, beta=0.9999, eps=1e-4, decay=1e-2)),
    ],
)
def test_what_a_byte_means_stays_what_it_was(byte, what):
    assert dict(settings.from_bytes(bytes([byte])).settings) == pytest.approx(dict(what), rel=1e-7)


def test_settings_that_no_format_has_are_refused():
    for first in (8 * 4, 8 * 0 + 2, 8 * 1 + 2 * 3, 8 * 3 + 2 * 3):
        with pytest.raises(BadInput, match="method that this Fairway does not know"):
            settings.size_of(first)
