"""``mirage bench --ladder``: the optimisations switched on one by one, a rung a line.

On CUDA: eager NCHW, channels_last, one CUDA graph, the single-op kernels group by group, then the whole-frame
program, first with launches that wait for one another, then as it runs. On a CPU: plain fp32, channels_last,
and the session as it runs there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mirage_cli.bench.subjects import Subject, measure, plain_bundle, prepared, rows

GROUPS = (
    ("norms", "channel norm, modulation and SiLU in one kernel", ("channel_norm_film_silu",)),
    ("sums", "residual sums", ("residual_add",)),
    ("doubling", "nearest doubling beside the skip connection", ("upsample_concat",)),
)


class SomeOps:
    """An ``OpSet`` of which only some ops are kernels, the others torch."""

    def __init__(self, kernels: Any, taken: set[str]) -> None:
        from mirage_cli.engine import reference

        for op in ("channel_norm_film_silu", "residual_add", "upsample_concat"):
            setattr(self, op, getattr(kernels if op in taken else reference, op))


def ladder(
    bundle: Any, size: tuple[int, int], steps: int, weights: dict[str, float], frames: list[np.ndarray], count: int
) -> list[dict[str, Any]]:
    """The rungs' rows; ``size`` is width and height."""
    build = _cuda_rungs if bundle.device.type == "cuda" else _cpu_rungs
    subjects = build(bundle, size, steps, weights, frames)
    measure(subjects, frames, count, warm_up=min(50, max(2, count // 4)))
    return rows(subjects)


def _session(bundle: Any, size: tuple[int, int], steps: int, backend: str) -> Any:
    from mirage_cli.stream.session import Session

    return Session(bundle, width=size[0], height=size[1], steps=steps, backend=backend, guard=False)


def _cuda_rungs(
    bundle: Any, size: tuple[int, int], steps: int, weights: dict[str, float], frames: list[np.ndarray]
) -> list[Subject]:
    def torch_session(*, graph: bool, channels_last: bool = True) -> Any:
        source = bundle if channels_last else plain_bundle(bundle, channels_last=False)
        session = _session(source, size, steps, "torch")
        session.frame = session.captured(session._frame, enabled=graph)
        return session

    def with_kernels(taken: set[str]) -> Any:
        from mirage_cli.engine.ops import select_backend

        session = _session(bundle, size, steps, "torch")
        session.kernels = SomeOps(select_backend(bundle.device, "ptx")[0], taken)
        return session

    def program(pdl: bool) -> Any:
        session = _session(bundle, size, steps, "ptx")
        if session.program is None:
            raise RuntimeError(session.backend_reason)
        if not pdl:
            session.program.plan.use_pdl(False)
        return session

    made = [
        ("eager", "torch, NCHW, a launch an op", lambda: torch_session(graph=False, channels_last=False)),
        ("channels_last", "torch, NHWC", lambda: torch_session(graph=False)),
        ("graph", "the same in one CUDA graph", lambda: torch_session(graph=True)),
    ]
    taken: set[str] = set()
    for name, what, ops in GROUPS:
        taken |= set(ops)
        made.append((f"+ {name}", f"kernel: {what}", lambda taken=frozenset(taken): with_kernels(set(taken))))
    made += [
        (
            "program",
            "the whole frame as fused kernels: convolutions, attention, motion, frame in and out",
            lambda: program(False),
        ),
        ("all", "kernels begin before the one ahead has ended", lambda: program(True)),
    ]
    return [prepared(name, what, make, frames, weights) for name, what, make in made]


def _cpu_rungs(
    bundle: Any, size: tuple[int, int], steps: int, weights: dict[str, float], frames: list[np.ndarray]
) -> list[Subject]:
    import torch

    def session(source: Any) -> Any:
        return _session(source, size, steps, "torch")

    def plain(source: Any) -> Any:
        one = session(source)
        one.packed = None  # torch's own convolutions
        return one

    made = [
        ("fp32", "torch, NCHW, fp32", lambda: plain(plain_bundle(bundle, channels_last=False, dtype=torch.float32))),
        (
            "channels_last",
            "torch, NHWC, fp32",
            lambda: plain(plain_bundle(bundle, channels_last=True, dtype=torch.float32)),
        ),
    ]
    kind = str(bundle.dtype).removeprefix("torch.")
    made.append(
        ("all", f"as it runs here: NHWC, {kind}, packed weights where there is oneDNN", lambda: session(bundle))
    )
    return [prepared(name, what, make, frames, weights) for name, what, make in made]
