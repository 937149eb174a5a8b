"""Finds ffmpeg, runs it, and asks it what a file holds.

The ffmpeg that comes with imageio-ffmpeg does not include ffprobe, so probing reads what
``ffmpeg -i`` prints and, for exact times, the packet list that ``-f framecrc`` prints.
Every child process runs in a separate session: the terminal's Ctrl-C reaches mirage alone, which then
finishes the file. Commands are argument lists; no shell is involved.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any

from mirage_cli.errors import MediaError

MIN_VERSION = (5, 1)  # -fps_mode appeared in 5.1
PROBE_TIMEOUT_S = 60.0
SLICE_S = 0.2  # of a wait that checks for progress
PIPE_BYTES = 1 << 20  # Linux's limit for users; a whole small frame fits, which halves the wake-ups
INSTALL_REMEDY = "pip install imageio-ffmpeg, or install ffmpeg 5.1 or newer and name it in MIRAGE_FFMPEG"

# Lines with which ffmpeg only repeats that something else failed.
_ECHOES = re.compile(
    r"Conversion failed|Error opening (input|output) files?\b|Task finished with error"
    r"|Terminating thread|Exiting normally|Error while filtering|Nothing was written into output"
    r"|Last message repeated|Error closing file|Error writing trailer|Error muxing a packet"
    r"|Output file is empty|Failed to update header with correct|Failed to inject frame"
    r"|At least one output file must be specified"
)
_TAG = re.compile(r"^(?:\[[^\]]*? @ [^\]]*\] |\[(?:\w+#[^\]]*)\] )*")
_LEVEL = re.compile(r"\[(panic|fatal|error|warning|info|verbose|debug)\] ")


@dataclass(frozen=True, slots=True)
class FfmpegTool:
    """An ffmpeg program that runs.

    Attributes:
        path: the program.
        version: as it names itself, e.g. "7.0.2".
        origin: "imageio-ffmpeg", "system" or "MIRAGE_FFMPEG".
    """

    path: str
    version: str
    origin: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers; empty for builds that carry no release number."""
        return parse_release(self.version)


