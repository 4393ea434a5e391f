"""CUDA tensors without a GPU: they have shapes, dtypes and a device, but no numbers.

    with FakeCuda() as cuda:
        model.to(CUDA)
        model.loss(x, y).backward()
    assert not cuda.waits

Tensors on the device are torch's fake tensors; those on the CPU are real. So the code under test
runs as it is, in any build of torch. It fails where tensors of two devices meet, or where a product
has two dtypes. Everything that makes the host wait for the device is counted. Times, numbers and
kernels of our own are not tested by this.

Without CUDA, torch's C++ cannot be told that a tensor is on a GPU: it would ask for a driver. It
sees the device "meta", and Python sees "cuda:0".
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")

aten, prim = torch.ops.aten, torch.ops.prim
_ALLOCATIONS = {  # these start no kernel
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.detach.default,
    aten.lift_fresh.default,
}
_PRODUCTS = {aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm, aten.baddbmm_}
_INDEXED = {
    aten.index,
    aten.index_put,
    aten.index_put_,
    aten._index_put_impl_,
    aten._unsafe_index,
    aten._unsafe_index_put,
}


class FakeCuda(TorchDispatchMode):
    """A device, while it is entered; its numbers read as 1 on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()  # (where, why) the host waits
        self.uploads: Counter[str] = Counter()  # where tensors are sent to the device
        self.kernels: Counter[str] = Counter()  # by the operation's name
        self.queued_after: list[int] = []  # kernels behind each event that was waited for
        self.arriving: list[Tensor] = []  # on the CPU, and not to be read before an event
        self._fakes = _Fakes(allow_non_fake_inputs=True)
        self._pinned: dict[int, Tensor] = {}  # by address
        self._entered = ExitStack()

    def __enter__(self) -> FakeCuda:
        patches: dict[str, Any] = {
            "_lazy_init": lambda: None,
            "Event": lambda: _Event(self),
            "synchronize": lambda device=None: self.wait("synchronize"),
            "max_memory_allocated": lambda device=None: 0,
            "get_device_name": lambda device=None: "fake",
        }
        for name, value in patches.items():
            self._entered.enter_context(mock.patch.object(torch.cuda, name, value))
        as_list = mock.patch.object(FakeTensor, "tolist", lambda x: x.cpu().tolist())
        self._entered.enter_context(as_list)
        handlers = fake_tensor._DISPATCH_META_HANDLERS
        told = {prim.device.default: lambda args: _told_to_cpp(args[0])}
        self._entered.enter_context(mock.patch.dict(handlers, told))
        self._entered.enter_context(_Python(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.close()

    # What is counted --------------------------------------------------------------------------

    @property
    def launches(self) -> int:
        """The number of kernels so far."""
        return sum(self.kernels.values())

    def wait(self, why: str) -> None:
        """Count that the host waits for the device."""
        self.waits[_place(), why] += 1

    def pin(self, x: Tensor) -> Tensor:
        """Return a copy of x in pinned memory, with its strides."""
        copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x)
        self._pinned[copy.untyped_storage().data_ptr()] = copy
        return copy

    def _upload(self, x: Tensor, dtype: torch.dtype, non_blocking: bool) -> None:
        """Count a copy to the device; torch makes one of its own of what is not sent as it lies."""
        self.uploads[_place()] += 1
        if not x.ndim and not non_blocking:
            return
        if not x.is_contiguous():
            self.wait("not contiguous")
        elif dtype != x.dtype:
            self.wait("converted on the CPU")
        elif x.untyped_storage().data_ptr() not in self._pinned:
            self.wait("not pinned")
        elif not non_blocking:
            self.wait("blocking copy")

    def _download(self, x: Tensor, dtype: torch.dtype, non_blocking: bool) -> Tensor:
        if not non_blocking:
            self.wait("copy to the CPU")
            return torch.ones(x.shape, dtype=dtype)
        unknown = float("nan") if dtype.is_floating_point else dtype.is_signed * -1
        copy = torch.full(x.shape, unknown, dtype=dtype)
        self._pinned[copy.untyped_storage().data_ptr()] = copy
        self.arriving.append(copy)
        return copy

    # What is dispatched -----------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is prim.device.default:
            return _told_to_cpp(args[0])
        if kwargs.get("device") == META:  # C++ makes a tensor beside one of ours
            kwargs["device"] = CUDA
        leaves = tree_leaves((args, kwargs))
        if not any(isinstance(x, FakeTensor) or _names_cuda(x) for x in leaves):
            return func(*args, **kwargs)
        name = func.overloadpacket
        if name in (aten._local_scalar_dense, aten.item):
            self.wait("item")
            return torch.ones((), dtype=args[0].dtype).item()
        if name is aten.equal:
            self.wait("equal")
            return True
        if name is aten._to_copy and (moved := self._moved(*args, **kwargs)) is not None:
            return moved
        if name is aten.copy_:
            target, source = args[:2]
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            if not _on_cuda(target):
                return target.copy_(self._download(source, target.dtype, non_blocking))
            if not _on_cuda(source):
                self._upload(source, target.dtype, non_blocking)
                source = self._empty(source.shape, source.dtype)
                args = target, source, *args[2:]
        if name in (aten.nonzero, aten.masked_select):
            self.wait(str(name))
            rows = args[0].numel()
            is_list = name is aten.masked_select
            shape = (rows,) if is_list else (rows, args[0].ndim)
            return self._empty(shape, args[0].dtype if is_list else torch.int64)
        if name in _INDEXED:
            args = args[0], self._indices(args[1]), *args[2:]
        if name in _PRODUCTS:
            dtypes = {x.dtype for x in leaves if isinstance(x, Tensor)}
            if len(dtypes) > 1:
                raise RuntimeError(f"{name} of {dtypes}, at {_place()}")
        if not func.is_view and func not in _ALLOCATIONS:
            self.kernels[str(name).removeprefix("aten.")] += 1
        with self._fakes:
            return func(*args, **kwargs)

    def _moved(
        self,
        x: Tensor,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> Tensor | None:
        """Return x on the other device; None if it stays where it is."""
        to_cuda = device is not None and device.type == "cuda"
        if device is None or to_cuda == _on_cuda(x):
            return None
        dtype = dtype or x.dtype
        if not to_cuda:
            return self._download(x, dtype, non_blocking)
        self._upload(x, dtype, non_blocking)
        return self._empty(x.shape, dtype)

    def _empty(self, shape: Any, dtype: torch.dtype) -> Tensor:
        with self._fakes:
            return torch.empty(shape, dtype=dtype, device=CUDA)

    def _indices(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Return whole numbers for masks: as many as if every element were taken."""
        numbers: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.device == CPU and index.ndim:
                self.wait("index on the CPU")
                index = self._empty(index.shape, index.dtype)
            if index is not None and index.dtype == torch.bool:
                self.wait("mask as an index")
                numbers += [self._empty((index.numel(),), torch.int64)] * index.ndim
            else:
                numbers.append(index)
        return numbers


class _Fakes(FakeTensorMode):
    """Makes fake tensors. What C++ puts beside one, on the device that it sees, is on the GPU."""

    def dispatch(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not self.in_kernel_invocation and kwargs.get("device") == META:
            kwargs["device"] = CUDA
        return super().dispatch(func, types, args, kwargs)


class _Python(TorchFunctionMode):
    """Answers calls that torch's bindings would answer with C++'s view of the device."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return _on_cuda(args[0])
        if func is torch.Tensor.pin_memory:
            return self._cuda.pin(args[0])
        if func is torch.Tensor.cpu:
            return self._to(args[0], CPU)
        if func is torch.Tensor.cuda:
            return self._to(args[0], CUDA)
        if func is torch.Tensor.to:
            x, *rest = args
            if rest and isinstance(rest[0], Tensor):
                rest[:1] = [rest[0].device, rest[0].dtype]
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*rest, **kwargs)
            if device is not None and (_on_cuda(x) or device.type == "cuda"):
                return self._to(x, device, dtype, non_blocking)
        if func is torch.tensor and _names_cuda(kwargs.get("device")):
            return self._to(func(*args, **(kwargs | {"device": CPU})), CUDA)
        return func(*args, **kwargs)

    def _to(
        self,
        x: Tensor,
        device: torch.device,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Tensor:
        if x.device.type == device.type:
            return x if dtype in (None, x.dtype) else aten._to_copy.default(x, dtype=dtype)
        device = CUDA if device.type == "cuda" else device
        return aten._to_copy.default(x, device=device, dtype=dtype, non_blocking=non_blocking)


class _Event:
    """An event: the numbers that were on their way when it was recorded can be read after it."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def record(self) -> None:
        self._arrives, self._cuda.arriving = self._cuda.arriving, []
        self._launches = self._cuda.launches

    def synchronize(self) -> None:
        self._cuda.waits[_place(), "event"] += 1
        self._cuda.queued_after.append(self._cuda.launches - self._launches)
        for x in self._arrives:
            x.fill_(1)


def _on_cuda(x: Any) -> bool:
    return isinstance(x, FakeTensor) and x.device.type == "cuda"


def _names_cuda(x: Any) -> bool:
    return (isinstance(x, torch.device) and x.type == "cuda") or (
        isinstance(x, str) and x.startswith("cuda")
    )


def _told_to_cpp(x: Tensor) -> torch.device:
    device = x.fake_device if isinstance(x, FakeTensor) else x.device
    return META if device.type == "cuda" else device


def _place() -> str:
    """Return the file and the function of Fairway that are running."""
    frame = sys._getframe(1)
    while frame and "/fairway/" not in frame.f_code.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    if not frame:
        return "a test"
    return f"{frame.f_code.co_filename.rpartition('/fairway/')[2]} {frame.f_code.co_name}"
