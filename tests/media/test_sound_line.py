"""Sound that goes past the model to live outputs and pushes: under its pictures wherever it arrives."""

from __future__ import annotations

import io
import socket
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from helpers import media, senders
from helpers.fakes import FakeModels, RecordingUi
from helpers.senders import free_port, need

from mirage_cli.commands.ui import summary
from mirage_cli.config import LiveConfig, TransformConfig
from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, Sound, SoundLine
from mirage_cli.inputs.file import open_file
from mirage_cli.media.nut_writer import NutWriter
from mirage_cli.media.raw_pipe import RawPipeReader, raw_pipe_url
from mirage_cli.media.sound_line import RATE, SoundFeed
from mirage_cli.outputs.file import open_output
from mirage_cli.outputs.push import Patient, PushSink
from mirage_cli.runs import live, transform
from mirage_cli.styling.stopping import StopSwitch

pytestmark = pytest.mark.slow

FRAME_MS = 1000 / 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return media.flashes_and_beeps(tmp_path_factory.mktemp("clips") / "in.mp4")


def ramp(begin, count):
    return np.stack([np.arange(begin, begin + count)] * 2, axis=1).astype(np.int16)


# Pieces


def test_pictures_and_sound_through_one_pipe(tmp_path):
    path = tmp_path / "x.nut"
    rgb = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(4, 8, 3)
    with open(path, "wb") as file:
        writer = NutWriter(file.fileno(), 8, 4, 90_000, Fraction(30), sound=(RATE, 2))
        writer.write(0, rgb)
        writer.write_sound(0, ramp(0, 1024))
        writer.write_sound(1024, ramp(1024, 7))
        writer.write(3000, rgb)
    copied = ["-copyts", "-i", path, "-map", "0", "-c", "copy", "-copytb", "1"]
    data = media.ffmpeg(*copied, "-f", "tee", raw_pipe_url(with_sound=True))
    heard = []
    reader = RawPipeReader(io.BufferedReader(io.BytesIO(data)), lambda at, samples: heard.append((at, samples)))
    frames = [reader.read_frame() for _ in range(2)]
    assert [at for at, _ in frames] == [0, Fraction(1, 30)] and all(np.array_equal(rgb, seen) for _, seen in frames)
    assert reader.sound_rate == RATE and (reader.width, reader.height) == (8, 4)
    assert reader.read_frame() is None
    assert [at for at, _ in heard] == [0, Fraction(1024, RATE)]
    assert np.array_equal(np.concatenate([samples for _, samples in heard]), ramp(0, 1031))
    got = media.ffmpeg("-i", path, "-map", "0:a", "-f", "s16le", "-")  # and ffmpeg reads the same
    assert np.array_equal(np.frombuffer(got, "<i2").reshape(-1, 2), ramp(0, 1031))


class Tape:
    def __init__(self):
        self.laid = []
        self.feed = SoundFeed(lambda at, samples: self.laid.append((at, samples)))

    def samples(self):
        end = 0
        for at, samples in self.laid:
            assert at == end and len(samples)  # no gap, no overlap
            end = at + len(samples)
        return np.concatenate([samples[:, 0] for _, samples in self.laid]) if self.laid else np.zeros(0)


def test_sound_begins_with_the_first_picture():
    tape = Tape()
    tape.feed.take(Sound(ramp(1, 4800), 1.9))
    tape.feed.take(Sound(ramp(4801, 4800), 2.0))
    assert tape.laid == []
    tape.feed.picture(1.95)
    assert np.array_equal(tape.samples(), np.arange(2401, 9601))


def test_gaps_become_silence_and_overlaps_are_cut():
    tape = Tape()
    tape.feed.picture(0.0)
    tape.feed.take(Sound(ramp(1, 480), 0.0))
    tape.feed.take(Sound(ramp(481, 480), 0.0104))  # 0.4 ms late: the rounding of a time stamp
    tape.feed.take(Sound(ramp(1, 480), 0.05))  # 30 ms missing
    tape.feed.take(Sound(ramp(1, 2400), 0.02))  # 40 ms of it were there already
    want = np.concatenate([np.arange(1, 961), np.zeros(1440), np.arange(1, 481), np.arange(1921, 2401)])
    assert np.array_equal(tape.samples(), want)


