"""What does not fit is refused before it is begun; a GPU that fails is said to."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from helpers import media
from helpers.fakes import FakeModels, RecordingUi

from mirage_cli.config import ModelOptions, TransformConfig
from mirage_cli.errors import GpuError, MirageError
from mirage_cli.lsd.family import needed_bytes
from mirage_cli.runs import transform
from mirage_cli.styling import memory_check
from mirage_cli.styling.loading import Models
from mirage_cli.styling.memory_check import check_memory, free_cpu_bytes, largest_size

GIB = 1 << 30
FP32, BF16, FP16 = (partial(needed_bytes, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16))


def test_the_estimate_lies_above_what_was_measured():
    measured = {  # MB beyond the loaded model, see lsd/family.py
        ((1920, 1080), BF16): 470,
        ((2560, 1440), BF16): 770,
        ((1920, 1080), FP32): 695,
        ((2560, 1440), FP32): 960,
    }
    for (size, needs), megabytes in measured.items():
        assert 1.0 < needs(size) / (megabytes << 20) < 2.0


def test_what_does_not_fit_is_refused_with_what_would():
    check_memory((1920, 1080), BF16, 16, False, lambda: GIB)
    check_memory((8192, 8192), FP32, 16, False, lambda: None)  # nobody knows: not refused
    with pytest.raises(
        MirageError, match="8192x8192 need about .* GiB of memory, and 1.8 GiB can be had .2.0 GiB are free"
    ) as caught:
        check_memory((8192, 8192), FP32, 16, False, lambda: 2 * GIB)
    assert caught.value.exit_code == 1
    width, height = largest_size((8192, 8192), 2 * GIB, FP32, 16)
    assert f"--size {width}x{height}" in caught.value.remedy and width % 16 == height % 16 == 0
    check_memory((width, height), FP32, 16, False, lambda: 2 * GIB)
    with pytest.raises(MirageError):
        check_memory((width + 160, height + 160), FP32, 16, False, lambda: 2 * GIB)
    with pytest.raises(GpuError, match="GiB of GPU memory") as caught:
        check_memory((1920, 1080), FP16, 16, True, lambda: 1 << 20)
    assert caught.value.exit_code == 5 and "Free some" in caught.value.remedy
    assert largest_size((7680, 4320), GIB, BF16, 16)[0] / 16 == pytest.approx(
        largest_size((7680, 4320), GIB, BF16, 16)[1] / 9, rel=0.05
    )


def test_this_machine_tells_its_free_memory():
    free = free_cpu_bytes()
    assert free is None or 1 << 20 < free < 1 << 50


def test_the_real_engine_asks_before_it_begins(tmp_path, monkeypatch):
    clip = media.clip(tmp_path / "in.mp4", seconds=0.2, size=(64, 48))
    monkeypatch.setattr(memory_check, "free_cpu_bytes", lambda: 70 << 20)
    config = TransformConfig(
        input=str(clip),
        output=str(tmp_path / "o.mp4"),
        prompts=("night",),
        size=(1920, 1080),
        model=ModelOptions(device="cpu"),
    )
    with pytest.raises(MirageError, match="1920x1080 need about"):
        transform.run(config, RecordingUi(), models=Models())
    assert os.listdir(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize("words", ["CUDA error: unspecified launch failure\nmore", "cuDNN error: X"])
def test_a_gpu_that_is_lost_keeps_what_is_done(tmp_path, words):
    clip = media.clip(tmp_path / "in.mp4", seconds=1.0)

    class Lost(FakeModels):
        def session(self, *arguments):
            made = super().session(*arguments)
            step = made.step

            def fails(rgb):
                if made.frames == 25:
                    raise RuntimeError(words)
                return step(rgb)

            made.step = fails
            return made

    out = tmp_path / "o.mp4"
    config = TransformConfig(str(clip), str(out), ("night",), segment_frames=10)
    with pytest.raises(GpuError, match="(?i)the GPU failed: cu") as caught:
        transform.run(config, RecordingUi(), models=Lost())
    assert caught.value.exit_code == 5 and "\n" not in caught.value.message
    assert "20 frames are kept: add --resume" in caught.value.remedy and not out.exists()
