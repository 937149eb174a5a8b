"""The command line: parse, build the config, call, render the result or the error.

Nothing heavy is imported here, so ``mirage --help`` answers at once; each command imports what it
needs when it runs.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import Any

import click

from mirage_cli import __version__, cli_options as flags
from mirage_cli.cli_batch import run_batch
from mirage_cli.cli_control import control_options, preset_option, presets
from mirage_cli.cli_devices import devices
from mirage_cli.cli_eval import evaluate
from mirage_cli.cli_options import OUTPUT, SOURCE, SectionCommand, option
from mirage_cli.cli_terminal import (
    INTERRUPTED,
    Asked,
    fail,
    finish,
    guard_streams,
    lost_stdout,
    make_ui,
    print_error,
    print_json,
    print_rich,
    say,
)
from mirage_cli.cli_train import train
from mirage_cli.config import BenchConfig, LiveConfig, TransformConfig
from mirage_cli.errors import Interrupted, MediaError, MirageError, UsageProblem

_begun_seconds = time.perf_counter()


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


@cli.command(cls=SectionCommand)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@option("-i", "--input", "input_flag", section=SOURCE, envvar="MIRAGE_INPUT", metavar="FILE|URL|-",
        help="The same as INPUT.")  # fmt: skip
@option("--start", "start_seconds", type=flags.SecondsType(), default=0.0, section=SOURCE,
        envvar="MIRAGE_START", metavar="TIME",
        help="Begin here: seconds or m:ss.")  # fmt: skip
@option("--duration", "duration_seconds", type=flags.SecondsType(positive=True), section=SOURCE,
        envvar="MIRAGE_DURATION", metavar="TIME",
        help="Take this much: seconds or m:ss.")  # fmt: skip
@preset_option
@flags.look_options
@flags.blend_option(1.0)
@flags.output_option("Where to write: a file, pictures (out/%05d.png), an address, - for a pipe; several times "
                     "for several. Of several inputs: a folder. Default: INPUT's name with the look in it.")  # fmt: skip
@option("--resume/--no-resume", default=False, section=OUTPUT,
        help="Go on with a job that was killed; skip what is done.")  # fmt: skip
@option("--timeout", "timeout_seconds", type=flags.SecondsType(positive=True), section=SOURCE,
        envvar="MIRAGE_TIMEOUT", metavar="SECONDS",
        help="A source or output that hangs for so long is lost. Default: 120, with a pipe never, "
        "of an output's connection 10.")  # fmt: skip
@flags.reconnect_option
@option("--size", type=flags.SizeType(), section=OUTPUT, metavar="WxH|native",
        help="Pixels of the output, 16 to 8192 a side. Default: the input's own; on a CPU no more "
        "pixels than 768x432.")  # fmt: skip
@option("--fps", type=flags.NumberType(0.01, 1000), section=OUTPUT, metavar="N",
        help="Frames a second of the output. Default: the input's times, kept.")  # fmt: skip
@flags.encode_options
@flags.model_options
@flags.report_options
@flags.config_options
def transform(**values: Any) -> int:
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
        raise UsageProblem(
            f"two inputs are given: {names[0]!r} and {flag!r}", "Give INPUT or --input, not both."
        )
    names = names or ((flag,) if flag else ())
    if not names:
        raise UsageProblem(
            "no input was given", 'Example: mirage transform clip.mp4 --prompt "oil painting"'
        )
    ui = make_ui(values)
    as_json = values.pop("as_json")
    flags.take_outputs(values, as_json)
    model = flags.take_model_options(values)

    from mirage_cli.runs import batch

    inputs = batch.expand(names, lambda: batch.Engine().look_names(model), ui.note)
    config = TransformConfig(input=inputs[0], model=model, **values)
    if len(inputs) > 1 or (tuple(inputs) != names and not os.path.isdir(inputs[0])):
        return run_batch(config, inputs, ui, as_json)
    from mirage_cli.runs import transform as job
    from mirage_cli.styling.stopping import StopSwitch

    with StopSwitch().signals() as stop, ui:
        document = job.run(config, ui, stop=stop, begun_seconds=_begun_seconds)
        return finish(document, ui, as_json)  # a signal that comes now changes nothing


@cli.command(cls=SectionCommand)
@option("--camera", section=SOURCE, metavar="N|NAME|/dev/...",
        help="A camera by number (0 is the first), a part of its name, or its device.")  # fmt: skip
@option("-i", "--input", section=SOURCE, metavar="FILE|URL|screen|test|-",
        help="A file or pictures, played at their own pace; a stream (rtsp, rtmp, srt, udp, http, HLS); "
        "screen or screen:WxH+X+Y; or the built-in moving test picture.")  # fmt: skip
@flags.patience_options
@option("--loop/--no-loop", default=False, section=SOURCE, help="Begin a file again at its end.")
@option("--frames", type=click.IntRange(1), section=SOURCE, metavar="N",
        help="End after N frames.")  # fmt: skip
@option("--duration", "duration_seconds", type=flags.SecondsType(positive=True), section=SOURCE,
        envvar="MIRAGE_DURATION", metavar="TIME",
        help="End after this much time: seconds or m:ss.")  # fmt: skip
@preset_option
@flags.look_options
@flags.blend_option(0.5)
@option("--window/--no-window", default=None, section=OUTPUT,
        help="Show a window. Default: yes, unless -o or --preview is given.")  # fmt: skip
@flags.output_option("Write to a file, a pipe, an address or a virtual camera as well; several times for several.")
@option("--size", type=flags.SizeType(), section=OUTPUT, metavar="WxH|native",
        help="Pixels of the output, 16 to 8192 a side. Default: the input's own; on a CPU no more "
        "pixels than 512x288.")  # fmt: skip
@option("--fps", type=flags.NumberType(0.01, 1000), section=OUTPUT, metavar="N",
        help="Frames a second to ask of the source.")  # fmt: skip
@flags.encode_options
@option("--record/--no-record", default=False, section=OUTPUT,
        help="Record what goes out from the start, into --record-folder.")  # fmt: skip
@flags.pace_options
@control_options
@flags.model_options
@flags.report_options
@flags.config_options
def live(**values: Any) -> int:
    """Turn a camera or stream into another look, live.

    The newest frame wins: what the model has no time for is dropped, so latency never builds up.
    While it runs, type a prompt and Enter to change the look, or /strength 0.5, /pause, /record,
    /snapshot, /seed 7, /blend ink-wash=0.7 night=0.3, /preset NAME, /model NAME, /reset, /save FILE;
    q and Enter quits. --preview 8765 gives the same in a browser.

    \b
    mirage live --camera 0 -p "van gogh starry night"
    mirage live --input test -p "ink wash" --no-window
    mirage live --input clip.mp4 --loop -p mosaic
    mirage live --input rtsp://host/stream -p night -o out.mkv --duration 60
    """
    ui = make_ui(values)
    as_json = values.pop("as_json")
    if values["window"] is None:
        values["window"] = not values["output"] and values["preview"] is None
    flags.take_outputs(values, as_json)
    source = click.get_current_context().get_parameter_source
    from_line = click.core.ParameterSource.COMMANDLINE
    if values["camera"] is not None and values["input"] is not None:  # the flag wins over the rest
        if source("camera") is from_line and source("input") is not from_line:
            values["input"] = None
        elif source("input") is from_line and source("camera") is not from_line:
            values["camera"] = None
    model = flags.take_model_options(values)
    config = LiveConfig(model=model, **values)

    from mirage_cli.runs import live as job
    from mirage_cli.styling.stopping import StopSwitch

    with StopSwitch().signals() as stop, ui:
        document = job.run(config, ui, stop=stop, begun_seconds=_begun_seconds)
        return finish(document, ui, as_json)  # a signal that comes now changes nothing


@cli.command(cls=SectionCommand)
@option("-i", "--input", section=SOURCE, metavar="FILE",
        help="Measure on this file. Default: the example clip in a clone, else the moving test picture.")  # fmt: skip
@option("-p", "--prompt", default="van gogh starry night", show_default=True, section=flags.LOOK,
        metavar="TEXT", envvar=None, help="The look to run.")  # fmt: skip
@option("--size", type=flags.SizeType(), section=OUTPUT, metavar="WxH",
        help="Default: 512x288 on a CPU, 512x512 on a GPU.")  # fmt: skip
@option("--frames", type=click.IntRange(1), metavar="N",
        help="Frames to measure. Default: 100; for --ladder and --race 2000 on a GPU, 20 on a CPU.")  # fmt: skip
@option("--warmup", type=click.IntRange(0), default=10, show_default=True, metavar="N",
        help="Frames before those.")  # fmt: skip
@option("--live/--no-live", default=False,
        help="Measure latency from input to output at the source's pace, by a marker in the picture.")  # fmt: skip
@option("--fps", type=flags.NumberType(0.01, 1000), default=30.0, show_default=True,
        metavar="N", help="With --live: frames a second of the test picture.")  # fmt: skip
@option("--through", type=click.Choice(("sink", "h264")), default="sink", show_default=True,
        help="With --live: read the marker where outputs get the frame, or behind an H.264 encoder and decoder.")  # fmt: skip
@option("--inject-ms", type=flags.NumberType(0, 10000), default=0.0, metavar="MS",
        help="With --live: a delay put in on purpose, to see that it is measured.")  # fmt: skip
@option("--against-fp32/--no-against-fp32", default=False,
        help="Measure a few frames in fp32 on plain torch as well, for the ratio.")  # fmt: skip
@option("--ladder/--no-ladder", default=False,
        help="Device frames with the optimisations switched on one by one.")  # fmt: skip
@option("--race/--no-race", default=False,
        help="Device frames beside torch and torch.compile, in turns. Compiling takes minutes.")  # fmt: skip
@option("--paced/--no-paced", default=False, help="Latency at 30 and 60 frames a second, and of the host frame.")
@option("--floor/--no-floor", default=False,
        help="The least time this machine could take, and each kernel's.")  # fmt: skip
@option("--report", metavar="FILE", help="Write a readable report with a plot as well: .md or .html.")
@flags.model_options
@flags.report_options
@flags.config_options
def bench(**values: Any) -> int:
    """Measure speed, latency and memory on this machine.

    \b
    mirage bench
    mirage bench --size 768x432 --frames 200 --json > bench.json
    mirage bench --live
    mirage bench --ladder --race --floor --report bench.html
    """
    ui = make_ui(values)
    as_json = values.pop("as_json")
    if values["size"] == "native":
        raise UsageProblem("bench needs a size in pixels, not native", "Try --size 512x288.")
    against_fp32 = values.pop("against_fp32")
    model = flags.take_model_options(values)
    config = BenchConfig(model=model, **values)
    _check_bench(config, against_fp32)

    if config.live:
        from mirage_cli.bench import live as bench_live

        ui.note(f"measuring {config.frames or 100} frames after {config.warmup} of warm-up")
        document = bench_live.run(config)
    else:
        from mirage_cli.bench import stages as job

        ui.note(job.intention(config))
        document = job.run(config, against_fp32=against_fp32, begun_seconds=_begun_seconds)
    if as_json:
        print_json(document)
    else:
        from mirage_cli.dashboard import data_tables

        print_rich(data_tables(document))
    return 0


def _check_bench(config: BenchConfig, against_fp32: bool) -> None:
    """Refuse what one run of ``mirage bench`` cannot measure together, rather than leave it out without a word."""
    sections = [f"--{name}" for name in ("ladder", "race", "paced", "floor") if getattr(config, name)]
    fp32 = ["--against-fp32"] if against_fp32 else []
    given = (["--input"] if config.input else []) + fp32
    if config.live and (others := sections + fp32 + (["--report"] if config.report else [])):
        raise UsageProblem(f"--live with {others[0]}; allowed: one of them", "--json prints all that --live measures.")
    if sections and given:
        raise UsageProblem(f"{sections[0]} with {given[0]}; allowed: one of them", f"{sections[0]} measures a moving test picture.")


@cli.command(cls=SectionCommand)
@option("--json/--no-json", "as_json", default=False, envvar="MIRAGE_JSON",
        help="Print one JSON document.")  # fmt: skip
@flags.config_options
def doctor(as_json: bool) -> int:
    """Check this machine; each finding comes with its fix.

    Looks at Python, torch, GPU, ffmpeg, cameras and models. Ends with 1 when the main job cannot run on this machine.
    """
    from mirage_cli.runs import doctor as job

    findings = job.run()
    failed = [finding["name"] for finding in findings if finding["status"] == "fail"]
    if as_json:
        print_json({"command": "doctor", "ok": not failed, "findings": findings})
    else:
        from mirage_cli.dashboard import doctor_table

        print_rich(doctor_table(findings))
        if failed:
            say(f"\nmirage cannot run here: {', '.join(failed)}", red=True)
        else:
            click.echo("\nmirage transform can run here.")
    return job.exit_code(findings)


cli.add_command(devices)
cli.add_command(evaluate)
cli.add_command(presets)
cli.add_command(train)


@cli.command(cls=SectionCommand)
@option("--json/--no-json", "as_json", default=False, envvar="MIRAGE_JSON",
        help="Print one JSON document.")  # fmt: skip
@flags.config_options
def models(as_json: bool) -> int:
    """List models, their looks and prompts for each."""
    from mirage_cli.models.catalog import describe_models

    entries = describe_models()
    if as_json:
        print_json({"command": "models", "models": entries})
    else:
        from mirage_cli.dashboard import models_table

        print_rich(models_table(entries))
    return 0


def interrupted(message: str) -> int:
    """Says so, in a document as well where one was asked for; returns the exit code."""
    say(message)
    if Asked.json:
        print_error(message, "", INTERRUPTED)
    return INTERRUPTED


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Every error is rendered here, once."""
    global _begun_seconds
    _begun_seconds = time.perf_counter()
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
    except Exception as error:  # noqa: BLE001  the last resort: a fault of mirage itself
        if isinstance(error, OSError) and (reason := lost_stdout(error)) is not None:
            if reason:
                say(f"error: standard output cannot be written: {reason}", red=True)
            return MediaError.exit_code
        if debug:
            traceback.print_exc()
        text = (str(error).strip().splitlines() or [""])[0]
        message = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return fail(message, "This is a fault of mirage; --debug shows where.", 1, Asked.json)
