"""``mirage transform``: one input, or many."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.commands import options as flags
from mirage_cli.commands.options import OUTPUT, SOURCE, SectionCommand, option
from mirage_cli.commands.parameters import NumberType, SecondsType, SizeType
from mirage_cli.commands.presets import preset_option
from mirage_cli.commands.terminal import Call, Terminal, say
from mirage_cli.commands.ui import TerminalUi, finish, make_ui
from mirage_cli.config import TransformConfig
from mirage_cli.errors import UsageProblem


def run_batch(call: Call, config: TransformConfig, inputs: list[str], ui: TerminalUi) -> int:
    """Do them all and print the report; the exit code is ``batch.exit_code``'s."""
    from mirage_cli.runs import batch
    from mirage_cli.styling.stopping import StopSwitch

    with StopSwitch().signals() as stop, ui:
        report = batch.run(config, inputs, ui, models=call.models, stop=stop)
    if call.terminal.json:
        call.terminal.print_json(report)
    elif not ui.quiet:
        _print(call.terminal, report, batch.rows(report))
    if report["interrupted"]:
        say("interrupted: what is done is whole")
    return batch.exit_code(report)


def _print(terminal: Terminal, report: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from mirage_cli.commands.tables import rows_table

    terminal.print_rich(rows_table(rows))
    parts = [f"{report[state]} {state}" for state in ("done", "failed", "skipped", "left") if report[state]]
    terminal.print(f"{', '.join(parts)} in {report['seconds']:.1f} s")


@click.command(cls=SectionCommand)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@option(
    "-i",
    "--input",
    "input_flag",
    section=SOURCE,
    envvar="MIRAGE_INPUT",
    metavar="FILE|URL|-",
    help="The same as INPUT.",
)
@option(
    "--start",
    "start_seconds",
    type=SecondsType(),
    default=0.0,
    section=SOURCE,
    envvar="MIRAGE_START",
    metavar="TIME",
    help="Begin here: seconds or m:ss.",
)
@option(
    "--duration",
    "duration_seconds",
    type=SecondsType(positive=True),
    section=SOURCE,
    envvar="MIRAGE_DURATION",
    metavar="TIME",
    help="Take this much: seconds or m:ss.",
)
@preset_option
@flags.look_options
@flags.blend_option(1.0)
@flags.output_option(
    "Where to write: a file, pictures (out/%05d.png), an address, - for a pipe; several times "
    "for several. Of several inputs: a folder. Default: INPUT's name with the look in it."
)
@option(
    "--resume/--no-resume", default=False, section=OUTPUT, help="Go on with a job that was killed; skip what is done."
)
@option(
    "--timeout",
    "timeout_seconds",
    type=SecondsType(positive=True),
    section=SOURCE,
    envvar="MIRAGE_TIMEOUT",
    metavar="SECONDS",
    help="A source or output that hangs for longer than this is lost. Default: 120, with a pipe never, "
    "of an output's connection 10.",
)
@flags.reconnect_option
@option(
    "--size",
    type=SizeType(),
    section=OUTPUT,
    metavar="WxH|native",
    help="Pixels of the output, 16 to 8192 a side. Default: the input's own; on a CPU no more pixels than 768x432.",
)
@option(
    "--fps",
    type=NumberType(0.01, 1000),
    section=OUTPUT,
    metavar="N",
    help="Frames a second of the output. Default: the input's times, kept.",
)
@flags.encode_options
@flags.model_options
@flags.report_options
@flags.config_options
@click.pass_obj
def transform(call: Call, **values: Any) -> int:
    """Turn the video INPUT into another look.

    INPUT is any file or URL that ffmpeg reads, - for a pipe, or pictures (a folder, 'shots/*.png',
    shots/%04d.png). Sound is copied; frame times, aspect and rotation are kept; no frame is dropped.
    Several files, a folder of videos or a glob are done one after the other.

    \b
    mirage transform clip.mp4 -p "oil painting"
    mirage transform clip.mp4 -p "ink wash" -o out.mp4 --start 1:30 --duration 10
    mirage transform clip.mp4 -p "0:ink wash" -p "5s:neon cyberpunk" --compare
    mirage transform films/ -p "0.5*watercolour + 0.5*night" -o styled/ --resume
    cat clip.mp4 | mirage transform - -p mosaic -o - | ffplay -
    """
    names, flag = values.pop("inputs"), values.pop("input_flag")
    # The argument is the nearer one: a MIRAGE_INPUT or a config file must not forbid it.
    given = click.get_current_context().get_parameter_source("input_flag")
    typed = given is click.core.ParameterSource.COMMANDLINE
    if names and flag and typed and names != (flag,):
        raise UsageProblem(f"two inputs are given: {names[0]!r} and {flag!r}", "Give INPUT or --input, not both.")
    names = names or ((flag,) if flag else ())
    if not names:
        raise UsageProblem("no input was given", 'Example: mirage transform clip.mp4 --prompt "oil painting"')
    ui = make_ui(call, values)
    flags.take_outputs(values, call.terminal.json)
    model = flags.take_model_options(values)

    from mirage_cli.runs import batch
    from mirage_cli.styling.loading import Models

    inputs = batch.expand(names, lambda: (call.models or Models()).look_names(model), ui.note)
    config = TransformConfig(input=inputs[0], model=model, **values)
    if batch.is_batch(inputs, names):
        return run_batch(call, config, inputs, ui)
    from mirage_cli.runs import transform as job
    from mirage_cli.styling.stopping import StopSwitch

    with StopSwitch().signals() as stop, ui:
        document = job.run(config, ui, models=call.models, stop=stop, begun_seconds=call.begun_seconds)
        return finish(call, document, ui)  # a signal that comes now changes nothing