def parse_release(version: str) -> tuple[int, ...]:
    """Turns "n7.1-3-gabc" into (7, 1); snapshots such as "N-112233-gabc" give ()."""
    match = re.match(r"n?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def find_ffmpeg() -> FfmpegTool:
    """Finds the ffmpeg to use.

    The one named in the environment variable MIRAGE_FFMPEG; else the newer of imageio-ffmpeg's
    own and the one on PATH.

    Raises:
        MediaError: there is none, or the one named does not run or is older than 5.1.
    """
    return _find_ffmpeg(os.environ.get("MIRAGE_FFMPEG", ""), os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _find_ffmpeg(named: str, _search_path: str) -> FfmpegTool:
    if named:
        path = shutil.which(named)
        version = _version_of(path) if path else None
        if path is None or version is None:
            raise MediaError(
                f"MIRAGE_FFMPEG names {named!r}, which is not an ffmpeg that runs",
                "unset MIRAGE_FFMPEG, or set it to the path of an ffmpeg program",
            )
        tool = FfmpegTool(path, version, "MIRAGE_FFMPEG")
        if tool.release and tool.release < MIN_VERSION:
            raise MediaError(
                f"MIRAGE_FFMPEG names ffmpeg {version}; 5.1 or newer is needed",
                "unset MIRAGE_FFMPEG to use the ffmpeg that comes with the install",
            )
        return tool
    found = []
    for path, origin in ((_bundled_path(), "imageio-ffmpeg"), (shutil.which("ffmpeg"), "system")):
        version = _version_of(path) if path else None
        if path and version:
            tool = FfmpegTool(path, version, origin)
            if tool.release >= MIN_VERSION:
                found.append(tool)
    if not found:
        raise MediaError("no ffmpeg found (5.1 or newer is needed)", INSTALL_REMEDY)
    return max(found, key=lambda tool: tool.release)  # the first of equals: the bundled one


def _bundled_path() -> str | None:
    try:
        import imageio_ffmpeg

        path = imageio_ffmpeg.get_ffmpeg_exe()
        # Without a binary of its own for this platform it names the one on PATH, found later.
        own = os.path.dirname(os.path.abspath(imageio_ffmpeg.__file__))
        return path if os.path.abspath(path).startswith(own) else None
    except (ImportError, RuntimeError, OSError):
        return None


def _version_of(path: str) -> str | None:
    try:
        done = subprocess.run(
            [path, "-hide_banner", "-version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(rb"ffmpeg version (\S+)", done.stdout)
    return match.group(1).decode("utf-8", "replace") if match else None


@functools.lru_cache(maxsize=4)
def encoder_names(tool: FfmpegTool) -> frozenset[str]:
    """Names of the video encoders built into this ffmpeg."""
    text = run_ffmpeg(tool, ["-encoders"]).stdout.decode("utf-8", "replace")
    return frozenset(re.findall(r"^ V\S{5} (\S+)", text, re.MULTILINE))


@functools.lru_cache(maxsize=4)
def filter_names(tool: FfmpegTool) -> frozenset[str]:
    """Names of the filters built into this ffmpeg."""
    text = run_ffmpeg(tool, ["-filters"]).stdout.decode("utf-8", "replace")
    return frozenset(re.findall(r"^ [A-Z.]{2,3} (\S+) ", text, re.MULTILINE))


def _child_options() -> dict[str, Any]:
    environment = dict(os.environ, AV_LOG_FORCE_NOCOLOR="1")
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP, "env": environment}
    return {"start_new_session": True, "env": environment}


def run_ffmpeg(
    tool: FfmpegTool, arguments: list[str], *, feed: bytes | None = None, timeout_s: float | None = PROBE_TIMEOUT_S
) -> subprocess.CompletedProcess[bytes]:
    """Runs ffmpeg to its end and gives what it printed; does not raise for its exit status.

    Raises:
        MediaError: it did not start, or did not end within ``timeout_s``.
    """
    command = [tool.path, "-hide_banner", *([] if feed is not None else ["-nostdin"]), *arguments]
    source: dict[str, Any] = {"input": feed} if feed is not None else {"stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=False, **source, **_child_options()
        )
    except subprocess.TimeoutExpired:
        raise MediaError(
            f"ffmpeg gave no answer within {timeout_s:g} s", "check that the input can be reached"
        ) from None
    except OSError as problem:
        raise MediaError(f"ffmpeg did not start: {problem}", INSTALL_REMEDY) from None


def pick_message(lines: list[str]) -> str:
    """The last of ffmpeg's lines that does not only repeat that something else failed, without tags."""
    cleaned = [_LEVEL.sub("", _TAG.sub("", line)).strip() for line in lines]
    cleaned = [_TAG.sub("", line) for line in cleaned if line]
    telling = [line for line in cleaned if not _ECHOES.search(line)]
    return (telling or cleaned or ["no message"])[-1]


class StillRunning(Exception):
    """A process has not ended in the time that it was given."""


class FfmpegProcess:
    """A running ffmpeg whose stderr is always drained, so that it never blocks on it.

    Args:
        tool: which ffmpeg.
        arguments: everything after the program's name.
        feed: it is written to by ``stdin``; else it reads no standard input.
        read: it is read from by ``stdout``.
        stdout: the descriptor it writes to instead; None is ours.
        kept_lines: of what it writes on stderr; the last ones.

    Attributes:
        error_count: lines at level error or worse seen so far.
        first_error: the first of them, cleaned; "" while there is none.
    """

    KEPT_LINES = 60

    def __init__(
        self,
        tool: FfmpegTool,
        arguments: list[str],
        *,
        feed: bool = False,
        read: bool = False,
        stdout: int | None = None,
        level: str = "warning",
        kept_lines: int = KEPT_LINES,
    ) -> None:
        self.error_count = 0
        self.first_error = ""
        self._lines: deque[str] = deque(maxlen=kept_lines)
        command = [tool.path, "-hide_banner", "-nostats", "-loglevel", f"level+{level}"]
        if not feed:
            command.append("-nostdin")
        command += arguments
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE if read else stdout,
                stderr=subprocess.PIPE,
                bufsize=0,
                **_child_options(),
            )
        except OSError as problem:
            raise MediaError(f"ffmpeg did not start: {problem}", INSTALL_REMEDY) from None
        try:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    _widen(pipe.fileno())
            self._drain = threading.Thread(target=self._read_stderr, name="ffmpeg-log", daemon=True)
            self._drain.start()
        except BaseException:  # Ctrl-C: nobody would end it, and it may hold a port
            self._process.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for the end and for the last log line; gives the exit status.

        Raises:
            StillRunning: it has not ended in time.
        """
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise StillRunning from None
        self._drain.join(5.0)
        return status

    def stop(self, *, grace_s: float = 0.0) -> int:
        """Ends the process (asking first where ``grace_s`` > 0) and reaps it. Idempotent."""
        if grace_s > 0 and self.running:
            self._process.terminate()
            try:
                return self.wait(grace_s)
            except StillRunning:
                pass
        if self.running:
            self._process.kill()
        return self.wait()

    def wait_while_writing(self, idle_s: float) -> int:
        """Its exit status, waited for as long as it writes.

        Raises:
            StillRunning: it has written nothing for ``idle_s``.
        """
        idle, written = 0.0, self.written_bytes()
        while True:
            try:
                return self.wait(SLICE_S)
            except StillRunning:
                before, written = written, self.written_bytes()
                idle = idle + SLICE_S if written == before else 0.0
                if idle >= idle_s:
                    raise

    def written_bytes(self) -> int:
        """Bytes that it has written anywhere so far; 0 where the system does not count them."""
        try:
            with open(f"/proc/{self.pid}/io", encoding="ascii") as file:
                counted = re.search(r"wchar: (\d+)", file.read())
        except OSError:
            return 0
        return int(counted[1]) if counted else 0

    def forget_errors(self) -> None:
        """Starts counting from zero again, e.g. after a seek into the middle of a stream."""
        self.error_count, self.first_error = 0, ""

    def failure(self) -> str:
        """Why it ended badly, in one line: its last telling message, or the signal."""
        status = self._process.poll()
        lines = list(self._lines)
        message = pick_message([line for line in lines if "[info] " not in line] or lines)
        if status is not None and status < 0:
            try:
                name = signal.Signals(-status).name
            except ValueError:
                name = str(-status)
            killed = f"ffmpeg was ended by signal {name}"
            return killed if message == "no message" else f"{killed} ({message})"
        return message

    def messages(self) -> list[str]:
        """The last lines that ffmpeg wrote, for --debug."""
        return list(self._lines)

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            pending = b""
            while chunk := pipe.read(8192):
                *complete, pending = re.split(rb"[\r\n]+", pending + chunk)
                for raw in complete:
                    self._take_line(raw.decode("utf-8", "replace"))
                pending = pending[-8192:]
            self._take_line(pending.decode("utf-8", "replace"))

    def _take_line(self, line: str) -> None:
        if not line.strip():
            return
        level = _LEVEL.search(line)
        if level and level.group(1) in ("panic", "fatal", "error"):
            self.error_count += 1
            if not self.first_error:
                self.first_error = pick_message([line])
        self._lines.append(line)


def _widen(descriptor: int) -> None:
    try:
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass  # a narrow pipe is slower, not wrong


NTSC_RATES = tuple(Fraction(base * 1000, 1001) for base in (12, 15, 24, 30, 48, 60, 120, 240))


def rational_rate(fps: float | Fraction) -> Fraction:
    """The exact rate behind a printed one: 29.97 -> 30000/1001, 23.98 -> 24000/1001."""
    if isinstance(fps, Fraction) and fps.denominator <= 1001:
        return fps
    value = float(fps)
    for rate in (*NTSC_RATES, Fraction(round(value))):
        if rate > 0 and abs(float(rate) - value) < 0.006:
            return rate
    return Fraction(value).limit_denominator(1001)
