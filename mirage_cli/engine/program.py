"""The whole device frame as a list of kernel launches on static buffers.

    program = FrameProgram(network, stream, device)     # weights packed, buffers made, kernels loaded
    out, (cut, finite), tokens = program.run(rgb)       # or captured once as a CUDA graph

A frame of a one-step model is some fifty launches: eighteen that prepare (motion, the past moved), the network,
whose convolutions take norms, modulation, activation, residuals, doubling and concatenation along
(kernels/conv.cuh), and the last of them composes the finished picture and leaves the history behind.
``FrameProgram`` only knows tensors; lsd/compiled.py hands it the weights of an ``LSDNet``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mirage_cli.engine.layers import LAYERS, pack_weights
from mirage_cli.errors import GpuError
from mirage_cli.kernels import loader
from mirage_cli.kernels.launch import Launch

SUFFIXES = {torch.float16: "f16", torch.bfloat16: "bf16"}
WIDTHS = (64, 128, 256)  # the channels the kernels are made for
ATTENTION_BYTES = 65536  # keys and values, as in kernels/attention.cuh; and 128 a query
ALONE_BYTES = 118784  # shared memory of which a multiprocessor holds one block
MANY_TOKENS = 2048  # from here on attention makes 64 queries a block, below 32; 128 was never faster
MAX_SIDE = 8192


class ConvParams(ctypes.Structure):
    """kernels/conv.cuh."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "in0",
                "in1",
                "weights",
                "bias",
                "film_in",
                "film_out",
                "residual",
                "out",
                "flags",
                "rows",
                "null_row",
            )
        ),
        *(
            (name, ctypes.c_int)
            for name in ("film_past_less", "height", "width", "tiles_x", "tiles", "extra", "masked0", "masked1")
        ),
    ]


