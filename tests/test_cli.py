"""The command line as its user meets it: real processes, files, signals and terminals.

The model is a stand-in (``cli_fakes``) except in the last test, which runs what ships.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import media
import numpy as np
import pytest
from cli_fakes import FakeEngine, FakeSession, RecordingUi
from media import probe

from mirage_cli import __version__
from mirage_cli.cli import main
from mirage_cli.commands.terminal import TerminalUi
from mirage_cli.config import TransformConfig
from mirage_cli.errors import MediaError, MirageError, UsageProblem
from mirage_cli.inputs.size import choose_size
from mirage_cli.runs import transform
from mirage_cli.styling.styler import Engine

HERE = Path(__file__).parent
COMMANDS = ("transform", "live", "devices", "bench", "doctor", "models", "train")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """20 frames of 96x64 with sound, one second."""
    return media.clip(tmp_path_factory.mktemp("clips") / "in.mp4", seconds=1, fps=20, sound="aac")


@pytest.fixture()
def fakes(monkeypatch):
    """The model is a stand-in, in this process."""
    monkeypatch.setattr("mirage_cli.runs.transform.Engine", FakeEngine)
    monkeypatch.setattr("mirage_cli.runs.live.Engine", FakeEngine)


def environment(**values):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MIRAGE_") and k != "NO_COLOR"}
    return {**kept, "TERM": "xterm-256color", **values}


def mirage(*arguments, stdin=subprocess.DEVNULL, fake=True, timeout=60, **values):
    """Run in a process of its own; stdout and stderr are pipes."""
    program = [str(HERE / "cli_fakes.py")] if fake else ["-m", "mirage_cli"]
    feed = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        timeout=timeout,
        env=environment(**values),
        **feed,
    )


# ---- help and usage -------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: mirage {command}") and "-h, --help" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    if command in ("transform", "live"):
        groups = [f"{name} options:" for name in ("Input", "Look", "Output", "Model", "Run")]
        places = [text.index(group) for group in groups]
        assert places == sorted(places)
        assert f"mirage {command} " in text.split("Input options:")[0].split("\n", 1)[1]
    for flag in {
        "transform": "-i -o -p -m -q -v -y -n --prompt --model --device --dtype --backend --seed "
        "--steps --strength --size --fps --start --duration --json --no-progress --config --debug "
        "--codec --crf --compare --blend-seconds --guard",
        "live": "--camera --input --loop --frames --duration --window --prompt --output",
        "bench": "--size --frames --warmup --json --device",
        "doctor": "--json",
        "models": "--json",
        "devices": "--json",
        "train": "KEY=VALUE",
    }[command].split():
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text), flag


def test_help_of_the_whole(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert "Exit codes: 0 done, 1 failure, 2 usage, 3 input or output, 4 model, 5 GPU" in text
    assert main(["-h"]) == 0 and main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main([]) == 2
    assert "Usage: mirage" in capsys.readouterr().err


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from mirage_cli.cli import main; main(['transform', '--help']); "
        "heavy = {'torch', 'numpy', 'cv2', 'rich'} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr


USAGE = [
    (["transform"], "no input"),
    (["transform", "in.mp4"], "no prompt"),
    (["transform", "in.mp4", "-p", ""], "prompt is empty"),
    (["transform", "in.mp4", "-p", "0:"], "prompt is empty"),
    (["transform", "in.mp4", "-p", "a", "-p", "b"], "need a time each"),
    (["transform", "in.mp4", "-p", "a", "--size", "0x0"], "width 0 is outside 16..8192"),
    (["transform", "in.mp4", "-p", "a", "--size", "100000x100000"], "100000 is outside 16..8192"),
    (["transform", "in.mp4", "-p", "a", "--size", "big"], "'big' is not WIDTHxHEIGHT"),
    (["transform", "in.mp4", "-p", "a", "--strength", "1.5"], "1.5 is not in the range"),
    (["transform", "in.mp4", "-p", "a", "--strength", "nan"], "nan"),
    (["transform", "in.mp4", "-p", "a", "--steps", "9"], "9 is not in the range"),
    (["transform", "in.mp4", "-p", "a", "--start", "-3"], "--start '-3' is not a time"),
    (["transform", "in.mp4", "-p", "a", "--duration", "x"], "--duration 'x' is not a time"),
    (["transform", "in.mp4", "-p", "a", "--duration", "0"], "duration"),
    (["transform", "in.mp4", "-p", "a", "--fps", "0"], "0.0 is not in the range"),
    (["transform", "in.mp4", "-p", "a", "--fps", "nan"], "nan"),
    (["transform", "in.mp4", "-p", "a", "--device", "tpu"], "'tpu' is not one of"),
    (["transform", "in.mp4", "-p", "a", "--device", "mps"], "'mps' is not one of"),
    (["transform", "in.mp4", "-p", "a", "--dtype", "int3"], "'int3' is not one of"),
    (["transform", "in.mp4", "-i", "b.mp4", "-p", "a"], "two inputs"),
    (["transform", "-", "-p", "a"], "output needs a name"),
    (["transform", "http://x/y.mp4", "-p", "a"], "output needs a name"),
    (["transform", "in.mp4", "-p", "a", "-o", "-", "--json"], "do not go together"),
    (["transform", "in.mp4", "-p", "a", "--no-such-flag"], "--no-such-flag"),
    (["transform", "in.mp4", "extra.mp4", "-p", "a", "-o", "x.mp4"], "the output is a folder"),
    (["transform", "in.mp4", "-p", "a", "-o", "a.mp4", "-o", "a.mp4"], "given twice"),
    (["transform", "in.mp4", "-", "-p", "a"], "'-' cannot be one of several inputs"),
    (["live", "-p", "a"], "needs one source"),
    (["live", "--camera", "0", "--input", "test", "-p", "a"], "needs one source"),
    (["live", "--input", "test", "--timeout", "0", "-p", "a"], "not more than 0 seconds"),
    (["live", "--input", "screen:big", "-p", "a"], "'screen:big' is no part of a screen"),
    (["live", "--input", "test", "--frames", "0", "-p", "a"], "0 is not in the range"),
    (["bench", "--size", "native"], "size in pixels"),
    (["bench", "--frames", "0"], "0 is not in the range"),
    (["bench", "--live", "--report", "r.html"], "--live with --report"),
    (["bench", "--live", "--race"], "--live with --race"),
    (["bench", "--live", "--against-fp32"], "--live with --against-fp32"),
    (["bench", "--ladder", "--against-fp32"], "--ladder with --against-fp32"),
    (["train", "steps"], "steps"),
    (["transfrom"], "transfrom"),
]


@pytest.mark.parametrize(("arguments", "telling"), USAGE, ids=lambda v: " ".join(v)[:60])
def test_bad_use_is_one_line_with_a_remedy_and_code_2(arguments, telling, capsys, fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_empty = tmp_path / "in.mp4"
    make_empty.write_bytes(b"")
    code = main(arguments)
    streams = capsys.readouterr()
    lines = streams.err.strip().splitlines()
    assert code == 2, streams.err
    assert lines[0].startswith("error: ") and telling in lines[0]
    assert len(lines) == 2 and lines[1].startswith("  "), streams.err
    assert "Traceback" not in streams.err and (streams.out == "" or "--json" in arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


# ---- the main job -----------------------------------------------------------------------------


def test_a_file_becomes_a_file_named_by_its_look(clip, tmp_path, capsys, fakes):
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


def test_a_session_with_copies_gets_its_frames_ahead(clip, tmp_path, capsys, fakes, monkeypatch):
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


def test_json_is_one_document_that_says_what_happened(clip, tmp_path, capsys, fakes):
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


def test_json_from_the_environment_holds_for_errors_and_interruptions(capsys, fakes, tmp_path, clip, monkeypatch):
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
def test_no_error_shows_a_password(words, capsys, fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--json"]) in (2, 3)
    told = capsys.readouterr()
    assert "hidden" not in told.out + told.err and "127.0.0.1" in told.err


def test_an_error_under_json_is_a_document_too(capsys, fakes, tmp_path):
    code = main(["transform", str(tmp_path / "none.mp4"), "-p", "night", "--json"])
    streams = capsys.readouterr()
    document = json.loads(streams.out)
    assert code == document["error"]["exit_code"] == 3
    assert "none.mp4" in document["error"]["message"] and document["error"]["remedy"]
    assert streams.err.startswith("error: ")


def test_quiet_says_nothing(clip, tmp_path, capsys, fakes):
    assert main(["transform", str(clip), "-p", "x y", "-o", str(tmp_path / "o.mp4"), "-q"]) == 0
    streams = capsys.readouterr()
    assert streams.out == streams.err == ""


def test_verbose_logs_to_standard_error_only(clip, tmp_path):
    done = mirage("transform", clip, "-p", "night", "-o", tmp_path / "o.mp4", "-vv")
    assert done.returncode == 0 and done.stdout.decode().startswith("wrote ")


def frames_of(path: Path, size=(96, 64)) -> np.ndarray:
    """All frames of a file: uint8 [N, H, W, 3]."""
    from mirage_cli.inputs.file import open_file

    with open_file(str(path)) as source:
        return np.stack([frame.rgb for frame in source])


def test_compare_has_the_input_on_the_left(clip, tmp_path, fakes):
    out = tmp_path / "out.mkv"
    assert main(["transform", str(clip), "-p", "night", "-o", str(out), "--compare", "--codec", "ffv1"]) == 0
    made, original = frames_of(out), frames_of(clip)
    assert made.shape == (20, 64, 192, 3)
    left, right = made[:, :, :96].astype(int), made[:, :, 96:].astype(int)
    assert abs(left - original).mean() < 3
    assert abs(right - (255 - original.astype(int))).mean() < 3


def test_a_schedule_blends_from_one_look_to_the_next(clip, tmp_path, fakes):
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


def test_start_and_duration_and_size(clip, tmp_path, capsys, fakes):
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


def test_a_large_input_is_scaled_down_on_a_cpu_and_that_is_said(tmp_path, capsys, fakes):
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


# ---- pipes --------------------------------------------------------------------------------------


def test_video_through_pipes_and_nothing_else_on_standard_output(clip, tmp_path):
    done = mirage("transform", "-", "-p", "night", "-o", "-", stdin=clip.read_bytes())
    assert done.returncode == 0, done.stderr
    piped = tmp_path / "piped.bin"
    piped.write_bytes(done.stdout)
    made = probe(piped)
    assert (made.frames, made.size, made.sound) == (20, (96, 64), True)
    assert b"20 frames" in done.stderr and b"20 frames" not in done.stdout


def test_sound_from_a_pipe_is_kept(clip, tmp_path):
    out = tmp_path / "out.mp4"
    done = mirage("transform", "-", "-p", "night", "-o", out, stdin=clip.read_bytes())
    assert done.returncode == 0, done.stderr
    assert probe(out).sound and probe(out).frames == 20


def test_a_named_pipe_is_read_once_and_scaled_down(tmp_path, capsys, fakes):
    big = media.clip(tmp_path / "big.mkv", seconds=0.4, fps=10, size=(1280, 720), sound="aac")
    pipe, out = tmp_path / "pipe", tmp_path / "out.mp4"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(big.read_bytes()))
    writer.start()
    assert main(["transform", str(pipe), "-p", "night", "-o", str(out)]) == 0
    writer.join()
    assert "size 768x432: the input is 1280x720" in capsys.readouterr().err
    made = probe(out)
    assert (made.frames, made.size, made.sound) == (4, (768, 432), True)


def test_what_the_output_cannot_keep_is_said(clip, tmp_path, capsys, fakes):
    command = ["transform", str(clip), "-p", "night", "-o"]
    assert main([*command, str(tmp_path / "out.gif"), "--json"]) == 0
    streams = capsys.readouterr()
    (warning,) = json.loads(streams.out)["warnings"]
    assert "holds no sound" in warning and f"warning: {warning}" in streams.err


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    clip = media.clip(tmp_path / "long.mp4", seconds=4, fps=25, size=(320, 240), sound=None)
    shell = f'"{sys.executable}" "{HERE / "cli_fakes.py"}" transform "{clip}" -p night -o -'
    done = subprocess.run(
        ["bash", "-c", f"{shell} | head -c 100 >/dev/null; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        timeout=60,
        env=environment(),
    )
    assert done.returncode in (0, 3) and b"Traceback" not in done.stderr


def test_a_slow_run_without_a_terminal_gives_plain_lines(clip, tmp_path, monkeypatch, capsys, fakes):
    monkeypatch.setattr(TerminalUi, "LINE_SECONDS", 0.1)
    monkeypatch.setenv("FAKE_MODEL_MS", "30")
    out = str(tmp_path / "o.mp4")
    assert main(["transform", str(clip), "-p", "night", "-o", out]) == 0
    err = capsys.readouterr().err
    assert len(re.findall(r"^frame \d+/20  [\d.]+ frames/s  model p50 .* ms", err, re.M)) >= 2
    assert "\x1b" not in err and "\r" not in err
    assert main(["transform", str(clip), "-p", "night", "-o", out, "-y", "--no-progress"]) == 0
    assert "frames/s" not in capsys.readouterr().err


def test_memory_does_not_grow_with_the_clip(tmp_path):
    peaks = []
    for seconds in (3, 24):
        clip = media.clip(tmp_path / f"{seconds}.mp4", seconds=seconds, fps=25, size=(320, 240), sound=None)
        done = mirage(
            "transform", clip, "-p", "night", "-o", tmp_path / f"{seconds}.out.mp4", "--json", FAKE_MODEL_MS="0"
        )
        document = json.loads(done.stdout)
        assert document["frames"] == seconds * 25
        peaks.append(document["peak_memory_mb"]["process"])
    assert peaks[1] <= 1.05 * peaks[0], peaks


# ---- bad input --------------------------------------------------------------------------------


def test_bad_inputs_end_with_3_and_leave_nothing(tmp_path, capsys, fakes, monkeypatch, clip):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").write_bytes(b"")
    before = sorted(p.name for p in tmp_path.iterdir())
    for name in ("none.mp4", "text.mp4", "folder.mp4", "empty.mp4"):
        assert main(["transform", name, "-p", "night", "-o", "out.mp4"]) == 3, name
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[0].startswith("error: ") and name in lines[0] and len(lines) == 2, lines
    for target in ("missing/out.mp4", "folder.mp4", "/proc/out.mp4"):
        assert main(["transform", str(clip), "-p", "night", "-o", target]) == 3, target
        lines = capsys.readouterr().err.strip().splitlines()
        assert any(line.startswith("error: ") for line in lines), lines
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_existing_output_is_kept_unless_y(clip, tmp_path, capsys, fakes):
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    for flags in ([], ["-n"]):
        assert main(["transform", str(clip), "-p", "night", "-o", str(out), *flags]) == 3
        assert "exists" in capsys.readouterr().err and out.read_text() == "precious"
    assert main(["transform", str(clip), "-p", "night", "-o", str(out), "-y"]) == 0
    assert probe(out).frames == 20


def test_the_input_is_never_its_own_output(clip, tmp_path, capsys, fakes):
    copy = tmp_path / "in.mp4"
    copy.write_bytes(clip.read_bytes())
    (tmp_path / "link.mp4").symlink_to(copy)
    for target in (copy, tmp_path / "link.mp4"):
        assert main(["transform", str(copy), "-p", "night", "-o", str(target), "-y"]) == 3
        assert "is the input itself" in capsys.readouterr().err
    assert copy.read_bytes() == clip.read_bytes()


def test_a_gpu_that_is_not_there_is_5(clip, tmp_path, capsys, monkeypatch):
    import torch

    device = "cuda:63" if torch.cuda.is_available() else "cuda"

    class HalfFake(FakeEngine):
        is_cpu = Engine.is_cpu

    monkeypatch.setattr("mirage_cli.runs.transform.Engine", HalfFake)
    out = tmp_path / "o.mp4"
    code = main(["transform", str(clip), "-p", "night", "-o", str(out), "--device", device])
    err = capsys.readouterr().err
    assert code == 5 and f"--device {device}: torch sees" in err and "--device cpu" in err
    assert not list(tmp_path.iterdir())


def test_no_such_model_is_4(clip, tmp_path):
    done = mirage("transform", clip, "-p", "night", "-m", "no-such", "-o", tmp_path / "o.mp4", fake=False)
    assert done.returncode == 4 and b"no-such" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_faults_have_a_traceback_only_under_debug(clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mirage_cli.runs.transform.Engine", lambda: FakeEngine(fail_at=3))
    out = str(tmp_path / "o.mp4")
    assert main(["transform", str(clip), "-p", "night", "-o", out]) == 1
    err = capsys.readouterr().err
    assert "error: ValueError: the model broke" in err and "Traceback" not in err
    assert "--debug" in err and list(tmp_path.iterdir()) == []
    assert main(["transform", str(clip), "-p", "night", "-o", out, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_running_out_of_memory_names_the_size(clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mirage_cli.runs.transform.Engine", lambda: FakeEngine(out_of_memory=True))
    code = main(["transform", str(clip), "-p", "night", "-o", str(tmp_path / "o.mp4")])
    err = capsys.readouterr().err
    assert code == 1 and "not enough memory for frames of 96x64" in err and "--size" in err
    assert list(tmp_path.iterdir()) == []


def test_events_of_the_session_are_counted(clip, tmp_path):
    engine = FakeEngine(cut_at=(4, 9), guard_at=(12,))
    config = TransformConfig(str(clip), str(tmp_path / "o.mp4"), ("night",))
    ui = RecordingUi()
    document = transform.run(config, ui, engine=engine)
    assert document["cuts"] == 2 and document["guard_event_count"] == 1
    assert document["guard_events"] == [{"frame": 12, "event": "re-anchored: grey"}]
    assert ui.stats[-1].frames_total == 20


def test_asking_before_an_output_is_replaced(clip, tmp_path):
    out = tmp_path / "o.mp4"
    out.write_text("old")
    config = TransformConfig(str(clip), str(out), ("night",))
    no, yes = RecordingUi(False), RecordingUi(True)
    with pytest.raises(MediaError, match="exists"):
        transform.run(config, no, engine=FakeEngine())
    assert no.asked == [str(out)] and out.read_text() == "old"
    transform.run(config, yes, engine=FakeEngine())
    assert probe(out).frames == 20


# ---- where settings come from -----------------------------------------------------------------


def test_flag_over_environment_over_file_over_default(clip, tmp_path, capsys, fakes, monkeypatch):
    file = tmp_path / "mirage.toml"
    file.write_text(
        'strength = 0.25\nseed = 5\n[transform]\nsize = "64x48"\nprompt = "night"\n'
        "blend-seconds = 2\n[live]\nfps = 10\n"
    )

    def run(*flags):
        out = tmp_path / "o.mp4"
        code = main(["transform", str(clip), "-o", str(out), "-y", "--json", *flags])
        document = json.loads(capsys.readouterr().out)
        assert code == 0, document
        return document["size"], document["strength"], document["seed"]

    assert run("-p", "night") == ([96, 64], 1.0, 0)
    assert run("--config", str(file)) == ([64, 48], 0.25, 5)
    monkeypatch.setenv("MIRAGE_STRENGTH", "0.75")
    assert run("--config", str(file)) == ([64, 48], 0.75, 5)
    monkeypatch.setenv("MIRAGE_CONFIG", str(file))
    assert run("--strength", "0.5", "--size", "32x32") == ([32, 32], 0.5, 5)
    monkeypatch.setenv("MIRAGE_PROMPT", "0:ink wash;0.5s:night")
    assert run() == ([64, 48], 0.75, 5)


def test_bad_settings_are_named(clip, capsys, fakes, monkeypatch, tmp_path):
    monkeypatch.setenv("MIRAGE_SIZE", "0x0")
    assert main(["transform", str(clip), "-p", "night"]) == 2
    assert "width 0" in capsys.readouterr().err
    monkeypatch.delenv("MIRAGE_SIZE")
    file = tmp_path / "mirage.toml"
    file.write_text("strenght = 0.5\n")
    assert main(["transform", str(clip), "-p", "night", "--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert "'strenght' is no flag" in err and "'strength'" in err


# ---- signals -----------------------------------------------------------------------------------


def start(*arguments, **values):
    return subprocess.Popen(
        [sys.executable, str(HERE / "cli_fakes.py"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**values),
    )


def wait_for(path: Path, what: bool = True, seconds: float = 20.0) -> None:
    deadline = time.perf_counter() + seconds
    while path.exists() != what and time.perf_counter() < deadline:
        time.sleep(0.02)
    assert path.exists() == what


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_file_so_that_it_plays(tmp_path, number):
    clip = media.clip(tmp_path / "in.mp4", seconds=20, fps=25, sound="aac")
    out = tmp_path / "out.mp4"
    process = start("transform", clip, "-p", "night", "-o", out, "--json", FAKE_MODEL_MS="40")
    part = tmp_path / "out.mp4.part"
    wait_for(part)
    time.sleep(1.0)
    assert not out.exists()  # the name is taken only when the file is whole
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    document = json.loads(stdout)
    assert document["interrupted"] is True and 5 <= document["frames"] < 400
    made = probe(out)
    assert made.frames == document["frames"]
    assert made.seconds == pytest.approx(document["frames"] / 25, abs=0.3)  # the sound ends too
    assert b"interrupted" in stderr and b"Traceback" not in stderr and not part.exists()


def test_a_second_interrupt_gives_up_at_once_and_leaves_nothing(tmp_path):
    clip = media.clip(tmp_path / "in.mp4", seconds=4, fps=25, sound=None)
    out = tmp_path / "out.mp4"
    process = start("transform", clip, "-p", "night", "-o", out, FAKE_MODEL_MS="5000")
    wait_for(tmp_path / "out.mp4.part")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130 and b"Traceback" not in stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_live_ends_with_130_on_ctrl_c_and_its_file_plays(tmp_path):
    out = tmp_path / "out.mp4"
    process = start("live", "--input", "test", "-p", "night", "-o", out, "--size", "64x48")
    wait_for(tmp_path / "out.mp4.part")
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert probe(out).frames >= 5 and b"wrote" in stdout


# ---- a terminal ---------------------------------------------------------------------------------


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, *arguments, **values):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            program = [sys.executable, str(HERE / "cli_fakes.py"), *map(str, arguments)]
            os.execve(sys.executable, program, environment(**values))
        self.text = ""

    def read(self, until: str, seconds: float = 15.0) -> str:
        """Everything shown, once ``until`` has been."""
        deadline = time.perf_counter() + seconds
        while until not in self.plain and time.perf_counter() < deadline:
            self._more(0.1)
        assert until in self.plain, self.plain[-2000:]
        return self.text

    @property
    def plain(self) -> str:
        """All that was shown, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)

    def _more(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self, seconds: float = 20.0) -> int:
        deadline = time.perf_counter() + seconds
        while self._more(0.1) and time.perf_counter() < deadline:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")


