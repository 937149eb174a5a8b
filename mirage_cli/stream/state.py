"""The state of a stream as plain arrays, so that a job that was killed goes on where it was.

    arrays, facts = take_state(session)      # float32 and float64 arrays, and what JSON holds
    put_state(session, arrays, facts)        # the next frame is the one that would have followed

On the CPU the frames that follow are the same, bit for bit. What the user chose (size, model, seed,
steps) is not in it: the session it is put into must have been made alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from mirage_cli.errors import ModelError

if TYPE_CHECKING:
    from mirage_cli.stream.session import Session

State = tuple[dict[str, np.ndarray], dict[str, Any]]


def take_state(session: Session) -> State:
    """Copies of all that the next frame depends on; bf16 becomes float32, which holds it exactly."""
    tensors = {f"history.{name}": tensor for name, tensor in vars(session.history).items()}
    tensors["memory.tokens"] = session.memory.tokens
    tensors.update(_of_program(session))
    arrays = {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in tensors.items()}
    guard_arrays, guard_facts = session.guard.state()
    arrays.update({f"guard.{name}": array for name, array in guard_arrays.items()})
    facts = {
        "looks": dict(session.looks),
        "strength": session.strength,
        "memory": {"frames": session.memory.frames, "writes": session.memory.writes},
        "guard": guard_facts,
        "counters": dict(session.counters),
    }
    return arrays, facts


def _of_program(session: Session) -> dict[str, torch.Tensor]:
    """What the engine's whole-frame program carries beside the session's own tensors, on a GPU."""
    program = session.program
    return {} if program is None else {f"program.{n}": t for n, t in enumerate(program.state)}


@torch.inference_mode()
def put_state(session: Session, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Make a fresh session go on from a state.

    Raises:
        ModelError: the state is of a session of another size or model.
    """
    targets = {f"history.{name}": tensor for name, tensor in vars(session.history).items()}
    targets["memory.tokens"] = session.memory.tokens
    for name, tensor in targets.items():
        have = None if name not in arrays else arrays[name].shape
        if have != tuple(tensor.shape):
            raise ModelError(
                f"the saved state has {name} of shape {have}; this session needs {tuple(tensor.shape)}",
                "Begin the job anew: -y without --resume.",
            )
    session.set_look(facts["looks"])  # these clear memory and guard, so they come first
    session.set_strength(facts["strength"])
    for name, tensor in targets.items():
        tensor.copy_(torch.from_numpy(arrays[name]))
    for name, tensor in _of_program(session).items():
        if name in arrays and arrays[name].shape == tuple(tensor.shape):
            tensor.copy_(torch.from_numpy(arrays[name]))
        else:  # of another size: without it the past cannot be moved, so there is none
            session.history.valid.zero_()
    session.memory.frames = int(facts["memory"]["frames"])
    session.memory.writes = int(facts["memory"]["writes"])
    session.guard.load_state(
        {name.removeprefix("guard."): array for name, array in arrays.items() if name[:6] == "guard."}, facts["guard"]
    )
    session.counters.update(facts["counters"])


def fit_state(session: Session, state: State) -> State:
    """A state whose pictures have the size of another session: the past goes along when the size of a
    running stream is changed."""
    arrays, facts = state
    fitted = dict(arrays)
    for name, tensor in vars(session.history).items():
        array = torch.from_numpy(arrays[f"history.{name}"])
        if array.dim() == 4 and array.shape != tensor.shape:
            array = F.interpolate(array, tensor.shape[-2:], mode="bilinear", antialias=True)
        fitted[f"history.{name}"] = array.numpy()
    return fitted, facts
