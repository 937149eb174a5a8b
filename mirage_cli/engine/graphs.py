"""A frame's work captured once as a CUDA graph and replayed, so that the CPU launches nothing.

At batch one a frame is hundreds of kernels of a few microseconds, and launching them costs more than
running them. ``CapturedFrame`` records the launches of a function and replays them in one call. On the
CPU, and where a capture fails, it calls the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mirage_cli.errors import GpuError, first_line

WARM_UP_CALLS = 3  # before a capture: libraries choose algorithms and allocate in their first calls


class CapturedFrame:
    """Call a function of tensors through a CUDA graph.

    The function must do the same work at each call: no branches on values, no copies to the host, no
    allocation kept outside of its results. It may change tensors in place that it holds (a history, a
    memory bank); name these in ``state``, so that warming up leaves them as they were.

    The results are static: the next call overwrites them. Clone what must live longer. Inputs, on the
    device or the host, are copied into static buffers on the device; an input that is the buffer itself
    (``inputs``) is not copied. Copies from pinned memory do not wait: leave it alone until they are done.

    Args:
        function: tensors in, a tensor or a tuple of tensors out.
        device: of the tensors; anything but CUDA means plain calls.
        state: tensors that the function changes in place.
        enabled: False for plain calls everywhere (the off-switch).
        required: raise GpuError where a capture fails, instead of plain calls from then on.

    Attributes:
        captured: the next call with the same shapes replays a graph.
        reason: why, one sentence.
        captures: captures made so far; it grows when shapes change.
        inputs: the static input buffers while captured, to be filled in place.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        device: torch.device | str,
        state: Sequence[Tensor] = (),
        enabled: bool = True,
        required: bool = False,
    ) -> None:
        self.function = function
        self.device = torch.device(device)
        self.state = tuple(state)
        self.required = required
        self.captures = 0
        self.inputs: tuple[Tensor, ...] = ()
        self._graph: Any = None
        self._outputs: Any = None
        self._key: tuple = ()
        self._usable = enabled and self.device.type == "cuda" and torch.cuda.is_available()
        if not enabled:
            self.reason = "plain calls: CUDA graphs are switched off"
        elif not self._usable:
            self.reason = f"plain calls: no CUDA graphs on {self.device.type}"
        else:
            self.reason = "CUDA graph: captured at the first call"

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def reset(self) -> None:
        """Forget the graph and its buffers; the next call captures again."""
        self._graph = self._outputs = None
        self._key = ()
        self.inputs = ()

    def __call__(self, *inputs: Tensor) -> Any:
        """The function's result for these inputs. GpuError when the GPU's memory runs out."""
        if not self._usable:
            return self._plain(inputs)
        # not the device: pinned or on the GPU, it is copied into the same buffer
        key = tuple((tuple(t.shape), t.dtype, t.stride()) for t in inputs)
        if self._graph is None or key != self._key:
            self.reset()
            self._capture(inputs)
            if not self._usable:
                return self._plain(inputs)
            self._key = key
        for buffer, given in zip(self.inputs, inputs, strict=True):
            if buffer is not given:
                buffer.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _plain(self, inputs: tuple[Tensor, ...]) -> Any:
        return self.function(*(t.to(self.device, non_blocking=True) for t in inputs))

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        """Warm up and record; on failure back to plain calls, with the reason."""
        previous = torch.cuda.current_stream(self.device)
        random_state = torch.cuda.get_rng_state(self.device)
        try:
            with torch.cuda.device(self.device):
                self.inputs = tuple(torch.empty_like(t, device=self.device).copy_(t) for t in inputs)
                self._warm_up(random_state)
                graph = torch.cuda.CUDAGraph()
                # thread_local: the threads that decode and encode may call CUDA in the meantime
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    outputs = self.function(*self.inputs)
            self._graph, self._outputs = graph, outputs
            self.captures += 1
            self.reason = "CUDA graph: replayed"
        except torch.cuda.OutOfMemoryError as error:
            self._give_up(previous, random_state)
            raise GpuError(
                f"out of GPU memory while a frame was captured ({first_line(error)})",
                "use a smaller --size, or close other programs that use the GPU",
            ) from error
        except RuntimeError as error:
            self._give_up(previous, random_state)
            if self.required:
                raise GpuError(
                    f"the frame cannot be captured as a CUDA graph: {first_line(error)}", "use --backend torch"
                ) from error
            self._usable = False
            self.reason = f"plain calls: the capture failed ({first_line(error)})"

    def _warm_up(self, random_state: Tensor) -> None:
        """Call the function on a side stream, as captures ask for; state and random numbers are put back.

        The capture itself runs nothing, so it changes neither.
        """
        saved = [t.clone() for t in self.state]
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_CALLS):
                    self.function(*self.inputs)
        finally:
            torch.cuda.current_stream(self.device).wait_stream(side)
            for tensor, value in zip(self.state, saved, strict=True):
                tensor.copy_(value)
            torch.cuda.set_rng_state(random_state, self.device)
            torch.cuda.synchronize(self.device)

    def _give_up(self, stream: Any, random_state: Tensor) -> None:
        """Undo what a broken capture leaves behind in torch: the capture's stream stays the current one,
        and the default generator believes that it is still being captured."""
        self.reset()
        torch.cuda.set_stream(stream)
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        fresh = torch.Generator(device=torch.device("cuda", index))
        fresh.set_state(random_state)
        torch.cuda.default_generators[index].graphsafe_set_state(fresh)
