"""Prompts: the sentence encoder, the looks' paraphrases, unknown wordings and mixtures."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mirage_cli.errors import ModelError, UsageProblem
from mirage_cli.prompts.encoder import SentenceEncoder, expand_rows, quantise_rows
from mirage_cli.prompts.grammar import bare_request, clean, split_prompt
from mirage_cli.prompts.reader import PromptReader, plain_form, read_looks
from mirage_cli.training import text_encoder

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


def test_unseen_paraphrases_find_their_look(reader):
    assert share_right(reader, {look.id: look.held_out for look in reader.looks}) >= 0.95


def test_user_prompts_find_their_look(reader, user):
    assert sum(map(len, user["prompts"].values())) == 60
    assert share_right(reader, user["prompts"]) >= 0.9


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


# --- encoder ---------------------------------------------------------------------------------------


def test_encoder_agrees_with_the_published_network(reader):
    reference = json.loads((ROOT / "tests/data/text_reference.json").read_text(encoding="utf-8"))
    exact = np.array(reference["vectors"], np.float32)
    ours = reader.encoder.encode(reference["prompts"])
    assert ours.dtype == np.float32 and ours.shape == exact.shape
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-5)
    assert (ours * exact).sum(1).min() > 0.985


def test_a_batch_gives_what_single_sentences_give(reader):
    sentences = ["night", "a much longer sentence about a painted sky over a village", "blue"]
    single = np.concatenate([reader.encoder.encode([sentence]) for sentence in sentences])
    assert np.abs(reader.encoder.encode(sentences) - single).max() < 1e-5
    assert reader.encoder.encode([]).shape == (0, 384)


@pytest.mark.parametrize("bits, group, most", [(8, None, 0.5), (8, 16, 0.5), (4, 16, 3.0)])
def test_quantised_rows_come_back_within_their_step(bits, group, most):
    weight = torch.randn(7, 48, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    codes, scale = quantise_rows(weight, bits, group)
    assert codes.numel() * codes.element_size() == weight.numel() * bits // 8
    back = expand_rows(codes, scale)
    step = scale.float().repeat_interleave(48 // scale.shape[1], dim=1)
    # At 8 bits nothing is clipped; at 4 bits the largest values may be, for a smaller error overall.
    assert ((back - weight).abs() <= most * step + 1e-4).all()
    assert torch.equal(back[3], torch.zeros(48))
    assert (back - weight).square().mean() < {8: 1e-4, 4: 1e-2}[bits]


def test_what_ships_is_small():
    assert sum(file.stat().st_size for file in ENCODER.iterdir()) <= 20e6
    assert (MODEL / "looks.safetensors").stat().st_size <= 2e6


def copy_of(folder: Path, target: Path, *changed: str) -> Path:
    """Links to the files of ``folder``; those in ``changed`` are left for the test to write."""
    target.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in changed:
            os.symlink(file, target / file.name)
    return target


@pytest.mark.parametrize(
    "name, content",
    [
        ("model.safetensors", None),
        ("tokenizer.json", None),
        ("config.json", None),
        ("model.safetensors", b"not a safetensors"),
        ("tokenizer.json", b"{}"),
        ("config.json", b"{"),
        ("config.json", b'{"format": "other"}'),
        ("config.json", b"[]"),
    ],
)
def test_a_missing_or_damaged_encoder_is_named(tmp_path, name, content):
    folder = copy_of(ENCODER, tmp_path / "encoder", name)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(name)) as raised:
        SentenceEncoder(folder)
    assert raised.value.exit_code == 4 and raised.value.remedy and "\n" not in raised.value.message


@pytest.mark.parametrize("change", ["cut short", "nan", "foreign", "one layer less", "fewer words"])
def test_wrong_encoder_weights_are_refused(tmp_path, change):
    folder = copy_of(ENCODER, tmp_path / "encoder", "model.safetensors")
    weights = load_file(ENCODER / "model.safetensors")
    if change == "nan":
        weights["encoder.layer.2.output.LayerNorm.weight"][3] = float("nan")
    elif change == "foreign":
        weights = {"conv.weight": torch.zeros(4)}
    elif change == "one layer less":
        weights = {name: tensor for name, tensor in weights.items() if "layer.5" not in name}
    elif change == "fewer words":
        for name in ("embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight.scale"):
            weights[name] = weights[name][:200].clone()
    save_file(weights, folder / "model.safetensors")
    if change == "cut short":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="model.safetensors"):
        SentenceEncoder(folder)


@pytest.mark.parametrize("change", ["missing", "damaged", "other looks", "other paraphrases", "nan", "no metadata"])
def test_a_classifier_that_does_not_fit_is_refused(tmp_path, change):
    folder = copy_of(MODEL, tmp_path / "model", "looks.safetensors", "looks.json")
    document = json.loads((MODEL / "looks.json").read_text(encoding="utf-8"))
    shutil.copy(MODEL / "looks.safetensors", folder)
    tensors = load_file(MODEL / "looks.safetensors")
    with safe_open(MODEL / "looks.safetensors", "pt") as file:
        about = file.metadata()
    if change == "missing":
        (folder / "looks.safetensors").unlink()
    elif change == "damaged":
        (folder / "looks.safetensors").write_bytes(b"\xff" * 100)
    elif change == "other looks":
        document["looks"].pop()
    elif change == "other paraphrases":
        document["looks"][0]["train"].append("a wording that nothing was fitted to")
    else:
        tensors["alpha"][0, 0] = float("nan") if change == "nan" else 0.0
        save_file(tensors, folder / "looks.safetensors", about if change == "nan" else None)
    (folder / "looks.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ModelError, match="looks.safetensors") as raised:
        PromptReader(folder, ENCODER)
    assert raised.value.exit_code == 4 and raised.value.remedy


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"format": 2, "looks": []}',
        '{"format": 1, "looks": []}',
        '{"format": 1, "looks": [{"id": "a"}]}',
    ],
)
def test_a_bad_looks_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "looks.json").write_text(content)
    with pytest.raises(ModelError, match="looks.json"):
        read_looks(tmp_path / "looks.json")


# --- making the files ------------------------------------------------------------------------------


def tiny_source(folder: Path, rng: torch.Generator) -> Path:
    """A published-style encoder with 1 layer, 32 channels and a handful of words."""
    words = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "oil", "night", "sky", "##s"]
    folder.mkdir()
    special = [
        {
            "id": row,
            "special": True,
            "content": word,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for row, word in enumerate(words)
        if word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    ]
    ends = {word: {"id": word, "ids": [words.index(word)], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
    single = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": {"max_length": 128, "strategy": "LongestFirst", "stride": 0},
                "padding": None,
                "added_tokens": special,
                "normalizer": {
                    "type": "BertNormalizer",
                    "clean_text": True,
                    "handle_chinese_chars": True,
                    "strip_accents": None,
                    "lowercase": True,
                },
                "pre_tokenizer": {"type": "BertPreTokenizer"},
                "decoder": None,
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": single,
                    "pair": single,
                    "special_tokens": ends,
                },
                "model": {
                    "type": "WordPiece",
                    "unk_token": "[UNK]",
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                    "vocab": {word: row for row, word in enumerate(words)},
                },
            }
        )
    )
    (folder / "config.json").write_text(
        json.dumps(
            {
                "hidden_size": 32,
                "num_attention_heads": 4,
                "num_hidden_layers": 1,
                "intermediate_size": 64,
                "layer_norm_eps": 1e-12,
                "hidden_act": "gelu",
            }
        )
    )
    shapes = {
        "embeddings.word_embeddings": (len(words), 32),
        "embeddings.position_embeddings": (512, 32),
        "embeddings.token_type_embeddings": (2, 32),
    }
    weights = {f"{name}.weight": torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    layer = "encoder.layer.0"
    for name, (out, into) in {
        "attention.self.query": (32, 32),
        "attention.self.key": (32, 32),
        "attention.self.value": (32, 32),
        "attention.output.dense": (32, 32),
        "intermediate.dense": (64, 32),
        "output.dense": (32, 64),
    }.items():
        weights[f"{layer}.{name}.weight"] = torch.randn(out, into, generator=rng) / into**0.5
        weights[f"{layer}.{name}.bias"] = torch.zeros(out)
    for name in ("embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.ones(32), torch.zeros(32)
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "model_fp16.safetensors")
    return folder


def test_packing_keeps_the_meaning_and_drops_unused_words(tmp_path):
    source = tiny_source(tmp_path / "source", torch.Generator().manual_seed(1))
    exact_bytes = text_encoder.pack_encoder(source, tmp_path / "exact", "float16, as published")
    packed_bytes = text_encoder.pack_encoder(source, tmp_path / "packed")
    assert packed_bytes < exact_bytes
    exact, packed = SentenceEncoder(tmp_path / "exact"), SentenceEncoder(tmp_path / "packed")
    assert exact.tokens("Oil nights [unused0]") == ["oil", "night", "##s", "[UNK]", "[UNK]", "[UNK]"]
    sentences = ["oil night", "sky", "night skys oil"]
    assert (exact.encode(sentences) * packed.encode(sentences)).sum(1).min() > 0.98
    assert not list(tmp_path.glob("*/*.part"))


def test_packing_says_what_is_missing(tmp_path, capsys):
    assert (
        text_encoder.main(["encoder", "--source", str(tmp_path / "nowhere"), "--encoder", str(tmp_path / "out")]) == 4
    )
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as raised:
        text_encoder.main(["encoder"])
    assert raised.value.code == 2


def fewer_looks(folder: Path) -> dict:
    document = json.loads((MODEL / "looks.json").read_text(encoding="utf-8"))
    document["looks"] = [look for look in document["looks"] if look["id"] in ("mosaic", "night", "identity")]
    folder.mkdir()
    (folder / "looks.json").write_text(json.dumps(document), encoding="utf-8")
    return document


def test_fitting_other_looks(tmp_path, reader):
    fewer_looks(tmp_path / "model")
    said = text_encoder.fit_looks(tmp_path / "model", reader.encoder, np.random.default_rng(0))
    assert said["looks"] == 3 and said["cross_validated_accuracy"] > 0.9
    other = PromptReader(tmp_path / "model", ENCODER)
    assert (
        other.match("tesserae from a temple").look == "mosaic"
        and other.match("under the stars, past bedtime").look == "night"
    )


def test_fitting_refuses_a_held_out_paraphrase_in_training(tmp_path, reader):
    document = fewer_looks(tmp_path / "model")
    document["looks"][0]["train"].append(document["looks"][0]["held_out"][0].upper())
    (tmp_path / "model" / "looks.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ModelError, match="held-out"):
        text_encoder.fit_looks(tmp_path / "model", reader.encoder, np.random.default_rng(0))
    assert not (tmp_path / "model" / "looks.safetensors").exists()
