"""What a training run keeps on disk: weights, their running mean, Adam's moments, the step. No pickle.

A run that is stopped keeps its streams as well, and goes on as if nothing had happened.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_cli.errors import ModelError
from mirage_cli.lsd.history import History
from mirage_cli.training.playing import ClipPlayer, StillWalk
from mirage_cli.training.progress import Progress
from mirage_cli.training.streams import StreamPool


class RunningMean:
    """Exponential moving average of a network's weights (EMA), with a warm-up of the decay."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._network: nn.Module | None = None
        self.values = {k: v.detach().float().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take the network's present weights in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        own = list(self.values.values())
        torch._foreach_lerp_(own, [v.detach().float() for v in net.state_dict().values()], 1 - decay)

    def network(self, net: nn.Module) -> nn.Module:
        """A network that runs with the mean weights and follows them; ``net`` gives its structure."""
        if self._network is None:
            self._network = copy.deepcopy(net).requires_grad_(False)
            for name, parameter in self._network.state_dict(keep_vars=True).items():
                parameter.data = self.values[name]
        return self._network


def save_state(
    path: Path, net: nn.Module, mean: RunningMean, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write everything that ``load_state`` needs to go on; the file appears whole or not at all."""
    tensors: dict[str, Tensor] = {f"net.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"mean.{k}": v for k, v in mean.values.items()}
    for index, parameter in enumerate(net.parameters()):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{index}.{name}"] = value
    tensors = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    part = path.with_name(path.name + ".part")
    save_file(tensors, str(part), metadata={"progress": json.dumps(asdict(progress)), "mean_steps": str(mean.steps)})
    part.replace(path)


def load_state(path: Path, net: nn.Module, mean: RunningMean, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore a run; returns its progress.

    Raises:
        ModelError: the file is damaged or belongs to another network.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
        for name, value in mean.values.items():
            value.copy_(tensors[f"mean.{name}"])
        known = json.loads(metadata["progress"])
        progress = Progress(int(known["step"]), float(known["seconds"]))
        mean.steps = int(metadata["mean_steps"])
    except (SafetensorError, KeyError, RuntimeError, OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"cannot resume from {path}: {error}".splitlines()[0], "start over in another folder: run=DIR"
        ) from error
    for index, parameter in enumerate(net.parameters()):
        moments = {k.split(".", 2)[2]: v for k, v in tensors.items() if k.startswith(f"adam.{index}.")}
        if moments:
            optimizer.state[parameter] = {
                k: _as_adam_wants(k, v, parameter, bool(optimizer.defaults.get("fused"))) for k, v in moments.items()
            }
    return progress


def _as_adam_wants(name: str, value: Tensor, parameter: Tensor, fused: bool) -> Tensor:
    """A tensor of Adam's from a file, on the device and with the strides that torch gives it in a new run."""
    if name == "step":  # the fused kernel counts on the device, the others on the CPU
        return value.to(parameter.device) if fused else value
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


Generators = Mapping[str, torch.Generator]


def _holders(pool: StreamPool) -> Iterator[tuple[str, StreamPool | History | StillWalk | ClipPlayer]]:
    """The pool and all parts of it whose tensors change from frame to frame, by name."""
    yield "pool", pool
    for name, value in vars(pool).items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        for number, part in enumerate(parts):
            if isinstance(part, (History, StillWalk, ClipPlayer)):
                yield f"{name}{number}", part


def save_streams(path: Path, pool: StreamPool, generators: Generators, step: int) -> None:
    """Write where every stream of this process is, and the state of its chance; whole or not at all."""
    tensors = {f"chance.{name}": generator.get_state() for name, generator in generators.items()}
    for name, holder in _holders(pool):
        tensors |= {f"{name}.{field}": value for field, value in vars(holder).items() if isinstance(value, Tensor)}
    # clones: some tensors share memory, which safetensors refuses
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    part = path.with_name(path.name + ".part")
    save_file(tensors, str(part), metadata={"step": str(step)})
    part.replace(path)


def load_streams(path: Path, pool: StreamPool, generators: Generators, step: int) -> bool:
    """Put the streams where they were at this step; False where the file is missing or is of other streams."""
    try:
        with safe_open(str(path), framework="pt") as file:
            if (file.metadata() or {}).get("step") != str(step):
                return False
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except (SafetensorError, OSError):
        return False
    places = [
        (holder, field, f"{name}.{field}")
        for name, holder in _holders(pool)
        for field, value in vars(holder).items()
        if isinstance(value, Tensor)
    ]
    wanted = {key: getattr(holder, field) for holder, field, key in places}
    if tensors.keys() != wanted.keys() | {f"chance.{name}" for name in generators}:
        return False
    if any(tensors[key].shape != value.shape or tensors[key].dtype != value.dtype for key, value in wanted.items()):
        return False
    for holder, field, key in places:
        setattr(holder, field, tensors[key].to(wanted[key].device))
    for name, generator in generators.items():
        generator.set_state(tensors[f"chance.{name}"])
    return True
