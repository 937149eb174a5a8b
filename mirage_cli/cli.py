"""The command line: parse, build the config, call, render the result or the error.

Nothing heavy is imported here, so ``mirage --help`` answers at once; each command imports what it
needs when it runs.
"""

from __future__ import annotations

import sys
import time
import traceback

import click

from mirage_cli import __version__
from mirage_cli.commands import options as flags
from mirage_cli.commands.bench import bench
from mirage_cli.commands.evaluate import evaluate
from mirage_cli.commands.listing import devices, doctor, models
from mirage_cli.commands.live import live
from mirage_cli.commands.presets import presets
from mirage_cli.commands.terminal import INTERRUPTED, Asked, fail, guard_streams, lost_stdout, print_error, say
from mirage_cli.commands.train import train
from mirage_cli.commands.transform import transform
from mirage_cli.errors import Interrupted, MediaError, MirageError, UsageProblem


@click.group(context_settings=flags.CONTEXT, invoke_without_command=True)
@click.version_option(__version__, "-V", "--version", prog_name="mirage")
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
        click.echo(context.get_help(), err=True)
        return UsageProblem.exit_code
    return 0


for _command in (transform, live, bench, doctor, devices, models, evaluate, presets, train):
    cli.add_command(_command)


def interrupted(message: str) -> int:
    """Says so, in a document as well where one was asked for; returns the exit code."""
    say(message)
    if Asked.json:
        print_error(message, "", INTERRUPTED)
    return INTERRUPTED


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Every error is rendered here, once."""
    Asked.begun_seconds = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    Asked.json = "--json" in arguments
    guard_streams()
    try:
        code = cli.main(args=arguments, prog_name="mirage", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except MirageError as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, Interrupted):
            return interrupted(error.message)
        return fail(error.message, error.remedy, error.exit_code, Asked.json)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "mirage"
        remedy = f"Try: {path} --help"
        return fail(error.format_message(), remedy, error.exit_code, Asked.json)
    except (KeyboardInterrupt, click.Abort):
        if debug:
            traceback.print_exc()
        return interrupted("interrupted: nothing was written")
    except MemoryError:
        return fail("not enough memory", "Use a smaller --size.", 1, Asked.json)
    except Exception as error:
        if isinstance(error, OSError) and (reason := lost_stdout(error)) is not None:
            if reason:
                say(f"error: standard output cannot be written: {reason}", red=True)
            return MediaError.exit_code
        if debug:
            traceback.print_exc()
        text = (str(error).strip().splitlines() or [""])[0]
        message = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return fail(message, "This is a fault of mirage; --debug shows where.", 1, Asked.json)
