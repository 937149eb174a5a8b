"""Presets: a look and its settings under a name, in TOML.

    about = "Soft watercolour, half as strong"
    prompt = "watercolour on rough paper"
    strength = 0.5

The keys are those fields of ``schema.FIELDS`` that a preset may hold. ``presets.toml`` next to this file
holds the shipped ones, a table each; a user's file is one table.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_cli.config import parse_toml
from mirage_cli.control.schema import FIELDS, Change, is_name, make_change
from mirage_cli.errors import MediaError, UsageProblem, reason_of
from mirage_cli.outputs.part_names import write_whole

MAX_FILE_BYTES = 64 * 1024
KEYS = tuple(field.name for field in FIELDS if field.preset)
SHIPPED = Path(__file__).with_name("presets.toml")


@dataclass(frozen=True)
class Preset:
    """A preset: its name, a sentence about it, and what it sets."""

    name: str
    about: str
    change: Change

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"name": self.name, "about": self.about, **self.change.values()}


def _loads(text: str, what: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise UsageProblem(f"{what} is not TOML: {reason}", 'A line looks like: prompt = "ink wash"') from error


def make_preset(name: str, table: dict[str, Any], what: str) -> Preset:
    """Check a table of keys.

    Raises:
        UsageProblem: an unknown key, or a value that is not allowed.
    """
    values = dict(table)
    about = values.pop("about", "")
    if not isinstance(about, str) or len(about) > 200:
        raise UsageProblem(
            f"{what}: about is not a text of at most 200 characters", 'As in: about = "for the last song"'
        )
    for key in values:
        if key not in KEYS:
            raise UsageProblem(f"{what}: no key {key!r}", f"There are: about, {', '.join(KEYS)}.")
    return Preset(name, about, make_change(values, what))


@functools.cache
def shipped_presets() -> tuple[Preset, ...]:
    """What comes with mirage."""
    tables = _loads(SHIPPED.read_text("utf-8"), SHIPPED.name)
    return tuple(make_preset(name, table, f"preset {name}") for name, table in tables.items())


def shipped_preset(name: str) -> Change:
    """What a shipped preset sets.

    Raises:
        UsageProblem: no preset has that name.
    """
    for preset in shipped_presets():
        if preset.name == name:
            return preset.change
    raise UsageProblem(f"no preset {name!r}", f"There are: {', '.join(p.name for p in shipped_presets())}.")


def load_preset(name_or_path: str) -> Preset:
    """A shipped preset by name, or a file (anything with a dot or a slash in it).

    Raises:
        UsageProblem: no such preset, or a file that cannot be read or is not a preset.
    """
    if not any(mark in name_or_path for mark in "./\\"):
        change = shipped_preset(name_or_path)
        return next(p for p in shipped_presets() if p.change is change)
    what = f"preset file {name_or_path!r}"
    try:
        with open(name_or_path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UsageProblem(
                f"{what} is longer than {MAX_FILE_BYTES} bytes", "mirage presets lists the shipped ones."
            )
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:  # a null byte in the name, or bytes that are not UTF-8
        raise UsageProblem(
            f"{what} cannot be read: {reason_of(error)}", "mirage presets lists the shipped ones."
        ) from error
    return make_preset(Path(name_or_path).stem, _loads(text, what), what)


def flag_values(change: Change) -> dict[str, Any]:
    """A preset as values of flags: weights become a prompt such as ``0.7*ink-wash + 0.3*night``."""
    values = change.values()
    if (blend := values.pop("blend", None)) is not None:
        values["prompt"] = blend_prompt(blend)
    return values


def blend_prompt(blend: Any) -> str:
    """{look: weight} in the grammar of prompts."""
    return " + ".join(f"{round(weight, 4)}*{look}" for look, weight in blend.items())


def toml_text(values: dict[str, Any], about: str = "") -> str:
    """A preset's file: the keys of ``KEYS`` among ``values``, but a model that is a folder and has no name."""
    lines = [f"about = {_toml(about)}"] if about else []
    if "model" in values and not is_name(values["model"]):
        values = {**values, "model": None}
    lines += [f"{key} = {_toml(values[key])}" for key in KEYS if values.get(key) is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for surrogate pairs and DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def save_preset(path: str, values: dict[str, Any], about: str = "", overwrite: bool = False) -> None:
    """Write a preset's file, whole or not at all.

    Raises:
        MediaError: it exists, or cannot be written.
    """
    remedy = "Give another name, as in my-look.toml"
    if os.path.exists(path) and not overwrite:
        raise MediaError(f"{path!r} exists", f"{remedy}, or add -y to replace it.")
    try:
        write_whole(Path(path), toml_text(values, about).encode("utf-8"))
    except (OSError, ValueError) as error:
        raise MediaError(f"{path!r} cannot be written: {reason_of(error)}", remedy) from error
