"""The seam between a stream and the model that paints it: ``Model``, ``Painter`` and what they exchange.

    model = open_model("lsd-small")                       # stream/families.py: a family's weights on one device
    painter = model.painter((512, 288), steps=1, seed=0)  # one stream's buffers and the way in which it is computed
    session = Session(model, width=512, height=288)       # stream/session.py: makes a painter and steps it

A family of models is a room of its own (lsd/) that implements these protocols; what steps a stream knows nothing
else of it. Optional members have a default here: a family that subclasses a protocol overrides what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mirage_cli.config import Size

Look = Mapping[str, float]
"""Key -> weight; weights are positive and sum to one. What a key is, the family says: a name of a list, or any text."""

Stage = Callable[[str], None]
"""Called with the name of a stage (one of ``STAGES``) when it has ended."""

STAGES = ("prepare", "denoise", "compose")
"""The stages of a frame: all before the network, the network, all after it."""


def unmarked(stage: str) -> None:
    """A ``Stage`` that nobody times; the only one that a captured graph may call."""


class Painted(NamedTuple):
    """A frame as a painter leaves it; the next frame may overwrite both.

    Attributes:
        rgb: uint8 [H, W, 3] on the painter's device.
        flags: int32 [2]: the input cut to another shot; every value is finite.
    """

    rgb: Tensor
    flags: Tensor


class Work(NamedTuple):
    """What a frame costs at least, for ``mirage bench --floor``.

    Attributes:
        flops: of all network calls of a frame, a multiply-add as two.
        weight_bytes: of the weights that a frame reads.
    """

    flops: int
    weight_bytes: int


@dataclass(frozen=True)
class KernelUse:
    """One launch of a painter's frame, for ``mirage bench --floor``.

    Attributes:
        name: of the kernel, without ``mirage_``.
        launch: queues it alone on a CUDA stream, given by its handle; it works on what its buffers hold.
        flops: a multiply-add as two, 0 where arithmetic is not what it is for.
        bare: gives a function that does the convolution in it in torch, and nothing else of it; None for other kernels.
    """

    name: str
    launch: Callable[[int], None]
    flops: int = 0
    bare: Callable[[], Callable[[], Tensor]] | None = None


class Painter(Protocol):
    """Makes one stream's frames. Its buffers have a fixed shape and are written in place.

    Attributes:
        backend: "torch", or "ptx" for hand-written kernels.
        reason: which implementation this is and why, one sentence.
        derived: names in ``state()`` that a saved state may lack; see ``lost``.
    """

    backend: str
    reason: str
    derived: frozenset[str] = frozenset()

    def paint(self, rgb: Tensor, done: Stage = unmarked) -> Painted:
        """Make the next frame from uint8 [H, W, 3] on the painter's device.

        On CUDA this is captured as a graph: the same work at each call, no branch on a value, no wait for the
        device, no allocation that stays but for the result.

        Args:
            done: called at the end of each of ``STAGES``.
        """
        ...

    def between(self, cut: bool) -> None:
        """Work of the host after each frame that was finite, such as writes of a memory bank.

        Args:
            cut: that frame began another shot.
        """

    def condition(self, look: Look, strength: float) -> None:
        """Paint in this look from the next frame on; ``strength`` is 0 to 1. In place: a graph sees it."""
        ...

    def passes_through(self, look: Look, strength: float) -> bool:
        """Whether frames stay as they are, so that none need be painted."""
        return strength == 0

    def reseed(self, seed: int) -> None:
        """Other noise from the next frame on, that of a painter made with ``seed``. In place."""

    def forget(self) -> None:
        """Drop all that was made so far: the next frame is painted without a past."""

    def state(self) -> dict[str, Tensor]:
        """By name all tensors that ``paint`` and ``between`` change and the next frame depends on."""
        return {}

    def host_state(self) -> dict[str, int]:
        """Counters on the host that go with ``state()``."""
        return {}

    def load_host_state(self, counters: Mapping[str, int]) -> None:
        """Go on from a ``host_state()``."""

    def lost(self, names: Sequence[str]) -> None:
        """A state was loaded that lacks these ``derived`` tensors, or has them in another size."""
        self.forget()

    def work(self) -> Work | None:
        """What a frame costs at least; None: not known."""
        return None

    def kernels(self) -> Sequence[KernelUse]:
        """The launches of a frame where it is a list of hand-written kernels, else none."""
        return ()


class PromptMatch(Protocol):
    """What a prompt was taken for; ``prompts/reader.py`` has the one of models with a list of looks."""

    @property
    def weights(self) -> dict[str, float]:
        """The ``Look`` that it asks for."""
        ...

    @property
    def look(self) -> str:
        """The key with the largest weight."""
        ...

    @property
    def similarity(self) -> float:
        """How near the prompt is to something known, 1 at most."""
        ...

    @property
    def known(self) -> bool:
        """Whether it can be believed; False: a guess."""
        ...

    @property
    def message(self) -> str:
        """One plain sentence for the user."""
        ...


class PromptReader(Protocol):
    """From text to a look."""

    def match(self, prompt: str) -> PromptMatch:
        """The look that a prompt asks for.

        Raises:
            UsageProblem: nothing visible in the prompt, or a written weight that makes no sense.
        """
        ...


@dataclass(frozen=True)
class Variant:
    """One way in which a model can paint, for ``mirage bench --ladder``.

    Attributes:
        name, what: for the table.
        make: (size, steps) -> the painter.
        graph: captured as a CUDA graph, where there are graphs.
    """

    name: str
    what: str
    make: Callable[[Size, int], Painter]
    graph: bool = True


class Model(Protocol):
    """Weights on one device, shared by sessions.

    Attributes:
        name: as the catalogue or the user calls it; path: its folder.
        dtype: of the network; dtype_reason: why this type, one sentence.
        stride: a painter pads the sides of its frames to multiples of it.
        steps_allowed: denoising steps a frame.
    """

    name: str
    path: Path
    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    stride: int
    steps_allowed: range

    @property
    def looks(self) -> Sequence[str]:
        """The keys where they are a list, else empty: any text is one."""
        return ()

    @property
    def first_look(self) -> Look:
        """What a session paints until a look is set."""
        ...

    @property
    def prompts(self) -> PromptReader:
        """Reads prompts for this model.

        Raises:
            ModelError: a file that it needs is missing or damaged.
        """
        ...

    def accepts(self, key: str) -> bool:
        """Whether ``key`` may stand in a look."""
        ...

    def needed_bytes(self, size: Size, steps: int) -> int:
        """Estimate of a session's memory for frames of ``size`` (width, height), the loaded model not counted."""
        ...

    def painter(self, size: Size, *, steps: int, seed: int, backend: str = "auto") -> Painter:
        """The best painter that ``backend`` ("auto", "ptx" or "torch") allows.

        Args:
            size: width and height of the frames in and out.

        Raises:
            GpuError: "ptx" is not possible here; says why.
        """
        ...

    def plain(self, size: Size, *, steps: int, seed: int) -> Painter:
        """The same frames from plain torch operations, nothing fused or packed: the reference, and what
        torch.compile is given."""
        ...

    def variants(self) -> Sequence[Variant]:
        """The ways in which this model can paint on its device, from the plainest to the best."""
        return ()

    def roll(
        self,
        frames: Iterable[Tensor],
        look: Look,
        *,
        steps: int,
        seed: int,
        history: bool = True,
        without: Sequence[str] = (),
    ) -> Iterator[Tensor] | None:
        """Several streams at once in the network's own numbers, for ``mirage eval``; None: cannot be had.

        Args:
            frames: [B, 3, H, W] in [-1, 1] each, sides multiples of ``stride``.
            history: False hides the past before every frame.
            without: parts of the model to leave out, by the family's names for them.

        Yields:
            A frame of each stream, [B, 3, H, W] in [-1, 1].
        """
        return None
