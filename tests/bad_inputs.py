"""Random bad input to the whole command line: no traceback, no hang, no half-written file.

    python tests/bad_inputs.py --count 1000 --seed 0

in pieces, to be joined into one account: ``--first 0 --count 250 > a.json``, ``--first 250 ...``, and
``--join a.json b.json ...``.

Damaged and foreign media files under all suffixes, playlists that point elsewhere, random flags,
prompts, config files and environment, and model folders whose JSON and safetensors were tampered with.
Every case is drawn from the seed and its own number, so ``--only N`` repeats one alone. All run in this
process with the shipped model, but those that need a pipe. Prints one JSON document; ends with 1 when a
case broke a rule:

* it ends within ``--limit`` seconds, with one of the documented exit codes;
* no traceback, and no "fault of mirage"; on an error at most three lines;
* with code 0 the output decodes without an error and has as many frames as the run says;
* with any other code there is no output, and never a ``.part`` or a child process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from helpers import media  # noqa: E402
from helpers.paths import FAKES  # noqa: E402

SEEDS = {
    "a.mp4": {"codec": "libx264"},
    "b.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "c.webm": {"codec": "libvpx-vp9", "sound": "libopus"},
    "d.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "e.ts": {"codec": "mpeg2video", "sound": "mp2"},
    "f.gif": {"codec": "gif", "pixels": "pal8", "sound": None},
    "g.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "h.flv": {"codec": "flv"},
    "i.nut": {"codec": "rawvideo", "pixels": "rgb24", "sound": "pcm_s16le"},
    "j.y4m": {"codec": "wrapped_avframe", "sound": None},
    "k.mp4": {"codec": "libx265"},
}
MAGIC = (
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    b"\x1aE\xdf\xa3",
    b"RIFF\xff\xff\xff\x7fAVI LIST",
    b"GIF89a\xff\xff\xff\xff",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x7f\xff\0\0\x7f\xff\x08\x02\0\0\0",
    b"\xff\xd8\xff\xe0",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"PK\x03\x04",
    b"\x7fELF",
    b"%PDF-1.7",
    b"#!/bin/sh\n",
    b"\x80\x04\x95",
    b"nut/multimedia container\0",
    b"FLV\x01",
    b"YUV4MPEG2 W99999999 H1 F0:0\n",
    b"BM",
    b"II*\0",
    b"FORM",
    b"G@\0\x10",
)
TEXTS = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
    "ffconcat version 1.0\nfile '/etc/passwd'\nfile 'loop.ffconcat'\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n",
    "<?xml version='1.0'?><MPD></MPD>",
    "[Script Info]\n",
    ";FFMETADATA1\ntitle=x\n",
    "<svg width='99999' height='99999'/>",
    "\ufeff",
    "{}",
    "\0" * 100,
)
SUFFIXES = (
    ".mp4",
    ".mkv",
    ".webm",
    ".avi",
    ".ts",
    ".gif",
    ".mov",
    ".m3u8",
    ".ffconcat",
    ".png",
    ".jpg",
    ".txt",
    ".sdp",
    ".mpd",
    ".svg",
    "",
    ".MP4",
    ".wav",
    ".y4m",
    ".h264",
    ".yuv",
)
OUTPUTS = (".mp4", ".mkv", ".webm", ".gif", ".avi", ".ts", ".mov", ".m4v")
ODD = (
    "",
    " ",
    "0",
    "-1",
    "1",
    "1e9",
    "nan",
    "inf",
    "-0",
    "99999999999999999999",
    "0x10",
    "1:2:3:4",
    "a",
    "\0",
    "é",
    "\n",
    "1/0",
    "16x16",
    "17x31",
    "0x0",
    "8192x8192x1",
    "native",
    "5s",
    "-5s",
    "%s%n",
    "{}",
    "[]",
    "true",
    "./",
    "-",
    "--",
)
LEAVES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "\0",
    [],
    [[]],
    {},
    {"a": 1},
    [1, 2, 3],
    "../../etc/passwd",
    [-1],
    0.5,
)


def mutated(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """Some bytes of ``data`` changed, cut out, doubled, zeroed, or taken from ``other``."""
    raw = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not raw:
            break
        at, size = draw.randrange(len(raw)), draw.choice((1, 2, 4, 8, 64, 1024))
        if draw.random() < 0.5:
            at = draw.randrange(min(len(raw), 512))  # headers
        match draw.randrange(8):
            case 0:
                raw[at] ^= 1 << draw.randrange(8)
            case 1:
                raw[at : at + size] = draw.randbytes(size)
            case 2:
                del raw[at : at + size]
            case 3:
                raw[at:at] = raw[at : at + size]
            case 4:
                raw[at : at + size] = bytes(size)
            case 5:
                raw[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"))
            case 6:
                del raw[at:]
            case 7:
                raw[at : at + size] = other[at : at + size]
    return bytes(raw)


def mutated_json(value: Any, draw: random.Random) -> Any:
    """One leaf or branch of a JSON value replaced, removed or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        result = dict(value)
        match draw.randrange(5):
            case 0:
                del result[key]
            case 1:
                result["unknown"] = 1
            case _:
                result[key] = mutated_json(value[key], draw)
        return result
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], mutated_json(value[at], draw), *value[at + 1 :]]
    return draw.choice(LEAVES)


