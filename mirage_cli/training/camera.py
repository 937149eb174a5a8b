"""Camera walks: a photo and its styled twin become a video whose target is exactly coherent in time.

Every stream looks through a window that drifts, turns and zooms over a still. Half of the streams
have an object in front, a blob cut from another still, that moves by itself: so the model sees
things appear from behind others. All state is tensors of one batch, on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class WalkConfig:
    """Ranges of the walks, in pixels, radians and factors a frame.

    Attributes:
        still_share: part of the streams whose camera stands still.
        max_speed: fastest pan in pixels a frame; speeds are log-uniform from 0.2.
        zoom: range of the window's scale; close to one, since strokes have a size on the screen.
        max_turn: radians a frame at the fastest pan.
        object_share: part of the streams with an object in front.
        cubic: sample the stills bicubic; bilinear takes up to half of the finest detail (variance of the Laplacian).
    """

    still_share: float = 0.2
    max_speed: float = 14.0
    zoom: tuple[float, float] = (0.88, 1.2)
    max_turn: float = 0.02
    object_share: float = 0.5
    cubic: bool = True


class CameraWalk:
    """Windows of size ``size`` over stills of ``still_size``, one a stream; ``restart`` and ``advance``.

    Args:
        streams: number of streams B.
        size: (height, width) of the window.
        still_size: (height, width) of the stills.
        generator: random numbers, on ``device``.
    """

    def __init__(
        self,
        streams: int,
        size: tuple[int, int],
        still_size: tuple[int, int],
        config: WalkConfig,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.config, self.size, self.still_size = config, size, still_size
        self.device, self.generator = device, generator
        # Pose: centre x, y (pixels from the still's centre), log zoom, angle. The object's pose is the same,
        # with its centre in window pixels.
        self.pose = torch.zeros(streams, 4, device=device)
        self.velocity = torch.zeros(streams, 4, device=device)
        self.speed = torch.zeros(streams, device=device)
        self.flip = torch.ones(streams, device=device)
        self.object_pose = torch.zeros(streams, 2, device=device)
        self.object_velocity = torch.zeros(streams, 2, device=device)
        self.object_anchor = torch.zeros(streams, 2, device=device)
        self.object_shape = torch.zeros(streams, 9, device=device)  # radius, then amplitude and phase of 4 waves
        self.has_object = torch.zeros(streams, device=device)
        y, x = torch.meshgrid(
            torch.arange(size[0], device=device) - (size[0] - 1) / 2,
            torch.arange(size[1], device=device) - (size[1] - 1) / 2,
            indexing="ij",
        )
        self.offsets = torch.stack((x, y), dim=-1)  # [h, w, 2], pixels from the window's centre
        self.restart(torch.ones(streams, dtype=torch.bool, device=device))

    def _uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, device=self.device, generator=self.generator) * (high - low) + low

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, generator=self.generator)

    def _limits(self) -> Tensor:
        """How far the window's centre may go from the still's centre: [2] in pixels, x then y."""
        reach = 0.5 * max(self.size) * self.config.zoom[1] * 1.06
        height, width = self.still_size
        return torch.tensor([max(width / 2 - reach, 4.0), max(height / 2 - reach, 4.0)], device=self.device)

    def restart(self, which: Tensor) -> None:
        """New walks for the streams in the mask [B]."""
        n, c = len(which), self.config
        low, high = (math.log(z) for z in c.zoom)
        place = (self._uniform(n, 2) * 2 - 1) * self._limits()
        pose = torch.cat((place, self._uniform(n, 1, low=low, high=high), self._normal(n, 1) * 0.05), dim=1)
        speed = torch.exp(self._uniform(n, low=math.log(0.2), high=math.log(c.max_speed)))
        speed = speed * (self._uniform(n) > c.still_share)
        radius = self._uniform(n, 1, low=0.12, high=0.34) * min(self.size)
        waves = torch.cat((self._uniform(n, 4, low=0, high=0.18), self._uniform(n, 4, high=2 * math.pi)), dim=1)
        fresh = {
            "pose": pose,
            "velocity": torch.zeros_like(pose),
            "speed": speed,
            "flip": (self._uniform(n) > 0.5).float() * 2 - 1,
            "object_pose": (self._uniform(n, 2) - 0.5) * min(self.size),
            "object_velocity": self._normal(n, 2) * torch.exp(self._uniform(n, 1, low=-1.5, high=2.2)),
            "object_anchor": (self._uniform(n, 2) * 2 - 1) * self._limits(),
            "object_shape": torch.cat((radius, waves), dim=1),
            "has_object": (self._uniform(n) < c.object_share).float(),
        }
        for name, value in fresh.items():
            old = getattr(self, name)
            old.copy_(torch.where(which.view(-1, *[1] * (old.dim() - 1)), value, old))

    def advance(self) -> None:
        """One frame on: a smooth random walk that turns back at the still's borders."""
        c = self.config
        scale = torch.tensor([1.0, 1.0, 0.012 / c.max_speed * 4, c.max_turn / c.max_speed * 2], device=self.device)
        kick = self._normal(*self.pose.shape) * self.speed[:, None] * scale
        self.velocity.mul_(0.9).add_(kick, alpha=0.45)
        self.pose.add_(self.velocity)
        limits = torch.cat((self._limits(), self.pose.new_tensor([1e9, 0.25])))
        self.velocity.copy_(torch.where(self.pose.abs() > limits, -0.7 * self.velocity, self.velocity))
        self.pose.copy_(torch.maximum(torch.minimum(self.pose, limits), -limits))
        self.pose[:, 2].clamp_(math.log(c.zoom[0]), math.log(c.zoom[1]))
        self.object_pose.add_(self.object_velocity)
        edge = torch.tensor([self.size[1], self.size[0]], device=self.device) * 0.55
        outside = self.object_pose.abs() > edge
        self.object_velocity.copy_(torch.where(outside, -self.object_velocity, self.object_velocity))
        self.object_pose.copy_(torch.maximum(torch.minimum(self.object_pose, edge), -edge))

    def _sample(self, stills: Tensor, position: Tensor) -> Tensor:
        """The stills [B, C, H, W], in [-1, 1], at these pixels from their centres [B, h, w, 2]: [B, C, h, w]."""
        height, width = self.still_size
        grid = position * position.new_tensor([2 / (width - 1), 2 / (height - 1)])
        mode = "bicubic" if self.config.cubic else "bilinear"
        # bicubic overshoots at edges
        return F.grid_sample(stills, grid, mode, "reflection", align_corners=True).clamp(-1, 1)

    def look(self, behind: Tensor, front: Tensor) -> Tensor:
        """What the windows show.

        Args:
            behind, front: stills [B, C, H, W] of each stream's background and object, in [-1, 1].

        Returns:
            [B, C, h, w].
        """
        angle, zoom = self.pose[:, 3], self.pose[:, 2].exp()
        turn = torch.stack(
            (torch.stack((angle.cos(), -angle.sin()), -1), torch.stack((angle.sin(), angle.cos()), -1)), -2
        )
        turn = turn * zoom[:, None, None]
        flip = torch.stack((self.flip, torch.ones_like(self.flip)), dim=-1)[:, None, None]
        position = torch.einsum("hwi,bji->bhwj", self.offsets, turn) + self.pose[:, None, None, :2]
        view = self._sample(behind, position * flip)
        local = self.offsets[None] - self.object_pose[:, None, None]
        inside = (local + self.object_anchor[:, None, None]) * flip
        pasted = self._sample(front, inside)
        polar = torch.atan2(local[..., 1], local[..., 0])
        radius = torch.ones_like(polar)
        for wave in range(4):
            amplitude = self.object_shape[:, 1 + wave, None, None]
            phase = self.object_shape[:, 5 + wave, None, None]
            radius = radius + amplitude * torch.cos((wave + 2) * polar + phase)
        radius = radius * self.object_shape[:, :1, None]
        mask = torch.sigmoid((radius - local.norm(dim=-1)) * 2.0) * self.has_object[:, None, None]
        return torch.lerp(view, pasted, mask[:, None])
