"""Ladder, race, paced runs, floor and report: their arithmetic on sessions of known speed, and once for real."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mirage_cli.kernels.shapes import CONV_SHAPES

from mirage_cli.bench import report as bench_report, run as bench
from mirage_cli.bench.compiled import CompiledPainter
from mirage_cli.bench.floor import floor, kernel_table
from mirage_cli.bench.ladder import rungs
from mirage_cli.bench.race import host_frame, paced
from mirage_cli.bench.subjects import Subject, measure, pictures, prepared, rows
from mirage_cli.config import BenchConfig, ModelOptions
from mirage_cli.engine import reference
from mirage_cli.engine.conv import ConvCall
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.lsd.family import LsdModel
from mirage_cli.lsd.model import LSDConfig, LSDNet
from mirage_cli.lsd.painter import TorchPainter
from mirage_cli.lsd.plan_work import bare_convolution
from mirage_cli.lsd.variants import SomeOps, on_cuda
from mirage_cli.stream import planes
from mirage_cli.stream.session import Session

FRAMES = [np.zeros((48, 64, 3), np.uint8)] * 3


class Paced:
    """A session that takes a known time and notes whose turn it was."""

    runner = None  # not one on CUDA

    def __init__(self, name: str, milliseconds: float, log: list[str]) -> None:
        self.name, self.milliseconds, self.log = name, milliseconds, log

    def set_look(self, weights: dict[str, float]) -> None:
        self.weights = weights

    def step(self, rgb: np.ndarray) -> np.ndarray:
        self.log.append(self.name)
        time.sleep(self.milliseconds / 1e3)
        return rgb


def test_subjects_take_turns_and_their_times_come_out() -> None:
    log: list[str] = []
    subjects = [
        prepared(n, "", lambda n=n, ms=ms: Paced(n, ms, log), FRAMES, {"a": 1.0})
        for n, ms in (("slow", 4.0), ("fast", 1.0))
    ]
    subjects.append(prepared("broken", "", lambda: 1 / 0, FRAMES, {"a": 1.0}))
    log.clear()
    measure(subjects, FRAMES, 30, warm_up=1)
    assert "".join(name[0] for name in log) == "sf" + "s" * 25 + "f" * 25 + "s" * 5 + "f" * 5
    slow, fast, broken = rows(subjects)
    assert slow["frames"] == fast["frames"] == 30 and slow["of_first"] == 1.0
    assert slow["p50"] >= 4.0 and slow["p50"] <= slow["p95"] <= slow["p99"] <= slow["max"]
    assert 0.1 < fast["of_first"] < 0.9
    assert broken["error"] == "division by zero" and "p50" not in broken


def test_nothing_that_runs_is_no_error() -> None:
    subjects = [Subject("x", "", error="gone")]
    measure(subjects, FRAMES, 3)
    assert rows(subjects) == [{"name": "x", "what": "", "error": "gone"}]


def test_a_pace_that_is_too_fast_shows_as_late_frames() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    session = SimpleNamespace(step=lambda rgb: sleep(0.02))
    easy = paced(session, FRAMES, 30.0, 10, clock=lambda: now[0], sleep=sleep)
    assert easy["name"] == "30 Hz" and easy["late"] == 0 and easy["p50"] == easy["max"] == 20.0
    assert paced(session, FRAMES, 60.0, 10, clock=lambda: now[0], sleep=sleep)["late"] == 9


def small_model() -> LsdModel:
    net = LSDNet(LSDConfig(looks=("a", "b"))).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return LsdModel("tiny", None, net, torch.device("cpu"), torch.float32, "test")


def small_session() -> Session:
    return Session(small_model(), width=64, height=48, guard=False)


def test_the_lower_rungs_on_a_cpu_are_torchs_own() -> None:
    own = type(small_session().painter)
    subjects = rungs(small_model(), (64, 48), 1, {"a": 1.0}, FRAMES)
    assert [subject.error for subject in subjects] == [""] * 3
    assert [type(subject.session.painter) for subject in subjects] == [TorchPainter, TorchPainter, own]
    first, second, _ = (subject.session.painter.net.stem.weight for subject in subjects)
    assert first.dtype == second.dtype == torch.float32


def test_the_rungs_on_a_gpu_keep_their_names() -> None:
    names = [variant.name for variant in on_cuda(small_model().net)]
    assert names == ["eager", "channels_last", "graph", "+ norms", "+ sums", "+ doubling", "program", "all"]
    assert [variant.graph for variant in on_cuda(small_model().net)] == [False, False, *[True] * 6]


@pytest.mark.slow
def test_the_floor_counts_every_convolution_once() -> None:
    session = small_session()
    width, height = 64, 48
    cells = [width * height // s**2 for s in (4, 8, 16)]
    blocks = 2 * 2 * 9 * (4 * cells[0] * 64**2 + 4 * cells[1] * 128**2 + 4 * cells[2] * 256**2)  # two convolutions each
    assert blocks < session.painter.work().flops < 1.4 * blocks  # the rest: stem, downs, ups, out, attention
    result = floor(session, FRAMES)
    json.dumps(result)
    weights = sum(p.numel() * 4 for p in session.model.net.parameters())
    assert result["least_megabytes"] * 1e6 > weights
    assert result["floor_ms"] == max(result["compute_floor_ms"], result["memory_floor_ms"]) > 0
    assert kernel_table(session) is None and host_frame(session, FRAMES, 1) is None  # these are CUDA's


@pytest.mark.parametrize("layer", CONV_SHAPES)
def test_the_bare_convolution_is_of_the_layers_shape(layer: str) -> None:
    shape = CONV_SHAPES[layer]
    taps = (3, 3) if shape.taps == 9 else (1, 1)
    weights = [torch.randn(64, shape.channels, *taps)]
    if shape.second_channels:
        weights.append(torch.randn(64, shape.second_channels, 1, 1))
    if layer.startswith("attention"):
        weights = [torch.randn(64, shape.channels)]
    unread = torch.empty(0)
    call = ConvCall(layer=layer, size=(6, 10), in0=unread, weights=tuple(weights), bias=torch.randn(64), out=unread)
    assert bare_convolution(call, torch.device("cpu"))().shape == (1, 64, 6, 10)


@pytest.mark.slow
def test_torch_compile_can_take_the_whole_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The race's rival is one graph, without a break; what only CPUs have stands aside."""
    monkeypatch.setattr(planes, "_for_opencv", lambda *tensors: False)
    painter, other = (small_model().plain((64, 48), steps=1, seed=0) for _ in range(2))
    other.net.load_state_dict(painter.net.state_dict())
    rgb = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for one in (painter, other):
            one.condition({"a": 1.0}, 1.0)
        frame = torch.compile(painter.paint, backend="eager", fullgraph=True, dynamic=False)
        for _ in range(3):
            out, flags = frame(rgb)
        wanted = [other.paint(rgb).rgb for _ in range(3)][-1]
    assert (out.int() - wanted.int()).abs().max() <= 1 and flags.tolist() == [0, 1]


