"""Filter teachers: every look, both stages, without reference pictures."""

from __future__ import annotations

import pytest
import torch

from mirage_cli.teachers import filters, filters_ops as ops

pytestmark = pytest.mark.slow

LOOKS = filters.LOOKS
SHIFT = 8


def picture(height: int = 128, width: int = 160, seed: int = 0) -> torch.Tensor:
    """[1,3,H,W]: a gradient sky, discs and a textured ground, so that every filter has work."""
    ys = torch.linspace(0, 1, height).view(1, 1, -1, 1).expand(1, 1, height, width)
    xs = torch.linspace(0, 1, width).view(1, 1, 1, -1).expand(1, 1, height, width)
    base = torch.cat([0.3 + 0.4 * ys, 0.5 + 0.2 * xs, 0.9 - 0.5 * ys], 1)
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    base = torch.where(ys > 0.6, 0.2 + 0.5 * ops.blur(noise, 1.5), base)
    for cx, cy, r, rgb in (
        (0.3, 0.4, 0.18, (0.9, 0.6, 0.4)),
        (0.7, 0.5, 0.12, (0.15, 0.1, 0.3)),
        (0.55, 0.75, 0.1, (1.0, 0.95, 0.8)),
    ):
        inside = ((xs - cx) ** 2 + (ys - cy) ** 2) < r * r
        base = torch.where(inside, torch.tensor(rgb).view(1, 3, 1, 1), base)
    return base.clamp(0, 1)


@pytest.fixture(scope="module")
def rendered() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Look -> (input, scene, final)."""
    rgb = picture()
    result = {}
    for look in LOOKS:
        moving = filters.scene(look, rgb)
        result[look] = (rgb, moving, filters.screen(look, moving))
    return result


def test_twenty_five_looks():
    assert len(LOOKS) == len(set(LOOKS)) == 25
    assert set(LOOKS) > filters.SCREEN_BOUND
    assert {"pixel-art", "comic-halftone", "mosaic", "engraving", "chalkboard", "cross-stitch"} <= filters.SCREEN_BOUND
    assert not {"night", "cartoon", "thermal", "pop-art", "infrared"} & filters.SCREEN_BOUND


@pytest.mark.parametrize("look", LOOKS)
def test_shape_and_range(look, rendered):
    rgb, moving, final = rendered[look]
    assert moving.shape[0] == 1 and 1 <= moving.shape[1] <= 4 and moving.shape[2:] == rgb.shape[2:]
    assert final.shape == rgb.shape and final.dtype == torch.float32
    for x in (moving, final):
        assert torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1
    assert final.std() > 0.03, "a look may not be blank"
    assert (final - rgb).abs().mean() > 0.02, "a look must change the picture"


@pytest.mark.parametrize("look", LOOKS)
def test_scene_bound_look_needs_no_screen(look, rendered):
    _, moving, final = rendered[look]
    assert (look in filters.SCREEN_BOUND) == (moving is not final)


@pytest.mark.parametrize("look", LOOKS)
def test_deterministic_and_batch_independent(look, rendered):
    rgb, _, final = rendered[look]
    pair = torch.cat([picture(seed=9).flip(-1), rgb])
    assert torch.allclose(filters.render(look, pair)[1:], final, atol=2e-3)


@pytest.mark.parametrize("look", LOOKS)
def test_scene_moves_with_the_picture(look):
    """A shift by 8 px of the input shifts ``scene`` by 8 px, away from the border."""
    big = picture(192, 224)
    left, right = big[..., :-SHIFT], big[..., SHIFT:]
    a = filters.scene(look, left)[..., SHIFT:]
    b = filters.scene(look, right)[..., :-SHIFT]
    inner = (slice(None), slice(None), slice(64, -64), slice(64, -64))
    assert (a - b)[inner].abs().mean() < 0.01


@pytest.mark.parametrize("look", sorted(filters.SCREEN_BOUND))
def test_screen_pattern_stays_in_place(look):
    """On a flat scene only the screen's own pattern is left; it repeats every 32 px from the top
    left corner and does not depend on the frame's size."""
    channels = filters.scene(look, picture()).shape[1]
    value = torch.tensor([0.55, 0.45, 0.40, 0.0][:channels] if channels != 2 else [0.0, 0.45])
    flat = value.view(1, -1, 1, 1).expand(1, channels, 448, 448).contiguous()
    out = filters.screen(look, flat)
    inner = out[..., 128:320, 128:320]
    for dy, dx in ((32, 0), (0, 32)):
        moved = out[..., 128 + dy : 320 + dy, 128 + dx : 320 + dx]
        assert (inner - moved).abs().max() < 2e-3, "period is not 32 px"
    wider = filters.screen(look, torch.cat([flat, flat], -1))
    assert (wider[..., 128:320, 128:320] - inner).abs().max() < 2e-3, "phase depends on the size"


@pytest.mark.parametrize("look", sorted(filters.SCREEN_BOUND))
def test_screen_pattern_does_not_follow_the_scene(look):
    """When an object moves by 3 px, the pattern far from it stays, and near it the frame changes."""
    channels = filters.scene(look, picture()).shape[1]
    value = torch.tensor([0.55, 0.45, 0.40, 0.0][:channels] if channels != 2 else [0.0, 0.45])
    here = value.view(1, -1, 1, 1).expand(1, channels, 128, 320).contiguous()
    there = here.clone()
    here[:, :, 40:80, 20:60] = 0.9
    there[:, :, 40:80, 23:63] = 0.9
    a, b = filters.screen(look, here), filters.screen(look, there)
    assert (a - b)[..., 200:].abs().max() < 5e-3
    assert (a - b)[..., 40:80, 20:63].abs().max() > 0.05


