"""Tables for what doctor, models and bench found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STATUS_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor_table(findings: Sequence[dict[str, str]]) -> RenderableType:
    """Findings with name, status (ok, warn, fail), detail and fix."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "what", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        status = finding["status"]
        detail = Text(finding["detail"])
        if finding.get("fix") and status != "ok":
            detail.append(f"\nfix: {finding['fix']}", style="bold")
        table.add_row(Text(status, style=_STATUS_STYLE.get(status, "")), finding["name"], detail)
    return table


def models_table(models: Sequence[dict[str, Any]]) -> RenderableType:
    """Models with name, title and their looks (name, prompt, names)."""
    parts: list[RenderableType] = []
    for model in models:
        head = Text(model["name"], style="bold")
        if model.get("title"):
            head.append(f"  {model['title']}", style="not bold")
        parts.append(head)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("look", style="cyan", no_wrap=True)
        table.add_column("example prompt", overflow="fold")
        table.add_column("also called", overflow="fold")
        for look in model.get("looks", []):
            table.add_row(look["name"], f'"{look["prompt"]}"', ", ".join(look["names"]))
        parts += [table, Text("")]
    return Group(*parts)


def data_tables(document: dict[str, Any], title: str = "") -> RenderableType:
    """Any result document as tables: scalars as a grid, a list of alike dicts as a table."""
    parts: list[RenderableType] = []
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    sections: list[tuple[str, Any]] = []
    for key, value in document.items():
        if _is_rows(value) or (isinstance(value, dict) and value):
            sections.append((key, value))
        else:
            grid.add_row(_words(key), _cell(value))
    if title:
        parts.append(Text(title, style="bold"))
    if grid.row_count:
        parts.append(grid)
    for key, value in sections:
        if _is_rows(value):
            parts += [Text(""), rows_table(value, _words(key))]
        elif all(isinstance(item, dict) for item in value.values()):
            rows = [{"": _words(name), **item} for name, item in value.items()]
            parts += [Text(""), rows_table(rows, _words(key))]
        else:
            parts += [Text(""), data_tables(value, _words(key))]
    return Group(*parts)


def rows_table(rows: Iterable[dict[str, Any]], title: str = "") -> Table:
    """A list of dicts as a table; the columns are the keys in order of first sight."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = all(isinstance(row.get(column, 0), (int, float)) for row in rows)
        table.add_column(_words(column), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    return table


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_cell(item)}" for key, item in value.items()) or "-"
    return "-" if value is None else str(value)
