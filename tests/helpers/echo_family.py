"""A family of models without a network: the frame's negative, with some of the last one in it. Any text is a look."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mirage_cli.prompts.reader import PromptMatch
from mirage_cli.stream.model import Look, Model, Painted, Painter, Stage, unmarked

KIND = "echo"
STRIDE = 32


class EchoPainter(Painter):
    """A quarter of the last frame, three quarters of the negative; text with "bright" in it brightens."""

    backend, reason = "torch", "an echo"

    def __init__(self, size: tuple[int, int]) -> None:
        width, height = size
        self.last, self.light = torch.zeros(1, 3, height, width), 0.0

    def paint(self, rgb: Tensor, done: Stage = unmarked) -> Painted:
        negative = (255.0 - rgb.permute(2, 0, 1)[None] + self.light).clamp(0, 255)
        self.last.copy_(torch.where(self.last.sum() > 0, 0.75 * negative + 0.25 * self.last, negative))
        done("denoise")
        return Painted(self.last[0].permute(1, 2, 0).to(torch.uint8), torch.tensor([0, 1], dtype=torch.int32))

    def condition(self, look: Look, strength: float) -> None:
        self.light = 40 * strength * sum(weight for text, weight in look.items() if "bright" in text)

    def forget(self) -> None:
        self.last.zero_()

    def state(self) -> dict[str, Tensor]:
        return {"last": self.last}


class AnyText:
    """Takes every prompt as it is."""

    def match(self, prompt: str) -> PromptMatch:
        return PromptMatch({prompt: 1.0}, prompt, 1.0, True, f"'{prompt}' is taken as it is")


@dataclass(eq=False)
class EchoModel(Model):
    name: str
    path: Path
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    dtype_reason: str = "a test"
    stride: int = STRIDE
    steps_allowed: range = range(1, 3)
    painters: list[EchoPainter] = field(default_factory=list)

    first_look = {"": 1.0}
    prompts = AnyText()

    def accepts(self, key: str) -> bool:
        return True

    def needed_bytes(self, size: tuple[int, int], steps: int) -> int:
        return 16 * size[0] * size[1] * steps

    def painter(self, size: tuple[int, int], *, steps: int, seed: int, backend: str = "auto") -> EchoPainter:
        self.painters.append(EchoPainter(size))
        return self.painters[-1]

    plain = painter


def open_model(name: str, folder: Path, device: torch.device, dtype: str) -> EchoModel:
    return EchoModel(name, folder)


def look_names(folder: Path) -> list[str]:
    return []


def open_prompts(folder: Path) -> AnyText:
    return AnyText()


def write_model(folder: Path) -> Path:
    """A model folder of this family."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": KIND}))
    (folder / "model.safetensors").write_bytes(b"none")
    return folder
