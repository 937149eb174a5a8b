"""The headers that kernels share with Python: conv_table.cuh from shapes.py, constants.cuh from named constants.

Constants are read out of the sources' text, so that nothing is imported that needs torch.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from mirage_cli.kernels.shapes import ATTENTION_KEYS, CONV_SHAPES, HEAD_WIDTH

import mirage_cli

PACKAGE = Path(mirage_cli.__file__).resolve().parent
# namespace -> source in the package, and what the kernels take from it
CONSTANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lsd": (
        "lsd/model.py",
        (
            "UNSHUFFLE",
            "CELL_PIXELS",
            "PICTURE_CHANNELS",
            "SEEN_CHANNELS",
            "OLDER_CHANNELS",
            "KEEP_OFFSET",
            "LUMA_RED",
            "LUMA_GREEN",
            "LUMA_BLUE",
        ),
    ),
    "motion": (
        "stream/motion.py",
        (
            "SEARCH",
            "MATCH_WINDOW",
            "MATCH_STAY",
            "MATCH_SHARPNESS",
            "WINDOW",
            "REACH",
            "LONGEST_STEP",
            "NEAR",
            "AROUND",
            "MOVES_RATIO",
            "MOVES_MARGIN",
            "MOVES_MARGIN_AROUND",
            "DAMPING",
            "HALF_CONFIDENT",
            "LEAST_CONFIDENCE",
            "CUT_LEAST_SPREAD",
        ),
    ),
}


def write(folder: Path) -> None:
    """Make all headers in the folder of the CUDA sources."""
    for name, text in headers().items():
        (folder / name).write_text(text)


def stale(folder: Path) -> list[str]:
    """Names of headers that are missing there, or not what ``write`` would make."""
    return [n for n, text in headers().items() if not (folder / n).is_file() or (folder / n).read_text() != text]


def headers() -> dict[str, str]:
    """File name -> text."""
    return {"conv_table.cuh": conv_table(), "constants.cuh": constants()}


def conv_table() -> str:
    """One line a layer; conv_layers.cuh says what LAYER makes of it."""
    columns = ("name", "C0", "TAPS", "STRIDE", "UP", "C1", "WM", "WN", "S", "RING", "HEAD", "TAIL")
    rows = [columns]
    for name, s in CONV_SHAPES.items():
        numbers = (s.channels, s.taps, s.stride, int(s.doubled), s.second_channels)
        layout = (s.pixel_warps, s.channel_warps, s.products, s.ring)
        rows.append((name, *(str(n) for n in (*numbers, *layout)), s.head, s.tail))
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    head, *lines = (", ".join(field.ljust(width) for field, width in zip(row, widths)).rstrip() for row in rows)
    note = "// Made from shapes.py by build.py; edit that, not this."
    return "\n".join((note, f"//    {head}", *(f"LAYER({line})" for line in lines), ""))


def constants() -> str:
    """``CONSTANTS`` as C++, and the shapes of attention."""
    lines = ["// Made by build.py; edit the files that are named here, not this.", "#pragma once"]
    for namespace, (source, names) in CONSTANTS.items():
        lines += _namespace(namespace, f"mirage_cli/{source}", read_constants(PACKAGE / source, names))
    lines += _namespace("shapes", "kernels/shapes.py", {"ATTENTION_KEYS": ATTENTION_KEYS, "HEAD_WIDTH": HEAD_WIDTH})
    return "\n".join((*lines, ""))


def _namespace(name: str, source: str, values: Mapping[str, int | float]) -> list[str]:
    return [f"\nnamespace {name} {{  // {source}", *(_constexpr(key, value) for key, value in values.items()), "}"]


def _constexpr(name: str, value: int | float) -> str:
    if isinstance(value, int):
        return f"constexpr int {name} = {value};"
    return f"constexpr float {name} = {value!r}f;"


def read_constants(path: Path, names: tuple[str, ...]) -> dict[str, int | float]:
    """Values of a module's constants, numbers or arithmetic of the ones above them.

    Raises:
        ValueError: one is missing.
    """
    known: dict[str, int | float] = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Name) and target.id in names:
            known[target.id] = _number(value, known)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = zip(target.elts, value.elts)
            known.update({t.id: _number(v, known) for t, v in pairs if isinstance(t, ast.Name) and t.id in names})
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"{path.name} has no constant {', '.join(missing)}")
    return {name: known[name] for name in names}


def _number(node: ast.expr, known: dict[str, int | float]) -> int | float:
    """The value of a number, a name of ``known``, or a sum, product or power of such."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left, known), _number(node.right, known)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Pow):
            return left**right
    raise ValueError(f"{ast.unparse(node)!r} is not a number that a header can hold")
