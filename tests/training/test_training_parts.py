"""Parts of the training: shortcut distillation, texture loss, real clips, weights taken over."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mirage_cli.lsd.model import LSDConfig, LSDNet, Past
from mirage_cli.teachers import filters
from mirage_cli.training.data import PictureBank, VideoBank, load_clips, render_clips
from mirage_cli.training.distill import two_half_steps
from mirage_cli.training.loop import Trainer
from mirage_cli.training.losses import style_difference, temporal_difference, texture_difference
from mirage_cli.training.playing import ClipPlayer
from mirage_cli.training.settle import CELL, repeat_without_past, settle_difference
from mirage_cli.training.state import RunningMean
from mirage_cli.training.streams import StreamConfig, StreamPool, Task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_half_steps_of_a_sure_teacher_are_its_answer():
    """A teacher that always sees the same frame goes straight there: one step must say that frame."""
    frame, x = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    t, d = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5])
    torch.testing.assert_close(two_half_steps(lambda *_: frame, x, t, d), frame)


def test_two_half_steps_land_where_the_teacher_lands():
    """By hand, for a teacher whose answer depends on where it is asked: from 0 over 1/4 to 1/2."""
    x = torch.full((1, 1, 1, 1), 2.0)
    first = x + 0.25 * (x * 0.5 - x)  # d / 2 / (1 - 0) = 1/4 of the way to x / 2
    second = first + 0.25 / 0.75 * (first * 0.5 - first)
    wanted = x + (second - x) / 0.5
    given = two_half_steps(lambda x_t, t, d: x_t * 0.5, x, torch.zeros(1), torch.full((1,), 0.5))
    torch.testing.assert_close(given, wanted)


def test_texture_difference_wants_strokes_wherever_they_lie():
    strokes = torch.zeros(1, 1, 33, 33)
    strokes[..., ::4] = 1.0
    shifted, blurred = torch.roll(strokes, 2, dims=3), torch.full_like(strokes, 0.25)
    assert texture_difference(strokes, strokes) == 0
    assert texture_difference(shifted, strokes) < 0.1 * texture_difference(blurred, strokes)
    assert (shifted - strokes).abs().mean() > (blurred - strokes).abs().mean()  # what L1 alone would choose


def test_style_difference_wants_the_same_patterns_wherever_they_lie():
    features = torch.zeros(1, 2, 64, 64)
    features[:, 0, :, ::4], features[:, 1, ::4] = 1.0, 1.0  # one channel sees upright strokes, one lying ones
    shifted, blurred, turned = features.roll((1, 1), dims=(2, 3)), torch.full_like(features, 0.25), features.flip(1)
    turned[:, 0] *= 0.5
    assert style_difference([features], [features]) == 0
    moved = style_difference([shifted], [features])
    assert moved < 0.1 * style_difference([blurred], [features])
    assert moved < 0.1 * style_difference([turned], [features])
    assert (shifted - features).abs().mean() > (blurred - features).abs().mean()  # what L1 alone would choose


def tagged_bank(clips: int, length: int) -> VideoBank:
    """Each frame's level is its number; its twin in look l is 20 (l + 1) levels brighter."""
    number = torch.arange(clips * length, dtype=torch.uint8)
    photos = number[:, None, None, None].expand(-1, 3, 40, 48).contiguous()
    styled = torch.stack([(number + 20 * (k + 1))[:, None, None, None].expand(-1, 4, 40, 48) for k in range(2)], 1)
    return VideoBank(PictureBank(photos, styled.contiguous(), [3, 3]), length)


def test_clips_are_played_to_and_fro():
    player = ClipPlayer(tagged_bank(2, 5), 3, 32, torch.Generator().manual_seed(2))
    player.position[:] = 0
    index, look, other = torch.tensor([[0, 1, 1], [0, 0, 0]]), torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0])
    seen = []
    for _ in range(9):
        view = (player.view(index, look, other) + 1) * 127.5
        assert view.shape == (3, 11, 32, 32)
        torch.testing.assert_close(view[:, 3, 0, 0] - view[:, 0, 0, 0], 20.0 * (look + 1), rtol=0, atol=1e-3)
        torch.testing.assert_close(view[:, 7, 0, 0] - view[:, 0, 0, 0], 20.0 * (other + 1), rtol=0, atol=1e-3)
        seen.append(view[:, 0, 0, 0].round().int().tolist())
        player.advance()
    assert [s[0] for s in seen] == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    assert [s[1] for s in seen] == [5, 6, 7, 8, 9, 8, 7, 6, 5]


