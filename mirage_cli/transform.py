"""``mirage transform``: one file or pipe in, one file or pipe out, no frame dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirage_cli.capture import ResizedSource
from mirage_cli.config import Size, TransformConfig
from mirage_cli.errors import Interrupted, MediaError, UsageProblem
from mirage_cli.ffmpeg_tools import is_url
from mirage_cli.frames import FrameSink, FrameSource
from mirage_cli.measure import Meter, PeakMemory, Stats
from mirage_cli.pipeline import run as run_pipeline
from mirage_cli.schedule import parse_prompts
from mirage_cli.styler import (
    Engine,
    ReadPrompt,
    StopSwitch,
    Styler,
    Ui,
    account,
    fit_source,
    read_prompts,
    side_by_side,
    stats_of,
    track_of,
)

CPU_LIMIT: Size = (768, 432)
"""More pixels than this are scaled down by default where the model runs on a CPU."""

PIPE = "-"


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
    prompts = parse_prompts(config.prompts)
    target = config.output
    if target is None and (config.input == PIPE or is_url(config.input)):
        raise UsageProblem(
            f"the output needs a name when the input is {config.input!r}",
            "Add -o out.mp4, or -o - for a pipe.",
        )
    if target is not None:
        check_output(config.input, target, config.overwrite, ui)
    engine.check_model(config.model)
    source, size, input_size = _open_source(config, engine, ui)
    sink: FrameSink | None = None
    finished = False
    try:
        read = read_prompts(prompts, engine, config.model, ui)
        if target is None:
            target = default_output(config.input, read[0].match.look)
            check_output(config.input, target, config.overwrite, ui)
        sink = _open_sink(config, target, source, size)  # before the model: its errors come fast
        session = engine.session(config.model, *size)
        styler = Styler(session, track_of(read, config.blend_seconds), Meter(), size)
        job = _Job(config, ui, source, sink, styler, read, target, input_size, stop, clock, begun)
        job.flow()
        written = styler.meter.frames_out
        if stop.event.is_set() and not written:
            raise Interrupted("interrupted before the first frame: nothing was written")
        if not written:
            raise MediaError(
                f"no frame could be decoded from {config.input!r}",
                "Check that it holds video: ffmpeg -i FILE lists its streams.",
            )
        job.memory.sample()
        sink.close(commit=True)
        job.flow_end = clock()
        finished = True
    finally:
        if sink is not None and not finished:
            sink.close(commit=False)
        source.close()
    return job.document()


def check_output(source: str, target: str, overwrite: bool | None, ui: Ui) -> None:
    """Refuse an output before any work is done, asking where a file may be in the way.

    Raises:
        MediaError: see ``video_out.check_target``.
    """
    from mirage_cli.video_out import check_target

    read_from = None if source == PIPE or is_url(source) else source
    check_target(
        target, read_from, lambda: ui.confirm_overwrite(target) if overwrite is None else overwrite
    )


def default_output(source: str, look: str) -> str:
    """``films/clip.mov`` and ``ink-wash`` -> ``films/clip.ink-wash.mp4``."""
    path = Path(source)
    return str(path.with_name(f"{path.stem}.{look}.mp4"))


def _open_source(
    config: TransformConfig, engine: Engine, ui: Ui
) -> tuple[FrameSource, Size, Size]:
    """The source at the size the model will run at, that size, and the input's own."""
    from mirage_cli.video_in import FileSource, open_file

    def open_at(size: Size | None) -> FileSource:
        return open_file(
            config.input,
            size=size,
            start_seconds=config.start_seconds,
            duration_seconds=config.duration_seconds,
            fps=config.fps,
            keep_sound=True,
        )

    opened = open_at(config.size if isinstance(config.size, tuple) else None)
    try:
        cpu = engine.is_cpu(config.model)
        reopen = open_at if opened.reopens else None
        source, size = fit_source(opened, config.size, cpu, CPU_LIMIT, ui, reopen)
    except BaseException:
        opened.close()
        raise
    video = opened.probe.video
    have = (opened.info.width, opened.info.height)
    return source, size, video.shown_size if video else have


def _open_sink(
    config: TransformConfig, target: str, source: FrameSource, size: Size
) -> FrameSink:
    from mirage_cli.video_out import open_output

    inner = source.source if isinstance(source, ResizedSource) else source
    width = size[0] * (2 if config.compare else 1)
    return open_output(
        target,
        replace(source.info, width=width, height=size[1]),
        codec=config.codec,
        crf=config.crf,
        audio_from=inner,  # type: ignore[arg-type]
        overwrite=True,  # asked for, or nothing there, by check_output
    )


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
        self.flow_begin = self.flow_end = 0.0
        self._next_sample = 0.0

    def flow(self) -> None:
        self.flow_begin = self.clock()
        self.stop.graceful = True
        try:
            run_pipeline(
                self.source,
                self.styler.step,
                self.sink,
                meter=self.styler.meter,
                stop=self.stop.event,
                compose=side_by_side if self.config.compare else None,
                tick=self._tick,
                clock=self.clock,
            )
        finally:
            self.stop.graceful = False

    def _tick(self) -> None:
        now = self.clock()
        if now >= self._next_sample:
            self._next_sample = now + 1.0
            self.memory.sample()
        self.ui.tick(self._stats)

    def _stats(self) -> Stats:
        position = self.styler.meter.last_out_pts_seconds
        prompt = next(
            (r.prompt.text for r in reversed(self.read) if r.prompt.time_seconds <= position),
            "(unchanged)",
        )
        return stats_of(
            "transform",
            "standard input" if self.config.input == PIPE else Path(self.config.input).name,
            "standard output" if self.target == PIPE else Path(self.target).name,
            prompt,
            self.styler,
            self.about,
            self.clock(),
            self.flow_begin,
            frames_total=self.source.info.frame_count,
            message="ending: the file is being finished" if self.stop.event.is_set() else "",
        )

    def document(self) -> dict[str, Any]:
        """What happened, as plain data; ``seconds`` is until the file is finished."""
        meter = self.styler.meter
        return {
            "command": "transform",
            "input": self.config.input,
            "output": self.target,
            "input_size": [*self.input_size],
            "prompts": [item.document() for item in self.read],
            "video_seconds": round(meter.last_out_pts_seconds, 3),
            "model_seconds": round(meter.stages["model"].total_ms / 1e3, 3),
            **account(
                self.styler, self.config.model, self.source, self.sink, self.memory,
                self.flow_end - self.flow_begin, self.begun,
            ),
            "interrupted": self.stop.event.is_set(),
        }
