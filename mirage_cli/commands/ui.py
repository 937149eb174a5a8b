"""What a run shows while it goes, and when it has ended: notes, warnings, the dashboard, the summary."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mirage_cli.commands.terminal import INTERRUPTED, Call, say
from mirage_cli.config import PIPE
from mirage_cli.errors import plain_text

if TYPE_CHECKING:
    from rich.live import Live

    from mirage_cli.measure import Stats, TrainStats


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
        self._live: Live | None = None
        self._next = 0.0
        self.draws, self.draw_seconds = 0, 0.0

    def __enter__(self) -> TerminalUi:
        return self

    def __exit__(self, *_: object) -> None:
        self.take_down()

    def take_down(self) -> None:
        """Erase the dashboard; what is printed from here on stays on the terminal."""
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

    def tick(self, stats: Callable[[], Stats | TrainStats]) -> None:
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
        """What drawing took of a run of ``seconds``: CPU time of the dashboard's thread."""
        share = round(self.draw_seconds / seconds, 5) if seconds else 0.0
        return {"draws": self.draws, "cpu_seconds": round(self.draw_seconds, 4), "share_of_time": share}

    def _screen(self) -> Live:
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


def make_ui(call: Call, values: dict[str, Any]) -> TerminalUi:
    """Take the reporting flags out of a command's values."""
    call.terminal.json = values.pop("as_json")
    verbose = values.pop("verbose")
    if verbose:
        import logging

        logging.basicConfig(
            stream=sys.stderr,
            level=logging.DEBUG if verbose > 1 else logging.INFO,
            format="%(levelname)s %(name)s: %(message)s",
        )
    return TerminalUi(values.pop("quiet"), values.pop("progress"), bool(verbose))


def finish(call: Call, document: dict[str, Any], ui: TerminalUi) -> int:
    """Print what a run did, as a document or in a line; returns the exit code."""
    ui.take_down()
    for warning in document["warnings"]:
        ui.warn(warning)
    if ui.draws:
        document["dashboard"] = ui.cost(document["seconds"])
    if call.terminal.json:
        call.terminal.print_json(document)
    elif not ui.quiet:
        piped = PIPE in (document["output"], *document["more_outputs"])
        (say if piped else call.terminal.print)(summary(document))
    if document["interrupted"]:
        whole = "" if document["output"] is None else ": what was written up to here is whole"
        say(f"interrupted{whole}")
        return INTERRUPTED
    return 0


def summary(document: dict[str, Any]) -> str:
    """One line: what was written, how fast."""
    model = document["latency_ms"].get("model", {})
    size = "x".join(map(str, document["size"]))
    speed = f"{document['frames']} frames of {size} in {document['seconds']:.1f} s"
    speed += f" ({document['fps']:.1f} frames/s"
    if document["dropped"]:
        speed += f", {document['dropped']} dropped"
    speed += ")"
    if model:
        speed += f"; a frame in the model: p50 {model['p50']:.1f} ms, p95 {model['p95']:.1f} ms"
    written = document["output"]
    return f"{f'wrote {plain_text(str(written))}: ' if written else ''}{speed}"