def test_a_compiled_painter_is_the_painter_but_for_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    model = small_model()
    one, other = (model.plain((64, 48), steps=1, seed=0) for _ in range(2))
    compiled = Session(model, width=64, height=48, painter=CompiledPainter(one, "default", whole=False))
    plain = Session(model, width=64, height=48, painter=other)
    for session in (compiled, plain):
        session.set_look({"b": 1.0})
        session.set_seed(2)
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert all(np.array_equal(compiled.step(frame), plain.step(frame)) for _ in range(3))
    assert all(np.array_equal(a, b) for a, b in zip(compiled.state()[0].values(), plain.state()[0].values()))


def test_a_rung_takes_only_its_kernels() -> None:
    kernels = SimpleNamespace(residual_add=lambda x, residual: "kernel")
    some, x = SomeOps(kernels, frozenset({"residual_add"})), torch.randn(1, 8, 2, 2)
    assert some.residual_add(x, x) == "kernel"
    normed = reference.channel_norm_film_silu(x, x[0, :, 0, 0], x[0, :, 0, 0])
    assert torch.equal(some.channel_norm_film_silu(x, x[0, :, 0, 0], x[0, :, 0, 0]), normed)


@pytest.mark.slow
def test_ladder_and_floor_for_real(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    session = small_session()
    engine = SimpleNamespace(
        is_cpu=lambda options: True,
        model=lambda options: session.model,
        session=lambda options, w, h: small_session(),
        match=lambda options, text: SimpleNamespace(look="a", weights={"a": 1.0}),
    )
    monkeypatch.setattr(bench, "weights", lambda model: {"sha256": "none"})
    report = tmp_path / "out.md"
    config = BenchConfig(
        size=(64, 48), frames=2, ladder=True, paced=True, floor=True, report=str(report), model=ModelOptions()
    )
    document = bench.run(config, engine=engine)
    json.dumps(document)
    assert [row["name"] for row in document["ladder"]] == ["fp32", "channels_last", "all"]
    assert all(row["frames"] == 2 for row in document["ladder"])
    assert [row["name"] for row in document["paced"]] == ["30 Hz", "60 Hz"]
    assert "kernels" not in document and document["floor"]["matrix_tflops"] > 0
    text, image = report.read_text(), report.with_suffix(".svg").read_text()
    assert "## ladder" in text and "| fp32 |" in text and "out.svg" in text
    assert image.count("<rect") == 1 + 2 * 5 and "channels_last" in image


def test_pictures_need_no_file() -> None:
    made = pictures(64, 48, 3)
    assert len(made) == 3 and made[0].shape == (48, 64, 3) and not np.array_equal(made[0], made[2])


DOCUMENT = {
    "command": "bench",
    "size": [64, 48],
    "hardware": {"cpu": "a <b> | c"},
    "race": [{"name": "mirage", "p50": 0.3, "p99": 0.31}, {"name": "torch & co", "error": "none"}],
}


def test_html_report_holds_its_plot_and_escapes(tmp_path) -> None:
    bench_report.write(str(tmp_path / "x.html"), DOCUMENT)
    text = (tmp_path / "x.html").read_text()
    assert "<svg" in text and "a &lt;b&gt; | c" in text and "torch &amp; co" in text and "64 x 48" in text


def test_reports_that_cannot_be(tmp_path) -> None:
    for name, problem in (("x.pdf", "ends with"), (str(tmp_path / "none" / "x.md"), "no such folder")):
        with pytest.raises(UsageProblem, match=problem):
            bench_report.check(name)
    for strange, name in (("mine.md", "mine.md"), ("rep.svg", "rep.md")):
        (tmp_path / strange).write_text("<svg>mine</svg>")
        with pytest.raises(UsageProblem, match="is no report of mirage bench"):
            bench_report.check(str(tmp_path / name))
    for _ in range(2):  # its own it replaces
        bench_report.check(str(tmp_path / "own.md"))
        bench_report.write(str(tmp_path / "own.md"), DOCUMENT)
    (tmp_path / "y.html").mkdir()
    with pytest.raises(MediaError, match="cannot be written"):
        bench_report.write(str(tmp_path / "y.html"), DOCUMENT)


def test_without_ffmpeg_frames_are_made_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.slow_model import SlowModels

    def missing() -> None:
        raise MediaError("no ffmpeg", "install it")

    monkeypatch.setattr("mirage_cli.media.ffmpeg.find_ffmpeg", missing)
    monkeypatch.setattr(bench, "weights", lambda model: {"sha256": "none"})
    document = bench.run(BenchConfig(size=(64, 48), frames=3, warmup=0), engine=SlowModels(0.0, 1.0, 0.0))
    assert document["source"] == "test picture" and document["versions"]["ffmpeg"] == "none"
    assert document["frames"] == document["pipelined"]["frames"] == 3