def tampered_safetensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header was changed, with or without a fitting length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if draw.random() < 0.6:
        header = json.dumps(mutated_json(json.loads(header), draw)).encode()
    else:
        header = mutated(header, draw)
    size = draw.choice((len(header), len(header), len(header), length, 0, 2**63, 2**64 - 1, len(data)))
    return struct.pack("<Q", size) + header + draw.choice((body, body, body[: len(body) // 2], b""))


class Maker:
    """Makes bad cases from good files; ``folder`` keeps those."""

    def __init__(self, folder: Path) -> None:
        self.good: dict[str, bytes] = {}
        for name, options in SEEDS.items():
            path = media.clip(folder / name, seconds=0.4, size=(64, 48), fps=10, **options)
            self.good[name] = path.read_bytes()
        self.good["p.png"] = media.ffmpeg(
            "-i", folder / "a.mp4", "-frames:v", 1, "-f", "image2pipe", "-c:v", "png", "-"
        )
        self.whole = folder / "a.mp4"
        self.model = tiny_model(folder / "model")

    def case(self, draw: random.Random, folder: Path) -> tuple[str, list[str], dict[str, str], bytes | None]:
        """(kind, arguments, environment, standard input) of one bad run in ``folder``."""
        out = folder / f"out{draw.choice(OUTPUTS)}"
        common = ["-p", "ink wash", "--device", "cpu", "-o", str(out)]
        kind = draw.choices(("media", "flags", "config", "model", "stdin", "live"), (60, 12, 8, 12, 3, 5))[0]
        if kind == "media":
            return kind, ["transform", str(self.media(draw, folder)), *common, *self.flags(draw, 0.3)], {}, None
        if kind == "live":
            extra = ["--duration", "3", "--no-window"]
            return kind, ["live", "--input", str(self.media(draw, folder)), *common, *extra], {}, None
        if kind == "stdin":
            name = draw.choice(sorted(self.good))
            return kind, ["transform", "-", *common], {}, mutated(self.good[name], draw, self.good["a.mp4"])
        if kind == "model":
            model = self.tampered_model(draw, folder)
            return kind, ["transform", str(self.whole), *common, "--model", str(model)], {}, None
        source = ["transform", str(self.whole)]
        if kind == "config":
            file = folder / "mirage.toml"
            file.write_bytes(self.config(draw))
            return kind, [*source, *common, "--config", str(file)], {}, None
        environment = {}
        if draw.random() < 0.3:
            name = draw.choice(
                ("SIZE", "STRENGTH", "SEED", "STEPS", "PROMPT", "FPS", "CODEC", "CRF", "DEVICE", "MODEL")
            )
            environment[f"MIRAGE_{name}"] = draw.choice(ODD).replace("\0", "")
        if draw.random() < 0.4:
            common[1] = self.prompt(draw)
        return kind, [*source, *common, *self.flags(draw, 0.9)], environment, None

    def media(self, draw: random.Random, folder: Path) -> Path:
        name = draw.choice(sorted(self.good))
        suffix = os.path.splitext(name)[1] if draw.random() < 0.8 else draw.choice(SUFFIXES)
        path = folder / f"{draw.choice(('in', 'in put', 'in%03d', 'in:a'))}{suffix}"
        match draw.randrange(10):
            case 0:
                path.write_bytes(draw.choice(MAGIC) + draw.randbytes(draw.choice((0, 7, 300, 5000))))
            case 1:
                path.write_text(draw.choice(TEXTS), "utf-8")
            case 2:
                path.write_bytes(draw.randbytes(draw.choice((0, 1, 100, 10000))))
            case 3:
                first, second = (self.good[draw.choice(sorted(self.good))] for _ in range(2))
                path.write_bytes(first[: draw.randrange(len(first))] + second[draw.randrange(len(second)) :])
            case _:
                path.write_bytes(mutated(self.good[name], draw, self.good[draw.choice(sorted(self.good))]))
        return path

    def flags(self, draw: random.Random, share: float) -> list[str]:
        names = (
            "--size",
            "--start",
            "--duration",
            "--fps",
            "--codec",
            "--crf",
            "--strength",
            "--steps",
            "--seed",
            "--blend-seconds",
            "--dtype",
            "--backend",
            "--compare",
            "--no-guard",
            "-q",
            "--json",
            "-x",
        )
        good = {
            "--size": ("32x32", "33x17", "native"),
            "--start": ("0.1", "9"),
            "--duration": ("0.2", "1e-9"),
            "--fps": ("5", "60", "0.02"),
            "--codec": ("h264", "ffv1", "gif", "prores"),
            "--crf": ("0", "30", "60"),
            "--strength": ("0", "0.5"),
            "--steps": ("2",),
            "--seed": ("7",),
            "--blend-seconds": ("0", "100"),
            "--dtype": ("fp32", "bf16"),
            "--backend": ("torch", "ptx"),
        }
        result: list[str] = []
        while draw.random() < share and len(result) < 6:
            name = draw.choice(names)
            result.append(name)
            if name in good:
                result.append(draw.choice(good[name] if draw.random() < 0.6 else ODD).replace("\0", "\x01"))
        return result

    def prompt(self, draw: random.Random) -> str:
        words = (
            "ink wash",
            "0:",
            "5s:",
            "1e9:",
            "+",
            "0.5*",
            "-1*",
            "nan*",
            "and",
            "no",
            "night",
            ":",
            ";",
            "*",
            "\n",
            "é" * 9,
            "x" * 3000,
            "0.5*night + 0.5*mosaic",
            "99999999:",
            "\x1b[2J",
            "🎬",
            "' \"",
            "identity",
            "%s",
            "not",
            ",",
        )
        return "".join(draw.choice(words) for _ in range(draw.randrange(5)))

    def config(self, draw: random.Random) -> bytes:
        keys = (
            "size",
            "strength",
            "seed",
            "prompt",
            "steps",
            "fps",
            "codec",
            "crf",
            "model",
            "compare",
            "transform",
            "output",
            "json",
            "debug",
            "config",
            "quiet",
            "nonsense",
            "start",
            "device",
            "guard",
        )
        values = (
            '"64x48"',
            "0.5",
            "-1",
            "[]",
            "{}",
            '""',
            "true",
            "1979-05-27",
            "[[1]]",
            "nan",
            "{a=1}",
            '["a", "b"]',
            "1e400",
            '"' + "x" * 5000 + '"',
            "0o17",
            "inf",
            "[1, 2]",
            "9223372036854775808",
        )
        lines = [f"{draw.choice(keys)} = {draw.choice(values)}" for _ in range(draw.randrange(4))]
        if draw.random() < 0.5:
            lines.insert(draw.randrange(len(lines) + 1), f"[{draw.choice(('transform', 'live', 'x', '', 'a.b'))}]")
        data = "\n".join(lines).encode()
        return mutated(data, draw) if draw.random() < 0.4 else data

    def tampered_model(self, draw: random.Random, folder: Path) -> Path:
        model = folder / "model"
        model.mkdir()
        for file in self.model.iterdir():
            (model / file.name).write_bytes(file.read_bytes())
        file = model / draw.choice(
            (
                "config.json",
                "config.json",
                "model.safetensors",
                "model.safetensors",
                "looks.json",
                "looks.safetensors",
                "manifest.json",
            )
        )
        data = file.read_bytes()
        match draw.randrange(6):
            case 0:
                file.unlink()
            case 1:
                file.write_bytes(mutated(data, draw))
            case 2:
                file.write_bytes(
                    draw.choice((b"", b"{}", b"[]", b"null", b"[" * 100000, draw.randbytes(50), b"\x80\x04\x95"))
                )
            case _ if file.suffix == ".json":
                file.write_text(json.dumps(mutated_json(json.loads(data), draw)), "utf-8")
            case _:
                file.write_bytes(tampered_safetensors(data, draw))
        return model


def tiny_model(folder: Path) -> Path:
    """A whole model folder of the shipped looks, its network small and random."""
    import torch
    from mirage_cli.models import catalog
    from safetensors.torch import save_file

    from mirage_cli.lsd.checkpoint import read_config
    from mirage_cli.lsd.model import LSDConfig, LSDNet

    shipped = catalog.MODELS_ROOT / catalog.DEFAULT_MODEL
    config = LSDConfig(
        looks=read_config(shipped).looks,
        widths=(16, 16, 64),
        encoder_blocks=(1, 1),
        middle_blocks=1,
        decoder_blocks=(1, 1),
        look_width=8,
        condition_width=16,
        memory_grid=(2, 2),
    )
    torch.manual_seed(0)
    net = LSDNet(config)
    folder.mkdir()
    for name in ("looks.json", "looks.safetensors"):
        (folder / name).write_bytes((shipped / name).read_bytes())
    document = {"format": 1, "kind": "lsd", "network": config.to_dict()}
    (folder / "config.json").write_text(json.dumps(document), "utf-8")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    catalog.write_manifest(folder)
    return folder


class Hang(Exception):
    """The time limit of a case."""


class Runner:
    """Runs cases in this process; the shipped model and its prompt reader are loaded once."""

    def __init__(self, limit_seconds: float) -> None:
        from mirage_cli.styling.loading import Models

        shared = Models()

        class SharedModels(Models):
            """Another model is loaded for each case, so that nothing of a tampered one stays."""

            def session(self, options: Any, width: int, height: int) -> Any:
                mine = options.model == "lsd-small"
                return Models.session(shared if mine else self, options, width, height)

            def match(self, options: Any, text: str) -> Any:
                return Models.match(shared if options.model == "lsd-small" else self, options, text)

        self.models = SharedModels
        self.limit = limit_seconds

    def run(
        self, arguments: list[str], environment: dict[str, str], stdin: bytes | None, folder: Path
    ) -> tuple[int, str, str]:
        """Exit code, stdout and stderr; -999 for a hang."""
        if stdin is not None:
            variables = dict(os.environ, PYTHONPATH=str(HERE.parent), OMP_NUM_THREADS="2", **environment)
            try:
                done = subprocess.run(
                    [sys.executable, str(FAKES), *arguments],
                    input=stdin,
                    capture_output=True,
                    timeout=self.limit,
                    env=variables,
                    cwd=folder,
                )
            except subprocess.TimeoutExpired:
                return -999, "", ""
            return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        from mirage_cli.cli import main

        def expired(*_: object) -> None:
            raise Hang

        out, err = io.StringIO(), io.StringIO()
        old, here = dict(os.environ), os.getcwd()
        os.environ.update(environment)
        os.chdir(folder)
        before = signal.signal(signal.SIGALRM, expired)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(arguments, models=self.models())
        except Hang:
            code = -999
        except BaseException as error:
            code = -998
            err.write(f"Traceback: {error!r}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
            os.chdir(here)
            os.environ.clear()
            os.environ.update(old)
        return code, out.getvalue(), err.getvalue()


def judge(code: int, out: str, err: str, folder: Path) -> list[str]:
    """Broken rules of one case."""
    wrong = []
    if code == -999:
        wrong.append("hang")
    elif code not in (0, 2, 3, 4, 5):
        wrong.append(f"exit code {code}")
    if "Traceback" in err or "fault of mirage" in err:
        wrong.append("traceback or fault")
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    if code in (2, 3, 4, 5) and len(said) != 1:
        wrong.append(f"{len(said)} error lines")
    finals = []
    for path in folder.iterdir():
        if path.name.endswith(".part"):
            wrong.append(f"left {path.name}")
        elif path.stem == "out":
            finals.append(path)
    if code != 0 and finals:
        wrong.append(f"an error, and {finals[0].name} is there")
    for path in finals if code == 0 else ():
        try:
            if media.probe(path).frames < 1:
                wrong.append("an output without frames")
        except (AssertionError, IndexError, subprocess.TimeoutExpired) as error:
            wrong.append(f"{path.name} does not play: {str(error)[-200:]}")
    return wrong


def children() -> set[int]:
    """Child processes of this one."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            found |= {int(word) for word in Path(f"/proc/self/task/{task}/children").read_text().split()}
    return found


def run_cases(
    numbers: range, seed: int, limit_seconds: float, until: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """Runs cases by number; stops early when ``until`` says so."""
    results = []
    with tempfile.TemporaryDirectory(prefix="mirage-bad-") as name:
        root = Path(name)
        (root / "good").mkdir()
        maker, runner = Maker(root / "good"), Runner(limit_seconds)
        for number in numbers:
            if until():
                break
            draw = random.Random(f"{seed}/{number}")
            folder = root / f"case{number}"
            folder.mkdir()
            kind, arguments, environment, stdin = maker.case(draw, folder)
            before, begin = children(), time.monotonic()
            code, out, err = runner.run(arguments, environment, stdin, folder)
            seconds = time.monotonic() - begin
            wrong = judge(code, out, err, folder)
            if children() - before:
                wrong.append("left a child process")
            results.append(
                {
                    "number": number,
                    "kind": kind,
                    "code": code,
                    "seconds": round(seconds, 2),
                    "wrong": wrong,
                    "said": next((line for line in err.splitlines() if line.startswith("error: ")), "")[:300],
                    "arguments": arguments if wrong else [],
                }
            )
            if wrong:
                print(f"case {number} ({kind}): {wrong}\n  {arguments} {environment}\n  {err[-600:]}", file=sys.stderr)
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if not path.is_dir() else path.rmdir()
            folder.rmdir()
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--join", nargs="+", metavar="JSON", help="make one account of several and run nothing")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    if options.join:
        account = joined([json.loads(Path(name).read_text("utf-8")) for name in options.join])
        print(json.dumps(account, indent=1))
        return 1 if account["broken"] else 0
    numbers = range(options.first, options.first + options.count)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    begin = time.monotonic()
    results = run_cases(numbers, options.seed, options.limit)
    broken = [case for case in results if case["wrong"]]
    print(
        json.dumps(
            {
                "command": " ".join(["python", "tests/bad_inputs.py", *(arguments or sys.argv[1:])]),
                "seed": options.seed,
                "first": numbers.start,
                "cases": len(results),
                "seconds": round(time.monotonic() - begin, 1),
                "kinds": Counter(case["kind"] for case in results),
                "exit_codes": Counter(case["code"] for case in results),
                "tracebacks": sum("traceback or fault" in case["wrong"] for case in results),
                "hangs": sum("hang" in case["wrong"] for case in results),
                "half_written": sum(
                    any("left " in w or " play" in w or "is there" in w for w in case["wrong"]) for case in results
                ),
                "slowest_seconds": max((case["seconds"] for case in results), default=0),
                "broken": broken,
            },
            indent=1,
        )
    )
    return 1 if broken else 0


def joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """One account of the pieces of a run, which must follow one another and share a seed."""
    pieces = sorted(pieces, key=lambda piece: piece["first"])
    for before, after in zip(pieces, pieces[1:]):
        if after["seed"] != before["seed"] or after["first"] != before["first"] + before["cases"]:
            raise SystemExit(f"these do not follow one another: {before['command']!r}, {after['command']!r}")
    whole: dict[str, Any] = {
        "command": f"python tests/bad_inputs.py --seed {pieces[0]['seed']} --first {pieces[0]['first']} "
        f"--count {sum(piece['cases'] for piece in pieces)}, in {len(pieces)} pieces",
        "seed": pieces[0]["seed"],
        "first": pieces[0]["first"],
    }
    for key in ("cases", "seconds", "tracebacks", "hangs", "half_written"):
        whole[key] = round(sum(piece[key] for piece in pieces), 1)
    for key in ("kinds", "exit_codes"):
        whole[key] = dict(sum((Counter(piece[key]) for piece in pieces), Counter()))
    whole["slowest_seconds"] = max(piece["slowest_seconds"] for piece in pieces)
    whole["broken"] = [case for piece in pieces for case in piece["broken"]]
    return whole


if __name__ == "__main__":
    sys.exit(main())
