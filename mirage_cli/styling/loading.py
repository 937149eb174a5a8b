"""Loads models and prompt readers for a run, and makes its sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mirage_cli.config import ModelOptions
from mirage_cli.frames import Ui
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.prompts.track import LookTrack, TimedPrompt, build_track

if TYPE_CHECKING:  # torch is imported late
    from mirage_cli.stream.model import Model, PromptMatch, PromptReader
    from mirage_cli.stream.session import Session
    from mirage_cli.stream.stepping import Stream


class ModelLoader(Protocol):
    """What a run asks of ``Models``, or of what stands in for it."""

    def is_cpu(self, options: ModelOptions) -> bool: ...

    def check_model(self, options: ModelOptions) -> None: ...

    def session(self, options: ModelOptions, width: int, height: int) -> Stream: ...

    def look_names(self, options: ModelOptions) -> tuple[str, ...]: ...

    def match(self, options: ModelOptions, text: str) -> PromptMatch: ...


class Models:
    """Loads models and prompt readers, each once and late: importing torch takes longer than most errors."""

    def __init__(self) -> None:
        self._readers: dict[str, PromptReader] = {}
        self._models: dict[tuple[str, str, str], Model] = {}

    def is_cpu(self, options: ModelOptions) -> bool:
        """Will the model run on the CPU?

        Raises:
            GpuError: a GPU is asked for and there is none.
        """
        if options.device == "cpu":  # without importing torch
            return True
        from mirage_cli.stream.placement import choose_device

        return choose_device(options.device).type == "cpu"

    def check_model(self, options: ModelOptions) -> None:
        """Fail at once, before torch is imported, where there is no such model.

        Raises:
            ModelError: see above.
        """
        from mirage_cli.models.catalog import model_dir

        model_dir(options.model)

    def model(self, options: ModelOptions) -> Model:
        """The model's weights, loaded once."""
        from mirage_cli.stream.families import open_model

        key = (options.model, options.device, options.dtype)
        if key not in self._models:
            self._models[key] = open_model(options.model, device=options.device, dtype=options.dtype)
        return self._models[key]

    def session(self, options: ModelOptions, width: int, height: int, *, plain: bool = False) -> Session:
        """A ``Session`` for frames of that size in pixels.

        Args:
            plain: paint in plain torch, as a measure of the model's best painter.

        Raises:
            GpuError, MirageError: it would not fit into memory; says what would.
        """
        from mirage_cli.stream.session import Session
        from mirage_cli.styling import memory_check

        model = self.model(options)
        on_gpu = model.device.type == "cuda"
        memory_check.check_memory(
            (width, height),
            lambda size: model.needed_bytes(size, options.steps),
            model.stride,
            on_gpu,
            lambda: memory_check.free_gpu_bytes(model.device) if on_gpu else memory_check.free_cpu_bytes(),
        )
        return Session(
            model,
            width=width,
            height=height,
            steps=options.steps,
            strength=options.strength,
            seed=options.seed,
            backend=options.backend,
            guard=options.guard,
            painter=model.plain((width, height), steps=options.steps, seed=options.seed) if plain else None,
        )

    def look_names(self, options: ModelOptions) -> tuple[str, ...]:
        """The looks that the model knows, and ``identity``.

        Raises:
            ModelError: there is no such model, or its looks cannot be read.
        """
        from mirage_cli.models.catalog import has_looks, model_dir, read_looks

        folder = model_dir(options.model)
        looks = [look["name"] for look in read_looks(folder)] if has_looks(folder) else []
        return tuple(dict.fromkeys([*looks, IDENTITY]))

    def match(self, options: ModelOptions, text: str) -> PromptMatch:
        """The looks that a prompt names.

        Raises:
            UsageProblem: written weights that make no sense.
            ModelError: the model's looks or the text encoder cannot be read.
        """
        if options.model not in self._readers:
            from mirage_cli.stream.families import open_prompts

            self._readers[options.model] = open_prompts(options.model)
        return self._readers[options.model].match(text)


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt and what it was understood as."""

    prompt: TimedPrompt
    match: PromptMatch

    @property
    def seconds(self) -> float:
        """When it begins."""
        return self.prompt.time_seconds or 0.0

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "time_seconds": self.prompt.time_seconds,
            "text": self.prompt.text,
            "look": self.match.look,
            "weights": {look: round(weight, 4) for look, weight in self.match.weights.items()},
            "similarity": round(float(self.match.similarity), 4),
            "known": bool(self.match.known),
        }


def read_prompts(prompts: list[TimedPrompt], models: ModelLoader, options: ModelOptions, ui: Ui) -> list[ReadPrompt]:
    """Find the looks of every prompt, and tell the user what each was taken for.

    Raises:
        UsageProblem: written weights that make no sense.
        ModelError: the model's looks or the text encoder cannot be read.
    """
    result = []
    for prompt in prompts:
        match = models.match(options, prompt.text)
        (ui.note if match.known else ui.warn)(match.message)
        result.append(ReadPrompt(prompt, match))
    return result


def track_of(read: list[ReadPrompt], blend_seconds: float) -> LookTrack:
    """The track of looks of a run, from its read prompts."""
    changes = [(item.seconds, item.match.weights) for item in read]
    return build_track(changes, blend_seconds)
