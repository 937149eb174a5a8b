"""Jobs that survive: killed at any moment, a full disk, a dead encoder; and then gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import media
import numpy as np
import pytest
from cli_fakes import FakeEngine, RecordingUi
from test_video_out import small_disk  # noqa: F401  a fixture

from mirage_cli.cli import main
from mirage_cli.config import ModelOptions, TransformConfig
from mirage_cli.errors import MediaError, ModelError, UsageProblem
from mirage_cli.frames import StreamInfo
from mirage_cli.inputs import file as video_in
from mirage_cli.inputs.file import open_file
from mirage_cli.outputs import open as outputs_open
from mirage_cli.outputs.job_folder import job_path, unfinished
from mirage_cli.outputs.segments import JobSink
from mirage_cli.runs import batch, transform
from mirage_cli.styling.stopping import StopSwitch
from mirage_cli.styling.styler import Engine, Styler

PIECE = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """60 frames of 96x64 with sound: six pieces."""
    return media.clip(tmp_path_factory.mktemp("jobs") / "in.mp4", seconds=2, fps=30)


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    """The stand-in model's frames depend on all that came before."""
    monkeypatch.setenv("FAKE_ECHO", "1")


def config(clip, out, **values) -> TransformConfig:
    given = {"prompts": ("night",), "piece_frames": PIECE, **values}
    return TransformConfig(input=str(clip), output=str(out), **given)


def do(wanted: TransformConfig, engine=None, stop=None):
    ui = RecordingUi()
    return transform.run(wanted, ui, engine=engine or FakeEngine(), stop=stop), ui


@pytest.fixture(scope="module")
def golden(clip, tmp_path_factory) -> bytes:
    """The output of a job that nothing disturbed."""
    os.environ["FAKE_ECHO"] = "1"
    out = tmp_path_factory.mktemp("golden") / "out.mp4"
    try:
        document, _ = do(config(clip, out))
    finally:
        del os.environ["FAKE_ECHO"]
    assert document["frames"] == 60 and document["resumed_at_frame"] == 0
    assert os.listdir(out.parent) == ["out.mp4"] and media.probe(out).frames == 60
    return out.read_bytes()


def test_killed_at_any_moment_and_gone_on_with(clip, golden, tmp_path):
    """kill -9 three times, at a moment that differs with every run of this test; then to the end."""
    out = tmp_path / "out.mp4"
    command = [
        sys.executable,
        str(Path(__file__).with_name("cli_fakes.py")),
        "transform",
        str(clip),
        "-p",
        "night",
        "-o",
        str(out),
        "--resume",
        "-q",
    ]
    env = {**os.environ, "FAKE_ECHO": "1", "FAKE_PIECE_FRAMES": str(PIECE), "FAKE_MODEL_MS": "15"}
    reached = []
    for number in range(3):
        begun = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        goal = unfinished(out) + (1 if number else 0)  # the first may die before any piece is whole
        while unfinished(out) < goal and begun.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.25))
        begun.send_signal(signal.SIGKILL)
        begun.communicate()
        reached.append(unfinished(out))
        assert not out.exists()
    assert reached == sorted(reached) and reached[-1] >= PIECE
    document, ui = do(config(clip, out, resume=True))
    assert document["resumed_at_frame"] == reached[-1] == 60 - document["frames"]
    assert any(f"going on at frame {reached[-1]}" in note for note in ui.notes)
    assert out.read_bytes() == golden  # frames, times and sound, bit for bit
    assert os.listdir(tmp_path) == ["out.mp4"]


class Dies(FakeEngine):
    """Its session fails at a frame, once."""

    def session(self, options, width, height):
        made = super().session(options, width, height)
        made.fail_at = self.session_options.get("fail_at")
        return made


@pytest.mark.parametrize("fail_at, kept", [(5, 0), (14, 10), (37, 30), (59, 50)])
def test_a_model_that_fails_loses_no_whole_piece(clip, golden, tmp_path, fail_at, kept):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError, match="the model broke"):
        do(config(clip, out), Dies(fail_at=fail_at))
    assert unfinished(out) == kept
    assert os.listdir(tmp_path) == (["out.mp4.part"] if kept else [])
    do(config(clip, out, resume=True))
    assert out.read_bytes() == golden


