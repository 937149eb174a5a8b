"""The threads: order, bounds, dropping, errors, stopping, and what they cost."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, StreamInfo
from mirage_cli.inputs import wrappers as capture
from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.inputs.wrappers import PacedSource, ResizedSource
from mirage_cli.measure import LatencyHistogram, Meter, PeakMemory, RateMeter, exact_percentile
from mirage_cli.outputs.window import TeeSink
from mirage_cli.pipeline import Channel, Ended, _Patience, run


class Source:
    """Frames that carry their number; a pause before each; an error in place of one."""

    live = False

    def __init__(self, count, pause=0.0, fail_at=None, size=(32, 16)):
        self.info = StreamInfo(width=size[0], height=size[1], fps=30.0, frame_count=count)
        self.warnings: list[str] = []
        self.count, self.pause, self.fail_at = count, pause, fail_at
        self.given = 0
        self.closed = threading.Event()

    def __iter__(self):
        for index in range(self.count):
            if index == self.fail_at:
                raise MediaError("the source broke")
            if self.pause and self.closed.wait(self.pause):
                return
            self.given += 1
            rgb = np.full((self.info.height, self.info.width, 3), index % 256, np.uint8)
            yield Frame(rgb, index / 30.0, index)

    def close(self):
        self.closed.set()


class Sink:
    def __init__(self, pause=0.0, fail_at=None):
        self.frames: list[Frame] = []
        self.pause, self.fail_at = pause, fail_at
        self.ended: list[bool] = []
        self.warnings: list[str] = []

    def write(self, frame):
        if self.fail_at == len(self.frames):
            raise MediaError("the disk is full")
        time.sleep(self.pause)
        self.frames.append(frame)

    def close(self, commit=True):
        self.ended.append(commit)


def same(frame):
    return frame.rgb


def threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("mirage-")]


def test_every_frame_comes_out_once_and_in_order():
    source, sink, meter = Source(200), Sink(), Meter()
    result = run(source, same, sink, meter=meter)
    assert [f.index for f in sink.frames] == list(range(200))
    assert all(f.rgb[0, 0, 0] == f.index % 256 for f in sink.frames)
    assert (meter.frames_in, meter.frames_out, meter.dropped) == (200, 200, 0)
    assert not result.stopped and source.closed.is_set() and not threads()


def test_no_frames_is_no_error():
    sink = Sink()
    run(Source(0), same, sink, meter=Meter())
    assert sink.frames == []


@pytest.mark.parametrize("slow", ["source", "model", "sink"])
def test_no_frame_piles_up_however_slow_a_part_is(slow):
    pause = {"source": 0.0, "model": 0.0, "sink": 0.0, slow: 0.004}
    source, sink = Source(60, pause["source"]), Sink(pause["sink"])
    most = 0

    def step(frame):
        nonlocal most
        time.sleep(pause["model"])
        most = max(most, source.given - len(sink.frames))
        return frame.rgb

    run(source, step, sink, meter=Meter())
    assert len(sink.frames) == 60
    assert most <= 7  # one in each thread's hand and two in each channel


def test_newest_wins_drops_and_counts_and_never_runs_late():
    source, sink, meter = Source(100, pause=0.005), Sink(), Meter()

    def step(frame):
        time.sleep(0.02)
        return frame.rgb

    run(source, step, sink, meter=meter, newest_wins=True)
    order = [f.index for f in sink.frames]
    assert order == sorted(set(order))
    assert 15 <= meter.frames_out <= 40
    assert meter.dropped > 40
    # Whatever was read was written or dropped: nothing is unaccounted for.
    assert meter.frames_in == meter.frames_out + meter.dropped == 100
    # A frame waits for one model step at most, then takes one; a queue would have grown to 1.5 s.
    assert meter.stages["end_to_end"].percentile(95) < 60


@pytest.mark.parametrize("where", ["source", "model", "sink"])
def test_a_dead_worker_ends_the_run_with_its_error(where):
    source = Source(1000, fail_at=5 if where == "source" else None)
    sink = Sink(fail_at=5 if where == "sink" else None)

    def step(frame):
        if where == "model" and frame.index == 5:
            raise ValueError("the model broke")
        return frame.rgb

    expected = {"source": "source broke", "model": "model broke", "sink": "disk is full"}[where]
    with pytest.raises((MediaError, ValueError), match=expected) as caught:
        run(source, step, sink, meter=Meter())
    assert caught.value.pipeline_part == where
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

    result = run(source, step, sink, meter=meter, stop=stop)
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
    run(Hangs(1), same, sink, meter=Meter(), stop=stop)
    assert time.perf_counter() - begin < 2.0 and len(sink.frames) == 1


def test_max_frames_ends_an_endless_source():
    sink = Sink()
    result = run(TestPicture(32, 16, paced=False), same, sink, meter=Meter(), newest_wins=True, max_frames=12)
    assert len(sink.frames) == 12 and result.stopped


def test_an_interrupt_in_the_caller_ends_the_threads():
    def tick():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Source(10_000, pause=0.001), same, Sink(), meter=Meter(), tick=tick)
    deadline = time.perf_counter() + 2.0
    while threads() and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_compose_gets_input_and_output():
    sink = Sink()
    run(
        Source(3),
        lambda f: 255 - f.rgb,
        sink,
        meter=Meter(),
        compose=lambda frame, rgb: np.concatenate([frame.rgb, rgb], axis=1),
    )
    assert sink.frames[1].rgb.shape == (16, 64, 3)
    assert sink.frames[1].rgb[0, 0, 0] == 1 and sink.frames[1].rgb[0, 63, 0] == 254


def test_work_ahead_is_the_decoders_and_late_pictures_are_the_encoders():
    names = {"ahead": set(), "step": set(), "picture": set()}

    class Late:
        def __init__(self, rgb):
            self.rgb = rgb

        def picture(self):
            names["picture"].add(threading.current_thread().name)
            return self.rgb

    def ahead(frame):
        names["ahead"].add(threading.current_thread().name)
        return replace(frame, upload=frame.rgb + 1)

    def step(frame):
        names["step"].add(threading.current_thread().name)
        return Late(frame.upload + 1)

    sink = Sink()
    run(Source(20), step, sink, meter=Meter(), ahead=ahead)
    assert [int(f.rgb[0, 0, 0]) for f in sink.frames] == [i + 2 for i in range(20)]
    assert names == {"ahead": {"mirage-source"}, "step": {"mirage-model"}, "picture": {"mirage-sink"}}


@pytest.mark.parametrize("slow", ["decode", "model", "encode"])
def test_the_busiest_thread_is_named(slow):
    pause = dict.fromkeys(("decode", "model", "encode"), 0.002) | {slow: 0.012}

    def step(frame):
        time.sleep(pause["model"])
        return frame.rgb

    meter = Meter()
    result = run(Source(30, pause=pause["decode"]), step, Sink(pause["encode"]), meter=meter)
    said = meter.busy(result.seconds, on_gpu=False)
    assert said["limiting_stage"] == slow and said["busy"]["gpu"] is None
    assert 0.75 < said["busy"][slow] <= 1.001
    assert all(0 < said["busy"][other] < 0.6 for other in pause if other != slow)


def test_the_gpus_share_is_its_own_time():
    meter = Meter()
    assert meter.busy(0.0, on_gpu=True) == {
        "busy": dict.fromkeys(("decode", "model", "encode", "gpu"), 0.0),
        "limiting_stage": None,
    }
    for _ in range(10):
        meter.stage("denoise", 5.0)
        meter.stage("model", 8.0)
    assert meter.busy(0.1, on_gpu=True) == {
        "busy": {"decode": 0.0, "model": 0.8, "encode": 0.0, "gpu": 0.5},
        "limiting_stage": "model",
    }


@pytest.mark.parametrize(("model_ms", "count", "allowed"), [(60.0, 25, 1.2), (5.0, 200, 1.2)])
def test_end_to_end_time_is_at_most_a_fifth_over_the_models(model_ms, count, allowed):
    """Source and sink cost 0.6 of the model each: only threads that overlap can hold 1.2."""
    share = 0.6 * model_ms / 1e3

    def step(frame):
        time.sleep(model_ms / 1e3)
        return frame.rgb

    best = 9.9
    for _ in range(3):  # the machine may be busy with other work
        meter = Meter()
        result = run(Source(count, pause=share), step, Sink(share), meter=meter)
        best = min(best, result.seconds / (meter.stages["model"].total_ms / 1e3))
        if best <= allowed:
            break
    assert best <= allowed


def test_a_channel_wakes_whoever_waits():
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


def test_percentiles_are_right_in_fixed_memory():
    histogram, random_ = LatencyHistogram(), random.Random(3)
    values = [random_.lognormvariate(3.0, 1.0) for _ in range(20_000)]
    for value in values:
        histogram.add(value)
    for percent in (50, 95, 99):
        assert histogram.percentile(percent) == pytest.approx(exact_percentile(values, percent), rel=0.01)
    summary = histogram.summary()
    assert summary["max"] == pytest.approx(max(values), abs=1e-3)
    assert summary["mean"] == pytest.approx(sum(values) / len(values), abs=1e-3)
    assert summary["count"] == 20_000 and len(histogram._counts) == LatencyHistogram._BUCKETS
    assert LatencyHistogram().summary() == {}
    outside = LatencyHistogram()
    for value in (0.0, 1e12):
        outside.add(value)
    assert outside.percentile(100) == 1e12


def test_rates():
    meter = RateMeter()
    for number in range(31):
        meter.tick(number / 10.0)
    assert meter.rate(3.0) == pytest.approx(10.0)
    assert meter.rate(9.0) < 5.0


def test_peak_memory_sees_a_big_array():
    before = PeakMemory().megabytes()["process"]
    block = np.ones(100_000_000, np.uint8)
    after = PeakMemory().megabytes()["process"]
    del block
    assert before > 30.0 and after >= before
    assert PeakMemory().megabytes()["process"] == pytest.approx(after, rel=0.05)  # a peak stays


def test_children_that_never_lived_together_are_not_added_up():
    memory, peaks = PeakMemory(), []
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        child.stdout.readline()
        memory.sample()
        child.communicate(b"\n")
        peaks.append(memory.megabytes()["children"])
    assert peaks[0] > 1 and peaks[-1] < 1.5 * peaks[0]


def test_the_test_picture_moves_and_is_the_same_each_time():
    one = [f.rgb for f in TestPicture(160, 96, paced=False, frames=8)]
    two = [f.rgb for f in TestPicture(160, 96, paced=False, frames=8)]
    assert all(np.array_equal(a, b) for a, b in zip(one, two))
    assert all(not np.array_equal(a, b) for a, b in zip(one, one[1:]))
    assert one[0].std() > 30 and one[0].shape == (96, 160, 3) and one[0].flags["C_CONTIGUOUS"]
    assert TestPicture(16, 16).draw(1234.5).shape == (16, 16, 3)


def test_a_paced_source_keeps_time_and_can_begin_again():
    paced = PacedSource(Source(4), reopen=lambda: Source(4))
    begin, seen = time.perf_counter(), []
    for frame in paced:
        seen.append((frame.index, frame.pts_seconds, time.perf_counter() - begin))
        if frame.index == 9:
            paced.close()
    assert [index for index, _, _ in seen] == list(range(10))
    assert [pts for _, pts, _ in seen] == pytest.approx([n / 30.0 for n in range(10)])
    assert all(at >= pts - 1e-3 for _, pts, at in seen)
    assert seen[-1][2] < 1.0 and paced.info.frame_count is None
    once = [frame.index for frame in PacedSource(Source(3))]
    assert once == [0, 1, 2]


def lasting(count):
    """Frames, and how long they last, as a file says it."""
    source = Source(count)
    source.info = replace(source.info, duration_seconds=count / 30.0)
    return source


def test_the_next_pass_is_opened_before_this_one_ends(monkeypatch):
    monkeypatch.setattr(capture, "AHEAD_SECONDS", 3 / 30.0)
    opened, ahead = [lasting(6)], []

    def reopen():
        opened.append(lasting(6))
        return opened[-1]

    paced = PacedSource(opened[0], reopen=reopen)
    for frame in paced:
        if paced._next is not None:
            paced._next.result(5)  # begun; however busy the machine is
        ahead.append(len(opened))
        if frame.index == 10:
            paced.close()
    # The fourth picture of a pass is the first within the time; its successor sees the next pass open.
    assert ahead[:3] == [1, 1, 1] and ahead[4:9] == [2] * 5 and ahead[10] == 3
    assert all(source.closed.is_set() for source in opened)  # the third too, which never was shown


def test_a_slow_opening_does_not_hold_the_last_picture(monkeypatch):
    monkeypatch.setattr(capture, "AHEAD_SECONDS", 10.0)

    def reopen():
        time.sleep(0.6)
        return lasting(30)

    paced, begin, late = PacedSource(lasting(30), reopen=reopen), None, []
    for frame in paced:
        begin = begin or time.perf_counter()
        late.append(time.perf_counter() - begin - frame.pts_seconds)
        if frame.index == 40:
            paced.close()
    assert late[30] < 0.3  # opened only at the end, it would be 0.6


def test_a_file_that_is_gone_at_the_end_of_a_pass_is_an_error():
    def gone():
        raise MediaError("gone", "look for it")

    paced, seen = PacedSource(Source(4), reopen=gone), []
    with pytest.raises(MediaError, match="gone"):
        for frame in paced:
            seen.append(frame.index)
    assert seen == [0, 1, 2, 3]
    paced.close()


def test_an_opening_that_hangs_keeps_nobody(monkeypatch):
    """Neither whoever takes frames (the pipeline's watch tells that none comes) nor the end."""
    monkeypatch.setattr(capture, "LET_GO_SECONDS", 0.1)
    hangs, late = threading.Event(), lasting(2)

    def reopen():
        hangs.wait(30)
        return late

    paced = PacedSource(Source(2), reopen=reopen)
    taker = threading.Thread(target=lambda: list(paced))
    taker.start()
    time.sleep(0.3)
    begin = time.perf_counter()
    paced.close()
    taker.join(5)
    assert not taker.is_alive() and time.perf_counter() - begin < 4
    hangs.set()
    assert late.closed.wait(5)  # what came too late is closed when it comes


def test_a_resized_source_says_its_size():
    source = ResizedSource(Source(2), (64, 40))
    assert (source.info.width, source.info.height) == (64, 40)
    assert [frame.rgb.shape for frame in source] == [(40, 64, 3)] * 2


def test_a_tee_closes_all_its_sinks_whatever_happens():
    class Bad(Sink):
        def close(self, commit=True):
            super().close(commit)
            raise MediaError("cannot finish")

    one, two = Bad(), Sink()
    tee = TeeSink([one, two])
    tee.write(Frame(np.zeros((2, 2, 3), np.uint8), 0.0, 0))
    with pytest.raises(MediaError, match="cannot finish"):
        tee.close(True)
    assert one.ended == two.ended == [True] and len(two.frames) == 1


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
    with pytest.raises(MediaError, match=expected[part]) as caught:
        run(Hangs(5), same, sink, meter=Meter(), timeout_seconds=0.3, names=("cam", "out"))
    assert caught.value.pipeline_part == part and time.perf_counter() - begin < 3.0
    assert len(sink.frames) == (5 if part == "source" else 3)
    never.set()


def test_a_source_that_waits_on_purpose_is_not_blamed():
    class Slow(Source):
        pausing = True

    sink = Sink()
    run(Slow(2, pause=0.5), same, sink, meter=Meter(), timeout_seconds=0.2)
    assert len(sink.frames) == 2


def test_time_in_which_the_whole_process_stood_still_does_not_count():
    patience = _Patience(10.0)
    assert not patience.over(True, 1, 0.02) and not patience.over(True, 1, 3600.0)
    assert not any(patience.over(True, 1, 0.02) for _ in range(100))
    assert any(patience.over(True, 1, 0.2) for _ in range(100))
    assert not patience.over(True, 2, 0.2)


@pytest.mark.parametrize("slow", ["model", "sink"])
def test_a_stage_three_times_too_slow_costs_two_frames_and_its_own_time_at_most(slow):
    """Frames come every 10 ms; one stage takes 30, the other 2. Waiting adds up to two frames."""
    frame_ms, took = 10.0, {"model": 2.0, "sink": 2.0, slow: 30.0}
    sink, meter = Sink(took["sink"] / 1e3), Meter()

    def step(frame):
        time.sleep(took["model"] / 1e3)
        return frame.rgb

    run(Source(150, pause=frame_ms / 1e3), step, sink, meter=meter, newest_wins=True)
    latency = meter.stages["end_to_end"]
    assert latency.percentile(90) < 2 * frame_ms + sum(took.values()) + 8.0  # and the scheduler's
    assert meter.frames_in == meter.frames_out + meter.dropped == 150 and meter.frames_out < 80
