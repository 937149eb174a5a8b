"""The flags of the command line: their types, their groups in the help, and where else they come
from. Every flag may also be set by ``MIRAGE_<FLAG>`` or in the file of ``--config``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from mirage_cli.commands.terminal import Call
from mirage_cli.config import BACKENDS, DTYPES, PIPE, ModelOptions, load_config_file, parse_seconds, parse_size
from mirage_cli.control.schema import BY_NAME
from mirage_cli.errors import UsageProblem

SOURCE, OUTPUT, LOOK, CONTROL, MODEL, RUN = "Input", "Output", "Look", "Control", "Model", "Run"
SECTIONS = (SOURCE, LOOK, OUTPUT, CONTROL, MODEL, RUN)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


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
            raise UsageProblem(f"{what} {str(value)!r} is not more than 0 seconds", "Leave it away to take all.")
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


STRENGTH = NumberType(BY_NAME["strength"].low, BY_NAME["strength"].high)
SEED = click.IntRange(int(BY_NAME["seed"].low), int(BY_NAME["seed"].high))
BLEND_SECONDS = SecondsType(most=BY_NAME["blend_seconds"].high)
"""What may be set while a stream runs has one table of what is allowed: ``control.schema``."""


class PromptType(click.ParamType):
    """Text; in MIRAGE_PROMPT several are parted by semicolons."""

    name = "text"
    envvar_list_splitter = ";"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(value)


class DeviceType(click.ParamType):
    """auto, cpu, cuda or cuda:N."""

    name = "device"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        text = str(value).strip().lower()
        kind, _, number = text.partition(":")
        plain = text in ("auto", "cpu", "cuda")
        if not plain and not (kind == "cuda" and number.isdecimal()):
            raise UsageProblem(
                f"device {value!r} is not one of auto, cpu, cuda, cuda:N",
                "Leave --device away to take the best there is.",
            )
        return text


class SectionOption(click.Option):
    """An option with a place in the help and an environment variable of its own."""

    def __init__(self, *args: Any, section: str = RUN, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        if self.envvar is None and kwargs.get("envvar", "") is not None and self.name:
            self.envvar = "MIRAGE_" + self.name.upper()


class TerminalHelp(click.Command):
    """A command whose help goes out as every result does; see ``Terminal.print``."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


def _show_help(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.ensure_object(Call).terminal.print(ctx.get_help())
        ctx.exit()


class SectionCommand(TerminalHelp):
    """A command whose help lists its options by group."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", CONTEXT)
        super().__init__(*args, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups[getattr(param, "section", RUN)].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(f"{name} options"):
                    formatter.write_dl(records)


def option(*names: str, **kwargs: Any) -> Decorator:
    """``click.option`` with a section and ``MIRAGE_*``."""
    return click.option(*names, cls=SectionOption, **kwargs)


def stack(*decorators: Decorator) -> Decorator:
    """Several decorators as one, the first given shown first."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _read_config(ctx: click.Context, _param: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    group = ctx.parent.command if ctx.parent is not None else ctx.command
    commands = getattr(group, "commands", {ctx.info_name: ctx.command})
    names = {name: _flag_names(command) for name, command in commands.items()}
    values = load_config_file(path, {name: set(flags) for name, flags in names.items()})
    mine = names.get(ctx.info_name or "", {})
    defaults = dict(ctx.default_map or {})
    for flag, value in values.get(ctx.info_name or "", {}).items():
        defaults[mine[flag].name or flag] = _as_typed(path, flag, mine[flag], value)
    ctx.default_map = defaults


def _as_typed(path: str, flag: str, param: click.Option, value: Any) -> Any:
    """A value of a file as the command line would give it: text, which the flag's type then reads.

    Raises:
        UsageProblem: a list where one value is wanted, or a table inside a list.
    """
    values = value if isinstance(value, list) else [value]
    nested = any(isinstance(item, (list, dict)) for item in values)
    if nested or (isinstance(value, list) and not param.multiple):
        raise UsageProblem(
            f"config file {path!r}: {flag} is {str(value)[:60]!r}, which --{flag.replace('_', '-')} cannot be",
            f"One value, as in: {flag} = ..., or for --prompt a list of texts.",
        )
    if param.is_flag and isinstance(value, bool):
        return value
    return [str(item) for item in values] if param.multiple else str(value)


def _flag_names(command: click.Command) -> dict[str, click.Option]:
    """``blend_seconds`` -> the option ``--blend-seconds``, for all that a file may set."""
    return {
        name.lstrip("-").replace("-", "_"): param
        for param in command.params
        if isinstance(param, click.Option) and param.name not in ("config", "debug")
        for name in param.opts
        if name.startswith("--")
    }


config_options = stack(
    option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of defaults; keys are flag names, at the top or under [transform] and so "
        "on. A flag wins over MIRAGE_<FLAG>, and that over the file.",
    ),
    option("--debug", is_flag=True, expose_value=False, envvar=None, help="Show the traceback of an error."),
)

