"""What can be set while a stream runs, and the check of every value.

One table, ``FIELDS``, is behind the JSON messages of the control socket, OSC addresses, lines typed
at the dashboard, presets, the ranges of the flags and ``docs/control.md``. Whatever comes in becomes
a ``Change``; a ``Change`` that exists is one that is allowed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mirage_cli.errors import UsageProblem, short

MAX_PROMPT = 1000
MAX_LOOKS = 64
MAX_SEED = 2**63 - 1
MAX_BLEND_SECONDS = 600.0
MAX_MESSAGE_BYTES = 16 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Field:
    """One thing that can be set.

    Attributes:
        name: the key in JSON, the address in OSC, the word after ``/`` at the keyboard.
        kind: text, name, number, integer, weights, switch (on or off) or trigger (do it once).
        about: one sentence for the docs.
        example: a value, as JSON has it.
        low, high: of a number, both allowed.
        preset: it may stand in a preset.
    """

    name: str
    kind: str
    about: str
    example: Any
    low: float = -math.inf
    high: float = math.inf
    preset: bool = False

    def allowed(self) -> str:
        """The values it takes, in words."""
        if self.kind in ("number", "integer"):
            whole = "a whole number" if self.kind == "integer" else "a number"
            return f"{whole} from {self.low:g} to {self._high_text()}"
        return {
            "text": f"text of 1 to {MAX_PROMPT} characters",
            "name": "a name of letters, digits, dots, dashes and underscores",
            "weights": f"an object of 1 to {MAX_LOOKS} looks, each with a weight from 0 up, not all 0",
            "switch": "true or false",
            "trigger": "true",
        }[self.kind]

    def _high_text(self) -> str:
        return "2**63 - 1" if self.high == MAX_SEED else f"{self.high:g}"


FIELDS: tuple[Field, ...] = (
    Field("prompt", "text", "The look, in words; a mix as in `0.5*ink wash + 0.5*night`.", "ink wash", preset=True),
    Field(
        "blend",
        "weights",
        "Weights of looks by name, instead of a prompt; scaled to a sum of 1.",
        {"ink-wash": 0.7, "starry-night": 0.3},
        preset=True,
    ),
    Field("strength", "number", "0 returns the input, 1 is the look in full.", 0.8, 0.0, 1.0, preset=True),
    Field(
        "blend_seconds",
        "number",
        "How long one look takes to become the next, from now on.",
        2.0,
        0.0,
        MAX_BLEND_SECONDS,
        preset=True,
    ),
    Field("seed", "integer", "Of all noise.", 7, 0, MAX_SEED, preset=True),
    Field("model", "name", "A model by its name in `mirage models`; the prompt is kept.", "lsd-small", preset=True),
    Field(
        "preset",
        "name",
        "A shipped preset by its name in `mirage presets`; other fields of the same message win over it.",
        "soft-watercolour",
    ),
    Field("pause", "switch", "Hold the last picture; the model rests and the output goes on.", True),
    Field("record", "switch", "Begin or end a recording: a new file in `--record-folder`.", True),
    Field("snapshot", "trigger", "Write the next picture as a PNG into `--record-folder`.", True),
    Field("reset", "trigger", "Forget all past frames; prompt, strength and the rest stay.", True),
    Field("quit", "trigger", "End the run; files are finished.", True),
)
BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}


@dataclass(frozen=True)
class Change:
    """What is asked for in one message; None is "as it was". The attributes are ``FIELDS``.

    ``id`` is the sender's own mark, given back with the acknowledgement.
    """

    prompt: str | None = None
    blend: Mapping[str, float] | None = None
    strength: float | None = None
    blend_seconds: float | None = None
    seed: int | None = None
    model: str | None = None
    preset: str | None = None
    pause: bool | None = None
    record: bool | None = None
    snapshot: bool | None = None
    reset: bool | None = None
    quit: bool | None = None
    id: str | int | None = None

    def values(self) -> dict[str, Any]:
        """What is set, by name, without the id."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "id" and getattr(self, field.name) is not None
        }


