"""One table of what can be set: JSON, typed lines, OSC, presets and flags agree on it."""

from __future__ import annotations

import json
import random
import string

import pytest

from mirage_cli.control import presets, schema
from mirage_cli.control.schema import (
    BY_NAME,
    FIELDS,
    MAX_MESSAGE_BYTES,
    Released,
    from_arguments,
    parse_line,
    parse_message,
)
from mirage_cli.errors import MediaError, MirageError, UsageProblem


def test_every_field_takes_its_example_in_json_at_the_keyboard_and_in_a_preset():
    for field in FIELDS:
        change = parse_message(json.dumps({field.name: field.example, "id": 3}))
        assert change.values().keys() == {field.name} and change.id == 3
        if field.kind == "weights":
            typed = " ".join(f"{look}={weight}" for look, weight in field.example.items())
        else:
            typed = "" if field.kind in ("switch", "trigger") else str(field.example)
        line = parse_line(f"/{field.name.replace('_', '-')} {typed}")
        assert line.values() == change.values()
        if field.preset:
            assert presets.make_preset("x", {field.name: field.example}, "x").change.values() == change.values()
    assert {field.name for field in schema.FIELDS} == set(schema.Change().__dataclass_fields__) - {"id"}


@pytest.mark.parametrize(
    ("message", "telling"),
    [
        ('{"strength": 1.01}', "strength 1.01; allowed: a number from 0 to 1"),
        ('{"strength": true}', "strength True"),
        ('{"strength": "0.5"}', "strength '0.5'"),
        ('{"strength": NaN}', "NaN is not a JSON number"),
        ('{"strength": 1e999}', "strength inf"),
        ('{"seed": -1}', "seed -1; allowed: a whole number from 0 to 2\\*\\*63 - 1"),
        ('{"seed": 1.5}', "seed 1.5"),
        ('{"seed": 9223372036854775808}', "seed 9223372036854775808"),
        ('{"prompt": ""}', "prompt ''; allowed: text of 1 to 1000 characters"),
        ('{"prompt": "%s"}' % ("x" * 1001), "prompt 'xxx"),
        ('{"prompt": "ink wash \\ud800"}', "prompt 'ink wash .*; allowed: text"),
        ('{"blend": {}}', "blend {}; allowed: an object"),
        ('{"blend": {"a": 0}}', "not all 0"),
        ('{"blend": {"a": -1}}', "blend"),
        ('{"blend": {"../a": 1}}', "blend"),
        ('{"blend": {"a": 1}, "prompt": "x"}', "prompt and blend exclude each other"),
        ('{"model": "../../etc/passwd"}', "model '../../etc/passwd'; allowed: a name"),
        ('{"preset": "/etc/passwd"}', "preset '/etc/passwd'; allowed: a name"),
        ('{"pause": 1}', "pause 1; allowed: true or false"),
        ('{"snapshot": false}', "snapshot False; allowed: true"),
        ('{"strenght": 1}', "no field 'strenght'"),
        ("{}", "no field is set"),
        ('{"id": 3}', "no field is set"),
        ('{"strength": 1, "id": [1]}', "id must be"),
        ("[]", "a list is not an object"),
        ("null", "a null is not an object"),
        ("", "is not JSON"),
        ("[" * 9000, "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        (" " * (MAX_MESSAGE_BYTES + 1), "allowed: 16384"),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(message, telling):
    with pytest.raises(UsageProblem, match=telling) as caught:
        parse_message(message)
    assert "\n" not in caught.value.message and len(caught.value.message) < 300
    assert caught.value.remedy


def test_a_refused_message_keeps_its_id():
    with pytest.raises(UsageProblem) as caught:
        parse_message('{"strength": 7, "id": "fader-2"}')
    assert caught.value.mark == "fader-2"


def test_any_bytes_are_a_change_or_one_error():
    rng = random.Random(7)
    words = [*BY_NAME, "id", "0.5", "true", "null", '"x"', "{", "}", "[", "]", ":", ",", "-1e400", "\\ud800", "\0"]
    for _ in range(3000):
        if rng.random() < 0.5:
            data = rng.randbytes(rng.randrange(40))
        else:
            data = "".join(rng.choice(words) for _ in range(rng.randrange(12)))
        line = "/" + "".join(rng.choice(string.printable) for _ in range(rng.randrange(12)))
        for parse, value in ((parse_message, data), (parse_line, line)):
            try:
                assert parse(value).values()
            except UsageProblem as error:
                assert error.message and error.remedy


def test_lines_typed():
    assert parse_line("ink wash").values() == {"prompt": "ink wash"}
    assert parse_line("/q").values() == {"quit": True}
    assert parse_line("/pause off").values() == {"pause": False}
    assert parse_line("/blend a=1, b=3").values() == {"blend": {"a": 0.25, "b": 0.75}}
    assert parse_line("/blend-seconds 2").values() == {"blend_seconds": 2.0}
    for line in ("/strange 1", "/strength", "/strength x", "/snapshot now", "/pause maybe", "/blend a", "/"):
        with pytest.raises(UsageProblem):
            parse_line(line)


def test_osc_arguments():
    assert from_arguments("strength", (0.25,)).values() == {"strength": 0.25}
    assert from_arguments("seed", (7.0,)).values() == {"seed": 7}
    assert from_arguments("pause", (0,)).values() == {"pause": False}
    assert from_arguments("snapshot", ()).values() == {"snapshot": True}
    assert from_arguments("blend", (1.0,), "night").values() == {"blend": {"night": 1.0}}
    assert from_arguments("blend", ("a", 1.0, "b", 1.0)).values() == {"blend": {"a": 0.5, "b": 0.5}}
    with pytest.raises(Released):
        from_arguments("snapshot", (0.0,))
    with pytest.raises(UsageProblem):
        from_arguments("strength", ("much",))


def test_the_json_schema_says_the_same():
    document = schema.json_schema()
    json.dumps(document)
    assert set(document["properties"]) == {*BY_NAME, "id"}
    assert document["properties"]["strength"]["maximum"] == BY_NAME["strength"].high


def test_flags_have_the_ranges_of_the_schema():
    from mirage_cli.cli import cli

    flags = {param.name: param for param in cli.commands["live"].params}
    assert flags["strength"].type.max == BY_NAME["strength"].high
    assert flags["seed"].type.max == BY_NAME["seed"].high
    assert flags["blend_seconds"].type.most == BY_NAME["blend_seconds"].high


# --- presets ---------------------------------------------------------------------------------------


def test_shipped_presets_name_looks_that_are_known(reader):
    shipped = presets.shipped_presets()
    assert len(shipped) >= 5
    for preset in shipped:
        assert preset.about and reader.match(presets.flag_values(preset.change)["prompt"]).known


def test_a_saved_preset_reads_the_same(tmp_path):
    values = {"prompt": 'a "quoted" \\ 日本\nline \x7f', "strength": 0.4, "blend_seconds": 2.0, "seed": 2**63 - 1}
    path = tmp_path / "a b.toml"
    presets.save_preset(str(path), values, about="for the last song")
    loaded = presets.load_preset(str(path))
    assert loaded.change.values() == values and loaded.about == "for the last song"
    with pytest.raises(MediaError, match="exists"):
        presets.save_preset(str(path), values)
    presets.save_preset(str(path), {"blend": {"ink-wash": 0.25, "night": 0.75}}, overwrite=True)
    change = presets.load_preset(str(path)).change
    assert presets.flag_values(change) == {"prompt": "0.25*ink-wash + 0.75*night"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_of_somebody_else_stays_beside_a_preset(tmp_path):
    theirs = tmp_path / "look.toml.part"
    theirs.write_bytes(b"a download that goes on")
    presets.save_preset(str(tmp_path / "look.toml"), {"prompt": "x"})
    assert theirs.read_bytes() == b"a download that goes on"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["look.toml", theirs.name]


def test_a_preset_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file/x.toml", "n" * 300 + ".toml", "no/such.toml", "null\0byte.toml"):
        with pytest.raises(MediaError, match="cannot be written"):
            presets.save_preset(str(tmp_path / name), {"prompt": "x"})


def test_a_model_that_is_a_folder_is_left_out_of_a_saved_preset(tmp_path):
    path = str(tmp_path / "mine.toml")
    presets.save_preset(path, {"prompt": "x", "model": "./my-model"})
    assert presets.load_preset(path).change.values() == {"prompt": "x"}


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        (b"prompt = ", "is not TOML"),
        (b"\xff", "cannot be read"),
        (b"promt = 'x'", "no key 'promt'"),
        (b"strength = 2", "strength 2; allowed"),
        (b"record = true", "no key 'record'"),
        (b"about = 3\nprompt='x'", "about is not a text"),
        (b"", "no field is set"),
        (b"a" * 70000, "longer than"),
        (b"x = " + b"[" * 5000, "is not TOML"),
    ],
)
def test_a_bad_preset_file_is_one_error(tmp_path, text, telling):
    path = tmp_path / "bad.toml"
    path.write_bytes(text)
    with pytest.raises(UsageProblem, match=telling):
        presets.load_preset(str(path))


@pytest.mark.parametrize("name", ["nothing", "no/such/file", "a\0b.toml", "."])
def test_a_preset_that_is_not_there(name):
    with pytest.raises(MirageError):
        presets.load_preset(name)


def test_a_preset_fills_what_no_flag_says(monkeypatch, tmp_path):
    import click

    from mirage_cli.cli import cli

    def values(*words):
        command = cli.commands["live"]
        return command.make_context("live", list(words), parent=click.Context(cli)).params

    config = tmp_path / "c.toml"
    config.write_text('strength = 0.1\nprompt = "night"\n')
    given = values("--preset", "soft-watercolour", "--strength", "0.9", "--config", str(config))
    assert given["strength"] == 0.9 and given["prompts"] == ("watercolour on rough paper",)
    assert given["blend_seconds"] == 2.0
    monkeypatch.setenv("MIRAGE_BLEND_SECONDS", "7")
    assert values("-p", "x", "--preset", "soft-watercolour")["blend_seconds"] == 7.0
    assert values("-p", "x", "--preset", "soft-watercolour")["prompts"] == ("x",)
    with pytest.raises(UsageProblem, match="no preset 'nope'"):
        values("--preset", "nope")
