"""Loading a model: its config, its weights, and every way in which these can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mirage_cli.errors import GpuError, ModelError
from mirage_cli.lsd.layers import in_memory_order
from mirage_cli.lsd.model import LSDConfig, LSDNet
from mirage_cli.models import catalog

FORMAT = 1


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
        raise ModelError(f"{path / catalog.CONFIG} is not the config of an LSD model: {error}", remedy) from error


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
_SHARES = {"keep_limit": (1, 0, 1), "history_levels": (3, 0, 1)}  # the same; these need not be whole


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
        raise ModelError(f"{file} is damaged or not a safetensors file: {error}".splitlines()[0], remedy) from error
    own = net.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or foreign:
        example = (missing or foreign)[0]
        raise ModelError(
            f"{file} belongs to another network: {len(missing)} tensors missing, {len(foreign)} unknown, "
            f"such as {example}",
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


def load_net(folder: Path, device: torch.device, dtype: torch.dtype) -> LSDNet:
    """The network of a model folder, in evaluation mode, on ``device`` and in ``dtype``, channels_last.

    Raises:
        ModelError: damaged or foreign files; GpuError: out of memory.
    """
    config = read_config(folder)
    try:
        net = LSDNet(config)
    except (RuntimeError, ValueError, ZeroDivisionError) as error:  # sizes that do not go together
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{folder / catalog.CONFIG} describes no network: {text}", "reinstall mirage-cli, or name another --model"
        ) from error
    net.load_state_dict(read_weights(folder / catalog.WEIGHTS, net))
    try:
        net = net.eval().requires_grad_(False).to(device=device, dtype=dtype)
        return in_memory_order(net, torch.channels_last)
    except torch.cuda.OutOfMemoryError as error:
        raise GpuError(f"out of GPU memory while the model was loaded onto {device}", "use --device cpu") from error
