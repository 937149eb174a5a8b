"""Load the PTX kernels through CuPy and launch them on torch's stream.

CuPy hands the .ptx files to the driver (cuModuleLoad), which compiles them for the GPU at hand: no CUDA
toolkit is needed. CuPy and torch share the device's primary context, so torch's pointers are valid in
the kernels. CuPy is imported when kernels are asked for, never before.

``load(device)`` gives a ``KernelSet`` or a ``GpuError`` with the reason; ``kernel_states`` tells the
same without raising, for ``mirage doctor``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_cli.kernels.shapes import ATTENTION_QUERIES, CONV_SHAPES

from mirage_cli.errors import GpuError

HERE = Path(__file__).resolve().parent
FILES: dict[str, tuple[str, ...]] = {
    "frame_in.sm80.ptx": ("mirage_frame_in",),
    "frame_out.sm80.ptx": ("mirage_frame_out",),
    "channel_norm.sm80.ptx": ("mirage_channel_norm",),
    "add_silu.sm80.ptx": ("mirage_add_silu",),
    "upsample_concat.sm80.ptx": ("mirage_upsample_concat",),
    "nv12.sm80.ptx": ("mirage_nv12_to_rgb", "mirage_rgb_to_nv12"),
}
# The kernels of whole-frame plans; a file is there for several architectures, the highest that fits is taken.
PLAN_FILES: dict[str, tuple[str, ...]] = {
    "motion": (
        "mirage_ingest_f16",
        "mirage_ingest_bf16",
        "mirage_block_match",
        "mirage_refine",
        "mirage_refine_from_coarser",
        "mirage_spread",
        "mirage_moves",
        "mirage_carry",
        "mirage_warp_past_f16",
        "mirage_warp_past_bf16",
    ),
    **{
        f"denoiser_{kind}": tuple(
            f"mirage_{name}_{kind}"
            for name in (*CONV_SHAPES, *(f"attention{queries}" for queries in ATTENTION_QUERIES), "pool_tokens")
        )
        for kind in ("f16", "bf16")
    },
}
PLAN_TARGETS = (90, 80)  # best first
PDL_DRIVER = 12030  # the first that keeps programmatic dependent launch in a captured graph
TORCH_PATH = "use --backend torch, which needs none of this"
INSTALL = f"install it with: pip install 'mirage-cli[gpu]' (CUDA 12 drivers: 'mirage-cli[gpu-cuda12]'); or {TORCH_PATH}"


@dataclass(frozen=True)
class KernelState:
    """One kernel, for doctor and ``--json``.

    Attributes:
        entry: the kernel's name; file: the .ptx it is in.
        origin: "hand-written PTX" or "CUDA C++".
        ptx_version, target: as the file declares.
        ready: it is loaded on the device.
        reason: why it is not; empty where ready.
    """

    entry: str
    file: str
    origin: str
    ptx_version: str
    target: str
    ready: bool
    reason: str


def ptx_header(path: Path) -> tuple[str, str]:
    """PTX version and target that a file declares, such as ("7.0", "sm_80"). GpuError if it has none."""
    try:
        text = path.read_text()
    except OSError as error:
        raise GpuError(f"kernel file {path} cannot be read: {error.strerror}", "reinstall mirage-cli") from error
    version = re.search(r"^\.version\s+(\d+\.\d+)", text, re.MULTILINE)
    target = re.search(r"^\.target\s+(sm_\d+a?)", text, re.MULTILINE)
    if version is None or target is None:
        raise GpuError(f"kernel file {path} is not PTX: .version or .target is missing", "reinstall mirage-cli")
    return version.group(1), target.group(1)


def driver_needed(ptx_version: str) -> int:
    """Lowest CUDA driver that takes a PTX version, as 1000 * major + 10 * minor (7.0 -> 11000)."""
    major, minor = (int(part) for part in ptx_version.split("."))
    return (major + 4) * 1000 + minor * 10


def import_cupy() -> Any:
    """The cupy module. GpuError with the reason where it is missing or broken."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise GpuError("the PTX kernels need CuPy, which is not installed", INSTALL) from error
        raise GpuError(f"CuPy is installed but does not import: {error}", INSTALL) from error
    except Exception as error:  # a broken CUDA library fails in many ways
        raise GpuError(f"CuPy is installed but does not import: {_first_line(error)}", INSTALL) from error
    return cupy


