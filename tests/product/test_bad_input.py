"""Every kind of bad input, through the command line: one line, its remedy, the right exit code, and
nothing left behind. What the shipped model and its files have to do with it uses the real models."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fakes, media
from helpers.bad_cases import tiny_model
from helpers.paths import FAKES, ROOT
from mirage_cli.models import catalog

from mirage_cli import cli


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return media.clip(tmp_path_factory.mktemp("clips") / "in.mp4", seconds=0.4, fps=10, size=(64, 48))


def refused(capsys, code: int, words: str, *arguments: object, out: Path, main=fakes.main) -> None:
    """The run ends with ``code`` and one error line that holds ``words``; ``out`` holds no output."""
    before = sorted(os.listdir(out))
    assert main([str(word) for word in arguments]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0], lines
    assert lines[-1].startswith("  ") and "Traceback" not in "".join(lines)
    assert sorted(os.listdir(out)) == before


BAD_FILES = [
    ("missing", "none.mp4", lambda path: None, "does not exist"),
    ("text", "text.mp4", media.text_file, "not a media file"),
    ("empty", "empty.mp4", lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    ("no frames", "none.avi", media.no_frames, "no frame"),
    ("sound alone", "sound.m4a", media.audio_only, "but no video"),
    ("a cover", "cover.mp3", media.cover_only, "but no video"),
    ("noise", "noise.mkv", lambda path: path.write_bytes(bytes(range(256)) * 40), "noise.mkv"),
    ("a vast picture", "vast.png", lambda path: path.write_bytes(vast_png()), "vast.png"),
]


def vast_png() -> bytes:
    """A PNG that says it is 32767x32767."""
    header = b"IHDR" + (32767).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    import zlib

    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    body = b"IDAT" + zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    )


@pytest.mark.parametrize("name, make, words", [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_files_that_are_no_video(name, make, words, tmp_path, capsys):
    make(tmp_path / name)
    refused(capsys, 3, words, "transform", tmp_path / name, "-p", "night", "-o", tmp_path / "o.mp4", out=tmp_path)


def test_a_vast_picture_takes_no_memory(tmp_path):
    """Its header asks for 3 GB; OpenCV is told to refuse it."""
    (tmp_path / "vast.png").write_bytes(vast_png())
    line = (
        "from mirage_cli.inputs.pictures import read_image; import sys\n"
        "try: read_image(sys.argv[1])\n"
        "except Exception as e: print(type(e).__name__, open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", line, str(tmp_path / "vast.png")],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        timeout=60,
    )
    kind, kilobytes = done.stdout.split()
    assert kind == "MediaError" and int(kilobytes) < 400_000 and "WARN" not in done.stderr


def test_a_truncated_file_is_written_as_far_as_it_decodes(tmp_path, capsys):
    source = media.truncated_clip(tmp_path / "cut.mp4")
    assert fakes.main(["transform", str(source), "-p", "night", "-o", str(tmp_path / "o.mp4")]) == 0
    assert "warning: cut.mp4 is cut short" in capsys.readouterr().err
    assert 10 < media.probe(tmp_path / "o.mp4").frames < 60


@pytest.mark.parametrize(
    "flags, words",
    [
        (["-p", ""], "prompt is empty"),
        (["-p", "   "], "prompt is empty"),
        (["-p", "night", "--size", "0x0"], "0 is outside"),
        (["-p", "night", "--size", "100000x100000"], "100000 is outside"),
    ],
)
def test_prompts_and_sizes_that_cannot_be(flags, words, clip, tmp_path, capsys):
    refused(capsys, 2, words, "transform", clip, *flags, "-o", tmp_path / "o.mp4", out=tmp_path)


def test_no_camera_7(tmp_path, capsys):
    refused(capsys, 3, "camera 7", "live", "--camera", "7", "-p", "night", "-o", tmp_path / "o.mp4", out=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(clip, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    tmp_path.chmod(0o755)
    line = [sys.executable, str(FAKES), "transform", str(clip), "-p", "night", "-o", str(closed / "o.mp4")]
    if os.geteuid() == 0:
        target = Path("/proc/o.mp4")  # no user may
        line[-1] = str(target)
    done = subprocess.run(
        line, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, env=dict(os.environ, PYTHONPATH=str(ROOT))
    )
    assert done.returncode == 3 and b"cannot be written" in done.stderr, done.stderr
    assert os.listdir(closed) == []


# ---- models --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture()
def model(tiny, tmp_path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def with_nan(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / catalog.WEIGHTS)
    weights[sorted(weights)[0]].view(-1)[0] = torch.nan
    save_file(weights, folder / catalog.WEIGHTS)


def foreign(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"some.weight": torch.zeros(3)}, folder / catalog.WEIGHTS)


@pytest.mark.parametrize(
    "damage, words",
    [
        (with_nan, "NaN or infinity"),
        (foreign, "belongs to another network"),
        (
            lambda folder: (folder / catalog.WEIGHTS).write_bytes((folder / catalog.WEIGHTS).read_bytes()[:5000]),
            "damaged",
        ),
        (
            lambda folder: (folder / catalog.WEIGHTS).write_bytes(b"\x80\x04\x95 no safetensors"),
            "damaged or not a safetensors file",
        ),
        (lambda folder: (folder / catalog.CONFIG).write_text("{}"), "is not the config of a model"),
        (lambda folder: (folder / catalog.WEIGHTS).unlink(), "has no model.safetensors"),
        (lambda folder: (folder / catalog.LOOKS).write_text("[]"), "looks"),
    ],
    ids=["NaN", "foreign", "cut off", "pickle", "config", "no weights", "looks"],
)
def test_models_that_are_not_whole(damage, words, model, clip, tmp_path, capsys):
    damage(model)
    refused(
        capsys,
        4,
        words,
        "transform",
        clip,
        "-p",
        "ink wash",
        "--device",
        "cpu",
        "-m",
        model,
        "-o",
        tmp_path / "o.mp4",
        out=tmp_path,
        main=cli.main,
    )


def test_no_such_model(clip, tmp_path, capsys):
    refused(
        capsys,
        4,
        "no such model: 'none'",
        "transform",
        clip,
        "-p",
        "night",
        "-m",
        "none",
        "-o",
        tmp_path / "o.mp4",
        out=tmp_path,
        main=cli.main,
    )


def test_a_small_machine_is_an_error_and_no_traceback(clip, tmp_path):
    """Address space for Python and not for the model: the system says no in the middle of the work."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mirage_cli",
            "transform",
            str(clip),
            "-p",
            "night",
            "--device",
            "cpu",
            "-o",
            str(tmp_path / "o.mp4"),
        ],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        preexec_fn=limit,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
    )
    assert done.returncode != 0 and b"Traceback" not in done.stderr, done.stderr
    assert os.listdir(tmp_path) == []