@pytest.fixture
def film(tmp_path):
    """A film of two shots, each a textured plane that pans three pixels a frame, with its shots.csv."""
    rng = np.random.default_rng(7)
    (tmp_path / "film").mkdir()
    writer = cv2.VideoWriter(str(tmp_path / "film" / "f.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 12, (160, 96))
    for _ in range(2):
        plane = cv2.resize(rng.integers(0, 256, (14, 30, 3), dtype=np.uint8), (240, 112), interpolation=cv2.INTER_CUBIC)
        for i in range(12):
            writer.write(plane[:96, 3 * i : 3 * i + 160])
    writer.release()
    (tmp_path / "film" / "shots.csv").write_text("start_frame,end_frame\n0,11\n12,23\n")
    with (tmp_path / "MANIFEST.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "kind", "split", "ship_ok"], ["film/f.mp4", "film", "train", "yes"]])
    return tmp_path


@pytest.mark.slow
def test_clips_stay_inside_their_shots_and_their_targets_hold_still(film):
    clips = load_clips(film, "train", True, film=2, game_each=0, length=8)
    assert [len(clip) for clip in clips] == [8, 8] and clips[0][0].shape == (96, 160, 3)
    steps = [np.abs(a.astype(int) - b).mean() for clip in clips for a, b in zip(clip, clip[1:])]
    across = np.abs(clips[0][-1].astype(int) - clips[1][0]).mean()
    assert max(steps) < 0.7 * across
    flicker = torch.Generator().manual_seed(1)

    def teacher(look: str, rgb: torch.Tensor) -> torch.Tensor:
        return filters.scene(look, rgb) + 0.1 * torch.randn(len(rgb), 1, 1, 1, generator=flicker)

    bank = render_clips(clips, ["thermal"], teacher, 96, 160, torch.device("cpu"))
    alone = filters.scene("thermal", bank.pictures.photos.float() / 255) * 255
    offset = (bank.pictures.styled[:, 0, :3].float() - alone)[:, :, 24:-24, 40:-40].mean(dim=(1, 2, 3)).view(2, 8)
    assert offset[:, 4:].std() < 0.75 * 25.5  # the teacher's own flicker, carried targets damp it


def test_a_run_with_more_looks_takes_over_the_old_ones(tmp_path):
    def config(*looks: str) -> LSDConfig:
        return LSDConfig(looks=looks, widths=(16, 16, 64), middle_blocks=2)

    old, new = LSDNet(config("a", "b", "identity")), LSDNet(config("a", "b", "c", "identity"))
    save_file(old.state_dict(), str(tmp_path / "old.safetensors"))
    fresh = new.look_table.weight[2].detach().clone()
    trainer = Trainer.__new__(Trainer)
    trainer.net = new
    trainer._start_from(tmp_path / "old.safetensors")
    torch.testing.assert_close(new.look_table.weight[[0, 1, 3]], old.look_table.weight)
    torch.testing.assert_close(new.look_table.weight[2], fresh)
    torch.testing.assert_close(new.stem.weight, old.stem.weight)


def test_the_mean_network_follows_the_mean():
    net = LSDNet(LSDConfig(looks=("a",), widths=(16, 16, 64), middle_blocks=2))
    mean = RunningMean(net, 0.5)
    teacher = mean.network(net)
    with torch.no_grad():
        net.out.bias.add_(1.0)
    mean.update(net)
    torch.testing.assert_close(teacher.out.bias, mean.values["out.bias"])
    assert 0 < teacher.out.bias[0] < 1 and mean.network(net) is teacher


def test_temporal_difference_wants_the_change_of_the_target_and_no_other():
    torch.manual_seed(3)
    last, change = torch.rand(2, 3, 16, 16), 0.1 * torch.rand(2, 3, 16, 16)
    trusted = torch.ones(2, 1, 16, 16)
    assert temporal_difference(last + change, last, change, trusted) < 1e-6
    # a stroke painted in another place than the target's may stay where it is
    assert temporal_difference(last + 0.3 + change, last + 0.3, change, trusted) < 1e-6
    jumped = temporal_difference(last + change + 0.2, last, change, trusted)
    assert abs(float(jumped) - 0.2) < 1e-5
    assert temporal_difference(last + change + 0.2, last, change, trusted * 0) == 0


def test_settle_difference_wants_tones_and_strokes_but_not_their_places():
    strokes = torch.zeros(2, 3, 65, 64)
    strokes[..., ::4] = 0.5
    both = torch.ones(2)
    assert settle_difference(strokes, strokes, both) == 0
    elsewhere = settle_difference(torch.roll(strokes, 2, dims=3), strokes, both)
    bolder, paler = strokes * 1.3, strokes + 0.1
    assert elsewhere < 0.1 * settle_difference(bolder, strokes, both)
    assert abs(float(settle_difference(paler, strokes, both)) - 0.1) < 1e-5
    washed = paler.clone()  # an area wider than a cell that goes over into another tone, the mean staying
    washed[..., :32], washed[..., 32:] = strokes[..., :32] - 0.1, strokes[..., 32:] + 0.1
    assert settle_difference(washed, strokes, both) > 0.09
    half = settle_difference(paler, strokes, torch.tensor([1.0, 0.0]))
    assert abs(float(half) - 0.05) < 1e-5 and CELL == 16


def test_frames_painted_again_begin_a_stream():
    torch.manual_seed(5)
    b, rows = 3, torch.tensor([2, 0])
    task = Task(
        frame=torch.rand(b, 3, 16, 16),
        target=torch.rand(b, 3, 16, 16),
        x_t=torch.rand(b, 3, 16, 16),
        t=torch.rand(b),
        d=torch.full((b,), 0.5),
        look=torch.rand(b, 4),
        strength=torch.rand(b),
        past=None,
        change=None,
        trusted=None,
    )
    seen = Past(
        torch.rand(b, 3, 16, 16), torch.rand(b, 6, 8, 8), torch.rand(b, 1, 16, 16), torch.rand(b, 5, 7), torch.ones(b)
    )
    noise, nothing = torch.rand(b, 3, 16, 16), torch.rand(1, 1, 7)
    longer, past, levels = repeat_without_past(task, seen, torch.zeros(b, 3), rows, noise, nothing)
    for name in ("frame", "look", "strength", "x_t", "t", "d"):
        torch.testing.assert_close(getattr(longer, name)[:b], getattr(task, name))
    torch.testing.assert_close(longer.frame[b:], task.frame[rows])
    torch.testing.assert_close(longer.x_t[b:], noise[rows])
    assert longer.t[b:].tolist() == [0, 0] and longer.d[b:].tolist() == [1, 1] and levels[b:].min() == 1
    assert not (past.last[b:].any() or past.older[b:].any() or past.valid[b:].any())
    torch.testing.assert_close(past.memory[b:], nothing.expand(2, 5, 7))
    torch.testing.assert_close(past.last[:b], seen.last)
    assert longer.target is task.target


@pytest.mark.slow
def test_some_streams_live_long():
    photos = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    bank = PictureBank(photos, torch.zeros(2, 1, 4, 64, 64, dtype=torch.uint8), [3])
    net = LSDNet(LSDConfig(looks=("a", "identity"), widths=(16, 16, 64), middle_blocks=2))
    config = StreamConfig(mean_frames=3, long_share=0.25, long_frames=60, switch=0)
    pool = StreamPool([(bank, 1.0)], [0], net, 16, 32, config, None, (), seed=1)
    assert pool.mean_age.tolist() == [3.0, 3.0, 3.0, 60.0] * 4  # among the others, so on every bank
    oldest = torch.zeros(16)
    for _ in range(80):
        task = pool.next(net)
        pool.feed(task, task.target, net.memory_null.detach().expand(16, net.config.memory_tokens, -1)[:, :1])
        oldest = torch.maximum(oldest, pool.age)
    short, long = oldest.view(4, 4)[:, :3], oldest.view(4, 4)[:, 3]
    assert short.max() < 30 and long.max() > 30
