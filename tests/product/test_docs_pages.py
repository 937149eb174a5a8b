"""The pages of docs/: their commands parse, those of the control page run, and made pages are current.

The commands run with the stand-in model of ``helpers.fakes``; README's run with the real one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
from helpers import control_page
from helpers.control import running, url_of
from helpers.paths import FAKES, ROOT

from mirage_cli.cli import cli
from mirage_cli.control.schema import FIELDS

PAGES = sorted((ROOT / "docs").glob("*.md"))
CONTROL = (ROOT / "docs" / "control.md").read_text("utf-8")


def commands(text: str) -> list[list[str]]:
    """``mirage`` commands in a page's sh blocks, lines that end in a backslash joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"&&|\|(?![^\"']*[\"'])", line)]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("mirage ")]


ALL = [(page.name, words) for page in PAGES for words in commands(page.read_text("utf-8"))]


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page} {' '.join(words)[:50]}" for page, words in ALL])
def test_every_command_in_docs_parses(page: str, words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("softer", "mine"):
        (tmp_path / f"{name}.toml").write_text('prompt = "ink wash"\n')
    command = cli.commands[words[0]]
    assert command.make_context(words[0], words[1:], parent=click.Context(cli)).params is not None


def quick(words: list[str]) -> list[str]:
    """The same, short and on free ports."""
    for flag in ("--control", "--preview", "--osc"):
        if flag in words:
            words = [*words]
            words[words.index(flag) + 1] = "0"
    if words[0] == "bench":
        return [*words, "--frames", "5", "--warmup", "1", "--size", "160x96"]
    return [*words, "--duration", "0.5", "--size", "64x48"] if words[0] == "live" else words


@pytest.mark.slow
def test_the_commands_of_pages_run(tmp_path: Path) -> None:
    """All of the pages on control and the shell; of the others what needs no camera, sender or display."""
    ran = []
    for name, words in ALL:
        alone = "test" in words or words[:2] == ["bench", "--live"]
        if name in ("control.md", "shell.md") or (name in ("live.md", "obs.md") and alone and "-" not in words):
            done = subprocess.run(
                [sys.executable, str(FAKES), *quick(words)],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, (words, done.stderr)
            ran.append(words)
    assert (tmp_path / "softer.toml").read_text() and (tmp_path / "neon.mp4").stat().st_size > 500
    assert len(ran) >= 8


def test_the_examples_of_the_control_page_are_answered_as_it_says() -> None:
    with running(control="0") as run:
        example = re.search(r"^```python\n(.*?)^```", CONTROL, re.S | re.M)[1]
        done = subprocess.run(
            [sys.executable, "-c", example.replace("http://127.0.0.1:8765", url_of(run))],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stdout.startswith("applied at frame "), done.stderr
        line = re.search(r"^curl .*$", CONTROL, re.M)[0]
        if shutil.which("curl"):
            done = subprocess.run(
                ["sh", "-c", line.replace("http://127.0.0.1:8765", url_of(run))],
                capture_output=True,
                text=True,
                timeout=30,
            )
            answer = json.loads(done.stdout)
            shown = json.loads(re.search(r"^```json\n(.*?)^```", CONTROL, re.S | re.M)[1])
            assert answer.keys() == shown.keys() and answer["applied"] == shown["applied"] and answer["id"] == 1


def test_the_control_page_is_current() -> None:
    assert control_page.control_page() == CONTROL, "python tests/helpers/control_page.py > docs/control.md"
    for field in FIELDS:
        assert f"`{field.name}`" in CONTROL


def test_the_control_page_names_every_route() -> None:
    with running(preview="0") as run:
        server = run.live.steering.servers[0]
        url_of(run)
        there = {
            (route.method, route.resource.canonical)
            for route in server._runner.app.router.routes()
            if route.method != "HEAD"
        }
    told = {(method, path) for method, path, _ in control_page.ROUTES}
    assert there - told == {("GET", "/page.js"), ("GET", "/page.css"), ("GET", "/favicon.ico")}
    assert told <= there


def test_keyboard_examples_parse() -> None:
    from mirage_cli.control.schema import parse_line

    block = CONTROL.split("## At the keyboard")[1].split("##")[0]
    typed = [
        part.strip()
        for line in textwrap.dedent(block).splitlines()
        if line.strip().startswith(">")
        for part in re.split(r"\s{4,}", line.strip().lstrip("> "))
    ]
    assert len(typed) >= 6
    for line in typed:
        if not line.startswith("/save"):
            assert parse_line(line).values()


@pytest.mark.slow
def test_completion_is_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "shell.md").read_text("utf-8")
    (tmp_path / "mirage").write_text(f"#!{sys.executable}\nfrom mirage_cli.cli import main\nmain()\n")
    (tmp_path / "mirage").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def shell(line: str, **more: str) -> str:
        return subprocess.run(
            ["bash", "-c", line], env={**env, **more}, capture_output=True, text=True, timeout=60
        ).stdout

    for name in ("bash", "zsh", "fish"):
        assert f"_MIRAGE_COMPLETE={name}_source mirage" in page
        assert "mirage" in shell(f"_MIRAGE_COMPLETE={name}_source mirage")
    line = re.search(r"^eval .*bash_source.*$", page, re.M)[0]
    assert "_mirage_completion mirage" in shell(f"{line}; complete -p mirage")
    asked = {"_MIRAGE_COMPLETE": "bash_complete", "COMP_WORDS": "mirage live --preset s", "COMP_CWORD": "3"}
    assert "plain,soft-watercolour" in shell("mirage", **asked)


def test_pages_name_files_that_are_there() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        named = [name for name in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in name]
        for name in named + re.findall(r"`(docs/[\w./-]+)`", text):
            assert (page.parent / name).exists() or (ROOT / name).exists(), f"{page.name} names {name}"