def test_work_is_not_thrown_away_unasked(clip, golden, tmp_path):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=25))
    with pytest.raises(MediaError, match="unfinished job, of which 20 frames are done") as caught:
        do(config(clip, out))
    assert "--resume" in caught.value.remedy and unfinished(out) == 20
    for other, telling in (
        ({"prompts": ("mosaic",)}, "another prompts"),
        ({"size": (48, 32)}, "another size"),
        ({"model": ModelOptions(seed=4)}, "another model"),
        ({"crf": 30}, "another encoder"),
        ({"start_seconds": 0.5}, "another range"),
    ):
        with pytest.raises(UsageProblem, match=telling):
            do(config(clip, out, resume=True, **other))
    assert unfinished(out) == 20
    document, _ = do(config(clip, out, overwrite=True))  # begins anew
    assert document["frames"] == 60 and out.read_bytes() == golden


def test_a_changed_input_is_another_job(clip, tmp_path):
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    source.write_bytes(clip.read_bytes())
    with pytest.raises(ValueError):
        do(config(source, out), Dies(fail_at=15))
    os.utime(source, ns=(1, 1))
    with pytest.raises(UsageProblem, match="another content of the input"):
        do(config(source, out, resume=True))


def test_other_weights_are_another_job(clip, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=15))
    monkeypatch.setattr("mirage_cli.models.catalog.file_sha256", lambda path: "trained on")
    with pytest.raises(UsageProblem, match="another weights"):
        do(config(clip, out, resume=True))


def test_the_times_of_a_job_stay_those_it_was_begun_with(clip, golden, tmp_path, monkeypatch):
    """A second look at an input may end before it is whole, on a busy machine, and tell another rate."""
    out, described = tmp_path / "out.mp4", video_in._describe
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=25))

    def otherwise(*given):
        return replace(described(*given), fps=29.87, variable_rate=True, duration_seconds=2.1)

    monkeypatch.setattr(video_in, "_describe", otherwise)
    do(config(clip, tmp_path / "alone.mp4"))
    assert (tmp_path / "alone.mp4").read_bytes() != golden  # it does make a difference
    document, _ = do(config(clip, out, resume=True))
    assert document["resumed_at_frame"] == 20 and out.read_bytes() == golden


@pytest.mark.parametrize("times", [None, 3, [], ["a", True, None], [30.0, False, "x"]])
def test_times_that_say_nothing_are_not_taken(times):
    info = StreamInfo(width=8, height=8, fps=25.0, duration_seconds=2.0)
    assert outputs_open._with_times(info, times) == info


def test_a_damaged_job_is_said_to_be(clip, tmp_path):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=25))
    (state,) = job_path(out).glob("*.safetensors")
    state.write_bytes(b"nonsense")
    with pytest.raises(MediaError, match="is damaged"):
        do(config(clip, out, resume=True))
    (job_path(out) / "progress.json").write_text("{")
    with pytest.raises(MediaError, match="cannot be used"):
        do(config(clip, out, resume=True))


def test_a_folder_of_the_user_is_left_alone(clip, tmp_path):
    mine = tmp_path / "out.mp4.part"
    mine.mkdir()
    (mine / "thesis.txt").write_text("two years of work")
    with pytest.raises(MediaError, match="folder with other things in it"):
        do(config(clip, tmp_path / "out.mp4", overwrite=True))
    assert (mine / "thesis.txt").read_text() == "two years of work"


def test_a_disk_that_fills_while_the_pieces_are_joined(clip, small_disk):  # noqa: F811
    """They fit once, not twice; what is done is kept, and the half-joined file is not."""
    folder = small_disk(1_600_000)
    source = folder.parent / "noise.mkv"
    media.ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=30:d=2,noise=alls=90:allf=t", "-c:v", "ffv1", source)
    out = folder / "out.mkv"
    with pytest.raises(MediaError, match="the disk is full") as caught:
        do(config(source, out, codec="ffv1"))
    assert "60 frames are kept" in caught.value.remedy and not out.exists()
    assert not list(job_path(out).glob("whole*"))
    subprocess.run(["mount", "-o", "remount,size=20000000", folder], check=True)
    document, _ = do(config(source, out, codec="ffv1", resume=True))
    assert document["frames"] == 0 and media.probe(out).frames == 60


