"""What torch's errors mean to a user: out of memory, or the GPU itself failed.

Torch has no exception of its own for either on every path, so its messages are matched, here and nowhere else.
"""

from __future__ import annotations

from mirage_cli.config import Size
from mirage_cli.errors import GpuError, MirageError, first_line

# The GPU itself is gone or broken; a smaller frame would not help.
_GPU_LOST = ("cuda error", "cudnn error", "cublas error", "cuda driver error", "device-side assert")


def explained(error: Exception, size: Size) -> Exception:
    """What to raise in place of the error of a frame of ``size`` pixels: the same one if it is not known."""
    if isinstance(error, MirageError):
        return error
    text = str(error).lower()
    width, height = size
    remedy = "Use a smaller --size, such as --size 512x288."
    if "OutOfMemory" in type(error).__name__ or "cuda out of memory" in text:
        return GpuError(f"the GPU has not enough memory for frames of {width}x{height}", remedy)
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return MirageError(f"not enough memory for frames of {width}x{height}", remedy)
    if any(words in text for words in _GPU_LOST):
        return GpuError(
            f"the GPU failed: {first_line(error)}", "mirage doctor tells more; --device cpu runs without it."
        )
    return error
