"""The whole device frame of an ``LSDNet`` as a plan of kernel launches.

    plan = plan_frame(net, history, memory, modulations, noise, positions, schedule(1), (height, width), device)
    out, (cut, finite), tokens = plan.run(rgb)           # or captured once as a CUDA graph

A frame of a one-step model is some fifty launches: eighteen before the network (plan_motion.py), then the network,
whose convolutions take norms, modulation, activation, residuals, doubling and concatenation along
(kernels/conv.cuh). The last of them composes the finished picture and leaves the history behind. The steps are those
of ``LSDNet.forward``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice

import torch
from torch import Tensor, nn

from mirage_cli.engine.conv import ConvCall, ConvContext, Convolutions
from mirage_cli.engine.plan import SUFFIXES, Plan
from mirage_cli.errors import GpuError
from mirage_cli.kernels import loader
from mirage_cli.kernels.launch import Launch
from mirage_cli.kernels.shapes import ATTENTION_QUERIES, CONV_SHAPES, HEAD_WIDTH, attention_shared_bytes
from mirage_cli.lsd.history import History
from mirage_cli.lsd.layers import ResBlock
from mirage_cli.lsd.memory import MemoryBank
from mirage_cli.lsd.model import PICTURE_CHANNELS, POSITION_CHANNELS, SEEN_CHANNELS, UNSHUFFLE, LSDNet
from mirage_cli.lsd.plan_motion import MotionPlan

BLOCKS = ("block64", "block128", "block256")  # the residual blocks' kernels at 1/4, 1/8 and 1/16 of the frame
WIDTHS = tuple(CONV_SHAPES[f"{block}_first"].channels for block in BLOCKS)
MANY_TOKENS = 2048  # from here on attention makes 64 queries a block, below 32; 128 was never faster
MAX_SIDE = 8192  # pixels, padded


class ComposeParams(ctypes.Structure):
    """kernels/compose.cuh."""

    _fields_ = [
        ("rgb", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("warped_last", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("valid", ctypes.c_void_p),
        ("flags", ctypes.c_void_p),
        ("x_t", ctypes.c_void_p),
        ("next_x_t", ctypes.c_void_p),
        ("next_x_t_cells", ctypes.c_void_p),
        ("rgb_height", ctypes.c_int),
        ("rgb_width", ctypes.c_int),
        ("keep_limit", ctypes.c_float),
        ("coefficient", ctypes.c_float),
    ]


def plan_refusal(net: LSDNet, dtype: torch.dtype, padded: tuple[int, int]) -> str | None:
    """Why the kernels cannot run this network on frames of that padded height and width, or None."""
    if dtype not in SUFFIXES:
        return f"the plan's kernels are fp16 and bf16, the network is {str(dtype).removeprefix('torch.')}"
    if tuple(net.config.widths) != WIDTHS:
        return f"the plan's kernels are for widths {WIDTHS}, the network has {tuple(net.config.widths)}"
    if max(padded) > MAX_SIDE:
        return f"frames of {padded[1]}x{padded[0]}; at most {MAX_SIDE} pixels a side"
    return None


def plan_frame(
    net: LSDNet,
    history: History,
    memory: MemoryBank,
    modulations: Tensor,
    noise: Tensor,
    positions: Tensor,
    schedule: Sequence[tuple[float, float]],
    size: tuple[int, int],
    device: torch.device,
) -> FramePlan:
    """The plan of a session's frame. All tensors are the session's own, read and written in place.

    Args:
        history: of batch 1, fp32, padded to multiples of 16.
        modulations: [2, steps, 1, film widths], with a past and without; their type is the plan's.
        noise: fp32 [1, 3, H, W]; positions: [1, POSITION_CHANNELS, H/4, W/4].
        schedule: (t, d) of each step.
        size: height and width of the frames in and out.

    Raises:
        GpuError: with the reason why this GPU or this network cannot have one.
    """
    padded = (history.last.shape[-2], history.last.shape[-1])
    if reason := plan_refusal(net, modulations.dtype, padded):
        raise GpuError(reason, loader.TORCH_PATH)
    kernels = loader.load_plan(device.index or 0, ["motion", f"denoiser_{SUFFIXES[modulations.dtype]}"])
    plan = Plan(device, modulations.dtype, kernels)
    with torch.inference_mode():
        frame = FramePlan(plan, net, history, memory.tokens, modulations, noise, positions, schedule, size)
    torch.cuda.synchronize(device)
    return frame


class FramePlan:
    """See the module; made by ``plan_frame``, whose arguments these are. ``run`` queues a frame.

    Attributes:
        plan: its nodes; motion: what comes before the network.
        convolutions: of the network, by place in ``launches``.
        out: the finished frame, uint8 [height, width, 3]; flags: as in ``MotionPlan``; tokens: for the memory bank.
        features: feature maps [pixels, channels] of encoder and decoder at 1/4, 1/8 and 1/16; hidden: inside of
            their residual blocks.
        packed: query, key and value of the picture's tokens and the bank's; mixed: what attention makes of them.
        state: tensors of its own that a frame changes, for ``CapturedFrame``.
    """

    def __init__(
        self,
        plan: Plan,
        net: LSDNet,
        history: History,
        memory: Tensor,
        modulations: Tensor,
        noise: Tensor,
        positions: Tensor,
        schedule: Sequence[tuple[float, float]],
        size: tuple[int, int],
    ) -> None:
        self.plan, self.net, self.history, self.memory = plan, net, history, memory
        self.modulations, self.noise, self.size = modulations, noise, size
        self._rgb = ctypes.c_void_p(0)  # set by run, as in the compositions
        self._compositions: list[ComposeParams] = []
        self.motion = MotionPlan(plan, history, size, self._rgb)
        self.flags = self.motion.flags
        self._allocate(len(schedule))
        self._prepare_weights(positions)
        context = ConvContext(self.flags, modulations, memory, self.null_row)
        self.convolutions = Convolutions(plan, context)
        for step, (t, d) in enumerate(schedule):
            self._denoise(step, d / (1 - t), last=step == len(schedule) - 1)
        self.state = (self.motion.previous_pyramid, self.flags)

    @property
    def launches(self) -> list[Launch]:
        """Kernels of the main stream, in order; ``name`` and ``grid`` tell what each is."""
        return self.plan.launches

    @property
    def beside(self) -> dict[int, list[Launch]]:
        """Place in launches -> kernels of the side stream that follow it."""
        return self.plan.side

    @property
    def layers(self) -> dict[int, ConvCall]:
        """Place in launches -> the convolution there, for tests and for counting work."""
        return self.convolutions.calls

    # --- buffers and weights -------------------------------------------------------------------------

    def _allocate(self, steps: int) -> None:
        """Static buffers; feature maps are [pixels, channels]."""
        buffer = self.plan.buffer
        height, width = self.motion.padded
        self.sizes = [(height // (UNSHUFFLE << level), width // (UNSHUFFLE << level)) for level in range(len(WIDTHS))]
        pixels = [h * w for h, w in self.sizes]
        self.out = buffer(*self.size, 3, dtype=torch.uint8)
        self.features = [[buffer(n, c) for _ in range(2)] for n, c in zip(pixels, WIDTHS)]
        self.hidden = [buffer(n, c) for n, c in zip(pixels, WIDTHS)]
        self.packed = buffer(pixels[2] + self.memory.shape[1], 3 * WIDTHS[2])
        self.mixed = buffer(pixels[2], WIDTHS[2])
        rows, columns = self.net.config.memory_grid
        self.tokens = buffer(1, rows * columns, WIDTHS[2])
        self.noise_cells = buffer(pixels[0], PICTURE_CHANNELS)
        self.take_noise()
        between = min(steps - 1, 2)  # x_t of the steps after the first, in turns
        self.x_t = [buffer(3, height, width, dtype=torch.float32) for _ in range(between)]
        self.x_t_cells = [buffer(pixels[0], PICTURE_CHANNELS) for _ in range(between)]

    def take_noise(self) -> None:
        """Read the stream's noise, which may have been changed in place since."""
        noise = nn.functional.pixel_unshuffle(self.noise, UNSHUFFLE)
        self.noise_cells.copy_(noise[0].permute(1, 2, 0).reshape(-1, PICTURE_CHANNELS))

    def _prepare_weights(self, positions: Tensor) -> None:
        """What does not depend on a frame, and weights in the order of the kernels' inputs along K."""
        net, dtype = self.net, self.plan.dtype
        stem = net.stem.weight.detach()
        constant = nn.functional.conv2d(
            positions.float(), stem[:, -POSITION_CHANNELS:].float(), _bias(net.stem).float()
        )
        self.positions_part = constant[0].permute(1, 2, 0).reshape(-1, WIDTHS[0]).to(dtype).contiguous()
        self.null_row = net.memory_null.detach().reshape(-1).to(dtype).contiguous()
        seen = stem[:, PICTURE_CHANNELS : PICTURE_CHANNELS + SEEN_CHANNELS]
        self._stem = (seen.contiguous(), stem[:, :PICTURE_CHANNELS].contiguous())
        self._down0_bias = _bias(net.down0).float() + _bias(net.older).float()
        self._up1, self._up0 = _parted(net.up1, WIDTHS[2]), _parted(net.up0, WIDTHS[1])
        query, key_value = net.attention.query, net.attention.key_value
        self._query_key_value = torch.cat([query.weight, key_value.weight]).detach()
        self._query_key_value_bias = torch.cat([query.bias, key_value.bias]).detach()

    # --- the network ---------------------------------------------------------------------------------

    def _denoise(self, step: int, coefficient: float, last: bool) -> None:
        """One pass of the network; ``coefficient`` is d / (1 - t)."""
        net, add = self.net, self.convolutions.add
        (x0, d0), (x1, d1), (x2, _) = self.features
        films = accumulate((block.film_width for block in net.blocks()), initial=step * self.modulations.stride(1))
        blocks = zip(net.blocks(), films)
        half = len(net.middle) // 2

        add(
            ConvCall(
                layer="stem",
                size=self.sizes[0],
                in0=self.motion.cells,
                in1=self.noise_cells if step == 0 else self.x_t_cells[(step - 1) % 2],
                weights=self._stem,
                bias=None,
                residual=self.positions_part,
                out=x0,
                masked0=PICTURE_CHANNELS,
            )
        )
        self._run_blocks(0, x0, islice(blocks, len(net.encoder0)))
        add(
            ConvCall(
                layer="down0",
                size=self.sizes[1],
                in0=x0,
                in1=self.motion.older_cells,
                weights=(net.down0.weight.detach(), net.older.weight.detach()),
                bias=self._down0_bias,
                out=x1,
                masked1=True,
            )
        )
        self._run_blocks(1, x1, islice(blocks, len(net.encoder1)))
        add(
            ConvCall(
                layer="down1", size=self.sizes[2], in0=x1, weights=_weights(net.down1), bias=_bias(net.down1), out=x2
            )
        )
        self._run_blocks(2, x2, islice(blocks, half))
        self._attend(x2)
        self._run_blocks(2, x2, islice(blocks, len(net.middle) - half))
        if last:
            self._pool_tokens(x2)
        add(ConvCall(layer="up1", size=self.sizes[1], in0=x2, in1=x1, weights=self._up1, bias=_bias(net.up1), out=d1))
        self._run_blocks(1, d1, islice(blocks, len(net.decoder1)))
        add(ConvCall(layer="up0", size=self.sizes[0], in0=d1, in1=x0, weights=self._up0, bias=_bias(net.up0), out=d0))
        self._run_blocks(0, d0, islice(blocks, len(net.decoder0)))
        add(
            ConvCall(layer="out", size=self.sizes[0], in0=d0, weights=_weights(net.out), bias=_bias(net.out), out=None),
            self._composition(step, coefficient, last),
        )

    def _run_blocks(self, level: int, x: Tensor, blocks: Iterable[tuple[ResBlock, int]]) -> None:
        """Residual blocks, in place; with each, where its scales and shifts begin in the modulations."""
        size, hidden = self.sizes[level], self.hidden[level]
        for block, film in blocks:
            self.convolutions.add(
                ConvCall(
                    layer=f"{BLOCKS[level]}_first",
                    size=size,
                    in0=x,
                    weights=_weights(block.conv1),
                    bias=_bias(block.conv1),
                    out=hidden,
                    film_in=film,
                    film_out=film + 2 * block.channels,
                )
            )
            self.convolutions.add(
                ConvCall(
                    layer=f"{BLOCKS[level]}_second",
                    size=size,
                    in0=hidden,
                    weights=_weights(block.conv2),
                    bias=_bias(block.conv2),
                    residual=x,
                    out=x,
                )
            )

    def _attend(self, x: Tensor) -> None:
        """Self-attention with the memory bank, added to x."""
        size, out = self.sizes[2], self.net.attention.out
        self.convolutions.add(
            ConvCall(
                layer="attention_in",
                size=size,
                in0=x,
                weights=(self._query_key_value,),
                bias=self._query_key_value_bias,
                out=self.packed,
                memory=True,
            )
        )
        pixels, channels = x.shape
        queries = ATTENTION_QUERIES[pixels >= MANY_TOKENS]
        self.plan.launch(
            self.plan.typed(f"mirage_attention{queries}"),
            (-(-pixels // queries), channels // HEAD_WIDTH),
            (self.packed, self.mixed, pixels, self.packed.shape[0], channels),
            shared_bytes=attention_shared_bytes(queries),
        )
        self.convolutions.add(
            ConvCall(
                layer="attention_out",
                size=size,
                in0=self.mixed,
                weights=_weights(out),
                bias=_bias(out),
                residual=x,
                out=x,
            )
        )

    def _pool_tokens(self, x: Tensor) -> None:
        """The frame's tokens for the memory bank, on the side stream."""
        rows, columns = self.net.config.memory_grid
        self.plan.launch(
            self.plan.typed("mirage_pool_tokens"),
            (columns, rows),
            (x, self.tokens, *self.sizes[2]),
            block=x.shape[1] // 2,
            side=True,
        )

    def _composition(self, step: int, coefficient: float, last: bool) -> ComposeParams:
        """The tail of the last convolution: the finished frame or, before the last step, the next x_t."""
        address = self.plan.address
        params = ComposeParams(
            rgb=None,
            out=address(self.out),
            warped_last=address(self.motion.warped_last),
            last=address(self.history.last),
            valid=address(self.history.valid),
            flags=address(self.flags),
            rgb_height=self.size[0],
            rgb_width=self.size[1],
            keep_limit=self.net.config.keep_limit,
            coefficient=coefficient,
        )
        if not last:
            params.x_t = address(self.noise if step == 0 else self.x_t[(step - 1) % 2])
            params.next_x_t = address(self.x_t[step % 2])
            params.next_x_t_cells = address(self.x_t_cells[step % 2])
        self._compositions.append(params)
        return params

    # --- running -------------------------------------------------------------------------------------

    def run(self, rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queue one frame: uint8 [H, W, 3] on the device -> (uint8 frame, (cut, finite) [2], tokens).

        The results are static buffers; the next frame overwrites them.

        Raises:
            ValueError: a frame of another size, type or device.
        """
        wanted = (self.out.shape, torch.uint8, self.plan.device)
        if (rgb.shape, rgb.dtype, rgb.device) != wanted or not rgb.is_contiguous():
            raise ValueError(
                f"a frame of {rgb.dtype} {tuple(rgb.shape)} on {rgb.device}; the plan takes uint8 {tuple(wanted[0])}"
            )
        self._rgb.value = rgb.data_ptr()
        for params in self._compositions:
            params.rgb = rgb.data_ptr()
        self.plan.run()
        return self.out, self.flags[1:3], self.tokens


def _weights(layer: nn.Conv2d | nn.Linear) -> tuple[Tensor]:
    return (layer.weight.detach(),)


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return layer.get_parameter("bias").detach()


def _parted(layer: nn.Conv2d, channels: int) -> tuple[Tensor, Tensor]:
    """Weights of a layer's first input channels and of the others."""
    weight = layer.weight.detach()
    return weight[:, :channels].contiguous(), weight[:, channels:].contiguous()
