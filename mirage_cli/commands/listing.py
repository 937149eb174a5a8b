"""``mirage doctor``, ``mirage models`` and ``mirage devices``."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.commands import options as flags
from mirage_cli.commands.options import SectionCommand, option
from mirage_cli.commands.terminal import Call, say


@click.command(cls=SectionCommand)
@option("--json/--no-json", "as_json", default=False, envvar="MIRAGE_JSON", help="Print one JSON document.")
@flags.config_options
@click.pass_obj
def devices(call: Call, as_json: bool) -> int:
    """List cameras, virtual cameras and screens.

    Each with what to type for it. A camera may be given by number, by a part of its name or by its /dev path.

    \b
    mirage devices
    mirage live --camera "Logitech" -p "ink wash"
    """
    from mirage_cli.inputs.devices import list_devices

    found = list_devices()
    if as_json:
        call.terminal.print_json({"command": "devices", **found})
        return 0
    from mirage_cli.commands.tables import rows_table

    for title, key in (("cameras", "cameras"), ("virtual cameras", "virtual_cameras"), ("screens", "screens")):
        if not found[key]:
            call.terminal.print(f"{title}: none found")
            continue
        call.terminal.print_rich(rows_table([_row(entry) for entry in found[key]], title))
    return 0


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """What of a device a person wants to read."""
    if "display" in entry:
        size = entry["size"]
        state = "x".join(map(str, size)) if size else entry.get("problem", "")
        return {"device": entry["display"], "name": state, "use": entry["use"]}
    return {"device": entry["path"], "name": entry["name"] or "-", "use": entry["use"]}


@click.command(cls=SectionCommand)
@option("--json/--no-json", "as_json", default=False, envvar="MIRAGE_JSON", help="Print one JSON document.")
@flags.config_options
@click.pass_obj
def doctor(call: Call, as_json: bool) -> int:
    """Check this machine; each finding comes with its fix.

    Looks at Python, torch, GPU, ffmpeg, cameras and models. Ends with 1 when the main job cannot run on this machine.
    """
    from mirage_cli.runs import doctor as job

    findings = job.run()
    failed = [finding["name"] for finding in findings if finding["status"] == "fail"]
    if as_json:
        call.terminal.print_json({"command": "doctor", "ok": not failed, "findings": findings})
    else:
        from mirage_cli.commands.tables import doctor_table

        call.terminal.print_rich(doctor_table(findings))
        if failed:
            say(f"\nmirage cannot run here: {', '.join(failed)}", red=True)
        else:
            call.terminal.print("\nmirage transform can run here.")
    return job.exit_code(findings)


@click.command(cls=SectionCommand)
@option("--json/--no-json", "as_json", default=False, envvar="MIRAGE_JSON", help="Print one JSON document.")
@flags.config_options
@click.pass_obj
def models(call: Call, as_json: bool) -> int:
    """List models, their looks and prompts for each."""
    from mirage_cli.models.catalog import describe_models

    entries = describe_models()
    if as_json:
        call.terminal.print_json({"command": "models", "models": entries})
    else:
        from mirage_cli.commands.tables import models_table

        call.terminal.print_rich(models_table(entries))
    return 0