report_options = stack(
    option(
        "--json/--no-json",
        "as_json",
        default=False,
        envvar="MIRAGE_JSON",
        help="Print one JSON document on standard output at the end.",
    ),
    option("-q", "--quiet", is_flag=True, help="Print errors only."),
    option("-v", "--verbose", count=True, help="Log what happens inside; -vv logs more."),
    option(
        "--progress/--no-progress",
        default=True,
        help="Show the dashboard; on by default, plain lines where stderr is no terminal.",
    ),
)

prompt_option = option(
    "-p",
    "--prompt",
    "prompts",
    multiple=True,
    type=PromptType(),
    section=LOOK,
    envvar="MIRAGE_PROMPT",
    metavar="TEXT",
    help='The look, in words. Several with times make a schedule (-p "0:ink wash" -p "5s:night"); '
    'weights make a mix (-p "0.5*ink wash + 0.5*night").',
)

look_options = stack(
    prompt_option,
    option(
        "--strength",
        type=STRENGTH,
        default=1.0,
        show_default=True,
        section=LOOK,
        metavar="0..1",
        help="0 returns the input, 1 is the look in full.",
    ),
)


reconnect_option = option(
    "--reconnect",
    type=click.IntRange(0, 1000),
    default=10,
    show_default=True,
    section=SOURCE,
    metavar="N",
    help="Attempts in a row to open a lost stream again, in or out; 0 ends at the first loss, of a camera too.",
)


patience_options = stack(
    option(
        "--timeout",
        "timeout_seconds",
        type=SecondsType(positive=True),
        default=10.0,
        show_default=True,
        section=SOURCE,
        envvar="MIRAGE_TIMEOUT",
        metavar="SECONDS",
        help="A source or output that gives or takes nothing for so long is lost.",
    ),
    reconnect_option,
)


pace_options = stack(
    option(
        "--target-fps",
        type=NumberType(0, 1000, min_open=True),
        section=MODEL,
        metavar="N",
        help="Hold this rate: fewer sampler steps, then a smaller size inside; back when there is time.",
    ),
    option(
        "--skip-similar",
        type=NumberType(0.0, 255.0),
        default=0.0,
        section=MODEL,
        metavar="LEVELS",
        help="Do not make a frame anew that differs from the last by less than "
        "this anywhere (of 255 levels, in the mean of a small field); 2 is a good start, 0 makes all.",
    ),
)


class OutputType(click.ParamType):
    """A name; in MIRAGE_OUTPUT several are parted by line breaks."""

    name = "file"
    envvar_list_splitter = "\n"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(value)


def output_option(text: str) -> Decorator:
    """``-o``, which may be given several times."""
    return option(
        "-o",
        "--output",
        multiple=True,
        type=OutputType(),
        section=OUTPUT,
        envvar="MIRAGE_OUTPUT",
        metavar="FILE|URL|-",
        help=text,
    )