def test_sound_that_stays_away_keeps_no_picture_waiting():
    tape = Tape()
    for n in range(100):
        tape.feed.picture(n * 0.1)
    assert len(tape.samples()) == round(7.9 * RATE)  # two seconds behind the pictures
    tape.feed.take(Sound(ramp(1, 4800), 9.0))
    assert len(tape.samples()) == round(9.1 * RATE) and tape.samples()[-1] == 4800
    tape.feed.picture(10_000.0)  # hours away: a jump, not gigabytes of silence
    assert sum(len(samples) for _, samples in tape.laid) < 80 * RATE


def test_a_line_that_nobody_reads_stays_short():
    line = SoundLine()
    for n in range(1000):
        line.put(Sound(ramp(0, 4800), n * 0.1))
    held = line.take()
    assert 298 <= len(held) <= 300 and held[-1].pts_seconds == pytest.approx(99.9) and line.take() == []


@pytest.mark.parametrize("inside", [".mp4", ".ts"])
def test_a_range_of_a_file(tmp_path, inside):
    source = media.flash_and_beep(tmp_path / f"in{inside}", at=1.2, seconds=2.5)
    with open_file(source, with_line=True, start_seconds=0.71, duration_seconds=1.0) as frames:
        sink = open_output(tmp_path / "out.mkv", frames.info, with_line=True)
        for frame in frames:
            for sound in frames.sound.take():
                sink.write_sound(sound)
            sink.write(frame)
        sink.close()
    flash, beep = media.flash_seconds(tmp_path / "out.mkv"), media.beep_seconds(tmp_path / "out.mkv")
    assert abs(flash - beep) < 0.005 and flash == pytest.approx(0.48, abs=0.04)
    assert media.probe(tmp_path / "out.mkv").seconds == pytest.approx(1.0, abs=0.08)


def test_sound_that_cannot_be_decoded_does_not_take_the_pictures_along(tmp_path, clip, monkeypatch):
    from mirage_cli.inputs import file as video_in

    make = video_in.decode_arguments

    def broken(*args, with_line, **kwargs):  # as ffmpeg fails where it has no decoder
        arguments = make(*args, with_line=with_line, **kwargs)
        return ["-c:a", "no_such_decoder", *arguments] if with_line else arguments

    monkeypatch.setattr(video_in, "decode_arguments", broken)
    with open_file(clip, with_line=True) as source:
        assert source.sound is None and len(list(source)) == 90
        assert source.warnings == ["in.mp4: its sound cannot be decoded and is left out"]


# Whole runs


def address(scheme):
    need(scheme)
    kind = socket.SOCK_DGRAM if scheme in ("srt", "udp") else socket.SOCK_STREAM
    return f"{scheme}://127.0.0.1:{free_port(kind)}" + ("/live/key" if scheme == "rtmp" else "")


def receiver(url):
    """Options of an ffmpeg that waits there."""
    scheme = url.partition(":")[0]
    return {
        "rtmp": ["-listen", "1", "-i", url],
        "srt": ["-i", f"{url}?mode=listener"],
        "tcp": ["-i", f"{url}?listen"],
        "udp": ["-analyzeduration", "300000", "-i", url, "-t", "1.5"],
    }[scheme]


def check_in_step(path, least):
    found = media.offsets_ms(path)
    assert len(found) >= least, found
    assert max(map(abs, found)) < FRAME_MS / 2, found


def live_config(clip, *targets, **values):
    return LiveConfig(
        input=str(clip),
        prompts=("night",),
        window=False,
        **{"output": targets[0], "more_outputs": tuple(targets[1:]), **values},
    )


def test_live_sends_the_sound_of_a_file(clip, tmp_path):
    url, got = address("rtmp"), tmp_path / "got.mkv"
    with senders.ffmpeg(*receiver(url), "-c", "copy", str(got), wait=True):
        senders.wait_for_server(url)
        document = live.run(
            live_config(
                clip,
                url,
                str(tmp_path / "a.mp4"),
                str(tmp_path / "live.m3u8"),
                record=True,
                record_folder=str(tmp_path),
            ),
            RecordingUi(),
            models=FakeModels(),
            keys=False,
        )
    assert document["sound"] and all("frames not sent" in text for text in document["warnings"])
    (recorded,) = document["files"]
    for path in (got, tmp_path / "a.mp4", tmp_path / "live.m3u8", recorded):
        check_in_step(path, 4)
    assert media.probe(tmp_path / "a.mp4").seconds == pytest.approx(3.0, abs=0.1)


