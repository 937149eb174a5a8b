"""A long run of the real thing: is memory flat, does latency grow, is a frame lost or doubled?

    python tests/soak.py --minutes 3
    python tests/soak.py --minutes 120 > docs/benchmarks/soak-cpu.json

Numbered pictures go at their pace, one every 1 / --fps seconds, into ``mirage transform - --compare
-o -``, the mode that drops nothing; the shipped model styles them, and the left half of what comes out
still carries the number. So every frame is told apart, and its way from the sender to the reader is
timed: decoding, the model, encoding and two pipes included. ``--live`` runs ``mirage live --input
test`` instead, where frames may be dropped and only memory is watched. Prints one JSON document; ends
with 1 when a rule is broken:

* every number comes out once and in order (not with --live);
* memory that mirage and its ffmpeg children took: the last quarter within 2% of the first quarter after
  warm-up, by medians;
* the median latency of the last quarter is at most one frame interval above the first quarter's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from helpers.paths import ROOT

from mirage_cli import __version__
from mirage_cli.media.ffmpeg import find_ffmpeg
from mirage_cli.media.nut_writer import NutWriter

BITS = 24
MEMORY_LIMIT = 0.02
PROMPT = "ink wash"


def draw(number: int, width: int, height: int) -> np.ndarray:
    """A scene that moves, and the number in black and white below: uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [
        127 + 80 * np.sin(x * a + y * b + number * c)
        for a, b, c in ((0.13, 0.05, 0.11), (-0.06, 0.17, 0.07), (0.09, -0.11, 0.05))
    ]
    rgb = np.stack(waves, axis=2).astype(np.uint8)
    for bit in range(BITS):
        part = slice(bit * width // BITS, (bit + 1) * width // BITS)
        rgb[height * 3 // 4 :, part] = 255 if number >> bit & 1 else 0
    return rgb


def read_number(rgb: np.ndarray) -> int:
    """The number in a picture of ``draw``."""
    height, width = rgb.shape[:2]
    row = rgb[height * 7 // 8].mean(axis=1)
    return sum(int(row[(2 * bit + 1) * width // (2 * BITS)] > 127) << bit for bit in range(BITS))


def resident_mb(pid: int) -> tuple[float, float]:
    """Memory of a process and its children in MiB: what they took (RssAnon), and all (VmRSS).

    The rest of VmRSS is pages of files (weights, libraries), which the system takes back and gives
    again as it likes.
    """
    taken = whole = 0.0
    pids = [str(pid)]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            pids += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    for one in pids:
        with contextlib.suppress(OSError, IndexError, KeyError):
            rows = (line.split() for line in Path(f"/proc/{one}/status").read_text().splitlines())
            kib = {row[0]: int(row[1]) for row in rows if row[0] in ("RssAnon:", "VmRSS:")}
            taken, whole = taken + kib["RssAnon:"] / 1024, whole + kib["VmRSS:"] / 1024
    return taken, whole


def quarters(samples: list[tuple[float, float]], since: float) -> tuple[float, float]:
    """Medians of the first and the last quarter of (moment, value) from a moment on."""
    kept = [value for moment, value in samples if moment >= since]
    if not kept:
        return 0.0, float("inf")
    count = max(1, len(kept) // 4)
    return statistics.median(kept[:count]), statistics.median(kept[-count:])


def over_time(samples: list[tuple[float, float]], since: float, parts: int = 48) -> list[tuple[int, float]]:
    """Medians of equal parts of (moment, value): (seconds since a moment, median) each."""
    size = max(1, -(-len(samples) // parts))
    pieces = [samples[at : at + size] for at in range(0, len(samples), size)]
    return [(round(piece[0][0] - since), round(statistics.median(v for _, v in piece), 1)) for piece in pieces]


def watch(pid: int, stop: threading.Event, every: float, into: list[tuple[float, float, float]]) -> None:
    """(moment on ``time.monotonic``'s clock, taken, resident) every so many seconds."""
    while not stop.wait(every):
        taken, whole = resident_mb(pid)
        if taken:
            into.append((time.monotonic(), taken, whole))


def start(arguments: list[str], command: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
    environment = dict(os.environ, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"))
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    return subprocess.Popen([*command, *arguments], env=environment, **pipes)


class Lossless:
    """Numbered pictures through ``mirage transform``, timed one by one."""

    def __init__(self, seconds: float, size: tuple[int, int], fps: float, command: list[str]) -> None:
        self.count, self.size, self.fps = max(1, round(seconds * fps)), size, fps
        self.sent: dict[int, float] = {}
        self.numbers: list[int] = []
        self.latency: list[tuple[float, float]] = []  # (seconds since begin, ms)
        self.late_ms = 0.0
        width, height = size
        self.mirage = start(
            ["transform", "-", "-p", PROMPT, "--device", "cpu", "--compare", "--codec", "ffv1", "-q", "-o", "-"],
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.decoder = subprocess.Popen(
            [
                find_ffmpeg().path,
                "-v",
                "error",
                "-probesize",
                "32768",
                "-analyzeduration",
                "0",
                "-threads",
                "1",
                "-i",
                "pipe:0",
                "-vf",
                f"crop={width}:{height}:0:0,format=rgb24",
                "-fps_mode",
                "passthrough",
                "-flush_packets",
                "1",
                "-f",
                "rawvideo",
                "pipe:1",
            ],
            stdin=self.mirage.stdout,
            stdout=subprocess.PIPE,
        )
        assert self.mirage.stdout is not None
        self.mirage.stdout.close()
        self.errors: list[bytes] = []

    def send(self, pipe: IO[bytes], begin: float) -> None:
        width, height = self.size
        writer = NutWriter(pipe.fileno(), width, height, 90000, Fraction(self.fps).limit_denominator(1001))
        try:
            for number in range(self.count):
                due = begin + number / self.fps
                time.sleep(max(0.0, due - time.monotonic()))
                picture = draw(number, width, height)
                self.sent[number] = time.monotonic()
                writer.write(round(number * 90000 / self.fps), picture)
                self.late_ms = max(self.late_ms, (time.monotonic() - due) * 1e3)
        except OSError:
            pass  # mirage ended: the numbers that are missing tell
        finally:
            with contextlib.suppress(OSError):
                pipe.close()

    def run(self) -> int:
        begin = time.monotonic()
        self.flows_since = begin
        assert self.mirage.stdin and self.mirage.stderr and self.decoder.stdout
        threading.Thread(target=self.send, args=(self.mirage.stdin, begin), daemon=True).start()
        drain = threading.Thread(target=self.errors.extend, args=(self.mirage.stderr,), daemon=True)
        drain.start()
        width, height = self.size
        whole = width * height * 3
        while len(data := self.decoder.stdout.read(whole)) == whole:
            now = time.monotonic()
            number = read_number(np.frombuffer(data, np.uint8).reshape(height, width, 3))
            self.numbers.append(number)
            if number in self.sent:
                late = now - self.sent[number]
                # What had gathered in the pipes while the model was loaded does not count.
                if len(self.latency) == 0 and late > 2.0 and number < self.count // 2:
                    self.flows_since = now
                    continue
                self.latency.append((now, late * 1e3))
        self.decoder.wait(30)
        code = self.mirage.wait(60)
        drain.join(5)
        return code

    def document(self, warmup: float) -> dict[str, Any]:
        seen = set(self.numbers)
        since = self.flows_since + warmup
        first, last = quarters(self.latency, since)
        late = sorted(value for at, value in self.latency if at >= since) or [float("inf")]
        return {
            "frames_sent": len(self.sent),
            "frames_received": len(self.numbers),
            "lost": self.count - len(seen),
            "doubled": len(self.numbers) - len(seen),
            "in_order": self.numbers == sorted(self.numbers),
            "latency_ms": {
                "first_quarter_median": round(first, 1),
                "last_quarter_median": round(last, 1),
                "p50": round(late[len(late) // 2], 1),
                "p95": round(late[int(len(late) * 0.95)], 1),
                "max": round(late[-1], 1),
            },
            "latency_ms_over_time": over_time(self.latency, self.flows_since),
            "frames_timed": len(late),
            "sender_at_most_late_ms": round(self.late_ms, 1),
            "latency_grows": last > first + 1e3 / self.fps,
        }


def soak(
    seconds: float,
    size: tuple[int, int],
    fps: float,
    live: bool = False,
    warmup: float | None = None,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """One soak; ``ok`` says whether all rules held.

    Args:
        seconds: how long pictures are sent.
        warmup: left out of memory and latency; a quarter of the time, at most a minute, by default.
        command: the program; ``python -m mirage_cli`` by default.
    """
    command = command or [sys.executable, "-m", "mirage_cli"]
    warmup = min(60.0, seconds / 4) if warmup is None else warmup
    from mirage_cli.runs.machine import commit, hardware

    about = {"version": __version__, "commit": commit(), "machine": hardware(on_gpu=False)}
    memory: list[tuple[float, float, float]] = []
    over, load = threading.Event(), os.getloadavg()[0]
    begin = flows = time.monotonic()
    more: dict[str, Any] = {}
    if live:
        process = start(
            [
                "live",
                "--input",
                "test",
                "-p",
                PROMPT,
                "--device",
                "cpu",
                "--no-window",
                "--json",
                "--no-progress",
                "--size",
                f"{size[0]}x{size[1]}",
                "--fps",
                str(fps),
                "--duration",
                str(seconds),
            ],
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    else:
        lossless = Lossless(seconds, size, fps, command)
        process = lossless.mirage
    watcher = threading.Thread(target=watch, args=(process.pid, over, min(1.0, seconds / 40), memory))
    watcher.start()
    try:
        if live:
            out, _ = process.communicate()
            code, said = process.returncode, json.loads(out)
            more = {key: said[key] for key in ("frames_in", "frames", "dropped", "latency_ms", "ended_by")}
        else:
            code = lossless.run()
            more, flows = lossless.document(warmup), lossless.flows_since
            if code:
                more["stderr"] = b"".join(lossless.errors).decode("utf-8", "replace")[-500:]
    finally:
        over.set()
        watcher.join()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    memory = memory[:-2] if len(memory) > 8 else memory  # children end before their parent
    first, last = quarters([(moment, taken) for moment, taken, _ in memory], flows + warmup)
    growth = last / first - 1.0 if first else float("inf")
    broken = [
        name
        for name, bad in {
            f"exit code {code}": code != 0,
            "memory": abs(growth) > MEMORY_LIMIT,
            "lost": more.get("lost", 0) > 0,
            "doubled": more.get("doubled", 0) > 0,
            "order": not more.get("in_order", True),
            "latency": more.get("latency_grows", False),
        }.items()
        if bad
    ]
    return {
        "mode": "live" if live else "lossless",
        "seconds": round(time.monotonic() - begin, 1),
        "size": list(size),
        "fps": fps,
        "prompt": PROMPT,
        "warmup_seconds": warmup,
        **about,
        "load_average_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "memory_mb": {
            "first_quarter_median": round(first, 1),
            "last_quarter_median": round(last, 1),
            "change_percent": round(100 * growth, 2),
            "max": round(max(taken for _, taken, _ in memory), 1),
            "resident_max": round(max(whole for _, _, whole in memory), 1),
            "samples": len(memory),
        },
        "memory_mb_over_time": [
            [round(moment - begin), round(taken, 1)] for moment, taken, _ in memory[:: max(1, len(memory) // 24)]
        ],
        **more,
        "broken": broken,
        "ok": not broken,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--size", default="128x72")
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--live", action="store_true")
    options = parser.parse_args(arguments)
    width, _, height = options.size.partition("x")
    document = soak(options.minutes * 60, (int(width), int(height)), options.fps, options.live)
    command = " ".join(["python", "tests/soak.py", *(arguments or sys.argv[1:])])
    print(json.dumps({"command": command, **document}, indent=1))
    return 0 if document["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
