"""What every test has: few threads, a clean environment, the example clip, GPU tests skipped."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

# Before torch and OpenCV are imported: on small pictures two threads wait for each other more than they compute.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A user's own settings must not change what is tested.
for _name in [name for name in os.environ if name.startswith("MIRAGE_")]:
    if _name not in ("MIRAGE_FFMPEG", "MIRAGE_BENCH_JSON", "MIRAGE_SANITIZED_FRAMES"):
        del os.environ[_name]

# Started in the background, this process may ignore Ctrl-C; what it starts must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("helpers")  # an assertion that fails there shows its values, as in a test

ROOT = Path(__file__).resolve().parents[1]  # helpers.paths has it too, but must not be imported before the line above


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU that torch can use"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone."""
    return ROOT


@pytest.fixture(scope="session")
def example_clip() -> Path:
    """Big Buck Bunny, 5.5 s of 768x432 at 24 frames a second, with sound."""
    clip = ROOT / "examples" / "bunny.mp4"
    assert clip.is_file(), "examples/bunny.mp4 belongs to the repository"
    return clip


@pytest.fixture(scope="session")
def reader():
    """The ``PromptReader`` of what ships: the text encoder and the looks of lsd-small."""
    from mirage_cli.prompts.reader import PromptReader

    return PromptReader(ROOT / "models" / "lsd-small", ROOT / "models" / "text-encoder")


@pytest.fixture
def one_thread():
    """torch on one thread: so small a network is several times faster than on two that wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_disk(tmp_path):
    """Gives a function that makes a folder on a file system of the given size in bytes."""
    folder = tmp_path / "disk"
    mounted = []

    def mount(size: int) -> Path:
        folder.mkdir()
        if (
            os.geteuid() != 0
            or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
            ).returncode
        ):
            pytest.skip("cannot mount a small file system here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)
