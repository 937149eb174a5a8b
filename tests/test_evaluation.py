"""``mirage eval``: each measure calls a known-good stream good and a known-bad one bad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_metrics import texture
from test_session import moving, tiny_bundle

from mirage_cli.cli import main
from mirage_cli.errors import MediaError, ModelError, UsageProblem
from mirage_cli.evaluation import (
    clips,
    drift,
    fidelity,
    perceptual,
    pictures,
    prompts,
    report,
    run,
    strokes,
    temporal,
    worker,
)
from mirage_cli.evaluation.clips import Clip, load_clips, longest_shot
from mirage_cli.evaluation.worker import NO_TIME
from mirage_cli.training.known_warps import error_summary

SMALL = (64, 48)


class Painter:
    """A session's shape around a function (frame number, rgb) -> rgb."""

    def __init__(self, paint) -> None:
        self.paint, self.number = paint, 0
        self.counters = {"frames": 0, "cuts": 0, "guard_events": 0, "guard_opinions": 0}
        self.report = SimpleNamespace(guard_event=None)
        self.device = torch.device("cpu")
        self.history = self.memory = SimpleNamespace(clear=lambda: setattr(self, "hidden", True))
        self.hidden = False

    def reset(self) -> None:
        self.number = 0

    def step(self, rgb: np.ndarray) -> np.ndarray:
        out = self.paint(self.number, rgb)
        self.number += 1
        return out


def clip(frames: int = 24) -> Clip:
    return Clip("moving", np.stack(moving(frames)), "")


def of(paint, frames: int = 200, **options) -> dict:
    *_, document = drift.measure_drift(Painter(paint), clip(), frames, **options)
    return document


