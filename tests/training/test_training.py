"""Training on a CPU in seconds: two looks, three small pictures; the loss falls, and a run resumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mirage_cli.errors import MediaError, ModelError, UsageProblem
from mirage_cli.lsd.history import History
from mirage_cli.lsd.model import LSDConfig, LSDNet, Past
from mirage_cli.training import loop
from mirage_cli.training.camera import CameraWalk, WalkConfig
from mirage_cli.training.config import load_config
from mirage_cli.training.data import fit, read_manifest, read_runs
from mirage_cli.training.forcing import ForcingConfig, force
from mirage_cli.training.losses import LossConfig, frame_loss, grid_difference, temporal_difference, tone_difference
from mirage_cli.training.state import load_streams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SMALL = [
    "streams=16",
    "stream.weak=0",
    "size=64",
    "banks=[[96,128,0.5],[80,112,0.5]]",
    "log_every=2",
    "validate=false",
    "loss.features=0",
    'network={"widths":[16,16,64],"middle_blocks":2,"encoder_blocks":[1,1],"decoder_blocks":[1,1]}',
    "device=cpu",
    "warmup_steps=2",
    "learning_rate=0.002",
    "compile=false",
    "minutes=5",
]


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder of three photos and a manifest, in the layout that ``mirage train`` reads."""
    root = tmp_path / "data"
    (root / "photos").mkdir(parents=True)
    rng = np.random.default_rng(4)
    with (root / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "split", "ship_ok"])
        for name in "abc":
            picture = cv2.resize(
                rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC
            )
            cv2.imwrite(str(root / "photos" / f"{name}.png"), picture)
            writer.writerow([f"photos/{name}.png", "photo", "train", "no" if name == "c" else "yes"])
    (tmp_path / "looks.json").write_text(json.dumps({"looks": [{"id": "film-noir"}, {"id": "thermal"}]}))
    return root


