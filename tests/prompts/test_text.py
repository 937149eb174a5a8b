"""Prompts: the looks' paraphrases, unknown wordings and mixtures."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.paths import ROOT

from mirage_cli.errors import UsageProblem
from mirage_cli.prompts.grammar import bare_request, clean, split_prompt
from mirage_cli.prompts.reader import PromptReader, plain_form, read_looks

MODEL, ENCODER = ROOT / "models" / "lsd-small", ROOT / "models" / "text-encoder"
ORDER = [
    "oil-painting",
    "starry-night",
    "watercolour",
    "great-wave",
    "the-scream",
    "impressionist",
    "stained-glass",
    "mosaic",
    "low-poly",
    "comic-halftone",
    "cartoon",
    "pencil-sketch",
    "ink-wash",
    "charcoal",
    "linocut",
    "blueprint",
    "pixel-art",
    "night",
    "golden-sunset",
    "snow-frost",
    "thermal",
    "neon-cyberpunk",
    "film-noir",
    "old-photograph",
    "van-gogh-wheatfield",
    "the-kiss",
    "gauguin",
    "turner-seascape",
    "cubism",
    "pastel-haze",
    "engraving",
    "pop-art",
    "chalkboard",
    "infrared",
    "cross-stitch",
    "identity",
]


@pytest.fixture(scope="module")
def user() -> dict:
    return json.loads((ROOT / "tests/data/prompts_user.json").read_text(encoding="utf-8"))


def share_right(reader: PromptReader, prompts: dict[str, list[str]]) -> float:
    right = [reader.match(prompt).look == look for look, group in prompts.items() for prompt in group]
    return sum(right) / len(right)


# --- looks.json ------------------------------------------------------------------------------------


def test_looks_are_complete_and_in_order():
    looks = read_looks(MODEL)
    assert [look.id for look in looks] == ORDER
    for look in looks:
        assert len(look.train) >= 10 and len(look.held_out) >= 4, look.id
        assert look.title and look.prompt and re.fullmatch(r"[^.]+\.", look.description), look.id


def test_held_out_and_user_prompts_are_not_trained_on(user):
    looks = read_looks(MODEL)
    built_from = {plain_form(text) for look in looks for text in (*look.train, *look.names, look.prompt, look.title)}
    asked = [text for look in looks for text in look.held_out] + [
        text for group in user["prompts"].values() for text in group
    ]
    assert not [text for text in asked if plain_form(text) in built_from]
    assert len({plain_form(text) for text in asked}) == len(asked)


def test_no_paraphrase_trains_two_looks():
    owner: dict[str, str] = {}
    for look in read_looks(MODEL):
        for text in look.train:
            assert owner.setdefault(plain_form(text), look.id) == look.id, text


# --- retrieval -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_unseen_paraphrases_find_their_look(reader):
    assert share_right(reader, {look.id: look.held_out for look in reader.looks}) >= 0.95


@pytest.mark.slow
def test_user_prompts_find_their_look(reader, user):
    assert sum(map(len, user["prompts"].values())) == 60
    assert share_right(reader, user["prompts"]) >= 0.9


@pytest.mark.slow
def test_requests_around_a_paraphrase_do_not_hide_it(reader):
    for form in ("make it look like {}", "turn my holiday video into {} please", "in the style of {}"):
        asked = {look.id: [form.format(text) for text in look.held_out[:1]] for look in reader.looks[:-1]}
        assert share_right(reader, asked) >= 0.9, form


def test_unrelated_prompts_are_called_unknown(reader, user):
    matches = [reader.match(prompt) for prompt in user["unrelated"]]
    assert sum(not match.known for match in matches) / len(matches) >= 0.85
    assert all(match.look != "identity" for match in matches if not match.known)


@pytest.mark.parametrize(
    "prompt, look",
    [
        ("van gogh starry night", "starry-night"),
        ("japanese woodblock print", "great-wave"),
        ("oil painting", "oil-painting"),
        ("watercolor", "watercolour"),
        ("the scream", "the-scream"),
        ("stained glass", "stained-glass"),
        ("pixel art", "pixel-art"),
        ("no style", "identity"),
        ("leave unchanged", "identity"),
        ("original video", "identity"),
        ("  Oil   PAINTING!! ", "oil-painting"),
    ],
)
def test_plain_prompts(reader, prompt, look):
    match = reader.match(prompt)
    assert (match.weights, match.look, match.known, match.similarity) == ({look: 1.0}, look, True, 1.0)
    assert look in match.message


def test_every_id_title_name_and_example_finds_its_look(reader):
    for look in reader.looks:
        for text in (look.id, look.title, look.prompt, *look.names):
            match = reader.match(text)
            assert match.weights == {look.id: 1.0} and match.known, text


def test_an_unknown_prompt_says_the_nearest_look_and_how_near(reader):
    match = reader.match("remove the number plates of parked lorries")
    assert not match.known and match.similarity < reader.threshold
    assert (
        match.look in match.message
        and f"{match.similarity:.2f}" in match.message
        and "no look is known" in match.message
    )


def test_same_prompt_same_answer(reader):
    prompt = "a quiet harbour in thin golden fog"
    first = reader.match(prompt)
    assert reader.match(prompt) == first == PromptReader(MODEL, ENCODER).match(prompt)


# --- odd input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "x" * 10_000,
        "swirly " * 1_429,
        "😀🌃🎨",
        "葛飾北斎の浮世絵",
        "картина маслом",
        "لوحة زيتية",
        "a\x00b\x1b[31mred\x07",
        "\ud800 night",
        "!!!",
        "1",
        "+",
        "a + ",
        ", and ,",
        "%",
        "50%",
        "0.5*",
        "*",
        "'; DROP TABLE looks; --",
        "\u202eevil",
        "(((((",
        "half",
        "ﷺ" * 10_000,
        "oil+" * 2_000,
        "1" * 9_999 + " night",
        "between and",
        "with a touch of",
        "mostly with a bit of",
    ],
)
def test_odd_prompts_still_answer(reader, prompt):
    match = reader.match(prompt)
    assert match.look in ORDER and abs(sum(match.weights.values()) - 1) < 1e-9
    assert min(match.weights.values()) > 0 and np.isfinite(match.similarity) and -1 <= match.similarity <= 1
    assert match.message and match.message.isprintable()


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\x00\x07", "\u200b\u200d", "\ud800", None, 7, b"night"])
def test_empty_prompts_are_refused(reader, prompt):
    with pytest.raises(UsageProblem) as raised:
        reader.match(prompt)
    assert raised.value.exit_code == 2 and raised.value.remedy


def test_a_cut_prompt_is_told(reader):
    assert "only the first 62 word pieces" in reader.match("swirling stars over the village " * 40).message
    assert "only the first" not in reader.match("swirling stars over the village").message


def test_control_characters_do_not_change_the_reading(reader):
    assert clean("\x1b[0m van\u00a0gogh\x00\n") == "[0m van gogh"
    assert reader.match("stained\x00glass").look == "stained-glass"


# --- mixtures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, weights",
    [
        ("half ink wash, half neon", {"ink-wash": 0.5, "neon-cyberpunk": 0.5}),
        ("watercolor mixed with comic", {"watercolour": 0.5, "comic-halftone": 0.5}),
        ("0.3*night + 0.7*oil painting", {"night": 0.3, "oil-painting": 0.7}),
        ("night:0.3, cartoon:0.7", {"night": 0.3, "cartoon": 0.7}),
        ("(mosaic:1.2), (night:0.8)", {"mosaic": 0.6, "night": 0.4}),
        ("30% night, 70% black and white", {"night": 0.3, "film-noir": 0.7}),
        ("0.5*black and white + 0.5*night", {"film-noir": 0.5, "night": 0.5}),
        ("2 parts mosaic and 1 part snow", {"mosaic": 2 / 3, "snow-frost": 1 / 3}),
        ("30% snow and the rest film noir", {"snow-frost": 0.3, "film-noir": 0.7}),
        ("a third cartoon, two thirds mosaic", {"cartoon": 1 / 3, "mosaic": 2 / 3}),
        ("0*night + 2*mosaic", {"mosaic": 1.0}),
        ("half original, half mosaic", {"identity": 0.5, "mosaic": 0.5}),
        ("mostly oil painting with a touch of snow", {"oil-painting": 0.75, "snow-frost": 0.25}),
        ("a blend of cubism, mosaic and pixel art", {"cubism": 1 / 3, "mosaic": 1 / 3, "pixel-art": 1 / 3}),
        ("halfway between a cartoon and a pencil sketch", {"cartoon": 0.5, "pencil-sketch": 0.5}),
        ("cubism meets stained glass", {"cubism": 0.5, "stained-glass": 0.5}),
        ("watercolour and comic", {"watercolour": 0.5, "comic-halftone": 0.5}),
        ("oil painting at night", {"oil-painting": 0.5, "night": 0.5}),
        ("0.5*mosaic + 0.5*tile mosaic", {"mosaic": 1.0}),
    ],
)
def test_mixtures(reader, prompt, weights):
    match = reader.match(prompt)
    assert match.weights == pytest.approx(weights) and match.known
    assert match.look == max(match.weights, key=match.weights.__getitem__)


@pytest.mark.parametrize(
    "prompt",
    [
        "black and white",
        "snow and frost",
        "Starry Night, swirling strokes, bright moon",
        "black ink outlines and dotted colours",
        "coloured glass with lead between the panes",
        "photo from 1900",
        "pixel art 0.5",
        "8-bit arcade game",
    ],
)
def test_one_look_is_not_split(reader, prompt):
    assert len(reader.match(prompt).weights) == 1


def test_an_unknown_part_is_left_out_and_told(reader):
    match = reader.match("0.5*cartoon + 0.5*quarterly tax return")
    assert match.weights == {"cartoon": 1.0} and not match.known
    assert "no look is known for 'quarterly tax return'" in match.message


@pytest.mark.parametrize(
    "prompt, seen",
    [
        ("-0.3*night + 0.7*oil painting", "-0.3"),
        ("0*night + 0*oil painting", "0"),
        (f"{'9' * 400}*night + 1*mosaic", "9999"),
    ],
)
def test_senseless_weights_are_refused(reader, prompt, seen):
    with pytest.raises(UsageProblem, match=re.escape(seen)):
        reader.match(prompt)


def test_split_weights_sum_to_one():
    split = split_prompt("1*a + 2*b + 5*c")
    assert split.kind == "explicit" and sum(weight for weight, _ in split.parts) == pytest.approx(1)
    assert split_prompt("stained glass") is None
    assert split_prompt("+".join("abcdefghij")) is None  # more parts than a mixture may have


def test_bare_request_keeps_refusals():
    assert bare_request("please make it look like a mosaic, thanks") == "mosaic"
    assert bare_request("in the style of Klimt") == "Klimt"
    assert bare_request("no style") == "no style"
    assert bare_request("style") == "style"


@pytest.mark.parametrize(
    "prompt, look",
    [
        ("a cartoon, not a comic", "cartoon"),
        ("a comic but not a cartoon", "comic-halftone"),
        ("mosaic instead of stained glass", "mosaic"),
        ("do not change anything", "identity"),
        ("not a look", "identity"),
    ],
)
def test_what_is_refused_is_not_taken(reader, prompt, look):
    assert reader.match(prompt).weights == {look: 1.0}
