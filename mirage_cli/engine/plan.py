"""A frame as a list of kernel launches and torch calls on static buffers: made once, queued in order each frame.

    plan = Plan(device, torch.float16, kernels)
    x, y = plan.buffer(1024, 64), plan.buffer(1024, 64)
    plan.launch(plan.typed("mirage_scale"), (4,), (x, y, 1024, 0.5))
    plan.call(lambda: y.relu_())
    plan.run()                                       # or captured as a CUDA graph (graphs.py)

Programmatic dependent launch (PDL): a kernel may start while the one before it still runs, load what does not
depend on it (weights), and then wait for it (``wait_for_previous`` in kernels/tensor_core.cuh). That is safe only
behind a kernel that waits for its own predecessor in the same way, or "the one before is done" would not mean that
all are. A plan's kernels do; torch's know nothing of it. So the first launch of a plan, which follows what the
caller queued, and a launch behind a ``call`` wait for all that came before, and launches on the side stream do, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from mirage_cli.kernels.launch import Launch
from mirage_cli.kernels.loader import PlanKernels

SUFFIXES = {torch.float16: "f16", torch.bfloat16: "bf16"}  # of entries that are compiled for a type
ALONE_BYTES = 118784  # shared memory of a block of which a multiprocessor holds only one

Scalar: TypeAlias = ctypes.c_void_p | ctypes.c_int | ctypes.c_float
Argument: TypeAlias = Tensor | int | float | Scalar | ctypes.Structure


class Plan:
    """Buffers and nodes; see the module.

    Attributes:
        nodes: launches and torch calls of the main stream, in order.
        side: place in nodes -> launches of the side stream that follow it; nothing of the same frame waits for them
            but the frame's end.
        kept: tensors that the launches point to.

    Args:
        dtype: of buffers, and of the kernels that ``typed`` names.
        kernels: the loaded entries.
        pdl: use programmatic dependent launch where kernels and driver can.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, kernels: PlanKernels, *, pdl: bool = True) -> None:
        self.device, self.dtype = device, dtype
        self.nodes: list[Launch | Callable[[], object]] = []
        self.side: dict[int, list[Launch]] = {}
        self._kernels = kernels  # keeps the modules loaded
        self._pdl = pdl and kernels.pdl
        self._processors = torch.cuda.get_device_properties(device).multi_processor_count
        self.kept: list[Tensor] = []
        self._dependents: list[Launch] = []  # launches that may use PDL
        self._side_stream: _SideStream | None = None

    # --- making it -----------------------------------------------------------------------------------

    def buffer(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A static tensor, of zeros; the plan's type by default."""
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def typed(self, name: str) -> str:
        """The entry of a kernel that is compiled for the plan's type, such as "mirage_ingest_f16"."""
        return f"{name}_{SUFFIXES[self.dtype]}"

    def launch(
        self,
        entry: str,
        grid: tuple[int, ...],
        arguments: Sequence[Argument],
        *,
        block: int = 256,
        shared_bytes: int = 0,
        alone: bool = False,
        side: bool = False,
    ) -> None:
        """Append a launch.

        Args:
            entry: full name of a loaded kernel.
            grid: blocks, 1 to 3 numbers; block: threads.
            arguments: tensors (their address), int (32 bits), float, or ctypes values, which are kept: changing
                one later changes what the kernel gets.
            shared_bytes: dynamic shared memory of a block.
            alone: with PDL one block a multiprocessor, if the grid is no larger than the GPU.
            side: on the side stream, after the last node: nothing later in this frame depends on it.

        Raises:
            KeyError: no such entry is loaded; ValueError: nothing to follow on the side stream, or an int too large.
        """
        if side and not self.nodes:
            raise ValueError(f"{entry}: the side stream begins behind a node of the main one")
        whole = (*grid, 1, 1)[:3]
        dependent = self._pdl and not side and bool(self.nodes) and isinstance(self.nodes[-1], Launch)
        if dependent and alone and whole[0] * whole[1] <= self._processors:
            # Started early, two blocks would come to lie on one multiprocessor while others stay empty.
            shared_bytes = max(shared_bytes, ALONE_BYTES)
        launch = Launch(
            entry.removesuffix(f"_{SUFFIXES[self.dtype]}"),
            self._kernels.functions[entry],
            whole,
            (block, 1, 1),
            shared_bytes,
            [self._scalar(argument) for argument in arguments],
            pdl=dependent,
        )
        if side:
            self._side_stream = self._side_stream or _SideStream(self.device)
            self.side.setdefault(len(self.nodes) - 1, []).append(launch)
            return
        self.nodes.append(launch)
        if dependent:
            self._dependents.append(launch)

    def call(self, function: Callable[[], object]) -> None:
        """Append torch operations, queued on the current stream.

        The function must be fit for a capture (see ``CapturedFrame``) and leave its results in tensors that exist
        already, such as the plan's buffers. The launch behind it waits for it without PDL.
        """
        self.nodes.append(function)

    def address(self, tensor: Tensor | None) -> int:
        """Where a tensor's first element lies, for parameters; the plan keeps it alive. None is address 0."""
        if tensor is None:
            return 0
        self.kept.append(tensor)
        return tensor.data_ptr()

    def _scalar(self, argument: Argument) -> Scalar | ctypes.Structure:
        """An argument as the driver takes it."""
        if isinstance(argument, Tensor):
            return ctypes.c_void_p(self.address(argument))
        if isinstance(argument, int):
            if not -(2**31) <= argument < 2**31:
                raise ValueError(f"{argument} does not fit 32 bits")
            return ctypes.c_int(argument)
        return ctypes.c_float(argument) if isinstance(argument, float) else argument

    # --- running it ----------------------------------------------------------------------------------

    @property
    def launches(self) -> list[Launch]:
        """Kernels of the main stream, in order."""
        return [node for node in self.nodes if isinstance(node, Launch)]

    def use_pdl(self, on: bool) -> None:
        """Switch programmatic dependent launch for what has been made; where it was not in use it stays off."""
        for launch in self._dependents:
            launch.pdl = on

    def run(self) -> None:
        """Queue the frame on torch's current stream."""
        stream = torch.cuda.current_stream(self.device)
        for place, node in enumerate(self.nodes):
            if isinstance(node, Launch):
                node(stream.cuda_stream)
            else:
                node()
            if self._side_stream is not None and place in self.side:
                self._side_stream.fork(stream, self.side[place])
        if self._side_stream is not None:
            self._side_stream.join(stream)


class _SideStream:
    """A second stream of the same frame. Made only for plans that use it: a capture refuses to join a stream that
    was never forked."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._begin, self._end = torch.cuda.Event(), torch.cuda.Event()

    def fork(self, main: torch.cuda.Stream, launches: list[Launch]) -> None:
        """Queue launches behind what ``main`` has queued so far."""
        self._begin.record(main)
        self._stream.wait_event(self._begin)
        for launch in launches:
            launch(self._stream.cuda_stream)

    def join(self, main: torch.cuda.Stream) -> None:
        """Let what ``main`` queues from here on wait for all launches."""
        self._end.record(self._stream)
        main.wait_event(self._end)
