"""The threads: order, bounds, dropping, errors, stopping, and what they cost."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers.flow import Sink, Source, same
from helpers.virtual_time import VirtualTime

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame
from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.measure import Meter
from mirage_cli.pipeline import Channel, Ended, Flow, PipelineError, Watchdog, causes_raised, run


def threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("mirage-")]


def test_every_frame_comes_out_once_and_in_order():
    source, sink, meter = Source(200), Sink(), Meter()
    result = run(Flow(source, same, sink, meter))
    assert [f.index for f in sink.frames] == list(range(200))
    assert all(f.rgb[0, 0, 0] == f.index % 256 for f in sink.frames)
    assert (meter.frames_in, meter.frames_out, meter.dropped) == (200, 200, 0)
    assert not result.stopped and source.closed.is_set() and not threads()


def test_no_frames_is_no_error():
    sink = Sink()
    run(Flow(Source(0), same, sink, Meter()))
    assert sink.frames == []


@pytest.mark.parametrize("slow", ["source", "model", "sink"])
def test_no_frame_piles_up_however_slow_a_part_is(slow, monkeypatch):
    clock = VirtualTime(monkeypatch)
    pause = {"source": 0.0, "model": 0.0, "sink": 0.0, slow: 0.004}
    source, sink = Source(60, pause["source"], sleep=clock.sleep), Sink(pause["sink"], sleep=clock.sleep)
    most = 0

    def step(frame):
        nonlocal most
        clock.sleep(pause["model"])
        most = max(most, source.given - len(sink.frames))
        return frame.rgb

    run(Flow(source, step, sink, Meter(), clock=clock))
    assert len(sink.frames) == 60
    assert most <= 7  # one in each thread's hand and two in each channel


def test_newest_wins_drops_and_counts_and_never_runs_late(monkeypatch):
    """Frames come every 5 ms and the model takes 21."""
    clock = VirtualTime(monkeypatch)
    source, sink, meter = Source(100, pause=0.005, sleep=clock.sleep), Sink(sleep=clock.sleep), Meter()

    def step(frame):
        clock.sleep(0.021)
        return frame.rgb

    result = run(Flow(source, step, sink, meter, newest_wins=True, clock=clock))
    order = [f.index for f in sink.frames]
    assert order == sorted(set(order))
    assert meter.frames_out == pytest.approx(0.5 / 0.021, abs=2) and result.seconds < 0.5 + 3 * 0.021
    # Whatever was read was written or dropped: nothing is unaccounted for.
    assert meter.frames_in == meter.frames_out + meter.dropped == 100
    # A frame waits until a newer one comes, 5 ms, then takes one step; a queue would have grown to 1.5 s.
    assert max(meter.recent()[:-1]) <= 26.001  # no newer one comes after the last


@pytest.mark.slow
def test_newest_wins_in_real_time():
    source, sink, meter = Source(100, pause=0.005), Sink(), Meter()

    def step(frame):
        time.sleep(0.02)
        return frame.rgb

    run(Flow(source, step, sink, meter, newest_wins=True))
    assert meter.dropped > 40 and meter.frames_in == meter.frames_out + meter.dropped == 100
    assert meter.stages["end_to_end"].percentile(50) < 60


@pytest.mark.parametrize("where", ["source", "model", "sink"])
def test_a_dead_worker_ends_the_run_with_its_error(where):
    source = Source(1000, fail_at=5 if where == "source" else None)
    sink = Sink(fail_at=5 if where == "sink" else None)

    def step(frame):
        if where == "model" and frame.index == 5:
            raise ValueError("the model broke")
        return frame.rgb

    expected = {"source": "source broke", "model": "model broke", "sink": "disk is full"}[where]
    with pytest.raises(PipelineError, match=expected) as caught:
        run(Flow(source, step, sink, Meter()))
    assert caught.value.part == where and isinstance(caught.value.cause, (MediaError, ValueError))
    assert source.closed.is_set() and not threads()
    if where == "source":  # what came before it is whole
        assert [frame.index for frame in sink.frames] == [0, 1, 2, 3, 4]
    else:
        assert len(sink.frames) <= 5


def test_stop_finishes_the_frame_at_hand_and_returns():
    source, sink, stop, meter = Source(10_000), Sink(), threading.Event(), Meter()
    finished = []

    def step(frame):
        if frame.index == 20:
            stop.set()
            time.sleep(0.1)
        finished.append(frame.index)
        return frame.rgb

    result = run(Flow(source, step, sink, meter, stop=stop))
    assert result.stopped
    assert [f.index for f in sink.frames] == finished and 20 in finished
    assert len(finished) <= 22 and not threads()


def test_stop_does_not_wait_for_a_source_that_hangs():
    class Hangs(Source):
        def __iter__(self):
            yield Frame(np.zeros((16, 32, 3), np.uint8), 0.0, 0)
            self.closed.wait(30)
            raise OSError("cut off")

    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    begin, sink = time.perf_counter(), Sink()
    run(Flow(Hangs(1), same, sink, Meter(), stop=stop))
    assert time.perf_counter() - begin < 2.0 and len(sink.frames) == 1


def test_max_frames_ends_an_endless_source():
    sink = Sink()
    result = run(Flow(TestPicture(32, 16, paced=False), same, sink, Meter(), newest_wins=True, max_frames=12))
    assert len(sink.frames) == 12 and result.stopped


def test_an_interrupt_in_the_caller_ends_the_threads():
    def tick():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Flow(Source(10_000, pause=0.001), same, Sink(), Meter(), tick=tick))
    deadline = time.perf_counter() + 2.0
    while threads() and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_compose_gets_input_and_output():
    sink = Sink()
    run(
        Flow(
            Source(3),
            lambda f: 255 - f.rgb,
            sink,
            Meter(),
            compose=lambda frame, rgb: np.concatenate([frame.rgb, rgb], axis=1),
        )
    )
    assert sink.frames[1].rgb.shape == (16, 64, 3)
    assert sink.frames[1].rgb[0, 0, 0] == 1 and sink.frames[1].rgb[0, 63, 0] == 254


def test_prefetch_is_the_decoders_and_pending_pictures_are_the_encoders():
    names = {"prefetch": set(), "step": set(), "picture": set()}

    class Late:
        def __init__(self, rgb):
            self.rgb = rgb

        def picture(self):
            names["picture"].add(threading.current_thread().name)
            return self.rgb

    def prefetch(frame):
        names["prefetch"].add(threading.current_thread().name)
        return replace(frame, upload=frame.rgb + 1)

    def step(frame):
        names["step"].add(threading.current_thread().name)
        return Late(frame.upload + 1)

    sink = Sink()
    run(Flow(Source(20), step, sink, Meter(), prefetch=prefetch))
    assert [int(f.rgb[0, 0, 0]) for f in sink.frames] == [i + 2 for i in range(20)]
    assert names == {"prefetch": {"mirage-source"}, "step": {"mirage-model"}, "picture": {"mirage-sink"}}


@pytest.mark.parametrize("slow", ["decode", "model", "encode"])
def test_the_busiest_thread_is_named(slow, monkeypatch):
    clock = VirtualTime(monkeypatch)
    pause = dict.fromkeys(("decode", "model", "encode"), 0.002) | {slow: 0.012}

    def step(frame):
        clock.sleep(pause["model"])
        return frame.rgb

    meter = Meter()
    source, sink = Source(30, pause["decode"], sleep=clock.sleep), Sink(pause["encode"], sleep=clock.sleep)
    result = run(Flow(source, step, sink, meter, clock=clock))
    said = meter.busy(result.seconds, on_gpu=False)
    assert result.seconds == pytest.approx(30 * 0.012 + 2 * 0.002)
    assert said["limiting_stage"] == slow and said["busy"]["gpu"] is None
    assert said["busy"][slow] == pytest.approx(0.36 / 0.364, abs=1e-3)
    assert all(said["busy"][other] == pytest.approx(0.06 / 0.364, abs=1e-3) for other in pause if other != slow)


@pytest.mark.parametrize(("model_ms", "count"), [(60.0, 25), (5.0, 200)])
def test_reading_and_writing_overlap_with_the_model(model_ms, count, monkeypatch):
    """Source and sink cost 0.6 of the model each; the whole costs the model's time, and one of each at the ends."""
    clock = VirtualTime(monkeypatch)
    share = 0.6 * model_ms / 1e3

    def step(frame):
        clock.sleep(model_ms / 1e3)
        return frame.rgb

    source, sink = Source(count, share, sleep=clock.sleep), Sink(share, sleep=clock.sleep)
    result = run(Flow(source, step, sink, Meter(), clock=clock))
    assert result.seconds == pytest.approx(count * model_ms / 1e3 + 2 * share)


