"""Run an ONNX network as a torch module: any batch, any size, on any device, with gradients.

The style teachers come as ONNX files with fixed sizes and, two of them, int8 weights. Training
renders targets on the GPU, so their graphs are read once, folded (all that depends on constants
only is computed at load), and replayed op by op in torch.

Quantised graphs (QuantizeLinear / DequantizeLinear pairs) run in one of two ways:
``quantized="float"`` drops the rounding of activations, which gives the network before it was
quantised: smoother, differentiable, and independent of the size it was calibrated for;
``quantized="exact"`` rounds as the ONNX standard says, for comparison with other run times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mirage_cli.errors import MirageError, ModelError

__all__ = ["OnnxModule", "StyleFeatures"]

Attributes = dict[str, Any]


def _load_onnx(path: Path) -> Any:
    """The file's ``onnx.ModelProto``."""
    try:
        import onnx
    except ImportError as error:
        raise MirageError(
            f"reading {path.name} needs the package onnx, which is not installed",
            remedy="pip install 'mirage-cli[train]'",
        ) from error
    if not path.is_file():
        raise ModelError(
            f"no teacher network at {path}", remedy="point --teachers at the folder that holds the .onnx files"
        )
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf raises its own kinds, none of them public
        raise ModelError(
            f"{path} is not a readable ONNX file ({type(error).__name__})",
            remedy="copy the file again and compare its size with the original",
        ) from error


# --- ops -----------------------------------------------------------------------------------------
# Each takes the node's inputs (tensors, or None for an input left out) and its attributes.


def _ints(tensor: torch.Tensor) -> list[int]:
    return [int(v) for v in tensor.flatten().tolist()]


def _conv(inputs: list, attrs: Attributes) -> torch.Tensor:
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    pads = list(attrs.get("pads", [0] * 4))
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
    return F.conv2d(
        x,
        weight,
        bias,
        tuple(attrs.get("strides", (1, 1))),
        (top, left),
        tuple(attrs.get("dilations", (1, 1))),
        int(attrs.get("group", 1)),
    )


def _pad(inputs: list, attrs: Attributes) -> torch.Tensor:
    x, pads = inputs[0], _ints(inputs[1])
    mode = attrs.get("mode", "constant")
    rank = x.dim()
    if len(pads) != 2 * rank:
        raise ModelError(f"Pad of a {rank}-D tensor with {len(pads)} numbers; {2 * rank} are needed")
    axes = [a for a in range(rank) if pads[a] or pads[a + rank]]
    if not axes:
        return x
    amounts = [n for a in reversed(axes) for n in (pads[a], pads[a + rank])]
    if mode == "constant":
        value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0
        full = [n for a in reversed(range(rank)) for n in (pads[a], pads[a + rank])]
        return F.pad(x, full, value=value)
    # torch reflects the last axes only: bring the padded ones there, and back afterwards
    order = [a for a in range(rank) if a not in axes] + axes
    back = [order.index(a) for a in range(rank)]
    padded = F.pad(x.permute(order), amounts, mode={"reflect": "reflect", "edge": "replicate"}[mode])
    return padded.permute(back)


