"""The terminal: results on standard output, all else on standard error.

``cli.main`` makes one ``Call``, or is given one; click hands it to every command as its ``obj``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from mirage_cli.errors import Interrupted, MediaError, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mirage_cli.styling.loading import Models

INTERRUPTED = Interrupted.exit_code


class StdoutLost(MediaError):
    """Standard output takes nothing any more.

    Attributes:
        closed: its reader closed the pipe, which is not an error.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror or error}")
        self.closed = isinstance(error, BrokenPipeError)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StdoutLost(error) from error


class Terminal:
    """What one call of the program prints.

    Attributes:
        json: --json holds, by the flag, MIRAGE_JSON or a file: an error is printed as a document too.
    """

    def __init__(self) -> None:
        self.json = False

    # --- results, on standard output. Raises: StdoutLost. ------------------------------------------

    def print(self, text: str = "") -> None:
        with _writing():
            click.echo(text)

    def print_json(self, document: dict[str, Any]) -> None:
        self.print(json.dumps(document, indent=2, default=str))

    def print_rich(self, renderable: RenderableType) -> None:
        """A table or the like; 100 columns wide where standard output is not a terminal."""
        from rich.console import Console

        with _writing():  # where the reader went away, Rich itself ends the program, with 1
            Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(renderable)

    def flush(self) -> None:
        with _writing():
            sys.stdout.flush()

    # --- errors ------------------------------------------------------------------------------------

    def fail(self, message: str, remedy: str, code: int) -> int:
        """Say what failed and what to do about it; returns the exit code."""
        head, _, rest = message.partition("\n")
        say(f"error: {plain_text(head)}", red=True)
        for line in (*rest.splitlines(), *([remedy] if remedy else [])):
            say(f"  {plain_text(line)}")
        self._print_error(message, remedy, code)
        return code

    def interrupted(self, message: str) -> int:
        """The same for a run that a signal ended."""
        say(message)
        self._print_error(message, "", INTERRUPTED)
        return INTERRUPTED

    def _print_error(self, message: str, remedy: str, code: int) -> None:
        """The document of a command that failed, where one was asked for."""
        if self.json:
            try:
                self.print_json({"error": {"message": message, "remedy": remedy, "exit_code": code}})
            except StdoutLost:
                _abandon_stdout()

    def stdout_lost(self, error: StdoutLost) -> int:
        """Say so, unless the reader went away, as ``head`` does; returns the exit code."""
        _abandon_stdout()
        if error.closed:
            return 1  # as Click and Rich do
        say(f"error: {error.message}", red=True)
        return error.exit_code


def _abandon_stdout() -> None:
    """Let standard output lead nowhere: Python would complain once more when it flushes at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str, red: bool = False, yellow: bool = False) -> None:
    """A line on standard error, coloured only on a terminal that wants colour."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    if colour and (red or yellow):
        text = click.style(text, fg="red" if red else "yellow")
    with contextlib.suppress(OSError):  # a message that cannot be written must not end the work
        click.echo(text, err=True, color=colour or None)


@dataclass
class Call:
    """One call of the program.

    Attributes:
        begun_seconds: when it began, for the time to the first frame.
        models: stands in for the models of transform and live; None loads the real ones.
    """

    terminal: Terminal = field(default_factory=Terminal)
    begun_seconds: float = field(default_factory=time.perf_counter)
    models: Models | None = None


def guard_streams() -> None:
    """Make standard input, output and error safe to use whatever mirage was started with.

    A stream that was closed (``>&-``) is opened on nothing: else the next file or pipe would get its
    number, and what is printed would end up in it. What an encoding does not hold is printed escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
