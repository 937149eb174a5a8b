"""Do two versions of mirage make the same outputs? Hashes of frames, sound and files, and the fields of documents.

    python tests/output_hashes.py record before.json --mirage "old/bin/mirage"
    python tests/output_hashes.py compare before.json       # this clone, with this Python, on the same machine
    python tests/output_hashes.py compare-commands "old/bin/mirage" "new/bin/mirage"

Only the command line is used: on the CPU, in fp32, one thread, fixed seeds, the ffmpeg of imageio-ffmpeg.
``video`` and ``audio`` are frames and times, ``bytes`` whole files (no Matroska: it holds a random number),
``document`` the fields of what ``--json`` prints, not their values (of live runs, which drop frames, only these).
Hashes hold for one CPU, torch and ffmpeg: ``compare`` says what is another. Elsewhere ``compare-commands`` runs both
versions, and lets B take up a killed job, a preset and settings of A, with the same frames or a reason to refuse.
Ends with 1 when a row differs or failed. A version takes a minute on two idle cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio_ffmpeg

CLIP = Path(__file__).resolve().parents[1] / "examples" / "bunny.mp4"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
LIMIT_SECONDS = 300.0  # of one run, on a busy machine
CPU = ("--device", "cpu", "--dtype", "fp32", "--backend", "torch", "-q")
SEED = ("--seed", "7", *CPU)
SMALL = (str(CLIP), "--duration", "1", "--size", "192x112")
LONG = ("../clips/film.mp4", "-p", "oil painting", "--size", "64x48", "--resume", *SEED)  # a piece of 250 and 146 more
SETTINGS = 'prompt = ["0:ink wash", "0.5s:mosaic"]\nseed = 11\n\n[transform]\nblend-seconds = 0.25\nstrength = 0.8\n'
TRANSFORMS = {  # row -> output and arguments; all run in a folder beside ``clips``
    "01 ink wash": ("01.mp4", *SMALL, "-p", "ink wash", *SEED),
    "02 van gogh": ("02.mp4", *SMALL, "-p", "van gogh starry night", *SEED),
    "03 neon cyberpunk": ("03.mp4", *SMALL, "-p", "neon cyberpunk", *SEED),
    "04 a schedule": ("04.mp4", *SMALL, "-p", "0:ink wash", "-p", "0.3s:night", "--blend-seconds", "0.3", *SEED),
    "05 side by side": ("05.mp4", *SMALL, "-p", "oil painting", "--compare", *SEED),
    "06 a long job": ("06.mp4", *LONG),
    "07 a folder of clips": ("two/", "../clips/two", "--size", "96x64", "-p", "night", *SEED),
    "08 pictures to pictures": ("styled/%05d.png", "../clips/%d.png", "--size", "96x64", "-p", "mosaic", *SEED),
    "10 strength 0.4": ("10.mp4", *SMALL, "-p", "japanese woodblock print", "--strength", "0.4", *SEED),
    "11 a preset": ("11.mp4", *SMALL, *CPU, "--preset", "preset.toml"),
    "12 a file of settings": ("12.mp4", *SMALL, *CPU, "--config", "settings.toml"),
}
KILLED = "06 the same, killed and resumed"
LIVE = ("live", "--input", "test", "-p", "night", "--no-window", "--frames", "6", "--size", "64x48", *CPU)
Row = dict[str, Any]  # part of an output -> its hash; "document" -> its fields; "failed" -> why


class Failed(Exception):
    """A run that did not end with 0; ``refused`` is the message of its document where it gave a reason."""

    def __init__(self, code: int, said: bytes, text: str) -> None:
        self.refused = "".join(map(json.loads, re.findall(rb'"message": (".*")', said) if code in (2, 3, 4) else []))
        super().__init__(f"exit code {code}: {self.refused or text.strip()[-300:] or 'no message'}")


class Mirage:
    """One version: its command, and the folder in which it runs."""

    def __init__(self, command: str | None, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.command = folder, shlex.split(command or f"{shlex.quote(sys.executable)} -m mirage_cli")
        if os.sep in self.command[0]:  # it runs in another folder
            self.command[0] = os.path.abspath(self.command[0])
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MIRAGE_")}
        self.env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MIRAGE_FFMPEG": FFMPEG}
        self.env |= {} if command else {"PYTHONPATH": f"{CLIP.parents[1]}:{self.env.get('PYTHONPATH', '')}"}

    def run(self, *arguments: Any, stdin: bytes = b"") -> bytes:
        """What it prints on standard output; raises ``Failed``."""
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            cwd=self.folder,
            env=self.env,
            input=stdin,
            capture_output=True,
            timeout=LIMIT_SECONDS,
        )
        if done.returncode:
            raise Failed(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
        return done.stdout

    def document(self, *arguments: Any) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def fields_of(self, *arguments: Any) -> Row:
        return {"document": fields(self.document(*arguments))}

    def transform(self, out: str | Path, *arguments: Any) -> Row:
        """The row of an output: a file, or all that is in a folder."""
        document = self.document("transform", *arguments, "-o", out)
        path = self.folder / str(out).replace("%05d.png", "")
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        row: Row = {"document": fields(document), "resumed at": document.get("resumed_at_frame", 0)}
        for part, value in [pair for file in files for pair in parts_of(file).items()]:
            row[part] = f"{row[part]} {value}" if part in row else value
        return row if len(files) == 1 else row | {"names": " ".join(file.name for file in files)}

    def about(self) -> dict[str, Any]:
        """Which version this is, and what its numbers depend on."""
        found = {row["name"]: row["detail"] for row in self.document("doctor")["findings"]}
        git = ["git", "-C", self.document("models")["models"][0]["path"]]
        commit = "unknown"
        if not subprocess.run([*git, "ls-files", "--error-unmatch", "."], capture_output=True).returncode:
            git += ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty= with changes"]
            commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
        cpu = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)[:1]
        about = {name: found.get(name, "").split(" at ")[0] for name in ("ffmpeg", "torch", "packages", "opencv")}
        return about | {"commit": commit, "cpu": cpu, "cores": len(os.sched_getaffinity(0))}


def ffmpeg(*arguments: Any) -> str:
    command = [FFMPEG, "-v", "error", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout


def parts_of(file: Path) -> Row:
    """Hashes of decoded frames and of packets of sound, with sizes, rates and times, and of the bytes."""
    text = ffmpeg(
        "-i",
        file,
        "-map",
        "0:v",
        "-map",
        "0:a?",
        "-c:a",
        "copy",
        "-fps_mode",
        "passthrough",
        "-f",
        "framehash",
        "-hash",
        "sha256",
        "-",
    )
    whole = {
        kind: "\n".join(re.findall(rf"^(?:#\w+ )?{number}[:,].*", text, re.M)).encode()
        for number, kind in re.findall(r"^#media_type (\d+): (\w+)", text, re.M)
    }
    whole |= {} if file.suffix == ".mkv" else {"bytes": file.read_bytes()}
    return {part: hashlib.sha256(data).hexdigest() for part, data in whole.items()}


def fields(value: Any, at: str = "") -> list[str]:
    """``a.b`` for each key and ``a[]`` for what is in lists, sorted."""
    inside = [(f"{at}.{key}".lstrip("."), value[key]) for key in value] if isinstance(value, dict) else []
    inside += [(f"{at}[]", item) for item in value] if isinstance(value, list) else []
    return sorted({name for here, item in inside for name in (here, *fields(item, here))})


def killed_and_resumed(old: Mirage, new: Mirage) -> Row:
    """A long job that ``old`` began, that was killed once its first piece was whole, and that ``new`` ended."""
    out, until = old.folder / f"killed-{new.folder.name}.mp4", time.monotonic() + LIMIT_SECONDS
    progress = Path(f"{out}.part", "progress.json")
    run = subprocess.Popen(
        [*old.command, "transform", *LONG, "-o", str(out)], cwd=old.folder, env=old.env, start_new_session=True
    )
    while not progress.exists() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)  # mirage, and what started it
    if run.wait() != -signal.SIGKILL or not progress.exists():
        raise Failed(run.returncode, b"", "it could not be killed with one piece whole")
    return new.transform(out, *LONG)


def make_clips(folder: Path) -> None:
    """The example clip three times over, a folder of two clips, and pictures."""
    (folder / "two").mkdir(parents=True)
    ffmpeg("-stream_loop", 2, "-i", CLIP, "-c", "copy", folder / "film.mp4")
    ffmpeg("-i", CLIP, "-t", 0.5, "-c", "copy", folder / "two" / "a.mp4")
    ffmpeg("-ss", 3, "-i", CLIP, "-t", 0.5, "-s", "160x90", "-c:a", "copy", folder / "two" / "b.mov")
    ffmpeg("-i", CLIP, "-frames:v", 8, "-s", "128x80", folder / "%d.png")


def make_rows(mirage: Mirage) -> dict[str, Row]:
    """All outputs of one version, two runs at a time."""
    (mirage.folder / "settings.toml").write_text(SETTINGS)
    (mirage.folder / "styled").mkdir()
    mirage.run("presets", "-p", "watercolour", "--strength", "0.7", "--seed", "5", "--save", "preset.toml")

    def pipe() -> Row:
        arguments, out = ("transform", "-", *SMALL[1:], "-p", "night", *SEED, "-o", "-"), mirage.folder / "pipe.mkv"
        out.write_bytes(mirage.run(*arguments, stdin=CLIP.read_bytes()))
        return parts_of(out)

    jobs: dict[str, tuple[Any, ...]] = {
        KILLED: (killed_and_resumed, mirage, mirage),
        **{name: (mirage.transform, *arguments) for name, arguments in TRANSFORMS.items()},
        "09 pipe to pipe": (pipe,),
        **{f"13 {words[0]}": (mirage.fields_of, *words) for words in (("models",), ("doctor",), ("presets",), LIVE)},
    }
    rows = dict(sorted(zip(jobs, ThreadPoolExecutor(2).map(lambda job: attempt(*job), jobs.values()))))
    if any(rows["06 a long job"].get(part) != rows[KILLED].get(part) for part in ("video", "audio", "bytes")):
        rows[KILLED].setdefault("failed", "not the same as the undisturbed one")
    rows["14 an input that is missing"] = {"says": attempt(mirage.fields_of, "transform", "no.mp4", "-p", "x")}
    return rows


def attempt(job: Callable[..., Row], *arguments: Any) -> Row:
    try:
        return job(*arguments)
    except (Failed, OSError, ValueError, LookupError, subprocess.SubprocessError) as problem:
        return {"failed": f"{type(problem).__name__}: {problem}", "refused": getattr(problem, "refused", "")}


def compare(before: dict[str, Row], after: dict[str, Row], equal: str = "equal", may_refuse: bool = False) -> bool:
    """Print each row; whether all are equal and none failed."""
    well = True
    for name in sorted({*before, *after}):
        one, two = before.get(name, {}), after.get(name, {})
        parts = sorted(part for part in {*one, *two} if one.get(part) != two.get(part))
        failed = sorted({row["failed"] for row in (one, two) if "failed" in row})
        refused = may_refuse and "failed" not in one and two.get("refused")
        verdict = "refused" if refused else "FAILED" if failed else "DIFFERENT" if parts else equal
        print(f"{verdict:9}  {name}: {', '.join(failed or parts or sorted(one))}")
        if "document" in parts and not failed:
            old, new = set(one.get("document", ())), set(two.get("document", ()))
            print(f"           fields gone: {sorted(old - new)}; fields new: {sorted(new - old)}")
        well = well and verdict in (equal, "refused")
    return well


def take_up(old: Mirage, new: Mirage, rows: dict[str, Row]) -> bool:
    """Whether B makes the frames of A from what A has written, or refuses with a reason."""
    taken = {KILLED: attempt(killed_and_resumed, old, new)}
    for name in ("11 a preset", "12 a file of settings"):
        _, *arguments, flag, file = TRANSFORMS[name]
        taken[name] = attempt(new.transform, f"taken-{name[:2]}.mp4", *arguments, flag, old.folder / file)
    print("What A has written, taken up by B:")
    return compare({name: rows[name] for name in taken}, taken, may_refuse=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("record", "compare", "compare-commands"))
    parser.add_argument("what", nargs="+", help="a file of hashes, or with compare-commands two commands, A and B")
    parser.add_argument("--mirage", metavar="COMMAND", help="default: this clone, run by this Python")
    given, begun = parser.parse_args(), time.monotonic()
    two = given.mode == "compare-commands"
    if len(given.what) != 1 + two or (two and given.mirage):
        parser.error("give one file, or with compare-commands two commands and no --mirage")
    record = json.loads(Path(given.what[0]).read_text("utf-8")) if given.mode == "compare" else {}
    with tempfile.TemporaryDirectory(prefix="mirage-hashes-") as name:
        make_clips(Path(name, "clips"))
        versions = [Mirage(one, Path(name, str(n))) for n, one in enumerate(given.what if two else [given.mirage])]
        about = [version.about() for version in versions]
        print(*(f"commit {one['commit']}" for one in about), sep="\n", flush=True)
        for key, value in record.get("about", {}).items():
            print(f"note: another {key}: {value}, now {about[0][key]}\n" if value != about[0][key] else "", end="")
        rows = [make_rows(version) for version in versions]
        well = compare(record.get("rows", rows[0]), rows[-1], "recorded" if given.mode == "record" else "equal")
        well = (not two or take_up(*versions, rows[0])) and well
        if given.mode == "record" and well:
            Path(given.what[0]).write_text(json.dumps({"about": about[0], "rows": rows[0]}, indent=1) + "\n", "utf-8")
    print(f"{'all well' if well else 'NOT ALL WELL'}, {time.monotonic() - begun:.0f} s")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
