"""Endless roll-outs: a pool of streams that lives through the whole training.

Each iteration moves every stream on by one frame, grades the generated frame against its target and
feeds it back without gradient. So every graded frame after a stream's first stands on the model's own
output, up to the stream's whole length, at the price of one forward pass: roll-outs without the cost
of roll-outs. Streams end at random and start again elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.lsd.history import History
from mirage_cli.lsd.model import LSDNet, Past, luma
from mirage_cli.stream.planes import resize_flow, warp
from mirage_cli.training.camera import WalkConfig
from mirage_cli.training.data import PictureBank, VideoBank
from mirage_cli.training.playing import ClipPlayer, StillWalk

MEMORY_EVERY = 4  # frames between two writes of the memory bank; streams are shorter than at run time
TEAR_CELLS = 8  # a side of the noise that torn patches and their vectors are made of
TEAR_ABOVE = 0.8  # of that noise, standard normal: the patches are where it is larger
TEAR_VECTORS = 1.5  # standard deviation of the wrong vectors, in pixels of half size
WARPED_WITHIN = 0.1  # luma in [-1, 1]: if the warped last incoming frame is nearer than this, the motion is trusted


@dataclass(frozen=True)
class StreamConfig:
    """How streams live.

    Attributes:
        mean_frames: mean length of a stream.
        long_share: share of the streams that live ``long_frames`` on average instead: where a scene settles that
            hardly moves shows after hundreds of frames only.
        switch: chance a frame that the look changes while the past stays; as many times a life in long streams.
        weak: share of streams with a strength below one.
        noise: largest standard deviation of camera noise, in [-1, 1] units.
        many_steps: share of the frames graded at a flow time above zero.
        torn: share of the frames whose past is warped by wrong vectors in patches, as motion that is not found
            tears it; what to do about it is the frame's losses' to say, not the temporal one's.
        mixed: share of the streams with a mixture of two looks, whose target is the mixture of theirs.
        rollout, memory, motion: False for ablations: the past is the target instead of what was
            generated; the memory bank stays empty; the past is not warped.
    """

    mean_frames: float = 28.0
    long_share: float = 0.0
    long_frames: float = 400.0
    switch: float = 0.02
    weak: float = 0.2
    noise: float = 0.05
    many_steps: float = 0.2
    torn: float = 0.0
    mixed: float = 0.1
    rollout: bool = True
    memory: bool = True
    motion: bool = True
    walk: WalkConfig = field(default_factory=WalkConfig)


@dataclass
class Task:
    """One graded frame of every stream.

    Attributes:
        frame: incoming frames [B, 3, H, W]; target: what to generate.
        x_t: noised targets; t, d: flow time and step [B].
        look: mixture [B, L]; strength [B].
        past: before forcing.
        change: the target less the last target, warped [B, 3, H, W]; trusted: where that can be said
            [B, 1, H, W], else 0.
    """

    frame: Tensor
    target: Tensor
    x_t: Tensor
    t: Tensor
    d: Tensor
    look: Tensor
    strength: Tensor
    past: Past
    change: Tensor
    trusted: Tensor


class StreamPool:
    """B streams over the picture banks; ``next`` gives a task, ``feed`` takes what was generated.

    Args:
        banks: picture banks of one process, each with the share of the streams that it feeds.
        own: the looks trained here, indices into the model's looks; the banks hold just these.
        videos: real clips with the share of the streams that they feed, or None.
        finish: (look index, scene stage [n, C, H, W] in 0..1) -> the finished target [n, 3, H, W].
        screen_bound: indices of the looks that ``finish`` changes.
    """

    def __init__(
        self,
        banks: list[tuple[PictureBank, float]],
        own: list[int],
        net: LSDNet,
        streams: int,
        size: int,
        config: StreamConfig,
        finish: Callable[[int, Tensor], Tensor],
        screen_bound: Iterable[int],
        seed: int,
        videos: tuple[VideoBank, float] | None = None,
    ) -> None:
        self.config, self.finish, self.screen_bound, self.own = config, finish, set(screen_bound), own
        device = banks[0][0].photos.device
        self.device, self.looks = device, len(net.config.looks)
        self.own_index = torch.tensor(own, device=device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.channels = banks[0][0].channels
        self.sizes = [max(1, round(streams * share)) for _, share in banks]
        self.streams = streams = sum(self.sizes)
        self.walks: list[StillWalk | ClipPlayer] = [
            StillWalk(bank, n, size, config.walk, self.generator) for (bank, _), n in zip(banks, self.sizes)
        ]
        if videos is not None:
            count = max(1, round(streams * videos[1]))
            self.walks.append(ClipPlayer(videos[0], count, size, self.generator))
            self.sizes.append(count)
            self.streams = streams = streams + count
        self.history = History.empty(streams, size, size, device)
        self.slots, self.anchors = net.config.memory_slots, net.config.memory_anchors
        self.memory = net.empty_memory(streams).detach().clone()
        self.last_target = torch.zeros_like(self.history.last)
        self.age = torch.zeros(streams, dtype=torch.long, device=device)
        self.mean_age = self._mean_ages()
        self.writes = torch.zeros(streams, dtype=torch.long, device=device)
        self.index = torch.zeros(2, streams, dtype=torch.long, device=device)
        # positions in ``own``: the look, and the one mixed in with a weight
        self.look = torch.zeros(streams, dtype=torch.long, device=device)
        self.other = torch.zeros(streams, dtype=torch.long, device=device)
        self.other_weight = torch.zeros(streams, device=device)
        self.strength = torch.ones(streams, device=device)
        self.noise_level = torch.zeros(streams, device=device)
        self.noise = torch.zeros(streams, 3, size, size, device=device)
        self._restart(torch.ones(streams, dtype=torch.bool, device=device), net)

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device, generator=self.generator)

    def _pick(self, count: int, *shape: int) -> Tensor:
        return torch.randint(0, count, shape, device=self.device, generator=self.generator)

    def _mean_ages(self) -> Tensor:
        """How long each stream lives on average, in frames [B]; the long ones lie evenly among the others."""
        c = self.config
        place = torch.arange(self.streams, device=self.device)
        is_long = ((place + 1) * c.long_share).floor() > (place * c.long_share).floor()
        return torch.where(is_long, c.long_frames, c.mean_frames)

    def _forget(self, which: Tensor, net: LSDNet) -> None:
        """Empty the memory bank of some streams."""
        null = net.memory_null.detach()
        self.memory = torch.where(which[:, None, None], null.to(self.memory.dtype), self.memory)
        self.writes.masked_fill_(which, 0)

    def _restart(self, which: Tensor, net: LSDNet) -> None:
        n = self.streams
        for walk, part in zip(self.walks, which.split(self.sizes)):
            walk.restart(part)
        picks = [self._pick(walk.choices, 2, m) for walk, m in zip(self.walks, self.sizes)]
        self.index = torch.where(which, torch.cat(picks, dim=1), self.index)
        self._new_look(which)
        weak = self._rand(n) < self.config.weak
        self.strength = torch.where(which, torch.where(weak, self._rand(n), 1.0), self.strength)
        level = self.config.noise * self._rand(n) * (self._rand(n) < 0.5)
        self.noise_level = torch.where(which, level, self.noise_level)
        fresh = torch.randn(self.noise.shape, device=self.device, generator=self.generator)
        self.noise = torch.where(which[:, None, None, None], fresh, self.noise)
        self.history.valid.masked_fill_(which, 0.0)
        self.age.masked_fill_(which, 0)
        self._forget(which, net)

    def _new_look(self, which: Tensor) -> None:
        n = self.streams
        self.look = torch.where(which, self._pick(len(self.own), n), self.look)
        self.other = torch.where(which, self._pick(len(self.own), n), self.other)
        weight = self._rand(n) * (self._rand(n) < self.config.mixed)
        self.other_weight = torch.where(which, weight, self.other_weight)

    @torch.no_grad()
    def next(self, net: LSDNet) -> Task:
        """Move every stream on by one frame and say what is to be generated."""
        n, c = self.streams, self.config
        ended = (self._rand(n) < 1 / self.mean_age) & (self.age > 0)
        self._restart(ended, net)
        switched = (self._rand(n) < c.switch * c.mean_frames / self.mean_age) & (self.age > 2)
        self._new_look(switched)
        self._forget(switched, net)
        clean, styled = self._views()
        target = torch.lerp(clean, styled, self.strength[:, None, None, None])
        grain = torch.randn(clean.shape, device=self.device, generator=self.generator)
        frame = (clean + grain * self.noise_level[:, None, None, None]).clamp(-1, 1)
        frame = ((frame * 127.5 + 127.5).round() / 127.5 - 1).contiguous()
        steps = torch.where(self._rand(n) < c.many_steps, self._pick(3, n) + 2, 1)
        t = (self._rand(n) * steps).floor() / steps
        x_t = torch.lerp(self.noise, target, t[:, None, None, None])
        flow = self.history.motion_to(frame)
        if not c.motion:
            flow = torch.zeros_like(flow)
        flow, torn = self._torn(flow)
        past, _ = self.history.warped_to(frame, self.memory, net.memory_null.detach(), flow)
        # Warped exactly as the past is; else the loss would ask for what one warp sharpens more than the other.
        change = target - warp(self.last_target, resize_flow(flow, 2), cubic=True).clamp(-1, 1)
        found = (luma(frame) - past.input_luma).abs() < WARPED_WITHIN
        trusted = found * (1 - torn) * (past.valid * ~switched)[:, None, None, None]
        self.last_target = target
        one_hot = F.one_hot(self.own_index[torch.stack((self.look, self.other))], self.looks).float()
        look = torch.lerp(one_hot[0], one_hot[1], self.other_weight[:, None])
        return Task(frame, target, x_t, t, 1.0 / steps, look, self.strength, past, change, trusted)

    def _torn(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Flow [B, 2, H/2, W/2] with wrong vectors in patches of some streams; where: [B, 1, H, W], 1 or 0."""
        n, _, height, width = flow.shape
        if not self.config.torn:
            return flow, flow.new_zeros(n, 1, 2 * height, 2 * width)

        def noise(channels: int) -> Tensor:
            small = torch.randn(n, channels, TEAR_CELLS, TEAR_CELLS, device=self.device, generator=self.generator)
            return F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)

        hit = self._rand(n) < self.config.torn
        where = (noise(1) > TEAR_ABOVE) * hit[:, None, None, None]
        return flow + where * TEAR_VECTORS * noise(2), F.interpolate(where.float(), scale_factor=2.0)

    def _views(self) -> tuple[Tensor, Tensor]:
        """Move the cameras on: what they show of the stills and of the finished looks, [B, 3, H, W] each."""
        views = []
        parts = zip(*(x.split(self.sizes) for x in (self.look, self.other)), self.index.split(self.sizes, dim=1))
        for walk, (look, other, index) in zip(self.walks, parts):
            walk.advance()
            views.append(walk.view(index, look, other))
        seen = torch.cat(views)
        clean, pictures = seen[:, :3], seen[:, 3:].unflatten(1, (2, 4))  # [B, 2, 4, H, W]: look, mixed in
        finished = pictures[:, :, :3].clone()
        present = torch.stack((self.look, self.other), dim=1).tolist()  # one wait for the device, not one a look
        for position, look in enumerate(self.own):
            places = [(row, k) for row, pair in enumerate(present) for k in (0, 1) if pair[k] == position]
            if look in self.screen_bound and places:
                rows, which = zip(*places)
                scene = pictures[rows, which, : self.channels[position]] * 0.5 + 0.5
                finished[rows, which] = self.finish(look, scene).to(finished.dtype) * 2 - 1
        return clean, torch.lerp(finished[:, 0], finished[:, 1], self.other_weight[:, None, None, None])

    @torch.no_grad()
    def feed(self, task: Task, generated: Tensor, tokens: Tensor) -> None:
        """Take the generated frames [B, 3, H, W] and their memory tokens [B, m, C] into the past."""
        if not self.config.rollout:
            generated = task.target
        self.history.advance(task.past, task.frame, generated.detach().float())
        self.age += 1
        if not self.config.memory:
            return
        due = (self.age - 1) % MEMORY_EVERY == 0
        ring = self.anchors + (self.writes - self.anchors) % (self.slots - self.anchors)
        slot = torch.where(self.writes < self.anchors, self.writes, ring)
        bank = self.memory.unflatten(1, (self.slots, -1))
        rows = torch.arange(self.streams, device=self.device)
        bank[rows, slot] = torch.where(due[:, None, None], tokens.detach().to(bank.dtype), bank[rows, slot])
        self.writes += due