def toned(number: int, rgb: np.ndarray) -> np.ndarray:
    """A look without a past: the same frame always gives the same picture."""
    return (255 - rgb // 2).astype(np.uint8)


def mixed(a: np.ndarray, b: np.ndarray | float, share: float) -> np.ndarray:
    return np.clip(a * (1 - share) + b * share, 0, 255).astype(np.uint8)


# --- drift -----------------------------------------------------------------------------------------


def test_the_same_places_are_compared_so_a_steady_look_has_no_drift_at_all() -> None:
    found = of(toned)
    assert found["complete"] and found["frames"] == 200
    assert found["drift"]["video_drift_error_worst"] < 1e-6
    assert all(ratio == pytest.approx(1.0, abs=1e-6) for ratio in found["drift"]["tail_over_head"].values())
    assert found["return_difference_levels"] == 0.0
    assert set(found["pictures"]) == {1, 100}


@pytest.mark.parametrize(
    "paint, name",
    [
        (lambda n, rgb: mixed(toned(n, rgb), 128.0, min(1, n / 300)), "luma_spread"),
        (lambda n, rgb: mixed(toned(n, rgb), toned(n, rgb).mean(axis=2, keepdims=True), min(1, n / 250)), "saturation"),
        (lambda n, rgb: cv2.GaussianBlur(toned(n, rgb), (0, 0), 0.3 + n / 80), "sharpness"),
        (lambda n, rgb: np.clip(toned(n, rgb).astype(int) + n // 4, 0, 255).astype(np.uint8), "luma_mean"),
    ],
    ids=["greys out", "loses colour", "blurs", "brightens"],
)
def test_streams_that_drift_are_caught(paint, name: str) -> None:
    found = of(paint)
    assert found["drift"]["video_drift_error"][name] > 0.05
    assert abs(found["drift"]["tail_over_head"][name] - 1) > 0.1
    assert found["return_difference_levels"] > 1.0


def test_smears_make_stripes_rise() -> None:
    def smear(n: int, rgb: np.ndarray) -> np.ndarray:
        share = min(1.0, n / 60)
        rough = np.tile(texture(64, 1, grain=0.8, seed=2)[:48], (1, 64, 1))
        return mixed(rgb, rough.astype(float), share)

    assert of(smear)["drift"]["stripes_rise"] > 0.3
    assert abs(of(toned)["drift"]["stripes_rise"]) < 1e-6


def test_video_drift_error_is_a_weighted_mean_of_departures() -> None:
    numbers = drift.Numbers.of(drift.ANCHORED + 30, 10)
    numbers.values[:, drift.NAMES.index("luma_mean")] = 0.5
    numbers.values[drift.ANCHORED + 10 :, drift.NAMES.index("luma_mean")] = 0.6
    numbers.values[drift.ANCHORED + 20 :, drift.NAMES.index("luma_mean")] = 0.55
    numbers.count = len(numbers.values)
    floor = drift.FLOOR["luma_mean"]
    expected = (2 * 0.1 + 1 * 0.05) / 3 / (0.5 + floor)  # weights N - i + 1 over their sum
    assert drift.video_drift_error(numbers)["luma_mean"] == pytest.approx(expected, rel=1e-5)
    short = drift.Numbers.of(20, 10)
    with pytest.raises(ValueError, match="needs 36"):
        drift.tail_over_head(short)


def test_a_stream_stops_at_its_deadline_and_says_how_far_it_came() -> None:
    ticks = iter(range(10_000))
    found = of(toned, deadline=120.0, clock=lambda: float(next(ticks)))
    assert not found["complete"] and 60 < found["frames"] < 200 and found["frames_asked"] == 200


def test_history_off_hides_the_past_before_every_frame() -> None:
    session = Painter(toned)
    list(drift.measure_drift(session, clip(), 100, history=False))
    assert session.hidden
    session = Painter(toned)
    list(drift.measure_drift(session, clip(), 100))
    assert not session.hidden


# --- clips -----------------------------------------------------------------------------------------


def test_a_clip_goes_to_and_fro_without_a_jump() -> None:
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    walk = [int(Clip("c", frames, "").at(i)[0, 0, 0]) for i in range(11)]
    assert walk == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
    assert Clip("c", frames, "").period(5) == 4 and Clip("c", frames, "").period() == 8


def test_the_longest_shot_is_taken() -> None:
    one, other = moving(12, seed=1), moving(20, seed=9)
    assert longest_shot(one + other) == (12, 32)
    assert longest_shot(other) == (0, 20)


def write_pictures(folder: Path, frames: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for number, rgb in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:04d}.png"), rgb[..., ::-1])


def test_folders_of_pictures_and_videos_are_clips(tmp_path: Path, example_clip: Path) -> None:
    frames = moving(10)
    write_pictures(tmp_path / "clips" / "walk", frames)
    (tmp_path / "clips" / "bunny.mp4").symlink_to(example_clip)
    found = load_clips(str(tmp_path / "clips"), SMALL)
    assert [c.name for c in found] == ["bunny", "walk"]
    assert found[0].frames.shape[1:] == (48, 64, 3) and len(found[0].frames) > 40
    assert np.array_equal(found[1].frames, np.stack(frames)) and "pictures" in found[1].note
    assert load_clips(str(tmp_path / "clips" / "walk"), SMALL)[0].name == "walk"


def test_without_ffmpeg_opencv_reads(example_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_clips(str(example_clip), SMALL)[0]
    monkeypatch.setitem(sys.modules, "mirage_cli.inputs.file", None)  # importing it raises ImportError
    plain = load_clips(str(example_clip), SMALL)[0]
    assert "ffmpeg" in whole.note and "OpenCV" in plain.note
    assert len(plain.frames) == len(whole.frames)
    assert np.abs(plain.frames.astype(int) - whole.frames).mean() < 3


@pytest.mark.parametrize(("cores", "taken"), [(9, clips.MOST_THREADS), (1, 1)])
def test_clips_are_read_on_few_threads(cores: int, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two evaluations on a machine of 32 cores found no end of reading when each library took a thread a core."""
    seen, before = [], (torch.get_num_threads(), cv2.getNumThreads())

    def watched(frames: list[np.ndarray]) -> tuple[int, int]:
        seen.append((torch.get_num_threads(), cv2.getNumThreads()))
        return longest_shot(frames)

    monkeypatch.setattr(clips, "longest_shot", watched)
    write_pictures(tmp_path / "walk", moving(10))
    try:
        torch.set_num_threads(cores)
        cv2.setNumThreads(cores)
        load_clips(str(tmp_path / "walk"), SMALL)
        assert seen == [(taken, taken)]
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (cores, cores)
        with pytest.raises(MediaError):
            load_clips(str(tmp_path / "none"), SMALL)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.parametrize("what", ["nothing", "empty", "broken", "short"])
def test_clips_that_cannot_be_used(what: str, tmp_path: Path) -> None:
    place = tmp_path / what
    if what == "empty":
        place.mkdir()
    if what == "broken":
        place.mkdir()
        (place / "0.png").write_bytes(b"no picture")
    if what == "short":
        write_pictures(place, moving(4))
    with pytest.raises(MediaError):
        load_clips(str(place), SMALL)


# --- temporal --------------------------------------------------------------------------------------


def test_temporal_tells_a_steady_look_from_a_flickering_one() -> None:
    motion = temporal.ClipMotion(Clip("pan", np.stack(moving(20, 96, 128)), ""), 8)
    noise = np.random.default_rng(5)

    def flickering(n: int, rgb: np.ndarray) -> np.ndarray:
        return np.clip(toned(n, rgb) + noise.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8)

    steady = temporal.measure_temporal(Painter(toned), motion)
    bad = temporal.measure_temporal(Painter(flickering), motion)
    assert steady["warped_error"] < motion.input_error and bad["warped_error"] > 3 * steady["warped_error"]
    assert steady["still_flicker_levels"] == 0.0 and bad["still_flicker_levels"] > 5
    assert steady["edges_kept"] > 0.9
    elsewhere = temporal.measure_temporal(Painter(lambda n, rgb: texture(96, 128, seed=n)), motion)
    assert elsewhere["edges_kept"] < 0.3


# --- fidelity --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warps():
    with pytest.MonkeyPatch.context() as patch:  # a quarter of the pixels
        patch.setattr(fidelity, "WINDOW", 128)
        patch.setattr(fidelity, "STILL_SIZE", (256, 352))
        yield small_warps()


def small_warps() -> fidelity.KnownWarps:
    bundle = tiny_bundle()
    bundle.net.config = type(bundle.net.config)(
        **{**vars(bundle.net.config), "looks": ("night", "film-noir", "identity")}
    )
    teachers = fidelity.open_teachers(["night", "film-noir", "gauguin", "identity"], None, "lsd-small", bundle.device)
    assert teachers.looks == ["night", "film-noir"] and "--data" in teachers.skipped["gauguin"]
    still = texture(300, 400, grain=6.0)
    return fidelity.KnownWarps(bundle, teachers, [still], None, period=56)


def test_known_warps_return_and_grade_the_teacher_itself_as_perfect(warps, monkeypatch) -> None:
    frames, targets = warps.video("film-noir")  # its vignette stays on the screen
    assert frames.shape == targets.shape == (56, 1, 3, 128, 128)
    assert (frames[0] - frames[28]).abs().mean() > 0.05  # the camera goes away in between
    monkeypatch.setattr(
        warps, "_roll", lambda rounds, look, steps, history: (targets[i % 56] for i, _ in enumerate(rounds))
    )
    found = warps.measure("film-noir", 2)
    assert found["first_5"] == found["last_return"] == found["return_difference"] == 0.0
    assert found["warped_error"] == found["warped_error_teacher"] and found["returns"] == 2
    assert found["edges_kept"] == found["edges_kept_teacher"] > 0.3
    for name in ("strokes_first", "strokes", "strokes_first_likeness", "strokes_likeness"):
        assert found[name] == pytest.approx(1.0, abs=1e-5)
    assert found["weave_levels_first"] == found["weave_levels"] == 0.0


def test_errors_that_grow_from_return_to_return_are_seen(warps, monkeypatch) -> None:
    _, targets = warps.video("night")

    def worse(rounds, look, steps, history):
        for i, _ in enumerate(rounds):
            yield targets[i % 56] + (0.1 + 0.002 * i if history else 0.1)

    monkeypatch.setattr(warps, "_roll", worse)
    found = warps.measure("night", 2)
    assert found["first_5"] == pytest.approx(0.104, abs=1e-4)
    assert found["last_over_first_return"] > 1.4 and found["last_return_over_history_off"] > 2
    assert found["last_return_above_history_off_levels"] == pytest.approx(127.5 * 0.224, rel=0.02)
    assert found["return_difference"] == pytest.approx(0.112, abs=1e-3)


def test_the_network_itself_runs_over_known_warps(warps) -> None:
    found = warps.measure("night", 1)
    assert 0 < found["first_5"] < 2 and found["returns"] == 1
    assert found["first_5"] != found["history_off_first_5"]
    steps = warps.measure_steps("night", against=2)
    assert steps["l1_1_over_2"] == steps["l1_1"] / steps["l1_2"] > 0


def test_strokes_count_wherever_they_lie() -> None:
    """Bold strokes elsewhere are as good as the teacher's own; faint ones, a blur and noise are not."""
    scene = torch.zeros(1, 3, 128, 128)
    scene[..., :64] = torch.rand(1, 3, 128, 64, generator=torch.Generator().manual_seed(1)) - 0.5
    generator = torch.Generator().manual_seed(2)
    lines = F.interpolate(torch.rand(1, 3, 32, 32, generator=generator) - 0.5, scale_factor=4.0, mode="bicubic")
    teacher = 0.2 + lines

    def of(picture: torch.Tensor) -> tuple[float, float]:
        found = strokes.stroke_numbers(picture, teacher, scene)
        return found["strength"], found["likeness"]

    assert of(teacher) == pytest.approx((1.0, 1.0))
    strength, likeness = of(teacher.flip(-1))  # other strokes in every window
    assert 0.9 < strength < 1.1 and likeness > 0.95
    strength, likeness = of(0.2 + 0.4 * lines)
    assert 0.35 < strength < 0.6 and likeness < 0.8
    strength, likeness = of(0.2 + 2 * lines)
    assert strength > 1.6 and likeness < 0.9
    assert max(of(F.avg_pool2d(teacher, 9, 1, 4))) < 0.7
    strength, likeness = of(teacher + 0.5 * torch.randn(teacher.shape, generator=generator))
    assert strength > 2 and likeness < 0.8
    # What is not plain in the scene does not count.
    assert of(torch.cat((teacher[..., :64] * 0, teacher[..., 64:]), dim=-1))[1] > 0.9
    with pytest.raises(ValueError, match="32 pixels"):
        strokes.band_strengths(torch.zeros(1, 3, 16, 64))


def test_a_weave_of_the_cells_is_seen_and_strokes_are_not() -> None:
    generator = torch.Generator().manual_seed(2)
    teacher, elsewhere = (
        0.8 * F.interpolate(torch.rand(1, 3, 64, 64, generator=generator) - 0.5, scale_factor=4.0, mode="bicubic")
        for _ in range(2)
    )
    assert strokes.weave_levels(teacher, teacher) == 0.0
    assert strokes.weave_levels(elsewhere, teacher) < 0.5 < 10 < 127.5 * float((elsewhere - teacher).std())
    checks = 8 / 255 * (1 - 2 * ((torch.arange(256)[:, None] + torch.arange(256)) % 2))  # half a period is a pixel
    assert strokes.weave_levels(teacher + checks, teacher) == pytest.approx(4.0, abs=0.1)
    assert strokes.weave_levels(teacher + checks, teacher + checks) == 0.0  # the look's own


# --- perceptual ------------------------------------------------------------------------------------


def test_perceptual_distance_has_the_form_of_one() -> None:
    torch.manual_seed(3)
    distance = perceptual.PerceptualDistance(None)
    for layer in distance.weighting:
        layer.weight.data.abs_()
    picture, other = texture(), texture(seed=4)
    assert distance.of_frames(picture, picture) == 0.0
    assert distance.of_frames(picture, other) == pytest.approx(distance.of_frames(other, picture), rel=1e-5)
    assert distance.of_frames(picture, cv2.GaussianBlur(picture, (0, 0), 1)) > 0


def test_perceptual_distance_with_its_weights() -> None:
    """Values of the package's own code (0.0.2) on the same frames."""
    weights = perceptual.find_weights(None)
    if weights is None:
        pytest.skip("stlpips-pytorch is not installed")
    distance = perceptual.PerceptualDistance(weights)
    one = ((np.arange(96 * 128 * 3, dtype=np.int64).reshape(96, 128, 3) * 7919) % 256).astype(np.uint8)
    assert distance.of_frames(one, cv2.GaussianBlur(one, (0, 0), 1.5)) == pytest.approx(0.642398, abs=1e-4)
    picture = texture()
    shifted, blurred = np.roll(picture, 1, axis=1), cv2.GaussianBlur(picture, (0, 0), 3)
    assert distance.of_frames(picture, shifted) < 0.2 * distance.of_frames(picture, blurred)


def test_foreign_perceptual_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"net.slice1.0.weight": torch.zeros(2, 2, 2, 2)}, tmp_path / "foreign.pth")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    for name in ("foreign.pth", "broken.pth"):
        with pytest.raises(ModelError, match="shift-tolerant"):
            perceptual.PerceptualDistance(tmp_path / name)
    with pytest.raises(ModelError):
        perceptual.find_weights(str(tmp_path / "missing.pth"))


# --- prompts ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> prompts.PictureJudge:
    """Five looks' own teachers on two pictures."""
    teachers = fidelity.open_teachers(
        ["night", "film-noir", "thermal", "cartoon", "charcoal"], None, "lsd-small", torch.device("cpu")
    )
    sources = [texture(96, 128, seed=seed, grain=5.0) for seed in (1, 2)]
    return prompts.PictureJudge(prompts.teacher_pictures(teachers, sources, torch.device("cpu")), sources)


def painted_by(judge: prompts.PictureJudge, look: str) -> list[np.ndarray]:
    """The teacher's pictures as a small network would give them: softer and a little off in tone."""
    teachers = fidelity.open_teachers([look], None, "lsd-small", torch.device("cpu"))
    pictures_ = prompts.teacher_pictures(teachers, judge.sources, torch.device("cpu"))[look]
    return [np.clip(cv2.GaussianBlur(p, (0, 0), 0.7) * 0.95 + 8, 0, 255).astype(np.uint8) for p in pictures_]


def test_pictures_are_named_by_their_statistics(judge: prompts.PictureJudge) -> None:
    for look in judge.looks:
        ranked = judge.judge(painted_by(judge, look))
        assert ranked[0][0] == look and ranked[0][1] < 0.7 * ranked[1][1], ranked


def test_prompts_are_judged_on_the_picture_not_on_the_text(judge: prompts.PictureJudge) -> None:
    def match(text: str) -> dict[str, float]:
        return {text.split()[0]: 1.0}

    unseen = [("night", "night sky"), ("thermal", "thermal camera"), ("charcoal", "cartoon by a slip of the text")]

    def paint(weights: dict[str, float]) -> list[np.ndarray]:
        return painted_by(judge, next(iter(weights)))

    good = prompts.measure_prompts(judge, paint, match, unseen)
    assert good["by_name"] == 1.0 and good["share"] == pytest.approx(2 / 3)
    assert good["wrong"] == [{"prompt": unseen[2][1], "look": "charcoal", "read_as": "cartoon", "picture": "cartoon"}]

    def always_noir(weights: dict[str, float]) -> list[np.ndarray]:  # reads well, paints one thing
        return painted_by(judge, "film-noir")

    bad = prompts.measure_prompts(judge, always_noir, match, unseen)
    assert bad["share"] == 0.0 and bad["by_name"] == pytest.approx(1 / 5)


# --- the command -----------------------------------------------------------------------------------


def evaluate(*words: str) -> int:
    return main(["eval", "--size", "64x48", "--no-progress", *words])


def test_the_command_writes_document_sheet_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    names = [str(tmp_path / name) for name in ("doc.json", "sheet.png", "plot.png")]
    code = evaluate(
        "--clips",
        str(tmp_path / "walk"),
        "--looks",
        "night,mosaic",
        "--parts",
        "drift,temporal",
        "--frames",
        "104",
        "-o",
        names[0],
        "--sheet",
        names[1],
        "--plot",
        names[2],
        "--json",
    )
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(Path(names[0]).read_text())
    assert printed["complete"] and set(printed["looks"]) == {"night", "mosaic"}
    night = printed["looks"]["night"]
    assert night["drift"][0]["frames"] == 104 and night["temporal"]["warped_error"] > 0
    assert {bar["bar"] for bar in printed["bars"]} >= {"video drift error", "flicker on a still, levels, worst look"}
    assert cv2.imread(names[1]).shape[1] > 4 * 192 and cv2.imread(names[2]) is not None
    assert not list(tmp_path.glob("*.part"))


def test_two_processes_and_a_table(tmp_path: Path) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mirage_cli",
            "eval",
            "--clips",
            tmp_path / "walk",
            "--looks",
            "night,thermal",
            "--parts",
            "drift",
            "--frames",
            "64",
            "--size",
            "64x48",
            "--jobs",
            "2",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "night" in done.stdout and "thermal" in done.stdout and "2/2" in done.stderr


def test_a_process_that_dies_loses_its_task_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "serve", _serve_or_die)
    grave = tmp_path / "grave"
    specs = [SimpleNamespace(mortal=number == 0, grave=grave) for number in range(2)]
    tasks = [run.Task("drift", name) for name in "abcd"]
    got = {task.look: found for task, found, complete, _ in run.in_processes(specs, tasks) if complete}
    assert set(got) == set("abcd")
    assert sum("failed" in found for found in got.values()) == 1
    assert sum(found.get("measured", False) for found in got.values()) == 3


def _serve_or_die(connection, spec) -> None:
    """The mortal process dies of its first task; the other begins when it has."""
    if not spec.mortal:
        until = time.monotonic() + 60
        while not spec.grave.exists() and time.monotonic() < until:
            time.sleep(0.02)
    connection.send(("ready", None))
    while (task := connection.recv()) is not None:
        if spec.mortal:
            spec.grave.touch()
            os._exit(9)
        connection.send(("result", ({"measured": True}, True, {})))


def test_a_stream_cut_short_is_named_and_not_called_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    words = ("--clips", str(tmp_path / "walk"), "--looks", "night", "--parts", "drift", "--frames", "9000")
    assert evaluate(*words, "--budget-seconds", "4s", "-o", str(tmp_path / "e.json")) == 0
    assert "of 9000 frames: no time left (night)" in capsys.readouterr().out
    assert not json.loads((tmp_path / "e.json").read_text())["complete"]


def test_a_spent_budget_leaves_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    words = ("--clips", str(tmp_path / "walk"), "--looks", "night", "--parts", "drift,temporal", "--frames", "64")
    assert evaluate(*words, "--budget-seconds", "0.01s") == 0
    assert "left out: temporal: no time left (night)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("--looks", "no-such"),
        ("--parts", "speed"),
        ("--frames", "10"),
        ("--size", "native"),
        ("--lpips", "/no/file"),
        ("--parts", ""),
        ("-o", "clip.mp4"),
        ("--sheet", "sheet.json"),
    ],
)
def test_what_is_not_allowed(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *words]) in (UsageProblem.exit_code, ModelError.exit_code)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "none/e.json"),
        ("--sheet", "none/s.png"),
        ("--plot", "none/p.png"),
        ("--data", "none"),
        ("--clips", "clip.png", "--sheet", "clip.png"),
    ],
)
def test_files_that_cannot_be_are_told_before_the_work(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "load_clips", lambda *given: pytest.fail("the work has begun"))
    (tmp_path / "clip.png").write_bytes(b"mine")
    assert main(["eval", *words]) == MediaError.exit_code
    told = capsys.readouterr().err
    assert "error:" in told and "fault of mirage" not in told and (tmp_path / "clip.png").read_bytes() == b"mine"


