"""The catalogue finds models, names what is wrong with them, and knows their looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mirage_cli.models import catalog
from safetensors.numpy import save_file

from mirage_cli.errors import ModelError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A catalogue with one whole model, "tiny"."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    looks = [
        {"id": "ink-wash", "title": "Ink", "prompt": "ink", "names": ["a", "b"], "train": ["c"]},
        {"id": "night", "prompt": "at night"},
    ]
    (folder / "looks.json").write_text(json.dumps({"format": 1, "looks": looks}))
    tensors = {"a": np.zeros((3, 5), np.float16), "b": np.ones(7, np.float32)}
    save_file(tensors, folder / "model.safetensors")
    catalog.write_manifest(folder)
    return tmp_path


def test_lists_models_and_looks(models: Path) -> None:
    (models / "text-encoder").mkdir()
    (models / "text-encoder" / "config.json").write_text("{}")
    (models / "no-model").mkdir()
    (entry,) = catalog.list_models(models)
    assert (entry.name, entry.path, entry.looks) == ("tiny", models / "tiny", ("ink-wash", "night"))
    assert entry.bytes == sum(path.stat().st_size for path in (models / "tiny").iterdir())
    assert catalog.read_looks(entry.path) == [
        {"name": "ink-wash", "title": "Ink", "prompt": "ink", "names": ["a", "b"]},
        {"name": "night", "title": "night", "prompt": "at night", "names": []},
    ]
    assert catalog.list_models(models / "nowhere") == []


def test_describes_models_for_the_command_line(models: Path) -> None:
    (document,) = catalog.describe_models(models)
    json.dumps(document)
    assert document["parameters"] == 22 and not document["default"]
    assert [look["name"] for look in document["looks"]] == ["ink-wash", "night"]
    (models / "tiny" / "looks.json").unlink()
    with pytest.raises(ModelError, match="looks.json"):
        catalog.describe_models(models)


def test_finds_by_name_and_by_path(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalog.model_dir("tiny", models) == models / "tiny"
    assert catalog.model_dir(str(models / "tiny")) == models / "tiny"
    monkeypatch.chdir(models)
    assert catalog.model_dir("./tiny").resolve() == models / "tiny"


@pytest.mark.parametrize("name", ["nosuch", "", "../tiny/..", "a\0b", "no/such/folder", "~no-such-user/x", "x" * 5000])
def test_no_such_model_lists_what_there_is(models: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        catalog.model_dir(name, models)
    assert "no such model" in caught.value.message and "tiny" in caught.value.message
    assert caught.value.exit_code == 4 and "mirage models" in caught.value.remedy


def test_a_file_or_half_a_folder_is_no_model(models: Path) -> None:
    with pytest.raises(ModelError, match="is a file"):
        catalog.model_dir(str(models / "tiny" / "config.json"))
    (models / "tiny" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no model.safetensors"):
        catalog.model_dir("tiny", models)


def test_verify_accepts_the_whole_and_names_the_damaged(models: Path) -> None:
    assert catalog.verify("tiny", models) == models / "tiny"
    weights = models / "tiny" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="damaged: model.safetensors: SHA-256"):
        catalog.verify("tiny", models)
    weights.write_bytes(whole[:-4])
    with pytest.raises(ModelError, match="damaged: model.safetensors: .* bytes, recorded"):
        catalog.verify("tiny", models)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="git-lfs pointer"):
        catalog.verify("tiny", models)
    (models / "tiny" / "looks.json").unlink()
    with pytest.raises(ModelError, match=r"looks.json: missing \(and 1 more\)"):
        catalog.verify("tiny", models)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "files": {}}', '{"format": 1, "files": {"../x": {}}}'])
def test_a_bad_manifest_is_an_error_not_a_pass(models: Path, text: str) -> None:
    (models / "tiny" / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match="cannot be read"):
        catalog.verify("tiny", models)
    (models / "tiny" / "manifest.json").unlink()
    with pytest.raises(ModelError, match="no manifest.json"):
        catalog.verify("tiny", models)


def test_summary_of_weights_comes_from_the_header(models: Path) -> None:
    assert catalog.weight_summary(models / "tiny") == {"parameters": 22, "tensors": 2, "dtype": "F16"}
    for damage in (b"", b"abc", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"):
        (models / "tiny" / "model.safetensors").write_bytes(damage)
        with pytest.raises(ModelError, match="not a safetensors file"):
            catalog.weight_summary(models / "tiny")


def test_bad_looks_are_an_error_for_readers_and_none_in_the_list(models: Path) -> None:
    (models / "tiny" / "looks.json").write_text('{"looks": [{"title": "no id"}]}')
    with pytest.raises(ModelError, match="looks.json"):
        catalog.read_looks(models / "tiny")
    assert catalog.list_models(models)[0].looks == ()


def test_manifest_command(models: Path) -> None:
    (models / "tiny" / "manifest.json").unlink()
    command = [sys.executable, "-m", "mirage_cli.models.catalog"]
    done = subprocess.run([*command, models / "tiny"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert catalog.verify("tiny", models)
    done = subprocess.run([*command, models / "nowhere"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "usage" in done.stderr


@pytest.mark.parametrize("name", [catalog.DEFAULT_MODEL, catalog.TEXT_ENCODER])
def test_what_ships_is_as_recorded_and_small_enough(name: str) -> None:
    path = catalog.verify(name)
    limit = 40e6 if name == catalog.DEFAULT_MODEL else 24e6
    assert sum(file.stat().st_size for file in path.iterdir()) <= limit
    assert catalog.weight_summary(path)["parameters"] > 1_000_000
    if name == catalog.DEFAULT_MODEL:
        assert (path / "MODEL_CARD.md").is_file()
        assert len(catalog.list_models()[0].looks) >= 24