@pytest.fixture
def film_clips(data) -> list[str]:
    """A film in the data folder and the overrides that take clips from it."""
    (data / "film").mkdir()
    writer = cv2.VideoWriter(str(data / "film" / "f.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 12, (160, 120))
    plane = cv2.resize(np.random.default_rng(7).integers(0, 256, (14, 30, 3), dtype=np.uint8), (240, 120))
    for i in range(8):
        writer.write(plane[:, 3 * i : 3 * i + 160])
    writer.release()
    (data / "film" / "shots.csv").write_text("start_frame,end_frame\n0,7\n")
    with (data / "MANIFEST.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["film/f.mp4", "film", "train", "yes"])
    return ["film=0", "clips=[1,0,6]", "clip_share=0.2"]


@pytest.fixture
def arguments(data, tmp_path) -> list[str]:
    """Overrides of a run whose looks are painted by filters: style networks do not ship."""
    return [*SMALL, f"data={data}", f"run={tmp_path / 'run'}", f"looks_file={tmp_path / 'looks.json'}"]


def test_the_loss_falls_and_a_run_resumes(arguments, tmp_path):
    said: list[str] = []
    arguments += ["loss.texture=0.1", "loss.distil=0.1", "distil_every=4"]
    record = loop.main(None, [*arguments, "max_steps=40"], said.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.0.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert len(lines) == 20 and np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3]), losses
    assert record["progress"]["step"] == 40 and (tmp_path / "run" / "model.safetensors").is_file()
    loop.main(None, [*arguments, "max_steps=42"], said.append)
    assert any("resumed at step 40" in line for line in said)
    last = json.loads((tmp_path / "run" / "log.0.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 42 and last["loss"] < losses[0]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.0.jsonl").read_text().splitlines()]


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(arguments, tmp_path, film_clips):
    def config(name: str):
        more = [
            f"run={tmp_path / name}",
            "minutes=0",
            "max_steps=9",
            "log_every=1",
            "loss.distil=0.2",
            "distil_every=2",
            "stream.mean_frames=4",
            "checkpointing=true",
            *film_clips,
        ]
        return load_config(None, [*arguments, *more])

    whole = loop.Trainer(config("whole"), lambda line: None)
    assert whole.train() and whole.progress.step == 9
    asked = iter([False] * 3 + [True])
    first = loop.Trainer(config("parts"), lambda line: None)
    assert not first.train(stop=lambda: next(asked)) and first.progress.step == 4
    said: list[str] = []
    second = loop.Trainer(config("parts"), said.append)
    assert second.same_streams and any("go on where they were" in line for line in said)
    torch.testing.assert_close(second.pool.history.last, first.pool.history.last, rtol=0, atol=0)
    assert second.train(until=6) is False
    third = loop.Trainer(config("parts"), lambda line: None)
    assert third.train() and not third.streams_file.exists()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name, value in whole.mean.values.items():
        assert torch.equal(third.mean.values[name], value), name


def test_streams_of_another_step_or_another_pool_are_not_taken(arguments, tmp_path):
    more = ["minutes=0", "max_steps=9"]
    first = loop.Trainer(load_config(None, [*arguments, *more]), lambda line: None)
    first.train(until=2)
    assert loop.Trainer(load_config(None, [*arguments, *more]), lambda line: None).same_streams
    other = loop.Trainer(load_config(None, [*arguments, *more, "streams=12"]), lambda line: None)
    assert not other.same_streams and other.pool.history.last.shape[0] == 12
    assert not load_streams(first.streams_file, first.pool, first.generators, 3)
    first.streams_file.write_bytes(b"no safetensors")
    assert not loop.Trainer(load_config(None, [*arguments, *more]), lambda line: None).same_streams


def test_adam_goes_on_with_the_tensors_of_a_new_run(arguments):
    first = loop.Trainer(load_config(None, [*arguments, "minutes=0", "max_steps=9"]), lambda line: None)
    first.train(until=2)
    second = loop.Trainer(load_config(None, [*arguments, "minutes=0", "max_steps=9"]), lambda line: None)
    for one, other in zip(first.net.parameters(), second.net.parameters()):
        for name, value in first.optimizer.state[one].items():
            read = second.optimizer.state[other][name]
            assert torch.equal(read, value) and read.device == value.device, name
            assert read.stride() == value.stride() and not read.requires_grad, name


@pytest.mark.gpu
def test_a_run_resumes_on_a_gpu(arguments, tmp_path):
    """Where Adam is one fused kernel, which wants its step on the device and its moments in the weights' layout."""
    arguments = [*arguments, "device=cuda", "minutes=0", "log_every=1"]
    loop.main(None, [*arguments, "max_steps=3"], lambda line: None)
    record = loop.main(None, [*arguments, "max_steps=6"], lambda line: None)
    assert record["progress"]["step"] == 6 and np.isfinite(losses(tmp_path / "run")).all()


def test_weights_that_are_not_finite_do_not_replace_the_checkpoint(arguments):
    arguments = [*arguments, "minutes=0", "max_steps=9", "log_every=100"]  # the log's own look at the loss comes late
    trainer = loop.Trainer(load_config(None, arguments), lambda line: None)
    trainer.train(until=1)
    before = {path: path.read_bytes() for path in trainer.run.glob("*.safetensors")}
    with torch.no_grad():
        trainer.net.stem.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        trainer.train(until=3)
    after = {path: path.read_bytes() for path in trainer.run.glob("*.safetensors")}
    assert len(before) >= 2 and after == before


def test_one_stream_has_features_in_every_step():
    """Odd and even steps look at different halves of the streams; of one stream at all."""
    picture, target = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    for step in (0, 1):
        loss, terms = frame_loss(picture, picture, target, lambda rgb: [rgb], LossConfig(style=1.0), step)
        assert torch.isfinite(loss) and terms["features"] == pytest.approx(0.5)


@pytest.mark.parametrize("part", ["rollout", "memory", "motion"])
def test_parts_switched_off_for_ablations(arguments, part):
    trainer = loop.Trainer(load_config(None, [*arguments, f"stream.{part}=false"]), lambda line: None)
    for _ in range(6):
        terms = trainer.step()
    assert np.isfinite(terms["loss"].item())
    pool = trainer.pool
    null = trainer.net.memory_null.detach().expand_as(pool.memory)
    if part == "memory":
        torch.testing.assert_close(pool.memory, null)
    else:
        assert not torch.equal(pool.memory, null)


def test_tasks_tell_how_their_targets_changed(arguments):
    """Along the motion the target's change is small; the first frame and a new look have nothing to compare with."""
    trainer = loop.Trainer(load_config(None, [*arguments, "stream.switch=0", "stream.noise=0"]), lambda line: None)
    first = trainer.pool.next(trainer.net)
    assert not first.trusted.any()
    trainer.pool.feed(first, first.target, trainer.net.empty_memory(len(first.t))[:, :48])
    later = trainer.pool.next(trainer.net)
    held = later.trusted.expand_as(later.change).bool()
    assert held.float().mean() > 0.3
    perfect = temporal_difference(later.target, later.past.last, later.change, later.trusted)
    assert perfect < 1e-6  # who paints the targets themselves has nothing to change
    assert later.change[held].abs().mean() < 0.5 * (later.target - first.target)[held].abs().mean() + 0.02


def test_a_camera_keeps_most_of_a_still_s_detail():
    """Between the pixels: bilinear sampling takes three quarters of the power of noise, bicubic much less."""
    noise = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    kept = {}
    for cubic in (False, True):
        config = WalkConfig(cubic=cubic, object_share=0.0)
        walk = CameraWalk(1, (64, 64), (96, 96), config, torch.device("cpu"), torch.Generator().manual_seed(0))
        walk.pose.copy_(torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
        walk.flip.fill_(1.0)
        view = walk.look(noise, noise)
        assert view.abs().max() <= 1
        kept[cubic] = float(view.var() / noise.var())
    assert kept[False] < 0.3 and kept[True] > 1.4 * kept[False]


def test_only_shippable_media_unless_asked(data):
    assert len(read_manifest(data, "photo", "train", shippable_only=True)) == 2
    assert len(read_manifest(data, "photo", "train", shippable_only=False)) == 3


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("no_such_key=1", "unknown keys"),
        ("minutes", "key=value"),
        ("minutes=soon", "minutes is 'soon'; it must be a number"),
        ("streams=2.5", "a whole number"),
        ("compile=1", "true or false"),
        ("stream=3", "it must be a table"),
        ("minutes.x=1", "minutes"),
        ("minutes=0", "never end"),
        ("size=100", "multiple of 16"),
        ("streams=0", "1 at least"),
        ("banks=[[100,100]]", "[height, width, share]"),
        ('network={"widths":[8,8,8]}', "head width"),
        ('network={"depth":3}', "unknown keys"),
        ("looks_file=README.md", "not a looks file"),
        ("device=tpu", "auto, cpu or cuda"),
        ("clips=[1,0,1]", "at least 2 frames"),
        ('network={"memory_slots":2}', "more than memory_anchors"),
        ('network={"history_levels":0.5}', "3 numbers"),
        ('network={"history_level":0.5}', "unknown keys"),
    ],
)
def test_bad_settings_are_told_in_a_line(arguments, setting, told):
    with pytest.raises(UsageProblem) as caught:
        loop.main(None, [*arguments, "max_steps=1000000000", setting])
    assert told in caught.value.message and "\n" not in caught.value.message and caught.value.remedy


def test_bad_files(tmp_path, arguments):
    with pytest.raises(UsageProblem):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "no.json").write_text("[]")
    with pytest.raises(UsageProblem, match="not a looks file"):
        loop.main(None, [*arguments, f"looks_file={tmp_path / 'no.json'}"])
    with pytest.raises(MediaError, match="MANIFEST"):
        loop.main(None, [*arguments, f"data={tmp_path}"])
    with pytest.raises(ModelError, match="cannot be read"):
        loop.main(None, [*arguments, f"init={tmp_path / 'no.json'}"])
    weights = LSDNet(LSDConfig(looks=("a", "b"), widths=(8, 8, 64))).state_dict()
    save_file(weights, str(tmp_path / "other.safetensors"))
    with pytest.raises(MediaError, match="it is a file"):
        loop.main(None, [*arguments, f"run={tmp_path / 'no.json'}"])
    with pytest.raises(MediaError, match="no film and no game clips"):
        loop.main(None, [*arguments, "clips=[1,1,6]"])
    assert read_runs(tmp_path / "no.mp4", [], 6) == []  # a film without a shot that is long enough
    with pytest.raises(ModelError, match="another network"):
        loop.main(None, [*arguments, f"init={tmp_path / 'other.safetensors'}"])