def kept(*messages: tuple) -> dict:
    """The document after these messages, one from each task that was planned."""
    document = {"looks": {"night": {}, "mosaic": {}}, "left_out": []}
    keeper = run.Keeper(
        document, SimpleNamespace(output=None, sheet=None, plot=None), [m[0] for m in messages], 0.0, print, print
    )
    for message in messages:
        keeper.take(*message)
    keeper.finish()
    return document


def test_only_what_was_measured_to_its_end_is_complete() -> None:
    whole = {"returns": 2, "returns_asked": 2, "first_5": 0.1}
    night, mosaic = run.Task("fidelity", "night"), run.Task("fidelity", "mosaic")
    assert kept((night, whole, True, {}), (mosaic, {"left_out": "its teacher is not here"}, True, {}))["complete"]
    for found, why in (
        ({"left_out": NO_TIME}, "no time left"),
        ({"failed": "RuntimeError: x"}, "RuntimeError: x"),
        (whole | {"returns": 1}, "only 1 of 2 returns: no time left"),
        (whole | {"edges": [{"kept": float("nan")}]}, "kept is not finite"),
    ):
        document = kept((night, whole, True, {}), (mosaic, found, True, {}))
        assert not document["complete"] and [entry["why"] for entry in document["left_out"]] == [why]
        json.dumps(document, allow_nan=False)
    unfinished = kept((night, {"first_5": float("inf")}, False, {}))
    assert unfinished["looks"]["night"] == {} and unfinished["left_out"][0]["why"] == "not reached"


