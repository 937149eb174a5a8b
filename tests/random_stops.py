"""Ctrl-C and SIGTERM at random moments of real runs: what is left must play, or nothing is left.

    python tests/random_stops.py --times 50

Each run is a process of its own, ``mirage`` as it is installed, with the shipped model at a small
size; signal, moment and kind of run are drawn from the seed. Prints one JSON document; ends with 1
when a run broke a rule:

* it ends within 90 seconds (a busy machine), without a traceback;
* it ends with 0 or 130, or, while Python still imports, by the signal with nothing said and nothing left;
* an output under its final name decodes without an error, with as many frames as the run says;
* there is no other file: nothing half written under any name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers import media
from helpers.paths import ROOT

LIMIT_SECONDS = 90.0
MIRAGE = (sys.executable, "-m", "mirage_cli")
SMALL = ("--size", "96x64", "--json", "--device", "cpu")


def kinds(clip: Path, film: Path, out: Path) -> dict[str, list[str]]:
    """Name -> arguments of one run; ``{out}`` with each suffix that is written."""
    look = ["-p", "ink wash", *SMALL, "-o"]
    return {
        "file to mp4 with sound": ["transform", str(clip), *look, f"{out}.mp4"],
        "film with subtitles to mkv": ["transform", str(film), *look, f"{out}.mkv"],
        "file to webm": ["transform", str(clip), *look, f"{out}.webm"],
        "file to gif": ["transform", str(clip), *look, f"{out}.gif"],
        "live to mp4": ["live", "--input", "test", "--duration", "4", *look, f"{out}.mp4"],
    }


def make_clips(folder: Path) -> tuple[Path, Path]:
    """Five seconds with sound, and the same with subtitles and a title."""
    clip = media.clip(folder / "clip.mp4", seconds=5.0)
    text = folder / "s.srt"
    text.write_text("1\n00:00:00,200 --> 00:00:05,000\nHello\n", "utf-8")
    film = folder / "film.mkv"
    media.ffmpeg(
        "-i", clip, "-i", text, "-map", "0", "-map", "1", "-c", "copy", "-c:s", "srt", "-metadata", "title=Film", film
    )
    return clip, film


def run_once(
    arguments: list[str],
    after_seconds: float | None,
    number: int,
    command: tuple[str, ...] = MIRAGE,
    says_ready: bool = False,
) -> tuple[int, bytes, bytes, float]:
    """Exit code, stdout, stderr and seconds of one run that gets a signal after a while.

    Args:
        says_ready: ``command`` is ``helpers.fakes``; the while begins when it hears signals, however long
            its imports took.
    """
    environment = dict(os.environ, OMP_NUM_THREADS="2", FAKE_MODEL_MS="5")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    heard, mark = os.pipe()
    if says_ready:
        environment["FAKE_READY_FD"] = str(mark)
    begin = time.monotonic()
    try:
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=(mark,) if says_ready else (),
        )
    finally:
        os.close(mark)
    try:
        if says_ready:
            _wait_until_ready(heard)
        if after_seconds is not None:
            try:
                process.wait(after_seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -999, b"", b"", time.monotonic() - begin
    finally:
        os.close(heard)
    return process.returncode, out, err, time.monotonic() - begin


def _wait_until_ready(heard: int) -> None:
    """Raises:
    subprocess.TimeoutExpired: it does not say so.
    RuntimeError: it ended without.
    """
    if not select.select([heard], [], [], LIMIT_SECONDS)[0]:
        raise subprocess.TimeoutExpired("fakes", LIMIT_SECONDS)
    if not os.read(heard, 1):
        raise RuntimeError("the stand-in ended before it heard signals")


def judge(code: int, out: bytes, err: bytes, folder: Path, said_ready: bool = False) -> tuple[list[str], int | None]:
    """(broken rules, frames of what was written or None) of one run into an empty folder.

    Args:
        said_ready: the signal came after its handlers, so that it cannot end the process by itself.
    """
    wrong = []
    left = sorted(folder.iterdir())
    if code == -999:
        wrong.append(f"did not end within {LIMIT_SECONDS:g} s")
    if b"Traceback" in err or b"Exception ignored" in err:
        wrong.append("traceback: " + err.decode("utf-8", "replace")[-400:])
    wrong += [f"left {path.name}" for path in left if path.suffix == ".part"]
    finals = [path for path in left if path.suffix != ".part"]
    frames = None
    by_signal = code in (-signal.SIGINT, -signal.SIGTERM)
    importing = by_signal and not said_ready and not out and not err and not left
    if code not in (0, 130) and not importing:
        wrong.append(f"exit code {code}: {err.decode('utf-8', 'replace')[-300:]}")
    if code == 0 and not finals:
        wrong.append("ended with 0 and wrote nothing")
    for path in finals:
        try:
            frames = media.probe(path).frames
        except (AssertionError, IndexError) as error:
            wrong.append(f"{path.name} does not play: {str(error)[-300:]}")
            continue
        try:
            said = json.loads(out)["frames"]
        except (ValueError, KeyError):
            said = None
        if said is not None and said != frames:
            wrong.append(f"{path.name} has {frames} frames, the run says {said}")
        if frames == 0:
            wrong.append(f"{path.name} holds no frame")
    return wrong, frames


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started with &: children would not hear it
    draw = random.Random(options.seed)
    runs: list[dict] = []
    lengths: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="mirage-stops-") as name:
        root = Path(name)
        clip, film = make_clips(root)
        for number in range(options.times):
            folder = root / f"run{number}"
            folder.mkdir()
            choices = kinds(clip, film, folder / "out")
            kind = draw.choice(sorted(choices))
            if kind not in lengths:  # how long it takes when nobody interrupts
                whole = root / f"whole{len(lengths)}"
                whole.mkdir()
                ended = run_once(kinds(clip, film, whole / "out")[kind], None, 0)
                wrong, _ = judge(*ended[:3], whole)
                assert not wrong and ended[0] == 0, (kind, wrong)
                said = json.loads(ended[1])
                lengths[kind] = (said["first_frame_seconds"], ended[3])
            begin, end = lengths[kind]
            # Mostly while frames flow or the file is finished; at times before there is anything.
            moment = draw.uniform(begin if draw.random() < 0.85 else 0.0, end)
            which = draw.choice([signal.SIGINT, signal.SIGTERM])
            code, out, err, seconds = run_once(choices[kind], moment, which)
            wrong, frames = judge(code, out, err, folder)
            runs.append(
                {
                    "kind": kind,
                    "signal": which.name,
                    "at_seconds": round(moment, 3),
                    "ended_after_seconds": round(seconds - moment, 3),
                    "exit_code": code,
                    "frames": frames,
                    "wrong": wrong,
                }
            )
            print(
                f"{number + 1}/{options.times} {kind}, {which.name} at {moment:.2f} s: "
                f"{code}, {frames} frames {wrong or ''}",
                file=sys.stderr,
            )
    broken = [run for run in runs if run["wrong"]]
    print(
        json.dumps(
            {
                "command": " ".join(["python", "tests/random_stops.py", *(arguments or sys.argv[1:])]),
                "runs": len(runs),
                "with_an_output_that_plays": sum(run["frames"] is not None for run in runs),
                "stopped_before_a_frame_and_nothing_left": sum(run["frames"] is None for run in runs),
                "broken": len(broken),
                "first_frame_and_end_seconds": lengths,
                "each": runs,
            },
            indent=1,
        )
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
