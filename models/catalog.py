"""Which models there are, where they lie, and whether their files are whole.

A model is a folder with at least ``config.json`` and ``model.safetensors``. ``manifest.json``
next to them records size and SHA-256 of every file, so that a damaged download or a half-copied
folder is named instead of giving strange pictures:

    {"format": 1, "files": {"model.safetensors": {"bytes": 123, "sha256": "..."}, ...}}

``python -m mirage_cli.models.catalog FOLDER`` writes it. Nothing here imports torch, so that
``mirage models`` and ``mirage doctor`` answer at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_cli.errors import MirageError, ModelError

MODELS_ROOT = Path(__file__).resolve().parent
DEFAULT_MODEL = "lsd-small"
TEXT_ENCODER = "text-encoder"
IDENTITY = "identity"
"""The look that leaves the input as it is, where a model has looks."""
CONFIG, WEIGHTS, LOOKS, MANIFEST = "config.json", "model.safetensors", "looks.json", "manifest.json"
MANIFEST_FORMAT = 1
CONTENT_FILES = (WEIGHTS, LOOKS, "looks.safetensors")
"""Of a model's folder, what its pictures depend on."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalogue.

    Attributes:
        name: what ``--model`` takes.
        path: its folder.
        kind: its family, from config.json; empty where that cannot be read.
        bytes: size of all its files.
        looks: names of the looks in ``looks.json``, in the file's order; empty without one.
    """

    name: str
    path: Path
    kind: str
    bytes: int
    looks: tuple[str, ...]


@dataclass(frozen=True)
class FileCheck:
    """One file of a model against the manifest.

    Attributes:
        name: file name inside the model's folder.
        problem: None when size and SHA-256 agree, else a plain sentence.
    """

    name: str
    problem: str | None


def list_models(root: Path = MODELS_ROOT) -> list[ModelEntry]:
    """The denoisers under ``root``, by name. The text encoder is not one and is left out."""
    entries = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if not (path / CONFIG).is_file() or path.name == TEXT_ENCODER:
            continue
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        entries.append(ModelEntry(path.name, path, _kind(path), size, _look_names(path)))
    return entries


def model_dir(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL, root: Path = MODELS_ROOT) -> Path:
    """The folder of a model of the catalogue, or of a model of one's own.

    Args:
        name_or_path: a name from ``list_models``, ``text-encoder``, or the path of a folder. A bare
            name is looked for in the catalogue first, so a folder of that name in the current
            directory needs a ``./`` before it.
        root: the catalogue's folder.

    Raises:
        ModelError: no such model, or the folder lacks config.json or model.safetensors.
    """
    text = os.fspath(name_or_path)
    is_name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) is not None
    path = root / text
    try:
        if not is_name or not path.is_dir():
            path = Path(text).expanduser()
        found = bool(text) and path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, not permitted, ~nobody
        found = False
    if not found:
        names = ", ".join(entry.name for entry in list_models(root)) or "none: the install is damaged"
        raise ModelError(
            f"no such model: {text!r}; there are: {names}", "See 'mirage models', or give the path of a model's folder."
        )
    if not path.is_dir():
        raise ModelError(
            f"model {text!r} is a file; a model is a folder with {CONFIG} and {WEIGHTS}",
            f"Give its folder: --model {path.parent}",
        )
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise ModelError(
            f"model folder {str(path)!r} has no {' and no '.join(missing)}",
            "Copy the whole folder again, or reinstall mirage-cli; 'mirage doctor' checks the rest.",
        )
    return path


def read_kind(folder: Path) -> str:
    """The family of a model, from its config.json: the key ``kind``.

    Raises:
        ModelError: no such key, or a file that cannot be read.
    """
    path = folder / CONFIG
    try:
        kind = json.loads(path.read_text("utf-8"))["kind"]
        if not isinstance(kind, str):
            raise TypeError(f"kind {kind!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{path} is not the config of a model: {type(error).__name__}: {error}",
            "mirage models lists what ships; mirage doctor checks the files",
        ) from error
    return kind


def has_looks(folder: Path) -> bool:
    """Whether a model has looks by name: its looks.json is there, or recorded and missing. Others take any text."""
    if (folder / LOOKS).exists():
        return True
    try:
        return LOOKS in _read_manifest(folder)
    except ModelError:
        return False


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """The looks a model knows, from its looks.json.

    Returns:
        One dict a look: ``name`` (its id), ``title``, ``prompt`` (an example of one that finds it),
        ``names`` (short names it also goes by).

    Raises:
        ModelError: looks.json is missing or not what it should be.
    """
    path = folder / LOOKS
    try:
        return [
            {
                "name": look["id"],
                "title": look.get("title", look["id"]),
                "prompt": look["prompt"],
                "names": list(look.get("names", [])),
            }
            for look in json.loads(path.read_text("utf-8"))["looks"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{str(path)!r} cannot be read: {type(error).__name__}: {error}",
            "Copy the model's folder again; 'mirage doctor' checks every model's files.",
        ) from error


def describe_models(root: Path = MODELS_ROOT) -> list[dict[str, Any]]:
    """What ``mirage models`` shows: name, title, path, size, parameters and looks of each model.

    Raises:
        ModelError: a model's weights or looks cannot be read.
    """
    documents = []
    for entry in list_models(root):
        summary = weight_summary(model_dir(entry.name, root))
        millions = int(summary["parameters"]) / 1e6
        documents.append(
            {
                "name": entry.name,
                "title": f"{millions:.1f} M parameters, {entry.bytes / 1e6:.1f} MB",
                "default": entry.name == DEFAULT_MODEL,
                "path": str(entry.path),
                "bytes": entry.bytes,
                **summary,
                "looks": read_looks(entry.path) if has_looks(entry.path) else [],
            }
        )
    return documents


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_hashes(name_or_path: str | os.PathLike[str]) -> dict[str, str]:
    """The SHA-256 of the files that a model's pictures depend on; empty for a model that is not there."""
    try:
        folder = model_dir(name_or_path)
        return {name: file_sha256(folder / name) for name in CONTENT_FILES if (folder / name).is_file()}
    except (MirageError, OSError):
        return {}


