"""The ops of a frame, with the implementation chosen once: PTX kernels or torch.

``select_backend(device, backend)`` gives an ``OpSet``, whose methods have the signatures and meaning of
the functions in ``reference.py``, and the reason for the choice. Nothing is replaced silently:
``backend="ptx"`` fails where a kernel cannot do what it is asked, and ``"auto"`` lets torch do it and
notes that in ``fallbacks``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_cli.engine import reference
from mirage_cli.errors import GpuError, UsageProblem
from mirage_cli.kernels import loader

BACKENDS = ("auto", "ptx", "torch")
DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}  # as the kernels number them
SUFFIX = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}
CHUNK = 8  # channels a thread takes at a time
THREADS = 256
MAX_NORM_CHANNELS = 512


class OpSet:
    """The ops in torch, on any device. ``reference.py`` says what each does.

    Attributes:
        backend: "torch" or "ptx".
        reason: why this one, one sentence.
        fallbacks: op -> why torch did it although PTX was chosen; empty for torch.
    """

    backend = "torch"

    def __init__(self, device: torch.device, reason: str) -> None:
        self.device = device
        self.reason = reason
        self.fallbacks: dict[str, str] = {}

    frame_in = staticmethod(reference.frame_in)
    frame_out = staticmethod(reference.frame_out)
    channel_norm_film_silu = staticmethod(reference.channel_norm_film_silu)
    add_bias_silu = staticmethod(reference.add_bias_silu)
    residual_add = staticmethod(reference.residual_add)
    upsample_concat = staticmethod(reference.upsample_concat)
    warp = staticmethod(reference.warp)
    sampler_step = staticmethod(reference.sampler_step)
    nv12_to_rgb = staticmethod(reference.nv12_to_rgb)
    rgb_to_nv12 = staticmethod(reference.rgb_to_nv12)

    def describe(self) -> dict[str, Any]:
        """Plain data for ``--json`` and doctor."""
        return {"backend": self.backend, "reason": self.reason, "fallbacks": dict(self.fallbacks)}


class _Refused(Exception):
    """A kernel cannot take these tensors; the message says why."""


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise _Refused(why)


def _u32(value: int) -> np.uint32:
    _require(0 <= value < 2**32, f"{value} does not fit 32 bits")
    return np.uint32(value)


def _i32(value: int) -> np.int32:
    _require(-(2**31) <= value < 2**31, f"{value} does not fit 32 bits")
    return np.int32(value)


def _blocks(threads: int) -> int:
    return -(-threads // THREADS)


class _Cells:
    """A channels_last [B, C, h, w] tensor, or a channel slice of one, as the kernels address it.

    ``row`` and ``pixel`` are elements from a row, and from a pixel, to the next. Strides of axes of
    size one are meaningless in torch and are made up here.
    """

    def __init__(self, name: str, tensor: Tensor) -> None:
        _require(tensor.dim() == 4, f"{name} has {tensor.dim()} axes, not 4")
        _require(tensor.dtype in DTYPES, f"{name} is {tensor.dtype}; fp16, bf16 and fp32 are there")
        _require(tensor.numel() > 0, f"{name} is empty")
        batch, channels, height, width = tensor.shape
        _require(channels % CHUNK == 0, f"{name} has {channels} channels, no multiple of {CHUNK}")
        _require(tensor.stride(1) == 1, f"{name} is not channels_last (strides {tuple(tensor.stride())})")
        strides = tensor.stride()
        self.pixel = strides[3] if width > 1 else strides[2] if height > 1 else strides[0] if batch > 1 else channels
        self.row = strides[2] if height > 1 else self.pixel * width
        self.flat = self.row == self.pixel * width and (batch == 1 or strides[0] == self.row * height)
        self.tensor = tensor
        self.size = tensor.element_size()
        self.pixels = batch * height * width
        _require(
            tensor.data_ptr() % 16 == 0 and self.pixel % CHUNK == 0 and self.row % CHUNK == 0,
            f"{name} is not aligned to 16 bytes (strides {strides})",
        )

    @property
    def row_bytes(self) -> np.uint32:
        return _u32(self.row * self.size)

    @property
    def pixel_bytes(self) -> np.uint32:
        return _u32(self.pixel * self.size)


def _flat(name: str, tensor: Tensor) -> _Cells:
    """``_Cells`` whose pixels are equally far apart from first to last."""
    cells = _Cells(name, tensor)
    _require(cells.flat, f"{name} has gaps between rows (strides {tuple(tensor.stride())})")
    return cells


def _vector(name: str, tensor: Tensor, channels: int, like: Tensor) -> Tensor:
    """A [C] or [1, C] tensor of ``like``'s dtype that a kernel may read in chunks."""
    _require(tensor.numel() == channels, f"{name} has {tensor.numel()} values for {channels} channels")
    _require(tensor.dtype == like.dtype, f"{name} is {tensor.dtype}, the picture {like.dtype}")
    _require(tensor.stride(-1) == 1 or channels == 1, f"{name} is strided")
    _require(tensor.data_ptr() % 16 == 0, f"{name} is not aligned to 16 bytes")
    return tensor


