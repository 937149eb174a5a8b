"""``mirage transform``: a file becomes a file, and what is said of it.

The model is a stand-in (``helpers.fakes``) except in the last test, which runs what ships.
"""

from __future__ import annotations

import json
import threading

import pytest
from helpers import media
from helpers.commands import frames_of, mirage
from helpers.fakes import FakeSession, main
from helpers.media import probe

from mirage_cli.inputs.size import choose_size


def test_a_file_becomes_a_file_named_by_its_look(clip, tmp_path, capsys):
    source = tmp_path / "my clip.mp4"
    source.write_bytes(clip.read_bytes())
    assert main(["transform", str(source), "-p", "ink wash"]) == 0
    out = tmp_path / "my clip.ink-wash.mp4"
    streams = capsys.readouterr()
    assert f"wrote {out}: 20 frames of 96x64" in streams.out
    assert "'ink wash' is taken as the look ink-wash" in streams.err and "\x1b" not in streams.err
    made = probe(out)
    assert (made.frames, made.size, made.sound) == (20, (96, 64), True)
    assert made.seconds == pytest.approx(1.0, abs=0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my clip.ink-wash.mp4", "my clip.mp4"]


def test_a_session_with_copies_gets_its_frames_ahead(clip, tmp_path, capsys, monkeypatch):
    """As on a GPU: uploaded in the decode thread, fetched in the encode thread; the same film."""

    class Copies:
        def upload(self, rgb):
            return rgb.copy(), threading.current_thread().name

    class Late:
        def __init__(self, rgb):
            self.rgb = rgb

        def picture(self):
            assert threading.current_thread().name == "mirage-sink"
            return self.rgb

    def step_later(self, upload):
        rgb, thread = upload
        assert thread == "mirage-source" and threading.current_thread().name == "mirage-model"
        return Late(self.step(rgb))

    assert main(["transform", str(clip), "-p", "ink wash", "-o", str(tmp_path / "plain.mp4")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(FakeSession, "copies", Copies(), raising=False)
    monkeypatch.setattr(FakeSession, "step_later", step_later, raising=False)
    assert main(["transform", str(clip), "-p", "ink wash", "-o", str(tmp_path / "late.mp4"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["busy"]["gpu"] > 0
    assert (tmp_path / "late.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()


def test_json_is_one_document_that_says_what_happened(clip, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    code = main(
        [
            "transform",
            str(clip),
            "-p",
            "a strange thing",
            "-o",
            str(out),
            "--json",
            "--strength",
            "0.5",
            "--seed",
            "3",
            "-m",
            "other",
        ]
    )
    streams = capsys.readouterr()
    document = json.loads(streams.out)
    assert code == 0
    assert document["frames"] == document["frames_in"] == 20 and document["dropped"] == 0
    assert document["output"] == str(out) and document["size"] == [96, 64]
    assert document["seconds"] > 0
    assert document["fps"] == pytest.approx(20 / document["seconds"], rel=0.02)
    for stage in ("read", "prepare", "denoise", "compose", "model", "write", "end_to_end"):
        latency = document["latency_ms"][stage]
        assert 0 <= latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"], stage
    busy = document["busy"]
    assert list(busy) == ["decode", "model", "encode", "gpu"] and busy["gpu"] is None
    assert all(0 < busy[stage] <= 1 for stage in ("decode", "model", "encode"))
    assert document["limiting_stage"] == max(("decode", "model", "encode"), key=busy.get)
    assert document["model"]["model"] == "other" and document["model"]["device"] == "cpu"
    assert (document["strength"], document["seed"]) == (0.5, 3)
    assert (document["cuts"], document["guard_events"], document["warnings"]) == (0, [], [])
    memory = document["peak_memory_mb"]
    assert memory["total"] == pytest.approx(memory["process"] + memory["children"], abs=0.2)
    assert memory["process"] > 20 and document["interrupted"] is False
    assert document["prompts"] == [
        {
            "time_seconds": 0.0,
            "text": "a strange thing",
            "look": "mosaic",
            "weights": {"mosaic": 1.0},
            "similarity": 0.31,
            "known": False,
        }
    ]
    assert "warning: no look is known for 'a strange thing'; the nearest is mosaic" in streams.err


def test_json_from_the_environment_holds_for_errors_and_interruptions(capsys, tmp_path, clip, monkeypatch):
    monkeypatch.setenv("MIRAGE_JSON", "1")
    assert main(["transform", str(tmp_path / "none.mp4"), "-p", "night"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 3

    monkeypatch.delenv("MIRAGE_JSON")
    assert main(["transform", str(tmp_path / "none.mp4"), "-p", "night"]) == 3
    assert capsys.readouterr().out == ""  # one command's wish is not the next one's

    def stopped(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setenv("MIRAGE_JSON", "1")
    monkeypatch.setattr("mirage_cli.runs.transform.run", stopped)
    assert main(["transform", str(clip), "-p", "night", "-o", str(tmp_path / "o.mp4")]) == 130
    assert json.loads(capsys.readouterr().out)["error"] == {
        "message": "interrupted: nothing was written",
        "remedy": "",
        "exit_code": 130,
    }


@pytest.mark.parametrize(
    "words",
    [
        ("transform", "rtsp://user:hidden@127.0.0.1:9/x", "-p", "night"),
        ("transform", "rtsp://user:hidden@127.0.0.1:9/x", "b.mp4", "-p", "night"),
        ("transform", "b.mp4", "-p", "night", *(("-o", "rtmp://user:hidden@127.0.0.1:9/a/hidden") * 2)),
        ("transform", "http://user:hidden@127.0.0.1:9/x.mp4?key=hidden", "-p", "night", "-o", "o.mp4"),
    ],
)
def test_no_error_shows_a_password(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--json"]) in (2, 3)
    told = capsys.readouterr()
    assert "hidden" not in told.out + told.err and "127.0.0.1" in told.err


def test_an_error_under_json_is_a_document_too(capsys, tmp_path):
    code = main(["transform", str(tmp_path / "none.mp4"), "-p", "night", "--json"])
    streams = capsys.readouterr()
    document = json.loads(streams.out)
    assert code == document["error"]["exit_code"] == 3
    assert "none.mp4" in document["error"]["message"] and document["error"]["remedy"]
    assert streams.err.startswith("error: ")


def test_quiet_says_nothing(clip, tmp_path, capsys):
    assert main(["transform", str(clip), "-p", "x y", "-o", str(tmp_path / "o.mp4"), "-q"]) == 0
    streams = capsys.readouterr()
    assert streams.out == streams.err == ""


@pytest.mark.slow
def test_verbose_logs_to_standard_error_only(clip, tmp_path):
    done = mirage("transform", clip, "-p", "night", "-o", tmp_path / "o.mp4", "-vv")
    assert done.returncode == 0 and done.stdout.decode().startswith("wrote ")


def test_compare_has_the_input_on_the_left(clip, tmp_path):
    out = tmp_path / "out.mkv"
    assert main(["transform", str(clip), "-p", "night", "-o", str(out), "--compare", "--codec", "ffv1"]) == 0
    made, original = frames_of(out), frames_of(clip)
    assert made.shape == (20, 64, 192, 3)
    left, right = made[:, :, :96].astype(int), made[:, :, 96:].astype(int)
    assert abs(left - original).mean() < 3
    assert abs(right - (255 - original.astype(int))).mean() < 3


def test_a_schedule_blends_from_one_look_to_the_next(clip, tmp_path):
    out = tmp_path / "out.mkv"
    assert (
        main(["transform", str(clip), "-o", str(out), "--codec", "ffv1", "-p", "0.5s:night", "--blend-seconds", "0.2"])
        == 0
    )
    made, original = frames_of(out).astype(int), frames_of(clip).astype(int)
    far = abs(made - original).mean(axis=(1, 2, 3))
    assert far[:11].max() < 3  # unchanged until its time has come
    assert abs(made[14:] - (255 - original[14:])).mean() < 3  # and the look in full after the blend
    assert abs(made[12] - 127.5).mean() < 5  # half-way between a picture and its negative: grey


def test_start_and_duration_and_size(clip, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert (
        main(
            [
                "transform",
                str(clip),
                "-p",
                "night",
                "-o",
                str(out),
                "--start",
                "0:00.5",
                "--duration",
                "250ms",
                "--size",
                "64x48",
                "--json",
            ]
        )
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["frames"] == 5 and document["size"] == [64, 48]
    assert document["input_size"] == [96, 64] and probe(out).size == (64, 48)


def test_a_large_input_is_scaled_down_on_a_cpu_and_that_is_said(tmp_path, capsys):
    big = media.clip(tmp_path / "big.mp4", seconds=0.2, fps=10, size=(1280, 720), sound=None)
    assert main(["transform", str(big), "-p", "night", "-o", str(tmp_path / "a.mp4")]) == 0
    assert "size 768x432: the input is 1280x720" in capsys.readouterr().err
    assert probe(tmp_path / "a.mp4").size == (768, 432)
    assert main(["transform", str(big), "-p", "night", "-o", str(tmp_path / "b.mp4"), "--size", "native"]) == 0
    assert probe(tmp_path / "b.mp4").size == (1280, 720)


@pytest.mark.parametrize(
    ("have", "size"),
    [
        ((640, 480), (640, 480)),
        ((1920, 1080), (768, 432)),
        ((1080, 1920), (432, 768)),
        ((4096, 2160), (794, 418)),
        ((8000, 100), (5152, 64)),
        ((100000, 16), (8192, 16)),
        ((8, 6), (16, 16)),
    ],
)
def test_the_default_size_keeps_the_aspect_within_the_limit(have, size):
    got, note = choose_size(have, None, True, (768, 432))
    assert got == size
    assert got[0] % 2 == got[1] % 2 == 0 and (note == "") == (have == size)
    if min(have) >= 16:
        assert choose_size(have, None, False, (768, 432)) == (have, "")
        assert choose_size(have, "native", True, (768, 432)) == (have, "")


# ---- what ships -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shipped_model_from_end_to_end(example_clip, tmp_path):
    from mirage_cli.models.catalog import MODELS_ROOT

    if not (MODELS_ROOT / "lsd-small" / "model.safetensors").is_file():
        pytest.skip("the weights are not shipped yet")
    out = tmp_path / "out.mp4"
    done = mirage(
        "transform",
        example_clip,
        "--prompt",
        "van gogh starry night",
        "-o",
        out,
        "--size",
        "256x144",
        "--duration",
        "1",
        "--json",
        fake=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["prompts"][0]["look"] == "starry-night"
    assert document["frames"] == probe(out).frames == 24 and probe(out).sound
    made = frames_of(out)
    assert made.shape == (24, 144, 256, 3) and made.std() > 20
