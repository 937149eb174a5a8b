"""``mirage bench --report``: a result document as a page, Markdown or HTML, with a plot of the frame times.

The HTML page holds its plot; beside a Markdown page the plot is written as an .svg of the same name.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from mirage_cli.errors import MediaError, UsageProblem

ENDINGS = (".md", ".html")
BAR, WIDTH, LABELS = 26, 860, 300  # pixels: height of a bar, width of the plot, room for names
PLOTTED = ("ladder", "race", "paced", "latency_ms")


def check(path: str) -> None:
    """Raise UsageProblem unless a report can go to that file."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise UsageProblem(
            f"--report {path!r}; allowed: a name that ends with {' or '.join(ENDINGS)}", "Try: --report bench.html"
        )
    if not Path(path).resolve().parent.is_dir():
        raise UsageProblem(f"--report {path!r}: there is no such folder", "Make the folder first.")
    report, plot = Path(path), Path(path).with_suffix(".svg")
    strange = None
    if report.is_file():
        with report.open("rb") as file:  # an earlier report says whose it is at its beginning
            strange = None if b"mirage bench" in file.read(300) else report
    elif plot.exists() and report.suffix == ".md":
        strange = plot
    if strange is not None:
        raise UsageProblem(
            f"--report {path!r}: {str(strange)!r} exists and is no report of mirage bench", "Give another name."
        )


def write(path: str, document: dict[str, Any]) -> None:
    """Write the report.

    Raises:
        MediaError: the file cannot be written.
    """
    target = Path(path)
    try:
        if target.suffix.lower() == ".html":
            target.write_text(page(document), encoding="utf-8")
        else:
            plot = plots(document)
            image = target.with_suffix(".svg")
            if plot:
                image.write_text(plot, encoding="utf-8")
            target.write_text(markdown(document, image.name if plot else None), encoding="utf-8")
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror}", "Give --report another place.") from error


def tables(document: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(heading, rows) of every part of the document; scalars come first, as rows of name and value."""
    scalars = [{"what": k, "value": v} for k, v in document.items() if not isinstance(v, (dict, list))]
    found = [("", scalars)] if scalars else []
    for key, value in document.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            found.append((key, value))
        elif isinstance(value, list):
            scalars.append({"what": key, "value": " x ".join(str(v) for v in value)})
        elif isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            found.append((key, [{"name": name, **row} for name, row in value.items()]))
        elif isinstance(value, dict):
            found.append((key, [{"what": name, "value": entry} for name, entry in value.items()]))
    return found


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def markdown(document: dict[str, Any], image: str | None) -> str:
    """The document as Markdown."""
    lines = ["# mirage bench", ""]
    if image:
        lines += [f"![frame times]({image})", ""]
    for heading, rows in tables(document):
        columns = _columns(rows)
        if heading:
            lines += [f"## {heading.replace('_', ' ')}", ""]
        lines.append("| " + " | ".join(c.replace("_", " ") for c in columns) + " |")
        lines.append("|" + "---|" * len(columns))
        lines += ["| " + " | ".join(str(row.get(c, "")).replace("|", "/") for c in columns) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def page(document: dict[str, Any]) -> str:
    """The document as one HTML page."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>mirage bench</title>",
        "<style>body{font:15px sans-serif;margin:2em;max-width:1100px}table{border-collapse:collapse;margin:0 0 1.5em}"
        "td,th{border-bottom:1px solid #ccc;padding:.25em .8em;text-align:left}</style>",
        "<h1>mirage bench</h1>",
        plots(document),
    ]
    for heading, rows in tables(document):
        columns = _columns(rows)
        if heading:
            parts.append(f"<h2>{html.escape(heading.replace('_', ' '))}</h2>")
        parts.append("<table><tr>" + "".join(f"<th>{html.escape(c.replace('_', ' '))}</th>" for c in columns) + "</tr>")
        for row in rows:
            parts.append("<tr>" + "".join(f"<td>{html.escape(str(row.get(c, '')))}</td>" for c in columns) + "</tr>")
        parts.append("</table>")
    return "\n".join(parts) + "</html>\n"


def plots(document: dict[str, Any]) -> str:
    """Bars of p50 with a mark at p99, a group a section, as one SVG; empty where there is nothing to draw."""
    bars: list[tuple[str, str, float, float]] = []
    for key, rows in tables(document):
        if key in PLOTTED:
            bars += [(key, str(r["name"]), float(r["p50"]), float(r["p99"])) for r in rows if "p50" in r and "p99" in r]
    if not bars:
        return ""
    longest = max(p99 for _, _, _, p99 in bars) or 1.0
    scale = (WIDTH - LABELS - 110) / longest
    out, y, group = [], 8, ""
    for section, name, p50, p99 in bars:
        if section != group:
            group = section
            out.append(
                f"<text x='4' y='{y + 18}' font-weight='bold'>"
                f"{html.escape(section.replace('_', ' '))}, ms: bar p50, mark p99</text>"
            )
            y += BAR + 4
        out.append(f"<text x='{LABELS - 8}' y='{y + 17}' text-anchor='end'>{html.escape(name)}</text>")
        out.append(f"<rect x='{LABELS}' y='{y + 3}' width='{p50 * scale:.1f}' height='{BAR - 8}' fill='#4477aa'/>")
        out.append(f"<rect x='{LABELS + p99 * scale:.1f}' y='{y}' width='2' height='{BAR - 2}' fill='#cc3311'/>")
        out.append(f"<text x='{LABELS + p99 * scale + 8:.1f}' y='{y + 17}'>{p50:g}</text>")
        y += BAR
    size = f"width='{WIDTH}' height='{y + 8}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} font-family='sans-serif' font-size='14'>"
    return head + f"<rect width='{WIDTH}' height='{y + 8}' fill='white'/>" + "".join(out) + "</svg>"
