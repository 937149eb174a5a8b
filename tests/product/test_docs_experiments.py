"""docs/experiments.md: every entry has a verdict in its title and a date, and stands in the contents."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "experiments.md").read_text("utf-8")
VERDICT = re.compile(r" \((adopted|fixed|mixed|measurement|negative(, by arithmetic)?)\)$")
ENTRIES = re.findall(r"^### (.*)$", PAGE, re.M)


def anchor(title: str) -> str:
    """The link that a heading gets on a code host."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_entry_has_a_verdict_and_a_date() -> None:
    assert len(ENTRIES) > 40
    assert not [title for title in ENTRIES if not VERDICT.search(title)]
    dated = re.findall(r"^### .*\n\*20\d\d-\d\d-\d\d\.\* \S", PAGE, re.M)
    assert len(dated) == len(ENTRIES)


def test_the_contents_list_every_entry_in_order() -> None:
    contents = PAGE.split("\n## Contents\n")[1].split("\n## ")[0]
    assert re.findall(r"^  - \[(.*)\]\(#.*\)$", contents, re.M) == ENTRIES


def test_links_inside_the_page_lead_to_a_heading() -> None:
    anchors = [anchor(title) for title in re.findall(r"^##+ (.*)$", PAGE, re.M)]
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= set(anchors)
