"""Style networks in torch against onnxruntime, and the recipes of the painterly looks.

A small set of networks is built here. With TEACHERS_DIR set to the folder of the real ones
(multistyle26.onnx, arbitrary_predict.onnx, arbitrary_transform.onnx), those are compared too.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mirage_cli.errors import MirageError, ModelError, UsageProblem
from mirage_cli.teachers import neural_ops as ops
from mirage_cli.teachers.neural_recipes import RECIPES
from mirage_cli.teachers.neural_teachers import NeuralTeachers, _inverse2, _sqrt2
from mirage_cli.teachers.onnx_torch import OnnxModule, StyleFeatures

REAL = Path(os.environ.get("TEACHERS_DIR", "/nonexistent"))
needs_real = pytest.mark.skipif(
    not (REAL / "multistyle26.onnx").is_file(), reason="TEACHERS_DIR names no folder of teacher networks"
)


# --- small networks ------------------------------------------------------------------------------


def _save(path: Path, nodes: list, inputs: dict, outputs: dict, constants: dict) -> Path:
    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        path.stem,
        [value(*i) for i in inputs.items()],
        [value(*o) for o in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _weights(*shape: int, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def _small_net(path: Path, quantized: bool = False) -> Path:
    """NHWC in and out, all shapes fixed at batch 1 and 16 x 24, like the arbitrary-style net."""
    node = helper.make_node
    constants = {
        "pad": np.array([0, 2, 2, 0, 0, 2, 2, 0], np.int64),
        "w1": _weights(4, 3, 5, 5),
        "b1": _weights(4),
        "w2": _weights(4, 1, 3, 3, seed=1),
        "low": np.float32(0),
        "high": np.float32(6),
        "flat": np.array([1, 4, 1, 1], np.int64),
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "roi": np.zeros(0, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w3": _weights(3, 4, 1, 1, seed=2),
        "b3": _weights(3, seed=3),
    }
    resize = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    nodes = [
        node("Pad", ["x", "pad"], ["p"], mode="reflect"),
        node("Transpose", ["p"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w1", "b1"], ["c1"], kernel_shape=[5, 5]),
        node("Clip", ["c1", "low", "high"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], group=4),
        node("GlobalAveragePool", ["c2"], ["m"]),
        node("Reshape", ["m", "flat"], ["m4"]),
        node("Sub", ["c2", "m4"], ["d"]),
        node("Pow", ["d", "two"], ["sq"]),
        node("ReduceMean", ["sq"], ["var"], axes=[2, 3], keepdims=1),
        node("Add", ["var", "eps"], ["ve"]),
        node("Sqrt", ["ve"], ["sd"]),
        node("Div", ["d", "sd"], ["n"]),
        node("Resize", ["n", "roi", "scales"], ["u"], **resize),
        node("Conv", ["u", "w3", "b3"], ["c3"], kernel_shape=[1, 1]),
        node("Sigmoid", ["c3"], ["s"]),
        node("Transpose", ["s"], ["y"], perm=[0, 2, 3, 1]),
    ]
    if quantized:
        constants |= {"qs": np.float32(0.05), "qz": np.int8(-20)}
        nodes[4].input[0] = "r1d"
        nodes[4:4] = [
            node("QuantizeLinear", ["r1", "qs", "qz"], ["r1q"]),
            node("DequantizeLinear", ["r1q", "qs", "qz"], ["r1d"]),
        ]
    return _save(path, nodes, {"x": [1, 16, 24, 3]}, {"y": [1, 16, 24, 3]}, constants)


def _run_onnx(path: Path | bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    model = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def _picture(*shape: int, seed: int = 5) -> np.ndarray:
    """A smooth picture with edges, 0..1, last axis 3."""
    rough = np.random.default_rng(seed).random((shape[0] // 8 + 2, shape[1] // 8 + 2, 3)).astype(np.float32)
    smooth = cv2.resize(rough, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    smooth[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] *= 0.3
    return smooth.clip(0, 1)


def test_small_network_equals_onnxruntime(tmp_path):
    path = _small_net(tmp_path / "small.onnx")
    x = _picture(16, 24)[None]
    with torch.no_grad():
        got = OnnxModule(path)(torch.from_numpy(x))[0].numpy()
    assert np.abs(got - _run_onnx(path, {"x": x})).max() < 1e-5


def test_batches_and_sizes_beyond_the_file(tmp_path):
    net = OnnxModule(_small_net(tmp_path / "small.onnx"))
    x = torch.from_numpy(np.stack([_picture(40, 56, seed=s) for s in range(3)]))
    with torch.no_grad():
        whole = net(x)[0]
        alone = torch.cat([net(x[i : i + 1])[0] for i in range(3)])
    assert whole.shape == x.shape
    assert (whole - alone).abs().max() < 1e-5
    assert (whole[0] - whole[1]).abs().max() > 1e-2


def test_quantised_network_exact_and_float(tmp_path):
    path = _small_net(tmp_path / "quantised.onnx", quantized=True)
    plain = _small_net(tmp_path / "plain.onnx")
    x = _picture(16, 24)[None]
    with torch.no_grad():
        exact = OnnxModule(path, quantized="exact")(torch.from_numpy(x))[0].numpy()
        smooth = OnnxModule(path)(torch.from_numpy(x))[0].numpy()
    reference = _run_onnx(path, {"x": x})
    assert (np.abs(exact - reference) > 1e-5).mean() < 0.02  # a rare tie may round the other way
    assert np.abs(smooth - _run_onnx(plain, {"x": x})).max() < 1e-5
    assert np.abs(smooth - reference).max() > 1e-3


def test_inner_values_have_gradients(tmp_path):
    net = OnnxModule(_small_net(tmp_path / "quantised.onnx", quantized=True), outputs=["c1", "n"])
    x = torch.from_numpy(_picture(16, 24)[None]).requires_grad_()
    early, late = net(x)
    assert early.shape == (1, 4, 16, 24) and late.shape == (1, 4, 8, 12)
    late.square().sum().backward(retain_graph=True)
    early.abs().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_bad_network_files(tmp_path):
    with pytest.raises(ModelError, match="no teacher network"):
        OnnxModule(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ModelError, match="not a readable ONNX"):
        OnnxModule(tmp_path / "text.onnx")
    odd = _save(tmp_path / "odd.onnx", [helper.make_node("Softsign", ["x"], ["y"])], {"x": [1]}, {"y": [1]}, {})
    with pytest.raises(ModelError, match="Softsign"):
        OnnxModule(odd)
    with pytest.raises(ModelError, match="no value named"):
        OnnxModule(_small_net(tmp_path / "small.onnx"), outputs=["nowhere"])
    with pytest.raises(MirageError, match="quantized"):
        OnnxModule(tmp_path / "small.onnx", quantized="int4")


# --- recipes and operations ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Stand-ins with the interfaces of the three networks, and a picture for every painting named."""
    folder = tmp_path_factory.mktemp("teachers")
    node = helper.make_node
    _save(
        folder / "multistyle26.onnx",
        [
            node("Conv", ["image", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Unsqueeze", ["style_weights", "axis"], ["s2"]),
            node("Mul", ["s2", "table"], ["m"]),
            node("ReduceSum", ["m", "first"], ["r"], keepdims=0),
            node("Reshape", ["r", "shape"], ["b"]),
            node("Add", ["c", "b"], ["a"]),
            node("Sigmoid", ["a"], ["stylized"]),
        ],
        {"image": [1, 3, "h", "w"], "style_weights": [26]},
        {"stylized": [1, 3, "h", "w"]},
        {
            "w": _weights(3, 3, 3, 3),
            "axis": np.array([1], np.int64),
            "table": _weights(26, 3, scale=1.0),
            "first": np.array([0], np.int64),
            "shape": np.array([1, -1, 1, 1], np.int64),
        },
    )
    _save(
        folder / "arbitrary_predict.onnx",
        [
            node("Transpose", ["style_image"], ["t"], perm=[0, 3, 1, 2]),
            node("GlobalAveragePool", ["t"], ["g"]),
            node("Conv", ["g", "w"], ["c"], kernel_shape=[1, 1]),
            node("Reshape", ["c", "shape"], ["v"]),
        ],
        {"style_image": [1, 256, 256, 3]},
        {"v": [1, 1, 1, 100]},
        {"w": _weights(100, 3, 1, 1), "shape": np.array([1, 1, 1, 100], np.int64)},
    )
    _save(
        folder / "arbitrary_transform.onnx",
        [
            node("Transpose", ["content"], ["t"], perm=[0, 3, 1, 2]),
            node("Reshape", ["v", "shape"], ["v4"]),
            node("Conv", ["v4", "w"], ["shift"], kernel_shape=[1, 1]),
            node("Add", ["t", "shift"], ["a"]),
            node("Sigmoid", ["a"], ["s"]),
            node("Transpose", ["s"], ["y"], perm=[0, 2, 3, 1]),
        ],
        {"content": [1, 384, 384, 3], "v": [1, 1, 1, 100]},
        {"y": [1, 384, 384, 3]},
        {"w": _weights(3, 100, 1, 1), "shape": np.array([1, 100, 1, 1], np.int64)},
    )
    for seed, name in enumerate(sorted(_paintings())):
        cv2.imwrite(str(folder / f"{name}.jpg"), (_picture(96, 128, seed=seed) * 255).astype(np.uint8))
    return folder


def _style_keys() -> list[str]:
    keys = []
    for steps in RECIPES.values():
        for step in steps:
            keys += list(step.get("styles", {})) + ([step["painting"]] if "painting" in step else [])
    return keys


def _paintings() -> set[str]:
    return {key.partition(":")[0] for key in _style_keys() if not key.isdigit()}


def test_recipes_name_operations_settings_and_pictures_that_exist():
    for look, steps in RECIPES.items():
        kept = {"photo", "x"}
        for step in steps:
            settings = {k: v for k, v in step.items() if k != "op"}
            if step["op"] == "save":
                kept.add(settings["name"])
                continue
            if step["op"] == "load":
                assert settings["name"] in kept, (look, step)
                continue
            inspect.signature(ops.OPERATIONS[step["op"]]).bind(None, {}, **settings)
            for name in ("source", "other"):
                assert settings.get(name, "photo") in kept, (look, step)
    for key in _style_keys():
        if key.isdigit():
            assert 0 <= int(key) < 26
        elif ":" in key:
            x0, y0, x1, y1 = (float(v) for v in key.partition(":")[2].split(","))
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


@pytest.mark.slow
def test_every_look_renders_batches_and_repeats(folder):
    teachers = NeuralTeachers(folder, folder, "cpu")
    x = torch.from_numpy(np.stack([_picture(64, 96, seed=s) for s in (1, 2)])).permute(0, 3, 1, 2)
    for look in teachers.looks:
        y = teachers.render(look, x)
        assert y.shape == x.shape and y.dtype == torch.float32
        assert torch.isfinite(y).all() and y.min() >= 0 and y.max() <= 1
        assert y.std() > 0.02 and (y - x).abs().mean() > 0.02, look
        assert torch.equal(y, teachers.render(look, x)), look
        # where strokes have no direction, a rounding may turn one pixel's: nearly all must agree
        apart = (teachers.render(look, x[1:]) - y[1:]).abs()
        assert apart.mean() < 1e-4 and (apart > 2e-3).float().mean() < 1e-2, look


def test_render_refuses_what_it_cannot_paint(folder):
    teachers = NeuralTeachers(folder, folder, "cpu")
    with pytest.raises(UsageProblem, match="oil"):
        teachers.render("oil", torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageProblem, match="multiples of 8"):
        teachers.render("gauguin", torch.zeros(1, 3, 60, 64))
    with pytest.raises(ModelError, match="no painting"):
        NeuralTeachers(folder, folder / "none", "cpu").render("the-kiss", torch.zeros(1, 3, 64, 64))


def test_colour_space_round_trip_and_known_values():
    rgb = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (ops.to_rgb(ops.to_lab(rgb)) - rgb).abs().max() < 1e-3
    white, red = ops.to_lab(torch.tensor([[1.0, 1, 1], [1, 0, 0]])[:, :, None, None]).flatten(1)
    assert torch.allclose(white, torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert torch.allclose(red, torch.tensor([0.628, 0.2249, 0.1258]), atol=1e-3)


def test_palette_reaches_the_mean_and_spread_of_the_painting(folder):
    teachers = NeuralTeachers(folder, folder, "cpu")
    name = sorted(_paintings())[0]
    lab = ops.to_lab(torch.from_numpy(_picture(64, 96, seed=30)).permute(2, 0, 1)[None])
    want = ops.to_lab(teachers._painting(name)).flatten(2)[0]
    got = teachers.match_palette(lab, name, 1.0, 1.0).flatten(2)[0]
    assert torch.allclose(got[1:].mean(1), want[1:].mean(1), atol=1e-3)
    assert torch.allclose(torch.cov(got[1:]), torch.cov(want[1:]), atol=3e-4)
    assert torch.equal(teachers.match_palette(lab, name, 0.0, 0.0), lab)


def test_two_by_two_roots_and_inverses():
    m = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[4e-3, 1e-3], [1e-3, 2e-3]]])
    assert torch.allclose(_sqrt2(m) @ _sqrt2(m), m, rtol=1e-4)
    assert torch.allclose(_inverse2(m) @ m, torch.eye(2).expand(2, 2, 2), atol=1e-4)