def test_the_dashboard_on_a_terminal_and_its_colours(clip, tmp_path):
    shown = {}
    for name, values in {"colour": {}, "plain": {"NO_COLOR": "1"}}.items():
        out = tmp_path / f"{name}.mp4"
        terminal = Terminal("transform", clip, "-p", "night", "-o", out, FAKE_MODEL_MS="40", **values)
        assert terminal.end() == 0
        shown[name] = terminal.text
    assert "mirage transform" in shown["colour"] and "frames/s" in shown["colour"]
    assert COLOUR.search(shown["colour"]) and not COLOUR.search(shown["plain"])
    assert "mirage transform" in shown["plain"] and "frames/s" in shown["plain"]


def test_no_animation_when_it_is_not_wanted(clip, tmp_path):
    for flags, values in ((["--no-progress"], {}), (["-q"], {}), ([], {"TERM": "dumb"})):
        terminal = Terminal(
            "transform", clip, "-p", "night", "-o", tmp_path / "o.mp4", "-y", *flags, FAKE_MODEL_MS="20", **values
        )
        assert terminal.end() == 0
        assert "╭" not in terminal.text and "\x1b[" not in terminal.text, flags


def test_it_asks_on_a_terminal_before_it_replaces_a_file(clip, tmp_path):
    out = tmp_path / "o.mp4"
    for answer, code in (("n\n", 3), ("y\n", 0)):
        out.write_text("old")
        terminal = Terminal("transform", clip, "-p", "night", "-o", out)
        terminal.read("Replace it?")
        terminal.type(answer)
        assert terminal.end() == code
        assert (out.read_bytes() == b"old") == (code == 3)