def test_live_passes_the_sound_of_a_stream_on(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_MODEL_MS", "60")  # frames are dropped and late, sound is not
    here, there, got = address("rtmp"), address("srt"), tmp_path / "got.ts"
    send = ["-re", "-i", str(clip), "-c", "copy", "-f", "flv", here]
    with senders.ffmpeg(*receiver(there), "-c", "copy", str(got), wait=True):
        senders.wait_for_server(there)
        config = live_config(f"{here}?listen=1", there, reconnect=0, timeout_seconds=15.0)
        with senders.later(1.0, *send):
            document = live.run(config, RecordingUi(), models=FakeModels(), keys=False)
    assert document["dropped"] > 10 and document["sound"]
    found = media.offsets_ms(got)
    # A flash is seen on the next picture that was made, 60 ms apart; never before its beep.
    assert len(found) >= 3 and min(found) > -FRAME_MS / 2 and max(found) < 60 + FRAME_MS, found


@pytest.mark.parametrize(("model_ms", "frames"), [(1, 45), (45, 40)])
def test_a_looped_file_keeps_step(tmp_path, monkeypatch, model_ms, frames):
    """Each picture that is there is held against the sound under it: a slow model, or a busy machine, drops some."""
    monkeypatch.setenv("FAKE_MODEL_MS", str(model_ms))
    clip, out = media.flashes_and_beeps(tmp_path / "in.mp4", seconds=0.6, every=0.3), tmp_path / "o.mkv"
    document = live.run(
        live_config(clip, str(out), loop=True, frames=frames), RecordingUi(), models=FakeModels(), keys=False
    )
    assert document["dropped"] > 5 or model_ms == 1
    pictures = media.white_and_tone(out)
    assert len(pictures) == frames - 1 and pictures[-1][0] > 1.2  # the third pass
    assert [item for item in pictures if item[1] != item[2]] == []
    later = [white for time, white, _ in pictures if time > 0.6]
    assert any(later) and not all(later)
    # Sound is never dropped. The first tone is cut where the first picture is not the file's.
    gaps = np.diff(media.beep_begins(out)[1:])
    assert len(gaps) >= 2 and np.abs(gaps - 0.3).max() < 0.005, gaps


def test_without_sound(clip, tmp_path):
    document = live.run(
        live_config(clip, str(tmp_path / "o.mkv"), sound=False, frames=5),
        RecordingUi(),
        models=FakeModels(),
        keys=False,
    )
    assert not document["sound"] and not media.probe(tmp_path / "o.mkv").sound
    config = TransformConfig(input=str(clip), prompts=("night",), output=str(tmp_path / "t.mp4"), sound=False)
    transform.run(config, RecordingUi(), models=FakeModels())
    assert not media.probe(tmp_path / "t.mp4").sound


def test_a_silent_source_is_said_where_it_is_sent(tmp_path):
    url, ui = address("udp"), RecordingUi()
    live.run(
        LiveConfig(input="test", prompts=("night",), window=False, size=(64, 48), frames=5, output=url),
        ui,
        models=FakeModels(),
        keys=False,
    )
    assert "test picture gives no sound: what is sent is silent" in ui.notes


@pytest.mark.parametrize("scheme", ["srt", "tcp"])
def test_transform_sends_every_frame_with_its_sound(clip, tmp_path, scheme):
    url, got = address(scheme), tmp_path / "got.mkv"
    begin = time.monotonic()
    with senders.ffmpeg(*receiver(url), "-c", "copy", str(got), wait=True):
        senders.wait_for_server(url)
        document = transform.run(
            TransformConfig(input=str(clip), prompts=("night",), output=url, more_outputs=(str(tmp_path / "a.mp4"),)),
            RecordingUi(),
            models=FakeModels(),
        )
    # Viewers of srt watch it now; tcp is a pipe to another program.
    assert (time.monotonic() - begin > 2.8) == (scheme == "srt")
    assert document["frames"] == 90 and document["warnings"] == []
    check_in_step(got, 4)
    assert media.probe(got).frames >= (85 if scheme == "srt" else 90)
    check_in_step(tmp_path / "a.mp4", 5)
    assert media.probe(tmp_path / "a.mp4").frames == 90


def test_transform_waits_for_a_receiver_that_was_killed(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("mirage_cli.outputs.push.FIRST_SECONDS", 0.1)
    url, ui, done = address("rtmp"), RecordingUi(), []
    config = TransformConfig(input=str(clip), prompts=("night",), output=url)

    def work():
        done.append(transform.run(config, ui, models=FakeModels()))

    job = threading.Thread(target=work)
    listen = [*receiver(url), "-c", "copy"]
    with senders.ffmpeg(*listen, str(tmp_path / "one.mkv")) as first:
        senders.wait_for_server(url)
        job.start()
        time.sleep(1.2)
        first.kill()
        first.wait()
        senders.wait_for(lambda: any("attempt 1 of 10" in text for text in ui.warnings))
        senders.wait_for(lambda: any("attempt 1 of 10" in stats.message for stats in ui.stats))
    with senders.ffmpeg(*listen, str(tmp_path / "two.mkv"), wait=True):
        job.join(30)
    (document,) = done
    assert document["frames"] == 90 and document["dropped"] == 0
    assert any("connected again 1 times, 0 frames not sent" in text for text in document["warnings"])
    assert not any("key" in text for text in (*ui.warnings, *ui.notes, ui.stats[-1].target, summary(document)))
    # The rest of the film came, in step, but for what was on its way when the receiver died.
    check_in_step(tmp_path / "two.mkv", 2)
    assert 35 <= media.probe(tmp_path / "two.mkv").frames <= 75


class Line:
    """A connection that is broken until it is mended."""

    def __init__(self, made, broken):
        made.append(self)
        self.warnings, self.broken, self.frames, self.killed = [], broken, [], threading.Event()
        self.begun = self.running = True

    def write(self, frame):
        if self.broken:
            raise MediaError("ffmpeg could not write it: Broken pipe")
        self.frames.append(frame.index)

    def write_sound(self, sound):
        pass

    def close(self, commit=True):
        pass

    def kill(self):
        self.killed.set()


def test_a_patient_push_leaves_no_frame_out(monkeypatch):
    monkeypatch.setattr("mirage_cli.outputs.push.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("mirage_cli.outputs.push.pause_seconds", lambda attempt: 0.01)
    made: list[Line] = []
    sink = PushSink("line", lambda again: Line(made, broken=len(made) < 3), patient=Patient())
    for n in range(30):
        sink.write(Frame(np.zeros((2, 2, 3), np.uint8), n / 30, n))
    sink.close()
    assert made[-1].frames == list(range(30)) and sink.reconnects == 1 and sink.missed == 0


def test_ctrl_c_ends_the_waiting_for_a_receiver():
    stop = StopSwitch()
    sink = PushSink("line", lambda again: Line([], broken=True), patient=Patient(stop=stop.event))
    sink._reached_at = time.monotonic() - 100.0
    threading.Timer(0.5, stop.stop, ("SIGINT",)).start()
    begin = time.monotonic()
    for n in range(10):
        sink.write(Frame(np.zeros((2, 2, 3), np.uint8), n / 30, n))
    sink.close()
    assert 0.4 < time.monotonic() - begin < 4.0 and sink.missed


@pytest.mark.parametrize(("url", "why"), [("rtmp://127.0.0.1:{}/live/key", "refused"), ("srt://127.0.0.1:{}", "")])
def test_nobody_listens(clip, url, why):
    """SRT learns of it only after its own three seconds, in which all of a short film fits into pipes."""
    need(url.partition(":")[0])
    url = url.format(free_port())
    for run, config in (
        (transform.run, TransformConfig(input=str(clip), prompts=("night",), output=url)),
        (live.run, live_config(clip, url, duration_seconds=2.0)),
    ):
        with pytest.raises(MediaError, match=f"cannot send to .*{why}") as caught:
            run(config, RecordingUi(), models=FakeModels())
        assert caught.value.exit_code == 3 and "key" not in str(caught.value)