def test_flow_cleans_strokes_without_blurring_them():
    ys, xs = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    stripes = (0.5 + 0.4 * torch.sin((xs + ys) * 0.6)).expand(1, 3, -1, -1)
    noisy = stripes + 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    clean = ops.along_flow(noisy, noisy[:, :1], length=6, sigma=3)
    inner = (..., slice(12, 52), slice(12, 52))
    assert (clean - stripes)[inner].abs().mean() < 0.5 * (noisy - stripes)[inner].abs().mean()
    assert clean[inner].std() > 0.9 * stripes[inner].std()
    flat = torch.full((1, 3, 32, 32), 0.25)
    assert torch.allclose(ops.along_flow(flat, flat[:, :1], 6, 3), flat, atol=1e-5)


def test_kuwahara_flattens_and_keeps_edges():
    step = torch.zeros(1, 3, 48, 48)
    step[..., 24:] = 1
    noisy = (step + 0.1 * torch.randn(step.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    out = ops.kuwahara(noisy, 4)
    assert out[..., 8:40, 26:40].std() < 0.5 * noisy[..., 8:40, 26:40].std()
    assert (out[..., 8:40, 26].mean() - out[..., 8:40, 21].mean()) > 0.85


def test_wide_blur_on_a_reduced_picture_equals_the_exact_one():
    x = torch.from_numpy(_picture(128, 160)).permute(2, 0, 1)[None]
    exact = cv2.GaussianBlur(x[0].permute(1, 2, 0).numpy(), (0, 0), 14, borderType=cv2.BORDER_REFLECT_101)
    got = ops.blur(x, 14)[0].permute(1, 2, 0).numpy()
    assert np.abs(got - exact)[16:-16, 16:-16].max() < 0.02


# --- the real networks ---------------------------------------------------------------------------


def _without_rounding(path: Path) -> bytes:
    """The graph with its quantise / dequantise pairs taken out, weights kept: for onnxruntime."""
    model = onnx.load(str(path))
    graph = model.graph
    weights, renamed, kept = {t.name for t in graph.initializer}, {}, []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in weights:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
            continue
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        kept.append(node)
    kept += [helper.make_node("Identity", [renamed[o.name]], [o.name]) for o in graph.output if o.name in renamed]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return model.SerializeToString()


@needs_real
@pytest.mark.parametrize("name", ["multistyle26", "arbitrary_predict", "arbitrary_transform"])
def test_real_networks_equal_onnxruntime(name):
    path = REAL / f"{name}.onnx"
    net = OnnxModule(path)
    mix = np.zeros(26, np.float32)
    mix[[3, 19]] = 0.5
    feeds = {
        "multistyle26": {"image": _picture(96, 128).transpose(2, 0, 1)[None].copy(), "style_weights": mix},
        "arbitrary_predict": {"style_image": _picture(256, 256)[None]},
        "arbitrary_transform": {
            "content_image": _picture(384, 384)[None],
            "mobilenet_conv/Conv/BiasAdd": _weights(1, 1, 1, 100, scale=0.5),
        },
    }[name]
    with torch.no_grad():
        got = net(*[torch.from_numpy(feeds[n]) for n in net.input_names])[0].numpy()
    assert np.abs(got - _run_onnx(_without_rounding(path), feeds)).max() < 1e-4


@needs_real
def test_style_features_are_scaled_and_differentiable():
    features = StyleFeatures(REAL / "arbitrary_predict.onnx")
    x = torch.from_numpy(_picture(128, 160)).permute(2, 0, 1)[None].repeat(2, 1, 1, 1).requires_grad_()
    maps = features(x)
    assert [tuple(m.shape[2:]) for m in maps] == [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)]
    spreads = [float(m.detach().std((2, 3)).mean()) for m in maps]  # within each channel
    assert all(0.05 < spread < 3 for spread in spreads), spreads
    sum(m.abs().mean() for m in maps).backward()
    assert torch.isfinite(x.grad).all() and (x.grad.abs() > 0).float().mean() > 0.9
