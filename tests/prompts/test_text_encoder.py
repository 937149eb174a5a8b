"""The sentence encoder and the looks' classifier: their files, damaged ones, and how they are made."""

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

from mirage_cli.errors import ModelError
from mirage_cli.prompts.encoder import SentenceEncoder, expand_rows, quantise_rows
from mirage_cli.prompts.reader import PromptReader, read_looks
from mirage_cli.training import text_encoder

pytestmark = pytest.mark.slow

MODEL, ENCODER = ROOT / "models" / "lsd-small", ROOT / "models" / "text-encoder"


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
