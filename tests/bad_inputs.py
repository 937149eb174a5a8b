"""Random bad input to the whole command line: no traceback, no hang, no half-written file.

    python tests/bad_inputs.py --count 1000 --seed 0

in parts, to be joined into one account: ``--first 0 --count 250 > a.json``, ``--first 250 ...``, and
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
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import media
from helpers.bad_cases import Maker
from helpers.paths import FAKES, ROOT


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
            variables = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="2", **environment)
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
        from mirage_cli.commands.terminal import Call

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
                code = main(arguments, Call(models=self.models()))
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
