"""What hostile names, closed or full streams and signals at bad moments may not do."""

from __future__ import annotations

import ast
import os
import pkgutil
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import random_stops
from helpers import media
from helpers.fakes import FakeModels, RecordingUi, main
from helpers.paths import FAKES, ROOT

from mirage_cli.config import TransformConfig
from mirage_cli.errors import Interrupted, plain_text
from mirage_cli.inputs.file import open_file
from mirage_cli.runs import transform
from mirage_cli.styling.stopping import StopSwitch

pytestmark = pytest.mark.slow

FAKE = (sys.executable, str(FAKES))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return media.clip(tmp_path_factory.mktemp("clips") / "in.mp4", seconds=0.5, fps=20)


# ---- names --------------------------------------------------------------------------------------

NAMES = [
    "a b.mp4",
    'it\'s "so".mp4',
    "-i.mp4",
    "--output.mp4",
    "$(touch hacked).mp4",
    "`touch hacked`.mp4",
    "a;touch hacked;.mp4",
    "a|touch hacked.mp4",
    "a\nb.mp4",
    "tab\there.mp4",
    "100%.mp4",
    "%03d.mp4",
    "a%%b.mp4",
    "*?[a].mp4",
    "#1?x=2.mp4",
    "file:a.mp4",
    "pipe:0.mp4",
    "concat:a|b.mp4",
    "http:.mp4",
    "data:,x.mp4",
    "subfile,,start,0,end,9,,:a.mp4",
    "\x1b[31mred.mp4",
    "фильм 影 🎬.mp4",
    "a\u202eb.mp4",
    "~.mp4",
    "a,b=c:d'e\\f.mp4",
    " .mp4",
    "n" * 200 + ".mp4",
]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:30] for name in NAMES])
def test_a_name_is_a_name(name, clip, tmp_path, monkeypatch, capsys):
    """As input and as output: read, written, and taken for nothing else."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip.read_bytes())
    os.mkdir("out")
    target = os.path.join("out", name)
    assert main(["transform", "-p", "night", "-o", target, "--no-progress", "--", name]) == 0
    assert len(media.times_of(target)) == 10
    assert sorted(os.listdir()) == sorted([name, "out"]) and os.listdir("out") == [name]
    streams = capsys.readouterr()
    assert len(streams.out.splitlines()) == 1 and "\x1b" not in streams.out + streams.err


def test_a_name_with_a_dash_after_a_flag(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-i.mp4").write_bytes(clip.read_bytes())
    assert main(["transform", "--input", "-i.mp4", "-p", "night", "-o", "-o.mp4"]) == 0
    assert len(media.times_of("-o.mp4")) == 10


def test_a_picture_named_like_a_sequence_is_one_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, colour in (("x001.png", "red"), ("x002.png", "red"), ("plain.png", "blue")):
        media.ffmpeg("-f", "lavfi", "-i", f"color={colour}:s=32x32", "-frames:v", 1, name)
    os.rename("plain.png", "x%03d.png")
    with open_file("x%03d.png") as source:
        (frame,) = list(source)
        assert frame.rgb[16, 16].tolist() == [0, 0, 254] or frame.rgb[16, 16, 2] > 250
        link = source.alias.path
        assert source.info.name == "x%03d.png" and os.path.islink(link)
        source.release()
    assert not os.path.exists(os.path.dirname(link))


def test_a_name_that_is_no_text(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9.mp4")
    Path(name).write_bytes(clip.read_bytes())
    assert main(["transform", name, "-p", "night", "-o", "o.mp4"]) == 0
    assert len(media.times_of("o.mp4")) == 10
    assert main(["transform", name, "-p", "night", "-o", os.fsdecode(b"\xff.mp4")]) == 3
    err = capsys.readouterr().err
    assert "is not UTF-8 text" in err and sorted(os.listdir()) == sorted([name, "o.mp4"])
    assert main(["transform", os.fsdecode(b"\xfe.mp4"), "-p", "night", "-o", "p.mp4"]) == 3
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "concat:in.mp4|in.mp4",
        "file:in.mp4",
        "subfile,,start,0,end,900,,:in.mp4",
        "pipe:0",
        "cache:in.mp4",
        "async:in.mp4",
        "data:video/mp4;base64,AAAA",
        "lavfi:testsrc",
        "fd:0",
    ],
)
def test_ffmpegs_own_prefixes_are_not_taken(name, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("in.mp4").write_bytes(clip.read_bytes())
    assert main(["transform", name, "-p", "night", "-o", "o.mp4"]) == 3
    assert "does not exist" in capsys.readouterr().err and os.listdir() == ["in.mp4"]


def test_plain_text():
    assert plain_text("a b é 影") == "a b é 影"
    assert plain_text("a\nb\x1b[0m\udcff\u2028") == "a\\nb\\x1b[0m\\udcff\\u2028"


# ---- symlinks -----------------------------------------------------------------------------------


def test_a_link_to_nothing_and_a_link_to_itself(clip, tmp_path, capsys):
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "not-there.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    for name in ("gone.mp4", "loop.mp4"):
        assert main(["transform", str(tmp_path / name), "-p", "night", "-o", str(tmp_path / "o.mp4")]) == 3
        (first, *_) = capsys.readouterr().err.splitlines()
        assert first.startswith("error: ") and name in first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gone.mp4", "loop.mp4"]
    # A link to a file that is not there yet is written through.
    assert main(["transform", str(clip), "-p", "night", "-o", str(tmp_path / "gone.mp4")]) == 0
    assert (tmp_path / "gone.mp4").is_symlink() and (tmp_path / "not-there.mp4").is_file()


def test_a_linked_input_is_safe_from_its_own_output(clip, tmp_path, capsys):
    real = tmp_path / "real.mp4"
    real.write_bytes(clip.read_bytes())
    (tmp_path / "link.mp4").symlink_to(real)
    assert main(["transform", str(tmp_path / "link.mp4"), "-p", "night", "-o", str(real), "-y"]) == 3
    assert "is the input itself" in capsys.readouterr().err and real.read_bytes() == clip.read_bytes()


# ---- standard streams ---------------------------------------------------------------------------


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which ``$M`` is mirage with the stand-in."""
    environment = dict(os.environ, M=f"'{FAKE[0]}' '{FAKE[1]}'", PYTHONPATH=str(ROOT))
    return subprocess.run(
        ["bash", "-c", f'eval "$M {line}"'],
        cwd=folder,
        capture_output=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_do_not_spoil_the_file(closed, clip, tmp_path):
    done = shell(f"transform {clip} -p night -o o.mp4 {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert media.probe(tmp_path / "o.mp4").frames == 10 and os.listdir(tmp_path) == ["o.mp4"]


@pytest.mark.parametrize("command", ["models", "--help", "transform none.mp4 -p night -o o.mp4 --json"])
def test_a_full_standard_output_is_an_error_of_one_line(command, tmp_path):
    done = shell(f"{command} >/dev/full", tmp_path)
    assert done.returncode == 3 and b"Traceback" not in done.stderr, done.stderr
    if "--json" not in command:
        assert done.stderr == b"error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("outputs", [("-",), ("a.mkv", "-")])
def test_standard_output_carries_the_video_and_nothing_else(outputs, tmp_path):
    command = [
        *FAKE,
        "live",
        "-i",
        "test",
        "-p",
        "night",
        "--no-window",
        "--size",
        "64x48",
        "--frames",
        "5",
        "--format",
        "rawvideo",
        *(word for name in outputs for word in ("-o", name)),
    ]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 5 * 64 * 48 * 3 and b"5 frames of 64x48" in done.stderr


def test_a_full_pipe_for_the_video(clip, tmp_path):
    done = shell(f"transform {clip} -p night -o - >/dev/full", tmp_path)
    assert done.returncode == 3
    assert b"error: the disk is full: standard output could not be written" in done.stderr


def test_no_room_for_the_output(clip, tmp_path):
    """A limit on the size of files, as a quota sets it; ffmpeg takes it over from its parent."""
    (tmp_path / "sub").mkdir()
    line = f"transform {clip} -p night -o sub/o.mkv --codec ffv1"
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 16; '{FAKE[0]}' '{FAKE[1]}' {line}"],
        cwd=tmp_path,
        capture_output=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 3 and b"Traceback" not in done.stderr, done.stderr
    assert b"error: " in done.stderr and os.listdir(tmp_path / "sub") == []


# ---- signals ------------------------------------------------------------------------------------


def interrupted_in(monkeypatch, target: str, clip: Path, out: Path, before: bool) -> dict:
    """A transform that gets SIGINT right before or right after ``target`` is called."""
    holder_name, _, name = target.rpartition(".")
    holder = pkgutil.resolve_name(holder_name)
    real = getattr(holder, name)

    def call(*args, **kwargs):
        if before:
            os.kill(os.getpid(), signal.SIGINT)
        result = real(*args, **kwargs)
        if not before:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(holder, name, call)
    with StopSwitch().signals() as stop:
        config = TransformConfig(str(clip), str(out), ("night",))
        return transform.run(config, RecordingUi(), models=FakeModels(), stop=stop)


@pytest.mark.parametrize("before", [True, False])
def test_a_signal_while_the_file_is_finished_changes_nothing(monkeypatch, clip, tmp_path, before):
    out = tmp_path / "o.mp4"
    document = interrupted_in(monkeypatch, "mirage_cli.outputs.file.FileSink.close", clip, out, before)
    assert media.probe(out).frames == document["frames"] == 10 and os.listdir(tmp_path) == ["o.mp4"]


@pytest.mark.parametrize("before", [True, False])
def test_a_signal_while_the_file_is_begun_leaves_nothing(monkeypatch, clip, tmp_path, before):
    with pytest.raises(Interrupted, match="nothing was written"):
        interrupted_in(monkeypatch, "mirage_cli.runs.transform.open_sink", clip, tmp_path / "o.mp4", before)
    assert os.listdir(tmp_path) == []


def signalled(number: int, line: str) -> subprocess.CompletedProcess:
    """A process of ``mirage`` after ``line``, which may send itself ``number`` by ``hit()``."""
    code = (
        "import atexit, os, signal, sys, time\nfrom mirage_cli import __main__, cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def hit(**_):\n os.kill(os.getpid(), {int(number)})\n time.sleep(0.2)\n"
        f"{line}\nsys.exit(__main__.run())"
    )
    command = (sys.executable, "-c", code)
    return subprocess.run(command, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_a_run_is_an_interruption(number):
    done = signalled(number, "cli.cli.main = hit")
    assert done.returncode == 130 and b"nothing was written" in done.stderr, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_takes_its_leave_changes_nothing(number):
    done = signalled(number, "atexit.register(hit)\nsys.argv[1:] = ['--version']")
    assert done.returncode == 0 and done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize("kind", ["file to mp4 with sound", "live to mp4"])
def test_stops_at_random_moments(kind, tmp_path):
    """Two of what tests/random_stops.py does fifty times with the shipped model."""
    draw = random.Random(kind)
    clip, film = random_stops.make_clips(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = random_stops.kinds(clip, film, folder / "out")[kind]
    code, out, err, _ = random_stops.run_once(
        arguments, draw.uniform(0.0, 0.9), draw.choice([signal.SIGINT, signal.SIGTERM]), FAKE, says_ready=True
    )
    wrong, frames = random_stops.judge(code, out, err, folder, said_ready=True)
    assert not wrong, (code, wrong, err)
    assert frames is not None or not list(folder.iterdir())


# ---- sources ------------------------------------------------------------------------------------

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
UNSAFE_CALLS = {
    "torch.load",
    "os.system",
    "os.popen",
    "eval",
    "exec",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
    "pd.read_pickle",
}
SOURCES = [path for folder in ("mirage_cli", "models", "kernels") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_no_shell_no_evaluated_text(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]} | {alias.name for alias in node.names}
            assert not {f"{node.module}.{alias.name}" for alias in node.names} & UNSAFE_CALLS
        assert not names & UNSAFE_MODULES, f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert given.get("allow_pickle", "False") == "False", f"{path.name}:{node.lineno}"
            # Weights of a published metric come as a .pt file; this reads tensors and nothing else.
            allowed = called == "torch.load" and given.get("weights_only") == "True"
            assert called not in UNSAFE_CALLS or allowed, f"{path.name}:{node.lineno} {called}"
            assert "shell" not in given, f"{path.name}:{node.lineno} shell="


def test_the_search_for_pickle_finds_it(tmp_path):
    bad = tmp_path / "bad.py"
    for line in (
        "import pickle",
        "np.load('x', allow_pickle=True)",
        "from torch import load as plain",
        "torch.load('x')",
        "subprocess.run('x', shell=True)",
    ):
        bad.write_text(line)
        with pytest.raises(AssertionError):
            test_no_pickle_no_shell_no_evaluated_text(bad)