class ChangeRefused(UsageProblem):
    """A message that is not allowed.

    Attributes:
        mark: the sender's ``id``, given back so that it knows which one.
    """

    def __init__(self, mark: str | int | None, cause: UsageProblem) -> None:
        super().__init__(cause.message, cause.remedy)
        self.mark = mark


def make_change(data: Any, what: str = "message") -> Change:
    """Check a mapping of field names to values.

    Raises:
        UsageProblem: not a mapping, or an id that is not allowed.
        ChangeRefused: empty, an unknown field, or a value that is not allowed.
    """
    if not isinstance(data, dict):
        raise UsageProblem(f"{what}: a {_type_name(data)} is not an object of fields", 'Send {"strength": 0.5}.')
    given = dict(data)
    mark = given.pop("id", None)
    if not (mark is None or (isinstance(mark, (str, int)) and len(str(mark)) <= 100)):
        raise UsageProblem(
            f"{what}: id must be a text or whole number of at most 100 characters", "Omit it, or count 1, 2, 3."
        )
    try:
        return _checked(given, mark, what)
    except UsageProblem as error:
        raise ChangeRefused(mark, error) from error


def _checked(given: dict[str, Any], mark: str | int | None, what: str) -> Change:
    if not given:
        raise UsageProblem(f"{what}: no field is set", f"There are: {', '.join(BY_NAME)}.")
    for name in given:
        if name not in BY_NAME:
            raise UsageProblem(f"{what}: no field {short(repr(name))}", f"There are: {', '.join(BY_NAME)}.")
    if "prompt" in given and "blend" in given:
        raise UsageProblem(f"{what}: prompt and blend exclude each other", "Send one of them.")
    return Change(id=mark, **{name: check(BY_NAME[name], value) for name, value in given.items()})


def parse_message(text: str | bytes) -> Change:
    """A JSON message of at most ``MAX_MESSAGE_BYTES`` bytes.

    Raises:
        UsageProblem: too long, not JSON, or what ``make_change`` refuses.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise UsageProblem(f"message of {len(text)} bytes; allowed: {MAX_MESSAGE_BYTES}", "Send one change a message.")
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageProblem(f"message is not JSON: {short(repr(reason))}", 'Send {"strength": 0.5}.') from error
    return make_change(data)


def parse_line(line: str) -> Change:
    """A line typed at the dashboard: a prompt, or ``/field value``.

    ``/blend ink-wash=0.7 night=0.3``; a switch without a value is on; a trigger takes none.

    Raises:
        UsageProblem: an unknown field or a value that is not allowed.
    """
    if not line.startswith("/"):
        return make_change({"prompt": line}, "line")
    word, _, rest = line[1:].strip().partition(" ")
    rest = rest.strip()
    name = word.lower().replace("-", "_")
    name = "quit" if name == "q" else name
    field = BY_NAME.get(name)
    if field is None:
        known = ", ".join(f"/{item.name.replace('_', '-')}" for item in FIELDS)
        raise UsageProblem(f"{line!r} is not a command here", f"There are: {known}.")
    return make_change({name: _FROM_TEXT[field.kind](field, rest)}, "line")


def from_arguments(name: str, arguments: tuple[Any, ...], look: str | None = None) -> Change:
    """An OSC message: field name, its arguments, and for ``/blend/LOOK`` the look.

    Numbers stand for switches and triggers (0 is off, as a button sends when it is released); a trigger
    that is released raises ``Released``.

    Raises:
        UsageProblem: an unknown field or a value that is not allowed.
    """
    field = BY_NAME.get(name)
    if field is None:
        raise UsageProblem(f"no field {short(repr(name))}", f"There are: {', '.join(BY_NAME)}.")
    value: Any = arguments[0] if arguments else True
    if field.kind in ("switch", "trigger") and isinstance(value, (int, float)):
        value = bool(value)
    if field.kind == "trigger" and value is False:
        raise Released
    if field.kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if field.kind == "weights":
        value = {look: value} if look is not None else dict(zip(arguments[::2], arguments[1::2]))
    return make_change({name: value})


class Released(Exception):
    """A button was released: nothing to do."""


# --- checks ----------------------------------------------------------------------------------------


def check(field: Field, value: Any) -> Any:
    """The value, checked and in its plain type.

    Raises:
        UsageProblem: not allowed; says what is.
    """
    try:
        return _CHECKS[field.kind](field, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageProblem(
            f"{field.name} {short(repr(value))}; allowed: {field.allowed()}",
            f"As in {json.dumps({field.name: field.example})}.",
        ) from error


def _text(_field: Field, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_PROMPT:
        raise ValueError
    value.encode("utf-8")  # half a surrogate pair, which JSON lets through, could not be written out again
    return value.strip()


def is_name(value: Any) -> bool:
    """Whether a model or a preset may be called so."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _name(_field: Field, value: Any) -> str:
    if not is_name(value):
        raise ValueError
    return value