def test_two_at_once_do_not_write_the_same_output(clip, tmp_path):
    out = tmp_path / "out.mp4"
    tried: list[str] = []

    class Second(FakeEngine):
        def session(self, *arguments):
            with pytest.raises(MediaError, match="another mirage is writing"):
                do(config(clip, out, overwrite=True))
            tried.append("once")
            return super().session(*arguments)

    do(config(clip, out), Second())
    assert tried == ["once"] and media.probe(out).frames == 60


@pytest.mark.parametrize("resume", [False, True])
def test_ctrl_c_finishes_the_file_and_keeps_the_job_where_that_was_asked(clip, golden, tmp_path, resume, monkeypatch):
    monkeypatch.setenv("FAKE_MODEL_MS", "10")
    out, stop = tmp_path / "out.mp4", StopSwitch()

    class Stops(FakeEngine):
        def session(self, *arguments):
            made = super().session(*arguments)
            step = made.step
            made.step = lambda rgb: (stop.stop("SIGINT") if made.frames == 33 else None, step(rgb))[1]
            return made

    document, ui = do(config(clip, out, resume=resume), Stops(), stop)
    assert document["interrupted"] and 34 <= media.probe(out).frames == document["frames"] < 60
    kept = document["frames"] // PIECE * PIECE
    assert unfinished(out) == (kept if resume else 0)
    assert job_path(out).exists() == resume
    if resume:
        assert any(f"{kept} frames are kept" in note for note in ui.notes)
        do(config(clip, out, resume=True, overwrite=True))
        assert out.read_bytes() == golden


def test_the_disk_is_full_and_then_it_is_not(clip, small_disk):  # noqa: F811
    noise = media.ffmpeg
    folder = small_disk(700_000)
    source = folder.parent / "noise.mkv"
    noise("-f", "lavfi", "-i", "testsrc2=s=96x64:r=30:d=2,noise=alls=90:allf=t", "-c:v", "ffv1", source)
    out = folder / "out.mkv"
    wanted = config(source, out, codec="ffv1")
    with pytest.raises(MediaError, match="the disk is full") as caught:
        do(wanted)
    kept = unfinished(out)
    assert caught.value.exit_code == 3 and not out.exists()
    assert kept >= PIECE and f"{kept} frames are kept: add --resume" in caught.value.remedy
    subprocess.run(["mount", "-o", "remount,size=20000000", folder], check=True)
    document, _ = do(replace(wanted, resume=True))
    assert document["resumed_at_frame"] == kept and media.probe(out).frames == 60


def test_an_encoder_that_is_killed(clip, golden, tmp_path):
    out = tmp_path / "out.mp4"

    class Kills(FakeEngine):
        def session(self, *arguments):
            made = super().session(*arguments)
            step = made.step

            def kill(rgb):
                if made.frames == 24:
                    time.sleep(0.2)  # the piece before is whole by now
                    (encoder,) = [pid for pid in children() if "piece-00002" in command_of(pid)]
                    os.kill(encoder, signal.SIGKILL)
                return step(rgb)

            made.step = kill
            return made

    with pytest.raises(MediaError, match=r"could not write .*out.mp4: .*SIGKILL") as caught:
        do(config(clip, out), Kills())
    assert caught.value.exit_code == 3 and unfinished(out) == 20 and not out.exists()
    do(config(clip, out, resume=True))
    assert out.read_bytes() == golden


def children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


# What pieces make


@pytest.mark.parametrize(
    "name, codec",
    [
        ("o.mp4", None),
        ("o.mov", "prores"),
        ("o.mkv", "h265"),
        ("o.webm", None),
        ("o.ts", None),
        ("o.mp4", "av1"),
        ("o.mkv", "ffv1"),
    ],
)
def test_pieces_join_to_what_one_would_be(tmp_path, name, codec):
    """Frame count, times and sound, with gaps that differ and B-frames across the joints."""
    source = media.variable_rate_clip(tmp_path / "in.mp4")
    times = media.times_of(source)
    out = tmp_path / name
    document, _ = do(config(source, out, codec=codec, piece_frames=7))
    assert document["frames"] == len(times) and not document["warnings"]
    np.testing.assert_allclose(media.times_of(out), times, atol=1.1e-3)
    assert media.probe(out).sound


