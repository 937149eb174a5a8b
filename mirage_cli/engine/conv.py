"""Convolutions as nodes of a plan: what one is, its weights in the order of its kernel, its launch.

The kernels' shapes stand in kernels/shapes.py; what the parameters mean, in kernels/conv.cuh.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_cli.engine.plan import Plan
from mirage_cli.kernels.shapes import CONV_SHAPES, SLICE, ConvShape


class ConvParams(ctypes.Structure):
    """kernels/conv.cuh."""

    _fields_ = [
        ("in0", ctypes.c_void_p),
        ("in1", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("film_in", ctypes.c_void_p),
        ("film_out", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("flags", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("null_row", ctypes.c_void_p),
        ("film_past_less", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("tiles_x", ctypes.c_int),
        ("tiles", ctypes.c_int),
        ("extra", ctypes.c_int),
        ("masked0", ctypes.c_int),
        ("masked1", ctypes.c_int),
    ]


@dataclass(frozen=True, kw_only=True)
class ConvCall:
    """One convolution: what its launch reads and writes. Feature maps are [pixels, channels], rows in order.

    Attributes:
        layer: key of ``CONV_SHAPES``, a compiled shape.
        size: height and width of the output, in pixels.
        in0: first input; at twice the output's size for stride 2, at half of it where the shape doubles.
        in1: second input, at the output's size, or None.
        weights: [N, C0, k, k] or [N, C0], and those of the second input.
        bias: [N]; None is zero.
        residual: [pixels, N] to add, or None; out: [pixels, N], None where the layer's tail writes elsewhere.
        film_in, film_out: scale and shift of the first input's channels and of the output's: where they begin in
            ``ConvContext.modulations``, in elements from the first row with a past. None: not modulated.
        masked0: without a past, channels of in0 from here on are zero; 0: none.
        masked1: without a past, all of in1 is zero.
        memory: the context's memory rows follow the picture's.
    """

    layer: str
    size: tuple[int, int]
    in0: Tensor
    in1: Tensor | None = None
    weights: tuple[Tensor, ...]
    bias: Tensor | None
    residual: Tensor | None = None
    out: Tensor | None
    film_in: int | None = None
    film_out: int | None = None
    masked0: int = 0
    masked1: bool = False
    memory: bool = False

    @property
    def shape(self) -> ConvShape:
        return CONV_SHAPES[self.layer]

    @property
    def height(self) -> int:
        return self.size[0]

    @property
    def width(self) -> int:
        return self.size[1]

    @property
    def channels(self) -> int:
        """N, of the output."""
        return self.weights[0].shape[0]

    @property
    def flops(self) -> int:
        """Of the picture's pixels, a multiply-add as two."""
        return self.shape.flops(*self.size, self.channels)


@dataclass(frozen=True)
class ConvContext:
    """What all convolutions of a plan may read besides their inputs.

    Attributes:
        flags: int32; the first is not 0 while there is a past.
        modulations: [2, ...], with a past and without.
        memory: rows [1, M, C] that may follow a picture's; null_row: [C], in place of each without a past.
    """

    flags: Tensor
    modulations: Tensor
    memory: Tensor
    null_row: Tensor


