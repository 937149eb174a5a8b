"""``mirage live``: a camera, stream or file at its own pace; the newest frame wins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mirage_cli.config import PIPE, LiveConfig, Size
from mirage_cli.control.steering import Doors, Steering, check_doors
from mirage_cli.errors import Interrupted, MediaError, UsageProblem
from mirage_cli.frames import FrameSink, FrameSource, Ui
from mirage_cli.inputs.open import open_source
from mirage_cli.measure import Meter, PeakMemory, Stats
from mirage_cli.media.addresses import is_url
from mirage_cli.media.sound_line import SoundCarrier
from mirage_cli.outputs.fan_out import FanOut
from mirage_cli.outputs.names import check_targets, shown_target, targets_of, without_secrets
from mirage_cli.outputs.open import check_output, live_info, open_live_output
from mirage_cli.outputs.taps import TapSink
from mirage_cli.outputs.window import NullSink, WindowSink
from mirage_cli.pipeline import RunResult, run as run_pipeline
from mirage_cli.prompts.track import parse_prompts
from mirage_cli.runs.typing_lines import LineReader
from mirage_cli.styling.account import account, stats_of
from mirage_cli.styling.adaptive import LiveEngine
from mirage_cli.styling.loading import read_prompts, track_of
from mirage_cli.styling.stopping import StopSwitch
from mirage_cli.styling.styler import Engine, Styler, side_by_side


def run(
    config: LiveConfig,
    ui: Ui,
    *,
    engine: Engine | None = None,
    stop: StopSwitch | None = None,
    keys: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    begun_seconds: float | None = None,
) -> dict[str, Any]:
    """Run until the source ends, a limit is reached, q is typed, or a signal comes.

    Args:
        config: what is asked for.
        ui: is told of progress, notes and warnings.
        engine: loads model and prompts; tests pass their own.
        stop: ends the run; a file that is written as well is finished and kept.
        keys: read prompts from standard input while running.
        clock: seconds, for the pace and all latencies.
        begun_seconds: when the program started on that clock, for the time to the first frame.

    Returns:
        The document of ``--json``: see ``_Live.document``.

    Raises:
        MirageError: of the kind that fits.
    """
    engine, stop = engine or Engine(), stop or StopSwitch()
    if config.target_fps is not None or config.skip_similar > 0:
        engine = LiveEngine(engine, config.target_fps, config.skip_similar, ui.note)  # type: ignore[assignment]
    begun = clock() if begun_seconds is None else begun_seconds
    if (config.camera is None) == (config.input is None):
        raise UsageProblem(
            "live needs one source: a camera or an input", "Use --camera 0, --input FILE, --input URL or --input test."
        )
    prompts = parse_prompts(config.prompts)
    check_targets(targets_of(config), lambda target: check_output(config.input or PIPE, target, config.overwrite, ui))
    doors = check_doors(config)
    engine.check_model(config.model)
    source, size = open_source(config, engine, ui, clock)
    sink: TapSink | None = None
    window: WindowSink | None = None
    finished = False
    live: _Live | None = None
    failure: Exception | None = None
    try:
        shown = (size[0] * (2 if config.compare else 1), size[1])
        if config.window:
            window = WindowSink(f"mirage: {source.info.name}", *shown)
        read = read_prompts(prompts, engine, config.model, ui)
        session = engine.session(config.model, *size)
        texts = [(item.prompt.time_seconds or 0.0, item.prompt.text) for item in read]
        styler = Styler(session, track_of(read, config.blend_seconds), Meter(), size, texts)
        stop.graceful = True  # from here on there is a file to finish
        sink = _open_sinks(config, source, shown, window, ui, styler.number_of)
        live = _Live(config, ui, source, sink, window, styler, engine, stop, clock, begun, doors, read[0].prompt.text)
        live.prompts = [item.document() for item in read]
        result = live.flow(keys and config.input != PIPE)
        if stop.by_signal and not styler.meter.frames_out:
            raise Interrupted("interrupted before the first frame")
        live.memory.sample()
        live.outlet.close(commit=styler.meter.frames_out > 0)
        finished = True
    except Exception as error:
        failure = error
        raise
    finally:
        if not finished:
            if live is not None:
                live.steering.close()
            # A camera that is pulled out, a model or another output that fails spoils nothing of what was written.
            keep = failure is not None and live is not None and live.styler.meter.frames_out > 0
            for item in (sink, window):
                try:
                    if item is not None:
                        item.close(commit=keep)
                except Exception as problem:
                    if problem is not failure:
                        ui.warn(str(problem))
            _tell_kept(config, sink, failure, ui)
        source.close()
    return live.document(result)


def _tell_kept(config: LiveConfig, sink: TapSink | None, failure: Exception | None, ui: Ui) -> None:
    """Name the outputs that were finished although the run failed."""
    whole = getattr(sink.inner, "whole", []) if sink is not None and failure is not None else []
    names = ", ".join(without_secrets(target) for target in targets_of(config) if shown_target(target) in whole)
    if names:
        part = getattr(failure, "pipeline_part", "run").replace("sink", "output")
        ui.note(f"wrote {names}: what came before the {part} failed")


def _open_sinks(
    config: LiveConfig,
    source: FrameSource,
    size: Size,
    window: WindowSink | None,
    ui: Ui,
    number_of: Callable[[int], int],
) -> TapSink:
    info = live_info(source.info, size)
    with_line = getattr(source, "sound", None) is not None
    sinks: list[tuple[str, FrameSink]] = []

    def open_recording(path: str, **options: Any) -> FrameSink:
        from mirage_cli.outputs.file import open_output

        return open_output(path, info, crf=config.crf, with_line=with_line, **options)

    try:
        for target in targets_of(config):
            sink = open_live_output(target, config, info, ui.warn, with_line=with_line)
            sinks.append((shown_target(target), sink))
        if config.sound and not with_line and any(map(is_url, targets_of(config))):
            ui.note(f"{source.info.name} gives no sound: what is sent is silent")
        if window is not None:
            sinks.append(("window", window))
        goes_on = lambda: config.preview is not None or taps.recording is not None  # noqa: E731
        inner = FanOut(sinks, ui.warn, goes_on) if sinks else NullSink()
        taps = TapSink(inner, config.record_folder, open_recording, number_of)
        if config.record:
            taps.record_from_start()
        return taps
    except BaseException:
        for _, sink in sinks:
            sink.close(commit=False)
        raise


class _Live:
    """A running live stream: its keys, limits and account."""

    def __init__(
        self,
        config: LiveConfig,
        ui: Ui,
        source: FrameSource,
        sink: TapSink,
        window: WindowSink | None,
        styler: Styler,
        engine: Engine,
        stop: StopSwitch,
        clock: Callable[[], float],
        begun: float,
        doors: Doors,
        prompt: str,
    ) -> None:
        self.config, self.ui, self.source, self.sink = config, ui, source, sink
        self.window, self.styler, self.engine = window, styler, engine
        self.stop, self.clock, self.begun = stop, clock, begun
        self.memory = PeakMemory()
        self.about = dict(styler.session.describe())
        self.prompts: list[dict[str, Any]] = []
        self.steering = Steering(doors, config, styler, engine, sink, stop, ui, prompt)
        self.steering.hub.stats = self._stats
        sound = getattr(source, "sound", None)
        self.outlet = sink if sound is None else SoundCarrier(sink, sound)
        self.keys = LineReader(self.line)
        self.flow_begin = 0.0
        self._next_sample = 0.0
        self._told = 0

    def flow(self, keys: bool) -> RunResult:
        self.flow_begin = self.clock()
        self.steering.start()
        self.stop.graceful = True
        if keys:
            self.keys.start()
        try:
            return run_pipeline(
                self.source,
                self.styler.step,
                self.outlet,
                meter=self.styler.meter,
                newest_wins=True,
                stop=self.stop.event,
                max_frames=self.config.frames,
                compose=side_by_side if self.config.compare else None,
                tick=self._tick,
                tick_seconds=0.01,
                timeout_seconds=self.config.timeout_seconds,
                names=(self.source.info.name, self._targets()),
                clock=self.clock,
            )
        except MediaError as error:
            if stuck := getattr(self.sink.inner, "inside", ""):  # of several outputs, the one to blame
                error.message = error.message.replace(self._targets(), stuck)
                error.args = (error.message,)
            raise
        finally:
            self.keys.stop()
            self.steering.close()
            self._tell_applied()

    def line(self, text: str) -> None:
        """A typed line: a prompt, ``/field value``, or ``q``."""
        self.steering.line(text)

    def _tell_applied(self) -> None:
        """Say at which frame a typed change took effect."""
        total = self.styler.applied_count
        new = total - self._told
        for change in list(self.styler.applied)[-new:] if new else []:
            matched = self.steering.hub.matched
            found = f" ({matched})" if change["kind"] == "look" and matched else ""
            self.ui.note(f'"{change["text"]}" applied at frame {change["frame"]}{found}')
        self._told = total

    def _tick(self) -> None:
        now = self.clock()
        limit = self.config.duration_seconds
        if limit is not None and now - self.flow_begin >= limit:
            self.stop.stop("duration")
        if self.window is not None and not self.window.pump():
            self.stop.stop("window")
        if now >= self._next_sample:
            self._next_sample = now + 1.0
            self.memory.sample()
        if self.styler.applied_count != self._told:
            self._tell_applied()
        self.ui.tick(self._stats)

    def _targets(self) -> str:
        names = [shown_target(target) for target in targets_of(self.config)]
        if self.window is not None:
            names.append("window")
        return " + ".join(names) or "nowhere"

    def _connection(self) -> str:
        states = (getattr(self.source, "state", ""), self.sink.state)
        return "; ".join(state for state in states if state not in ("", "connected"))

    def _stats(self) -> Stats:
        return stats_of(
            "live",
            self.source.info.name,
            self._targets(),
            self.steering.hub.prompt,
            self.styler,
            self.about,
            self.clock(),
            self.flow_begin,
            typed=self.keys.typed,
            message="ending" if self.stop.event.is_set() else self._connection(),
            strength=self.steering.hub.options.strength,
            paused=self.styler.paused,
            recording=self.sink.recording,
            control=self.steering.address,
        )

    def document(self, result: RunResult) -> dict[str, Any]:
        """What happened, as plain data."""
        meter = self.styler.meter
        return {
            "command": "live",
            "input": self.source.info.name,
            "output": self.config.output and without_secrets(self.config.output),
            "more_outputs": list(map(without_secrets, self.config.more_outputs)),
            "window": self.window.toolkit_name if self.window else None,
            "sound": self.outlet is not self.sink,
            "prompts": self.prompts,
            "changes": list(self.styler.applied),
            "control_changes": {"applied": self.steering.hub.changes, "refused": self.steering.hub.refused},
            "files": list(self.sink.files),
            "ended_by": self.stop.reason or ("frames" if result.stopped else "source"),
            "fps_in": round(meter.frames_in / result.seconds, 2) if result.seconds else 0.0,
            **account(self.styler, self.config.model, self.source, self.sink, self.memory, result.seconds, self.begun),
            "interrupted": self.stop.by_signal,
        }
