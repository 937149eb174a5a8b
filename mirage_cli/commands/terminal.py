"""The terminal: notes, warnings and the dashboard on stderr, results on stdout, errors once."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

import click

from mirage_cli.config import PIPE
from mirage_cli.errors import Interrupted, UsageProblem, plain_text

INTERRUPTED = Interrupted.exit_code


class TerminalUi:
    """Notes, warnings and the dashboard on standard error.

    On a terminal the dashboard is drawn six times a second (1.3 ms each); elsewhere, and among the
    logs of ``-v``, a plain line comes every five seconds; with ``-q`` nothing.
    """

    DRAW_SECONDS = 1 / 6
    LINE_SECONDS = 5.0

    def __init__(self, quiet: bool, progress: bool, logs: bool) -> None:
        self.quiet, self.progress = quiet, progress and not quiet
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not logs
        self._live: Any = None
        self._next = 0.0
        self.draws, self.draw_seconds = 0, 0.0

    def __enter__(self) -> TerminalUi:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        if not self.quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        if not self.quiet:
            self._line(f"warning: {text}", "yellow")

    def _line(self, text: str, style: str = "") -> None:
        text = plain_text(text)
        if self._live is not None:
            self._live.console.print(text, style=style, markup=False, highlight=False)
        else:
            say(text, yellow=style == "yellow")

    def tick(self, stats: Any) -> None:
        now = time.monotonic()
        if not self.progress or now < self._next:
            return
        if self.terminal:
            from mirage_cli.commands.dashboard import render

            self._next = now + self.DRAW_SECONDS
            begin = time.thread_time()
            self._screen().update(render(stats()), refresh=True)
            self.draws, self.draw_seconds = self.draws + 1, self.draw_seconds + time.thread_time() - begin
        else:
            if self._next:
                from mirage_cli.commands.dashboard import plain_line

                say(plain_line(stats()))
            self._next = now + self.LINE_SECONDS

    def cost(self, seconds: float) -> dict[str, Any]:
        """What drawing took of a run of so many seconds: CPU time of the dashboard's thread."""
        share = round(self.draw_seconds / seconds, 5) if seconds else 0.0
        return {"draws": self.draws, "cpu_seconds": round(self.draw_seconds, 4), "share_of_time": share}

    def _screen(self) -> Any:
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False)
            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        return self._live

    def confirm_overwrite(self, path: str) -> bool:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        return click.confirm(f"{plain_text(path)} exists. Replace it?", default=False, err=True)


class Asked:
    """What of the command in hand must be known where errors are told, wherever it was asked for."""

    json = False
    begun_seconds = time.perf_counter()
    """When the program began, for the time to the first frame."""


def make_ui(values: dict[str, Any]) -> TerminalUi:
    """Take the reporting flags out of a command's values; ``as_json`` stays."""
    Asked.json = values["as_json"]
    verbose = values.pop("verbose")
    if verbose:
        import logging

        logging.basicConfig(
            stream=sys.stderr,
            level=logging.DEBUG if verbose > 1 else logging.INFO,
            format="%(levelname)s %(name)s: %(message)s",
        )
    return TerminalUi(values.pop("quiet"), values.pop("progress"), bool(verbose))


def check_stdout(output: str | None, as_json: bool) -> None:
    if output != PIPE:
        return
    if as_json:
        raise UsageProblem(
            "--json and a video on standard output do not go together", "Write the video to a file: -o out.mp4"
        )
    if sys.stdout.isatty():
        raise UsageProblem(
            "a video on standard output would fill the terminal",
            "Pipe it on (| ffplay -), or write to a file: -o out.mp4",
        )


def finish(document: dict[str, Any], ui: TerminalUi, as_json: bool) -> int:
    for warning in document["warnings"]:
        ui.warn(warning)
    if ui.draws:
        document["dashboard"] = ui.cost(document["seconds"])
    if as_json:
        print_json(document)
    elif not ui.quiet:
        click.echo(summary(document), err=PIPE in (document["output"], *document["more_outputs"]))
    if document["interrupted"]:
        whole = "" if document["output"] is None else ": what was written up to here is whole"
        say(f"interrupted{whole}")
        return INTERRUPTED
    return 0


def summary(document: dict[str, Any]) -> str:
    model = document["latency_ms"].get("model", {})
    size = "x".join(map(str, document["size"]))
    speed = f"{document['frames']} frames of {size} in {document['seconds']:.1f} s"
    speed += f" ({document['fps']:.1f} frames/s"
    if document["dropped"]:
        speed += f", {document['dropped']} dropped"
    speed += ")"
    if model:
        speed += f"; a frame in the model: p50 {model['p50']:.1f} ms, p95 {model['p95']:.1f} ms"
    from mirage_cli.outputs.names import without_secrets

    written = document["output"] and without_secrets(document["output"])
    return f"{f'wrote {plain_text(str(written))}: ' if written else ''}{speed}"


def print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, default=str))


def print_rich(renderable: Any) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 100
    Console(highlight=False, width=width).print(renderable)


def guard_streams() -> None:
    """Make standard input, output and error safe to use whatever mirage was started with.

    A stream that was closed (``>&-``) is opened on nothing: else the next file or pipe would get its
    number, and be written to by whoever prints. What an encoding does not hold is printed escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def lost_stdout(error: OSError) -> str | None:
    """Why standard output takes nothing any more; None where ``error`` has another cause.

    "" where its reader went away, which needs no word. From here on standard output leads nowhere:
    Python would complain once more when it flushes at its end.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    writer = place.tb_frame.f_globals.get("__name__", "") if place is not None else ""
    # What is printed on standard error is let go in ``say``, so that these printed a result.
    printed = writer.partition(".")[0] in ("click", "rich") or writer == "mirage_cli.cli"
    if not (printed or isinstance(error, BrokenPipeError)):
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return "" if isinstance(error, BrokenPipeError) else (error.strerror or str(error))


def say(text: str, red: bool = False, yellow: bool = False) -> None:
    """A line on standard error, coloured only on a terminal that wants colour."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    if colour and (red or yellow):
        text = click.style(text, fg="red" if red else "yellow")
    with contextlib.suppress(OSError):  # nobody reads it: no reason to spoil the work
        click.echo(text, err=True, color=colour or None)


def fail(message: str, remedy: str, code: int, as_json: bool) -> int:
    head, _, rest = message.partition("\n")
    say(f"error: {plain_text(head)}", red=True)
    for line in rest.splitlines():
        say(f"  {plain_text(line)}")
    if remedy:
        say(f"  {plain_text(remedy)}")
    if as_json:
        print_error(message, remedy, code)
    return code


def print_error(message: str, remedy: str, code: int) -> None:
    """The document of a command that failed."""
    try:
        print_json({"error": {"message": message, "remedy": remedy, "exit_code": code}})
    except OSError as error:
        lost_stdout(error)
