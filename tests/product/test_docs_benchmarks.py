"""docs/benchmarks holds what the documents cite, each file with what was measured, on what, and at which commit."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "benchmarks"
DOCUMENTS = sorted(FOLDER.glob("*.json"))
CITING = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "models").glob("*/MODEL_CARD.md"))]
TABLE_ROW = re.compile(r"^\| `([\w-]+\.json)` \|.*\| ([0-9a-f]{7,}) \|$", re.M)


def load(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_is_cited_by_its_path(path: Path) -> None:
    name = f"docs/benchmarks/{path.name}"
    assert any(name in page.read_text("utf-8") for page in CITING), f"{name} is cited nowhere: remove it"


def test_what_is_cited_is_there() -> None:
    cited = {name for page in CITING for name in re.findall(r"docs/benchmarks/([\w-]+\.json)", page.read_text("utf-8"))}
    assert cited <= {path.name for path in DOCUMENTS}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_says_what_was_measured_where_and_at_which_commit(path: Path) -> None:
    document = load(path)
    assert document.get("command") or document.get("what")
    assert document["hardware"]["cpu"] and document["hardware"]["cpu_cores"]
    assert document["versions"]
    assert re.fullmatch(r"[0-9a-f]{7,12}", document["commit"])


def test_commits_are_in_the_history() -> None:
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no git, or a clone without the history")
    for path in DOCUMENTS:
        document = load(path)
        hashes = [document["commit"], *re.findall(r"\b[0-9a-f]{7,12}\b", document.get("commit_note", ""))]
        for commit in hashes:
            assert git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0, f"{path.name} names {commit}"


def test_the_table_of_the_folder_is_complete() -> None:
    rows = dict(TABLE_ROW.findall((FOLDER / "README.md").read_text("utf-8")))
    assert rows == {path.name: load(path)["commit"] for path in DOCUMENTS}
