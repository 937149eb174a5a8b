"""Where things are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The clone."""
FAKES = ROOT / "tests" / "helpers" / "fakes.py"
"""``mirage`` with a stand-in for the model, to be run as a program."""
