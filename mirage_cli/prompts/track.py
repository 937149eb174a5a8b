"""Prompts in time: which text holds when, and the weights of the looks at each moment.

A prompt may carry a time (``5s:ink wash``); what its text means, mixes such as ``0.5*ink wash +
0.5*neon cyberpunk`` included, is for ``reader.PromptReader``. Between two prompts the weights
are blended linearly, so the picture melts from one to the next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mirage_cli.config import parse_seconds
from mirage_cli.errors import UsageProblem
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.prompts.grammar import clean

Weights = dict[str, float]

_TIMED = re.compile(r"^\s*((?:\d+:){0,2}\d+(?:\.\d+)?\s*(?:ms|s|min|m|h)?)\s*:(?!//)\s*(.*)$", re.S)


@dataclass(frozen=True)
class TimedPrompt:
    """A prompt as typed: its time in seconds (None where none was given) and its text."""

    time_seconds: float | None
    text: str


def parse_prompt(text: str) -> TimedPrompt:
    """Split ``TIME:PROMPT``; the time is optional: ``0:``, ``5s:``, ``1:30:``.

    Raises:
        UsageProblem: an empty prompt, or a time that cannot be read.
    """
    match = _TIMED.match(text)
    if match:
        return TimedPrompt(parse_seconds(match[1], "prompt time"), clean(match[2]))
    return TimedPrompt(None, clean(text))


def parse_prompts(texts: Sequence[str]) -> list[TimedPrompt]:
    """All ``--prompt`` values of a run, in order of time; each with a time.

    Raises:
        UsageProblem: none at all, several without times, or two at the same time.
    """
    if not texts:
        raise UsageProblem("no prompt was given", 'Add one, as in --prompt "van gogh starry night".')
    prompts = [parse_prompt(text) for text in texts]
    if len(prompts) > 1 and any(prompt.time_seconds is None for prompt in prompts):
        bare = next(prompt.text for prompt in prompts if prompt.time_seconds is None)
        raise UsageProblem(
            f"several prompts need a time each, and {bare!r} has none",
            f'Write --prompt "0:{prompts[0].text}" --prompt "5s:{prompts[1].text}", '
            'or mix them: --prompt "0.5*A + 0.5*B".',
        )
    placed = [TimedPrompt(prompt.time_seconds or 0.0, prompt.text) for prompt in prompts]
    placed.sort(key=lambda prompt: prompt.time_seconds or 0.0)
    for earlier, later in zip(placed, placed[1:]):
        if earlier.time_seconds == later.time_seconds:
            raise UsageProblem(
                f"two prompts begin at {later.time_seconds:g} s: {earlier.text!r} and {later.text!r}",
                "Give each its own time, or mix them in one prompt.",
            )
    return placed


def normalised(weights: Weights) -> Weights:
    """Weights that sum to 1, without the zeros."""
    total = sum(weights.values())
    return {look: weight / total for look, weight in weights.items() if weight > 0.0}


def mix(parts: Sequence[tuple[float, Weights]]) -> Weights:
    """Weighted sum of weights: [(a, {look: w}), ...] -> {look: sum of a*w}, normalised."""
    total: Weights = {}
    for amount, weights in parts:
        for look, weight in weights.items():
            total[look] = total.get(look, 0.0) + amount * weight
    return normalised(total)


class LookTrack:
    """Which looks hold at a moment, with linear blends; prompts may be added while it runs.

    A change that begins at time T is complete at T + blend_seconds. A change that begins in the
    middle of a blend starts from the mix of that moment, so nothing jumps. Old changes are folded
    away, so the track stays small however long the stream.
    """

    def __init__(self, first: Weights, blend_seconds: float) -> None:
        self.blend_seconds = blend_seconds
        self._from = normalised(first)
        self._changes: list[tuple[float, Weights]] = []

    def change(self, time_seconds: float, weights: Weights) -> None:
        """Turn to ``weights`` from ``time_seconds`` on (not before the last change added)."""
        if self._changes and time_seconds < self._changes[-1][0]:
            raise ValueError("changes are added in order of time")
        self._changes.append((time_seconds, normalised(weights)))

    def turn(self, time_seconds: float, weights: Weights) -> None:
        """As ``change``, now, in a running stream; what is scheduled for later stays."""
        self.at(time_seconds)
        begun = sum(begin <= time_seconds for begin, _ in self._changes)
        self._changes.insert(begun, (time_seconds, normalised(weights)))

    def set_blend_seconds(self, time_seconds: float, blend_seconds: float) -> None:
        """Another length for the blends that begin from ``time_seconds`` on.

        A blend that is under way stops at its mix of that moment and goes on from there, in the new
        length, so that nothing jumps.
        """
        now = self.at(time_seconds)
        if self._changes and self._changes[0][0] <= time_seconds:
            self._from, self._changes[0] = now, (time_seconds, self._changes[0][1])
        self.blend_seconds = blend_seconds

    def at(self, time_seconds: float) -> Weights:
        """The weights that hold at ``time_seconds``; times must not go back between calls."""
        while len(self._changes) > 1 and self._changes[1][0] <= time_seconds:
            begin, target = self._changes.pop(0)
            self._from = self._blend(self._from, target, self._changes[0][0] - begin)
        if not self._changes or time_seconds < self._changes[0][0]:
            return self._from
        begin, target = self._changes[0]
        return self._blend(self._from, target, time_seconds - begin)

    def _blend(self, old: Weights, new: Weights, elapsed_seconds: float) -> Weights:
        if elapsed_seconds >= self.blend_seconds:
            return new
        share = max(0.0, elapsed_seconds) / self.blend_seconds
        return mix([(1.0 - share, old), (share, new)])


def build_track(changes: Sequence[tuple[float, Weights]], blend_seconds: float) -> LookTrack:
    """Make the track of a run.

    Args:
        changes: (time in seconds, weights from then on), one or more, in order of time.
        blend_seconds: length of each blend; 0 switches at once.

    Before the first prompt's time the picture is left unchanged (the look ``identity``).
    """
    (first_seconds, first), *rest = changes
    if first_seconds > 0.0:
        first, rest = {IDENTITY: 1.0}, list(changes)
    track = LookTrack(first, blend_seconds)
    for time_seconds, weights in rest:
        track.change(time_seconds, weights)
    return track
