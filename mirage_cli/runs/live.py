"""``mirage live``: a camera, stream or file at its own pace; the newest frame wins."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mirage_cli.config import LiveConfig, Size
from mirage_cli.control.hub import Controls
from mirage_cli.control.steering import Steering, check_listeners
from mirage_cli.errors import Interrupted, MediaError, UsageProblem
from mirage_cli.frames import FrameSink, FrameSource, Ui
from mirage_cli.inputs.open import open_live
from mirage_cli.measure import Meter, Stats
from mirage_cli.media.place import Kind, Place
from mirage_cli.media.sound_line import SoundCarrier
from mirage_cli.outputs.fan_out import FanOut
from mirage_cli.outputs.names import check_targets, outputs_of
from mirage_cli.outputs.open import check_output, live_info, open_live_output
from mirage_cli.outputs.taps import TapSink
from mirage_cli.outputs.window import NullSink, WindowSink
from mirage_cli.pipeline import Flow, PipelineError, RunResult, run as run_pipeline
from mirage_cli.prompts.track import parse_prompts
from mirage_cli.runs.context import Clock, RunContext, side_by_side
from mirage_cli.runs.typing_lines import LineReader
from mirage_cli.styling.account import account, stats_of
from mirage_cli.styling.adaptive import LiveModels
from mirage_cli.styling.loading import ModelLoader, Models, read_prompts, track_of
from mirage_cli.styling.stopping import StopSwitch
from mirage_cli.styling.styler import Styler


def run(
    config: LiveConfig,
    ui: Ui,
    *,
    models: Models | None = None,
    stop: StopSwitch | None = None,
    keys: bool = True,
    clock: Clock = time.perf_counter,
    begun_seconds: float | None = None,
    started: Callable[[LiveRun], None] = lambda run: None,
) -> dict[str, Any]:
    """Run until the source ends, a limit is reached, q is typed, or a signal comes.

    Args:
        config: what is asked for.
        ui: is told of progress, notes and warnings.
        models: loads models and reads prompts; tests pass their own.
        stop: ends the run; a file that is written as well is finished and kept.
        keys: read prompts from standard input while running.
        clock: seconds, for the pace and all latencies.
        begun_seconds: when the program started on that clock, for the time to the first frame.
        started: gets the run before its first frame, for a program that steers it from another thread.

    Returns:
        The document of ``--json``: see ``LiveRun.document``.

    Raises:
        MirageError: of the kind that fits.
    """
    context, loader = RunContext.of(ui, stop, clock, begun_seconds), _keeping_up(config, models or Models(), ui)
    place, places = _input_of(config), outputs_of(config)
    prompts = parse_prompts(config.prompts)
    check_targets(places, lambda target: check_output(place, target, config.overwrite, ui))
    listeners = check_listeners(config)
    loader.check_model(config.model)
    with ExitStack() as stack:
        opened = open_live(place, config, ui, on_cpu=loader.is_cpu(config.model), clock=clock)
        source, size = opened.source, opened.size
        stack.callback(source.close)
        outputs = _Outputs(config, places, ui, Meter())
        stack.push(outputs.end)
        outputs.open_window(source, size)
        read = read_prompts(prompts, loader, config.model, ui)
        session = loader.session(config.model, *size)
        texts = [(item.seconds, item.prompt.text) for item in read]
        styler = Styler(session, track_of(read, config.blend_seconds), outputs.meter, size, texts)
        context.stop.graceful = True  # from here on there is a file to finish
        outputs.open(source, size, styler.number_of)
        steering = Steering(Controls(styler, loader, config.model, outputs.taps, context.stop), listeners, ui)
        stack.callback(steering.close)
        live = LiveRun(config, context, source, outputs, styler, steering, [item.document() for item in read])
        started(live)
        result = live.flow(keys and place.kind is not Kind.PIPE)
        live.finish()
    return live.document(result)


def _keeping_up(config: LiveConfig, models: Models, ui: Ui) -> ModelLoader:
    """The models, with sessions that adapt where the config asks for it."""
    if config.target_fps is None and config.skip_similar <= 0:
        return models
    return LiveModels(models, config.target_fps, config.skip_similar, ui.note)


def _input_of(config: LiveConfig) -> Place:
    """The one source that is given.

    Raises:
        UsageProblem: no source is given, or two.
    """
    if (config.camera is None) == (config.input is None):
        raise UsageProblem(
            "live needs one source: a camera or an input", "Use --camera 0, --input FILE, --input URL or --input test."
        )
    return Place.of_live_input(str(config.input)) if config.camera is None else Place.of_camera(config.camera)


class _Outputs:
    """The window and all other outputs of a live run; opened one after another, and closed together.

    Args:
        places: of all outputs but the window.
        meter: its frames_out says whether anything was written.

    Attributes:
        taps: passes frames on to all outputs, recordings and snapshots.
        sink: the same, with the source's sound where it has any.
        failed_part: source, model or sink, once the pipeline has failed.
    """

    taps: TapSink
    sink: FrameSink

    def __init__(self, config: LiveConfig, places: list[Place], ui: Ui, meter: Meter) -> None:
        self.config, self.places, self.ui, self.meter = config, places, ui, meter
        self.window: WindowSink | None = None
        self.failed_part = "run"
        self._fan_out: FanOut | None = None
        self._opened: list[FrameSink] = []  # what ``end`` closes

    def _shown_size(self, size: Size) -> Size:
        return size[0] * (2 if self.config.compare else 1), size[1]

    def open_window(self, source: FrameSource, size: Size) -> None:
        """Open the window, if there is to be one, for frames of ``size``."""
        if self.config.window:
            self.window = WindowSink(f"mirage: {source.info.name}", *self._shown_size(size))
            self._opened.append(self.window)

    def open(self, source: FrameSource, size: Size, number_of: Callable[[int], int]) -> None:
        """Open files and connections for frames of ``size``; ``number_of`` as in ``TapSink``.

        Raises:
            MediaError, UsageProblem: one cannot be opened; the others are discarded.
        """
        config, sound = self.config, source.sound
        with_line = sound is not None
        info = live_info(source.info, self._shown_size(size))

        def open_recording(path: str, **options: Any) -> FrameSink:
            from mirage_cli.outputs.file import open_output

            return open_output(path, info, crf=config.crf, with_line=with_line, **options)

        with ExitStack() as opened:
            sinks: list[tuple[str, FrameSink]] = []
            for target in self.places:
                sink = open_live_output(target, config, info, self.ui.warn, with_line=with_line)
                opened.callback(sink.close, commit=False)
                sinks.append((target.shown, sink))
            if config.sound and not with_line and any(place.is_address for place in self.places):
                self.ui.note(f"{source.info.name} gives no sound: what is sent is silent")
            if self.window is not None:
                sinks.append(("window", self.window))
            if sinks:
                self._fan_out = FanOut(sinks, self.ui.warn, self._goes_on)
            self.taps = TapSink(self._fan_out or NullSink(), config.record_folder, open_recording, number_of)
            if config.record:
                self.taps.record_from_start()
            opened.pop_all()  # all are open: from here on they belong to the taps
        self._opened.insert(0, self.taps)
        self.sink = self.taps if sound is None else SoundCarrier(self.taps, sound)

    def _goes_on(self) -> bool:
        """Whether the run goes on when every output has failed."""
        return self.config.preview is not None or self.taps.recording is not None

    @property
    def names(self) -> str:
        """All outputs, for the display."""
        names = [place.shown for place in self.places]
        return " + ".join([*names, "window"] if self.window is not None else names) or "nowhere"

    def end(self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None) -> None:
        """On the way out of a run that failed: close all outputs.

        A camera that is pulled out, or a model or output that fails, does not spoil what was written before.
        """
        if error is None:
            return
        failed = isinstance(error, Exception)
        for sink in self._opened:
            try:
                sink.close(commit=failed and self.meter.frames_out > 0)
            except Exception as problem:
                if problem is not error:
                    self.ui.warn(str(problem))
        if failed:
            self._name_kept()

    def _name_kept(self) -> None:
        """Name the outputs that were finished although the run failed."""
        whole = self._fan_out.whole if self._fan_out is not None else []
        names = ", ".join(place.typed for place in self.places if place.shown in whole)
        if names:
            part = "output" if self.failed_part == "sink" else self.failed_part
            self.ui.note(f"wrote {names}: what came before the {part} failed")

    def blame(self, error: BaseException) -> BaseException:
        """The error of outputs that hang, with the name of the one that does."""
        stuck = self._fan_out.inside if self._fan_out is not None else ""
        if stuck and isinstance(error, MediaError):
            error.message = error.message.replace(self.names, stuck)
            error.args = (error.message,)
        return error


@dataclass
class LiveRun:
    """A running live stream: its keys, limits and account.

    Attributes:
        prompts: the first ones, as they were understood.
        flow_begin: when frames began to flow, on the context's clock.
    """

    config: LiveConfig
    context: RunContext
    source: FrameSource
    outputs: _Outputs
    styler: Styler
    steering: Steering
    prompts: list[dict[str, Any]]
    flow_begin: float = 0.0

    def __post_init__(self) -> None:
        self.about = dict(self.styler.session.describe())
        self.steering.hub.stats = self.stats
        self.keys = LineReader(self.steering.line)
        self._announced = 0  # changes that were announced as applied

    def flow(self, keys: bool) -> RunResult:
        """Move frames until the run ends.

        Args:
            keys: read lines from standard input meanwhile.
        """
        self.flow_begin = self.context.clock()
        self.steering.start()
        self.context.stop.graceful = True
        if keys:
            self.keys.start()
        flow = Flow(
            self.source,
            self.styler.step,
            self.outputs.sink,
            self.styler.meter,
            newest_wins=True,
            stop=self.context.stop.event,
            max_frames=self.config.frames,
            compose=side_by_side if self.config.compare else None,
            tick=self._tick,
            tick_seconds=0.01,
            timeout_seconds=self.config.timeout_seconds,
            names=(self.source.info.name, self.outputs.names),
            clock=self.context.clock,
        )
        try:
            return run_pipeline(flow)
        except PipelineError as error:
            failed = error
        finally:
            self.keys.stop()
            self.steering.close()
            self._announce_applied()
        self.outputs.failed_part = failed.part
        raise self.outputs.blame(failed.cause)

    def finish(self) -> None:
        """Finish all outputs.

        Raises:
            Interrupted: a signal came before the first frame.
            MirageError: an output cannot be finished.
        """
        written = self.styler.meter.frames_out > 0
        if self.context.stop.by_signal and not written:
            raise Interrupted("interrupted before the first frame")
        self.context.memory.sample()
        self.outputs.sink.close(commit=written)

    def _tick(self) -> None:
        stop, window = self.context.stop, self.outputs.window
        limit = self.config.duration_seconds
        if limit is not None and self.context.clock() - self.flow_begin >= limit:
            stop.stop("duration")
        if window is not None and not window.pump():
            stop.stop("window")
        if self.styler.applied_count != self._announced:
            self._announce_applied()
        self.context.tick(self.stats)

    def _announce_applied(self) -> None:
        """Say at which frame a typed change took effect."""
        total = self.styler.applied_count
        new = total - self._announced
        for change in list(self.styler.applied)[-new:] if new else []:
            matched = self.steering.hub.matched
            found = f" ({matched})" if change["kind"] == "look" and matched else ""
            self.context.ui.note(f'"{change["text"]}" applied at frame {change["frame"]}{found}')
        self._announced = total

    def _connection(self) -> str:
        states = (self.source.state, self.outputs.taps.state)
        return "; ".join(state for state in states if state not in ("", "connected"))

    def stats(self) -> Stats:
        """What holds now, for the display and for clients."""
        return stats_of(
            self.styler,
            self.about,
            self.context.clock(),
            self.flow_begin,
            command="live",
            source=self.source.info.name,
            target=self.outputs.names,
            prompt=self.steering.hub.prompt,
            typed=self.keys.typed,
            message="ending" if self.context.stop.event.is_set() else self._connection(),
            strength=self.steering.hub.options.strength,
            paused=self.styler.paused,
            recording=self.outputs.taps.recording,
            control=self.steering.address,
        )

    def document(self, result: RunResult) -> dict[str, Any]:
        """What happened, as plain data."""
        meter, hub, window = self.styler.meter, self.steering.hub, self.outputs.window
        outputs = [place.typed for place in self.outputs.places]
        return {
            "command": "live",
            "input": self.source.info.name,
            "output": next(iter(outputs), None),
            "more_outputs": outputs[1:],
            "window": window.toolkit_name if window else None,
            "sound": self.outputs.sink is not self.outputs.taps,
            "prompts": self.prompts,
            "changes": list(self.styler.applied),
            "control_changes": {"applied": hub.changes, "refused": hub.refused},
            "files": list(self.outputs.taps.files),
            "ended_by": self.context.stop.reason or ("frames" if result.stopped else "source"),
            "fps_in": round(meter.frames_in / result.seconds, 2) if result.seconds else 0.0,
            **account(
                self.styler,
                self.config.model,
                [*self.source.warnings, *self.outputs.taps.warnings],
                self.context.memory,
                result.seconds,
                self.context.begun_seconds,
            ),
            "interrupted": self.context.stop.by_signal,
        }
