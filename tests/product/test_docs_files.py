"""docs/files.md and docs/troubleshooting.md: their commands run, their messages are the program's.

That the commands of all pages parse is tested in test_docs_pages.py.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from helpers import media
from helpers.paths import FAKES, ROOT
from mirage_cli.kernels import build

PAGES = sorted((ROOT / "docs").glob("*.md"))
RUN = ("files.md", "troubleshooting.md")


def lines_of(page: Path) -> list[str]:
    """Command lines of a page's sh blocks, without comments; a backslash joins lines."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and line.strip()[0] != "#"]


LINES = [(name, line) for name in RUN for line in lines_of(ROOT / "docs" / name) if "mirage " in line]


@pytest.mark.slow
@pytest.mark.parametrize("page, line", LINES, ids=[line[:60] for _, line in LINES])
def test_the_commands_run_as_they_stand(page, line, tmp_path):
    """In bash, on a short clip under the example's name, with a stand-in for the model."""
    (tmp_path / "examples").mkdir()
    clip = media.clip(tmp_path / "examples" / "bunny.mp4", seconds=1.6, fps=10)
    (tmp_path / "-odd-name.mp4").write_bytes(clip.read_bytes())
    before = set(os.listdir(tmp_path))
    fake = f'mirage() {{ "{sys.executable}" "{FAKES}" "$@"; }}'
    environment = dict(os.environ, PYTHONPATH=str(ROOT), FAKE_MODEL_MS="0")
    done = subprocess.run(
        ["bash", "-c", f"set -eo pipefail; {fake}; {line}"],
        cwd=tmp_path,
        timeout=120,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    assert done.returncode == 0, done.stderr.decode()
    made = set(os.listdir(tmp_path)) - before
    if " transform " in line:
        (name,) = made
        wanted = 6 if "--duration 2" in line else 16
        assert media.probe(tmp_path / name).frames == wanted


def test_scripts_that_the_pages_name_are_there():
    for page in PAGES:
        for name in re.findall(r"`?(tests/[\w/]+\.py|docs/[\w/.-]+\.(?:md|json|jpg|png))`?", page.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
    for name in RUN:
        assert (ROOT / "docs" / name).is_file()


NAMED = re.compile(r"(?<![\w./{}-])((?:[\w-]+/)*[\w-]+\.(?:py|cuh?|ptx|md))\b(?![\w(])")
PLACEHOLDERS = {"NAME.cu"}


def comments(source: Path) -> str:
    """The comments of a source, and the docstrings of a Python one."""
    text = source.read_text("utf-8")
    if source.suffix != ".py":
        return "\n".join(re.findall(r"//(.*)", text))
    found = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(ast.get_docstring(node) or "")
    return "\n".join(found)


def test_files_that_comments_and_pages_name_are_there():
    """By their path or the end of it: "conv.cuh", "engine/plan.py"."""
    folders = [ROOT / name for name in ("kernels", "mirage_cli", "models", "tests", "docs", "examples")]
    files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*.*"))]
    known = {"/".join(path.parts[-depth:]) for path in files for depth in range(1, 4)}
    by_hand = {source for source in build.sources().values() if source.suffix == ".ptx"}
    pages = [*PAGES, ROOT / "README.md", ROOT / "kernels" / "README.md"]
    python = [path for folder in folders for path in folder.rglob("*.py")]

    def unknown(text: str) -> list[str]:
        return [name for name in NAMED.findall(text) if name not in PLACEHOLDERS and name not in known]

    gone = {path: unknown(path.read_text("utf-8")) for path in (*(ROOT / "kernels").glob("*.cu*"), *by_hand, *python)}
    gone = {path: unknown(comments(path)) for path, names in gone.items() if names}  # most name nothing unknown
    gone |= {path: unknown(path.read_text("utf-8")) for path in pages}
    assert {path.name: names for path, names in gone.items() if names} == {}


def test_the_messages_of_troubleshooting_are_those_of_the_program():
    """What stands between backquotes in the first column is said somewhere in the sources."""
    sources = " ".join(
        path.read_text("utf-8") for folder in ("mirage_cli", "models") for path in (ROOT / folder).rglob("*.py")
    )
    plain = re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", sources))
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), re.M)
    assert len(rows) > 12
    for row in rows:
        for message in re.findall(r"`([^`]+)`", row):
            # Numbers, names and what stands for them vary: the words between them do not.
            for part in re.split(r"\.\.\.|'[^']*'|\d[\d.]*|[:;]", message):
                assert part.strip() in plain, f"{message!r}: {part.strip()!r}"
