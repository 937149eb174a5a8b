"""``mirage transform``: one file or pipe in, one file or pipe out, no frame dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirage_cli.config import PIPE, Size, TransformConfig
from mirage_cli.errors import Interrupted, MediaError, MirageError, UsageProblem
from mirage_cli.frames import Frame, FrameSink, FrameSource, Ui
from mirage_cli.inputs.open import open_input
from mirage_cli.inputs.wrappers import SkippingSource
from mirage_cli.measure import Meter, PeakMemory, Stats
from mirage_cli.media.addresses import is_url
from mirage_cli.outputs.names import check_targets, shown_target, without_secrets
from mirage_cli.outputs.open import check_output, check_unfinished, default_output, open_sink
from mirage_cli.outputs.segments import JobSink
from mirage_cli.pipeline import run as run_pipeline
from mirage_cli.prompts.track import parse_prompts
from mirage_cli.styling.account import account, stats_of
from mirage_cli.styling.loading import ReadPrompt, read_prompts, track_of
from mirage_cli.styling.stopping import StopSwitch
from mirage_cli.styling.styler import Engine, Styler, side_by_side

TIMEOUT_SECONDS = 120.0
"""A source or sink that hangs for so long is lost; ``--timeout`` sets another time."""


def run(
    config: TransformConfig,
    ui: Ui,
    *,
    engine: Engine | None = None,
    stop: StopSwitch | None = None,
    clock: Callable[[], float] = time.perf_counter,
    begun_seconds: float | None = None,
) -> dict[str, Any]:
    """Do the whole job.

    Args:
        config: what is asked for.
        ui: is told of progress, notes and warnings.
        engine: loads model and prompts; tests pass their own.
        stop: ends the run early; what is written by then is finished and kept.
        clock: seconds, for all latencies.
        begun_seconds: when the program started on that clock, for the time to the first frame.

    Returns:
        The document of ``--json``: see ``_Job.document``.

    Raises:
        MirageError: of the kind that fits; no output is left behind.
        Interrupted: stopped before the first frame was written; no output is left behind.
    """
    engine, stop = engine or Engine(), stop or StopSwitch()
    begun = clock() if begun_seconds is None else begun_seconds
    stop.graceful = False  # it may have served another job
    prompts = parse_prompts(config.prompts)
    target = config.output
    if target is None and (config.input == PIPE or is_url(config.input)):
        raise UsageProblem(
            f"the output needs a name when the input is {without_secrets(config.input)!r}",
            "Add -o out.mp4, or -o - for a pipe.",
        )

    def check(name: str) -> None:
        check_output(config.input, name, config.overwrite, ui)
        check_unfinished(config, name)

    check_targets([name for name in (target, *config.more_outputs) if name is not None], check)
    engine.check_model(config.model)
    source, size, input_size = open_input(config, engine, ui)
    sink: FrameSink | None = None
    finished = False
    try:
        read = read_prompts(prompts, engine, config.model, ui)
        if target is None:
            target = default_output(config.input, read[0].match.look)
            check(target)
        source.warnings.extend(_late_prompts(read, source.info.duration_seconds))
        stop.graceful = True  # a signal while the file is made must not leave it behind
        sink = open_sink(config, target, source, size, ui.warn, stop.event)  # before the model: errors come fast
        stop.graceful = False
        if stop.event.is_set():
            raise Interrupted("interrupted before the first frame: nothing was written")
        session = engine.session(config.model, *size)
        styler = Styler(session, track_of(read, config.blend_seconds), Meter(), size)
        job = _Job(config, ui, source, sink, styler, read, target, input_size, stop, clock, begun)
        job.go_on()
        job.flow()
        written = job.resumed_at + styler.meter.frames_out
        if stop.event.is_set() and not written:
            raise Interrupted("interrupted before the first frame: nothing was written")
        if not written:
            raise MediaError(
                f"no frame could be decoded from {without_secrets(config.input)!r}",
                "Check that it holds video: ffmpeg -i FILE lists its streams.",
            )
        job.memory.sample()
        sink.close(commit=True)
        job.flow_end = clock()
        _let_go(sink, ui, keep=stop.event.is_set() and config.resume)
        finished = True
    except BaseException as error:
        if sink is not None and not finished:
            sink.close(commit=False)
            _let_go(sink, ui, keep=True, error=error)
        raise
    finally:
        source.close()
    return job.document()


def _late_prompts(read: list[ReadPrompt], seconds: float | None) -> list[str]:
    """What a user should know of prompts whose time comes late, or never."""
    late = [item.prompt for item in read if seconds is not None and item.prompt.time_seconds >= seconds]
    told = [
        f"the prompt {p.text!r} begins at {p.time_seconds:g} s, and the input lasts {seconds:.1f} s: it is never shown"
        for p in late
    ]
    first = read[0].prompt
    if first.time_seconds > 0 and first not in late:
        told.append(f"the picture is unchanged until {first.time_seconds:g} s, when the prompt {first.text!r} begins")
    return told


def _let_go(sink: FrameSink, ui: Ui, keep: bool, error: BaseException | None = None) -> None:
    """Take the folder of the job away, or keep what is whole in it and say how to go on."""
    if not isinstance(sink, JobSink):
        return
    if not keep or not sink.kept:
        sink.folder.remove()
        return
    sink.folder.release()
    how = f"{sink.kept} frames are kept: add --resume to go on from there"
    if isinstance(error, MirageError) and not isinstance(error, Interrupted):
        error.remedy = f"{error.remedy.rstrip('. ')}. {how}." if error.remedy else f"{how}."
    else:
        ui.note(how)


class _Job:
    """The flow of one transform and its account."""

    def __init__(
        self,
        config: TransformConfig,
        ui: Ui,
        source: FrameSource,
        sink: FrameSink,
        styler: Styler,
        read: list[ReadPrompt],
        target: str,
        input_size: Size,
        stop: StopSwitch,
        clock: Callable[[], float],
        begun: float,
    ) -> None:
        self.config, self.ui, self.source, self.sink = config, ui, source, sink
        self.styler, self.read, self.target, self.input_size = styler, read, target, input_size
        self.stop, self.clock, self.begun = stop, clock, begun
        self.memory = PeakMemory()
        self.about = dict(styler.session.describe())
        self.on_gpu = getattr(styler.session, "copies", None) is not None
        self.flow_begin = self.flow_end = self.pipeline_seconds = 0.0
        self.resumed_at = 0
        self._next_sample = 0.0

    def go_on(self) -> None:
        """Take up a job that was killed: its state, and the frames after what is whole."""
        if not isinstance(self.sink, JobSink) or not self.sink.resumed_at:
            return
        arrays, facts = self.sink.folder.read_state()
        self.styler.session.load_state((arrays, facts))
        run = facts["run"]
        self.styler.frames = self.resumed_at = self.sink.resumed_at
        self.styler.cuts, self.styler.guard_count = run["cuts"], run["guard_count"]
        self.styler.guard_events.extend(run["guard_events"])
        self.source = SkippingSource(self.source, self.resumed_at)
        self.ui.note(f"going on at frame {self.resumed_at}")

    def _step(self, frame: Frame) -> Any:
        rgb = self.styler.step(frame)
        if isinstance(self.sink, JobSink) and self.sink.state_due(frame.index + 1):
            arrays, facts = self.styler.session.state()
            run = {
                "cuts": self.styler.cuts,
                "guard_count": self.styler.guard_count,
                "guard_events": list(self.styler.guard_events),
            }
            self.sink.offer_state(frame.index + 1, (arrays, {**facts, "run": run}))
        return rgb

    @property
    def _timeout_seconds(self) -> float | None:
        """A pipe may rest as long as whoever is at its other end likes."""
        piped = PIPE in (self.config.input, self.target)
        return self.config.timeout_seconds or (None if piped else TIMEOUT_SECONDS)

    def flow(self) -> None:
        self.flow_begin = self.clock()
        self.stop.graceful = True
        ended = run_pipeline(
            self.source,
            self._step,
            self.sink,
            meter=self.styler.meter,
            stop=self.stop.event,
            ahead=self.styler.ahead(),
            compose=side_by_side if self.config.compare else None,
            tick=self._tick,
            timeout_seconds=self._timeout_seconds,
            names=(without_secrets(self.config.input), without_secrets(self.target)),
            clock=self.clock,
        )
        self.pipeline_seconds = ended.seconds

    def _tick(self) -> None:
        now = self.clock()
        if now >= self._next_sample:
            self._next_sample = now + 1.0
            self.memory.sample()
        self.ui.tick(self._stats)

    def _lost(self) -> str:
        """What is being done about an output that is lost."""
        state = getattr(self.sink, "state", "")
        return "" if state == "connected" else state

    def _stats(self) -> Stats:
        position = self.styler.meter.last_out_pts_seconds
        prompt = next((r.prompt.text for r in reversed(self.read) if r.prompt.time_seconds <= position), "(unchanged)")
        return stats_of(
            "transform",
            "standard input" if self.config.input == PIPE else Path(self.config.input).name,
            shown_target(self.target),
            prompt,
            self.styler,
            self.about,
            self.clock(),
            self.flow_begin,
            frames_total=self.source.info.frame_count,
            message="ending: the file is being finished" if self.stop.event.is_set() else self._lost(),
        )

    def document(self) -> dict[str, Any]:
        """What happened, as plain data; ``seconds`` is until the file is finished, ``busy`` and ``limiting_stage``
        are explained at ``Meter.busy``."""
        meter = self.styler.meter
        return {
            "command": "transform",
            "input": without_secrets(self.config.input),
            "output": without_secrets(self.target),
            "more_outputs": list(map(without_secrets, self.config.more_outputs)),
            "resumed_at_frame": self.resumed_at,
            "input_size": [*self.input_size],
            "prompts": [item.document() for item in self.read],
            "video_seconds": round(meter.last_out_pts_seconds, 3),
            "model_seconds": round(meter.stages["model"].total_ms / 1e3, 3),
            **meter.busy(self.pipeline_seconds, on_gpu=self.on_gpu),
            **account(
                self.styler,
                self.config.model,
                self.source,
                self.sink,
                self.memory,
                self.flow_end - self.flow_begin,
                self.begun,
            ),
            "interrupted": self.stop.event.is_set(),
        }
