"""Types of the values of flags: how text becomes a value, and what is refused."""

from __future__ import annotations

from typing import Any

import click

from mirage_cli.config import parse_seconds, parse_size
from mirage_cli.errors import UsageProblem


class SizeType(click.ParamType):
    """WIDTHxHEIGHT in pixels, or native."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if isinstance(value, tuple) else parse_size(str(value))


class SecondsType(click.ParamType):
    """A time: 7.5, 250ms or 1:30; more than 0 where ``positive``, and at most ``most`` seconds."""

    name = "time"

    def __init__(self, positive: bool = False, most: float | None = None) -> None:
        self.positive, self.most = positive, most

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        what = param.opts[-1] if param is not None else "time"
        seconds = parse_seconds(str(value), what)
        if self.positive and seconds <= 0.0:
            raise UsageProblem(f"{what} {str(value)!r} is not more than 0 seconds", "Omit it to take all.")
        if self.most is not None and seconds > self.most:
            raise UsageProblem(
                f"{what} {str(value)!r} is more than {self.most:g} seconds", f"Try {what} {self.most:g}."
            )
        return seconds


class NumberType(click.FloatRange):
    """A float in a range; NaN, which no comparison catches, is in none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"nan is not in the range {self._describe_range()}.", param, ctx)
        return number


class DeviceType(click.ParamType):
    """auto, cpu, cuda or cuda:N."""

    name = "device"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        text = str(value).strip().lower()
        kind, _, number = text.partition(":")
        plain = text in ("auto", "cpu", "cuda")
        if not plain and not (kind == "cuda" and number.isdecimal()):
            raise UsageProblem(
                f"device {value!r} is not one of auto, cpu, cuda, cuda:N", "Omit --device to use the best available."
            )
        return text


class NamesType(click.ParamType):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(name.strip() for name in str(value).split(",") if name.strip())


class TextType(click.ParamType):
    """Text as it is."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(value)


class PromptType(TextType):
    """A prompt; in MIRAGE_PROMPT several are separated by semicolons."""

    envvar_list_splitter = ";"


class OutputType(TextType):
    """The name of an output; in MIRAGE_OUTPUT several are separated by line breaks."""

    name = "file"
    envvar_list_splitter = "\n"
