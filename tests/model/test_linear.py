"""Products by oneDNN, and what the compiler must leave alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from fairway.model import linear as linear_module
from fairway.model.linear import matmul
from fairway.model.operators import opaque_op


def draw(seed, *shape):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random).requires_grad_()


@given(
    st.integers(0, 99),
    st.sampled_from([(256,), (4, 64), (3, 100), (2, 7, 40)]),
    st.sampled_from([1, 24, 64]),
    st.sampled_from([1, 40, 96]),
)
@settings(max_examples=20)
def test_products_and_gradients_are_the_librarys(seed, rows, n, m):
    """Whatever the shape, for inputs and gradients that lie transposed, too."""
    x, weight, upstream = draw(seed, *rows, n), draw(seed + 1, m, n), draw(seed + 2, m, *rows)
    assert x.numel() // n >= linear_module._ONEDNN_ROWS
    upstream = upstream.detach().movedim(0, -1)
    for given_x in (x, x.detach().transpose(0, -2).contiguous().transpose(0, -2).requires_grad_()):
        found, wanted = matmul(given_x, weight), linear(given_x, weight)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        inputs = (given_x, weight)
        gradients = (torch.autograd.grad(y, inputs, upstream) for y in (found, wanted))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_compiled_products_are_the_same():
    x, weight = draw(0, 2, 160, 16), draw(1, 24, 16)

    def squares(x, weight):
        return matmul(torch.relu(matmul(x, weight)), weight.mT).square().sum()

    compiled = torch.compile(squares, fullgraph=True, dynamic=False)
    found, wanted = (torch.autograd.grad(f(x, weight), (x, weight)) for f in (compiled, squares))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_settled_is_the_same_compiled_or_not():
    x = torch.arange(12.0).reshape(3, 4).mT
    compiled = torch.compile(lambda x: opaque_op(x.cos()) + 1, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), x.cos() + 1)
    assert opaque_op(x) is x
