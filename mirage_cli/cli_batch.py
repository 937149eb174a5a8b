"""Several inputs of ``mirage transform``: one run, one report."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.cli_terminal import TerminalUi, print_json, print_rich, say
from mirage_cli.config import TransformConfig


def run_batch(config: TransformConfig, inputs: list[str], ui: TerminalUi, as_json: bool) -> int:
    """Do them all and print the report; the exit code is ``batch.exit_code``'s."""
    from mirage_cli.runs import batch
    from mirage_cli.styling.stopping import StopSwitch

    with StopSwitch().signals() as stop, ui:
        report = batch.run(config, inputs, ui, stop=stop)
    if as_json:
        print_json(report)
    elif not ui.quiet:
        _print(report, batch.rows(report))
    if report["interrupted"]:
        say("interrupted: what is done is whole")
    return batch.exit_code(report)


def _print(report: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from mirage_cli.dashboard import rows_table

    print_rich(rows_table(rows))
    parts = [f"{report[state]} {state}" for state in ("done", "failed", "skipped", "left")
             if report[state]]  # fmt: skip
    click.echo(f"{', '.join(parts)} in {report['seconds']:.1f} s")
