"""``--config``: a TOML file of defaults for the flags."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.config import load_config_file
from mirage_cli.errors import UsageProblem


def read_config(ctx: click.Context, _param: click.Parameter, path: str | None) -> None:
    """The callback of ``--config``: its values become the command's defaults.

    Raises:
        UsageProblem: it cannot be read, or holds what is not a flag or not a value of it.
    """
    if path is None:
        return
    group = ctx.parent.command if ctx.parent is not None else ctx.command
    commands = getattr(group, "commands", {ctx.info_name: ctx.command})
    names = {name: _flag_names(command) for name, command in commands.items()}
    values = load_config_file(path, {name: set(flags) for name, flags in names.items()})
    mine = names.get(ctx.info_name or "", {})
    defaults = dict(ctx.default_map or {})
    for flag, value in values.get(ctx.info_name or "", {}).items():
        defaults[mine[flag].name or flag] = _as_typed(path, flag, mine[flag], value)
    ctx.default_map = defaults


def _as_typed(path: str, flag: str, param: click.Option, value: Any) -> Any:
    """A value of a file as the command line would give it: text, which the flag's type then reads.

    Raises:
        UsageProblem: a list where one value is wanted, or a table inside a list.
    """
    values = value if isinstance(value, list) else [value]
    nested = any(isinstance(item, (list, dict)) for item in values)
    if nested or (isinstance(value, list) and not param.multiple):
        raise UsageProblem(
            f"config file {path!r}: {flag} is {str(value)[:60]!r}, which --{flag.replace('_', '-')} cannot be",
            f"One value, as in: {flag} = ..., or for --prompt a list of texts.",
        )
    if param.is_flag and isinstance(value, bool):
        return value
    return [str(item) for item in values] if param.multiple else str(value)


def _flag_names(command: click.Command) -> dict[str, click.Option]:
    """``blend_seconds`` -> the option ``--blend-seconds``, for all that a file may set."""
    return {
        name.lstrip("-").replace("-", "_"): param
        for param in command.params
        if isinstance(param, click.Option) and param.name not in ("config", "debug")
        for name in param.opts
        if name.startswith("--")
    }
