"""``mirage train`` on the command line."""

from __future__ import annotations

import os
from typing import Any

import click

from mirage_cli.commands import options as flags
from mirage_cli.commands.options import OUTPUT, SectionCommand, option
from mirage_cli.commands.terminal import Call
from mirage_cli.commands.ui import make_ui
from mirage_cli.errors import Interrupted, UsageProblem, plain_text

SIGNALS_TOGETHER_SECONDS = 60.0
"""torchrun passes a signal on; with several processes, a second one this soon is a duplicate, not "force quit"."""


@click.command(cls=SectionCommand)
@click.argument("recipe", metavar="[RECIPE]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@option(
    "--smoke/--no-smoke",
    default=False,
    help="The whole of training in miniature, on a CPU in under a minute: needs no data, keeps nothing "
    "unless run=FOLDER is given.",
)
@option(
    "--tensorboard",
    section=OUTPUT,
    metavar="FOLDER",
    help="Write curves for TensorBoard as well; needs the extra tensorboard.",
)
@flags.report_options
@flags.config_options
@click.pass_obj
def train(
    call: Call, recipe: str | None, overrides: tuple[str, ...], smoke: bool, tensorboard: str | None, **values: Any
) -> int:
    """Train a model by a RECIPE.

    RECIPE is a TOML file; without one the defaults are taken. KEY=VALUE changes an entry of it. Ctrl-C
    saves the run; the same command goes on from there. docs/training.md explains data, keys and losses.
    Painterly looks need the extra train.

    \b
    mirage train --smoke
    mirage train recipe.toml data=DATA minutes=20 stream.mean_frames=40
    torchrun --nproc-per-node 4 -m mirage_cli train recipe.toml data=DATA
    """
    if recipe is not None and "=" in recipe and not os.path.exists(recipe):
        overrides, recipe = (recipe, *overrides), None
    bad = next((item for item in overrides if "=" not in item), None)
    if bad is not None:
        raise UsageProblem(f"{bad!r} is not KEY=VALUE", "As in: mirage train recipe.toml minutes=20")
    if smoke and recipe is not None:
        raise UsageProblem(f"--smoke has a recipe of its own; {recipe!r} is another", "Try: mirage train --smoke")
    ui = make_ui(call, values)
    first = int(os.environ.get("RANK", 0)) == 0  # of the processes of torchrun; it speaks for all
    ui.quiet, ui.progress = ui.quiet or not first, ui.progress and first
    settings = [*overrides, *([f"tensorboard={tensorboard}"] if tensorboard else [])]

    from mirage_cli.styling.stopping import StopSwitch

    switch = StopSwitch()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        switch.TOGETHER_SECONDS = SIGNALS_TOGETHER_SECONDS
    try:
        with switch.signals() as stop, ui:
            if smoke:
                from mirage_cli.training import smoke as job

                record = job.run(settings, ui.note, ui.tick, stop.finishing)
                lines = job.summary(record) if first else []
            else:
                from mirage_cli.training import loop

                record = loop.main(recipe, settings, ui.note, ui.tick, stop.finishing)
                lines = summary(record) if first else []
    except Interrupted as error:
        if first:
            raise
        return error.exit_code
    if call.terminal.json and first:
        call.terminal.print_json(record)
    elif first and not ui.quiet:
        for line in lines:
            call.terminal.print(plain_text(line))
    return 0


def summary(record: dict[str, Any]) -> list[str]:
    """What a finished run has to say, in lines."""
    progress = record["progress"]
    lines = [f"trained {progress['step']} steps in {progress['seconds'] / 60:.1f} min: {record['run']}"]
    if record.get("model_folder"):
        lines.append(
            f'use it: mirage transform clip.mp4 --model {record["model_folder"]} --prompt "{record["prompt"]}"'
        )
    return lines