def test_flash_and_beep_stay_together_across_pieces(tmp_path, monkeypatch):
    monkeypatch.delenv("FAKE_ECHO")
    source = media.flash_and_beep(tmp_path / "in.mp4", at=1.0, seconds=1.6)
    out = tmp_path / "out.mp4"
    ui = RecordingUi()
    transform.run(config(source, out, model=ModelOptions(strength=0.0), piece_frames=7), ui, engine=Mirror())
    assert media.flash_seconds(out) == pytest.approx(1.0, abs=1 / 30)
    assert media.beep_seconds(out) == pytest.approx(media.flash_seconds(out), abs=1 / 30)


class Mirror(FakeEngine):
    """Gives the input back."""

    def session(self, *arguments):
        made = super().session(*arguments)
        made.step = lambda rgb: rgb
        return made


@pytest.mark.parametrize("name", ["o.gif", "o.avi", "-"])
def test_what_cannot_be_gone_on_with_says_so(clip, tmp_path, name):
    out = name if name == "-" else tmp_path / name
    with pytest.raises(UsageProblem, match="--resume cannot hold"):
        do(config(clip, out, resume=True))
    assert os.listdir(tmp_path) == []


# The real model


@pytest.fixture(scope="module")
def real() -> Engine:
    """Loads what ships, once."""
    return Engine()


def test_a_session_goes_on_bit_for_bit(real):
    """lsd-small on the CPU: history, memory bank and guard are all that a frame depends on."""
    engine, options = real, ModelOptions(device="cpu")
    frames = [f.rgb for f in _pictures(14)]

    def fresh():
        made = engine.session(options, 64, 48)
        made.set_look({"ink-wash": 1.0})
        return made

    whole = fresh()
    expected = []
    for number, rgb in enumerate(frames):
        expected.append(whole.step(rgb))
        if number == 8:
            arrays, facts = whole.state()
    facts = json.loads(json.dumps(facts))  # as it is kept
    again = fresh()
    again.load_state((arrays, facts))
    for number in range(9, 14):
        assert np.array_equal(again.step(frames[number]), expected[number]), number
    assert not np.array_equal(fresh().step(frames[9]), expected[9])  # the past does matter
    with pytest.raises(ModelError, match="saved state has history.last"):
        engine.session(options, 96, 48).load_state((arrays, facts))


def test_what_a_program_carries_goes_along(real):
    """On a GPU the whole frame may be one program with tensors of its own; here one stands in for it."""
    from types import SimpleNamespace

    import torch

    engine, options = real, ModelOptions(device="cpu")
    one, two, other = (engine.session(options, *size) for size in ((64, 48), (64, 48), (96, 48)))
    for session, value in ((one, 5.0), (two, 0.0), (other, 0.0)):
        session.program = SimpleNamespace(state=(torch.full((1, 1, session.width), value),))
        session.history.valid.fill_(1.0)
    two.load_state(one.state())
    assert float(two.program.state[0].min()) == 5.0 and float(two.history.valid[0]) == 1.0
    other.load_state(one.state_for(other))
    assert float(other.program.state[0].max()) == 0.0 and float(other.history.valid[0]) == 0.0


def _pictures(count):
    from mirage_cli.inputs.landscape import TestPicture

    return list(TestPicture(64, 48, paced=False, frames=count))


