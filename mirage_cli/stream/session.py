"""A live stream: one frame in, one frame out, for as long as it lasts.

    session = Session(load_bundle("lsd-small"), width=512, height=288)
    session.set_look({"starry-night": 1.0})
    styled = session.step(frame)            # uint8 [H, W, 3] -> uint8 [H, W, 3]

Each step is the same three moves. Prepare: the past (the last three generated frames) is moved to
where its things are in the incoming frame; at a cut it is forgotten. Denoise: the network makes the
clean frame from noise, the incoming frame, the past, the memory bank and the look. Compose: the clean
frame takes over from the moved past, a pixel at a time, and becomes the past of the next step.

Nothing looks ahead and nothing grows: all state is allocated once. On CUDA the three moves are one
captured graph.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.engine.graphs import CapturedFrame
from mirage_cli.engine.host import keep_freed_memory
from mirage_cli.engine.ops import select_backend
from mirage_cli.engine.reference import Nv12
from mirage_cli.errors import GpuError, ModelError, UsageProblem
from mirage_cli.lsd.checkpoint import ModelBundle
from mirage_cli.lsd.conditioning import Conditioning
from mirage_cli.lsd.history import History
from mirage_cli.lsd.memory import MemoryBank
from mirage_cli.lsd.model import FRAME_MULTIPLE, Past, Prediction, screen_channels
from mirage_cli.lsd.packed import packed
from mirage_cli.lsd.plan import FramePlan, plan_frame, plan_refusal
from mirage_cli.lsd.sampling import MAX_STEPS, compose, sample, schedule
from mirage_cli.stream.copies import Copies, Made, Upload
from mirage_cli.stream.guard import DriftGuard
from mirage_cli.stream.state import State, fit_state, put_state, take_state

_log = logging.getLogger(__name__)

IDENTITY = "identity"
SMALLEST, LARGEST = 16, 8192  # pixels a side
Frame = np.ndarray | Upload | Tensor  # on the host, on its way, on the device


@dataclass
class StepReport:
    """The last step: what it took, and what happened.

    Attributes:
        prepare_ms, denoise_ms, compose_ms: wall clock on the CPU. On CUDA the whole device frame is
            denoise_ms, measured between events on the device; the others are the copies and the wait.
        cut: the past was forgotten since the input cut to another shot.
        guard_event: what the drift guard found, and the past was forgotten, or None.
    """

    prepare_ms: float = 0.0
    denoise_ms: float = 0.0
    compose_ms: float = 0.0
    cut: bool = False
    guard_event: str | None = None


class Session:
    """One stream through one model.

    Args:
        bundle: from ``load_bundle``, which decides device and type.
        width, height: pixels of the frames in and out, 16 to 8192; padded inside to multiples of 16.
        steps: denoising steps a frame, 1 to 4.
        strength: 0 gives the input, 1 the whole look.
        seed: of the noise; the same seed, frames and calls give the same pictures on the CPU.
        device, dtype: as given to ``load_bundle``; kept for messages, the bundle has decided.
        backend: "auto", "ptx" or "torch", see ``select_backend``.
        guard: watch for drift, and forget the past when it is to blame.
        nv12: frames in and out are NV12 coded so instead of RGB: uint8 [3 H / 2, W], luma and below it U and V in
            turns. Width and height must be even. The network sees RGB; on CUDA the graph converts.

    Raises:
        UsageProblem: a value out of range; GpuError: backend or memory not to be had.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        width: int,
        height: int,
        steps: int = 1,
        strength: float = 1.0,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        guard: bool = True,
        nv12: Nv12 | None = None,
    ) -> None:
        for name, value in (("width", width), ("height", height)):
            if not SMALLEST <= value <= LARGEST:
                raise UsageProblem(f"{name} {value}; allowed: {SMALLEST} to {LARGEST} pixels", "use --size 512x288")
        if not 1 <= steps <= MAX_STEPS:
            raise UsageProblem(f"{steps} steps; allowed: 1 to {MAX_STEPS}", "use --steps 1")
        self.bundle, self.net, self.device = bundle, bundle.net, bundle.device
        self.width, self.height, self.steps = width, height, steps
        if nv12 is not None and (height % 2 or width % 2):
            raise UsageProblem(f"NV12 frames of {width}x{height}; both sides must be even", "use --size 512x288")
        self.nv12 = nv12
        self.frame_shape = (height, width, 3) if nv12 is None else (height * 3 // 2, width)
        self.padded = tuple(-(-side // FRAME_MULTIPLE) * FRAME_MULTIPLE for side in (height, width))
        self.ops, self.backend_reason = select_backend(self.device, backend)
        self._strict = backend == "ptx"
        self.kernels = self.ops if self.ops.backend == "ptx" else None  # None: the network's own torch
        self.guard = DriftGuard(guard, every=8 if self.device.type == "cuda" else 1)
        self.report = StepReport()
        self.counters = {"frames": 0, "cuts": 0, "guard_events": 0, "guard_opinions": 0}
        try:
            self._allocate(seed)
        except torch.cuda.OutOfMemoryError as error:
            raise GpuError(
                f"out of GPU memory for frames of {width}x{height}", "use a smaller --size, or --device cpu"
            ) from error
        self._weights: dict[str, float] = {}
        self._strength = 1.0
        self.set_strength(strength)
        self.set_look({bundle.looks[0]: 1.0})

    def _allocate(self, seed: int) -> None:
        """All state of the stream, once."""
        height, width = self.padded
        self.noise = self._noise(seed).to(self.device)
        self.screen = screen_channels(height, width, self.device).to(self.bundle.dtype)
        with torch.inference_mode():
            self.stem_constant = self.net.stem_constant(self.noise, self.screen)
        self.history = History.empty(1, height, width, self.device)
        self.memory = MemoryBank(self.net)
        self.conditioning = Conditioning(self.bundle, self.steps)
        self.program = self._compile()
        self.packed = None  # on a CPU: the network on packed weights
        if self.device.type == "cpu" and self.kernels is None:
            keep_freed_memory()
            with torch.inference_mode():
                self.packed, how = packed(self.net, height, width)
            self.backend_reason += f"; {how}"
        self._rgb_frame = self._frame if self.program is None else self.program.run
        if self.nv12 is not None:
            self._rgb = torch.empty(self.height, self.width, 3, dtype=torch.uint8, device=self.device)
            self._planes_out = torch.empty(self.frame_shape, dtype=torch.uint8, device=self.device)
        self.frame = self.captured(self._rgb_frame if self.nv12 is None else self._nv12_frame)
        self.copies = Copies(self.device) if self.device.type == "cuda" else None
        if self.device.type == "cuda":
            self.picture_in = torch.empty(self.frame_shape, dtype=torch.uint8, pin_memory=True)
            self.picture_out = torch.empty(self.frame_shape, dtype=torch.uint8, pin_memory=True)
            self.flags_out = torch.empty(2, dtype=torch.int32, pin_memory=True)
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]

    def captured(self, function: Callable[..., Any], *, enabled: bool = True, required: bool = False) -> CapturedFrame:
        """A whole device frame, such as ``_frame``, as a graph that knows this session's state."""
        state = (*vars(self.history).values(), self.memory.tokens, *(self.program.state if self.program else ()))
        return CapturedFrame(function, device=self.device, state=state, enabled=enabled, required=required)

    def _compile(self) -> FramePlan | None:
        """The whole frame as the engine's kernels, where these are chosen and made for this network."""
        if self.kernels is None:
            return None
        if reason := plan_refusal(self.net, self.bundle.dtype, self.padded):
            self.backend_reason = f"{self.ops.reason}; op by op: {reason}"
            return None
        size = (self.height, self.width)
        try:
            program = plan_frame(
                self.net,
                self.history,
                self.memory,
                self.conditioning.modulations,
                self.noise,
                self.screen,
                schedule(self.steps),
                size,
                self.ops.device,
            )
        except GpuError as error:
            if self._strict:
                raise
            self.ops, self.kernels = select_backend(self.device, "torch")[0], None
            self.backend_reason = f"torch: {error.message}"
            return None
        self.backend_reason = f"{self.ops.reason}; the whole frame is one program of {len(program.launches)} launches"
        return program

    # --- what the user steers --------------------------------------------------------------------

    def set_look(self, weights: dict[str, float]) -> None:
        """The mixture of looks from the next frame on; weights are normalised to sum to one.

        Raises:
            UsageProblem: an unknown look, a negative weight, or nothing at all.
        """
        known = set(self.bundle.looks)
        if unknown := sorted(set(weights) - known):
            raise UsageProblem(f"no look {unknown[0]!r} in {self.bundle.name}", "mirage models lists the looks")
        total = sum(weights.values())
        if not weights or min(weights.values()) < 0 or not 0 < total < float("inf"):
            raise UsageProblem(
                f"look weights {weights}; allowed: not negative, not all zero", "give one look the weight 1"
            )
        new = {look: weight / total for look, weight in weights.items() if weight > 0}
        if new == self._weights:
            return
        if set(new) != set(self._weights):
            self.guard.anchor()
            self.memory.clear()  # it remembers pictures in the old looks
        self._weights = new
        self.conditioning.tell(self._weights, self._strength)

    def set_strength(self, strength: float) -> None:
        """How much of the look, 0 to 1, from the next frame on.

        Raises:
            UsageProblem: out of range.
        """
        if not 0.0 <= strength <= 1.0:
            raise UsageProblem(f"strength {strength}; allowed: 0 to 1", "use --strength 1")
        if strength != self._strength:
            self._strength = float(strength)
            self.guard.anchor()
            if self._weights:
                self.conditioning.tell(self._weights, self._strength)

    @torch.inference_mode()
    def set_seed(self, seed: int) -> None:
        """Other noise from the next frame on; the same as a session that began with ``seed``."""
        self.noise.copy_(self._noise(seed))  # all in place, so that a graph sees them
        self.stem_constant.copy_(self.net.stem_constant(self.noise, self.screen))
        if self.program is not None:
            self.program.take_noise()

    def _noise(self, seed: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)  # the same noise on every device
        return torch.randn(1, 3, *self.padded, generator=generator)

    @property
    def looks(self) -> dict[str, float]:
        """The mixture in use, its weights summing to one."""
        return self._weights

    @property
    def strength(self) -> float:
        return self._strength

    def state(self) -> State:
        """All that the next frame depends on, as arrays and plain data; see ``lsd.state``."""
        return take_state(self)

    def state_for(self, other: Session) -> State:
        """Its state with the pictures scaled to another session's size."""
        return fit_state(other, take_state(self))

    def load_state(self, state: State) -> None:
        """Go on from a ``state`` of a session made alike.

        Raises:
            ModelError: it is of another size or model.
        """
        put_state(self, *state)

    def reset(self) -> None:
        """Forget all frames; look and strength stay."""
        with torch.inference_mode():
            self.history.clear()
            self.memory.clear()
        self.guard.reset()

    # --- the frame -------------------------------------------------------------------------------

    def step(self, frame: np.ndarray) -> np.ndarray:
        """Generate the next frame: uint8 [H, W, 3] (``frame_shape``) -> a new one.

        Raises:
            UsageProblem: a frame of another size or type; ModelError: the network gives NaN without a
            past; GpuError: out of memory.
        """
        return self._step(frame).picture()

    def step_later(self, upload: Upload) -> Made:
        """The same on CUDA, for a frame that ``copies.upload`` has sent ahead; the picture comes down beside
        the next frame's work, and ``Made.picture`` waits for it."""
        return self._step(upload)

    def step_on_device(self, frame: Tensor) -> Tensor:
        """The same for a frame that is on the session's device, such as a hardware decoder's: a new tensor there,
        queued on torch's current stream."""
        made = self._step(frame)
        return torch.from_numpy(made.picture()) if made.on_device is None else made.on_device

    @torch.inference_mode()
    def _step(self, frame: Frame) -> Made:
        form = frame.tensor if isinstance(frame, Upload) else frame
        kind = str(form.dtype).removeprefix("torch.")
        if tuple(form.shape) != self.frame_shape or kind != "uint8":
            raise UsageProblem(
                f"a frame of {kind} {tuple(form.shape)}; this session takes uint8 {self.frame_shape}",
                "open a session of the frames' size",
            )
        self.report = StepReport()
        self.counters["frames"] += 1
        if self._strength == 0 or set(self._weights) == {IDENTITY}:
            self.history.clear()  # nothing generated, so nothing to continue from
            self.memory.clear()
            return Made(lambda: _on_host(frame).copy(), frame.clone() if isinstance(frame, Tensor) else None)
        made, cut, finite = self._run(frame)
        if not finite:
            self._note("NaN")
            self.reset()
            made, cut, finite = self._run(frame)
            if not finite:
                raise ModelError(f"{self.bundle.name} gives NaN for this frame", "use --dtype fp32, or another --model")
        if cut:
            self.report.cut = True
            self.counters["cuts"] += 1
            self.memory.clear()
            self.guard.anchor()
        elif self.guard.check(*(self._seen(made.picture(), _on_host(frame)) if self.guard.due else (None, None))):
            made = self._second_opinion(frame, made)
        return made

    def _second_opinion(self, frame: Frame, made: Made) -> Made:
        """The frame again without a past: it takes over where the past had spoilt it, else all stays."""
        self.counters["guard_opinions"] += 1
        report = self.report
        spent = report.prepare_ms, report.denoise_ms, report.compose_ms
        kept, writes = [tensor.clone() for tensor in self.frame.state], (self.memory.frames, self.memory.writes)
        self.history.clear()
        self.memory.clear()
        fresh, _, finite = self._run(frame)
        report.prepare_ms, report.denoise_ms, report.compose_ms = (
            a + b for a, b in zip(spent, (report.prepare_ms, report.denoise_ms, report.compose_ms))
        )
        seen = self._seen(made.picture(), fresh.picture(), _on_host(frame))
        if finite and (event := self.guard.confirm(*seen)):
            self._note(event)
            return fresh
        for tensor, value in zip(self.frame.state, kept):
            tensor.copy_(value)
        self.memory.frames, self.memory.writes = writes
        return made

    def _seen(self, *pictures: np.ndarray) -> tuple[np.ndarray, ...]:
        """Pictures as RGB for the guard; it compares what is read alike, so one matrix will do for all."""
        return pictures if self.nv12 is None else tuple(cv2.cvtColor(p, cv2.COLOR_YUV2RGB_NV12) for p in pictures)

    def _note(self, event: str) -> None:
        self.report.guard_event = event
        self.counters["guard_events"] += 1
        _log.info("drift guard at frame %d: %s; the past is forgotten", self.counters["frames"] - 1, event)

    def _run(self, frame: Frame) -> tuple[Made, bool, bool]:
        """One device frame: (made, cut, finite)."""
        try:
            return self._run_cuda(frame) if self.device.type == "cuda" else self._run_cpu(frame)
        except torch.cuda.OutOfMemoryError as error:
            raise GpuError(
                f"out of GPU memory for frames of {self.width}x{self.height}", "use a smaller --size, or --device cpu"
            ) from error

    def _run_cpu(self, incoming: Frame) -> tuple[Made, bool, bool]:
        marks = [time.perf_counter()]
        picture = torch.from_numpy(_on_host(incoming))
        frame, past, cut = self._prepare(picture if self.nv12 is None else self._from_nv12(picture))
        marks.append(time.perf_counter())
        prediction = self._denoise(frame, past)
        marks.append(time.perf_counter())
        out, finite = self._compose(prediction, frame, past)
        self.memory.offer(prediction.tokens)
        generated = (out if self.nv12 is None else self._to_nv12(out).clone()).numpy()
        marks.append(time.perf_counter())
        report = self.report
        report.prepare_ms, report.denoise_ms, report.compose_ms = (1e3 * (b - a) for a, b in zip(marks, marks[1:]))
        return Made(lambda: generated), bool(cut), bool(finite)

    def _run_cuda(self, frame: Frame) -> tuple[Made, bool, bool]:
        began = time.perf_counter()
        if isinstance(frame, np.ndarray):
            self.picture_in.numpy()[:] = frame
            source = self.picture_in
        else:
            source = frame.arrived() if isinstance(frame, Upload) else frame
        self.events[0].record()
        out, flags, tokens = self.frame(source)
        self.events[1].record()
        self.flags_out.copy_(flags, non_blocking=True)
        if isinstance(frame, np.ndarray):
            self.picture_out.copy_(out, non_blocking=True)
            made = Made(lambda: self.picture_out.numpy().copy())
        else:
            made = self.copies.download(out) if isinstance(frame, Upload) else _kept(out)
        self.memory.offer(tokens)
        self.events[2].record()
        queued = time.perf_counter()
        self.events[2].synchronize()
        done = time.perf_counter()
        report = self.report
        report.denoise_ms = self.events[0].elapsed_time(self.events[1])
        report.prepare_ms = 1e3 * (queued - began)
        report.compose_ms = max(0.0, 1e3 * (done - began) - report.denoise_ms - report.prepare_ms)
        cut, finite = self.flags_out.tolist()
        return made, bool(cut), bool(finite)

    def _frame(self, rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The whole device frame, for capture: uint8 [H, W, 3] -> (uint8 frame, (cut, finite) [2], tokens)."""
        frame, past, cut = self._prepare(rgb)
        prediction = self._denoise(frame, past)
        out, finite = self._compose(prediction, frame, past)
        return out, torch.stack((cut[0], finite.to(cut.dtype))).int(), prediction.tokens

    def _nv12_frame(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The whole device frame from NV12 to NV12."""
        out, flags, tokens = self._rgb_frame(self._from_nv12(planes))
        return self._to_nv12(out), flags, tokens

    def _from_nv12(self, planes: Tensor) -> Tensor:
        return self.ops.nv12_to_rgb(planes[: self.height], planes[self.height :], self.nv12, self._rgb)

    def _to_nv12(self, rgb: Tensor) -> Tensor:
        planes = self._planes_out
        self.ops.rgb_to_nv12(rgb, self.nv12, planes[: self.height], planes[self.height :])
        return planes

    def _prepare(self, rgb: Tensor) -> tuple[Tensor, Past, Tensor]:
        """I(i+1) as [1, 3, H, W] in [-1, 1], the past moved to it, and whether the input cut."""
        frame = rgb.permute(2, 0, 1)[None].float() * (1 / 127.5) - 1
        bottom, right = self.padded[0] - self.height, self.padded[1] - self.width
        if bottom or right:
            frame = F.pad(frame, (0, right, 0, bottom), mode="replicate")
        past, cut = self.history.moved_to(frame, self.memory.tokens, self.memory.null)
        return frame, past, cut

    def _denoise(self, frame: Tensor, past: Past) -> Prediction:
        has_past, told = past.valid[0] > 0, self.conditioning
        if self.packed is not None:
            blocks = told.folded(self.packed, bool(has_past))
            return sample(self.packed, self.noise, frame, past, self.screen, blocks, constant=self.stem_constant)
        modulations = told.chosen(has_past)
        return sample(self.net, self.noise, frame, past, self.screen, modulations, self.kernels, self.stem_constant)

    def _compose(self, prediction: Prediction, frame: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """The finished frame as uint8 [H, W, 3] and whether it is finite; the history takes it over."""
        generated = compose(prediction, past.last)
        finite = torch.isfinite(generated.sum())  # clamped, so that only a NaN makes the sum one
        self.history.advance(past, frame, generated)
        picture = generated[0, :, : self.height, : self.width]
        out = (picture * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)
        return out.permute(1, 2, 0).contiguous(), finite

    def describe(self) -> dict:
        """What runs, as plain data for ``--json``, the dashboard and doctor."""
        return {
            "model": self.bundle.name,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "dtype": str(self.bundle.dtype).removeprefix("torch."),
            "dtype_reason": self.bundle.dtype_reason,
            "backend": self.ops.backend,
            "backend_reason": self.backend_reason,
            "graph": self.frame.reason,
            "steps": self.steps,
            "strength": self._strength,
            "size": [self.width, self.height],
            "looks": dict(self._weights),
        }


def _on_host(frame: Frame) -> np.ndarray:
    """The incoming frame as an array."""
    if isinstance(frame, Upload):
        return frame.picture
    return frame.cpu().numpy() if isinstance(frame, Tensor) else frame


def _kept(static: Tensor) -> Made:
    """A frame that stays on the device, out of the buffer that the next one overwrites."""
    kept = static.clone()
    return Made(lambda: kept.cpu().numpy(), kept)