@pytest.mark.slow
def test_reading_and_writing_overlap_with_the_model_in_real_time():
    model_seconds, share = 0.06, 0.036

    def step(frame):
        time.sleep(model_seconds)
        return frame.rgb

    best = 9.9
    for _ in range(3):  # the machine may be busy with other work
        meter = Meter()
        result = run(Flow(Source(25, share), step, Sink(share), meter))
        best = min(best, result.seconds / (meter.stages["model"].total_ms / 1e3))
        if best <= 1.2:
            break
    assert best <= 1.2


def test_a_channel_wakes_all_threads_that_wait():
    channel: Channel[int] = Channel(1)
    assert channel.put(1) == (True, 0)
    results = []
    waiting = threading.Thread(target=lambda: results.append(channel.put(2)))
    waiting.start()
    channel.abandon()
    waiting.join(2)
    assert results == [(False, 0)]
    with pytest.raises(Ended):
        channel.get()
    newest: Channel[int] = Channel(1, newest_wins=True)
    assert [newest.put(n)[1] for n in (1, 2, 3)] == [0, 1, 1]
    newest.finish()
    assert newest.get() == 3
    with pytest.raises(Ended):
        newest.get()


@pytest.mark.parametrize("part", ["source", "sink"])
def test_a_part_that_hangs_ends_the_run_after_the_timeout(part):
    never = threading.Event()

    class Hangs(Source):
        def __iter__(self):
            yield from super().__iter__()
            if part == "source":
                self.closed.wait(20)

    class Stuck(Sink):
        def write(self, frame):
            if part == "sink" and frame.index == 3:
                never.wait(20)
            super().write(frame)

    begin, sink = time.perf_counter(), Stuck()
    expected = {"source": "cam has given no frame for 0.3 s", "sink": "out has taken no frame"}
    with pytest.raises(PipelineError, match=expected[part]) as caught:
        run(Flow(Hangs(5), same, sink, Meter(), timeout_seconds=0.3, names=("cam", "out")))
    assert (
        caught.value.part == part and isinstance(caught.value.cause, MediaError) and time.perf_counter() - begin < 3.0
    )
    assert len(sink.frames) == (5 if part == "source" else 3)
    never.set()


