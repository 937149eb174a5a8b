"""A GPU for plans on a machine without one: launches are noted in the order in which they are queued, not run."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mirage_cli.kernels import loader

from mirage_cli.engine import plan as plan_module

MAIN, SIDE = 1, 2  # handles of streams


class FakeLaunch:
    """Stands in for ``kernels.launch.Launch``; ``function`` is the entry's name."""

    def __init__(self, name, function, grid, block, shared_bytes, arguments, *, pdl) -> None:
        self.name, self.entry, self.grid, self.block = name, function, grid, block
        self.shared_bytes, self.arguments, self.pdl = shared_bytes, tuple(arguments), pdl
        self.queue: list[Queued] = []

    def __call__(self, stream: int) -> None:
        self.queue.append(Queued("launch", stream, self))


@dataclass(frozen=True)
class Queued:
    """What was queued: "launch", "record" or "wait"; on which stream."""

    what: str
    stream: int
    launch: FakeLaunch | None = None


class FakeGpu:
    """Puts itself in the place of CUDA; ``queued`` is what plans did since.

    Args:
        pdl: whether kernels and driver can; processors: multiprocessors of the GPU.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, pdl: bool = True, processors: int = 132) -> None:
        self.queued: list[Queued] = []
        queue, main = self.queued, SimpleNamespace(cuda_stream=MAIN)
        main.wait_event = lambda event: queue.append(Queued("wait", MAIN))

        class Launch(FakeLaunch):
            def __init__(self, *args, **kwargs) -> None:
                super().__init__(*args, **kwargs)
                self.queue = queue

        class Stream:
            def __init__(self, device=None) -> None:
                self.cuda_stream = SIDE

            def wait_event(self, event) -> None:
                queue.append(Queued("wait", SIDE))

        class Event:
            def record(self, stream) -> None:
                queue.append(Queued("record", stream.cuda_stream))

        def load_plan(index, files):
            return self.kernels(*(entry for file in files for entry in loader.PLAN_FILES[file]))

        self.pdl = pdl
        properties = SimpleNamespace(multi_processor_count=processors)
        monkeypatch.setattr(plan_module, "Launch", Launch)
        monkeypatch.setattr(loader, "load_plan", load_plan)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: main)

    def kernels(self, *entries: str) -> loader.PlanKernels:
        """Loaded entries; a function's handle is its name."""
        return loader.PlanKernels({entry: entry for entry in entries}, {}, self.pdl, ())


def behind(argument, tensors: list[torch.Tensor]):
    """An argument as the emulator takes it: a number, None, or the elements from its address on."""
    if isinstance(argument, ctypes.c_int):
        return np.int32(argument.value)
    if isinstance(argument, ctypes.c_float):
        return np.float32(argument.value)
    if not argument.value:
        return None
    for tensor in tensors:
        offset = (argument.value - tensor.data_ptr()) // tensor.element_size()
        if 0 <= offset < tensor.numel():
            return tensor.reshape(-1)[offset:]
    raise AssertionError("an address of no tensor that is kept")


def described(queued: list[Queued], tensors: list[torch.Tensor]) -> list:
    """All that was queued as plain data, the same on every machine: addresses become the number of the memory they
    lie in, by first use, the offset in it and its size, all in bytes."""
    memories = sorted({(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in tensors})
    numbers: dict[int, int] = {}

    def address(value):
        if not value:
            return None
        for start, size in memories:
            if start <= value < start + size:
                return [numbers.setdefault(start, len(numbers)), value - start, size]
        raise AssertionError("an address in no tensor that is kept")

    def value_of(argument):
        if isinstance(argument, ctypes.Structure):
            fields = [(name, kind, getattr(argument, name)) for name, kind in argument._fields_]
            return {n: address(v) if kind is ctypes.c_void_p else v for n, kind, v in fields}
        if isinstance(argument, ctypes.c_void_p):
            return address(argument.value)
        return [type(argument).__name__, argument.value]

    return [
        [line(one), [value_of(argument) for argument in one.launch.arguments] if one.launch else []] for one in queued
    ]


def line(one: Queued) -> str:
    """One thing that was queued, to be read."""
    stream = {MAIN: "main", SIDE: "side"}[one.stream]
    if one.launch is None:
        return f"{stream} {one.what}"
    grid, threads = "x".join(map(str, one.launch.grid)), one.launch.block[0]
    how = f" shared {one.launch.shared_bytes}" * bool(one.launch.shared_bytes) + " pdl" * one.launch.pdl
    return f"{stream} {one.launch.entry} {grid} of {threads}{how}"
