"""The flags that open a live run to control, ``--preset``, and ``mirage presets``."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.commands import options as flags
from mirage_cli.commands.options import LOOK, SectionCommand, option
from mirage_cli.commands.terminal import Call, say


def _use_preset(ctx: click.Context, _param: click.Parameter, name: str | None) -> None:
    """A preset's values become defaults: flags and MIRAGE_* win over them, they win over --config."""
    if name is None:
        return
    from mirage_cli.control.presets import flag_values, load_preset

    names = {param.name for param in ctx.command.params}
    defaults = dict(ctx.default_map or {})
    for key, value in flag_values(load_preset(name).change).items():
        if key == "prompt" and "prompts" in names:
            key, value = "prompts", [value]
        if key in names:
            defaults[key] = value
    ctx.default_map = defaults


def _preset_names(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """For the shell: shipped presets that begin so."""
    from mirage_cli.control.presets import shipped_presets

    return [preset.name for preset in shipped_presets() if preset.name.startswith(begun)]


preset_option = option(
    "--preset",
    section=LOOK,
    metavar="NAME|FILE",
    expose_value=False,
    callback=_use_preset,
    shell_complete=_preset_names,
    help="Prompt, strength and so on from a preset of 'mirage presets' or a TOML file; flags win over it.",
)


@click.command(cls=SectionCommand)
@preset_option
@option("-p", "--prompt", section=LOOK, metavar="TEXT", help="The look, in words.")
@option("--strength", type=flags.STRENGTH, section=LOOK, metavar="0..1", help="How much of the look.")
@option(
    "--blend-seconds",
    type=flags.BLEND_SECONDS,
    section=LOOK,
    metavar="SECONDS",
    help="How long one look takes to become the next.",
)
@option("--seed", type=flags.SEED, section=LOOK, metavar="N", help="Of all noise.")
@option("-m", "--model", section=LOOK, metavar="NAME", help="A model of 'mirage models'.")
@option("--about", default="", envvar=None, section=LOOK, metavar="TEXT", help="A sentence about it.")
@option("--save", envvar=None, section=flags.OUTPUT, metavar="FILE", help="Write a preset of the flags given.")
@option("-y", "--overwrite", is_flag=True, envvar=None, section=flags.OUTPUT, help="Replace an existing file.")
@option("--json/--no-json", "as_json", default=False, envvar="MIRAGE_JSON", help="Print one JSON document.")
@flags.config_options
@click.pass_obj
def presets(call: Call, save: str | None, about: str, overwrite: bool, as_json: bool, **values: Any) -> int:
    """List the shipped presets, or save one.

    A preset is a TOML file of prompt (or blend), strength, blend_seconds, seed and model.

    \b
    mirage presets
    mirage transform clip.mp4 --preset soft-watercolour
    mirage presets --preset soft-watercolour --strength 0.4 --save softer.toml
    mirage live --input test --preset softer.toml --no-window
    """
    from mirage_cli.control.presets import make_preset, save_preset, shipped_presets

    given = {key: value for key, value in values.items() if value is not None}
    if save is not None:
        document = make_preset(save, {**given, "about": about}, "the preset").document()
        save_preset(save, given, about, overwrite)
        if as_json:
            call.terminal.print_json({"command": "presets", "saved": save, **document})
        else:
            say(f"wrote {save}; use it with --preset {save}")
        return 0
    rows = [preset.document() for preset in shipped_presets()]
    if as_json:
        call.terminal.print_json({"command": "presets", "presets": rows})
    else:
        from mirage_cli.commands.tables import rows_table

        call.terminal.print_rich(rows_table(rows))
    return 0
