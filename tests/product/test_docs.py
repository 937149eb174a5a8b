"""README's commands do what they say, and what it points to is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from helpers.paths import ROOT

from mirage_cli.cli import cli

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M)
LINES = [line for block in BLOCKS for line in block.splitlines() if line and line[0] != "#"]
INSTALL, TEST = LINES[0], LINES[1]
MIRAGE = [part.strip() for line in LINES for part in line.split(" && ") if part.strip().startswith("mirage ")]


def option_given(words: list[str], *names: str) -> bool:
    return any(word.split("=")[0] in names for word in words)


def shortened(words: list[str]) -> list[str]:
    """The same command on less work: few small frames."""
    result = list(words)
    if words[0] in ("transform", "live"):
        seconds = "0.2" if words[0] == "transform" else "1"
        if option_given(words, "--duration"):
            result[result.index("--duration") + 1] = seconds
        else:
            result += ["--duration", seconds]
    if option_given(words, "--preview"):
        result[result.index("--preview") + 1] = "0"  # any free port
    if words[0] == "bench":
        result += ["--frames", "4", "--warmup", "1"]
    if words[0] == "eval":
        result += ["--frames", "64", "--looks", "night"]
    if words[0] in ("transform", "live", "bench", "eval") and not option_given(words, "--size"):
        result += ["--size", "160x96"]
    return result


def needs_a_person(words: list[str]) -> bool:
    """A camera, or a window to look at."""
    window = words[0] == "live" and not option_given(words, "--no-window", "-o", "--preview")
    return option_given(words, "--camera") or window


COMMANDS = [shlex.split(text, comments=True)[1:] for text in MIRAGE]


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words)[:40] for words in COMMANDS])
def test_every_documented_command_parses(words: list[str]) -> None:
    command = cli.commands[words[0]]
    context = command.make_context(words[0], words[1:], parent=click.Context(cli))
    assert context.params


RUNNABLE = [words for words in COMMANDS if not needs_a_person(words)]


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNNABLE, ids=[" ".join(words)[:40] for words in RUNNABLE])
def test_every_documented_command_runs(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-m", "mirage_cli", *shortened(words)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    if "-o" in words:
        out = tmp_path / words[words.index("-o") + 1]
        assert out.stat().st_size > 1000
    else:
        assert done.stdout.strip()


def test_readme_has_the_two_commands_and_the_examples() -> None:
    assert "pip install -c constraints.txt -e '.[test]'" in INSTALL
    assert "mirage transform examples/" in INSTALL and "--prompt" in INSTALL
    assert TEST == "python -m pytest -n 2 --dist loadfile"
    assert len([words for words in COMMANDS if words[0] not in ("bench",)]) >= 6
    assert {words[0] for words in COMMANDS} >= {"transform", "live", "bench", "models"}


def test_ci_runs_what_readme_says() -> None:
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()]
    assert TEST in lines
    install = next(part for part in INSTALL.split(" && ") if part.startswith("pip install"))
    assert install in [line.replace("pip install -q", "pip install") for line in lines]
    transform = next(part for part in INSTALL.split(" && ") if part.startswith("mirage transform"))
    assert any(line.startswith(transform.split(" -o ")[0]) for line in lines)


def test_ci_runs_the_checks_of_contributing() -> None:
    """Each of them, in that order, and no other check besides the install and README's example."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    checks = re.findall(r"^```sh\n(.*?)^```", page.split("\n## Checks\n")[1], re.S | re.M)[0].splitlines()
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()]
    programs = ("ruff", "mypy", "python -m", "python tests/")
    assert [line for line in lines if line.startswith(programs)] == checks


def test_files_that_readme_names_are_there() -> None:
    named = set(re.findall(r"`((?:\w[\w.-]*/)+[\w.-]+)`", README))
    named |= {path for path in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in path}
    named |= set(re.findall(r'src="([^"]+)"', README))
    named |= set(re.findall(r"\bexamples/[\w.-]+\w", README))
    assert named
    for path in sorted(named):
        assert (ROOT / path).exists(), f"README names {path}, which is not there"


def test_every_command_is_in_the_changelog_and_the_help_says_what_it_does() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for name, command in cli.commands.items():
        assert f"mirage {name}" in changelog
        assert command.help and command.help.strip()


def test_the_clip_is_credited() -> None:
    credits = (ROOT / "examples" / "CREDITS.md").read_text("utf-8")
    line = "Big Buck Bunny, (c) 2008 Blender Foundation | www.bigbuckbunny.org"
    assert line in credits and line in README.replace("\n", " ")
    for clip in (ROOT / "examples").glob("*.mp4"):
        assert clip.name in credits and clip.stat().st_size <= 1_000_000