def _like(x: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A new channels_last tensor of x's dtype and device."""
    return torch.empty(shape or tuple(x.shape), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _same(reference_tensor: Tensor, **others: Tensor | None) -> None:
    """All others have the first's shape and dtype."""
    for name, other in others.items():
        if other is not None:
            _require(
                other.shape == reference_tensor.shape,
                f"{name} is {tuple(other.shape)}, not {tuple(reference_tensor.shape)}",
            )
            _require(other.dtype == reference_tensor.dtype, f"{name} is {other.dtype}, not {reference_tensor.dtype}")


class PtxOps(OpSet):
    """The ops as PTX kernels on one CUDA device.

    Args:
        strict: refuse with GpuError what a kernel cannot take, instead of letting torch do it.
    """

    backend = "ptx"

    def __init__(self, device: torch.device, reason: str, kernels: Any, *, strict: bool) -> None:
        super().__init__(device, reason)
        self.strict = strict
        self._kernels = kernels

    def _run(self, op: str, kernel: Any, torch_op: Any, tensors: tuple[Tensor | None, ...]) -> Tensor:
        """``kernel()``, or on refusal GpuError (strict) or ``torch_op()`` (noted)."""
        try:
            for tensor in tensors:
                if tensor is not None:
                    _require(
                        tensor.device == self.device, f"a tensor is on {tensor.device}, the kernels on {self.device}"
                    )
                    _require(not (tensor.requires_grad and torch.is_grad_enabled()), "gradients are asked for")
            return kernel()
        except _Refused as refusal:
            if self.strict:
                raise GpuError(
                    f"the PTX kernel of {op} cannot do this: {refusal}", "use --backend auto or torch"
                ) from refusal
            self.fallbacks[op] = str(refusal)
            return torch_op()

    def frame_in(self, rgb: Tensor, out: Tensor) -> Tensor:
        def kernel() -> Tensor:
            cells = _Cells("out", out)
            _require(
                rgb.dtype == torch.uint8 and rgb.dim() == 3 and rgb.shape[2] == 3, "the picture is not uint8 [H, W, 3]"
            )
            _require(rgb.is_contiguous(), "the picture is not contiguous")
            height, width, _ = rgb.shape
            rows, columns = out.shape[2:]
            _require(out.shape[:2] == (1, 48), f"out is {tuple(out.shape)}, not [1, 48, h, w]")
            _require(0 < height <= 4 * rows and 0 < width <= 4 * columns, "the picture is larger than out, or empty")
            arguments = (rgb, out, _u32(height), _u32(width), _u32(columns), cells.row_bytes, cells.pixel_bytes)
            self._launch("mirage_frame_in", (_blocks(6 * columns), rows), (*arguments, np.uint32(DTYPES[out.dtype])))
            return out

        return self._run("frame_in", kernel, lambda: reference.frame_in(rgb, out), (rgb, out))

    def frame_out(
        self,
        x: Tensor,
        out: Tensor,
        *,
        base: Tensor | None = None,
        warped: Tensor | None = None,
        keep: Tensor | None = None,
        history: Tensor | None = None,
        stats: Tensor | None = None,
    ) -> Tensor:
        def kernel() -> Tensor:
            _require((warped is None) == (keep is None), "warped and keep come together")
            _require(x.dim() == 4 and x.shape[:2] == (1, 48), f"x is {tuple(x.shape)}, not [1, 48, h, w]")
            _same(x, base=base, warped=warped, history=history)
            _require(keep is None or keep.shape == (1, 16, *x.shape[2:]), "keep is not [1, 16, h, w]")
            _require(keep is None or keep.dtype == x.dtype, "keep is not of x's dtype")
            _require(out.dtype == torch.uint8 and out.dim() == 3 and out.shape[2] == 3, "out is not uint8 [H, W, 3]")
            _require(out.is_contiguous(), "out is not contiguous")
            height, width, _ = out.shape
            rows, columns = x.shape[2:]
            _require(0 < height <= 4 * rows and 0 < width <= 4 * columns, "out is larger than the frame, or empty")
            if stats is not None:
                _require(stats.dtype == torch.int64 and stats.shape == (5,), "stats is not int64 [5]")
                _require(stats.is_contiguous(), "stats is strided")
            tensors = {"x": x, "base": base, "warped": warped, "keep": keep, "history": history}
            strides = []
            for name, tensor in tensors.items():
                cells = None if tensor is None else _Cells(name, tensor)
                strides += [np.uint32(0)] * 2 if cells is None else [cells.row_bytes, cells.pixel_bytes]
            sizes = (_u32(height), _u32(width), _u32(columns), np.uint32(DTYPES[x.dtype]))
            if stats is not None:
                stats.zero_()  # the kernel adds to it
            self._launch(
                "mirage_frame_out", (_blocks(2 * columns), rows), (*tensors.values(), out, stats, *strides, *sizes)
            )
            return out

        def torch_op() -> Tensor:
            return reference.frame_out(x, out, base=base, warped=warped, keep=keep, history=history, stats=stats)

        return self._run("frame_out", kernel, torch_op, (x, out, base, warped, keep, history, stats))

    def channel_norm_film_silu(
        self,
        x: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        *,
        normalise: bool = True,
        activate: bool = True,
        out: Tensor | None = None,
    ) -> Tensor:
        def kernel() -> Tensor:
            source = _flat("x", x)
            channels = x.shape[1]
            _require(channels <= MAX_NORM_CHANNELS, f"{channels} channels; at most {MAX_NORM_CHANNELS}")
            for name, vector in (("scale", scale), ("shift", shift)):
                if vector is not None:
                    _vector(name, vector, channels, x)
            target = _like(x) if out is None else out
            _same(x, out=target)
            sink = _flat("out", target)
            log2_lanes = min(max((channels // CHUNK - 1).bit_length(), 3), 5)
            self._launch(
                "mirage_channel_norm",
                (_blocks(source.pixels << log2_lanes),),
                (
                    x,
                    target,
                    scale,
                    shift,
                    source.pixel_bytes,
                    sink.pixel_bytes,
                    _u32(source.pixels),
                    _u32(channels),
                    np.uint32(log2_lanes),
                    np.uint32(DTYPES[x.dtype]),
                    np.uint32(normalise + 2 * activate),
                ),
            )
            return target

        def torch_op() -> Tensor:
            return reference.channel_norm_film_silu(x, scale, shift, normalise=normalise, activate=activate, out=out)

        return self._run("channel_norm_film_silu", kernel, torch_op, (x, scale, shift, out))

    def add_bias_silu(self, x: Tensor, bias: Tensor, *, out: Tensor | None = None) -> Tensor:
        return self._run(
            "add_bias_silu",
            lambda: self._add(x, None, bias, True, out),
            lambda: reference.add_bias_silu(x, bias, out=out),
            (x, bias, out),
        )

    def residual_add(
        self,
        x: Tensor,
        residual: Tensor,
        *,
        bias: Tensor | None = None,
        activate: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        return self._run(
            "residual_add",
            lambda: self._add(x, residual, bias, activate, out),
            lambda: reference.residual_add(x, residual, bias=bias, activate=activate, out=out),
            (x, residual, bias, out),
        )

    def _add(
        self, x: Tensor, residual: Tensor | None, bias: Tensor | None, activate: bool, out: Tensor | None
    ) -> Tensor:
        """Both of the above: [silu](x [+ bias] [+ residual])."""
        source = _flat("x", x)
        chunks = x.shape[1] // CHUNK
        if bias is not None:
            _vector("bias", bias, x.shape[1], x)
        target = _like(x) if out is None else out
        _same(x, residual=residual, out=target)
        residual_bytes = np.uint32(0) if residual is None else _flat("residual", residual).pixel_bytes
        total = source.pixels * chunks
        self._launch(
            "mirage_add_silu",
            (_blocks(total),),
            (
                x,
                bias,
                residual,
                target,
                source.pixel_bytes,
                residual_bytes,
                _flat("out", target).pixel_bytes,
                _u32(chunks),
                _u32(total),
                np.uint32(DTYPES[x.dtype]),
                np.uint32(activate),
            ),
        )
        return target

    def upsample_concat(self, x: Tensor, skip: Tensor, *, out: Tensor | None = None) -> Tensor:
        def kernel() -> Tensor:
            _require(x.shape[0] == 1 and skip.shape[0] == 1, "the batch is not one")
            height, width = skip.shape[2:]
            _require((height, width) == (2 * x.shape[2], 2 * x.shape[3]), "skip is not twice as large as x")
            channels = x.shape[1] + skip.shape[1]
            target = _like(x, (1, channels, height, width)) if out is None else out
            _require(target.shape == (1, channels, height, width), f"out is {tuple(target.shape)}")
            _require(x.dtype == skip.dtype == target.dtype, "the dtypes differ")
            per_vector = 16 // x.element_size()
            pixels = [_u32(_flat(n, t).pixel // per_vector) for n, t in (("x", x), ("skip", skip), ("out", target))]
            vectors = channels // per_vector
            total = height * width * vectors
            sizes = (_u32(x.shape[1] // per_vector), _u32(vectors), _u32(width), _u32(total))
            self._launch("mirage_upsample_concat", (_blocks(total),), (x, skip, target, *pixels, *sizes))
            return target

        return self._run("upsample_concat", kernel, lambda: reference.upsample_concat(x, skip, out=out), (x, skip, out))

    def warp(self, frame: Tensor, flow: Tensor, *, out: Tensor | None = None) -> Tensor:
        def kernel() -> Tensor:
            _require(frame.dtype in DTYPES, f"the frame is {frame.dtype}")
            _require(flow.dtype in (frame.dtype, torch.float32), f"flow is {flow.dtype} for a {frame.dtype} frame")
            _require(flow.dim() == 4 and flow.shape[:2] == (1, 2), f"flow is {tuple(flow.shape)}, not [1, 2, H, W]")
            _require(frame.dim() == 4 and frame.shape[0] == 1, "the frame's batch is not one")
            height, width = flow.shape[2:]
            in_cells = frame.shape[2:] != flow.shape[2:]
            colours = frame.shape[1] // 16 if in_cells else frame.shape[1]
            target = _like(frame, (1, colours, height, width)) if out is None else out
            out_cells = target.shape[2:] != flow.shape[2:]
            for name, tensor, cells in (("frame", frame, in_cells), ("out", target, out_cells)):
                shape = (1, 16 * colours, height // 4, width // 4) if cells else (1, colours, height, width)
                whole = not cells or (height % 4 == 0 and width % 4 == 0)
                _require(
                    whole and tensor.shape == shape, f"{name} is {tuple(tensor.shape)} for a flow of {width}x{height}"
                )
            _require(target.dtype == frame.dtype, f"out is {target.dtype}, not {frame.dtype}")
            entry = f"mirage_warp_{SUFFIX[frame.dtype]}" + ("_flow_f32" if flow.dtype != frame.dtype else "")
            numbers = (
                *frame.stride()[1:],
                in_cells,
                *flow.stride()[1:],
                *target.stride()[1:],
                out_cells,
                colours,
                height,
                width,
            )
            arguments = (frame, flow, target, *(_i32(number) for number in numbers))
            self._kernels.launch(entry, (-(-width // 32), -(-height // 8)), (32, 8), arguments)
            return target

        return self._run("warp", kernel, lambda: reference.warp(frame, flow, out=out), (frame, flow, out))

    def sampler_step(self, x0: Tensor, noise: Tensor, coefficients: Tensor, *, out: Tensor | None = None) -> Tensor:
        def kernel() -> Tensor:
            target = _like(x0) if out is None else out
            _same(x0, noise=noise, out=target)
            _require(
                coefficients.dtype == torch.float32 and coefficients.shape == (2,), "coefficients are not fp32 [2]"
            )
            _require(coefficients.is_contiguous(), "coefficients are strided")
            cells = [_flat(n, t) for n, t in (("x0", x0), ("noise", noise), ("out", target))]
            chunks = x0.shape[1] // CHUNK
            total = cells[0].pixels * chunks
            sizes = (*(_u32(c.pixel) for c in cells), _u32(chunks), _u32(total))
            entry = f"mirage_sampler_step_{SUFFIX[x0.dtype]}"
            self._launch(entry, (_blocks(total),), (x0, noise, target, coefficients, *sizes))
            return target

        def torch_op() -> Tensor:
            return reference.sampler_step(x0, noise, coefficients, out=out)

        return self._run("sampler_step", kernel, torch_op, (x0, noise, coefficients, out))

    def nv12_to_rgb(self, luma: Tensor, chroma: Tensor, code: reference.Nv12, out: Tensor) -> Tensor:
        def kernel() -> Tensor:
            self._nv12("mirage_nv12_to_rgb", (luma, chroma, out), luma, chroma, out, code.to_rgb())
            return out

        return self._run(
            "nv12_to_rgb", kernel, lambda: reference.nv12_to_rgb(luma, chroma, code, out), (luma, chroma, out)
        )

    def rgb_to_nv12(self, rgb: Tensor, code: reference.Nv12, luma: Tensor, chroma: Tensor) -> Tensor:
        def kernel() -> Tensor:
            self._nv12("mirage_rgb_to_nv12", (rgb, luma, chroma), luma, chroma, rgb, code.from_rgb())
            return luma

        return self._run(
            "rgb_to_nv12", kernel, lambda: reference.rgb_to_nv12(rgb, code, luma, chroma), (rgb, luma, chroma)
        )

    def _nv12(
        self,
        entry: str,
        tensors: tuple[Tensor, ...],
        luma: Tensor,
        chroma: Tensor,
        rgb: Tensor,
        numbers: tuple[int, ...],
    ) -> None:
        """Launch one of the two, which share all but the direction."""
        _require(all(t.dtype == torch.uint8 for t in tensors), "luma, chroma and picture are not all uint8")
        _require(luma.dim() == 2 and luma.numel() > 0, f"luma is {tuple(luma.shape)}, not [H, W]")
        height, width = luma.shape
        _require(
            chroma.shape == (-(-height // 2), 2 * -(-width // 2)),
            f"chroma is {tuple(chroma.shape)} for {width}x{height}",
        )
        _require(
            rgb.shape == (height, width, 3) and rgb.is_contiguous(), f"the picture is {tuple(rgb.shape)}, or strided"
        )
        _require(luma.stride(1) == chroma.stride(1) == 1, "luma or chroma is strided inside of a row")
        numbers = (height, width, luma.stride(0), chroma.stride(0), *numbers)
        grid = (-(-width // 64), -(-height // 16))
        self._kernels.launch(entry, grid, (32, 8), (*tensors, *(_i32(number) for number in numbers)))

    def _launch(self, entry: str, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        _require(len(grid) < 2 or grid[1] <= 65535, f"{grid[1:]} rows of cells; at most 65535")
        self._kernels.launch(entry, grid, (THREADS,), arguments)


def select_backend(device: torch.device | str, backend: str = "auto") -> tuple[OpSet, str]:
    """Choose the implementation of all ops for a device, once.

    Args:
        device: where the tensors are.
        backend: "ptx" (GpuError with the reason where it cannot be), "torch", or "auto": PTX where it
            loads, else torch.

    Returns:
        The ops, and the reason for the choice (also ``ops.reason``), for doctor and ``--json``.
    """
    if backend not in BACKENDS:
        raise UsageProblem(f"backend {backend!r} is unknown; allowed: {', '.join(BACKENDS)}", "use --backend auto")
    device = torch.device(device)
    if backend == "torch":
        ops = OpSet(device, "torch: asked for")
        return ops, ops.reason
    try:
        if device.type != "cuda":
            raise GpuError(
                f"the device is {device.type}; PTX kernels run on NVIDIA GPUs", "use --backend torch, or --device cuda"
            )
        if not torch.cuda.is_available():
            raise GpuError("torch sees no CUDA device", "use --backend torch; mirage doctor says what is missing")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        kernels = loader.load(device.index)
    except GpuError as error:
        if backend == "ptx":
            raise GpuError(f"--backend ptx is not possible: {error.message}", error.remedy) from error
        ops = OpSet(device, f"torch: {error.message}")
        return ops, ops.reason
    name = torch.cuda.get_device_name(device)
    how = "asked for" if backend == "ptx" else "chosen"
    ops = PtxOps(
        device, f"ptx: {how}; {len(kernels.entries)} kernels loaded on {name}", kernels, strict=backend == "ptx"
    )
    return ops, ops.reason
