"""Validation on stills never trained on, along a camera path that returns to its start.

The path closes every ``period`` frames, so that the same view comes back: a model that accumulates
errors is worse at a later return than at the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mirage_cli.lsd.history import History
from mirage_cli.lsd.memory import MemoryBank
from mirage_cli.lsd.model import LSDNet, screen_channels
from mirage_cli.lsd.sampling import compose, sample, schedule
from mirage_cli.training.camera import CameraWalk, WalkConfig
from mirage_cli.training.data import PictureBank, load_stills, render_bank, shuffled
from mirage_cli.training.teachers import Teachers


@torch.inference_mode()
def rolling(
    net: LSDNet, frames: Iterable[Tensor], look: Tensor, noise: Tensor, steps: int, use_past: bool = True,
    strength: float = 1.0, memory: bool = True, motion: bool = True,
) -> Iterator[Tensor]:  # fmt: skip
    """Generate a video from a given one, a frame at a time: each [B, 3, H, W] in [-1, 1] -> the same shape.

    Args:
        look: mixtures [B, L]; noise: [B, 3, H, W], the same for all frames.
        use_past: False hides history and memory, frame by frame translation.
        strength: 0 to 1, of all streams.
        memory, motion: False leaves the memory bank empty, or the past where it was.
    """
    batch, _, height, width = noise.shape
    device = noise.device
    screen = screen_channels(height, width, device)
    one, vector = torch.ones(batch, device=device), net.look_vector(look)
    told = {v: torch.full((batch, 3), 0.0 if v else 1.0, device=device) for v in (True, False)}
    modulations = {
        v: [net.modulation(vector, one * t, one * d, told[v], one * strength) for t, d in schedule(steps)]
        for v in (True, False)
    }
    history, bank = History.empty(batch, height, width, device), MemoryBank(net, batch)
    for number, frame in enumerate(frames):
        if not use_past:
            history.clear()
            bank.clear()
        past, _ = history.moved_to(frame, bank.tokens, bank.null, motion)
        prediction = sample(net, noise, frame, past, screen, modulations[number > 0 and use_past])
        out = compose(prediction, past.last)
        history.advance(past, frame, out)
        if memory:
            bank.offer(prediction.tokens)
        yield out


@torch.inference_mode()
def roll_out(net: LSDNet, frames: Tensor, look: Tensor, noise: Tensor, steps: int, use_past: bool = True) -> Tensor:
    """``rolling`` over a whole video: frames [T, B, 3, H, W] -> the same shape."""
    out = torch.empty_like(frames)
    for number, picture in enumerate(rolling(net, frames, look, noise, steps, use_past)):
        out[number] = picture
    return out


def closed_path(walk: CameraWalk, frame: int, period: int) -> None:
    """Put the camera where it is at this frame of a loop: an ellipse with a slow turn and zoom."""
    phase = 2 * math.pi * frame / period
    limits = walk._limits()
    walk.pose.zero_()
    walk.pose[:, 0] = 0.8 * limits[0] * math.sin(phase)
    walk.pose[:, 1] = 0.8 * limits[1] * (1 - math.cos(phase)) / 2
    walk.pose[:, 2] = 0.06 * math.sin(phase)
    walk.pose[:, 3] = 0.06 * math.sin(phase)
    walk.has_object.zero_()
    walk.flip.fill_(1.0)


@torch.inference_mode()
def known_warp(
    bank: PictureBank, teachers: Teachers, number: int, position: int, walk: CameraWalk, period: int
) -> tuple[Tensor, Tensor]:
    """A video along the closed path over every still of a bank, and its target, exactly coherent.

    Args:
        number: the look among the teachers' looks; position: among the bank's.
        walk: one stream for each still.

    Returns:
        (frames, targets), [period, B, 3, h, w] in [-1, 1].
    """
    index = torch.arange(len(bank), device=bank.photos.device)
    pairs = bank.gather(index, torch.full_like(index, position))
    frames, targets = [], []
    for i in range(period):
        closed_path(walk, i, period)
        view = walk.look(pairs, pairs)
        frames.append(view[:, :3].clamp(-1, 1))
        scene = view[:, 3 : 3 + bank.channels[position]]
        if number in teachers.screen_bound:
            scene = teachers.screen(number, scene * 0.5 + 0.5) * 2 - 1
        targets.append(scene)
    return torch.stack(frames), torch.stack(targets)


def validate(trainer, period: int = 60, returns: int = 3) -> dict:
    """L1 to the teacher in every look: first frames, at each return, and with the past hidden.

    Each process does its own looks. Writes sheetR.jpg (a row a look: input, target and output of the
    first frame and of one half round on, and the last output) and validationR.json into the run's folder.
    """
    c, net, device = trainer.config, trainer.net, trainer.device
    stills = shuffled(load_stills(Path(c.data), "val", c.shippable_only, 0, 0), 5)[:4]
    looks, own = net.config.looks, trainer.own
    trained = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(trainer.mean.values)
    net.eval()
    height, width, _ = c.banks[0]
    bank = render_bank(stills, [looks[i] for i in own], trainer.teachers.scene, height, width, device)
    generator = torch.Generator(device).manual_seed(3)
    report, rows = {}, []
    for position, number in enumerate(own):
        name, n = looks[number], len(stills)
        walk = CameraWalk(n, (c.size, c.size), (height, width), WalkConfig(), device, generator)
        frames, target = known_warp(bank, trainer.teachers, number, position, walk, period)
        video = frames.repeat(returns, 1, 1, 1, 1)[: period * (returns - 1) + 10]
        noise = torch.randn(n, 3, c.size, c.size, device=device, generator=generator)
        mixture = torch.nn.functional.one_hot(torch.full((n,), number, device=device), len(looks)).float()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            out = roll_out(net, video, mixture, noise, 1)
            alone = roll_out(net, video[:period], mixture, noise, 1, use_past=False)
        error = torch.stack([(out[i] - target[i % period]).abs().mean() for i in range(len(out))]).tolist()
        still_error = (alone - target).abs().mean(dim=(1, 2, 3, 4)).tolist()
        report[name] = {
            "first_5": float(np.mean(error[:5])),
            "first_round": float(np.mean(error[:period])),
            "past_hidden": float(np.mean(still_error)),
            "returns": [float(np.mean(error[k * period : k * period + 5])) for k in range(1, returns)],
        }
        half = period // 2
        views = [frames[0][0], target[0][0], out[0][0], frames[half][0], target[half][0], out[half][0], out[-10][0]]
        rows.append(torch.cat(views, dim=-1))
    net.load_state_dict(trained)
    sheet = ((torch.cat(rows, dim=-2) * 0.5 + 0.5).clamp(0, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()
    name = trainer.run / f"sheet{trainer.rank}.jpg"
    cv2.imwrite(str(name), np.ascontiguousarray(sheet[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    keys = ("first_5", "first_round", "past_hidden")
    mean = {k: float(np.mean([r[k] for r in report.values()])) for k in keys}
    mean["returns"] = np.mean([r["returns"] for r in report.values()], axis=0).tolist()
    record = {"mean": mean, "looks": report}
    (trainer.run / f"validation{trainer.rank}.json").write_text(json.dumps(record, indent=1))
    trainer.say("validation " + json.dumps(mean))
    return record