@pytest.mark.parametrize("size", [(128, 128), (131, 201)])
def test_odd_sizes(size):
    rgb = picture(*size)
    for look in ("stained-glass", "low-poly", "pixel-art", "night", "cubism", "blueprint"):
        assert filters.render(look, rgb).shape == rgb.shape


def test_unknown_look():
    with pytest.raises(KeyError):
        filters.scene("no-such-look", picture())


def test_oklab_round_trip():
    rgb = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ops.from_oklab(ops.to_oklab(rgb)), rgb, atol=2e-3)
    white = ops.to_oklab(torch.ones(1, 3, 1, 1)).flatten()
    assert torch.allclose(white, torch.tensor([1.0, 0.0, 0.0]), atol=1e-3)


def test_pixel_art_blocks_are_flat():
    out = filters.render("pixel-art", picture())
    blocks = out[..., :128, :160].unfold(2, 8, 8).unfold(3, 8, 8)
    assert (blocks.amax((-1, -2)) - blocks.amin((-1, -2))).max() < 1e-6


def test_blur_keeps_the_mean_and_the_place():
    spot = torch.zeros(1, 1, 97, 97)
    spot[..., 48, 48] = 1
    for sigma in (1.0, 4.0, 7.0):
        soft = ops.blur(spot, sigma)
        ys = torch.arange(97.0)
        assert soft.sum() == pytest.approx(1, abs=0.02)
        assert float((soft.sum(-1).flatten() * ys).sum() / soft.sum()) == pytest.approx(
            48, abs=0.55
        )  # half a pixel of the coarse grid


def test_kuwahara_flattens_texture_and_keeps_the_edge():
    noise = 0.1 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    step = noise + torch.cat([torch.zeros(1, 3, 64, 32), torch.full((1, 3, 64, 32), 0.8)], -1)
    out = ops.kuwahara(step, 5)
    assert out[..., 8:-8, 8:24].std() < 0.5 * step[..., 8:-8, 8:24].std()
    assert (out[..., 34:37].mean() - out[..., 27:30].mean()) > 0.7


def test_engraved_lines_swell_with_the_dark():
    """On flat tones the paper stays paper in the light, and ink grows step by step into the dark."""
    ink = []
    for tone in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0):
        flat = torch.tensor([0.0, tone, 0.5]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        ink.append(1 - float(ops.luma(filters.screen("engraving", flat)).mean()))
    assert all(b > a + 0.03 for a, b in zip(ink, ink[1:]))
    assert ink[0] < 0.15 and ink[-1] > 0.65


def test_pop_art_is_few_flat_colours(rendered):
    """Most pixels lie within a step of a dozen colours; a cartoon of the same picture needs more."""

    def share(look: str) -> float:
        codes = (rendered[look][2][0] * 9).round().long()
        _, counts = (codes[0] * 100 + codes[1] * 10 + codes[2]).unique(return_counts=True)
        return float(counts.sort(descending=True).values[:12].sum() / counts.sum())

    assert share("pop-art") > 0.75
    assert share("pop-art") > share("cartoon") + 0.1


@pytest.mark.parametrize("other", ["cartoon", "comic-halftone"])
def test_pop_art_is_no_other_look(other, rendered):
    assert (rendered["pop-art"][2] - rendered[other][2]).abs().mean() > 0.12


def test_infrared_turns_leaves_red_and_darkens_the_sky():
    green = torch.tensor([0.25, 0.55, 0.15]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    red, mid, blue = filters.render("infrared", green)[0, :, 32, 32]
    assert red > mid + 0.2 and red > blue + 0.1
    sky = torch.tensor([0.25, 0.55, 0.95]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    out = filters.render("infrared", sky)
    assert ops.luma(out).mean() < ops.luma(sky).mean() - 0.1
    assert out[0, 0].mean() < out[0, 1].mean() - 0.1, "dark cyan has less red than green"


def test_cross_stitch_repeats_every_stitch_and_shows_a_cross():
    flat = torch.tensor([0.7, 0.2, 0.2]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    out = filters.screen("cross-stitch", flat)
    assert torch.allclose(out[..., 8:], out[..., :-8], atol=1e-5)
    redness = (out[0, 0] - out[0, 1])[16:24, 16:24]
    both = torch.cat([redness.diagonal()[1:-1], redness.flip(1).diagonal()[1:-1]])
    cloth = torch.stack([redness[0, 3], redness[3, 0], redness[7, 4], redness[4, 7]])
    assert both.min() > cloth.max() + 0.1, "threads run along both diagonals, cloth shows between"


@pytest.mark.parametrize("look", ["engraving", "pop-art", "chalkboard", "infrared", "cross-stitch"])
def test_camera_noise_does_not_flicker(look, rendered):
    """Noise of 2 levels of 255 moves the picture by about as little on average."""
    rgb, _, final = rendered[look]
    noise = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(3)) * 2 / 255
    change = (filters.render(look, (rgb + noise).clamp(0, 1)) - final).abs()
    assert change.mean() < 3 / 255
    assert (change > 32 / 255).float().mean() < 0.01
