"""``mirage transform``: one file or pipe in, one file or pipe out, no frame dropped."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from mirage_cli.config import TransformConfig
from mirage_cli.errors import Interrupted, MediaError, MirageError, UsageProblem
from mirage_cli.frames import Frame, FrameSink, Pending, Ui
from mirage_cli.inputs.open import Opened, open_whole
from mirage_cli.inputs.wrappers import SkippingSource
from mirage_cli.measure import Meter, Stats
from mirage_cli.media.place import Kind, Place
from mirage_cli.models.catalog import content_hashes
from mirage_cli.outputs.names import check_targets, outputs_of
from mirage_cli.outputs.open import check_output, check_unfinished, default_output, open_sink
from mirage_cli.outputs.segments import JobSink
from mirage_cli.pipeline import Flow, causes_raised, run as run_pipeline
from mirage_cli.prompts.track import parse_prompts
from mirage_cli.runs.context import Clock, RunContext, side_by_side
from mirage_cli.styling.account import account, stats_of
from mirage_cli.styling.loading import Models, ReadPrompt, read_prompts, track_of
from mirage_cli.styling.stopping import StopSwitch
from mirage_cli.styling.styler import Styler

if TYPE_CHECKING:  # torch is imported late
    from mirage_cli.stream.stepping import Stream

TIMEOUT_SECONDS = 120.0
"""A source or sink that hangs for longer is lost; ``--timeout`` sets another time."""
NOTHING_WRITTEN = "interrupted before the first frame: nothing was written"


def run(
    config: TransformConfig,
    ui: Ui,
    *,
    models: Models | None = None,
    stop: StopSwitch | None = None,
    clock: Clock = time.perf_counter,
    begun_seconds: float | None = None,
) -> dict[str, Any]:
    """Do the whole job.

    Args:
        config: what is asked for.
        ui: gets progress, notes and warnings.
        models: loads models and reads prompts; a caller with several runs passes one, and so do tests.
        stop: ends the run early; what is written by then is finished and kept.
        clock: seconds, for all latencies.
        begun_seconds: when the program started on that clock, for the time to the first frame.

    Returns:
        The document of ``--json``: see ``_Job.document``.

    Raises:
        MirageError: of the kind that fits; no output is left behind.
        Interrupted: stopped before the first frame was written; no output is left behind.
    """
    models, context = models or Models(), RunContext.of(ui, stop, clock, begun_seconds)
    context.stop.graceful = False  # it may have served another job
    prompts = parse_prompts(config.prompts)
    place, outputs = Place.of_input(config.input), outputs_of(config)
    config = replace(config, input=place.path)
    _check_outputs(config, place, outputs, ui)
    models.check_model(config.model)
    with ExitStack() as stack:
        with_line = config.sound and any(output.is_address for output in outputs)
        opened = open_whole(place, config, ui, on_cpu=models.is_cpu(config.model), with_line=with_line)
        source = opened.source
        stack.callback(source.close)
        read = read_prompts(prompts, models, config.model, ui)
        if config.output is None:
            outputs.insert(0, _named_output(config, place, read[0], ui))
        source.warnings.extend(_late_prompts(read, source.info.duration_seconds))
        context.stop.graceful = True  # a signal must not leave a half-made file behind
        # Before the model is loaded: errors come fast.
        hashes = partial(content_hashes, config.model.model)
        sink = open_sink(config, outputs, opened, ui.warn, context.stop.event, hashes)
        stack.push(partial(_keep_segments, sink, ui))
        context.stop.graceful = False
        if context.stop.event.is_set():
            raise Interrupted(NOTHING_WRITTEN)
        session = models.session(config.model, *opened.size)
        styler = Styler(session, track_of(read, config.blend_seconds), Meter(), opened.size)
        job = _Job(config, context, place, outputs, opened, sink, styler, session, read)
        job.resume()
        job.flow()
        job.finish()
    return job.document()


# --- before the frames -----------------------------------------------------------------------------


def _check_outputs(config: TransformConfig, place: Place, outputs: list[Place], ui: Ui) -> None:
    """Refuse outputs that cannot be written, before anything slow is begun.

    Raises:
        UsageProblem, MediaError: see above.
    """
    if config.output is None and (place.kind is Kind.PIPE or place.is_address):
        raise UsageProblem(
            f"the output needs a name when the input is {place.typed!r}", "Add -o out.mp4, or -o - for a pipe."
        )
    check_targets(outputs, lambda output: _check_output(config, place, output, ui))


def _check_output(config: TransformConfig, place: Place, output: Place, ui: Ui) -> None:
    check_output(place, output, config.overwrite, ui)
    check_unfinished(config, output)


def _named_output(config: TransformConfig, place: Place, first: ReadPrompt, ui: Ui) -> Place:
    """An output whose name is made from the input and the look of the first prompt, checked."""
    output = default_output(place, first.match.look)
    _check_output(config, place, output, ui)
    return output


def _late_prompts(read: list[ReadPrompt], seconds: float | None) -> list[str]:
    """Warnings of prompts whose time comes late, or never, in an input that lasts ``seconds``."""
    late = [item for item in read if seconds is not None and item.seconds >= seconds]
    warnings = [
        f"the prompt {item.prompt.text!r} begins at {item.seconds:g} s, and the input lasts {seconds:.1f} s: "
        "it is never shown"
        for item in late
    ]
    first = read[0]
    if first.seconds > 0 and first not in late:
        warnings.append(
            f"the picture is unchanged until {first.seconds:g} s, when the prompt {first.prompt.text!r} begins"
        )
    return warnings


# --- after the frames ------------------------------------------------------------------------------


def _keep_segments(
    sink: FrameSink, ui: Ui, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
) -> None:
    """On the way out of a run that failed: discard the output, and keep what ``--resume`` can go on from."""
    if error is not None:
        sink.close(commit=False)
        _release(sink, ui, keep=True, error=error)


def _release(sink: FrameSink, ui: Ui, keep: bool, error: BaseException | None = None) -> None:
    """Remove the folder of the job, or keep the whole segments in it and say how to go on."""
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


# --- the frames ------------------------------------------------------------------------------------


@dataclass
class _Job:
    """The flow of one transform and its account.

    Attributes:
        place, outputs: of the input, and of all outputs, the first one first.
        read: the prompts, as they were understood.
        source: of the frames that are left to do.
        resumed_at: frames that an earlier run of this job has written.
        flow_begin, flow_end: on the context's clock; the end is when the file was finished.
        pipeline_seconds: how long frames flowed.
    """

    config: TransformConfig
    context: RunContext
    place: Place
    outputs: list[Place]
    opened: Opened
    sink: FrameSink
    styler: Styler
    session: Stream
    read: list[ReadPrompt]
    resumed_at: int = 0
    flow_begin: float = 0.0
    flow_end: float = 0.0
    pipeline_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.about = dict(self.session.describe())
        self.source = self.opened.source

    def resume(self) -> None:
        """Take up a job that was killed: its state, and the frames after its whole segments."""
        if not isinstance(self.sink, JobSink) or not self.sink.resumed_at:
            return
        arrays, facts = self.sink.folder.read_state()
        self.session.load_state((arrays, facts))
        run = facts["run"]
        self.styler.frames = self.resumed_at = self.sink.resumed_at
        self.styler.cuts, self.styler.guard_count = run["cuts"], run["guard_count"]
        self.styler.guard_events.extend(run["guard_events"])
        self.source = SkippingSource(self.source, self.resumed_at)
        self.context.ui.note(f"going on at frame {self.resumed_at}")

    def flow(self) -> None:
        """Move all frames from the source to the sink."""
        self.flow_begin = self.context.clock()
        self.context.stop.graceful = True
        flow = Flow(
            self.source,
            self._step,
            self.sink,
            self.styler.meter,
            stop=self.context.stop.event,
            prefetch=self.styler.prefetch(),
            compose=side_by_side if self.config.compare else None,
            tick=lambda: self.context.tick(self._stats),
            timeout_seconds=self._timeout_seconds,
            names=(self.place.typed, self.outputs[0].typed),
            clock=self.context.clock,
        )
        with causes_raised():
            self.pipeline_seconds = run_pipeline(flow).seconds

    def _step(self, frame: Frame) -> np.ndarray | Pending:
        rgb = self.styler.step(frame)
        if isinstance(self.sink, JobSink) and self.sink.state_due(frame.index + 1):
            arrays, facts = self.session.state()
            run = {
                "cuts": self.styler.cuts,
                "guard_count": self.styler.guard_count,
                "guard_events": list(self.styler.guard_events),
            }
            self.sink.offer_state(frame.index + 1, (arrays, {**facts, "run": run}))
        return rgb

    @property
    def _timeout_seconds(self) -> float | None:
        """No timeout for pipes: the other end sets the pace."""
        piped = Kind.PIPE in (self.place.kind, self.outputs[0].kind)
        return self.config.timeout_seconds or (None if piped else TIMEOUT_SECONDS)

    def finish(self) -> None:
        """Finish the output, as far as it came.

        Raises:
            Interrupted, MediaError: there is no frame in it, or it cannot be finished.
        """
        stopped = self.context.stop.event.is_set()
        if not self.resumed_at + self.styler.meter.frames_out:
            if stopped:
                raise Interrupted(NOTHING_WRITTEN)
            raise MediaError(
                f"no frame could be decoded from {self.place.typed!r}",
                "Check that it holds video: ffmpeg -i FILE lists its streams.",
            )
        self.context.memory.sample()
        self.sink.close(commit=True)
        self.flow_end = self.context.clock()
        _release(self.sink, self.context.ui, keep=stopped and self.config.resume)

    def _stats(self) -> Stats:
        position = self.styler.meter.last_out_pts_seconds
        ending = self.context.stop.event.is_set()
        return stats_of(
            self.styler,
            self.about,
            self.context.clock(),
            self.flow_begin,
            command="transform",
            source=self.place.shown,
            target=self.outputs[0].shown,
            prompt=next((r.prompt.text for r in reversed(self.read) if r.seconds <= position), "(unchanged)"),
            frames_total=self.source.info.frame_count,
            message="ending: the file is being finished" if ending else self._lost(),
        )

    def _lost(self) -> str:
        """What is being done about an output that is lost."""
        return "" if self.sink.state == "connected" else self.sink.state

    def document(self) -> dict[str, Any]:
        """What happened, as plain data; ``seconds`` is until the file is finished, ``busy`` and ``limiting_stage``
        are explained at ``Meter.busy``."""
        meter = self.styler.meter
        return {
            "command": "transform",
            "input": self.place.typed,
            "output": self.outputs[0].typed,
            "more_outputs": [output.typed for output in self.outputs[1:]],
            "resumed_at_frame": self.resumed_at,
            "input_size": [*self.opened.input_size],
            "prompts": [item.document() for item in self.read],
            "video_seconds": round(meter.last_out_pts_seconds, 3),
            "model_seconds": round(meter.stages["model"].total_ms / 1e3, 3),
            **meter.busy(self.pipeline_seconds, on_gpu=self.session.copies is not None),
            **account(
                self.styler,
                self.config.model,
                [*self.source.warnings, *self.sink.warnings],
                self.context.memory,
                self.flow_end - self.flow_begin,
                self.context.begun_seconds,
            ),
            "interrupted": self.context.stop.event.is_set(),
        }
