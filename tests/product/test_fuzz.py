"""Readers against random damage: seeded, time-boxed, and only the documented errors may come out.

``tests/bad_inputs.py`` runs the whole command line on a thousand cases; here are its first ones, as many
as fit into ``CLI_SECONDS``, and each reader by itself.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import struct
import time
from collections.abc import Callable

import bad_inputs
import pytest
from helpers import bad_cases, damage, media
from mirage_cli.models import catalog

from mirage_cli.config import load_config_file, parse_seconds, parse_size
from mirage_cli.control.presets import flag_values, load_preset
from mirage_cli.control.schema import parse_message
from mirage_cli.errors import MirageError, ModelError
from mirage_cli.lsd.checkpoint import read_config
from mirage_cli.media.probe import parse_probe
from mirage_cli.media.raw_pipe import RawPipeError, RawPipeReader, raw_pipe_url
from mirage_cli.media.tags import FileTags, parse_tags
from mirage_cli.prompts.reader import read_looks
from mirage_cli.prompts.track import parse_prompts
from mirage_cli.stream.families import open_model

pytestmark = pytest.mark.slow

SECONDS = 0.25  # for each reader
CLI_SECONDS = 3.0
MOST_CASES = 3000


def fuzz(seed: int, one: Callable[[random.Random], None], allowed: tuple[type[BaseException], ...]) -> int:
    """Calls ``one`` with fresh generators until the time is up; gives how often it was refused."""
    refused, end, number = 0, time.monotonic() + SECONDS, 0
    while number < 20 or (number < MOST_CASES and time.monotonic() < end):
        draw = random.Random(f"{seed}/{number}")
        number += 1
        try:
            one(draw)
        except allowed as error:
            refused += 1
            if isinstance(error, MirageError):
                assert error.message and "\n" not in error.message, (number, error.message)
        except BaseException as error:
            raise AssertionError(f"case {seed}/{number - 1}: {error!r}") from error
    return refused


def test_pictures_from_a_pipe():
    source = ["-f", "lavfi", "-i", "color=s=16x8:d=0.16", "-f", "lavfi", "-i", "sine=d=0.16"]
    shape = ["-map", "0", "-map", "1", "-c:v", "rawvideo", "-pix_fmt", "rgb24", "-c:a", "pcm_s16le", "-ac", "2"]
    whole = media.ffmpeg(*source, *shape, "-f", "tee", raw_pipe_url(with_sound=True))

    def read(data: bytes) -> int:
        reader = RawPipeReader(io.BufferedReader(io.BytesIO(data)), lambda at, samples: None)
        for number in range(20):
            frame = reader.read_frame()
            if frame is None:
                return number
            assert frame[1].shape == (reader.height, reader.width, 3)
        return 20

    assert read(whole) == 4
    assert fuzz(1, lambda draw: read(damage.mutated(whole, draw, whole[::-1])), RawPipeError) > 5


def test_what_ffmpeg_says_of_a_file(tmp_path):
    text = media.streams_of(media.clip(tmp_path / "a.mp4", seconds=0.2)).encode()

    def one(draw: random.Random) -> None:
        damaged = damage.mutated(text, draw).decode("utf-8", "replace")
        parse_probe("Input #0, mov, from 'x':\n" + damaged)

    fuzz(2, one, ())


def test_a_number_with_two_points_is_none():
    lines = (
        "  Duration: 00:00:01.00, start: 0.0.000000, bitrate: 1 kb/s",
        "  Stream #0:0: Video: h264, yuv420p, 64x48, 25 fps",
        "      displaymatrix: rotation of -90.0.0 degrees",
    )
    found = parse_probe("\n".join(("Input #0, mov, from 'x':", *lines)))
    assert (found.duration_seconds, found.start_seconds, found.video.rotation_degrees) == (1.0, 0.0, 0.0)


def test_tags():
    text = b";FFMETADATA1\ntitle=a\\=b\ncomment=x\\\ny\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=9\ntitle=c\n"

    def one(draw: random.Random) -> None:
        tags = parse_tags(damage.mutated(text, draw).decode("utf-8", "surrogateescape"))
        again = tags.text(draw.uniform(-5, 5), 0.0, draw.choice((None, 3.0)))
        assert isinstance(tags, FileTags) and again.startswith(b";FFMETADATA1\n")
        assert len(parse_tags(again.decode("utf-8", "surrogateescape")).chapters) <= len(tags.chapters)

    fuzz(3, one, ())


def test_sizes_times_and_prompts():
    words = [*bad_cases.ODD, "768x432", "1:30", "7.5s", "0:ink", "5s:night", "٣", "²", "1_0", "+1", "1e3", "x" * 9999]

    def one(draw: random.Random) -> None:
        text = "".join(draw.choice(words) for _ in range(draw.randrange(4)))
        for read in (parse_size, parse_seconds, lambda t: parse_prompts([t]), lambda t: parse_prompts([t, "5s:b"])):
            try:
                read(text)
            except MirageError as error:
                assert "\n" not in error.message.replace(text, "")

    fuzz(4, one, ())


def test_config_files(tmp_path):
    whole = b'size = "64x48"\nseed = 3\n[transform]\nprompt = ["a", "b"]\nstrength = 0.5\n[live]\nfps = 10\n'
    flags = {"transform": {"size", "seed", "prompt", "strength"}, "live": {"size", "fps"}}
    file = tmp_path / "c.toml"

    def one(draw: random.Random) -> None:
        file.write_bytes(damage.mutated(whole, draw, whole[::-1]))
        load_config_file(file, flags)

    assert fuzz(5, one, (MirageError,)) > 5


def test_presets(tmp_path):
    whole = b'about = "soft"\nprompt = "ink wash"\nstrength = 0.5\nseed = 3\nblend_seconds = 2\n'
    file = tmp_path / "p.toml"

    def one(draw: random.Random) -> None:
        data = bad_cases.Maker.config(None, draw) if draw.random() < 0.4 else damage.mutated(whole, draw, whole[::-1])
        file.write_bytes(data)
        flag_values(load_preset(str(file)).change)

    assert fuzz(8, one, (MirageError,)) > 5


def test_control_messages():
    whole = {"id": 1, "prompt": "ink wash", "strength": 0.5, "seed": 3, "blend": {"night": 1.0}, "pause": True}

    def one(draw: random.Random) -> None:
        text = json.dumps(damage.mutated_json(whole, draw)).encode()
        parse_message(damage.mutated(text, draw, b"{}[]") if draw.random() < 0.4 else text)

    assert fuzz(9, one, (MirageError,)) > 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bad_cases.tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_the_tiny_model_is_whole(model):
    assert open_model(model, device="cpu").net is not None
    assert all(check.problem is None for check in catalog.check_files(model))


@pytest.mark.parametrize(
    "name, read",
    [
        (catalog.CONFIG, read_config),
        (catalog.LOOKS, catalog.read_looks),
        (catalog.LOOKS, read_looks),
        (catalog.MANIFEST, catalog.check_files),
        (catalog.WEIGHTS, catalog.weight_summary),
    ],
)
def test_files_of_a_model(model, tmp_path, name, read):
    whole = (model / name).read_bytes()
    document = None if name == catalog.WEIGHTS else json.loads(whole)

    def one(draw: random.Random) -> None:
        if document is None:
            data = damage.tampered_safetensors(whole, draw)
        elif draw.random() < 0.5:
            data = json.dumps(damage.mutated_json(document, draw)).encode()
        else:
            data = damage.mutated(whole, draw, whole[::-1])
        (tmp_path / name).write_bytes(data)
        read(tmp_path)

    assert fuzz(6, one, (ModelError,)) > 5


def test_weights_with_a_header_that_lies(model, tmp_path):
    for name in (catalog.CONFIG, catalog.LOOKS):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    whole = (model / catalog.WEIGHTS).read_bytes()

    def one(draw: random.Random) -> None:
        (tmp_path / catalog.WEIGHTS).write_bytes(damage.tampered_safetensors(whole, draw))
        open_model(tmp_path, device="cpu")

    assert fuzz(7, one, (ModelError,)) > 5


@pytest.mark.parametrize(
    "sizes",
    [
        {"widths": [10**9, 10**9, 10**9]},
        {"widths": [64, 128]},
        {"widths": "abc"},
        {"widths": [64.0, 128, 256]},
        {"looks": []},
        {"looks": "identity"},
        {"middle_blocks": 10**6},
        {"middle_blocks": True},
        {"keep_limit": float("nan")},
        {"memory_grid": [0, 0]},
        {"history_levels": [0, 0, 2]},
        {"history_levels": 0.5},
        {"history_levels": [0.5, 1]},
        {"history_levels": "abc"},
    ],
)
def test_sizes_that_are_no_network(model, tmp_path, sizes):
    document = json.loads((model / catalog.CONFIG).read_text())
    document["network"] |= sizes
    (tmp_path / catalog.CONFIG).write_text(json.dumps(document))
    with pytest.raises(ModelError, match="allowed|list of names"):
        read_config(tmp_path)


def test_json_as_deep_as_a_well(tmp_path, model):
    for name, read in (
        (catalog.CONFIG, read_config),
        (catalog.LOOKS, read_looks),
        (catalog.LOOKS, catalog.read_looks),
        (catalog.MANIFEST, catalog.check_files),
    ):
        (tmp_path / name).write_text("[" * 200_000)
        with pytest.raises(ModelError):
            read(tmp_path)
    deep = b"[" * 200_000
    (tmp_path / catalog.WEIGHTS).write_bytes(struct.pack("<Q", len(deep)) + deep)
    with pytest.raises(ModelError):
        catalog.weight_summary(tmp_path)


def test_the_command_line():
    """The first cases of the thousand, in the time there is; the judge is tested below."""
    end = time.monotonic() + CLI_SECONDS
    asked = itertools.count()
    results = bad_inputs.run_cases(range(1000), 0, 60.0, until=lambda: next(asked) >= 10 and time.monotonic() > end)
    assert len(results) >= 10 and len({case["code"] for case in results}) >= 3
    assert [case for case in results if case["wrong"]] == []


def test_the_judge_sees_what_is_wrong(tmp_path):
    assert bad_inputs.judge(0, "", "", tmp_path) == []
    assert bad_inputs.judge(3, "", "error: x\n", tmp_path) == []
    assert bad_inputs.judge(3, "", "", tmp_path) and bad_inputs.judge(1, "", "error: x\n", tmp_path)
    assert bad_inputs.judge(-999, "", "", tmp_path) == ["hang"]
    assert bad_inputs.judge(3, "", "error: x\nTraceback (most recent call last)\n", tmp_path)
    (tmp_path / "out.mp4.part").write_bytes(b"x")
    assert bad_inputs.judge(3, "", "error: x\n", tmp_path) == ["left out.mp4.part"]
    (tmp_path / "out.mp4.part").rename(tmp_path / "out.mp4")
    assert bad_inputs.judge(3, "", "error: x\n", tmp_path) == ["an error, and out.mp4 is there"]
    assert "does not play" in bad_inputs.judge(0, "", "", tmp_path)[0]