def test_the_whole_command_with_the_real_model(real, tmp_path, monkeypatch):
    clip = media.clip(tmp_path / "in.mp4", seconds=0.8, fps=30, size=(64, 48))
    options = ModelOptions(device="cpu")
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    engine = real
    wanted = config(clip, one, model=options, prompts=("0:ink wash", "0.4s:neon cyberpunk"), blend_seconds=0.2)
    do(wanted, engine)
    step = Styler.step

    def dies(self, frame):
        if frame.index == 16:
            raise KeyboardInterrupt
        return step(self, frame)

    monkeypatch.setattr(Styler, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        do(replace(wanted, output=str(two)), engine)
    monkeypatch.undo()
    assert unfinished(two) == 10
    do(replace(wanted, output=str(two), resume=True), engine)
    assert one.read_bytes() == two.read_bytes() and media.probe(two).frames == 24


# Several inputs


@pytest.fixture()
def films(clip, tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("take 10.mp4", "take 9.mp4"):
        (folder / name).write_bytes(clip.read_bytes())
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture()
def fakes(monkeypatch):
    for place in ("transform", "batch", "live"):
        monkeypatch.setattr(f"mirage_cli.{place}.Engine", FakeEngine)


def test_a_folder_is_done_with_one_report(films, tmp_path, capsys, fakes):
    code = main(["transform", str(films), "-p", "night", "-o", f"{tmp_path}/out/", "--json"])
    report = json.loads(capsys.readouterr().out)
    names = [Path(entry["input"]).name for entry in report["batch"]]
    assert names == ["broken.mp4", "take 9.mp4", "take 10.mp4"] and code == 3
    assert (report["done"], report["failed"], report["left"]) == (2, 1, 0)
    broken, nine, _ = report["batch"]
    assert "not a media file" in broken["error"] and nine["document"]["frames"] == 60
    assert sorted(os.listdir(tmp_path / "out")) == ["take 10.night.mp4", "take 9.night.mp4"]
    # Once more: what is whole stays as it is.
    (films / "broken.mp4").unlink()
    before = os.stat(tmp_path / "out" / "take 9.night.mp4").st_mtime_ns
    assert main(["transform", str(films), "-p", "night", "-o", f"{tmp_path}/out", "--resume"]) == 0
    assert "2 skipped" in capsys.readouterr().out
    assert os.stat(tmp_path / "out" / "take 9.night.mp4").st_mtime_ns == before


def test_a_glob_and_a_list_are_batches_too(films, capsys, fakes):
    assert main(["transform", f"{films}/take*.mp4", "-p", "night"]) == 0
    assert "2 done" in capsys.readouterr().out
    made = sorted(path.name for path in films.glob("*.night.mp4"))
    assert made == ["take 10.night.mp4", "take 9.night.mp4"]
    # What was made is not made again of itself.
    names = [f"{films}/take 9.mp4", f"{films}/take 10.mp4"]
    assert main(["transform", *names, "-p", "night", "-y", "-q"]) == 0
    assert main(["transform", str(films), "-p", "night", "--resume"]) == 3
    assert "2 skipped" in capsys.readouterr().out
    assert main(["transform", f"{films}/none*.mp4", "-p", "night"]) == 3
    assert "no file is called" in capsys.readouterr().err
    assert main(["transform", *names, "-p", "night", "-o", "x.mp4"]) == 2


def test_files_of_one_name_in_many_folders_all_get_an_output(clip, tmp_path, fakes):
    inputs = [tmp_path / folder / "x.mp4" for folder in "abcd"]
    for path in inputs:
        path.parent.mkdir()
        path.symlink_to(clip)
    assert main(["transform", *map(str, inputs), "-p", "night", "-o", f"{tmp_path / 'out'}/", "-q"]) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["x.mp4-2.night.mp4", "x.mp4-3.night.mp4", "x.mp4.night.mp4", "x.night.mp4"]


def test_only_what_an_earlier_run_made_is_left_out_of_a_folder(clip, tmp_path):
    for name in ("trip.mov", "trip.night.mp4", "trip.part2.mp4", "2024.mp4", "2024.05.mp4", "trip.night.cut-off.mp4"):
        (tmp_path / name).symlink_to(clip)
    told = []
    found = batch.expand([str(tmp_path)], lambda: ("night", "mosaic"), told.append)
    assert [Path(name).name for name in found] == ["2024.05.mp4", "2024.mp4", "trip.mov", "trip.part2.mp4"]
    assert told == ["left out, as made of others by an earlier run: trip.night.cut-off.mp4, trip.night.mp4"]


class StopsAt(FakeEngine):
    """Sets the switch at the third session step of the second file, as a signal would."""

    def __init__(self, stop):
        super().__init__()
        self.stop, self.steps = stop, 0

    def session(self, options, width, height):
        made = super().session(options, width, height)
        step, number = made.step, len(self.sessions)

        def counted(*given):
            self.steps += number == 2
            if self.steps == 3:
                self.stop.event.set()
            return step(*given)

        made.step = counted
        return made


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_was_cut_off_is_not_taken_for_a_whole_one(clip, tmp_path, resume):
    inputs = [str(tmp_path / f"{name}.mp4") for name in "abc"]
    for name in inputs:
        Path(name).symlink_to(clip)
    wanted = TransformConfig(input=inputs[0], prompts=("night",), output=f"{tmp_path / 'out'}/", resume=resume)
    stop = StopSwitch()
    report = batch.run(wanted, inputs, RecordingUi(), engine=StopsAt(stop), stop=stop)
    assert [entry["status"] for entry in report["batch"]] == ["done", "interrupted"]
    assert (report["done"], report["left"], batch.exit_code(report)) == (1, 2, 130)
    cut = tmp_path / "out" / "b.night.mp4"
    assert not cut.exists()
    if not resume:  # what there is of it is not thrown away
        aside = tmp_path / "out" / "b.night.cut-off.mp4"
        assert report["batch"][1]["output"] == str(aside) and 0 < media.probe(aside).frames < 60
    again = batch.run(replace(wanted, resume=True), inputs, RecordingUi(), engine=FakeEngine())
    assert (again["done"], again["skipped"], again["left"]) == (2, 1, 0)
    assert media.probe(cut).frames == 60


def test_a_file_cut_off_twice_replaces_nothing(tmp_path):
    for content in (b"1", b"2"):
        (tmp_path / "b.mp4").write_bytes(content)
        batch._put_aside(str(tmp_path / "b.mp4"), resume=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "b.cut-off.mp4": b"1",
        "b.cut-off-2.mp4": b"2",
    }


def test_a_signal_between_two_files_leaves_the_report(clip, tmp_path):
    class Interrupted(FakeEngine):
        def session(self, options, width, height):
            if self.sessions:
                raise KeyboardInterrupt
            return super().session(options, width, height)

    inputs = [str(tmp_path / f"{name}.mp4") for name in "abc"]
    for name in inputs:
        Path(name).symlink_to(clip)
    wanted = TransformConfig(input=inputs[0], prompts=("night",), output=f"{tmp_path / 'out'}/")
    report = batch.run(wanted, inputs, RecordingUi(), engine=Interrupted())
    assert [entry["status"] for entry in report["batch"]] == ["done"]
    assert (report["left"], report["interrupted"], batch.exit_code(report)) == (2, True, 130)
    assert os.listdir(tmp_path / "out") == ["a.night.mp4"]


def test_pictures_are_not_replaced_by_their_own_output(shots, tmp_path, fakes, capsys):
    before = {path: path.read_bytes() for path in shots.iterdir()}
    pattern = str(shots / "s%d.png")
    for given in (pattern, str(shots), str(shots / "*.png")):
        assert main(["transform", given, "-p", "night", "-o", pattern, "-y"]) == 3
        assert "is the input itself" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in before} == before
    assert main(["transform", pattern, "-p", "night", "-o", str(shots / "new%d.png")]) == 0


def test_two_names_of_one_output_are_told_at_once(clip, tmp_path, monkeypatch, fakes, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["transform", str(clip), "-p", "night", "-o", "o.mp4", "-o", "./o.mp4"]) == 3
    assert "are the same file" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_prompts_that_come_late_or_never_are_told(clip, tmp_path):
    done, _ = do(config(clip, tmp_path / "o.mp4", prompts=("16:9 night",)))
    assert any("'9 night' begins at 16 s" in text and "never shown" in text for text in done["warnings"])
    done, _ = do(config(clip, tmp_path / "p.mp4", prompts=("1s:night", "60s:ink wash")))
    assert any("unchanged until 1 s" in text for text in done["warnings"])
    assert any("'ink wash' begins at 60 s" in text and "never shown" in text for text in done["warnings"])
    done, _ = do(config(clip, tmp_path / "q.mp4", prompts=("0:night", "1s:ink wash")))
    assert done["warnings"] == []


def test_several_outputs_at_once(clip, tmp_path):
    names = [str(tmp_path / name) for name in ("a.mp4", "b.mkv", "f%03d.png")]
    document, _ = do(config(clip, names[0], more_outputs=tuple(names[1:])))
    assert document["more_outputs"] == names[1:]
    assert media.probe(tmp_path / "a.mp4").frames == media.probe(tmp_path / "b.mkv").frames == 60
    assert len(list(tmp_path.glob("f*.png"))) == 60 and media.probe(tmp_path / "b.mkv").sound
    with pytest.raises(UsageProblem, match="--resume"):
        do(config(clip, tmp_path / "c.mp4", more_outputs=(str(tmp_path / "d.mp4"),), resume=True))
    assert len(os.listdir(tmp_path)) == 62


# Pictures


@pytest.fixture()
def shots(tmp_path) -> Path:
    """Twelve pictures of one grey each, numbered without leading zeros."""
    import cv2

    folder = tmp_path / "shots"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"s{number}.png"), np.full((32, 48, 3), number * 20, np.uint8))
    return folder


