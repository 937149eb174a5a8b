"""ffmpeg's program, its command line and its words stand in one room."""

from __future__ import annotations

import re

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "mirage_cli"
OUTSIDE = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "media")
# Programs that are not ffmpeg.
OTHER_PROGRAMS = {"runs/machine.py": "git and nvidia-smi"}
PROGRAM = re.compile(r"^\s*(?:import|from) (ffmpeg|imageio_ffmpeg|subprocess)\b", re.M)
OPTIONS = re.compile(r"""["']-?(?:c:v|c:a|loglevel|hide_banner|fps_mode|pix_fmt|analyzeduration|probesize|f=nut)["']""")
WORDS = re.compile(r"No space left on device\" in|Broken pipe\" in|Output #0|Input #0|Stream #")


@pytest.mark.parametrize("path", OUTSIDE, ids=[str(path.relative_to(PACKAGE)) for path in OUTSIDE])
def test_no_other_room_knows_it(path):
    text = path.read_text("utf-8")
    found = {match[1] for match in PROGRAM.finditer(text)}
    if str(path.relative_to(PACKAGE)) in OTHER_PROGRAMS:
        found.discard("subprocess")
    assert not found
    assert not OPTIONS.search(text)
    assert not WORDS.search(text)


def test_the_rule_sees_what_it_must():
    assert PROGRAM.search("    import imageio_ffmpeg\n") and PROGRAM.search("import subprocess\n")
    assert OPTIONS.search('settings = {"c:v": "copy"}') and OPTIONS.search("['-loglevel', 'error']")
    assert WORDS.search('if "Output #0" in line:')
    assert not PROGRAM.search("from mirage_cli.media.ffmpeg import find_ffmpeg\n")
