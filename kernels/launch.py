"""Launch loaded kernels through the driver, with the attribute that CuPy's launch cannot set.

Programmatic dependent launch (PDL): the kernel may start while the one ahead of it in the stream still runs, and
waits for it itself (``wait_for_previous`` in tensor_core.cuh). A captured CUDA graph keeps that. Arguments are
packed once; launching again allocates nothing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mirage_cli.errors import GpuError

MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
PROGRAMMATIC_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id, padding, and a union of 64 bytes."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    ]


@lru_cache(maxsize=1)
def _driver() -> Any:
    """The CUDA driver's library."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise GpuError(
            f"the CUDA driver's library {name} does not load: {error}", "install the NVIDIA driver"
        ) from error


def _check(code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise GpuError(f"{what}: CUDA error {code}, {(text.value or b'unknown').decode()}", "use --backend torch")


class Launch:
    """One launch with its arguments, ready to be made again and again.

    Args:
        name: for messages and tables; function: CUfunction.
        grid, block: blocks and threads, three numbers each.
        shared_bytes: dynamic shared memory of a block.
        arguments: ctypes scalars and structures, kept; a later change of their value counts.
        pdl: programmatic dependent launch, see above; may be switched later.
    """

    def __init__(
        self,
        name: str,
        function: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        arguments: Sequence[ctypes.c_void_p | ctypes.c_int | ctypes.c_float | ctypes.Structure],
        *,
        pdl: bool,
    ) -> None:
        self.name, self.grid, self.arguments = name, grid, tuple(arguments)
        self._function = ctypes.c_void_p(function)
        self._pointers = (ctypes.c_void_p * len(self.arguments))(*(ctypes.addressof(a) for a in self.arguments))
        self._attribute = _Attribute(id=PROGRAMMATIC_SERIALIZATION, value=1)
        self._config = _Config(
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            shared_bytes,
            None,
            ctypes.pointer(self._attribute),
            1,
        )
        self.pdl = pdl
        if shared_bytes > 48 * 1024:
            _check(
                _driver().cuFuncSetAttribute(self._function, MAX_DYNAMIC_SHARED, shared_bytes),
                f"shared memory of {name}",
            )

    def __call__(self, stream: int) -> None:
        """Queue it on a CUstream given as an integer."""
        config = self._config
        config.stream = stream
        if self.pdl:
            code = _driver().cuLaunchKernelEx(ctypes.byref(config), self._function, self._pointers, None)
        else:
            code = _driver().cuLaunchKernel(
                self._function,
                *config.grid,
                *config.block,
                config.shared_bytes,
                ctypes.c_void_p(stream),
                self._pointers,
                None,
            )
        _check(code, f"launch of {self.name}")
