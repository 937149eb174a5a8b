"""What a run is asked to do: frozen dataclasses, and the parsers of their values.

Precedence is flag > environment (``MIRAGE_*``) > file (``--config``, TOML) > default; the command
line resolves it, and what arrives here is final. Every value is checked when it is parsed, so a
config that exists is a config that is allowed.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirage_cli.errors import UsageProblem

PIPE = "-"
"""The name of standard input and standard output."""

MIN_SIDE = 16
MAX_SIDE = 8192
MAX_SECONDS = 100 * 24 * 3600.0

DTYPES = ("auto", "fp32", "bf16", "fp16")
BACKENDS = ("auto", "ptx", "torch")

Size = tuple[int, int]


@dataclass(frozen=True)
class ModelOptions:
    """Which model runs, where, and how it samples.

    Attributes:
        model: a name from ``mirage models`` or the path of a model folder.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, fp32, bf16 or fp16.
        backend: auto, ptx or torch: who computes the ops.
        steps: sampler steps a frame, 1 to 4.
        strength: 0 returns the input, 1 is the look in full.
        seed: of all noise; same seed, same result on the CPU.
        guard: watch the output for drift and re-anchor.
    """

    model: str = "lsd-small"
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    steps: int = 1
    strength: float = 1.0
    seed: int = 0
    guard: bool = True


@dataclass(frozen=True)
class TransformConfig:
    """``mirage transform``: a whole file or pipe, no frame dropped.

    Attributes:
        input: path, URL, ``-``, or numbered pictures (a folder, a glob, ``%04d.png``).
        output: path, ``-``, or None for a name made from the input and the look.
        more_outputs: further outputs of the same frames.
        prompts: one prompt, or several each with its time (``5s:ink wash``).
        size: width and height in pixels, ``"native"``, or None to let the tool choose.
        fps: frames a second of the output; None keeps the input's times.
        start_seconds, duration_seconds: the cut of the input to work on.
        blend_seconds: how long one prompt of a schedule takes to become the next.
        codec, crf: of the output file; None lets the container choose.
        compare: write input and output side by side.
        overwrite: True, False, or None to ask (on a terminal) or refuse (elsewhere).
        resume: go on with a job of the same output that did not end.
        timeout_seconds: a source or sink that hangs for longer is lost; None takes the default.
        segment_frames: frames between two points at which a job can go on.
        format: what goes through ``-``; None for matroska.
        reconnect: attempts in a row to reach a lost output again; 0 ends the job at the first loss.
        sound: take the sound along.
    """

    input: str
    output: str | None = None
    prompts: tuple[str, ...] = ()
    model: ModelOptions = field(default_factory=ModelOptions)
    size: Size | str | None = None
    fps: float | None = None
    start_seconds: float = 0.0
    duration_seconds: float | None = None
    blend_seconds: float = 1.0
    codec: str | None = None
    crf: int | None = None
    compare: bool = False
    overwrite: bool | None = None
    more_outputs: tuple[str, ...] = ()
    resume: bool = False
    timeout_seconds: float | None = None
    segment_frames: int = 250
    format: str | None = None
    reconnect: int = 10
    sound: bool = True


@dataclass(frozen=True)
class LiveConfig:
    """``mirage live``: a source at its own pace; the newest frame wins.

    Attributes:
        camera: number, part of the name or /dev path of the camera; None when ``input`` is given.
        input: path, URL, ``-``, ``screen``, numbered pictures, or ``test`` (a moving test picture);
            None with a camera.
        output: a file to write as well, or None.
        window: show a window.
        frames: end after this many shown frames; None for no end.
        duration_seconds: end after this many seconds of wall time; None for no end.
        loop: begin a file again at its end.
        timeout_seconds: a source or sink that gives or takes nothing for longer is lost.
        reconnect: attempts in a row to open a lost stream again; 0 ends the run at the first loss.
        control, preview, osc: ``[HOST:]PORT`` to be steered from, or None; see docs/control.md.
        control_token: what clients must know; None where only this machine can reach the ports.
        record: begin a recording at once.
        target_fps: lower steps, then size, to hold this rate; None leaves both alone.
        skip_similar: reuse the last output if no region of the input changed by more than this (levels
            of 255); 0 disables.
        record_folder: where recordings and snapshots go.
    The other attributes are those of ``TransformConfig``.
    """

    camera: int | str | None = None
    input: str | None = None
    output: str | None = None
    prompts: tuple[str, ...] = ()
    model: ModelOptions = field(default_factory=ModelOptions)
    size: Size | str | None = None
    fps: float | None = None
    window: bool = True
    frames: int | None = None
    duration_seconds: float | None = None
    loop: bool = False
    timeout_seconds: float = 10.0
    reconnect: int = 10
    control: str | None = None
    preview: str | None = None
    osc: str | None = None
    control_token: str | None = field(default=None, repr=False)
    record_folder: str = "."
    blend_seconds: float = 0.5
    codec: str | None = None
    crf: int | None = None
    compare: bool = False
    overwrite: bool | None = None
    more_outputs: tuple[str, ...] = ()
    format: str | None = None
    record: bool = False
    target_fps: float | None = None
    skip_similar: float = 0.0
    sound: bool = True


@dataclass(frozen=True)
class BenchConfig:
    """``mirage bench``: measure, on the device at hand.

    Attributes:
        input: file to read frames from; None takes the example clip in a clone, else (an installed
            wheel has none) the test picture.
        prompt: the look to run.
        size: None takes 512x288 on a CPU and 512x512 on a GPU.
        frames: measured frames; None takes 100 for the stages, and for ladder and race 2,000 on a GPU
            and 20 on a CPU.
        warmup: frames before the measured ones, of the stages.
        live: measure latency from input to output at the source's own pace, by a marker in the picture.
        fps: of the test picture when live.
        through: when live, where the marker is read: "sink", the frame as outputs get it, or "h264",
            after an encoder and a decoder.
        inject_ms: when live, a delay put in on purpose, to see that it is measured.
        ladder, race, paced, floor: measure these instead of the stages.
        report: file for a readable report, .md or .html.
    """

    input: str | None = None
    prompt: str = "van gogh starry night"
    model: ModelOptions = field(default_factory=ModelOptions)
    size: Size | None = None
    frames: int | None = None
    warmup: int = 10
    live: bool = False
    fps: float = 30.0
    through: str = "sink"
    inject_ms: float = 0.0
    ladder: bool = False
    race: bool = False
    paced: bool = False
    floor: bool = False
    report: str | None = None


EVAL_PARTS = ("drift", "temporal", "fidelity", "steps", "prompts")


@dataclass(frozen=True)
class EvalConfig:
    """``mirage eval``: measure a model over clips.

    Attributes:
        clips: a folder of videos and of folders of pictures, or one file; None takes the example clip.
        looks: names of looks; empty takes four on a CPU, all on a GPU; ("all",) takes all.
        parts: of ``EVAL_PARTS``.
        frames: of each drift run; None takes 300 on a CPU, 10,000 on a GPU.
        size: of the frames; None takes 256x144 on a CPU, 512x288 on a GPU.
        history: False hides the past before every frame of the drift runs and known warps.
        clips_per_look: drift runs a look; looks are dealt out over the clips in turn.
        data: the training data folder, for teachers that are networks and for stills.
        returns: rounds of the known warps; None takes 2 on a CPU, 20 on a GPU.
        stills: pictures that the known warps walk over; None takes 1 on a CPU, 4 on a GPU.
        lpips: file of the perceptual weights; None takes those of an installed package.
        jobs: processes; None takes 1 on a CPU, four a GPU.
        budget_seconds: end by then and say what was left out.
        output: the JSON document, kept up to date while the run lasts.
        sheet, plot: pictures to write.
    """

    clips: str | None = None
    looks: tuple[str, ...] = ()
    parts: tuple[str, ...] = EVAL_PARTS
    model: ModelOptions = field(default_factory=ModelOptions)
    frames: int | None = None
    size: Size | None = None
    history: bool = True
    clips_per_look: int = 1
    data: str | None = None
    returns: int | None = None
    stills: int | None = None
    lpips: str | None = None
    jobs: int | None = None
    budget_seconds: float | None = None
    output: str | None = None
    sheet: str | None = None
    plot: str | None = None


@dataclass(frozen=True)
class EvalSettings(EvalConfig):
    """An ``EvalConfig`` with every open number decided."""

    frames: int = 0
    size: Size = (0, 0)
    returns: int = 0
    stills: int = 0
    jobs: int = 1


def parse_size(text: str) -> Size | str:
    """``768x432`` -> (768, 432); ``native`` -> ``"native"``.

    Raises:
        UsageProblem: not WIDTHxHEIGHT, or a side outside 16..8192.
    """
    value = text.strip().lower()
    if value == "native":
        return "native"
    match = re.fullmatch(r"(-?\d+)\s*[x×*:]\s*(-?\d+)", value)
    if not match:
        raise UsageProblem(f"size {text!r} is not WIDTHxHEIGHT in pixels", "Try --size 768x432, or --size native.")
    width, height = int(match[1]), int(match[2])
    for side, name in ((width, "width"), (height, "height")):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise UsageProblem(
                f"size {text!r}: {name} {side} is outside {MIN_SIDE}..{MAX_SIDE} pixels", "Try --size 768x432."
            )
    return width, height


_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_seconds(text: str, what: str = "time") -> float:
    """``7``, ``7.5s``, ``250ms``, ``2m``, ``1:30`` and ``1:02:03.5`` -> seconds.

    Raises:
        UsageProblem: anything else, negative, or longer than 100 days.
    """
    value = text.strip().lower()
    seconds = math.nan
    if match := re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|min|h)?", value):
        seconds = float(match[1]) * _TIME_UNITS[match[2] or "s"]
    elif re.fullmatch(r"\d+(:[0-5]?\d){1,2}(\.\d*)?", value):
        seconds = 0.0
        for part in value.split(":"):
            seconds = seconds * 60.0 + float(part)
    if not 0.0 <= seconds <= MAX_SECONDS:
        raise UsageProblem(
            f"{what} {text!r} is not a time from 0 seconds up", "Give seconds or minutes:seconds, as in 7.5 or 1:30."
        )
    return seconds


def load_config_file(path: str | Path, commands: dict[str, set[str]]) -> dict[str, Any]:
    """Read a TOML file of defaults.

    Keys at the top apply to every command that has the flag; keys in ``[transform]``,
    ``[live]`` and so on are for that command and win over the top.

    Args:
        path: the file.
        commands: the flags (without dashes, ``-`` as ``_``) that each command has.

    Returns:
        command -> {flag: value}.

    Raises:
        UsageProblem: unreadable, not TOML, or a key that no command has.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageProblem(
            f"config file {str(path)!r} cannot be read: {error.strerror or error}",
            "Check the path given to --config or in MIRAGE_CONFIG.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageProblem(
            f"config file {str(path)!r} is not TOML: {error}", 'A line looks like: size = "768x432"'
        ) from error
    known = set().union(*commands.values()) if commands else set()
    result: dict[str, dict[str, Any]] = {name: {} for name in commands}

    def unknown(key: str, allowed: set[str], where: str) -> UsageProblem:
        near = difflib.get_close_matches(key, allowed, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        return UsageProblem(
            f"config file {str(path)!r}: {key!r} is not a flag of {where}",
            f"{hint}Keys are flag names, as in: mirage transform --help",
        )

    for raw_key, value in data.items():
        key = raw_key.replace("-", "_")
        if isinstance(value, dict):
            continue
        if key not in known:
            raise unknown(key, known | set(commands), "any command")
        for name, flags in commands.items():
            if key in flags:
                result[name][key] = value
    for name, value in data.items():
        if not isinstance(value, dict):
            continue
        if name not in commands:
            raise unknown(name, set(commands), "mirage (no such command)")
        for raw_key, item in value.items():
            key = raw_key.replace("-", "_")
            if key not in commands[name]:
                raise unknown(key, commands[name], f"'mirage {name}'")
            result[name][key] = item
    return result