def greys(path: Path) -> list[float]:
    with open_file(path) as source:
        return [float(frame.rgb.mean()) for frame in source]


@pytest.mark.parametrize("name", ["", "/*.png", "/s%d.png"])
def test_pictures_are_a_video(shots, tmp_path, name):
    out = tmp_path / "o.mp4"
    document, _ = do(config(f"{shots}{name}", out, fps=12.0), Mirror())
    assert document["frames"] == 12 and media.probe(out).seconds == pytest.approx(1.0, abs=0.01)
    assert greys(out) == pytest.approx([number * 20 for number in range(12)], abs=3)


def test_pictures_in_and_out(shots, tmp_path):
    (tmp_path / "out").mkdir()
    do(config(shots, tmp_path / "out" / "%03d.png"), Mirror())
    assert sorted(os.listdir(tmp_path / "out")) == [f"{n:03d}.png" for n in range(1, 13)]
    import cv2

    assert cv2.imread(str(tmp_path / "out" / "012.png")).mean() == 220
    with pytest.raises(MediaError, match="exists"):
        do(config(shots, tmp_path / "out" / "%03d.png"), Mirror())
    with pytest.raises(UsageProblem, match="names one picture") as caught:
        do(config(shots, tmp_path / "one.png"), Mirror())
    assert "%05d.png" in caught.value.remedy and not (tmp_path / "one.png").exists()


