"""The live stream on the CPU: causal, reproducible, constant in memory, honest about bad models."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.sessions import moving, tiny_model
from mirage_cli.models import catalog
from safetensors.torch import load_file, save_file

from mirage_cli.engine import reference
from mirage_cli.engine.reference import Nv12
from mirage_cli.errors import GpuError, ModelError, UsageProblem
from mirage_cli.lsd.model import LSDConfig
from mirage_cli.stream.families import open_model
from mirage_cli.stream.session import Session

GOLDEN = ROOT / "tests" / "golden" / "tiny_session.json"
SHIPPED = catalog.MODELS_ROOT / "lsd-small"


def run(frames, model=None, **options) -> list[np.ndarray]:
    height, width, _ = frames[0].shape
    session = Session(model or tiny_model(), width=width, height=height, **options)
    return [session.step(frame) for frame in frames]


def tile_means() -> np.ndarray:
    """Eight frames of seed 0 as means of 4x4 tiles, [8, 4, 4, 3] in levels."""
    return np.array([frame.reshape(4, 12, 4, 16, 3).mean(axis=(1, 3)) for frame in run(moving(8))])


def test_golden_frames():
    """Within a level of the recorded tiles.

    After a wanted change ``PYTHONPATH=tests python tests/stream/test_session.py`` records again.
    """
    np.testing.assert_allclose(tile_means(), np.array(json.loads(GOLDEN.read_text())), atol=1.0)


def test_the_model_says_how_far_its_past_is_to_be_trusted():
    """Whole trust by default; at level 1 the network is told with a past what it is told without."""
    given = {}
    for level in (0.0, 0.5, 1.0):
        model = tiny_model()
        model.net.config = replace(model.net.config, history_levels=(level, level, 1.0))
        given[level] = Session(model, width=64, height=48).painter.conditioning.modulations.clone()
    assert torch.equal(given[1.0][0], given[1.0][1])
    assert all(torch.equal(given[level][1], given[1.0][1]) for level in given)
    assert not torch.equal(given[0.5][0], given[1.0][0]) and not torch.equal(given[0.5][0], given[0.0][0])
    assert LSDConfig(looks=("a",)).history_levels == (0, 0, 0)


def test_same_seed_same_frames_and_another_seed_differs():
    frames = moving(5)
    first, again, other = run(frames), run(frames), run(frames, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other))


def test_a_seed_set_later_gives_the_frame_of_that_seed():
    frames = moving(1)
    session = Session(tiny_model(), width=64, height=48)
    session.step(frames[0])
    session.set_seed(1)
    session.reset()
    assert np.array_equal(session.step(frames[0]), run(frames[:1], seed=1)[0])


def test_a_reset_keeps_look_strength_and_seed():
    session = Session(tiny_model(), width=64, height=48, seed=3, strength=0.5)
    session.set_look({session.model.looks[1]: 1.0})
    before = session.describe()
    session.step(moving(1)[0])
    session.reset()
    after = session.describe()
    assert after["looks"] == before["looks"] and after["strength"] == 0.5


def test_causal():
    """Frame i never depends on frame i + 1: another future leaves the past as it was."""
    frames = moving(8)
    changed = frames[:5] + [255 - frame for frame in frames[5:]]
    a, b = run(frames), run(changed)
    assert all(np.array_equal(x, y) for x, y in zip(a[:5], b[:5]))
    assert not np.array_equal(a[5], b[5])


def test_the_past_matters_and_reset_forgets_it():
    frames = moving(6)
    session = Session(tiny_model(), width=64, height=48)
    followed = [session.step(frame) for frame in frames]
    session.reset()
    assert not np.array_equal(session.step(frames[-1]), followed[-1])
    fresh = run(frames[-1:])
    session.reset()
    assert np.array_equal(session.step(frames[-1]), fresh[0])


def test_a_frame_on_the_device_gives_the_same_frame_there():
    frames = moving(3)
    wanted = run(frames)
    session = Session(tiny_model(), width=64, height=48)
    made = [session.step_on_device(torch.from_numpy(frame)) for frame in frames]
    assert all(np.array_equal(a.numpy(), b) for a, b in zip(made, wanted))
    session.set_strength(0.0)
    same = torch.from_numpy(frames[0].copy())
    returned = session.step_on_device(same)
    same.zero_()
    assert np.array_equal(returned.numpy(), frames[0])  # its own memory
    with pytest.raises(UsageProblem, match=r"a frame of float32 \(48, 64, 3\); this session takes uint8"):
        session.step_on_device(torch.zeros(48, 64, 3))


@pytest.mark.parametrize("code", [Nv12(), Nv12("bt601", True)], ids=["709", "601-full"])
def test_nv12_in_and_out_is_the_rgb_stream_coded(code):
    height, width = 46, 70  # padded inside

    def planes():
        whole = torch.zeros(height * 3 // 2, width, dtype=torch.uint8)
        return whole, whole[:height], whole[height:]

    def as_nv12(rgb):
        whole, luma, chroma = planes()
        reference.rgb_to_nv12(torch.from_numpy(rgb), code, luma, chroma)
        return whole

    incoming = [as_nv12(frame) for frame in moving(12, height, width)]
    seen = [
        reference.nv12_to_rgb(p[:height], p[height:], code, torch.zeros(height, width, 3, dtype=torch.uint8))
        for p in incoming
    ]
    wanted = [as_nv12(frame).numpy() for frame in run([s.numpy() for s in seen])]
    session = Session(tiny_model(), width=width, height=height, nv12=code)
    made = [session.step(p.numpy()) for p in incoming]
    assert all(np.array_equal(a, b) for a, b in zip(made, wanted))
    session.reset()
    assert np.array_equal(session.step_on_device(incoming[0]).numpy(), wanted[0])
    session.set_strength(0.0)
    assert np.array_equal(session.step(incoming[3].numpy()), incoming[3].numpy())


def test_nv12_wants_its_own_shape_and_even_sides():
    with pytest.raises(UsageProblem, match="NV12 frames of 64x47; both sides must be even"):
        Session(tiny_model(), width=64, height=47, nv12=Nv12())
    session = Session(tiny_model(), width=64, height=48, nv12=Nv12())
    with pytest.raises(UsageProblem, match=r"takes uint8 \(72, 64\)"):
        session.step(np.zeros((48, 64, 3), np.uint8))


def test_a_cut_forgets_the_past():
    frames = moving(4, seed=1) + moving(2, seed=9)
    session = Session(tiny_model(), width=64, height=48)
    cuts = []
    for frame in frames:
        out = session.step(frame)
        cuts.append(session.report.cut)
    assert cuts == [False] * 4 + [True, False]
    assert session.counters["cuts"] == 1
    del out
    after_cut = Session(tiny_model(), width=64, height=48)
    session = Session(tiny_model(), width=64, height=48)
    outs = [session.step(frame) for frame in frames[:5]]
    assert np.array_equal(outs[4], after_cut.step(frames[4]))


@pytest.mark.slow
@pytest.mark.parametrize("leak", [False, True], ids=["sound", "leaking"])
def test_constant_memory_over_500_frames(leak):
    """In a process of its own; one that keeps its 500 output frames, 4.4 MiB in all, would be found out."""
    command = [sys.executable, "-m", "helpers.memory", *(["--leak"] if leak else [])]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=True, timeout=240)
    measured = json.loads(done.stdout)
    assert (measured["grown_mib"] < 3) != leak, measured
    assert measured["in_place"]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_odd_sizes_and_steps(steps):
    out = run(moving(3, height=37, width=51), steps=steps)
    assert all(frame.shape == (37, 51, 3) and frame.dtype == np.uint8 for frame in out)


def test_strength_zero_forgets_all_that_was_generated():
    session = Session(tiny_model(), width=64, height=48)
    for frame in moving(6):
        session.step(frame)
    assert session.painter.memory.writes
    session.set_strength(0.0)
    session.step(moving(1)[0])
    assert session.painter.memory.writes == 0 and not session.painter.history.valid.any()


def test_identity_and_strength_zero_return_the_input():
    frames = moving(3)
    session = Session(tiny_model(), width=64, height=48)
    session.set_look({"identity": 1.0})
    assert all(np.array_equal(session.step(frame), frame) for frame in frames)
    assert all(np.array_equal(out, frame) for out, frame in zip(run(frames, strength=0.0), frames))


def test_look_mixtures_lie_between():
    frame = moving(1)
    out = {}
    for weight in (0.0, 0.5, 1.0):
        session = Session(tiny_model(), width=64, height=48)
        session.set_look({"first": 1 - weight, "second": weight})
        out[weight] = session.step(frame[0]).astype(float)
    assert not np.array_equal(out[0.0], out[1.0])
    apart = np.abs(out[0.0] - out[1.0]).mean()
    assert np.abs(out[0.5] - out[0.0]).mean() < apart and np.abs(out[0.5] - out[1.0]).mean() < apart


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.set_look({}),
        lambda s: s.set_look({"first": -1.0}),
        lambda s: s.set_look({"first": float("nan")}),
        lambda s: s.set_look({"no such look": 1.0}),
        lambda s: s.set_strength(1.5),
        lambda s: s.step(np.zeros((10, 10, 3), np.uint8)),
        lambda s: s.step(np.zeros((48, 64, 3), np.float32)),
    ],
)
def test_bad_calls(call):
    with pytest.raises(UsageProblem):
        call(Session(tiny_model(), width=64, height=48))


@pytest.mark.parametrize("options", [{"width": 0}, {"height": 100000}, {"steps": 0}, {"steps": 5}])
def test_bad_sessions(options):
    with pytest.raises(UsageProblem):
        Session(tiny_model(), **{"width": 64, "height": 48, **options})


def test_ptx_without_a_gpu_fails_with_the_reason():
    with pytest.raises(GpuError):
        Session(tiny_model(), width=64, height=48, backend="ptx")


def test_nan_in_the_history_is_mended_at_once():
    session = Session(tiny_model(), width=64, height=48)
    frames = moving(4)
    session.step(frames[0])
    session.painter.history.last.fill_(float("nan"))
    out = session.step(frames[1])
    assert session.report.guard_event == "NaN" and session.counters["guard_events"] == 1
    assert np.array_equal(out, run(frames[1:2])[0])


def test_shipped_model_paints_and_keeps_the_scene():
    model = open_model("lsd-small")
    assert len(model.looks) >= 25 and model.looks[-1] == "identity"
    frames = moving(6, 96, 128)
    session = Session(model, width=128, height=96)
    session.set_look({"film-noir": 1.0})
    out = [session.step(frame) for frame in frames][-1].astype(float)
    assert (out.max(axis=2) - out.min(axis=2)).mean() < 12  # black and white
    grey = frames[-1].astype(float).mean(axis=2)
    assert np.corrcoef(out.mean(axis=2).ravel(), grey.ravel())[0, 1] > 0.5


def test_shipped_files_are_whole_and_small():
    assert all(check.problem is None for check in catalog.check_files(SHIPPED))
    assert sum(f.stat().st_size for f in catalog.MODELS_ROOT.rglob("*.safetensors")) < 64e6
    assert (SHIPPED / "model.safetensors").stat().st_size <= 40e6


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(SHIPPED, tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    return tmp_path / "model"


def test_nan_in_weights(copy):
    weights = load_file(copy / "model.safetensors")
    weights["out.bias"][0] = float("nan")
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(ModelError, match="NaN"):
        open_model(copy)


def test_damaged_foreign_and_missing_models(copy, tmp_path):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError):
        open_model(copy)
    save_file({"some.weight": torch.zeros(3)}, copy / "model.safetensors")
    with pytest.raises(ModelError, match="another network"):
        open_model(copy)
    (copy / "model.safetensors").write_bytes(hashlib.sha256(b"noise").digest() * 40)
    with pytest.raises(ModelError):
        open_model(copy)
    with pytest.raises(ModelError):
        open_model("no-such-model")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_asked_for_where_there_is_none():
    with pytest.raises(GpuError):
        open_model("lsd-small", device="cuda")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(tile_means().round(2).tolist()))