def _number(field: Field, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    number = float(value)
    if not field.low <= number <= field.high:  # NaN as well
        raise ValueError
    return number


def _integer(field: Field, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not field.low <= value <= field.high:
        raise ValueError
    return value


def _weights(_field: Field, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_LOOKS:
        raise ValueError
    for look, weight in value.items():
        if not isinstance(look, str) or not _NAME.fullmatch(look):
            raise ValueError
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError
        if not 0.0 <= float(weight) <= 1e6:
            raise ValueError
    total = math.fsum(value.values())
    if not total > 0:
        raise ValueError
    return {look: weight / total for look, weight in value.items() if weight > 0}


def _switch(_field: Field, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _trigger(_field: Field, value: Any) -> bool:
    if value is not True:
        raise ValueError
    return True


_CHECKS: dict[str, Callable[[Field, Any], Any]] = {
    "text": _text,
    "name": _name,
    "number": _number,
    "integer": _integer,
    "weights": _weights,
    "switch": _switch,
    "trigger": _trigger,
}


def _number_from_text(field: Field, text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return check(field, text)  # says what is allowed


def _integer_from_text(field: Field, text: str) -> Any:
    return int(text) if re.fullmatch(r"[+-]?\d{1,20}", text) else check(field, text)


def _weights_from_text(field: Field, text: str) -> Any:
    pairs = [part.partition("=") for part in text.replace(",", " ").split()]
    return {look: _number_from_text(field, weight) for look, _, weight in pairs}


def _switch_from_text(field: Field, text: str) -> Any:
    words = {"": True, "on": True, "true": True, "off": False, "false": False}
    return words[text.lower()] if text.lower() in words else check(field, text)


_FROM_TEXT: dict[str, Callable[[Field, str], Any]] = {
    "text": lambda field, text: text,
    "name": lambda field, text: text,
    "number": _number_from_text,
    "integer": _integer_from_text,
    "weights": _weights_from_text,
    "switch": _switch_from_text,
    "trigger": lambda field, text: True if not text else check(field, text),
}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _type_name(value: Any) -> str:
    return {list: "list", str: "text", type(None): "null"}.get(type(value), type(value).__name__)


def json_schema() -> dict[str, Any]:
    """The same as a JSON Schema (2020-12), for ``GET /api/schema`` and other programs."""
    kinds: dict[str, Callable[[Field], dict[str, Any]]] = {
        "text": lambda f: {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT},
        "name": lambda f: {"type": "string", "pattern": f"^{_NAME.pattern}$"},
        "number": lambda f: {"type": "number", "minimum": f.low, "maximum": f.high},
        "integer": lambda f: {"type": "integer", "minimum": f.low, "maximum": f.high},
        "weights": lambda f: {
            "type": "object",
            "minProperties": 1,
            "maxProperties": MAX_LOOKS,
            "additionalProperties": {"type": "number", "minimum": 0},
        },
        "switch": lambda f: {"type": "boolean"},
        "trigger": lambda f: {"const": True},
    }
    properties = {f.name: {"description": f.about, **kinds[f.kind](f)} for f in FIELDS}
    properties["id"] = {"description": "Given back with the answer.", "type": ["string", "integer"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mirage control message",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
        "not": {"required": ["prompt", "blend"]},
    }
