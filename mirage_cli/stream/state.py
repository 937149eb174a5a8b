"""The state of a stream as plain arrays, so that a job that was killed goes on where it was.

    arrays, facts = take_state(painter, guard)       # float32 and float64 arrays, and what JSON holds
    put_state(painter, guard, (arrays, facts))       # the next frame is the one that would have followed

On the CPU the frames that follow are the same, bit for bit. What the user chose (size, model, seed, steps) is not in
it: the painter it is put into must have been made alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.errors import ModelError
from mirage_cli.stream.guard import DriftGuard
from mirage_cli.stream.model import Painter
from mirage_cli.stream.stepping import State

_OF_GUARD = "guard."  # before the names of its arrays


def take_state(painter: Painter, guard: DriftGuard) -> State:
    """Copies of all that the next frame depends on; bf16 becomes float32, which holds it exactly."""
    arrays = {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in painter.state().items()}
    guard_arrays, guard_facts = guard.state()
    arrays.update({_OF_GUARD + name: array for name, array in guard_arrays.items()})
    return arrays, {"memory": painter.host_state(), "guard": guard_facts}


def check_state(painter: Painter, arrays: Mapping[str, np.ndarray]) -> None:
    """Whether ``put_state`` can take them.

    Raises:
        ModelError: they are of a session of another size or model.
    """
    for name, tensor in painter.state().items():
        if name not in painter.derived and not _fits(tensor, arrays.get(name)):
            have = None if name not in arrays else arrays[name].shape
            raise ModelError(
                f"the saved state has {name} of shape {have}; this session needs {tuple(tensor.shape)}",
                "Begin the job again from its start: -y without --resume.",
            )


@torch.inference_mode()
def put_state(painter: Painter, guard: DriftGuard, state: State) -> None:
    """Go on from a state; ``check_state`` comes first."""
    arrays, facts = state
    lost = []
    for name, tensor in painter.state().items():
        if _fits(tensor, arrays.get(name)):
            tensor.copy_(torch.from_numpy(arrays[name]))
        else:
            lost.append(name)
    painter.load_host_state(facts["memory"])
    if lost:
        painter.lost(lost)
    of_guard = {name.removeprefix(_OF_GUARD): array for name, array in arrays.items() if name.startswith(_OF_GUARD)}
    guard.load_state(of_guard, facts["guard"])


def fit_state(painter: Painter, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays whose pictures [1, C, h, w] have the size of this painter's: the past goes along when the size of a
    running stream is changed."""
    fitted = dict(arrays)
    for name, tensor in painter.state().items():
        if name in painter.derived or name not in arrays:
            continue
        array = torch.from_numpy(arrays[name])
        if array.dim() == 4 and array.shape != tensor.shape:
            fitted[name] = F.interpolate(array, tensor.shape[-2:], mode="bilinear", antialias=True).numpy()
    return fitted


def _fits(tensor: Tensor, array: np.ndarray | None) -> bool:
    return array is not None and array.shape == tuple(tensor.shape)
