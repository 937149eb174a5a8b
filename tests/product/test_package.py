"""The wheel: what is in it, what it asks for, and that it does the main job away from the clone."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from helpers.paths import ROOT

pytestmark = pytest.mark.slow

MAX_WHEEL_BYTES = 70_000_000
PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "mirage_cli", "kernels", "models")


def call(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        **options,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind that a later one would pick up."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    ignore = shutil.ignore_patterns("__pycache__", "*.part", "*.pyc")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=ignore)
        else:
            shutil.copy(ROOT / part, source / part)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index")
    done = call(*pip, "--no-build-isolation", "--wheel-dir", out, source)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("mirage_cli-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a fresh venv with the wheel; its dependencies are those of this Python."""
    venv = tmp_path_factory.mktemp("venv")
    done = call(sys.executable, "-m", "venv", "--without-pip", venv)
    assert done.returncode == 0, done.stderr
    python = venv / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    done = call(*pip, "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    (site,) = venv.glob("lib/python*/site-packages")
    # A folder added by a .pth file has its own .pth files ignored, so a clone that this Python
    # has installed editable is not seen in the venv.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    return venv / "bin"


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"mirage_cli", next(top for top in tops if top.endswith(".dist-info"))}
    for folder, suffixes in (
        ("kernels", (".cu", ".cuh", ".ptx", ".toml", ".py")),
        ("models", (".json", ".safetensors", ".md", ".toml", ".py")),
    ):
        shipped = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
        assert shipped
        for path in shipped:
            inside = f"mirage_cli/{folder}/{path.relative_to(ROOT / folder).as_posix()}"
            assert inside in names, f"{inside} is not in the wheel"
    files = [p for p in (ROOT / "mirage_cli").rglob("*") if p.suffix in (".py", ".html", ".js", ".css", ".toml")]
    for path in files:
        assert path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Name"] == "mirage-cli"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    needs = {re.split(r"[^\w-]", need)[0] for need in metadata.get_all("Requires-Dist")}
    assert {"torch", "numpy", "click", "rich", "ffmpeg-python", "imageio-ffmpeg"} <= needs
    assert set(metadata.get_all("Provides-Extra")) == {
        "gpu",
        "gpu-cuda12",
        "control",
        "camera",
        "train",
        "tensorboard",
        "dev",
        "eval",
        "test",
    }


def test_main_job_from_another_folder(installed: Path, example_clip: Path, tmp_path: Path) -> None:
    where = call(
        installed / "python",
        "-c",
        "import mirage_cli, mirage_cli.models, mirage_cli.kernels as k; "
        "print(mirage_cli.__file__); print(mirage_cli.models.__file__); print(k.__file__)",
        cwd=tmp_path,
    )
    assert where.returncode == 0, where.stderr
    for line in where.stdout.splitlines():
        assert Path(line).is_relative_to(installed.parent), f"{line} is not the installed one"
    words = ["transform", example_clip, "--prompt", "van gogh starry night", "-o", "out.mp4"]
    done = call(installed / "mirage", *words, "--duration", "0.3", "--size", "160x96", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    from mirage_cli.inputs.file import open_file

    source = open_file(str(tmp_path / "out.mp4"))
    try:
        frames = [frame.rgb.shape for frame in source]
    finally:
        source.close()
    assert source.info.has_audio
    assert len(frames) in (7, 8) and set(frames) == {(96, 160, 3)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4"]


def test_doctor_of_the_installed_one(installed: Path, tmp_path: Path) -> None:
    done = call(installed / "mirage", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_clone_is_importable_from_anywhere(tmp_path: Path) -> None:
    """The environment that runs the tests sees kernels/ and models/ as parts of the package."""
    code = "import mirage_cli.models.catalog as c, mirage_cli.kernels; print(c.MODELS_ROOT)"
    for folder in (ROOT, tmp_path):
        done = call(sys.executable, "-c", code, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert (Path(done.stdout.strip()) / "__init__.py").is_file()


def test_clone_needs_no_install(tmp_path: Path) -> None:
    """Its folder on the path is enough; -S keeps whatever this Python has installed out of it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "import mirage_cli.models.catalog as c, mirage_cli.kernels as k; "
        "print(c.__file__); print(k.__file__)"
    )
    done = call(sys.executable, "-I", "-S", "-c", code, ROOT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [Path(line) for line in done.stdout.splitlines()]
    assert found == [ROOT / "models" / "catalog.py", ROOT / "kernels" / "__init__.py"]


def test_opencv_that_this_machine_can_load_is_asked_for() -> None:
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
    choose = setup["opencv_dependency"]

    def missing(library: str) -> None:
        raise OSError(f"{library}: cannot open shared object file")

    assert choose("linux", lambda library: None).startswith("opencv-python>")
    assert choose("linux", missing).startswith("opencv-python-headless>")
    assert choose("darwin", missing).startswith("opencv-python>")


def test_everything_asked_for_is_pinned() -> None:
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
    wanted = [*setup["DEPENDENCIES"], "opencv-python>=4", "opencv-python-headless>=4"]
    extras = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.S)
    assert extras
    wanted += re.findall(r'"([^"]+)"', extras[1])
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.match(r"^[\w.-]+==[\w.]+(; python_version (<|>=) \"3\.11\")?$", pin), pin
    pinned = {re.split(r"[=;]", pin)[0].lower().replace("_", "-") for pin in pins}
    untested = {"cupy-cuda12x"}
    for need in wanted:
        name = re.split(r"[^\w-]", need)[0].lower().replace("_", "-")
        assert name in pinned | untested, f"{name} has no pin in constraints.txt"
