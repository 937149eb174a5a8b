"""What may be changed between two frames of a running stream.

``Styler.request`` takes one of these from any thread; ``Styler.step`` applies it before the next frame. ``kind`` is its
name in ``--json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mirage_cli.prompts.track import Weights

if TYPE_CHECKING:  # torch is imported late
    from mirage_cli.stream.stepping import Stream


@dataclass(frozen=True)
class TurnTo:
    """Another look or mix of looks: name -> weight, summing to 1. The track blends towards it."""

    weights: Weights
    kind: ClassVar[str] = "look"


@dataclass(frozen=True)
class SetStrength:
    """How much of the look: 0 returns the input, 1 is the look in full."""

    strength: float
    kind: ClassVar[str] = "strength"


@dataclass(frozen=True)
class SetSeed:
    """Other noise."""

    seed: int
    kind: ClassVar[str] = "seed"


@dataclass(frozen=True)
class SetBlend:
    """How long one look takes to become the next, in seconds."""

    seconds: float
    kind: ClassVar[str] = "blend_seconds"


@dataclass(frozen=True)
class Pause:
    """Hold the last picture, or go on."""

    on: bool
    kind: ClassVar[str] = "pause"


@dataclass(frozen=True)
class Reset:
    """Forget all past frames; look, strength and seed stay."""

    kind: ClassVar[str] = "reset"


@dataclass(frozen=True)
class SwapSession:
    """Another model.

    Attributes:
        session: made for frames of the same size.
        weights: the look it begins with, as in ``TurnTo``.
        looks: the names of all its looks.
    """

    session: Stream
    weights: Weights
    looks: tuple[str, ...]
    kind: ClassVar[str] = "session"


StyleChange = TurnTo | SetStrength | SetSeed | SetBlend | Pause | Reset | SwapSession