def test_live_on_a_terminal_takes_prompts_and_q(tmp_path):
    terminal = Terminal("live", "--input", "test", "-p", "ink wash", "--no-window", FAKE_MODEL_MS="10")
    terminal.read("type a prompt")
    terminal.type("nigx\x7fht")
    terminal.read("> night")
    terminal.type("\n")
    terminal.read('"night" applied at frame')
    terminal.type("q\n")
    assert terminal.end() == 0
    assert re.search(r"\d+ frames of 512x288", terminal.text)


def test_ctrl_c_typed_at_a_terminal_lets_ffmpeg_finish(tmp_path):
    """The key sends SIGINT to the whole foreground group, ffmpeg included."""
    clip = media.clip(tmp_path / "in.mp4", seconds=20, fps=25, sound=None)
    out = tmp_path / "out.mp4"
    terminal = Terminal("transform", clip, "-p", "night", "-o", out, FAKE_MODEL_MS="40")
    terminal.read("p50 4")
    time.sleep(0.5)
    terminal.type("\x03")
    assert terminal.end() == 130
    assert probe(out).frames >= 3


# ---- the other commands -------------------------------------------------------------------------


def test_doctor_ends_with_1_when_something_fails(monkeypatch, capsys):
    findings = [
        {"name": "python", "status": "ok", "detail": "3.11", "fix": ""},
        {"name": "ffmpeg", "status": "fail", "detail": "none", "fix": "install it"},
    ]
    monkeypatch.setattr("mirage_cli.runs.doctor.run", lambda: findings)
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"command": "doctor", "ok": False, "findings": findings}
    assert main(["doctor"]) == 1
    streams = capsys.readouterr()
    assert "install it" in streams.out and "cannot run here: ffmpeg" in streams.err
    findings.pop()
    assert main(["doctor"]) == 0