def test_forcing_tells_the_levels_and_hides_the_past():
    generator = torch.Generator().manual_seed(0)
    history = History.empty(64, 32, 32)
    past = Past(history.last, history.older, history.input_luma, torch.zeros(64, 4, 8), torch.ones(64))
    past = past._replace(memory=torch.ones(64, 4, 8))
    seen, kept, levels = force(past, torch.zeros(8), ForcingConfig(noisy=1.0, damaged=0.0, hidden=0.3), generator)
    hidden = seen.valid == 0
    assert 5 < hidden.sum() < 40 and bool((levels[hidden] == 1).all()) and bool((seen.last[hidden] == 0).all())
    assert bool((seen.memory[hidden] == 0).all()) and bool((seen.memory[~hidden] == 1).all())
    spread = seen.last[~hidden].flatten(1).std(dim=1)
    np.testing.assert_allclose(spread, 0.5 * levels[~hidden][:, 0], rtol=0.1, atol=0.01)
    assert bool((kept.last == 0).all())  # noise is for the network's eyes only


def test_where_a_past_is_torn_it_is_not_trusted(arguments):
    trainer = loop.Trainer(load_config(None, [*arguments, "stream.torn=0.5"]), lambda line: None)
    pool, flow = trainer.pool, torch.full((400, 2, 32, 32), 0.25)
    torn, where = pool._torn(flow)
    assert where.shape == (400, 1, 64, 64) and set(where.unique().tolist()) == {0.0, 1.0}
    wrong = (torn != flow).any(dim=1, keepdim=True)
    assert torch.equal(torch.nn.functional.interpolate(wrong.float(), scale_factor=2.0), where)
    hit = where.flatten(1).any(dim=1).float().mean()
    assert 0.4 < hit < 0.6 and 0.05 < where.mean() < 0.2
    assert 0.5 < (torn - flow)[wrong.expand_as(flow)].std() < 2
    first = pool.next(trainer.net)
    pool.feed(first, first.target, trainer.net.empty_memory(len(first.t))[:, :48])
    pool._torn = lambda flow: (flow, torch.ones(len(flow), 1, 64, 64))
    assert not pool.next(trainer.net).trusted.any()


