"""Changes on their way to a frame, recordings and snapshots, with a stand-in model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import cv2
import numpy as np
import pytest
from helpers.control import ask, running, wait
from helpers.fakes import FakeModels, RecordingUi
from helpers.media import probe

from mirage_cli.config import LiveConfig, ModelOptions
from mirage_cli.control import hub as hub_module
from mirage_cli.control.hub import MAX_WAITING, Controls, TooLate
from mirage_cli.control.schema import make_change
from mirage_cli.errors import MediaError, MirageError, UsageProblem
from mirage_cli.frames import Frame
from mirage_cli.measure import Meter
from mirage_cli.outputs.taps import TapSink
from mirage_cli.outputs.window import NullSink
from mirage_cli.prompts.track import LookTrack
from mirage_cli.runs import live
from mirage_cli.styling.changes import SetStrength
from mirage_cli.styling.stopping import StopSwitch
from mirage_cli.styling.styler import MAX_PENDING, Busy, Styler


def test_each_kind_of_change_is_applied_and_acknowledged(tmp_path):
    with running(record_folder=str(tmp_path), blend_seconds=0.0) as run:
        session = run.models.sessions[0]
        answer = ask(run, strength=0.5, id=9)
        assert answer["ok"] and answer["id"] == 9 and answer["applied"] == {"strength": 0.5}
        assert answer["waited_frames"] <= 2
        assert ask(run, prompt="night")["notes"] == ["'night' is taken as the look night (similarity 0.97)"]
        ask(run, blend={"mosaic": 1.0, "night": 3.0})
        ask(run, seed=11, blend_seconds=2.5)
        ask(run, reset=True)
        state = run.hub.state()
        assert (state["strength"], state["seed"], state["blend_seconds"]) == (0.5, 11, 2.5)
        assert state["prompt"] == "0.25*mosaic + 0.75*night" and state["looks"] == {"mosaic": 0.25, "night": 0.75}
        assert session.strengths == [0.5] and session.seeds == [11] and len(session.resets) == 1
        assert session.looks[-1] == {"mosaic": 0.25, "night": 0.75}, "a reset keeps the prompt"
        answer = ask(run, preset="neon-club", strength=0.2)
        assert run.hub.state()["strength"] == 0.2 and run.hub.prompt == "neon cyberpunk"
        ask(run, quit=True)
    kinds = [change["kind"] for change in run.document["changes"]]
    assert {"strength", "look", "seed", "blend_seconds", "reset"} <= set(kinds)
    assert run.document["control_changes"]["applied"] >= 7 and run.document["ended_by"] in ("quit", "test")


def test_the_frame_named_is_the_first_made_with_the_change():
    with running(blend_seconds=0.0) as run:
        session, made = run.models.sessions[0], []
        step = session.step
        session.step = lambda rgb: made.append((session.frames, tuple(session.looks[-1]))) or step(rgb)
        frame = ask(run, prompt="night")["frame"]
        time.sleep(0.05)
    looks = dict(made)
    assert looks[frame] == ("night",) and looks.get(frame - 1, ("ink-wash",)) == ("ink-wash",)


def test_a_pause_holds_the_picture_and_rests_the_model(tmp_path):
    with running(record_folder=str(tmp_path)) as run:
        ask(run, pause=True)
        steps = run.models.sessions[0].frames
        first = ask(run, snapshot=True)["notes"][0].removeprefix("wrote ")
        frames = run.hub.styler.frames
        time.sleep(0.2)
        second = ask(run, snapshot=True)["notes"][0].removeprefix("wrote ")
        assert run.models.sessions[0].frames == steps and run.hub.styler.frames > frames + 5
        assert np.array_equal(cv2.imread(first), cv2.imread(second)) and first != second
        assert run.live.stats().paused
        ask(run, pause=False)
        time.sleep(0.1)
        assert run.models.sessions[0].frames > steps
    assert run.document["files"] == [first, second]


def test_another_model_keeps_prompt_strength_and_seed():
    with running() as run:
        ask(run, strength=0.3, seed=5)
        ask(run, prompt="night")
        answer = ask(run, model="other")
        assert "night" in answer["notes"][0] and run.hub.state()["model"] == "other"
        first, second = run.models.sessions
        assert second.options == replace(first.options, model="other", strength=0.3, seed=5)
        assert second.looks == [{"night": 1.0}]
        time.sleep(0.05)
        assert second.frames > 0


def test_what_cannot_be_is_refused_and_the_stream_goes_on():
    with running() as run:
        for fields, telling in (
            ({"blend": {"nope": 1}}, "no look 'nope'"),
            ({"preset": "nope"}, "no preset 'nope'"),
            ({"record": False}, "nothing is being recorded"),
        ):
            with pytest.raises(MirageError, match=telling):
                ask(run, **fields)
        frames = run.hub.styler.frames
        assert ask(run, strength=1.0)["frame"] >= frames
    assert run.document["control_changes"]["refused"] == 3


def test_a_model_that_cannot_be_loaded_leaves_the_old_one():
    with running() as run:

        def broken(options, width, height):
            raise MirageError("weights are damaged", "copy them again")

        run.models.session = broken
        with pytest.raises(MirageError, match="weights are damaged"):
            ask(run, model="other")
        assert run.hub.state()["model"] == "lsd-small" and ask(run, strength=0.5)["ok"]


def test_a_fast_change_overtakes_a_slow_one():
    with running() as run:
        match, waiting = run.models.match, threading.Event()
        run.models.match = lambda options, text: waiting.wait(5) and match(options, text)
        slow = run.hub.submit(make_change({"prompt": "night"}), "test")
        assert ask(run, strength=0.1)["ok"] and not slow.done()
        many = [run.hub.submit(make_change({"prompt": "night"}), "test") for _ in range(MAX_WAITING + 5)]
        refused = [future for future in many if future.done() and future.exception()]
        assert len(refused) == 6 and "are waiting already" in str(refused[0].exception())
        waiting.set()
        assert wait(run.hub, slow)["ok"]


def test_of_many_faders_in_one_frame_the_last_counts():
    class Session:
        def __init__(self):
            self.strengths, self.report = [], None

        def set_strength(self, value):
            self.strengths.append(value)

    styler = Styler(Session(), LookTrack({"a": 1.0}, 0.0), Meter(), (4, 4))
    futures = [styler.request(SetStrength(value / 100), "") for value in range(50)]
    with pytest.raises(AttributeError):  # the stand-in cannot make frames
        styler.step(Frame(np.zeros((4, 4, 3), np.uint8), 0.0, 0))
    assert styler.session.strengths == [0.49] and {future.result() for future in futures} == {0}


def test_changes_that_wait_when_the_stream_ends_are_refused():
    styler = Styler(None, LookTrack({"a": 1.0}, 0.0), Meter(), (4, 4))
    hub = Controls(styler, FakeModels(), ModelOptions(), TapSink(NullSink(), ".", None), StopSwitch())
    waiting = [hub.submit(make_change(fields), "test") for fields in ({"strength": 1}, {"snapshot": True})]
    time.sleep(0.1)
    hub.close()
    later = hub.submit(make_change({"prompt": "x"}), "test")
    for future in (*waiting, later, hub.submit(make_change({"seed": 1}), "test")):
        with pytest.raises(MirageError, match="the stream ended"):
            future.result(1)


def test_a_recording_that_no_picture_began_leaves_no_file(tmp_path):
    class File(NullSink):
        closed = None

        def close(self, commit=True):
            self.closed = commit

    file = File()
    tap = TapSink(NullSink(), tmp_path, lambda path: file)
    thread = threading.Thread(target=lambda: pytest.raises(CancelledError, tap.start_recording, 10))
    thread.start()
    time.sleep(0.1)
    tap.end()
    thread.join(2)
    assert not thread.is_alive() and file.closed is False and tap.recording is None
    for act in (tap.snapshot, tap.start_recording):  # after the end nobody waits
        with pytest.raises(CancelledError):
            act(10)


def test_a_recording_has_the_frames_between_its_two_acknowledgements(tmp_path):
    with running(record_folder=str(tmp_path / "new"), fps=40.0) as run:
        begun = ask(run, record=True)
        assert run.hub.state()["record"] and run.live.stats().recording
        with pytest.raises(MediaError, match="is being recorded already"):
            ask(run, record=True)
        time.sleep(0.5)
        ended = ask(run, record=False)
        assert not run.hub.state()["record"]
    path = ended["notes"][0].removeprefix("wrote ")
    assert begun["notes"] == [f"recording {path}"]
    # A picture that came while the encoder was busy is passed over, and has its number all the same.
    assert 3 <= probe(path).frames <= ended["frame"] - begun["frame"] and probe(path).size == (64, 48)


def test_a_recording_is_finished_when_the_run_ends(tmp_path):
    with running(record_folder=str(tmp_path), fps=40.0) as run:
        ask(run, record=True)
        time.sleep(0.3)
    (path,) = tmp_path.iterdir()
    assert run.document["files"] == [str(path)] and probe(path).frames >= 5


def test_a_recording_that_breaks_does_not_break_the_stream(tmp_path):
    class Broken(NullSink):
        def write(self, frame):
            raise MediaError("the disk is full")

    tap = TapSink(NullSink(), tmp_path, lambda path: Broken())
    frame = Frame(np.zeros((4, 4, 3), np.uint8), 0.0, 0)
    thread = threading.Thread(target=lambda: tap.start_recording(5))
    thread.start()
    while thread.is_alive():
        tap.write(frame)
        time.sleep(0.005)
    tap.write(frame)
    assert tap.recording is None and tap.warnings == ["the recording ended: the disk is full"]
    with pytest.raises(MediaError, match="no picture came within 0.05 s"):
        tap.snapshot(0.05)
    with pytest.raises(MediaError, match="no picture came within 0.05 s"):
        tap.start_recording(0.05)
    assert tap.recording is None


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with running(record_folder=str(tmp_path / "file" / "x")) as run:
        for field in ("snapshot", "record"):
            with pytest.raises(MediaError, match="cannot be made"):
                ask(run, **{field: True})


def test_typed_lines_save_and_load_presets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with running() as run:
        line = run.live.steering.line
        line("/save mine")
        line("/preset ./mine.toml")
        line("/preset ./nothing.toml")
        line("/save")
        line("/strength 7")
        line("/save mine")
        ask(run, prompt="night")
        line("/snapshot")
        time.sleep(0.3)
    assert 'prompt = "ink wash"' in (tmp_path / "mine.toml").read_text()
    assert any("wrote mine.toml" in note for note in run.ui.notes)
    assert any("wrote ./mirage-" in note or "wrote mirage-" in note for note in run.ui.notes)
    telling = " | ".join(run.ui.warnings)
    for part in ("preset file './nothing.toml' cannot be read", "/save needs", "strength 7", "'mine.toml' exists"):
        assert part in telling


class TwoModels(FakeModels):
    """Each model has looks of its own, and its session takes no others."""

    def look_names(self, options):
        return (f"look-of-{options.model}", "identity")

    def match(self, options, text):
        look = self.look_names(options)[0]
        return replace(super().match(options, text), look=look, weights={look: 1.0})

    def session(self, options, width, height):
        session, known = super().session(options, width, height), self.look_names(options)
        take = session.set_look

        def set_look(weights):
            if not weights.keys() <= set(known):
                raise UsageProblem(f"no look of {weights} in {options.model}")
            take(weights)

        session.set_look = set_look
        return session


def test_a_prompt_behind_a_model_is_understood_by_that_model():
    styler, hub = still(TwoModels())
    model = hub.submit(make_change({"model": "other"}), "test")
    night = hub.submit(make_change({"prompt": "night"}), "test")
    wait_for_requests(styler, 2)
    step(styler, 0)
    assert model.result(1)["ok"] and night.result(1)["ok"]
    step(styler, 1)
    assert styler.looks == {"look-of-other": 1.0} and (hub.options.model, hub.prompt) == ("other", "night")
    hub.close()


def test_a_look_that_the_running_model_does_not_have_fails_alone():
    styler, hub = still(TwoModels())
    model = hub.submit(make_change({"model": "other"}), "test")
    night = hub.submit(make_change({"prompt": "night"}), "test")
    wait_for_requests(styler, 2)
    model.cancel()
    step(styler, 0)
    with pytest.raises(UsageProblem, match="no look 'look-of-other'"):
        night.result(1)
    step(styler, 1)
    assert styler.looks == {"look-of-lsd-small": 1.0} and hub.planned() == (hub.options, "first")
    hub.close()


def still(models):
    """A styler that makes a frame at each ``step``, and its hub."""
    options = ModelOptions()
    session, names = models.session(options, 4, 4), models.look_names(options)
    styler = Styler(session, LookTrack({names[0]: 1.0}, 0.0), Meter(), (4, 4), [(0.0, "first")])
    return styler, Controls(styler, models, options, TapSink(NullSink(), ".", None), StopSwitch())


def step(styler, number):
    return styler.step(Frame(np.zeros((4, 4, 3), np.uint8), number / 10, number))


def wait_for_requests(styler, count):
    deadline = time.monotonic() + 5
    while len(styler._pending) < count and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_change_whose_turn_never_came_is_told_of_the_end():
    styler, hub = still(FakeModels())
    goes_on, match = threading.Event(), hub.models.match
    hub.models.match = lambda options, text: goes_on.wait(5) and match(options, text)
    waiting = [hub.submit(make_change({"prompt": "night"}), "test") for _ in range(3)]
    threading.Timer(0.1, goes_on.set).start()
    hub.close()
    for future in waiting:
        with pytest.raises(MirageError, match="the stream ended"):
            future.result(0)


def test_a_change_that_is_withdrawn_is_not_made_later(monkeypatch):
    styler, hub = still(FakeModels())
    monkeypatch.setattr(hub_module, "FRAME_SECONDS", 0.05)
    for fields in ({"strength": 0.2}, {"prompt": "night"}):
        with pytest.raises(TooLate, match="no frame came"):
            wait(hub, hub.submit(make_change(fields), "test"))
    hub.submit(make_change({"seed": 3}), "test")
    time.sleep(0.1)
    step(styler, 0)
    assert not styler.session.strengths and styler.session.seeds == [3] and hub.prompt == "first"
    assert hub.state()["strength"] == 1.0 and hub.changes == 1
    hub.close()


def test_only_so_many_changes_wait_for_a_frame():
    styler, hub = still(FakeModels())
    futures = [hub.submit(make_change({"strength": 0.5}), "osc") for _ in range(MAX_PENDING + 3)]
    refused = [future for future in futures if future.done()]
    assert len(refused) == 3 and isinstance(refused[0].exception(), Busy)
    futures[0].cancel()
    assert not hub.submit(make_change({"strength": 0.1}), "osc").done(), "what is withdrawn takes no room"
    step(styler, 0)
    assert futures[1].result(1)["ok"] and styler.session.strengths == [0.1]
    hub.close()


def test_a_scheduled_prompt_is_the_prompt_from_then_on():
    with running(prompts=("0:ink wash", "0.1s:night")) as run:
        assert run.hub.state()["prompt"] in ("ink wash", "night")
        time.sleep(0.3)
        assert run.hub.state()["prompt"] == "night" and run.live.stats().prompt == "night"
        assert "'night'" in ask(run, model="other")["notes"][0]


def test_a_new_model_drops_the_scheduled_prompts():
    with running(prompts=("0:ink wash", "0.5s:night")) as run:
        ask(run, model="other")
        time.sleep(0.7)
        assert run.hub.state()["prompt"] == "ink wash"
        assert run.models.sessions[-1].looks == [{"ink-wash": 1.0}]


def test_a_prompt_blends_over_the_seconds_asked_for_and_schedules_stay():
    track = LookTrack({"a": 1.0}, 1.0)
    track.change(10.0, {"c": 1.0})
    track.turn(2.0, {"b": 1.0})
    assert track.at(2.5) == {"a": 0.5, "b": 0.5}
    track.set_blend_seconds(2.5, 2.0)
    assert track.at(2.5) == {"a": 0.5, "b": 0.5} and track.at(3.5) == {"a": 0.25, "b": 0.75}
    assert track.at(9.0) == {"b": 1.0} and track.at(11.0) == {"b": 0.5, "c": 0.5} and track.at(12.0) == {"c": 1.0}


def test_listeners_are_checked_before_the_model_is_loaded():
    class Slow(FakeModels):
        def check_model(self, options):
            raise AssertionError("too late")

    for values, telling in (
        ({"control": "0.0.0.0:8765"}, "needs a token"),
        ({"osc": "0.0.0.0:9000"}, "needs a token"),
        ({"control": "0.0.0.0:8765", "control_token": "short"}, "has 5 characters"),
        ({"preview": "70000"}, "is not \\[HOST:\\]PORT"),
    ):
        with pytest.raises(UsageProblem, match=telling):
            live.run(LiveConfig(input="test", prompts=("x",), window=False, **values), RecordingUi(), models=Slow())
