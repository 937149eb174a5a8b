"""``mirage eval`` on the command line."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.commands import options as flags
from mirage_cli.commands.options import OUTPUT, SOURCE, SectionCommand, option
from mirage_cli.commands.parameters import NamesType, NumberType, SecondsType, SizeType
from mirage_cli.commands.terminal import Call, Terminal
from mirage_cli.commands.ui import make_ui
from mirage_cli.config import EVAL_PARTS, EvalConfig
from mirage_cli.errors import Interrupted, UsageProblem


@click.command("eval", cls=SectionCommand)
@option(
    "--clips",
    section=SOURCE,
    metavar="FOLDER|FILE",
    help="Videos, and folders of numbered pictures. Default: the example clip.",
)
@option(
    "--data",
    section=SOURCE,
    metavar="FOLDER",
    help="Training data: painters of the painterly looks, and photos kept back. Without it those "
    "looks are not compared with their painters.",
)
@option(
    "--lpips",
    section=SOURCE,
    metavar="FILE",
    help="Weights of the perceptual distance (alex_shift_tolerant.pth). Default: those of the "
    "package stlpips-pytorch, where it is installed.",
)
@option(
    "--looks",
    type=NamesType(),
    default="",
    section=flags.LOOK,
    metavar="A,B|all",
    help="Default: four on a CPU, all on a GPU.",
)
@option(
    "--strength",
    type=NumberType(0.0, 1.0),
    default=1.0,
    show_default=True,
    section=flags.LOOK,
    metavar="0..1",
    help="Of the runs on clips; known warps take 1.",
)
@option(
    "--parts", type=NamesType(), default=",".join(EVAL_PARTS), show_default=True, metavar="A,B", help="What to measure."
)
@option("--size", type=SizeType(), metavar="WxH", help="Default: 256x144 on a CPU, 512x288 on a GPU.")
@option(
    "--frames", type=click.IntRange(1), metavar="N", help="Of each drift run. Default: 300 on a CPU, 10000 on a GPU."
)
@option(
    "--clips-per-look",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Drift runs a look; looks are dealt out over the clips in turn.",
)
@option(
    "--returns",
    type=click.IntRange(1),
    metavar="N",
    help="Rounds of the camera paths. Default: 2 on a CPU, 20 on a GPU.",
)
@option(
    "--stills",
    type=click.IntRange(1),
    metavar="N",
    help="Pictures that the camera walks over. Default: 1 on a CPU, 4 on a GPU.",
)
@option(
    "--history/--no-history",
    default=True,
    section=flags.MODEL,
    help="Hide the past before every frame, for comparison.",
)
@option(
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes, dealt out over the GPUs. Default: 1 on a CPU, 4 a GPU.",
)
@option(
    "--budget-seconds", type=SecondsType(positive=True), metavar="TIME", help="End by then, and say what was left out."
)
@option(
    "-o", "--output", section=OUTPUT, metavar="FILE", help="The JSON document, kept up to date while the run lasts."
)
@option(
    "--sheet", section=OUTPUT, metavar="PICTURE", help="Frames 1, 100, 1000 and 10000 of each look beside their input."
)
@option("--plot", section=OUTPUT, metavar="PICTURE", help="Drift over frames by look.")
@flags.model_options
@flags.report_options
@flags.config_options
@click.pass_obj
def evaluate(call: Call, **values: Any) -> int:
    """Measure how good a model is: drift, consistency in time, fidelity, prompts.

    Clips are played to and fro inside one shot, as long as it takes. docs/evaluation.md explains every
    number. For speed, see mirage bench.

    \b
    mirage eval
    mirage eval --clips held-out --looks all --frames 1000 --sheet looks.jpg --plot drift.png
    mirage eval --parts drift --looks mosaic,night --frames 10000 --json
    """
    ui = make_ui(call, values)
    if values["size"] == "native":
        raise UsageProblem("eval needs a size in pixels, not native", "Try --size 256x144.")
    model = flags.take_model_options(values)
    config = EvalConfig(model=model, **values)

    from mirage_cli.evaluation import report, run as job

    progress = ui.note if ui.progress else lambda text: None
    document = job.run(config, progress, ui.warn)
    if call.terminal.json:
        call.terminal.print_json(document)
    else:
        _print(call.terminal, document, report.rows(document))
    return Interrupted.exit_code if document.get("interrupted") else int(bool(document.get("failed")))


def _print(terminal: Terminal, document: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from mirage_cli.commands.tables import rows_table

    if rows:
        terminal.print_rich(rows_table(rows, f"{document['settings']['model']['model']}, {document['commit']}"))
    if document["bars"]:
        terminal.print()
        terminal.print_rich(rows_table(document["bars"], "over all looks"))
    reasons: dict[str, list[str]] = {}
    for entry in document["left_out"]:
        reasons.setdefault(f"{entry['part']}: {entry['why']}", []).append(entry.get("look", ""))
    for reason, looks in reasons.items():
        named = ", ".join(look for look in looks if look)
        terminal.print(f"left out: {reason}" + (f" ({named})" if named else ""))
