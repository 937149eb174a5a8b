"""``mirage bench``."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.commands import options as flags
from mirage_cli.commands.options import OUTPUT, SOURCE, SectionCommand, option
from mirage_cli.commands.parameters import NumberType, SizeType
from mirage_cli.commands.terminal import Call
from mirage_cli.commands.ui import make_ui
from mirage_cli.config import BenchConfig
from mirage_cli.errors import UsageProblem


@click.command(cls=SectionCommand)
@option(
    "-i",
    "--input",
    section=SOURCE,
    metavar="FILE",
    help="Measure on this file. Default: the example clip in a clone, else the moving test picture.",
)
@option(
    "-p",
    "--prompt",
    default="van gogh starry night",
    show_default=True,
    section=flags.LOOK,
    metavar="TEXT",
    envvar=None,
    help="The look to run.",
)
@option("--size", type=SizeType(), section=OUTPUT, metavar="WxH", help="Default: 512x288 on a CPU, 512x512 on a GPU.")
@option(
    "--frames",
    type=click.IntRange(1),
    metavar="N",
    help="Frames to measure. Default: 100; for --ladder and --race 2000 on a GPU, 20 on a CPU.",
)
@option("--warmup", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Frames before those.")
@option(
    "--live/--no-live",
    default=False,
    help="Measure latency from input to output at the source's pace, by a marker in the picture.",
)
@option(
    "--fps",
    type=NumberType(0.01, 1000),
    default=30.0,
    show_default=True,
    metavar="N",
    help="With --live: frames a second of the test picture.",
)
@option(
    "--through",
    type=click.Choice(("sink", "h264")),
    default="sink",
    show_default=True,
    help="With --live: read the marker where outputs get the frame, or behind an H.264 encoder and decoder.",
)
@option(
    "--inject-ms",
    type=NumberType(0, 10000),
    default=0.0,
    metavar="MS",
    help="With --live: a delay put in on purpose, to see that it is measured.",
)
@option(
    "--against-fp32/--no-against-fp32",
    default=False,
    help="Measure a few frames in fp32 on plain torch as well, for the ratio.",
)
@option("--ladder/--no-ladder", default=False, help="Device frames with the optimisations switched on one by one.")
@option(
    "--race/--no-race",
    default=False,
    help="Device frames beside torch and torch.compile, in turns. Compiling takes minutes.",
)
@option("--paced/--no-paced", default=False, help="Latency at 30 and 60 frames a second, and of the host frame.")
@option("--floor/--no-floor", default=False, help="The least time this machine could take, and each kernel's.")
@option("--report", metavar="FILE", help="Write a readable report with a plot as well: .md or .html.")
@flags.model_options
@flags.report_options
@flags.config_options
@click.pass_obj
def bench(call: Call, **values: Any) -> int:
    """Measure speed, latency and memory on this machine.

    \b
    mirage bench
    mirage bench --size 768x432 --frames 200 --json > bench.json
    mirage bench --live
    mirage bench --ladder --race --floor --report bench.html
    """
    ui = make_ui(call, values)
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
        from mirage_cli.bench import run as job

        ui.note(job.intention(config))
        document = job.run(config, against_fp32=against_fp32, begun_seconds=call.begun_seconds)
    if call.terminal.json:
        call.terminal.print_json(document)
    else:
        from mirage_cli.commands.tables import data_tables

        call.terminal.print_rich(data_tables(document))
    return 0


def _check_bench(config: BenchConfig, against_fp32: bool) -> None:
    """Refuse what one run of ``mirage bench`` cannot measure together, rather than leave it out without a word."""
    sections = [f"--{name}" for name in ("ladder", "race", "paced", "floor") if getattr(config, name)]
    fp32 = ["--against-fp32"] if against_fp32 else []
    given = (["--input"] if config.input else []) + fp32
    if config.live and (others := sections + fp32 + (["--report"] if config.report else [])):
        raise UsageProblem(f"--live with {others[0]}; allowed: one of them", "--json prints all that --live measures.")
    if sections and given:
        raise UsageProblem(
            f"{sections[0]} with {given[0]}; allowed: one of them", f"{sections[0]} measures a moving test picture."
        )
