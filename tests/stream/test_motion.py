"""Motion between two frames: as exact as it says, on plain walls too, and the same by the GPU's kernels.

The kernels run here as their PTX, in the emulator: which launches there are and what they are handed is the
program's own doing.
"""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import pytest
import torch
from helpers.emulator import EmulatedKernels
from helpers.fake_gpu import FakeGpu, behind
from mirage_cli.kernels import loader

from mirage_cli.engine.plan import Plan
from mirage_cli.lsd.history import History
from mirage_cli.lsd.model import luma
from mirage_cli.lsd.plan_motion import MotionPlan
from mirage_cli.stream import motion as consistency, planes
from mirage_cli.stream.motion import estimate_motion


def scene(height: int, width: int, wall: bool = False, seed: int = 0) -> np.ndarray:
    """A picture with texture of all sizes, float32 [H, W, 3] in 0..255; ``wall``: its middle is one colour."""
    random = np.random.default_rng(seed)
    picture = sum(
        cv2.resize(
            random.uniform(-1, 1, (height // s + 2, width // s + 2, 3)).astype(np.float32),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
        for s in (6, 12, 24, 48)
    )
    picture = np.clip(128 + 45 * picture, 0, 255)
    if wall:
        at, left = height // 2, width // 2
        picture[at - height // 10 : at + height // 10, left - width // 10 : left + width // 10] = (200, 190, 180)
    return picture


def view(picture: np.ndarray, x: float, y: float, height: int, width: int) -> np.ndarray:
    """A window of the picture at a place between pixels, uint8 [height, width, 3]."""
    shift = np.float32([[1, 0, x], [0, 1, y]])
    moved = cv2.warpAffine(picture, shift, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    return np.clip(moved + 0.5, 0, 255).astype(np.uint8)


def light(rgb: np.ndarray) -> torch.Tensor:
    return luma(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() * (1 / 127.5) - 1)


LIGHTS = [(0.95, 0.0, 0.0), (1.0, -6.0, 0.0), (1.0, 3.0, 4.0)]  # gain, offset, offset more to the right, in levels
SAME_LIGHT = (1.0, 0.0, 0.0)


def lit(rgb: np.ndarray, gain: float, offset: float, slope: float) -> np.ndarray:
    """The picture in other light, or as a camera sees it that corrects its exposure."""
    across = np.linspace(-slope, slope, rgb.shape[1], dtype=np.float32)[None, :, None]
    return np.clip(gain * rgb + offset + across + 0.5, 0, 255).astype(np.uint8)


def error_pixels(x: float, y: float, wall: bool, change: tuple[float, float, float] = SAME_LIGHT) -> torch.Tensor:
    """How far off the vectors are where a camera moves by (x, y), [H/2, W/2] in pixels; the border left out."""
    picture = scene(320, 448, wall)
    before, after = (view(picture, 60 + dx, 60 + dy, 192, 320) for dx, dy in ((0, 0), (x, y)))
    truth = torch.tensor([x, y])[:, None, None]
    margin = 8 + int(max(abs(x), abs(y))) // 2
    vectors = 2 * estimate_motion(light(before), light(lit(after, *change)))[0]
    return (vectors - truth).norm(dim=0)[margin:-margin, margin:-margin]


@pytest.mark.parametrize(("x", "y"), [(0.4, 0.0), (2.3, -1.6), (-7.5, 3.2), (21.0, 10.0), (-40.0, 4.0)])
def test_motion_is_right_to_a_fraction_of_a_pixel(x, y):
    error = error_pixels(x, y, wall=False)
    assert error.mean() < 0.15 and error.quantile(0.99) < 0.6


@pytest.mark.parametrize(("x", "y"), [(2.3, -1.6), (-7.5, 3.2)])
def test_a_plain_wall_moves_with_what_is_around_it(x, y):
    """What was painted on it must; the wall is 88 x 64 pixels."""
    assert error_pixels(x, y, wall=True).mean() < 0.15


@pytest.mark.parametrize("change", LIGHTS)
def test_a_change_of_light_moves_nothing(change):
    """A wall's faint shading under a little less light looks like the same shading elsewhere."""
    picture = scene(192, 320, wall=True)
    shading = (
        np.linspace(0, 8, 320, dtype=np.float32)[None, :, None]
        + np.linspace(0, 5, 192, dtype=np.float32)[:, None, None]
    )
    for still in (picture, 100 + shading + 0.04 * (picture - 128)):
        before, after = light(still.astype(np.uint8)), light(lit(still, *change))
        assert estimate_motion(before, after).norm(dim=1).mean() < 0.02


@pytest.mark.parametrize("change", LIGHTS)
@pytest.mark.parametrize(("x", "y"), [(2.3, -1.6), (21.0, 10.0)])
def test_motion_is_right_in_changing_light(x, y, change):
    assert error_pixels(x, y, wall=True, change=change).mean() < 0.2


def test_noise_moves_nothing():
    random = np.random.default_rng(3)
    still = view(scene(192, 320, wall=True), 0, 0, 192, 320)
    noisy = [light(np.clip(still + random.normal(0, 4, still.shape), 0, 255).astype(np.uint8)) for _ in range(2)]
    assert (estimate_motion(*noisy) != 0).float().mean() < 0.01


def test_what_stands_beside_something_that_moves_stays():
    picture, thing = scene(192, 320), scene(192, 320, seed=1)
    frames = []
    for x in (100, 106):
        frame = picture.copy()
        frame[60:130, x : x + 90] = thing[60:130, 20:110]
        frames.append(light(frame.astype(np.uint8)))
    flow = 2 * estimate_motion(*frames)[0]
    inside, outside = flow[:, 36:59, 60:90], torch.cat((flow[:, :20], flow[:, 76:]), dim=1)
    assert (inside - torch.tensor([-6.0, 0.0])[:, None, None]).norm(dim=0).mean() < 0.5
    assert outside.norm(dim=0).mean() < 0.1


def test_opencv_and_torch_find_the_same_motion():
    picture = scene(200, 260, wall=True)
    before, after = (light(view(picture, 20 + d, 20 + d, 144, 208)) for d in (0, 4.5))
    fast = estimate_motion(before, after)
    for kept in (
        consistency._search_vectors,
        planes._box_weight,
        planes._pixel_positions,
    ):  # another test's may be inference tensors
        kept.cache_clear()
    by_torch = estimate_motion(before.requires_grad_(), after).detach()
    assert ((fast - by_torch).abs() > 2e-3).float().mean() < 5e-3


# kernels -----------------------------------------------------------------------------------------


def motion_plan(gpu: FakeGpu, history: History) -> MotionPlan:
    """What comes before the network, on the CPU: buffers and launches."""
    plan = Plan(torch.device("cpu"), torch.float16, gpu.kernels(*loader.PLAN_FILES["motion"]))
    size = (history.last.shape[2], history.last.shape[3])
    return MotionPlan(plan, history, size, ctypes.c_void_p(0))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 80), (96, 144)])
def test_the_kernels_motion_is_that_of_torch(monkeypatch, height, width):
    gpu, history = FakeGpu(monkeypatch), History.empty(1, height, width)
    motion = motion_plan(gpu, history)
    motion.plan.run()
    kernels = EmulatedKernels([(loader.HERE / "motion.sm80.ptx").read_text()])
    picture = scene(height + 32, width + 32, wall=True)
    frames = [np.ascontiguousarray(view(picture, 8 + d, 8 - d, height, width)) for d in (0, 3.4)]
    for number, frame in enumerate(frames):
        if number:  # a generated past; random, since that is where bilinear and bicubic differ most
            history.valid.fill_(1.0)
            for tensor in (history.last, history.older):
                tensor.copy_(torch.rand(tensor.shape, generator=torch.manual_seed(1)) * 2 - 1)
        before = History(*(t.clone() for t in (history.last, history.older, history.input_luma, history.valid)))
        for launch in (one.launch for one in gpu.queued if one.launch):
            given = [behind(argument, motion.plan.kept) for argument in launch.arguments]
            given = [torch.from_numpy(frame).reshape(-1) if a is None else a for a in given]  # its address is set late
            kernels.launch(launch.entry, launch.grid, launch.block, tuple(given))
    earlier, later = (light(frame) for frame in frames)
    torch.testing.assert_close(history.input_luma, later, rtol=0, atol=1e-6)  # carried to the next frame
    assert torch.equal(motion.previous_pyramid, motion.pyramid)
    wanted = estimate_motion(earlier, later)[0]
    found = motion.flow.reshape(2, height // 2, width // 2)
    assert ((found - wanted).abs() > 2e-3).float().mean() < 5e-3
    if height > 16:
        assert wanted.abs().max() > 1.0  # it moves

    null = torch.zeros(1, 1, 4)
    rgb = torch.from_numpy(frames[1]).permute(2, 0, 1)[None].float() / 127.5 - 1
    past, cut = before.warped_to(rgb, null, null, found[None].clone())
    torch.testing.assert_close(motion.warped_last, past.last[0], rtol=0, atol=2e-4)
    torch.testing.assert_close(motion.warped_older, past.older[0, :3], rtol=0, atol=2e-4)
    cells = torch.pixel_unshuffle(torch.cat((past.last, past.input_luma), dim=1), 4)[0].flatten(1).T
    torch.testing.assert_close(motion.cells[:, 48:].float(), cells, rtol=0, atol=2e-3)
    assert motion.flags.tolist()[:2] == [1 - int(cut), int(cut)] and motion.flags[3] == 0
    assert int(cut) == 0
