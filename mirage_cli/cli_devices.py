"""``mirage devices``: what can be watched and fed on this machine."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli import cli_options as flags
from mirage_cli.cli_options import SectionCommand, option
from mirage_cli.cli_terminal import print_json, print_rich


@click.command(cls=SectionCommand)
@option("--json/--no-json", "as_json", default=False, envvar="MIRAGE_JSON",
        help="Print one JSON document.")  # fmt: skip
@flags.config_options
def devices(as_json: bool) -> int:
    """List cameras, virtual cameras and screens.

    Each with what to type for it. A camera may be given by number, by a part of its name or by its /dev path.

    \b
    mirage devices
    mirage live --camera "Logitech" -p "ink wash"
    """
    from mirage_cli.inputs.devices import list_devices

    found = list_devices()
    if as_json:
        print_json({"command": "devices", **found})
        return 0
    from mirage_cli.dashboard import rows_table

    for title, key in (
        ("cameras", "cameras"), ("virtual cameras", "virtual_cameras"), ("screens", "screens"),
    ):  # fmt: skip
        if not found[key]:
            click.echo(f"{title}: none found")
            continue
        print_rich(rows_table([_row(entry) for entry in found[key]], title))
    return 0


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """What of a device a person wants to read."""
    if "display" in entry:
        size = entry["size"]
        state = "x".join(map(str, size)) if size else entry.get("problem", "")
        return {"device": entry["display"], "name": state, "use": entry["use"]}
    return {"device": entry["path"], "name": entry["name"] or "-", "use": entry["use"]}