def _check_stdout(output: str | None, as_json: bool) -> None:
    """Raises:
    UsageProblem: standard output is asked for the video, and cannot carry it.
    """
    if output != PIPE:
        return
    if as_json:
        raise UsageProblem(
            "--json and a video on standard output do not go together", "Write the video to a file: -o out.mp4"
        )
    if sys.stdout.isatty():
        raise UsageProblem(
            "a video on standard output would fill the terminal",
            "Pipe it on (| ffplay -), or write to a file: -o out.mp4",
        )


def take_outputs(values: dict[str, Any], as_json: bool) -> None:
    """Part the outputs into the first and the others.

    Raises:
        UsageProblem: standard output is asked for twice, is a terminal, or is wanted for --json.
    """
    outputs = list(values["output"])
    for name in outputs:
        _check_stdout(name, as_json)
    if len(outputs) > 1:
        from mirage_cli.outputs.names import check_named_once

        check_named_once(outputs)
    values["output"] = outputs[0] if outputs else None
    values["more_outputs"] = tuple(outputs[1:])


def blend_option(default: float) -> Decorator:
    """``--blend-seconds`` with its default."""
    return option(
        "--blend-seconds",
        type=BLEND_SECONDS,
        default=default,
        show_default=True,
        section=LOOK,
        metavar="SECONDS",
        help="How long one look takes to become the next.",
    )


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """-m, --device, --dtype, --backend, --steps, --seed, --guard."""
    return stack(
        option(
            "-m",
            "--model",
            default="lsd-small",
            show_default=True,
            section=MODEL,
            metavar="NAME|FOLDER",
            help="A model of 'mirage models', or a model's folder.",
        ),
        option(
            "--device",
            type=DeviceType(),
            default="auto",
            show_default=True,
            section=MODEL,
            metavar="DEVICE",
            help="auto, cpu, cuda or cuda:N.",
        ),
        option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="auto",
            show_default=True,
            section=MODEL,
            help="Number format of the network.",
        ),
        option(
            "--backend",
            type=click.Choice(BACKENDS),
            default="auto",
            show_default=True,
            section=MODEL,
            help="Who computes: hand-written PTX kernels or torch.",
        ),
        option(
            "--steps",
            type=click.IntRange(1, 4),
            default=1,
            show_default=True,
            section=MODEL,
            metavar="1..4",
            help="Sampler steps a frame.",
        ),
        option(
            "--seed",
            type=SEED,
            default=0,
            show_default=True,
            section=MODEL,
            metavar="N",
            help="Of all noise; same seed, same video on the CPU.",
        ),
        option("--guard/--no-guard", default=True, section=MODEL, help="Watch for drift and re-anchor the stream."),
    )(command)


def encode_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--codec, --crf, --format, --sound, --compare, -y/-n."""
    return stack(
        option(
            "--codec",
            section=OUTPUT,
            metavar="NAME",
            help="Video codec, as ffmpeg names it (libx264, libx265, libvpx-vp9, ffv1).",
        ),
        option(
            "--crf",
            type=click.IntRange(0, 63),
            section=OUTPUT,
            metavar="N",
            help="Quality: lower is better and bigger; libx264 takes 0..51.",
        ),
        option(
            "--format",
            type=click.Choice(("matroska", "mpegts", "y4m", "rawvideo")),
            section=OUTPUT,
            help="What goes through -o -; matroska by default, rawvideo is RGB24.",
        ),
        option(
            "--sound/--no-sound", default=True, section=OUTPUT, help="Take the sound along where the input has any."
        ),
        option("--compare/--no-compare", default=False, section=OUTPUT, help="Write input and output side by side."),
        option(
            "-y/-n",
            "--overwrite/--no-overwrite",
            default=None,
            section=OUTPUT,
            help="Replace an existing output, or refuse to. Neither: asks on a terminal, refuses elsewhere.",
        ),
    )(command)


def take_model_options(values: dict[str, Any]) -> ModelOptions:
    """Move the model's flags out of a command's values into ``ModelOptions``."""
    names = ("model", "device", "dtype", "backend", "steps", "strength", "seed", "guard")
    return ModelOptions(**{name: values.pop(name) for name in names if name in values})
