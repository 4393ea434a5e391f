"""Ranks, device and dtype. A single process is a group of one, and no case of its own."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from fairway.errors import BadInput


@dataclass(frozen=True)
class AsyncTensor:
    """A tensor that other ranks are still filling."""

    tensor: torch.Tensor
    work: dist.Work | None = None

    def wait(self) -> torch.Tensor:
        if self.work is not None:
            self.work.wait()
        return self.tensor


@dataclass(frozen=True)
class Process:
    """One process of a distributed group, or the only one."""

    rank: int
    size: int  # processes in the group
    device: torch.device
    dtype: torch.dtype  # of activations and matrix products outside training

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def send(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """Return a contiguous array on the device, without waiting for a GPU that is at work."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def fetch(self, *numbers: torch.Tensor) -> Callable[[], list[float]]:
        """Begin to copy numbers to the host; return what waits for them, but for no later work."""
        copy = torch.stack(numbers).to("cpu", non_blocking=True)
        if self.device.type != "cuda":
            return copy.tolist
        event = torch.cuda.Event()
        event.record()

        def read() -> list[float]:
            event.synchronize()
            return copy.tolist()

        return read

    def reduce_scatter(self, tensor: torch.Tensor) -> AsyncTensor:
        """Sum [size · n, ...] over ranks; this rank gets its n rows, [n, ...]."""
        if self.size == 1:
            return AsyncTensor(tensor)
        own = tensor.new_empty(len(tensor) // self.size, *tensor.shape[1:])
        # torch 2.13 renamed both
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        return AsyncTensor(own, scatter(own, tensor, async_op=True))

    def all_gather(self, own: torch.Tensor) -> AsyncTensor:
        """Return [n, ...] of every rank, one after another: [size · n, ...]."""
        if self.size == 1:
            return AsyncTensor(own)
        whole = own.new_empty(self.size * len(own), *own.shape[1:])
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return AsyncTensor(whole, gather(whole, own.contiguous(), async_op=True))

    def broadcast(self, *values: float) -> list[float]:
        """Return rank 0's values on every rank, without waiting for a GPU that is at work."""
        if self.size == 1:
            return list(values)
        box = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(box, 0)
        return list(box.tolist())

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_groups = itertools.count()  # that this process has joined

ALONE = Process(0, 1, torch.device("cpu"), torch.float32)
"""A group of one, on a CPU."""


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning each to the kernel.

    Activations of megabytes are freed and taken anew thousands of times per second; as anonymous
    mappings every one of them costs its page faults again: 11 % of a training step
    (docs/research/LOG.md). Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 << 20)


def training_dtype(asked: str, device: torch.device) -> torch.dtype:
    """Return the dtype of activations and products in training: `asked`, float32 or bfloat16.

    "auto" is bf16 where the device has instructions for it: CUDA, and CPUs with AVX512-BF16 or AMX
    (1.6 times as fast there, docs/research/LOG.md; a CPU without them emulates it slowly).
    """
    if asked != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[asked]
    fast = device.type == "cuda" or (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if fast else torch.float32


def start(device: str = "") -> Process:
    """Join the group that torchrun describes in the environment, or make a group of one.

    Activations are bf16 on CUDA and fp32 on a CPU, so that scores do not depend on the CPU. Raises
    BadInput.
    """
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise BadInput("there is no CUDA device here that torch can use: choose --device cpu")
        chosen = torch.device("cuda", _number("LOCAL_RANK", 0))
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
    if size > 1 and not dist.is_initialized():
        # Decisions of the host travel by gloo, so that they need not wait for a GPU's queue.
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=_fresh_store(size), rank=rank, world_size=size)
    dtype = torch.bfloat16 if chosen.type == "cuda" else torch.float32
    return Process(rank, size, chosen, dtype)


def _number(name: str, default: int) -> int:
    """Return a whole number that torchrun puts into the environment. Raises BadInput."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise BadInput(f"the environment variable {name} is {value}, and must be a whole number")
    return int(value)


def _fresh_store(size: int) -> Any:
    """Return a store in which ranks find each other, without old entries; None: torch's own.

    torchrun restarts its workers with the store of the attempt before, where the addresses of dead
    processes stand; and a process that starts a second time finds those of its first group.
    Restarts are counted per node, so with several nodes the count is no common name: there
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives every attempt a store (docs/scale.md).
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    known = os.environ
    shared = known.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not shared or known.get("GROUP_WORLD_SIZE") != "1":
        return None
    store = TCPStore(known["MASTER_ADDR"], int(known["MASTER_PORT"]), size, is_master=False)
    attempt = known["TORCHELASTIC_RESTART_COUNT"]
    return PrefixStore(f"attempt {attempt}, group {next(_groups)}", store)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def leave() -> None:
    """Make this process a group of one, whatever torchrun has started beside it."""
    stop()
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


def describe(process: Process) -> dict[str, Any]:
    """Return versions, device and dtype, for env.json and for checks of floating-point proofs."""
    on_cuda = process.device.type == "cuda"
    device = torch.cuda.get_device_name(process.device) if on_cuda else cpu_name()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "device": device,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "dtype": str(process.dtype).removeprefix("torch."),
        "world_size": process.size,
    }


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