def _reshape(inputs: list, attrs: Attributes) -> torch.Tensor:
    x, shape = inputs[0], _ints(inputs[1])
    if not attrs.get("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    # a batch of 1 was baked into the file: the leading axis takes the batch at hand
    if -1 not in shape and shape and shape[0] == 1 and int(np.prod(shape)) != x.numel():
        shape[0] = -1
    return x.reshape(shape)


def _resize(inputs: list, attrs: Attributes) -> torch.Tensor:
    x = inputs[0]
    scales = inputs[2] if len(inputs) > 2 else None
    if (
        attrs.get("mode", "nearest") != "nearest"
        or attrs.get("nearest_mode") != "floor"
        or (attrs.get("coordinate_transformation_mode") != "asymmetric")
    ):
        raise ModelError("Resize is supported as nearest, floor, asymmetric only", remedy="")
    if scales is None or scales.numel() != 4:
        raise ModelError("Resize to a fixed size is not supported; scales are needed")
    factors = [float(s) for s in scales.tolist()][2:]
    if factors == [1.0, 1.0]:
        return x
    return F.interpolate(x, scale_factor=factors, mode="nearest")


def _slice(inputs: list, attrs: Attributes) -> torch.Tensor:
    x, starts, ends = inputs[0], _ints(inputs[1]), _ints(inputs[2])
    axes = _ints(inputs[3]) if len(inputs) > 3 else list(range(len(starts)))
    steps = _ints(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        index = list(range(x.shape[axis]))[slice(start, end if end > -(2**62) else None, step)]
        x = x.index_select(axis, torch.tensor(index, dtype=torch.long, device=x.device))
    return x


def _reduce(function: Callable) -> Callable:
    def run(inputs: list, attrs: Attributes) -> torch.Tensor:
        x = inputs[0]
        axes = attrs.get("axes")
        if axes is None and len(inputs) > 1:
            axes = _ints(inputs[1])
        axes = list(axes) if axes is not None else list(range(x.dim()))
        return function(x, dim=axes, keepdim=bool(attrs.get("keepdims", 1)))

    return run


def _quantize(inputs: list, attrs: Attributes) -> torch.Tensor:
    x, scale, zero = inputs
    low, high = (0, 255) if zero.dtype == torch.uint8 else (-128, 127)
    return torch.clamp(torch.round(x / scale) + zero.to(x.dtype), low, high)


def _dequantize(inputs: list, attrs: Attributes) -> torch.Tensor:
    x, scale, zero = inputs
    if scale.dim() == 1:
        shape = [1] * x.dim()
        shape[int(attrs.get("axis", 1))] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (x.to(scale.dtype) - zero.to(scale.dtype)) * scale


def _pow(inputs: list, attrs: Attributes) -> torch.Tensor:
    # squares overflow in fp16: variances are always taken in fp32
    base = inputs[0].float() if inputs[0].is_floating_point() else inputs[0]
    return base * base if float(inputs[1]) == 2.0 else base ** inputs[1].to(base.dtype)


_CAST = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16}

OPS: dict[str, Callable[[list, Attributes], torch.Tensor]] = {
    "Add": lambda i, a: i[0] + i[1],
    "Cast": lambda i, a: i[0].to(_CAST[int(a["to"])]),
    "Clip": lambda i, a: torch.clamp(i[0], float(i[1]), float(i[2])),
    "Concat": lambda i, a: torch.cat(i, dim=int(a["axis"])),
    "ConstantOfShape": lambda i, a: torch.full(
        _ints(i[0]),
        a["value"].item() if "value" in a else 0.0,
        dtype=a["value"].dtype if "value" in a else torch.float32,
    ),
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": lambda i, a: i[0] / i[1],
    "GlobalAveragePool": lambda i, a: i[0].float().mean(dim=(2, 3), keepdim=True),
    "Identity": lambda i, a: i[0],
    "Mul": lambda i, a: i[0] * i[1],
    "Pad": _pad,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Reciprocal": lambda i, a: torch.reciprocal(i[0]),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": lambda i, a: torch.relu(i[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda i, a: torch.sigmoid(i[0]),
    "Slice": _slice,
    "Sqrt": lambda i, a: torch.sqrt(i[0]),
    "Sub": lambda i, a: i[0] - i[1],
    "Transpose": lambda i, a: i[0].permute([int(v) for v in a["perm"]]),
    "Unsqueeze": lambda i, a: i[0].unsqueeze(_ints(i[1])[0]),
}
# inputs that steer shapes and ranges: they stay on the CPU, so that no op waits for the device
_HOST_INPUTS = {
    "Pad": (1, 2),
    "Reshape": (1,),
    "Resize": (1, 2),
    "Slice": (1, 2, 3, 4),
    "Unsqueeze": (1,),
    "ReduceSum": (1,),
    "Clip": (1, 2),
    "Pow": (1,),
}


def _attribute_value(onnx: Any, attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(np.array(onnx.numpy_helper.to_array(value)))
    return value


class OnnxModule(torch.nn.Module):
    """An ONNX graph as a torch module.

    Args:
        path: the .onnx file.
        outputs: names of the values to return; the graph's outputs by default. Nodes that none
            of them needs are dropped.
        quantized: "float" or "exact", see the module's text.

    Raises:
        ModelError: the file is missing, unreadable or uses an op that is not covered.
        MirageError: the package onnx is not installed.
    """

    def __init__(self, path: str | Path, outputs: Sequence[str] = (), quantized: str = "float") -> None:
        super().__init__()
        if quantized not in ("float", "exact"):
            raise MirageError(f"quantized={quantized!r}; allowed: 'float', 'exact'")
        path = Path(path)
        model = _load_onnx(path)
        import onnx
        import onnx.numpy_helper

        graph = model.graph
        constants: dict[str, torch.Tensor] = {
            t.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(t))) for t in graph.initializer
        }
        self.input_names = [i.name for i in graph.input if i.name not in constants]
        self.output_names = list(outputs) or [o.name for o in graph.output]

        steps: list[tuple[str, list[str], str, Attributes]] = []
        for node in graph.node:
            attrs = {a.name: _attribute_value(onnx, a) for a in node.attribute}
            name = node.output[0]
            if node.op_type == "Constant":
                constants[name] = attrs["value"]
                continue
            if node.op_type not in OPS:
                raise ModelError(
                    f"{path.name} uses the op {node.op_type}; covered: {', '.join(sorted(OPS))}",
                    remedy="add the op to mirage_cli/training/onnx_torch.py",
                )
            inputs = list(node.input)
            known = all(not i or i in constants for i in inputs)
            is_quant = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            if known:
                values = [constants[i] if i else None for i in inputs]
                constants[name] = OPS[node.op_type](values, attrs)
            elif is_quant and quantized == "float":
                steps.append(("Identity", inputs[:1], name, {}))
            else:
                steps.append((node.op_type, inputs, name, attrs))
        steps = self._needed(steps)
        made = {name for _, _, name, _ in steps} | set(constants) | set(self.input_names)
        missing = [name for name in self.output_names if name not in made]
        if missing:
            raise ModelError(f"{path.name} has no value named {missing[0]!r}")

        # constants become buffers (they move and change precision with the module) or host tensors
        self._host: dict[str, torch.Tensor] = {}
        self._buffer_of: dict[str, str] = {}
        for op, inputs, _, _ in steps:
            for position, name in enumerate(inputs):
                if name not in constants:
                    continue
                if position in _HOST_INPUTS.get(op, ()) or not name:
                    self._host[name] = constants[name]
                elif name not in self._buffer_of:
                    self._buffer_of[name] = f"c{len(self._buffer_of)}"
                    self.register_buffer(self._buffer_of[name], constants[name].contiguous())
        last_use: dict[str, int] = {}
        for index, (_, inputs, _, _) in enumerate(steps):
            last_use.update(dict.fromkeys(inputs, index))
        keep = set(self.output_names) | set(constants)
        self._free = [
            [n for n in set(inputs) if last_use[n] == index and n not in keep]
            for index, (_, inputs, _, _) in enumerate(steps)
        ]
        self._steps = steps

    def _needed(self, steps: list) -> list:
        wanted, kept = set(self.output_names), []
        for step in reversed(steps):
            if step[2] in wanted:
                kept.append(step)
                wanted.update(step[1])
        self.input_names = [n for n in self.input_names if n in wanted]
        return kept[::-1]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The values of ``output_names``, for one tensor per entry of ``input_names``."""
        if len(inputs) != len(self.input_names):
            raise MirageError(f"{len(inputs)} inputs given; needed: {', '.join(self.input_names)}")
        values: dict[str, torch.Tensor] = dict(zip(self.input_names, inputs))
        buffers = {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        for index, (op, names, output, attrs) in enumerate(self._steps):
            host = _HOST_INPUTS.get(op, ())
            arguments = [
                None if not n else values[n] if n in values else self._host[n] if position in host else buffers[n]
                for position, n in enumerate(names)
            ]
            values[output] = OPS[op](arguments, attrs)
            for name in self._free[index]:
                values.pop(name, None)
        return tuple(values[n] for n in self.output_names)


class StyleFeatures(torch.nn.Module):
    """Multi-scale features of a small style network, as a loss that may be shipped with MIT weights.

    The network is the style predictor of Magenta's arbitrary style transfer (a MobileNetV2 trained
    to describe the style of a picture, Apache-2.0; Ghiasi et al., arXiv 1705.06830), read as floats.
    Its input is RGB in 0..1. Features are taken after the linear bottlenecks, at strides 2, 4, 8,
    16 and 32, and divided by their spread about each channel's mean (measured on 24 photos at 384 x
    384), so that every depth weighs alike.

    Args:
        path: arbitrary_predict.onnx.
        depths: how many depths to return, 1 to 5, shallow ones first.
    """

    # value in the graph, spread over photos
    TAPS = (
        ("MobilenetV2/expanded_conv/project/BatchNorm/FusedBatchNormV3_prequant", 2.03),
        ("MobilenetV2/expanded_conv_2/add_prequant", 3.02),
        ("MobilenetV2/expanded_conv_5/add_prequant", 3.0),
        ("MobilenetV2/expanded_conv_12/add_prequant", 2.77),
        ("MobilenetV2/expanded_conv_16/project/BatchNorm/FusedBatchNormV3_prequant", 2.39),
    )

    def __init__(self, path: str | Path, depths: int = 5) -> None:
        super().__init__()
        if not 1 <= depths <= len(self.TAPS):
            raise MirageError(f"depths={depths}; allowed: 1 to {len(self.TAPS)}")
        taps = self.TAPS[:depths]
        self.net = OnnxModule(path, outputs=[name for name, _ in taps])
        self.scales = [scale for _, scale in taps]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x [B, 3, H, W] in 0..1 -> features [B, C, H/s, W/s], s = 2, 4, 8, 16, 32."""
        features = self.net(x.permute(0, 2, 3, 1))
        return [f / scale for f, scale in zip(features, self.scales)]