def test_a_source_that_waits_on_purpose_is_not_blamed():
    class Slow(Source):
        pausing = True

    sink = Sink()
    run(Flow(Slow(2, pause=0.5), same, sink, Meter(), timeout_seconds=0.2))
    assert len(sink.frames) == 2


def test_watchdog_does_not_count_time_in_which_the_whole_process_stood_still():
    watchdog = Watchdog(10.0)
    assert not watchdog.expired(True, 1, 0.02) and not watchdog.expired(True, 1, 3600.0)
    assert not any(watchdog.expired(True, 1, 0.02) for _ in range(100))
    assert any(watchdog.expired(True, 1, 0.2) for _ in range(100))
    assert not watchdog.expired(True, 2, 0.2)


@pytest.mark.parametrize("slow", ["model", "sink"])
def test_a_stage_three_times_too_slow_costs_two_frames_and_its_own_time_at_most(slow, monkeypatch):
    """Frames come every 10 ms; one stage takes 31, the other 2. Waiting adds up to two frames."""
    clock = VirtualTime(monkeypatch)
    frame_ms, took = 10.0, {"model": 2.0, "sink": 2.0, slow: 31.0}
    sink, meter = Sink(took["sink"] / 1e3, sleep=clock.sleep), Meter()

    def step(frame):
        clock.sleep(took["model"] / 1e3)
        return frame.rgb

    run(Flow(Source(150, frame_ms / 1e3, sleep=clock.sleep), step, sink, meter, newest_wins=True, clock=clock))
    late = meter.recent()[:-2]  # no newer ones come after the last
    assert max(late) <= 2 * frame_ms + sum(took.values()) + 1e-6
    assert meter.frames_in == meter.frames_out + meter.dropped == 150 and meter.frames_out < 80


def test_the_cause_of_a_failure_is_raised_where_the_part_does_not_matter():
    with pytest.raises(MediaError, match="the source broke"), causes_raised():
        run(Flow(Source(3, fail_at=1), same, Sink(), Meter()))
    with causes_raised():
        assert run(Flow(Source(3), same, Sink(), Meter())).seconds > 0
