"""Where a model runs, and in which number format."""

from __future__ import annotations

import torch

from mirage_cli.errors import GpuError, UsageProblem

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(wanted: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:N" -> a device that is there.

    Raises:
        UsageProblem: another word; GpuError: CUDA is asked for where there is none.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UsageProblem(
            f"--device {wanted!r} is unknown; allowed: auto, cpu, cuda, cuda:N", "use --device auto"
        ) from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UsageProblem(
            f"--device {wanted!r} is not supported; allowed: auto, cpu, cuda, cuda:N", "use --device auto"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise GpuError(
            f"--device {wanted}: torch sees {count} CUDA devices", "use --device cpu; mirage doctor says more"
        )
    return device


def choose_dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """ "auto", "fp32", "fp16" or "bf16" -> a type for the network, and why.

    Raises:
        UsageProblem: another word.
    """
    if wanted != "auto":
        if wanted not in DTYPES:
            raise UsageProblem(f"--dtype {wanted!r} is unknown; allowed: auto, {', '.join(DTYPES)}", "use --dtype auto")
        return DTYPES[wanted], "asked for"
    if device.type == "cuda":
        return torch.float16, "auto: fp16 on CUDA"
    if cpu_has_bf16():
        return torch.bfloat16, "auto: this CPU multiplies bf16"
    return torch.float32, "auto: this CPU has no bf16 arithmetic"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively (AVX512-BF16 or AMX); without, bf16 is slower than fp32."""
    # Private in torch, and missing in some builds: then it is fp32.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def dtype_name(dtype: torch.dtype) -> str:
    """ "float16" of torch.float16."""
    return str(dtype).removeprefix("torch.")
