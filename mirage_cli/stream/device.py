"""Runs a painter: on a CPU with the wall clock between stages, on CUDA as one captured graph with its copies."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mirage_cli.config import Size
from mirage_cli.engine.graphs import CapturedFrame
from mirage_cli.engine.host import keep_freed_memory
from mirage_cli.engine.ops import select_backend
from mirage_cli.engine.reference import Nv12
from mirage_cli.stream.copies import Copies, Pending, Upload
from mirage_cli.stream.model import STAGES, Painted, Painter, Stage, unmarked
from mirage_cli.stream.nv12 import Nv12Frames, frame_shape
from mirage_cli.stream.stepping import DEVICE, QUEUE, WAIT

Incoming = np.ndarray | Upload | Tensor
"""A frame on the host, on its way to the device, or there."""

Graph = Literal["auto", "off", "required"]
"""Whether CUDA frames are captured: where they can be, never, or always (GpuError where they cannot be)."""


class Paint(Protocol):
    """``Painter.paint``, or what converts around it."""

    def __call__(self, frame: Tensor, /, done: Stage = unmarked) -> Painted: ...


class Made(NamedTuple):
    """A frame that a runner has made.

    Attributes:
        picture: the frame, in memory of its own.
        cut: the input cut to another shot; finite: no value of the frame is NaN.
        stages: milliseconds, as in ``StepReport``.
    """

    picture: Pending
    cut: bool
    finite: bool
    stages: dict[str, float]


class Runner(Protocol):
    """Makes frames on one device.

    Attributes:
        graph_reason: whether frames are replayed as a CUDA graph, and why; one sentence.
        copies: sends frames ahead of their turn; None where there is nothing to send them to.
    """

    @property
    def graph_reason(self) -> str: ...
    @property
    def copies(self) -> Copies | None: ...

    def run(self, frame: Incoming) -> Made:
        """Make a frame, in inference mode."""
        ...


def open_runner(
    painter: Painter, device: torch.device, size: Size, *, backend: str, nv12: Nv12 | None, graph: Graph
) -> Runner:
    """What runs a painter on its device.

    Args:
        size: width and height of the frames.
        backend: that the painter was chosen by; NV12 is converted by the same.
    """
    paint: Paint = painter.paint
    if nv12 is not None:
        ops, _ = select_backend(device, "torch" if painter.backend == "torch" else backend)
        paint = Nv12Frames(painter, nv12, size, ops).paint
    if device.type == "cuda":
        return OnCuda(paint, painter.state().values(), device, frame_shape(size, nv12), graph)
    return OnCpu(paint)


class OnCpu:
    """Calls ``paint``, and takes the time of each stage."""

    graph_reason = "plain calls: no CUDA graphs on cpu"
    copies = None

    def __init__(self, paint: Paint) -> None:
        self._paint = paint
        keep_freed_memory()

    def run(self, frame: Incoming) -> Made:
        watch = _Stopwatch()
        painted = self._paint(torch.from_numpy(on_host(frame)), watch.done)
        picture = painted.rgb.numpy().copy()
        watch.done(STAGES[-1])
        cut, finite = painted.flags.tolist()
        return Made(Pending.ready(picture), bool(cut), bool(finite), watch.stages)


class _Stopwatch:
    """Milliseconds of each stage since the end of the one before."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._since = time.perf_counter()

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] += 1e3 * (now - self._since)
        self._since = now


class OnCuda:
    """Replays ``paint`` as a CUDA graph, between pinned buffers or copies on side streams.

    Args:
        state: tensors that ``paint`` changes.
        shape: of the frames in and out, uint8.

    Attributes:
        frame: the captured frame: uint8 of ``shape``, on the device or pinned -> ``Painted``, queued.
        host_in, host_out, host_flags: pinned; ``run`` fills and reads them.
    """

    def __init__(
        self, paint: Paint, state: Iterable[Tensor], device: torch.device, shape: tuple[int, ...], graph: Graph
    ) -> None:
        self.frame = CapturedFrame(
            paint, device=device, state=tuple(state), enabled=graph != "off", required=graph == "required"
        )
        self.copies = Copies(device)
        self.host_in = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.host_out = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.host_flags = torch.empty(2, dtype=torch.int32, pin_memory=True)
        self._begin, self._end, self._copied = (torch.cuda.Event(enable_timing=True) for _ in range(3))

    @property
    def graph_reason(self) -> str:
        return self.frame.reason

    def run(self, frame: Incoming) -> Made:
        began = time.perf_counter()
        source: Tensor
        if isinstance(frame, np.ndarray):
            self.host_in.numpy()[:] = frame
            source = self.host_in
        else:
            source = frame.arrived() if isinstance(frame, Upload) else frame
        self._begin.record()
        painted: Painted = self.frame(source)
        self._end.record()
        self.host_flags.copy_(painted.flags, non_blocking=True)
        if isinstance(frame, np.ndarray):
            self.host_out.copy_(painted.rgb, non_blocking=True)
        elif isinstance(frame, Upload):
            picture = self.copies.download(painted.rgb)
        else:
            picture = _kept(painted.rgb)
        self._copied.record()
        queued = time.perf_counter()
        self._copied.synchronize()
        if isinstance(frame, np.ndarray):  # now, since the next frame overwrites the pinned buffer
            picture = Pending.ready(self.host_out.numpy().copy())
        total_ms = 1e3 * (time.perf_counter() - began)
        device_ms, queue_ms = self._begin.elapsed_time(self._end), 1e3 * (queued - began)
        stages = {QUEUE: queue_ms, DEVICE: device_ms, WAIT: max(0.0, total_ms - device_ms - queue_ms)}
        cut, finite = self.host_flags.tolist()
        return Made(picture, bool(cut), bool(finite), stages)


def on_host(frame: Incoming) -> np.ndarray:
    """The incoming frame as an array."""
    if isinstance(frame, Upload):
        return frame.picture
    return frame.cpu().numpy() if isinstance(frame, Tensor) else frame


def _kept(static: Tensor) -> Pending:
    """A frame that stays on the device, out of the buffer that the next one overwrites."""
    kept = static.clone()
    return Pending(lambda: kept.cpu().numpy(), kept)
