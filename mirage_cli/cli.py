"""The command line: parse, build the config, call, render the result or the error.

Nothing heavy is imported here, so ``mirage --help`` answers at once; each command imports what it
needs when it runs.
"""

from __future__ import annotations

import sys
import traceback

import click

from mirage_cli import __version__
from mirage_cli.commands import options as flags
from mirage_cli.commands.bench import bench
from mirage_cli.commands.evaluate import evaluate
from mirage_cli.commands.listing import devices, doctor, models
from mirage_cli.commands.live import live
from mirage_cli.commands.presets import presets
from mirage_cli.commands.terminal import Call, StdoutLost, Terminal, guard_streams, say
from mirage_cli.commands.train import train
from mirage_cli.commands.transform import transform
from mirage_cli.errors import Interrupted, MirageError, UsageProblem, first_line


class Program(flags.TerminalHelp, click.Group):
    """The whole of ``mirage``."""


def _show_version(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.ensure_object(Call).terminal.print(f"mirage, version {__version__}")
        context.exit()


@click.group(cls=Program, context_settings=flags.CONTEXT, invoke_without_command=True)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(context: click.Context) -> int:
    """Turn a video, a camera or a stream into another look, prompted by text, live.

    \b
    mirage transform clip.mp4 --prompt "van gogh starry night"
    mirage live --camera 0 --prompt "japanese woodblock print"
    mirage models

    Exit codes: 0 done, 1 failure, 2 usage, 3 input or output, 4 model, 5 GPU, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        say(context.get_help())
        return UsageProblem.exit_code
    return 0


for _command in (transform, live, bench, doctor, devices, models, evaluate, presets, train):
    cli.add_command(_command)


def main(arguments: list[str] | None = None, call: Call | None = None) -> int:
    """Run the command line; returns the exit code. Every error is rendered here, once.

    Args:
        arguments: without the program's name; None takes the process's own.
        call: holds what stands in for the models, as in tests; None makes one that loads the real ones.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    call = call or Call()
    terminal = call.terminal
    terminal.json = "--json" in arguments
    guard_streams()
    try:
        code = cli.main(args=arguments, prog_name="mirage", standalone_mode=False, obj=call)
        terminal.flush()
        return int(code or 0)
    except StdoutLost as error:
        return terminal.stdout_lost(error)
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments and not isinstance(error, click.ClickException):
            traceback.print_exc()
        return _render(error, terminal)


def _render(error: Exception | KeyboardInterrupt, terminal: Terminal) -> int:
    """Say what ended a command; returns the exit code."""
    match error:
        case Interrupted():
            return terminal.interrupted(error.message)
        case MirageError():
            return terminal.fail(error.message, error.remedy, error.exit_code)
        case click.ClickException():
            context = error.ctx if isinstance(error, click.UsageError) else None
            path = context.command_path if context is not None else "mirage"
            return terminal.fail(error.format_message(), f"Try: {path} --help", error.exit_code)
        case KeyboardInterrupt() | click.Abort():
            return terminal.interrupted("interrupted: nothing was written")
        case MemoryError():
            return terminal.fail("not enough memory", "Use a smaller --size.", 1)
    kind = type(error).__name__
    message = f"{kind}: {first_line(error)}" if str(error).strip() else kind
    return terminal.fail(message, "This is a fault of mirage; --debug shows where.", 1)