def _first_line(error: BaseException) -> str:
    """The type and first line of an exception's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def check_device(cupy: Any, index: int, ptx_version: str, target: str) -> None:
    """GpuError unless GPU ``index`` and the driver take PTX of this version and target."""
    runtime = cupy.cuda.runtime
    try:
        driver = int(runtime.driverGetVersion())
    except Exception as error:
        raise GpuError(
            f"the CUDA driver does not answer: {_first_line(error)}", f"check nvidia-smi; or {TORCH_PATH}"
        ) from error
    if driver == 0:
        raise GpuError("no CUDA driver was found", f"install the NVIDIA driver; or {TORCH_PATH}")
    needed = driver_needed(ptx_version)
    if driver < needed:
        raise GpuError(
            f"the driver speaks CUDA {_cuda_name(driver)}, PTX {ptx_version} needs {_cuda_name(needed)} or newer",
            f"update the NVIDIA driver; or {TORCH_PATH}",
        )
    try:
        count = int(runtime.getDeviceCount())
    except Exception as error:
        raise GpuError(f"CuPy cannot use the GPU: {_first_line(error)}", INSTALL) from error
    if not 0 <= index < count:
        raise GpuError(f"there is no GPU {index}; CuPy sees {count}", f"choose another --device; or {TORCH_PATH}")
    have = architecture(cupy, index)
    exact = target.endswith("a")  # sm_90a runs on that very architecture alone
    want = int(target[3:].rstrip("a"))
    if have < want or (exact and have != want):
        raise GpuError(
            f"GPU {index} is of architecture sm_{have}, the kernels need {target}" + ("" if exact else " or newer"),
            TORCH_PATH,
        )


def architecture(cupy: Any, index: int) -> int:
    """Compute capability of a GPU, 90 for 9.0."""
    properties = cupy.cuda.runtime.getDeviceProperties(index)
    return int(properties["major"]) * 10 + int(properties["minor"])


def _cuda_name(version: int) -> str:
    """12040 -> "12.4"."""
    return f"{version // 1000}.{version % 1000 // 10}"


class KernelSet:
    """All kernels, loaded on one GPU; made by ``load``.

    Args:
        cupy: the module; index: the GPU's number; only: entries to load, all without.
    """

    def __init__(self, cupy: Any, index: int, only: Sequence[str] | None = None) -> None:
        self.index = index
        self._cupy = cupy
        self._functions: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        for file, entries in FILES.items():
            wanted = [entry for entry in entries if only is None or entry in only]
            if not wanted:
                continue
            check_device(cupy, index, *ptx_header(HERE / file))
            with cupy.cuda.Device(index):
                for entry in wanted:
                    try:
                        # .kernel loads now, so that nothing is left to load while a graph is captured
                        self._functions[entry] = cupy.RawModule(path=str(HERE / file)).get_function(entry).kernel
                    except Exception as error:
                        raise GpuError(
                            f"the driver refuses kernel {entry} of {file} on GPU {index}: {_first_line(error)}",
                            f"run mirage doctor; or {TORCH_PATH}",
                        ) from error

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the kernels that are loaded."""
        return tuple(self._functions)

    def launch(self, entry: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]) -> None:
        """Launch on torch's current stream of this GPU; asynchronous.

        Args:
            grid, block: blocks and threads, 1 to 3 numbers each.
            arguments: tensors (passed as their address), None (address 0) and numpy scalars of the
                parameter's exact type. Python numbers are refused, since they do not say their width.
        """
        import numpy as np
        import torch

        packed: list[np.generic] = []
        for argument in arguments:
            if argument is None:
                packed.append(np.uint64(0))
            elif isinstance(argument, torch.Tensor):
                packed.append(np.uint64(argument.data_ptr()))
            elif isinstance(argument, np.generic):
                packed.append(argument)
            else:
                raise TypeError(f"{entry}: argument {argument!r} has no fixed width; pass a numpy scalar")
        with self._cupy.cuda.Device(self.index), self._stream(torch.cuda.current_stream(self.index)):
            self._functions[entry](tuple(grid), tuple(block), packed)

    def _stream(self, stream: Any) -> Any:
        """CuPy's view of a torch stream, kept."""
        known = self._streams.get(stream.cuda_stream)
        if known is None:
            if len(self._streams) >= 64:  # streams come and go in long runs
                self._streams.clear()
            known = self._streams[stream.cuda_stream] = self._wrap(stream)
        return known

    def _wrap(self, stream: Any) -> Any:
        """A CuPy stream object for a torch stream (CuPy 14 changed the way)."""
        make = getattr(self._cupy.cuda.Stream, "from_external", None)
        if make is not None and hasattr(stream, "__cuda_stream__"):
            return make(stream)
        return self._cupy.cuda.ExternalStream(stream.cuda_stream, self.index)