def test_bench_gets_its_settings_and_prints_them(monkeypatch, capsys):
    seen = []

    def run(config, **more):
        seen.append((config, more["against_fp32"]))
        return {"frames": config.frames, "latency_ms": {"denoise": {"p50": 1.0, "max": 2.0}}}

    monkeypatch.setattr("mirage_cli.bench.stages.run", run)
    assert main(["bench", "--size", "64x48", "--frames", "7", "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 7
    config, against = seen[0]
    assert (config.size, config.frames, config.warmup, config.model.steps) == ((64, 48), 7, 10, 2)
    assert against is False
    assert main(["bench", "--against-fp32"]) == 0
    assert "denoise" in capsys.readouterr().out and seen[1][1] is True


def test_train_passes_recipe_and_overrides_on(monkeypatch, capsys, tmp_path):
    from mirage_cli.training import loop

    seen = []
    record = {"progress": {"step": 3, "seconds": 6.0}, "run": "runs/x"}
    monkeypatch.setattr(loop, "main", lambda path, overrides, *_: seen.append((path, overrides)) or record)
    assert main(["train", "recipe.toml", "minutes=2", "seed=1"]) == 0
    assert capsys.readouterr().out == "trained 3 steps in 0.1 min: runs/x\n"
    assert main(["train", "minutes=2", "--tensorboard", "curves", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record
    assert seen == [("recipe.toml", ["minutes=2", "seed=1"]), (None, ["minutes=2", "tensorboard=curves"])]
    monkeypatch.setenv("RANK", "1")  # of torchrun: the first process speaks
    assert main(["train", "minutes=2", "--json"]) == 0 and capsys.readouterr().out == ""


def test_models_lists_looks_with_prompts(capsys, monkeypatch):
    models = [{"name": "lsd-small", "title": "t", "looks": [{"name": "night", "prompt": "dark", "names": []}]}]
    monkeypatch.setattr("mirage_cli.models.catalog.describe_models", lambda: models)
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"command": "models", "models": models}
    assert main(["models"]) == 0
    assert '"dark"' in capsys.readouterr().out


def test_every_kind_of_error_has_its_code(monkeypatch, capsys):
    for kind in MirageError.__subclasses__():

        def fail(*_, kind=kind, **__):
            raise kind("it broke", "mend it")

        monkeypatch.setattr("mirage_cli.runs.transform.run", fail)
        assert main(["transform", "x.mp4", "-p", "night"]) == kind.exit_code
        assert "it broke" in capsys.readouterr().err
    assert UsageProblem.exit_code == 2


# ---- what ships -----------------------------------------------------------------------------------


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