def test_one_picture(shots):
    document, _ = do(TransformConfig(input=str(shots / "s3.png"), prompts=("night",)), Mirror())
    assert document["output"] == str(shots / "s3.night.png") and document["frames"] == 1
    assert (shots / "s3.night.png").exists()


def test_pictures_that_do_not_fit(shots, tmp_path):
    import cv2

    cv2.imwrite(str(shots / "s5.png"), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(MediaError, match="s5.png is 16x16, and the first picture is 48x32"):
        do(config(shots, tmp_path / "o.mp4"))
    (shots / "s0.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match="s0.png is not a picture"):
        do(config(shots, tmp_path / "o.mp4"))
    with pytest.raises(MediaError, match="no picture is called"):
        do(config(shots / "x%d.png", tmp_path / "o.mp4"))


def test_a_job_is_a_sink_that_knows_its_pieces(clip, tmp_path):
    """The kill test above cannot pass by making no pieces."""
    seen = []
    step = Styler.step

    def look(self, frame):
        if frame.index == 35:
            time.sleep(0.3)
            seen.append(sorted(path.name for path in job_path(tmp_path / "o.mp4").iterdir()))
        return step(self, frame)

    Styler.step = look
    try:
        do(config(clip, tmp_path / "o.mp4"))
    finally:
        Styler.step = step
    assert {
        "job.json",
        "lock",
        "progress.json",
        "piece-00000.mp4",
        "piece-00002.mp4",
        "state-000030.safetensors",
    } <= set(seen[0])
    assert "state-000020.safetensors" not in seen[0] and JobSink.__doc__