@dataclass(frozen=True)
class PlanKernels:
    """Entries that plans launch, on one GPU.

    Attributes:
        functions: entry -> CUfunction, as an integer.
        targets: file -> the architecture it was made for, such as "denoiser_f16" -> "sm_90".
        pdl: programmatic dependent launch works: the PTX is for sm_90, and the driver knows it.
        modules: what keeps the functions loaded.
    """

    functions: dict[str, int]
    targets: dict[str, str]
    pdl: bool
    modules: tuple[Any, ...]


def load_plan(index: int, files: Sequence[str]) -> PlanKernels:
    """Load files of ``PLAN_FILES`` on GPU ``index``. GpuError with the reason where it cannot be."""
    cupy = import_cupy()
    functions, targets, modules, pdl = {}, {}, [], True
    for file in files:
        path = plan_file(cupy, index, file)
        check_device(cupy, index, *ptx_header(path))
        targets[file] = ptx_header(path)[1]
        pdl = pdl and targets[file] != "sm_80" and int(cupy.cuda.runtime.driverGetVersion()) >= PDL_DRIVER
        with cupy.cuda.Device(index):
            try:
                module = cupy.RawModule(path=str(path))
                for entry in PLAN_FILES[file]:
                    functions[entry] = int(module.get_function(entry).kernel.ptr)
            except Exception as error:
                raise GpuError(
                    f"the driver refuses {path.name} on GPU {index}: {_first_line(error)}",
                    f"run mirage doctor; or {TORCH_PATH}",
                ) from error
        modules.append(module)
    return PlanKernels(functions, targets, pdl, tuple(modules))


def plan_file(cupy: Any, index: int, file: str) -> Path:
    """The variant of a file of ``PLAN_FILES`` for GPU ``index``; the lowest where none fits."""
    try:
        have = architecture(cupy, index)
    except Exception:  # check_device says what is wrong
        have = 0
    fitting = [target for target in PLAN_TARGETS if target <= have]
    return HERE / f"{file}.sm{fitting[0] if fitting else PLAN_TARGETS[-1]}.ptx"


_sets: dict[int, KernelSet] = {}
_lock = threading.Lock()


def load(index: int) -> KernelSet:
    """All kernels on GPU ``index``, loaded once a process. GpuError with the reason where it cannot be."""
    with _lock:
        if index not in _sets:
            _sets[index] = KernelSet(import_cupy(), index)
        return _sets[index]


def kernel_states(index: int = 0) -> list[KernelState]:
    """Every kernel with its state on GPU ``index``; never raises for what a machine may lack."""
    states = []
    for file, entries in (*FILES.items(), *PLAN_FILES.items()):
        path, reasons, version, target = HERE / file, dict.fromkeys(entries, ""), "", ""
        try:
            if file in PLAN_FILES:
                path = plan_file(None, index, file)  # what to name where CuPy is missing
                path = plan_file(import_cupy(), index, file)
            version, target = ptx_header(path)
            if file in PLAN_FILES:
                load_plan(index, [file])
            elif index not in _sets or not set(entries) <= set(_sets[index].entries):
                KernelSet(import_cupy(), index, only=entries)
        except GpuError as error:
            reasons = dict.fromkeys(entries, error.message)
        origin = "CUDA C++" if (HERE / f"{file.split('.')[0]}.cu").is_file() else "hand-written PTX"
        states += [KernelState(e, path.name, origin, version, target, not reasons[e], reasons[e]) for e in entries]
    return states
