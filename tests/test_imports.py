"""The direction of imports, where Click and Rich may be, and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers.paths import ROOT

FREE = {"errors", "frames", "config"}  # everyone may import these; they import none of the rest
SOURCES = {
    "mirage_cli": ROOT / "mirage_cli",
    "mirage_cli.kernels": ROOT / "kernels",
    "mirage_cli.models": ROOT / "models",
}
# What each layer may import besides FREE and itself. "rest" is all that is in no other layer:
# pipeline, live, bench, training, doctor and what they are made of.
ALLOWED = {
    "kernels": set(),
    "models": set(),
    "engine": {"kernels"},
    "lsd": {"engine", "models"},
    "rest": {"lsd", "engine", "models", "kernels"},
    "evaluation": {"rest", "lsd", "models"},  # measures what the rest makes; nothing there knows of it
    "dashboard": {"rest"},
    "cli": {"rest", "evaluation", "dashboard", "lsd", "models"},
}
MAX_LINES = 500


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


def layer(module: str) -> str:
    """The layer of a module of the project."""
    parts = module.split(".")[1:]
    if not parts:
        return "free"  # mirage_cli itself: the version
    if parts[0] in FREE:
        return "free"
    if parts[0] == "__main__" or parts[0].split("_")[0] == "cli":
        return "cli"
    return parts[0] if parts[0] in ALLOWED else "rest"


def project_imports(module: str) -> set[str]:
    path = FILES[module]
    names = imports_of(module, path.read_text("utf-8"), path.name == "__init__.py")
    return {name for name in names if name in FILES and name != module}


def offences(module: str, imported: set[str]) -> list[str]:
    own = layer(module)
    if own == "free":
        return [name for name in imported if layer(name) != "free"]
    allowed = ALLOWED[own] | {"free", own}
    return [name for name in imported if layer(name) not in allowed]


@pytest.mark.parametrize("module", sorted(FILES))
def test_direction(module: str) -> None:
    assert offences(module, project_imports(module)) == []


@pytest.mark.parametrize("module", sorted(FILES))
def test_click_and_rich_stay_at_the_top(module: str) -> None:
    path = FILES[module]
    names = imports_of(module, path.read_text("utf-8"), path.name == "__init__.py")
    tops = {name.split(".")[0] for name in names}
    if layer(module) != "cli":
        assert "click" not in tops
    if layer(module) not in ("cli", "dashboard"):
        assert "rich" not in tops


@pytest.mark.parametrize(
    "module", sorted(m for m in FILES if layer(m) in ("free", "models", "cli", "dashboard"))
)
def test_catalogue_settings_and_help_do_not_import_torch(module: str) -> None:
    path = FILES[module]
    names = imports_of(module, path.read_text("utf-8"), path.name == "__init__.py")
    assert "torch" not in {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", sorted(FILES))
def test_file_length_and_depth(module: str) -> None:
    path = FILES[module]
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines"
    assert module.count(".") <= 2, "one level of folders"


def test_no_cycles_at_import_time() -> None:
    """Imports at the top of modules form no ring."""
    edges: dict[str, set[str]] = {}
    for module, path in FILES.items():
        tree = ast.parse(path.read_text("utf-8"))
        top = ast.Module(
            [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], []
        )
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
    upward = imports_of("mirage_cli.lsd.stream", "def f():\n    from .. import pipeline\n", False)
    assert "mirage_cli.pipeline" in upward
    assert offences("mirage_cli.lsd.stream", {"mirage_cli.pipeline"}) == ["mirage_cli.pipeline"]
    assert offences("mirage_cli.engine.ops", {"mirage_cli.lsd.model"}) == ["mirage_cli.lsd.model"]
    assert offences("mirage_cli.errors", {"mirage_cli.cli"}) == ["mirage_cli.cli"]
    assert offences("mirage_cli.bench", {"mirage_cli.cli"}) == ["mirage_cli.cli"]
    assert offences("mirage_cli.bench", {"mirage_cli.evaluation.run"}) == ["mirage_cli.evaluation.run"]
    assert offences("mirage_cli.lsd.stream", {"mirage_cli.engine.ops", "mirage_cli.errors"}) == []
    assert "mirage_cli.kernels" in FILES and "mirage_cli.models.catalog" in FILES
