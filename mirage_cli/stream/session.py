"""A live stream: one frame in, one frame out, for as long as it lasts.

    session = Session(open_model("lsd-small"), width=512, height=288)
    session.set_look({"starry-night": 1.0})
    styled = session.step(frame)            # uint8 [H, W, 3] -> uint8 [H, W, 3]

The model's ``Painter`` makes the frames (model.py); a runner calls it on its device (device.py). What a session adds is
the same for every model: it checks what it is given, paints again without a past where the past gave NaN or the drift
guard suspects it (guard.py), keeps the state that a killed job goes on from, and reports each step.

No frame depends on a later one, and all state is allocated once: memory is constant.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_cli import frames
from mirage_cli.engine.reference import Nv12
from mirage_cli.errors import GpuError, ModelError
from mirage_cli.stream.checks import check_frame, check_options, check_strength, normalised_look
from mirage_cli.stream.copies import Copies, Pending, Upload
from mirage_cli.stream.device import Graph, Incoming, Made, on_host, open_runner
from mirage_cli.stream.guard import DriftGuard
from mirage_cli.stream.model import Look, Model, Painter
from mirage_cli.stream.nv12 import frame_shape, rgb_of
from mirage_cli.stream.placement import dtype_name
from mirage_cli.stream.state import check_state, fit_state, put_state, take_state
from mirage_cli.stream.stepping import State, StepReport, sum_of_stages

_log = logging.getLogger(__name__)

GUARD_EVERY_ON_CUDA = 8  # frames; there a frame takes less time than looking at it


class Session:
    """One stream through one model.

    Args:
        model: from ``families.open_model``, which decides device and type.
        width, height: pixels of the frames in and out, 16 to 8192; a painter pads them inside.
        steps: denoising steps a frame; see ``Model.steps_allowed``.
        strength: 0 gives the input, 1 the whole look.
        seed: of the noise; the same seed, frames and calls give the same pictures on the CPU.
        backend: "auto", "ptx" or "torch", see ``Model.painter``.
        guard: watch for drift, and forget the past when it is to blame.
        nv12: frames in and out are NV12 coded so instead of RGB: uint8 [3 H / 2, W], luma and below it U and V in
            turns. Width and height must be even. The painter sees RGB; on CUDA the graph converts.
        painter: paints instead of the model's best one; made for this size, ``steps`` and ``seed``.
        graph: whether frames are captured on CUDA.

    Attributes:
        painter, runner: what makes the frames, and what calls it.
        report: of the last step.
        counters: frames, cuts, guard_events and guard_opinions (frames painted twice for the guard) so far.

    Raises:
        UsageProblem: a value out of range; GpuError: backend unavailable, or out of GPU memory.
    """

    def __init__(
        self,
        model: Model,
        *,
        width: int,
        height: int,
        steps: int = 1,
        strength: float = 1.0,
        seed: int = 0,
        backend: str = "auto",
        guard: bool = True,
        nv12: Nv12 | None = None,
        painter: Painter | None = None,
        graph: Graph = "auto",
    ) -> None:
        check_options(model, (width, height), steps, nv12 is not None)
        self.model, self.device = model, model.device
        self.width, self.height, self.steps = width, height, steps
        self.frame_shape, self._nv12 = frame_shape((width, height), nv12), nv12
        on_gpu = self.device.type == "cuda"
        try:
            size = (width, height)
            self.painter = painter or model.painter(size, steps=steps, seed=seed, backend=backend)
            self.runner = open_runner(self.painter, self.device, size, backend=backend, nv12=nv12, graph=graph)
        except torch.cuda.OutOfMemoryError as error:
            raise self._too_large() from error
        self.guard = DriftGuard(guard, every=GUARD_EVERY_ON_CUDA if on_gpu else 1)
        self.report = StepReport()
        self.counters = {"frames": 0, "cuts": 0, "guard_events": 0, "guard_opinions": 0}
        self._look: dict[str, float] = {}
        self._strength = 1.0
        self.set_strength(strength)
        self.set_look(model.first_look)

    @property
    def copies(self) -> Copies | None:
        """Sends frames to the GPU before their turn, for ``step_later``; None on a CPU."""
        return self.runner.copies

    # --- what the user steers --------------------------------------------------------------------

    def set_look(self, weights: Look) -> None:
        """The mixture of looks from the next frame on; weights are normalised to sum to one.

        Raises:
            UsageProblem: a look that the model does not accept, a negative weight, or nothing at all.
        """
        new = normalised_look(self.model, weights)
        if new == self._look:
            return
        if set(new) != set(self._look):
            self.guard.anchor()
        self._look = new
        self._condition()

    def set_strength(self, strength: float) -> None:
        """How much of the look, 0 to 1, from the next frame on.

        Raises:
            UsageProblem: out of range.
        """
        check_strength(strength)
        if strength != self._strength:
            self._strength = float(strength)
            self.guard.anchor()
            if self._look:
                self._condition()

    @torch.inference_mode()
    def _condition(self) -> None:
        self.painter.condition(self._look, self._strength)

    @torch.inference_mode()
    def set_seed(self, seed: int) -> None:
        """Other noise from the next frame on; the same as a session that began with ``seed``."""
        self.painter.reseed(seed)

    @property
    def looks(self) -> dict[str, float]:
        """The mixture in use, its weights summing to one."""
        return self._look

    @property
    def strength(self) -> float:
        return self._strength

    def reset(self) -> None:
        """Forget all frames, and what the guard has learnt; look and strength stay."""
        self.forget()
        self.guard.reset()

    @torch.inference_mode()
    def forget(self) -> None:
        """Paint the next frame without a past."""
        self.painter.forget()

    # --- the state -------------------------------------------------------------------------------

    def state(self) -> State:
        """All that the next frame depends on, as float32 and float64 arrays and what JSON holds."""
        arrays, facts = take_state(self.painter, self.guard)
        chosen = {"looks": dict(self._look), "strength": self._strength}
        return arrays, {**chosen, **facts, "counters": dict(self.counters)}

    def load_state(self, state: State, *, fit: bool = False) -> None:
        """Go on from a state; the next frame is the one that would have followed.

        Args:
            fit: the state may be of a session of another size: its pictures are scaled, and the stream goes on.

        Raises:
            ModelError: it is of another size or model.
        """
        arrays, facts = state
        if fit:
            arrays = fit_state(self.painter, arrays)
        check_state(self.painter, arrays)
        self.set_look(facts["looks"])  # these clear memory and guard, so they come first
        self.set_strength(facts["strength"])
        put_state(self.painter, self.guard, (arrays, facts))
        self.counters.update(facts["counters"])

    # --- the frame -------------------------------------------------------------------------------

    def step(self, frame: np.ndarray) -> np.ndarray:
        """Generate the next frame: uint8 [H, W, 3] (``frame_shape``) -> a new one.

        Raises:
            UsageProblem: a frame of another size or type; ModelError: the network gives NaN without a
            past; GpuError: out of memory.
        """
        return self._step(frame).picture()

    def step_later(self, upload: frames.Upload) -> Pending:
        """The same on CUDA, for a frame that ``copies.upload`` has sent ahead; the picture comes down beside
        the next frame's work, and ``Pending.picture`` waits for it."""
        if not isinstance(upload, Upload):
            raise TypeError(f"{type(upload).__name__} is not an upload of this session's copies")
        return self._step(upload)

    def step_on_device(self, frame: Tensor) -> Tensor:
        """The same for a frame that is on the session's device, such as a hardware decoder's: a new tensor there,
        queued on torch's current stream."""
        pending = self._step(frame)
        return torch.from_numpy(pending.picture()) if pending.on_device is None else pending.on_device

    @torch.inference_mode()
    def _step(self, frame: Incoming) -> Pending:
        check_frame(frame, self.frame_shape)
        self.report = StepReport()
        self.counters["frames"] += 1
        if self.painter.passes_through(self._look, self._strength):
            self.painter.forget()  # nothing generated, so nothing to continue from
            return Pending(lambda: on_host(frame).copy(), frame.clone() if isinstance(frame, Tensor) else None)
        made = self._run(frame)
        if not made.finite:
            self._note("NaN")
            self.reset()
            made = self._run(frame)
            if not made.finite:
                raise ModelError(f"{self.model.name} gives NaN for this frame", "use --dtype fp32, or another --model")
        if made.cut:
            self.report.cut = True
            self.counters["cuts"] += 1
            self.guard.anchor()
        elif self._suspected(frame, made):
            made = self._recheck(frame, made)
        return made.picture

    def _run(self, frame: Incoming) -> Made:
        """One frame painted, and the painter's work behind it."""
        try:
            made = self.runner.run(frame)
        except torch.cuda.OutOfMemoryError as error:
            raise self._too_large() from error
        if made.finite:
            self.painter.between(made.cut)
        self.report.stages = made.stages
        return made

    def _suspected(self, frame: Incoming, made: Made) -> bool:
        """Whether the guard takes the past to be damaged."""
        if not self.guard.due:
            return bool(self.guard.check(None, None))
        return bool(self.guard.check(*self._seen(made.picture.picture(), on_host(frame))))

    def _recheck(self, frame: Incoming, made: Made) -> Made:
        """The frame again without a past: it takes over where the past had spoilt it, else all stays."""
        self.counters["guard_opinions"] += 1
        state, counters = self.painter.state(), self.painter.host_state()
        kept = {name: tensor.clone() for name, tensor in state.items()}
        self.painter.forget()
        fresh = self._run(frame)
        self.report.stages = sum_of_stages(made.stages, fresh.stages)
        seen = self._seen(made.picture.picture(), fresh.picture.picture(), on_host(frame))
        if fresh.finite and (event := self.guard.confirm(*seen)):
            self._note(event)
            return fresh
        for name, tensor in state.items():
            tensor.copy_(kept[name])
        self.painter.load_host_state(counters)
        return made

    def _seen(self, *pictures: np.ndarray) -> tuple[np.ndarray, ...]:
        """Pictures as RGB, for the guard."""
        return pictures if self._nv12 is None else tuple(map(rgb_of, pictures))

    def _note(self, event: str) -> None:
        self.report.guard_event = event
        self.counters["guard_events"] += 1
        _log.info("drift guard at frame %d: %s; the past is forgotten", self.counters["frames"] - 1, event)

    def _too_large(self) -> GpuError:
        return GpuError(
            f"out of GPU memory for frames of {self.width}x{self.height}", "use a smaller --size, or --device cpu"
        )

    def describe(self) -> dict[str, Any]:
        """What runs, as plain data for ``--json``, the dashboard and doctor."""
        return {
            "model": self.model.name,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "dtype": dtype_name(self.model.dtype),
            "dtype_reason": self.model.dtype_reason,
            "backend": self.painter.backend,
            "backend_reason": self.painter.reason,
            "graph": self.runner.graph_reason,
            "steps": self.steps,
            "strength": self._strength,
            "size": [self.width, self.height],
            "looks": dict(self._look),
        }
