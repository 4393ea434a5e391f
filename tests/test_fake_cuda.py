"""The pretended GPU refuses what a GPU refuses, and counts what makes the host wait for it."""

import pytest
import torch

from fake_cuda import CUDA, FakeCuda


@pytest.fixture
def cuda():
    with FakeCuda() as device:
        yield device


def test_a_tensor_on_the_device_has_a_shape_and_no_numbers(cuda):
    x = torch.zeros(3, 4, device="cuda")
    y = (x @ x.T).exp()[:, 0].to(torch.bfloat16)
    assert (y.device, y.shape, y.dtype, y.is_cuda) == (CUDA, (3,), torch.bfloat16, True)
    assert torch.arange(3, device=x.device).device == x.new_empty(2).device == CUDA
    assert torch.ones(3).device.type == "cpu"
    assert dict(cuda.kernels) == {"zeros": 1, "mm": 1, "exp": 1, "_to_copy": 1, "arange": 1}
    assert not cuda.waits


def test_devices_and_dtypes_do_not_mix(cuda):
    x = torch.ones(3, 3, device=CUDA)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="mm of"):
        x @ x.bfloat16()
    with pytest.raises(RuntimeError, match="broadcast"):
        x + torch.ones(2, 2, device=CUDA)


@pytest.mark.parametrize(
    ("why", "work"),
    [
        ("item", lambda x: float(x.sum())),
        ("item", lambda x: bool((x > 0).all())),
        ("equal", lambda x: torch.equal(x, x)),
        ("copy to the CPU", lambda x: x.cpu()),
        ("copy to the CPU", lambda x: x.tolist()),
        ("copy to the CPU", lambda x: torch.empty(2, 2).copy_(x)),
        ("aten.nonzero", lambda x: x.nonzero()),
        ("mask as an index", lambda x: x[x > 0]),
        ("index on the CPU", lambda x: x[torch.tensor([0, 1])]),
        ("not pinned", lambda x: torch.ones(2, 2).to(CUDA, non_blocking=True)),
        ("not pinned", lambda x: x.copy_(torch.ones(2, 2), non_blocking=True)),
        ("not contiguous", lambda x: torch.ones(2, 3).pin_memory()[:, 1:].to(CUDA, None, True)),
        ("blocking copy", lambda x: torch.ones(2, 2).pin_memory().cuda()),
        ("synchronize", lambda x: torch.cuda.synchronize()),
    ],
)
def test_what_makes_a_host_wait_is_counted(cuda, why, work):
    work(torch.ones(2, 2, device=CUDA))
    assert dict(cuda.waits) == {("a test", why): 1}


def test_pinned_copies_and_events_let_the_host_go_on(cuda):
    x = torch.ones(2, 2).pin_memory().to(CUDA, non_blocking=True)
    on_its_way = x.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    _ = x + x
    assert on_its_way.isnan().all()
    assert not cuda.waits
    event.synchronize()
    assert on_its_way.tolist() == [[1, 1], [1, 1]]
    assert cuda.queued_after == [1]
