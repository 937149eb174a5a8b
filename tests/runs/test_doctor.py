"""Doctor's findings: each check calls a good case good and a bad case bad, with its fix."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mirage_cli.kernels.loader import KernelState
from mirage_cli.models import catalog
from safetensors.numpy import save_file

from mirage_cli.runs import doctor


def statuses(findings: list[dict[str, str]]) -> list[str]:
    for item in findings:
        assert set(item) == {"name", "status", "detail", "fix"} and item["detail"]
        assert item["status"] in ("ok", "warn", "fail")
        assert item["status"] == "ok" or item["fix"], item
    return [item["status"] for item in findings]


def raising(error: Exception):
    def load(name: str) -> object:
        raise error

    return load


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A catalogue whose two needed models are whole."""
    for name in (catalog.DEFAULT_MODEL, catalog.TEXT_ENCODER):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        save_file({"a": np.zeros(8, np.float32)}, folder / "model.safetensors")
        catalog.write_manifest(folder)
    return tmp_path / "models"


def test_python() -> None:
    assert statuses(doctor.check_python((3, 12, 1))) == ["ok"]
    assert statuses(doctor.check_python((3, 9, 2))) == ["fail"]
    assert statuses(doctor.check_python((3, 14, 0))) == ["warn"]


def test_packages() -> None:
    assert statuses(doctor.check_packages()) == ["ok"]
    (bad,) = doctor.check_packages({"nosuch-package": "nosuch_module"})
    assert bad["status"] == "fail" and "nosuch_module" in bad["detail"]


def test_opencv_without_the_system_libraries_names_the_headless_wheel() -> None:
    assert statuses(doctor.check_opencv()) == ["ok"]
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    (bad,) = doctor.check_opencv(raising(error))
    assert bad["status"] == "fail" and "opencv-python-headless" in bad["fix"]


def fake_torch(build: str | None, available: bool) -> SimpleNamespace:
    properties = SimpleNamespace(name="GPU X", major=9, minor=0, total_memory=80 * 2**30)
    cuda = SimpleNamespace(
        is_available=lambda: available, device_count=lambda: 1, get_device_properties=lambda index: properties
    )
    version = SimpleNamespace(cuda=build)
    return SimpleNamespace(__version__="2.13.0", version=version, cuda=cuda, get_num_threads=lambda: 2)


def test_torch_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    (missing,) = doctor.check_torch(raising(ImportError("No module named 'torch'")))
    assert missing["status"] == "fail"
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: None)
    assert statuses(doctor.check_torch(lambda name: fake_torch(None, False))) == ["ok", "ok"]
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: "580.1")
    assert statuses(doctor.check_torch(lambda name: fake_torch(None, False))) == ["ok", "warn"]
    old = doctor.check_torch(lambda name: fake_torch("13.0", False))
    assert statuses(old) == ["ok", "warn"] and "driver" in old[1]["fix"]
    good = doctor.check_torch(lambda name: fake_torch("13.0", True))
    assert statuses(good) == ["ok", "ok"]
    assert "GPU X (sm_90, 80 GiB), driver 580.1" in good[1]["detail"]


def test_cupy() -> None:
    assert statuses(doctor.check_cupy(lambda name: SimpleNamespace(__version__="14.2.0"))) == ["ok"]
    (broken,) = doctor.check_cupy(raising(RuntimeError("no CUDA runtime")))
    assert broken["status"] == "warn" and "[gpu" in broken["fix"]


def test_kernels() -> None:
    (idle,) = doctor.check_kernels(has_gpu=False)
    assert idle["status"] == "ok" and "not used" in idle["detail"]
    good = KernelState("mirage_warp", "warp.ptx", "CUDA C++", "8.0", "sm_80", True, "")
    bad = replace(good, ready=False, reason="needs sm_80")
    assert statuses(doctor.check_kernels(True, lambda: [good, good])) == ["ok"]
    (mixed,) = doctor.check_kernels(True, lambda: [good, bad, bad])
    assert mixed["status"] == "warn" and mixed["detail"].count("needs sm_80") == 1
    assert "1 of 3" in mixed["detail"]


def test_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (found,) = doctor.check_ffmpeg()
    assert found["status"] == "ok" and "ffmpeg" in found["detail"]
    from mirage_cli.media import ffmpeg as ffmpeg_tools

    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    tool = ffmpeg_tools.FfmpegTool(str(broken), "0", "system")
    monkeypatch.setattr(ffmpeg_tools, "find_ffmpeg", lambda: tool)
    assert statuses(doctor.check_ffmpeg()) == ["fail"]
    broken.write_text("#!/bin/sh\necho ' V....D mpeg4'\n")
    (poor,) = doctor.check_ffmpeg()
    assert poor["status"] == "warn" and "libx264" in poor["detail"]


