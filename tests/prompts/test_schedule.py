"""Prompts in time: parsing, mixes, blends; and the parsers of sizes, times and config files."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from helpers.fakes import RecordingUi

from mirage_cli.config import ModelOptions, load_config_file, parse_seconds, parse_size
from mirage_cli.errors import UsageProblem
from mirage_cli.prompts.track import LookTrack, build_track, mix, parse_prompt, parse_prompts
from mirage_cli.styling.loading import read_prompts, track_of


@pytest.fixture
def models(reader):
    """What ``read_prompts`` needs of an models, with the real prompt reader."""
    return SimpleNamespace(match=lambda options, text: reader.match(text))


@pytest.mark.parametrize(
    ("text", "time", "wanted"),
    [
        ("ink wash", None, "ink wash"),
        ("0:ink wash", 0.0, "ink wash"),
        ("5s:ink wash", 5.0, "ink wash"),
        ("2.5: ink  wash ", 2.5, "ink wash"),
        ("1:30:ink wash", 90.0, "ink wash"),
        ("1:00:05:ink wash", 3605.0, "ink wash"),
        ("500ms:night", 0.5, "night"),
        ("3s:2*night+mosaic", 3.0, "2*night+mosaic"),
        ("0.5*ink wash + 0.5*neon", None, "0.5*ink wash + 0.5*neon"),
        ("comic: halftone dots", None, "comic: halftone dots"),
        ("night:0.3, mosaic:0.7", None, "night:0.3, mosaic:0.7"),
        ("0:3d render", 0.0, "3d render"),
    ],
)
def test_a_prompt_is_a_time_and_a_text(text, time, wanted):
    prompt = parse_prompt(text)
    assert (prompt.time_seconds, prompt.text) == (time, wanted)


@pytest.mark.parametrize("text", ["", "   ", "0:", "5s:  ", "\u200b\x00"])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(UsageProblem, match="prompt is empty") as caught:
        parse_prompt(text)
    assert caught.value.remedy


def test_several_prompts_need_times_and_are_put_in_order():
    assert [p.text for p in parse_prompts(["5:b", "0:a"])] == ["a", "b"]
    assert parse_prompts(["a"])[0].time_seconds == 0.0
    with pytest.raises(UsageProblem, match="need a time each, and 'b' has none"):
        parse_prompts(["0:a", "b"])
    with pytest.raises(UsageProblem, match="two prompts begin at 5 s"):
        parse_prompts(["5:a", "5s:b"])
    with pytest.raises(UsageProblem, match="no prompt"):
        parse_prompts([])


def test_weights_blend_linearly_and_sum_to_one():
    track = build_track([(0.0, {"a": 1.0}), (5.0, {"b": 1.0})], 2.0)
    assert track.at(0.0) == {"a": 1.0}
    assert track.at(5.0) == {"a": 1.0}
    assert track.at(5.5) == pytest.approx({"a": 0.75, "b": 0.25})
    assert track.at(6.5) == pytest.approx({"a": 0.25, "b": 0.75})
    assert track.at(7.0) == {"b": 1.0}
    assert track.at(1e6) == {"b": 1.0}


def test_a_change_within_a_blend_starts_from_the_mix_of_that_moment():
    track = LookTrack({"a": 1.0}, 2.0)
    track.change(0.0, {"b": 1.0})
    track.change(1.0, {"c": 1.0})
    assert track.at(1.0) == pytest.approx({"a": 0.5, "b": 0.5})
    assert track.at(2.0) == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5})
    assert track.at(3.0) == {"c": 1.0}


def test_no_blend_switches_at_once():
    track = build_track([(0.0, {"a": 1.0}), (5.0, {"b": 1.0})], 0.0)
    assert track.at(4.999) == {"a": 1.0}
    assert track.at(5.0) == {"b": 1.0}


def test_before_the_first_time_the_picture_is_unchanged():
    track = build_track([(2.0, {"a": 1.0})], 1.0)
    assert track.at(1.9) == {"identity": 1.0}
    assert track.at(2.5) == pytest.approx({"identity": 0.5, "a": 0.5})
    assert track.at(3.0) == {"a": 1.0}


def test_a_mix_adds_up_what_it_is_made_of():
    assert mix([(1.0, {"a": 0.5, "b": 0.5}), (1.0, {"b": 1.0})]) == pytest.approx({"a": 0.25, "b": 0.75})


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("5s:0.25*ink wash + 0.75*mosaic", {"ink-wash": 0.25, "mosaic": 0.75}),
        ("5s:ink wash mixed with mosaic", {"ink-wash": 0.5, "mosaic": 0.5}),
        ("5s:70% mosaic, 30% ink wash", {"mosaic": 0.7, "ink-wash": 0.3}),
        ("5s:black and white film noir", {"film-noir": 1.0}),
    ],
)
def test_a_timed_prompt_mixes_as_any_other(text, weights, models):
    (prompt,) = parse_prompts([text])
    (read,) = read_prompts([prompt], models, ModelOptions(), RecordingUi())
    assert read.match.weights == pytest.approx(weights)
    track = track_of([read], 1.0)
    assert track.at(4.9) == {"identity": 1.0} and track.at(6.0) == pytest.approx(weights)
    document = read.document()
    assert document["time_seconds"] == 5.0 and document["weights"] == pytest.approx(weights)
    assert document["known"] and document["look"] == max(weights, key=weights.__getitem__)


def test_weights_that_make_no_sense_are_refused(models):
    with pytest.raises(UsageProblem, match="weights in the prompt are 0"):
        read_prompts(parse_prompts(["0*ink wash + 0*night"]), models, ModelOptions(), RecordingUi())


def test_a_track_forgets_old_changes():
    track = LookTrack({"a": 1.0}, 0.5)
    for second in range(1000):
        track.change(float(second), {f"look{second % 3}": 1.0})
        track.at(second + 0.9)
    assert len(track._changes) <= 2
    with pytest.raises(ValueError):
        track.change(3.0, {"a": 1.0})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("7.5", 7.5),
        ("7.5s", 7.5),
        ("250ms", 0.25),
        ("2m", 120),
        ("1h", 3600),
        ("1:30", 90),
        ("0:05.5", 5.5),
        ("1:02:03.5", 3723.5),
        ("0", 0),
    ],
)
def test_times(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "abc", "1:75", "1:2:3:4", "nan", "inf", "1e30", "5 x"])
def test_bad_times_are_refused_with_the_value_seen(text):
    with pytest.raises(UsageProblem) as caught:
        parse_seconds(text, "--start")
    assert repr(text) in caught.value.message and "--start" in caught.value.message


def test_sizes():
    assert parse_size("768x432") == (768, 432)
    assert parse_size(" 16X8192 ") == (16, 8192)
    assert parse_size("native") == "native"


@pytest.mark.parametrize(
    "text", ["0x0", "0x432", "768x0", "100000x100000", "15x432", "768x8193", "-5x20", "768", "axb", ""]
)
def test_bad_sizes_are_refused_with_the_value_seen_and_what_is_allowed(text):
    with pytest.raises(UsageProblem) as caught:
        parse_size(text)
    assert repr(text) in caught.value.message
    assert "16..8192" in caught.value.message or "WIDTHxHEIGHT" in caught.value.message


FLAGS = {"transform": {"size", "strength", "prompts"}, "live": {"size", "camera"}}


def test_config_keys_at_the_top_are_for_all_and_tables_win(tmp_path):
    file = tmp_path / "mirage.toml"
    file.write_text('size = "64x64"\n[transform]\nsize = "32x32"\nstrength = 0.5\n')
    values = load_config_file(file, FLAGS)
    assert values == {"transform": {"size": "32x32", "strength": 0.5}, "live": {"size": "64x64"}}


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("sise = 1", "'sise'"),
        ("[transfrom]\nsize = 1", "'transfrom'"),
        ("[live]\nstrength = 1", "'strength'"),
        ("size = ", "not TOML"),
    ],
)
def test_bad_config_files_are_refused_by_name(tmp_path, text, telling):
    file = tmp_path / "mirage.toml"
    file.write_text(text)
    with pytest.raises(UsageProblem, match=telling) as caught:
        load_config_file(file, FLAGS)
    assert str(file) in caught.value.message
    with pytest.raises(UsageProblem, match="cannot be read"):
        load_config_file(tmp_path / "none.toml", FLAGS)
