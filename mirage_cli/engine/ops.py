"""The ops of a frame, with the implementation chosen once: PTX kernels or torch.

``select_backend(device, backend)`` gives an ``OpSet``, whose methods have the signatures and meaning of
the functions in ``reference.py``, and the reason for the choice. Nothing is replaced silently:
``backend="ptx"`` fails where a kernel cannot do what it is asked, and ``"auto"`` lets torch do it and
notes that in ``fallbacks``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mirage_cli.engine import reference
from mirage_cli.engine.op_checks import (
    CHUNK,
    DTYPES,
    THREADS,
    Cells,
    Refused,
    blocks,
    check_vector,
    flat,
    i32,
    new_like,
    require,
    same,
    u32,
)
from mirage_cli.errors import GpuError, UsageProblem
from mirage_cli.kernels import loader

BACKENDS = ("auto", "ptx", "torch")
MAX_NORM_CHANNELS = 512

Argument = Tensor | np.generic | None


class Kernels(Protocol):
    """What ops need of ``loader.KernelSet``."""

    def launch(
        self, entry: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Argument]
    ) -> None: ...


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
    residual_add = staticmethod(reference.residual_add)
    upsample_concat = staticmethod(reference.upsample_concat)
    nv12_to_rgb = staticmethod(reference.nv12_to_rgb)
    rgb_to_nv12 = staticmethod(reference.rgb_to_nv12)

    def describe(self) -> dict[str, Any]:
        """Plain data for ``--json`` and doctor."""
        return {"backend": self.backend, "reason": self.reason, "fallbacks": dict(self.fallbacks)}


def _kernel_of(by_torch: Callable[..., Tensor]) -> Callable[[Callable[..., Tensor]], Any]:
    """Make an op of a method that launches its kernel: what the kernel refuses is an error, or torch's to do."""

    def made(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(by_torch)
        def op(self: PtxOps, *args: Any, **kwargs: Any) -> Tensor:
            try:
                self.check_tensors((*args, *kwargs.values()))
                return kernel(self, *args, **kwargs)
            except Refused as refusal:
                if self.strict:
                    raise GpuError(
                        f"the PTX kernel of {by_torch.__name__} cannot do this: {refusal}",
                        "use --backend auto or torch",
                    ) from refusal
                self.fallbacks[by_torch.__name__] = str(refusal)
                return by_torch(*args, **kwargs)

        return op

    return made


class PtxOps(OpSet):
    """The ops as PTX kernels on one CUDA device.

    Args:
        strict: refuse with GpuError what a kernel cannot take, instead of letting torch do it.
    """

    backend = "ptx"

    def __init__(self, device: torch.device, reason: str, kernels: Kernels, *, strict: bool) -> None:
        super().__init__(device, reason)
        self.strict = strict
        self._kernels = kernels

    def check_tensors(self, arguments: tuple[Any, ...]) -> None:
        """Refuse tensors of another device, and gradients."""
        for tensor in arguments:
            if isinstance(tensor, Tensor):
                require(tensor.device == self.device, f"a tensor is on {tensor.device}, the kernels on {self.device}")
                require(not (tensor.requires_grad and torch.is_grad_enabled()), "gradients are asked for")

    @_kernel_of(reference.frame_in)
    def frame_in(self, rgb: Tensor, out: Tensor) -> Tensor:
        cells = Cells("out", out)
        _check_picture("the picture", rgb)
        height, width, _ = rgb.shape
        rows, columns = out.shape[2:]
        require(out.shape[:2] == (1, 48), f"out is {tuple(out.shape)}, not [1, 48, h, w]")
        require(0 < height <= 4 * rows and 0 < width <= 4 * columns, "the picture is larger than out, or empty")
        arguments = (rgb, out, u32(height), u32(width), u32(columns), cells.row_bytes, cells.pixel_bytes)
        self._launch("mirage_frame_in", (blocks(6 * columns), rows), (*arguments, np.uint32(DTYPES[out.dtype])))
        return out

    @_kernel_of(reference.frame_out)
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
        require((warped is None) == (keep is None), "warped and keep come together")
        require(x.dim() == 4 and x.shape[:2] == (1, 48), f"x is {tuple(x.shape)}, not [1, 48, h, w]")
        same(x, base=base, warped=warped, history=history)
        require(keep is None or keep.shape == (1, 16, *x.shape[2:]), "keep is not [1, 16, h, w]")
        require(keep is None or keep.dtype == x.dtype, "keep is not of x's dtype")
        _check_picture("out", out)
        height, width, _ = out.shape
        rows, columns = x.shape[2:]
        require(0 < height <= 4 * rows and 0 < width <= 4 * columns, "out is larger than the frame, or empty")
        if stats is not None:
            require(stats.dtype == torch.int64 and stats.shape == (5,), "stats is not int64 [5]")
            require(stats.is_contiguous(), "stats is strided")
        tensors = {"x": x, "base": base, "warped": warped, "keep": keep, "history": history}
        strides: list[np.uint32] = []
        for name, tensor in tensors.items():
            cells = None if tensor is None else Cells(name, tensor)
            strides += [np.uint32(0)] * 2 if cells is None else [cells.row_bytes, cells.pixel_bytes]
        sizes = (u32(height), u32(width), u32(columns), np.uint32(DTYPES[x.dtype]))
        if stats is not None:
            stats.zero_()  # the kernel adds to it
        self._launch("mirage_frame_out", (blocks(2 * columns), rows), (*tensors.values(), out, stats, *strides, *sizes))
        return out

    @_kernel_of(reference.channel_norm_film_silu)
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
        source = flat("x", x)
        channels = x.shape[1]
        require(channels <= MAX_NORM_CHANNELS, f"{channels} channels; at most {MAX_NORM_CHANNELS}")
        for name, vector in (("scale", scale), ("shift", shift)):
            if vector is not None:
                check_vector(name, vector, channels, x)
        target = new_like(x) if out is None else out
        same(x, out=target)
        sink = flat("out", target)
        log2_lanes = min(max((channels // CHUNK - 1).bit_length(), 3), 5)
        self._launch(
            "mirage_channel_norm",
            (blocks(source.pixels << log2_lanes),),
            (
                x,
                target,
                scale,
                shift,
                source.pixel_bytes,
                sink.pixel_bytes,
                u32(source.pixels),
                u32(channels),
                np.uint32(log2_lanes),
                np.uint32(DTYPES[x.dtype]),
                np.uint32(normalise + 2 * activate),
            ),
        )
        return target

    @_kernel_of(reference.residual_add)
    def residual_add(
        self,
        x: Tensor,
        residual: Tensor,
        *,
        bias: Tensor | None = None,
        activate: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        source = flat("x", x)
        chunks = x.shape[1] // CHUNK
        if bias is not None:
            check_vector("bias", bias, x.shape[1], x)
        target = new_like(x) if out is None else out
        same(x, residual=residual, out=target)
        total = source.pixels * chunks
        self._launch(
            "mirage_add_silu",
            (blocks(total),),
            (
                x,
                bias,
                residual,
                target,
                source.pixel_bytes,
                flat("residual", residual).pixel_bytes,
                flat("out", target).pixel_bytes,
                u32(chunks),
                u32(total),
                np.uint32(DTYPES[x.dtype]),
                np.uint32(activate),
            ),
        )
        return target

    @_kernel_of(reference.upsample_concat)
    def upsample_concat(self, x: Tensor, skip: Tensor, *, out: Tensor | None = None) -> Tensor:
        require(x.shape[0] == 1 and skip.shape[0] == 1, "the batch is not one")
        height, width = skip.shape[2:]
        require((height, width) == (2 * x.shape[2], 2 * x.shape[3]), "skip is not twice as large as x")
        channels = x.shape[1] + skip.shape[1]
        target = new_like(x, (1, channels, height, width)) if out is None else out
        require(target.shape == (1, channels, height, width), f"out is {tuple(target.shape)}")
        require(x.dtype == skip.dtype == target.dtype, "the dtypes differ")
        per_vector = 16 // x.element_size()
        pixels = [u32(flat(n, t).pixel // per_vector) for n, t in (("x", x), ("skip", skip), ("out", target))]
        vectors = channels // per_vector
        total = height * width * vectors
        sizes = (u32(x.shape[1] // per_vector), u32(vectors), u32(width), u32(total))
        self._launch("mirage_upsample_concat", (blocks(total),), (x, skip, target, *pixels, *sizes))
        return target

    @_kernel_of(reference.nv12_to_rgb)
    def nv12_to_rgb(self, luma: Tensor, chroma: Tensor, code: reference.Nv12, out: Tensor) -> Tensor:
        self._nv12("mirage_nv12_to_rgb", (luma, chroma, out), luma, chroma, out, code.to_rgb())
        return out

    @_kernel_of(reference.rgb_to_nv12)
    def rgb_to_nv12(self, rgb: Tensor, code: reference.Nv12, luma: Tensor, chroma: Tensor) -> Tensor:
        self._nv12("mirage_rgb_to_nv12", (rgb, luma, chroma), luma, chroma, rgb, code.from_rgb())
        return luma

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
        require(all(t.dtype == torch.uint8 for t in tensors), "luma, chroma and picture are not all uint8")
        require(luma.dim() == 2 and luma.numel() > 0, f"luma is {tuple(luma.shape)}, not [H, W]")
        height, width = luma.shape
        require(
            chroma.shape == (-(-height // 2), 2 * -(-width // 2)),
            f"chroma is {tuple(chroma.shape)} for {width}x{height}",
        )
        require(
            rgb.shape == (height, width, 3) and rgb.is_contiguous(), f"the picture is {tuple(rgb.shape)}, or strided"
        )
        require(luma.stride(1) == chroma.stride(1) == 1, "luma or chroma is strided inside of a row")
        numbers = (height, width, luma.stride(0), chroma.stride(0), *numbers)
        grid = (-(-width // 64), -(-height // 16))
        self._kernels.launch(entry, grid, (32, 8), (*tensors, *(i32(number) for number in numbers)))

    def _launch(self, entry: str, grid: tuple[int, ...], arguments: tuple[Argument, ...]) -> None:
        require(len(grid) < 2 or grid[1] <= 65535, f"{grid[1:]} rows of cells; at most 65535")
        self._kernels.launch(entry, grid, (THREADS,), arguments)


def _check_picture(name: str, picture: Tensor) -> None:
    """Refuse what is not a contiguous uint8 [H, W, 3]."""
    good = picture.dtype == torch.uint8 and picture.dim() == 3 and picture.shape[2] == 3
    require(good, f"{name} is not uint8 [H, W, 3]")
    require(picture.is_contiguous(), f"{name} is not contiguous")


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
