"""Help, use that cannot be, and the exit code of every kind of error."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers.commands import environment
from helpers.fakes import main

from mirage_cli import __version__
from mirage_cli.errors import MirageError, UsageProblem

COMMANDS = ("transform", "live", "devices", "bench", "doctor", "models", "train")


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
    (["live", "--input", "screen:big", "-p", "a"], "'screen:big' is not a part of a screen"),
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
def test_bad_use_is_one_line_with_a_remedy_and_code_2(arguments, telling, capsys, tmp_path, monkeypatch):
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


def test_every_kind_of_error_has_its_code(monkeypatch, capsys):
    for kind in MirageError.__subclasses__():

        def fail(*_, kind=kind, **__):
            raise kind("it broke", "mend it")

        monkeypatch.setattr("mirage_cli.runs.transform.run", fail)
        assert main(["transform", "x.mp4", "-p", "night"]) == kind.exit_code
        assert "it broke" in capsys.readouterr().err
    assert UsageProblem.exit_code == 2
