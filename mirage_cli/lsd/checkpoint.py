"""Loading a model: its config, its weights, and every way in which these can be wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mirage_cli.errors import GpuError, ModelError, UsageProblem
from mirage_cli.lsd.model import LSDConfig, LSDNet
from mirage_cli.models import catalog

FORMAT = 1
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ModelBundle:
    """A model ready to run.

    Attributes:
        name: as the catalogue or the user calls it; path: its folder.
        net: the denoiser in evaluation mode, on ``device``, in ``dtype``, channels_last.
        dtype_reason: why this type, one sentence.
    """

    name: str
    path: Path
    net: LSDNet
    device: torch.device
    dtype: torch.dtype
    dtype_reason: str

    @property
    def looks(self) -> list[str]:
        """Names of the looks in the order of the look table."""
        return list(self.net.config.looks)


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


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively (AVX512-BF16 or AMX); without, bf16 is slower than fp32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def choose_dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """ "auto", "fp32", "fp16" or "bf16" -> a type for the network, and why."""
    if wanted != "auto":
        if wanted not in DTYPES:
            raise UsageProblem(f"--dtype {wanted!r} is unknown; allowed: auto, {', '.join(DTYPES)}", "use --dtype auto")
        return DTYPES[wanted], "asked for"
    if device.type == "cuda":
        return torch.float16, "auto: fp16 on CUDA"
    if cpu_has_bf16():
        return torch.bfloat16, "auto: this CPU multiplies bf16"
    return torch.float32, "auto: this CPU has no bf16 arithmetic"


def read_config(path: Path) -> LSDConfig:
    """config.json of a model folder.

    Raises:
        ModelError: missing, no JSON, another format or kind.
    """
    remedy = "mirage models lists what ships; mirage doctor checks the files"
    try:
        data = json.loads((path / catalog.CONFIG).read_text(encoding="utf-8"))
        if data.get("kind") != "lsd" or data.get("format") != FORMAT:
            raise ValueError(f"kind {data.get('kind')!r}, format {data.get('format')!r}; allowed: 'lsd', {FORMAT}")
        config = LSDConfig.from_dict(data["network"])
        check_numbers(config)
        return config
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path / catalog.CONFIG} is no config of an LSD model: {error}", remedy) from error


# Fields of LSDConfig: (how many numbers, the least, the most). A damaged file must not take all memory.
_SIZES = {
    "widths": (3, 1, 2048),
    "encoder_blocks": (2, 0, 64),
    "middle_blocks": (1, 0, 64),
    "decoder_blocks": (2, 0, 64),
    "look_width": (1, 1, 4096),
    "condition_width": (1, 1, 4096),
    "memory_slots": (1, 1, 256),
    "memory_anchors": (1, 0, 256),
    "memory_grid": (2, 1, 64),
}
_SHARES = {"keep_limit": (1, 0, 1), "history_levels": (3, 0, 1)}  # likewise; these need not be whole


def check_numbers(config: LSDConfig) -> None:
    """ValueError where a field is not what ``LSDConfig`` says."""
    if not (isinstance(config.looks, tuple) and config.looks and all(isinstance(look, str) for look in config.looks)):
        raise ValueError("looks is not a list of names")
    for name, (count, low, high) in (_SIZES | _SHARES).items():
        value = getattr(config, name)
        numbers = (value,) if count == 1 else value
        if not isinstance(numbers, tuple) or len(numbers) != count:
            raise ValueError(f"{name} {value!r}; allowed: {count} numbers")
        kinds = (int, float) if name in _SHARES else (int,)
        if any(type(number) not in kinds or not low <= number <= high for number in numbers):
            raise ValueError(f"{name} {value!r}; allowed: {low} to {high}")


def read_weights(file: Path, net: LSDNet) -> dict[str, Tensor]:
    """Weights that fit the network, all finite, as fp32.

    Raises:
        ModelError: damaged, foreign, or with NaN or infinity.
    """
    remedy = "install mirage again, or name another --model"
    try:
        with safe_open(str(file), framework="pt") as handle:
            weights = {key: handle.get_tensor(key) for key in handle.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged or no safetensors file: {error}".splitlines()[0], remedy) from error
    own = net.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or foreign:
        example = (missing or foreign)[0]
        raise ModelError(
            f"{file} belongs to another network: {len(missing)} tensors missing, {len(foreign)} unknown, such as {example}",
            remedy,
        )
    for key, value in weights.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"{file} belongs to another network: {key} is {tuple(value.shape)}, not {tuple(own[key].shape)}", remedy
            )
        if not bool(torch.isfinite(value.float()).all()):
            raise ModelError(f"{file} is damaged: {key} holds NaN or infinity", remedy)
    return {key: value.float() for key, value in weights.items()}


def load_bundle(
    name_or_path: str | Path = catalog.DEFAULT_MODEL, device: str = "auto", dtype: str = "auto"
) -> ModelBundle:
    """Load a model of the catalogue, or of a folder of one's own.

    Raises:
        ModelError: no such model, damaged or foreign files; GpuError, UsageProblem: see ``choose_device``.
    """
    path = catalog.model_dir(name_or_path)
    where = choose_device(device)
    kind, reason = choose_dtype(dtype, where)
    config = read_config(path)
    try:
        net = LSDNet(config)
    except (RuntimeError, ValueError, ZeroDivisionError) as error:  # sizes that do not go together
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path / catalog.CONFIG} describes no network: {text}", "reinstall mirage-cli, or name another --model"
        ) from error
    net.load_state_dict(read_weights(path / catalog.WEIGHTS, net))
    try:
        net = net.eval().requires_grad_(False).to(device=where, dtype=kind, memory_format=torch.channels_last)
    except torch.cuda.OutOfMemoryError as error:
        raise GpuError(f"out of GPU memory while the model was loaded onto {where}", "use --device cpu") from error
    return ModelBundle(Path(name_or_path).name, path, net, where, kind, reason)
