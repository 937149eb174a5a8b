"""The rooms: which may import which, where Click and Rich may be, and how long a file may be."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest
from helpers.paths import ROOT

# At the top of mirage_cli: everyone may import these; each imports only what stands before it.
TOP = ["errors", "config", "measure", "frames", "pipeline"]
SOURCES = {
    "mirage_cli": ROOT / "mirage_cli",
    "mirage_cli.kernels": ROOT / "kernels",
    "mirage_cli.models": ROOT / "models",
}
# A room and the rooms that it may import, besides itself and TOP; from the bottom of the house to its top.
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "models": set(),
    "media": set(),
    "teachers": {"models"},
    "prompts": {"models"},
    "engine": {"kernels"},
    "inputs": {"media"},
    "outputs": {"inputs", "media"},
    "stream": {"engine", "models"},
    "lsd": {"stream", "prompts", "engine", "kernels", "models"},
    "styling": {"stream", "prompts", "models"},
    "control": {"styling", "outputs", "prompts"},
    "runs": {"control", "styling", "outputs", "inputs", "prompts", "media", "stream", "models", "kernels"},
    "training": {"lsd", "stream", "teachers", "prompts", "inputs", "models"},
    "bench": {"runs", "styling", "outputs", "inputs", "media", "prompts", "stream", "models"},
    "evaluation": {
        *("bench", "runs", "training", "teachers", "outputs", "inputs", "media", "prompts", "lsd", "stream", "models")
    },
    "commands": {
        *("evaluation", "training", "bench", "runs", "control", "styling", "outputs", "inputs", "prompts", "models")
    },
    "cli": {"commands"},
}
FAMILIES = {"lsd"}  # a room for each family of models; none knows another
MAX_LINES = 500
MEDIAN_LINES = 200
KINDS = {".py", ".cu", ".cuh", ".js"}


def module_files() -> dict[str, Path]:
    """Module name -> file, for everything that is installed."""
    files = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            files[".".join((package, *parts))] = path
    return files


FILES = module_files()


def imports_of(module: str, source: str, is_package: bool) -> set[str]:
    """Dotted names that a module's source imports, anywhere in it, relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                steps = module.split(".")
                keep = len(steps) - node.level + (1 if is_package else 0)
                base = ".".join([*steps[:keep], *([base] if base else [])])
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    """The room of a module of the project."""
    first = module.split(".")[1:2]
    if not first:
        return "top"  # mirage_cli itself: the version
    if first[0] in ("cli", "__main__"):
        return "cli"
    return "top" if first[0] in TOP else first[0]


def project_imports(module: str) -> set[str]:
    path = FILES[module]
    names = imports_of(module, path.read_text("utf-8"), path.name == "__init__.py")
    return {name for name in names if name in FILES and name != module}


def offences(module: str, imported: set[str]) -> list[str]:
    """The imports that lead upward."""
    own = room(module)
    if own == "top":
        name = module.split(".")[-1]
        below = {f"mirage_cli.{other}" for other in TOP[: TOP.index(name)]} if name in TOP else set()
        return sorted(imported - below - {"mirage_cli"})
    allowed = ALLOWED[own] | {"top", own}
    return sorted(other for other in imported if room(other) not in allowed)


def test_every_room_has_a_row() -> None:
    assert {room(module) for module in FILES} - {"top"} == set(ALLOWED)


def test_the_rows_have_no_circle() -> None:
    """Each room imports only rooms that stand before it in the table, and no family imports another."""
    before: set[str] = set()
    for name, below in ALLOWED.items():
        assert below <= before, name
        assert name not in FAMILIES or not below & FAMILIES, name
        before.add(name)


def test_the_top_of_the_package() -> None:
    """Nothing but these stands beside the rooms."""
    assert {path.stem for path in (ROOT / "mirage_cli").glob("*.py")} == {"__init__", "__main__", "cli", *TOP}


@pytest.mark.parametrize("module", sorted(FILES))
def test_direction(module: str) -> None:
    assert offences(module, project_imports(module)) == []


@pytest.mark.parametrize("module", sorted(FILES))
def test_click_and_rich_stay_at_the_top(module: str) -> None:
    path = FILES[module]
    names = imports_of(module, path.read_text("utf-8"), path.name == "__init__.py")
    if room(module) not in ("cli", "commands"):
        assert not {"click", "rich"} & {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", sorted(m for m in FILES if room(m) in ("top", "models", "cli", "commands")))
def test_catalogue_settings_and_help_do_not_import_torch(module: str) -> None:
    path = FILES[module]
    names = imports_of(module, path.read_text("utf-8"), path.name == "__init__.py")
    assert "torch" not in {name.split(".")[0] for name in names}


def hand_written() -> dict[str, int]:
    """Every source file that somebody writes by hand, tests included, and its lines."""
    folders = [ROOT / name for name in ("mirage_cli", "kernels", "models", "tests")]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in KINDS]
    return {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}


def test_files_are_short() -> None:
    lengths = hand_written()
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
    assert statistics.median(lines for lines in lengths.values() if lines > 1) <= MEDIAN_LINES


@pytest.mark.parametrize("module", sorted(FILES))
def test_one_level_of_folders(module: str) -> None:
    assert module.count(".") <= 2


def test_no_cycles_at_import_time() -> None:
    """Imports at the top of modules form no ring."""
    edges: dict[str, set[str]] = {}
    for module, path in FILES.items():
        tree = ast.parse(path.read_text("utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        names = imports_of(module, ast.unparse(top), path.name == "__init__.py")
        edges[module] = {name for name in names if name in FILES and name != module}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for name in sorted(edges[module]):
                # A package's __init__ is imported on the way to every module of it: no ring.
                if not module.startswith(name + "."):
                    visit(name, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_the_rule_sees_what_it_must() -> None:
    """The checks above can fail."""
    upward = imports_of("mirage_cli.lsd.model", "def f():\n    from ..runs import live\n", False)
    assert "mirage_cli.runs.live" in upward
    assert offences("mirage_cli.lsd.model", {"mirage_cli.runs.live"}) == ["mirage_cli.runs.live"]
    assert offences("mirage_cli.engine.ops", {"mirage_cli.lsd.model"}) == ["mirage_cli.lsd.model"]
    assert offences("mirage_cli.stream.session", {"mirage_cli.lsd.model"}) == ["mirage_cli.lsd.model"]
    assert offences("mirage_cli.errors", {"mirage_cli.frames"}) == ["mirage_cli.frames"]
    assert offences("mirage_cli.bench.run", {"mirage_cli.commands.bench"}) == ["mirage_cli.commands.bench"]
    assert offences("mirage_cli.lsd.model", {"mirage_cli.engine.ops", "mirage_cli.errors"}) == []
    assert "mirage_cli.kernels" in FILES and "mirage_cli.models.catalog" in FILES
