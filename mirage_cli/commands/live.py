"""``mirage live``."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.commands import options as flags
from mirage_cli.commands.options import CONTROL, OUTPUT, SOURCE, SectionCommand, option, stack
from mirage_cli.commands.parameters import NumberType, SecondsType, SizeType
from mirage_cli.commands.presets import preset_option
from mirage_cli.commands.terminal import Call
from mirage_cli.commands.ui import finish, make_ui
from mirage_cli.config import LiveConfig

control_options = stack(
    option(
        "--control",
        section=CONTROL,
        metavar="[HOST:]PORT",
        help="Listen for changes: HTTP and WebSocket with JSON, and /metrics. Only this machine can "
        "reach it unless HOST says otherwise. Needs the extra: pip install 'mirage-cli[control]'",
    ),
    option(
        "--preview",
        section=CONTROL,
        metavar="[HOST:]PORT",
        help="The same, and a page that shows the stream and steers it in a browser.",
    ),
    option(
        "--osc", section=CONTROL, metavar="[HOST:]PORT", help="Listen for changes by OSC (UDP): /mirage/strength 0.5"
    ),
    option(
        "--control-token",
        section=CONTROL,
        metavar="TOKEN",
        help="What clients must know; needed where other machines can reach a port. Better given as "
        "MIRAGE_CONTROL_TOKEN, since a command line can be read by others.",
    ),
    option(
        "--record-folder",
        default=".",
        show_default=True,
        section=CONTROL,
        metavar="DIR",
        help="Where recordings and snapshots that are asked for while it runs go.",
    ),
)


@click.command(cls=SectionCommand)
@option(
    "--camera",
    section=SOURCE,
    metavar="N|NAME|/dev/...",
    help="A camera by number (0 is the first), a part of its name, or its device.",
)
@option(
    "-i",
    "--input",
    section=SOURCE,
    metavar="FILE|URL|screen|test|-",
    help="A file or pictures, played at their own pace; a stream (rtsp, rtmp, srt, udp, http, HLS); "
    "screen or screen:WxH+X+Y; or the built-in moving test picture.",
)
@flags.timeout_options
@option("--loop/--no-loop", default=False, section=SOURCE, help="Begin a file again at its end.")
@option("--frames", type=click.IntRange(1), section=SOURCE, metavar="N", help="End after N frames.")
@option(
    "--duration",
    "duration_seconds",
    type=SecondsType(positive=True),
    section=SOURCE,
    envvar="MIRAGE_DURATION",
    metavar="TIME",
    help="End after this much time: seconds or m:ss.",
)
@preset_option
@flags.look_options
@flags.blend_option(0.5)
@option(
    "--window/--no-window",
    default=None,
    section=OUTPUT,
    help="Show a window. Default: yes, unless -o or --preview is given.",
)
@flags.output_option("Write to a file, a pipe, an address or a virtual camera as well; several times for several.")
@option(
    "--size",
    type=SizeType(),
    section=OUTPUT,
    metavar="WxH|native",
    help="Pixels of the output, 16 to 8192 a side. Default: the input's own; on a CPU no more pixels than 512x288.",
)
@option("--fps", type=NumberType(0.01, 1000), section=OUTPUT, metavar="N", help="Frames a second to ask of the source.")
@flags.encode_options
@option(
    "--record/--no-record",
    default=False,
    section=OUTPUT,
    help="Record what goes out from the start, into --record-folder.",
)
@flags.pace_options
@control_options
@flags.model_options
@flags.report_options
@flags.config_options
@click.pass_obj
def live(call: Call, **values: Any) -> int:
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
    ui = make_ui(call, values)
    if values["window"] is None:
        values["window"] = not values["output"] and values["preview"] is None
    flags.take_outputs(values, call.terminal.json)
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
        document = job.run(config, ui, models=call.models, stop=stop, begun_seconds=call.begun_seconds)
        return finish(call, document, ui)  # a signal that comes now changes nothing