def test_one_return_says_nothing_of_the_last_over_the_first() -> None:
    errors = [0.1] * 10 + [0.3] * 5
    assert error_summary(errors, [0.1] * 10, 10)["last_over_first_return"] is None
    assert error_summary(errors + [0.3] * 10, [0.1] * 10, 10)["last_over_first_return"] == pytest.approx(1.0)


def test_a_model_without_paraphrases_is_measured_in_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``held_out`` may be empty, and an unforeseen error costs its own measurement only."""
    monkeypatch.setattr("mirage_cli.prompts.reader.PromptReader", lambda model: SimpleNamespace(looks=[]))
    monkeypatch.setattr(worker.Worker, "_temporal", lambda self, task: 1 / 0)
    write_pictures(tmp_path / "walk", moving(20))
    words = (
        "--clips",
        str(tmp_path / "walk"),
        "--looks",
        "night",
        "--parts",
        "prompts,temporal,drift",
        "--frames",
        "64",
    )
    assert evaluate(*words, "-o", str(tmp_path / "e.json")) == 1  # something failed
    document = json.loads((tmp_path / "e.json").read_text())
    why = {entry["part"]: entry["why"] for entry in document["left_out"]}
    assert "no look has both" in why["prompts"] and "ZeroDivisionError" in why["temporal"]
    assert document["looks"]["night"]["drift"] and not document["complete"]


def test_bars_are_met_and_missed() -> None:
    one = {
        "clip": "c",
        "frames": 100,
        "guard_events": 0,
        "cuts": 0,
        "drift": {
            "tail_over_head": dict.fromkeys(("luma_spread", "saturation", "sharpness"), 1.02),
            "video_drift_error_worst": 0.04,
        },
    }
    document = {
        "looks": {"night": {"drift": [one]}},
        "prompts": {"share": 0.96, "by_name": 1.0, "paraphrases": 4, "looks": 1},
    }
    met = {bar["bar"]: bar["met"] for bar in report.summary(document)["bars"]}
    assert met == {
        "tail/head ratios within 5%": True,
        "video drift error": False,
        "unseen paraphrases judged on the picture": True,
        "guard events in the long streams, which hide drift": True,
        "cuts seen in the long streams, which have none": True,
    }


def test_looks_bound_to_the_screen_are_not_asked_to_move_along() -> None:
    def look(teacher: float, ratio: float) -> dict:
        return {
            "fidelity": {"warped_error_teacher": teacher, "warped_error_history_off": 0.1},
            "temporal": {"warped_error_over_history_off": ratio},
        }

    found = report.summary({"looks": {"mosaic": look(0.1, 1.0), "cartoon": look(0.05, 0.6), "night": look(0.07, 0.8)}})
    temporal = found["summary"]["temporal"]
    assert temporal["bound_to_screen"] == ["mosaic"]
    assert temporal["free_over_history_off"] == pytest.approx(0.7)
    assert temporal["warped_error_over_history_off"] == pytest.approx(0.8)
    assert [bar["met"] for bar in found["bars"] if "move along" in bar["bar"]] == [True]


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    frame = texture(48, 64)
    with pytest.raises(MediaError):
        pictures.draw_sheet(str(tmp_path / "no" / "folder.png"), {"night": {1: (frame, frame)}})
    assert clips.EXAMPLE_CLIP == ROOT / "examples" / "bunny.mp4"