class Convolutions:
    """Adds convolutions to a plan; those that share weights share the packed copy.

    Attributes:
        calls: place in ``plan.nodes`` -> the convolution there.
    """

    def __init__(self, plan: Plan, context: ConvContext) -> None:
        self.plan, self.context = plan, context
        self.calls: dict[int, ConvCall] = {}
        self._packed: dict[tuple[str | int, ...], Tensor] = {}

    def add(self, call: ConvCall, *tail: ctypes.Structure) -> None:
        """Append the launch of one; ``tail`` are further arguments of its kernel.

        Raises:
            ValueError: tensors that do not fit the compiled shape.
        """
        check(call)
        plan, shape = self.plan, call.shape
        bias = call.bias
        bias = torch.zeros(call.channels, device=plan.device) if bias is None else bias.float().contiguous()
        (height, width), (rows, columns) = call.size, shape.tile
        tiles_x = -(-width // columns)
        tiles = tiles_x * -(-height // rows)
        extra = self.context.memory.shape[1] if call.memory else 0
        params = ConvParams(
            in0=plan.address(call.in0),
            in1=plan.address(call.in1),
            weights=plan.address(self._packed_weights(call)),
            bias=plan.address(bias),
            film_in=self._film(call.film_in),
            film_out=self._film(call.film_out),
            residual=plan.address(call.residual),
            out=plan.address(call.out),
            flags=plan.address(self.context.flags),
            rows=plan.address(self.context.memory),
            null_row=plan.address(self.context.null_row),
            film_past_less=self.context.modulations.stride(0),
            height=height,
            width=width,
            tiles_x=tiles_x,
            tiles=tiles,
            extra=extra,
            masked0=call.masked0,
            masked1=call.masked1,
        )
        self.calls[len(plan.nodes)] = replace(call, bias=bias)
        grid = (tiles + -(-extra // (rows * columns)), call.channels // shape.block_channels)
        plan.launch(
            plan.typed(f"mirage_{call.layer}"), grid, (params, *tail), shared_bytes=shape.shared_bytes, alone=True
        )

    def _packed_weights(self, call: ConvCall) -> Tensor:
        key: tuple[str | int, ...] = (call.layer, *(w.data_ptr() for w in call.weights))
        if key not in self._packed:
            self._packed[key] = pack_weights(call.shape, *call.weights)
        return self._packed[key]

    def _film(self, element: int | None) -> int | None:
        """Address of an element of the modulations."""
        if element is None:
            return None
        return self.plan.address(self.context.modulations) + element * self.context.modulations.element_size()


def check(call: ConvCall) -> None:
    """ValueError unless the tensors' channels are those that the layer is compiled for."""
    shape = call.shape
    wanted = {
        "in0": (call.in0, shape.channels),
        "in1": (call.in1, shape.second_channels),
        "residual": (call.residual, call.channels),
        "out": (call.out, call.channels),
    }
    for name, (tensor, channels) in wanted.items():
        if tensor is not None and tensor.shape[1] != channels:
            raise ValueError(f"{call.layer}: {name} has {tensor.shape[1]} channels, the layer {channels}")
    if (call.in1 is not None) != (shape.second_channels > 0):
        raise ValueError(f"{call.layer}: a second input of {shape.second_channels} channels belongs to it")


def pack_weights(shape: ConvShape, first: Tensor, second: Tensor | None = None) -> Tensor:
    """Weights as the kernel copies them: [N / block, K / 16, block, 2, 8], K filled up with zeros.

    Args:
        first: [N, C0, 3, 3], [N, C0, 1, 1] or [N, C0]; second: [N, C1] or [N, C1, 1, 1].

    Of each 16 the two halves are exchanged in rows 4 to 7 of every eight, which keeps the banks of shared
    memory apart when eight rows are read at once.

    Raises:
        ValueError: weights of another depth, or channels that do not fill the blocks.
    """
    channels = first.shape[0]
    matrix = first.permute(0, 2, 3, 1).reshape(channels, -1) if first.dim() == 4 else first
    if second is not None:
        matrix = torch.cat((matrix, second.reshape(channels, -1)), dim=1)
    if matrix.shape[1] != shape.depth or channels % shape.block_channels:
        raise ValueError(f"weights {tuple(first.shape)} for a layer of depth {shape.depth}")
    matrix = torch.nn.functional.pad(matrix, (0, shape.padded_depth - shape.depth))
    blocks = matrix.reshape(channels // shape.block_channels, shape.block_channels, -1, 2, SLICE // 2)
    rows = torch.arange(shape.block_channels, device=first.device)
    swapped = ((rows >> 2) & 1).bool()[None, :, None, None, None]
    blocks = torch.where(swapped, blocks.flip(3), blocks)
    return blocks.permute(0, 2, 1, 3, 4).contiguous()
