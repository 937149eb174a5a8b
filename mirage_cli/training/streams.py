"""Endless roll-outs: a pool of streams that lives through the whole training.

Each iteration moves every stream on by one frame, grades the generated frame against its target and
feeds it back without gradient. So every graded frame after a stream's first stands on the model's own
output, up to the stream's whole length, at the price of one forward pass: roll-outs without the cost
of roll-outs. Streams end at random and start again elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.lsd.history import History
from mirage_cli.lsd.model import LSDNet, Past
from mirage_cli.training.camera import CameraWalk, WalkConfig
from mirage_cli.training.data import PictureBank

MEMORY_EVERY = 4  # frames between two writes of the memory bank; streams are shorter than at run time


@dataclass(frozen=True)
class StreamConfig:
    """How streams live.

    Attributes:
        mean_frames: mean length of a stream.
        switch: chance a frame that the look changes while the past stays.
        weak: share of streams with a strength below one.
        noise: largest standard deviation of camera noise, in [-1, 1] units.
        many_steps: share of the frames graded at a flow time above zero.
    """

    mean_frames: float = 28.0
    switch: float = 0.02
    weak: float = 0.2
    noise: float = 0.05
    many_steps: float = 0.2
    walk: WalkConfig = field(default_factory=WalkConfig)


@dataclass
class Task:
    """One graded frame of every stream.

    Attributes:
        frame: incoming frames [B, 3, H, W]; target: what to generate.
        x_t: noised targets; t, d: flow time and step [B].
        look: one-hot mixture [B, L]; strength [B].
        past: before forcing.
    """

    frame: Tensor
    target: Tensor
    x_t: Tensor
    t: Tensor
    d: Tensor
    look: Tensor
    strength: Tensor
    past: Past


class StreamPool:
    """B streams over the picture banks; ``next`` gives a task, ``feed`` takes what was generated.

    Args:
        banks: picture banks of one process, each with the share of the streams that it feeds.
        own: the looks trained here, indices into the model's looks; the banks hold just these.
        finish: (look index, scene stage [n, C, H, W] in 0..1) -> the finished target [n, 3, H, W].
        screen_bound: indices of the looks that ``finish`` changes.
    """

    def __init__(
        self, banks: list[tuple[PictureBank, float]], own: list[int], net: LSDNet, streams: int, size: int,
        config: StreamConfig, finish, screen_bound, seed: int,
    ) -> None:  # fmt: skip
        self.config, self.finish, self.screen_bound, self.own = config, finish, set(screen_bound), own
        device = banks[0][0].photos.device
        self.device, self.looks = device, len(net.config.looks)
        self.own_index = torch.tensor(own, device=device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.banks = [bank for bank, _ in banks]
        self.sizes = [max(1, round(streams * share)) for _, share in banks]
        self.streams = streams = sum(self.sizes)
        self.walks = [
            CameraWalk(n, (size, size), tuple(bank.photos.shape[2:]), config.walk, device, self.generator)
            for bank, n in zip(self.banks, self.sizes)
        ]
        self.history = History.empty(streams, size, size, device)
        self.slots, self.anchors = net.config.memory_slots, net.config.memory_anchors
        self.memory = net.empty_memory(streams).detach().clone()
        self.age = torch.zeros(streams, dtype=torch.long, device=device)
        self.writes = torch.zeros(streams, dtype=torch.long, device=device)
        self.index = torch.zeros(2, streams, dtype=torch.long, device=device)
        self.look = torch.zeros(streams, dtype=torch.long, device=device)  # position in ``own``
        self.strength = torch.ones(streams, device=device)
        self.noise_level = torch.zeros(streams, device=device)
        self.noise = torch.zeros(streams, 3, size, size, device=device)
        self._restart(torch.ones(streams, dtype=torch.bool, device=device), net)

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device, generator=self.generator)

    def _pick(self, count: int, *shape: int) -> Tensor:
        return torch.randint(0, count, shape, device=self.device, generator=self.generator)

    def _forget(self, which: Tensor, net: LSDNet) -> None:
        """Empty the memory bank of some streams."""
        null = net.memory_null.detach()
        self.memory = torch.where(which[:, None, None], null.to(self.memory.dtype), self.memory)
        self.writes.masked_fill_(which, 0)

    def _restart(self, which: Tensor, net: LSDNet) -> None:
        n = self.streams
        for walk, part in zip(self.walks, which.split(self.sizes)):
            walk.restart(part)
        picks = [self._pick(len(bank), 2, m) for bank, m in zip(self.banks, self.sizes)]
        self.index = torch.where(which, torch.cat(picks, dim=1), self.index)
        self.look = torch.where(which, self._pick(len(self.own), n), self.look)
        weak = self._rand(n) < self.config.weak
        self.strength = torch.where(which, torch.where(weak, self._rand(n), 1.0), self.strength)
        level = self.config.noise * self._rand(n) * (self._rand(n) < 0.5)
        self.noise_level = torch.where(which, level, self.noise_level)
        fresh = torch.randn(self.noise.shape, device=self.device, generator=self.generator)
        self.noise = torch.where(which[:, None, None, None], fresh, self.noise)
        self.history.valid.masked_fill_(which, 0.0)
        self.age.masked_fill_(which, 0)
        self._forget(which, net)

    @torch.no_grad()
    def next(self, net: LSDNet) -> Task:
        """Move every stream on by one frame and say what is to be generated."""
        n, c = self.streams, self.config
        ended = (self._rand(n) < 1 / c.mean_frames) & (self.age > 0)
        self._restart(ended, net)
        switched = (self._rand(n) < c.switch) & (self.age > 2)
        self.look = torch.where(switched, self._pick(len(self.own), n), self.look)
        self._forget(switched, net)
        clean, styled = self._views()
        target = torch.lerp(clean, styled, self.strength[:, None, None, None])
        grain = torch.randn(clean.shape, device=self.device, generator=self.generator)
        frame = (clean + grain * self.noise_level[:, None, None, None]).clamp(-1, 1)
        frame = ((frame * 127.5 + 127.5).round() / 127.5 - 1).contiguous()
        steps = torch.where(self._rand(n) < c.many_steps, self._pick(3, n) + 2, 1)
        t = (self._rand(n) * steps).floor() / steps
        x_t = torch.lerp(self.noise, target, t[:, None, None, None])
        past, _ = self.history.moved_to(frame, self.memory, net.memory_null.detach())
        look = F.one_hot(self.own_index[self.look], self.looks).float()
        return Task(frame, target, x_t, t, 1.0 / steps, look, self.strength, past)

    def _views(self) -> tuple[Tensor, Tensor]:
        """Move the cameras on: what they show of the stills and of the finished looks, [B, 3, H, W] each."""
        views, looks = [], self.look.split(self.sizes)
        for bank, walk, index, look in zip(self.banks, self.walks, self.index.split(self.sizes, dim=1), looks):
            walk.advance()
            views.append(walk.look(bank.gather(index[0], look), bank.gather(index[1], look)))
        views = torch.cat(views)
        clean, styled = views[:, :3], views[:, 3:6].clone()
        present = self.look.tolist()  # one wait for the device instead of one a look
        for position, look in enumerate(self.own):
            rows = [row for row, there in enumerate(present) if there == position]
            if look in self.screen_bound and rows:
                scene = views[rows, 3 : 3 + self.banks[0].channels[position]] * 0.5 + 0.5
                styled[rows] = self.finish(look, scene).to(styled.dtype) * 2 - 1
        return clean, styled

    @torch.no_grad()
    def feed(self, task: Task, generated: Tensor, tokens: Tensor) -> None:
        """Take the generated frames [B, 3, H, W] and their memory tokens [B, m, C] into the past."""
        self.history.advance(task.past, task.frame, generated.detach().float())
        due = self.age % MEMORY_EVERY == 0
        ring = self.anchors + (self.writes - self.anchors) % (self.slots - self.anchors)
        slot = torch.where(self.writes < self.anchors, self.writes, ring)
        bank = self.memory.unflatten(1, (self.slots, -1))
        rows = torch.arange(self.streams, device=self.device)
        bank[rows, slot] = torch.where(due[:, None, None], tokens.detach().to(bank.dtype), bank[rows, slot])
        self.writes += due
        self.age += 1