def test_models(models: Path) -> None:
    good = doctor.check_models(models)
    assert statuses(good) == ["ok", "ok"] and "as recorded" in good[0]["detail"]
    extra = models / "my-own"
    extra.mkdir()
    (extra / "config.json").write_text("{}")
    assert sorted(statuses(doctor.check_models(models))) == ["ok", "ok", "warn"]
    (models / catalog.TEXT_ENCODER / "model.safetensors").write_bytes(b"damaged")
    assert sorted(statuses(doctor.check_models(models))) == ["fail", "ok", "warn"]
    assert statuses(doctor.check_models(models / "nowhere")) == ["fail", "fail"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="Linux only")
def test_cameras_and_display(tmp_path: Path) -> None:
    (none,) = doctor.check_cameras(tmp_path)
    assert none["status"] == "ok" and "--input test" in none["detail"]
    (tmp_path / "video0").touch()
    (one,) = doctor.check_cameras(tmp_path)
    assert one["status"] == "ok" and "video0" in one["detail"]
    assert statuses(doctor.check_display({})) == ["warn"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_windows_by_opencv_or_tk() -> None:
    def with_modules(**modules: object):
        def load(name: str) -> object:
            if name not in modules:
                raise ImportError(f"No module named {name!r}")
            return modules[name]

        return load

    headless, windows = (
        SimpleNamespace(__version__="5.0", getBuildInformation=lambda gui=gui: f"\n  GUI:    {gui}\n    QT: x\n")
        for gui in ("NONE", "QT5")
    )
    screen = {"DISPLAY": ":0"}

    def yes() -> bool:
        return True

    (both,) = doctor.check_display(screen, with_modules(cv2=windows, tkinter=object()), yes)
    assert both["status"] == "ok" and both["detail"] == ":0, windows by OpenCV (QT5) or Tk"
    (tk,) = doctor.check_display(screen, with_modules(cv2=headless, tkinter=object()), yes)
    assert tk["status"] == "ok" and tk["detail"] == ":0, windows by Tk"
    (none,) = doctor.check_display(screen, with_modules(cv2=headless), yes)
    assert none["status"] == "warn" and "tkinter" in none["fix"]
    (shut,) = doctor.check_display(screen, with_modules(tkinter=object()), lambda: False)
    assert shut["status"] == "warn" and ":0 cannot be opened" in shut["detail"]
    (opencv,) = doctor.check_opencv(with_modules(cv2=headless))
    assert opencv["status"] == "ok" and "Tk" in opencv["detail"]
    assert "windows by QT5" in doctor.check_opencv(with_modules(cv2=windows))[0]["detail"]


def test_memory_and_disk(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n")
    assert statuses(doctor.check_memory(meminfo)) == ["ok"]
    meminfo.write_text("MemTotal: 8000000 kB\nMemAvailable: 600000 kB\n")
    assert statuses(doctor.check_memory(meminfo)) == ["warn"]
    before = sorted(tmp_path.iterdir())
    assert doctor.check_disk(tmp_path)[0]["detail"].startswith(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == before, "the trial write left something behind"
    assert statuses(doctor.check_disk(tmp_path / "nowhere")) == ["warn"]


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.setattr(doctor, "check_python", lambda: 1 / 0)
    findings = doctor.run(models_root=models, trial=False)
    statuses(findings)
    assert "ZeroDivisionError" in findings[0]["detail"]
    assert {"torch", "ffmpeg", "disk"} <= {item["name"] for item in findings}


def test_exit_code_follows_the_main_job(models: Path) -> None:
    assert doctor.exit_code(doctor.run(models_root=models, trial=False)) == 0
    (models / catalog.DEFAULT_MODEL / "model.safetensors").unlink()
    assert doctor.exit_code(doctor.run(models_root=models, trial=False)) == 1
    assert doctor.exit_code([doctor.finding("a", "warn", "x", "y")]) == 0


def test_trial_frame_of_a_damaged_model_fails(models: Path) -> None:
    (bad,) = doctor.check_trial(models / catalog.DEFAULT_MODEL)
    assert bad["status"] == "fail" and bad["fix"]


def test_this_machine_can_do_the_main_job() -> None:
    findings = doctor.run()
    statuses(findings)
    assert doctor.exit_code(findings) == 0, [f for f in findings if f["status"] == "fail"]
    (trial,) = (item for item in findings if item["name"] == "trial frame")
    assert trial["status"] == "ok" and "64x64" in trial["detail"]
    json.dumps(findings)