class ComposeParams(ctypes.Structure):
    """kernels/compose.cuh."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("rgb", "out", "moved_last", "last", "valid", "flags", "x_t", "next_x_t", "next_x_t_cells")
        ),
        ("rgb_height", ctypes.c_int),
        ("rgb_width", ctypes.c_int),
        ("keep_limit", ctypes.c_float),
        ("coefficient", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Network:
    """What the program must know of the denoiser.

    Attributes:
        weights: name -> tensor, names as in the checkpoint ("encoder0.0.conv1.weight").
        encoder, middle, decoder: residual blocks, encoder and decoder at 1/4 and 1/8.
        memory_grid: rows and columns of memory tokens a frame; keep_limit: see ``LSDConfig``.
        cut_threshold: of the cut score; motion_steps: of Lucas-Kanade at 1/16, 1/8, 1/4 and 1/2.
    """

    weights: Mapping[str, Tensor]
    widths: tuple[int, ...]
    encoder: tuple[int, int]
    middle: int
    decoder: tuple[int, int]
    memory_grid: tuple[int, int]
    keep_limit: float
    cut_threshold: float
    motion_steps: tuple[int, ...]


@dataclass(frozen=True)
class Stream:
    """A stream's state, read and written in place.

    Attributes:
        last, older, input_luma, valid: the history, fp32, as in ``History`` with batch 1.
        memory: tokens of the bank [1, M, C].
        modulations: [2, steps, 1, film widths], with a past and without.
        noise: fp32 [1, 3, H, W]; screen: [1, 8, H/4, W/4].
        schedule: (t, d) of each step.
        height, width: of the frames in and out; the tensors' are padded to multiples of 16.
    """

    last: Tensor
    older: Tensor
    input_luma: Tensor
    valid: Tensor
    memory: Tensor
    modulations: Tensor
    noise: Tensor
    screen: Tensor
    schedule: Sequence[tuple[float, float]]
    height: int
    width: int


def why_not(network: Network, dtype: torch.dtype, padded: tuple[int, int]) -> str | None:
    """Why the program cannot run this network, or None: what its kernels are not made for."""
    if dtype not in SUFFIXES:
        return f"the program's kernels are fp16 and bf16, the network is {str(dtype).removeprefix('torch.')}"
    if tuple(network.widths) != WIDTHS:
        return f"the program's kernels are for widths {WIDTHS}, the network has {tuple(network.widths)}"
    if max(padded) > MAX_SIDE:
        return f"frames of {padded[1]}x{padded[0]}; at most {MAX_SIDE} pixels a side"
    return None


@dataclass(frozen=True)
class LayerCall:
    """What a convolution's launch works on, for tests and for counting work.

    Attributes:
        layer: key of ``LAYERS``; level: 0, 1, 2 for 1/4, 1/8, 1/16; height, width: of the output.
        in0, in1, residual, out: feature maps [pixels, channels]; weights, bias: of the checkpoint's.
        film_in, film_out: first element of scale and shift in a row of the modulations, or None.
        masked0, masked1: as in ConvParams; memory: the bank's rows follow the picture's.
    """

    layer: str
    height: int
    width: int
    in0: Tensor
    in1: Tensor | None
    residual: Tensor | None
    out: Tensor | None
    weights: tuple[Tensor, ...]
    bias: Tensor
    film_in: int | None
    film_out: int | None
    masked0: int
    masked1: int
    memory: bool


class FrameProgram:
    """See the module. Made once a session; ``run`` queues a frame on torch's current stream.

    Attributes:
        launches: all launches of a frame, in order; ``name`` and ``grid`` tell what each is.
        beside: place in launches -> launches that may run beside what comes after that place.
        state: tensors of its own that a frame changes, for ``CapturedFrame``.
        targets: kernel file -> the architecture its PTX is for.

    Raises:
        GpuError: CuPy, the driver or the GPU is not what the kernels need, or ``why_not``.
    """

    def __init__(self, network: Network, stream: Stream, device: torch.device, *, early_start: bool = True) -> None:
        dtype = stream.modulations.dtype
        padded = tuple(stream.last.shape[-2:])
        if reason := why_not(network, dtype, padded):
            raise GpuError(reason, loader.TORCH_PATH)
        self.device, self.dtype, self.network, self.stream = device, dtype, network, stream
        self.suffix = SUFFIXES[dtype]
        self.attention_queries = 64 if padded[0] * padded[1] // 256 >= MANY_TOKENS else 32
        kernels = loader.load_program(device.index or 0, ["motion", f"denoiser_{self.suffix}"])
        self._functions, self.targets = kernels.functions, kernels.targets
        self._modules = kernels.modules
        self.early_start = early_start and kernels.early_start
        self._processors = torch.cuda.get_device_properties(device).multi_processor_count
        self._kept: list[Tensor] = []  # what the launches point to
        self._packed_weights: dict[tuple, Tensor] = {}
        self._compositions: list[ComposeParams] = []
        self.launches: list[Launch] = []
        self.beside: dict[int, list[Launch]] = {}
        self._side, self._fork, self._join = torch.cuda.Stream(device), torch.cuda.Event(), torch.cuda.Event()
        self.layers: dict[int, LayerCall] = {}  # place in launches -> what it works on
        with torch.inference_mode():
            self._allocate(*padded)
            self._prepare(*padded)
            for step, (t, d) in enumerate(stream.schedule):
                self._denoise(step, d / (1 - t), last=step == len(stream.schedule) - 1)
        torch.cuda.synchronize(device)
        self.state = (self.previous_pyramid, self.flags)

    # --- buffers -----------------------------------------------------------------------------------

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def _allocate(self, height: int, width: int) -> None:
        """Static buffers; feature maps are [pixels, channels]."""
        self.sizes = [(height // s, width // s) for s in (4, 8, 16)]
        pixels = [h * w for h, w in self.sizes]
        fp32 = torch.float32
        self._allocate_motion(height, width)
        self.out = self._empty(self.stream.height, self.stream.width, 3, dtype=torch.uint8)
        self.features = [[self._empty(n, c) for _ in range(2)] for n, c in zip(pixels, WIDTHS)]  # encoder, decoder
        self.hidden = [self._empty(n, c) for n, c in zip(pixels, WIDTHS)]
        memory = self.stream.memory.shape[1]
        self.packed = self._empty(pixels[2] + memory, 3 * WIDTHS[2])  # query, key, value
        self.mixed = self._empty(pixels[2], WIDTHS[2])
        rows, columns = self.network.memory_grid
        self.tokens = self._empty(1, rows * columns, WIDTHS[2])
        self.noise_cells = self._empty(pixels[0], 48)
        self.take_noise()
        steps = len(self.stream.schedule) - 1
        self.x_t = [self._empty(3, height, width, dtype=fp32) for _ in range(min(steps, 2))]
        self.x_t_cells = [self._empty(pixels[0], 48) for _ in range(min(steps, 2))]
        weights = self.network.weights
        stem, screen = weights["stem.weight"], self.stream.screen
        constant = torch.nn.functional.conv2d(
            screen.float(), stem[:, -screen.shape[1] :].float(), weights["stem.bias"].float()
        )
        self.screen_part = constant[0].permute(1, 2, 0).reshape(-1, WIDTHS[0]).to(self.dtype).contiguous()
        self.null_row = weights["memory_null"].reshape(-1).to(self.dtype).contiguous()
        # what follows one another along K, in the order of the kernels' inputs
        self._stem = (stem[:, 48:160].contiguous(), stem[:, :48].contiguous())
        self._ups = [
            (weights[f"{up}.weight"][:, :c].contiguous(), weights[f"{up}.weight"][:, c:].contiguous())
            for up, c in (("up1", WIDTHS[2]), ("up0", WIDTHS[1]))
        ]
        self._query_key_value = tuple(
            torch.cat([weights[f"attention.{n}.{kind}"] for n in ("query", "key_value")]) for kind in ("weight", "bias")
        )

    def _allocate_motion(self, height: int, width: int) -> None:
        """What motion and the moved past are worked out in."""
        fp32 = torch.float32
        self.cells = self._empty(height * width // 16, 112)  # incoming frame 48, moved last frame 48, moved luma 16
        self.older_cells = self._empty(height * width // 64, 96)
        self.moved_last = self._empty(3, height, width, dtype=fp32)
        self.moved_older = self._empty(3, height // 2, width // 2, dtype=fp32)
        self.motion_sizes = [(height // s, width // s) for s in (2, 4, 8, 16)]
        levels = [h * w for h, w in self.motion_sizes]
        self.pyramid = self._empty(sum(levels), dtype=fp32)  # luma at 1/2, 1/4, 1/8, 1/16
        self.previous_pyramid = self._empty(sum(levels), dtype=fp32)
        self.moved_coarse = self._empty(levels[3], dtype=fp32)
        # Each step has buffers of its own: kernels that start early may read through caches that are not coherent.
        refined = [n for n, steps in zip(reversed(levels), self.network.motion_steps) for _ in range(steps)]
        self.matched = self._empty(2, levels[3], dtype=fp32)
        self.weighted = [self._empty(3, n, dtype=fp32) for n in refined]  # vectors times their confidence, and that
        self.flows = [self._empty(2, n, dtype=fp32) for n in refined]
        self.flow = self._empty(2, levels[0], dtype=fp32)  # what the past is moved by
        self.flags = self._empty(4, dtype=torch.int32)  # past, cut, finite, blocks that are done

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _launch(
        self,
        name: str,
        grid: tuple[int, ...],
        arguments: Sequence[Any],
        *,
        block: int = 256,
        shared: int = 0,
        alone: bool = False,
        beside: bool = False,
    ) -> None:
        """Append a launch; ``beside`` those that nothing of this frame waits for."""
        entry = name if name in self._functions else f"{name}_{self.suffix}"
        whole = (*grid, *(1,) * (3 - len(grid)))
        # the frame's first launch follows copies, which know nothing of an early start
        early = self.early_start and bool(self.launches) and not beside
        if early and alone and whole[0] * whole[1] <= self._processors:
            # Started early, two blocks would come to lie on one multiprocessor while others stay empty.
            shared = max(shared, ALONE_BYTES)
        launch = Launch(name, self._functions[entry], whole, (block, 1, 1), shared, arguments, early)
        if beside:
            self.beside.setdefault(len(self.launches) - 1, []).append(launch)
        else:
            self.launches.append(launch)

    # --- before the network ----------------------------------------------------------------------------

    def _prepare(self, height: int, width: int) -> None:
        """Pyramid, motion, and the past moved along it."""
        s = self.stream

        def p(tensor: Tensor, offset: int = 0) -> ctypes.c_void_p:
            return ctypes.c_void_p(self._keep(tensor) + offset * tensor.element_size())

        def i(*numbers: int) -> tuple[ctypes.c_int, ...]:
            return tuple(ctypes.c_int(n) for n in numbers)

        sizes = self.motion_sizes
        places = [sum(h * w for h, w in sizes[:level]) for level in range(4)]  # in the pyramids
        half, quarter, coarse, at_coarse = sizes[0], sizes[1], sizes[3], places[3]
        previous, following = self.previous_pyramid, self.pyramid
        tiles = (-(-width // 64), height // 16)
        self._rgb = ctypes.c_void_p(0)  # set by run
        self._launch(
            "mirage_ingest",
            tiles,
            (self._rgb, p(self.cells), p(following), p(self.flags), *i(s.height, s.width, height, width)),
        )
        self._launch(
            "mirage_block_match",
            (-(-coarse[1] // 4), -(-coarse[0] // 4)),
            (p(previous, at_coarse), p(following, at_coarse), p(self.matched), *i(*coarse)),
            block=1024,
        )
        flow, fields = self.matched, iter(zip(self.weighted, self.flows))
        for level, steps in zip((3, 2, 1, 0), self.network.motion_steps):
            size, at = sizes[level], places[level]
            grid = (-(-size[1] // 32), -(-size[0] // 8))
            for step in range(steps):
                name = "mirage_refine_from_coarser" if step == 0 and level < 3 else "mirage_refine"
                weighted, refined = next(fields)
                self._launch(name, grid, (p(previous, at), p(following, at), p(flow), p(weighted), *i(*size)))
                self._launch("mirage_spread", grid, (p(weighted), p(refined), *i(*size)))
                flow = refined
        self._launch("mirage_moves", grid, (p(previous), p(following), p(flow), p(self.flow), *i(*half)))
        self._launch(
            "mirage_warp_past",
            tiles,
            (
                p(s.last),
                p(s.input_luma),
                p(s.older),
                p(self.flow),
                p(self.cells),
                p(self.older_cells),
                p(self.moved_last),
                p(self.moved_older),
                p(self.moved_coarse),
                p(following, at_coarse),
                p(s.valid),
                p(self.flags),
                ctypes.c_float(self.network.cut_threshold),
                *i(height, width),
            ),
        )

        cells = quarter[0] * quarter[1]
        self._launch(
            "mirage_carry",
            (-(-cells // 64),),
            (
                self._rgb,
                p(self.moved_last),
                p(self.moved_older),
                p(following),
                p(s.older),
                p(s.input_luma),
                p(previous),
                p(self.flags),
                *i(s.height, s.width, height, width),
            ),
            beside=True,
        )

    # --- the network -----------------------------------------------------------------------------------

    def _layer(
        self,
        name: str,
        level: int,
        in0: Tensor,
        out: Tensor | None,
        weights: tuple[Tensor, ...],
        bias: Tensor | None,
        *,
        in1: Tensor | None = None,
        film_in: int | None = None,
        film_out: int | None = None,
        residual: Tensor | None = None,
        masked0: int = 0,
        masked1: int = 0,
        memory: bool = False,
        compose: ComposeParams | None = None,
    ) -> None:
        """One convolution; ``level`` 0, 1, 2 is the output's resolution."""
        shape = LAYERS[name]
        key = (name, *(w.data_ptr() for w in weights))
        if key not in self._packed_weights:  # several steps share them
            self._packed_weights[key] = pack_weights(shape, *weights)
        channels = weights[0].shape[0]
        height, width = self.sizes[level]
        rows, columns = shape.tile
        tiles_x = -(-width // columns)
        tiles = tiles_x * -(-height // rows)
        extra = self.stream.memory.shape[1] if memory else 0
        bias = torch.zeros(channels, device=self.device) if bias is None else bias.float().contiguous()

        def film(element: int | None) -> int | None:
            modulations = self.stream.modulations
            return None if element is None else self._keep(modulations) + element * modulations.element_size()

        params = ConvParams(
            in0=self._keep(in0),
            in1=self._keep(in1) if in1 is not None else None,
            weights=self._keep(self._packed_weights[key]),
            bias=self._keep(bias),
            film_in=film(film_in),
            film_out=film(film_out),
            residual=self._keep(residual) if residual is not None else None,
            out=self._keep(out) if out is not None else None,
            flags=self._keep(self.flags),
            rows=self._keep(self.stream.memory),
            null_row=self._keep(self.null_row),
            film_past_less=self.stream.modulations.stride(0),
            height=height,
            width=width,
            tiles_x=tiles_x,
            tiles=tiles,
            extra=extra,
            masked0=masked0,
            masked1=masked1,
        )
        grid = (tiles + -(-extra // (rows * columns)), channels // shape.block_channels)
        arguments = (params,) if compose is None else (params, compose)
        self.layers[len(self.launches)] = LayerCall(
            name, height, width, in0, in1, residual, out, weights, bias, film_in, film_out, masked0, masked1, memory
        )
        self._launch(f"mirage_{name}", grid, arguments, shared=shape.shared_bytes, alone=True)

    def take_noise(self) -> None:
        """Read the stream's noise, which may have been changed in place since."""
        noise = torch.nn.functional.pixel_unshuffle(self.stream.noise, 4)
        self.noise_cells.copy_(noise[0].permute(1, 2, 0).reshape(-1, 48))

    def _denoise(self, step: int, coefficient: float, last: bool) -> None:
        """One pass of the network."""
        w, network = self.network.weights, self.network
        film = step * self.stream.modulations.stride(1)
        (x0, d0), (x1, d1), (x2, _) = self.features

        def conv(name: str) -> tuple[tuple[Tensor, ...], Tensor]:
            return (w[f"{name}.weight"],), w[f"{name}.bias"]

        def blocks(stage: str, numbers: range, level: int, x: Tensor) -> None:
            nonlocal film
            channels = WIDTHS[level]
            for number in numbers:
                second_film = film + 2 * channels
                name = f"{stage}.{number}"
                self._layer(
                    f"block{channels}_first",
                    level,
                    x,
                    self.hidden[level],
                    *conv(f"{name}.conv1"),
                    film_in=film,
                    film_out=second_film,
                )
                self._layer(f"block{channels}_second", level, self.hidden[level], x, *conv(f"{name}.conv2"), residual=x)
                film = second_film + 2 * channels

        x_t_cells = self.noise_cells if step == 0 else self.x_t_cells[(step - 1) % 2]
        self._layer("stem", 0, self.cells, x0, self._stem, None, in1=x_t_cells, residual=self.screen_part, masked0=48)
        blocks("encoder0", range(network.encoder[0]), 0, x0)
        self._layer(
            "down0",
            1,
            x0,
            x1,
            (w["down0.weight"], w["older.weight"]),
            w["down0.bias"].float() + w["older.bias"].float(),
            in1=self.older_cells,
            masked1=1,
        )
        blocks("encoder1", range(network.encoder[1]), 1, x1)
        self._layer("down1", 2, x1, x2, *conv("down1"))
        blocks("middle", range(network.middle // 2), 2, x2)
        self._attend(x2)
        blocks("middle", range(network.middle // 2, network.middle), 2, x2)
        if last:
            rows, columns = network.memory_grid
            height, width = self.sizes[2]
            arguments = (
                ctypes.c_void_p(x2.data_ptr()),
                ctypes.c_void_p(self.tokens.data_ptr()),
                ctypes.c_int(height),
                ctypes.c_int(width),
            )
            self._launch("mirage_pool_tokens", (columns, rows), arguments, block=WIDTHS[2] // 2, beside=True)
        self._layer("up1", 1, x2, d1, self._ups[0], w["up1.bias"], in1=x1)
        blocks("decoder1", range(network.decoder[1]), 1, d1)
        self._layer("up0", 0, d1, d0, self._ups[1], w["up0.bias"], in1=x0)
        blocks("decoder0", range(network.decoder[0]), 0, d0)
        self._layer("out", 0, d0, None, *conv("out"), compose=self._composition(step, coefficient, last))

    def _attend(self, x: Tensor) -> None:
        """Self-attention with the memory bank, added to x."""
        w = self.network.weights
        weight, bias = self._query_key_value
        self._layer("attention_in", 2, x, self.packed, (weight,), bias, memory=True)
        pixels, channels = x.shape
        numbers = [ctypes.c_int(n) for n in (pixels, self.packed.shape[0], channels)]
        pointers = (ctypes.c_void_p(self.packed.data_ptr()), ctypes.c_void_p(self.mixed.data_ptr()))
        queries = self.attention_queries
        self._launch(
            f"mirage_attention{queries}",
            (-(-pixels // queries), channels // 64),
            (*pointers, *numbers),
            shared=ATTENTION_BYTES + 128 * queries,
        )
        self._layer(
            "attention_out", 2, self.mixed, x, (w["attention.out.weight"],), w["attention.out.bias"], residual=x
        )

    def _composition(self, step: int, coefficient: float, last: bool) -> ComposeParams:
        s = self.stream
        params = ComposeParams(
            rgb=None,
            out=self.out.data_ptr(),
            moved_last=self.moved_last.data_ptr(),
            last=s.last.data_ptr(),
            valid=s.valid.data_ptr(),
            flags=self.flags.data_ptr(),
            rgb_height=s.height,
            rgb_width=s.width,
            keep_limit=self.network.keep_limit,
            coefficient=coefficient,
        )
        if not last:
            x_t = s.noise if step == 0 else self.x_t[(step - 1) % 2]
            params.x_t, params.next_x_t = x_t.data_ptr(), self.x_t[step % 2].data_ptr()
            params.next_x_t_cells = self.x_t_cells[step % 2].data_ptr()
        self._compositions.append(params)
        return params

    # --- running ---------------------------------------------------------------------------------------

    def run(self, rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queue one frame: uint8 [H, W, 3] on the device -> (uint8 frame, (cut, finite) [2], tokens).

        The results are static buffers; the next frame overwrites them.
        """
        if (
            rgb.shape != self.out.shape
            or rgb.dtype != torch.uint8
            or not rgb.is_contiguous()
            or rgb.device != self.device
        ):
            raise ValueError(
                f"a frame of {rgb.dtype} {tuple(rgb.shape)} on {rgb.device}; the program takes uint8 {tuple(self.out.shape)}"
            )
        self._rgb.value = rgb.data_ptr()
        for params in self._compositions:
            params.rgb = rgb.data_ptr()
        stream = torch.cuda.current_stream(self.device)
        for place, launch in enumerate(self.launches):
            launch(stream.cuda_stream)
            if place in self.beside:
                self._fork.record(stream)
                self._side.wait_event(self._fork)
                for other in self.beside[place]:
                    other(self._side.cuda_stream)
        self._join.record(self._side)
        stream.wait_event(self._join)
        return self.out, self.flags[1:3], self.tokens