def write_manifest(folder: Path) -> Path:
    """Record every file of ``folder`` in its manifest.json; call it last, after training.

    Returns:
        The manifest's path.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    }
    target = folder / MANIFEST
    part = target.with_name(MANIFEST + ".part")
    part.write_text(json.dumps({"format": MANIFEST_FORMAT, "files": files}, indent=2) + "\n", "utf-8")
    part.replace(target)
    return target


def check_files(folder: Path) -> list[FileCheck]:
    """Compare a model's files with its manifest.

    Returns:
        One entry a recorded file, sorted by name.

    Raises:
        ModelError: no manifest, or one that cannot be read.
    """
    recorded = _read_manifest(folder)
    checks = []
    for name, record in sorted(recorded.items()):
        path = folder / name
        problem = None
        try:
            size = path.stat().st_size
            if size != record["bytes"]:
                problem = f"{size} bytes, recorded {record['bytes']}{_pointer_hint(path)}"
            elif (digest := file_sha256(path)) != record["sha256"]:
                problem = f"SHA-256 {digest[:12]}..., recorded {record['sha256'][:12]}..."
        except FileNotFoundError:
            problem = "missing"
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        checks.append(FileCheck(name, problem))
    return checks


def verify(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL, root: Path = MODELS_ROOT) -> Path:
    """``model_dir``, and every file is as recorded.

    Raises:
        ModelError: as ``model_dir`` and ``check_files``, or a file that differs.
    """
    folder = model_dir(name_or_path, root)
    damaged = [check for check in check_files(folder) if check.problem]
    if damaged:
        first = damaged[0]
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise ModelError(
            f"model {folder.name!r} is damaged: {first.name}: {first.problem}{more}",
            "Copy the folder again, or reinstall: pip install --force-reinstall --no-deps mirage-cli",
        )
    return folder


def weight_summary(folder: Path) -> dict[str, int | str]:
    """Parameters and number format of a model, from the header of its weights alone.

    Returns:
        ``{"parameters": N, "tensors": N, "dtype": "F16"}``; dtype is that of most parameters.

    Raises:
        ModelError: the file is not a safetensors file.
    """
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size - 8:
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        sizes: dict[str, int] = {}
        tensors = [item for key, item in header.items() if key != "__metadata__"]
        for item in tensors:
            count = 1
            for side in item["shape"]:
                count *= side
            sizes[item["dtype"]] = sizes.get(item["dtype"], 0) + count
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise ModelError(
            f"{str(path)!r} is not a safetensors file: {error}",
            "Copy the file again; 'mirage doctor' checks every model's files.",
        ) from error
    return {
        "parameters": sum(sizes.values()),
        "tensors": len(tensors),
        "dtype": max(sizes, key=sizes.__getitem__, default="none"),
    }


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text("utf-8"))
        files = data["files"]
        if data["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {data['format']!r}, this version reads {MANIFEST_FORMAT}")
        for name, record in files.items():
            if Path(name).name != name or len(record["sha256"]) != 64 or record["bytes"] < 0:
                raise ValueError(f"bad record of {name!r}")
    except FileNotFoundError as error:
        raise ModelError(
            f"model {folder.name!r} has no {MANIFEST}, so its files cannot be checked",
            f"If you trust them: python -m mirage_cli.models.catalog {folder}",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{str(path)!r} cannot be read: {error}",
            f"If you trust the files: python -m mirage_cli.models.catalog {folder}",
        ) from error
    return files


def _kind(folder: Path) -> str:
    try:
        return read_kind(folder)
    except ModelError:
        return ""


def _look_names(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(look["name"] for look in read_looks(folder))
    except ModelError:
        return ()


def _pointer_hint(path: Path) -> str:
    with path.open("rb") as file:
        return " (a git-lfs pointer: run git lfs pull)" if file.read(11) == b"version htt" else ""


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python -m mirage_cli.models.catalog FOLDER")
    print(write_manifest(Path(sys.argv[1])))