def test_a_weave_costs_and_strokes_elsewhere_do_not():
    noise = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1)) - 0.5
    checks = 0.1 * (1 - 2 * ((torch.arange(256)[:, None] + torch.arange(256)) % 2))
    assert grid_difference(noise, noise + 0.3) < 1e-6  # a tone is no weave
    assert grid_difference(noise, noise.flip(-1)) < 0.015
    assert grid_difference(noise + checks, noise) == pytest.approx(0.1, abs=1e-4)
    assert grid_difference(noise[..., :16, :16], noise[..., :16, :16]) == 0  # smaller than a window


def test_a_tone_costs_wherever_its_strokes_lie():
    noise = torch.rand(2, 3, 250, 256, generator=torch.Generator().manual_seed(1)) - 0.5  # no whole number of cells
    assert tone_difference(noise + 0.1, noise) == pytest.approx(0.1, abs=1e-4)
    assert tone_difference(noise, noise.flip(-1)) < 0.03  # L1 of these two is 0.33
    graded = [frame_loss(noise + 0.1, noise, noise, None, LossConfig(tone=weight)) for weight in (0.0, 2.0)]
    assert graded[1][0] - graded[0][0] == pytest.approx(0.2, abs=1e-4) and "tone" not in graded[0][1]


def test_fit_covers_and_crops():
    assert fit(np.zeros((50, 200, 3), np.uint8), 64, 96).shape == (64, 96, 3)
