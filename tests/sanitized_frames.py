"""Run small frames through the whole-frame plan, for compute-sanitizer: frames, width, height as arguments.

What torch computes before the first frame (constants of the network, the conditioning) is computed on the CPU,
since racecheck cannot run the convolutions of cuDNN; of CUDA there remain the plan's kernels and copies.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from mirage_cli.engine.reference import Nv12
from mirage_cli.lsd.plan_painter import PlanPainter
from mirage_cli.stream.families import open_model
from mirage_cli.stream.session import Session

LIBRARIES = {F.conv2d, torch.conv2d, F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.einsum}


class OnTheCpu(TorchFunctionMode):
    """Runs what NVIDIA's libraries would do on the CPU, in fp32, and brings the result back."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function not in LIBRARIES:
            return function(*args, **kwargs)

        def moved(value):
            return value.detach().cpu().float() if isinstance(value, torch.Tensor) else value

        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        result = function(*map(moved, args), **{name: moved(value) for name, value in kwargs.items()})
        return result.to(tensors[0].device, tensors[0].dtype)


if __name__ == "__main__":
    count, width, height = (int(word) for word in sys.argv[1:4])
    model = open_model("lsd-small", device="cuda")
    with OnTheCpu():
        session = Session(model, width=width, height=height, backend="ptx", guard=False, nv12=Nv12())
        session.set_look({"starry-night": 1.0})
    painter = session.painter
    assert isinstance(painter, PlanPainter), painter.reason
    painter.plan.plan.use_pdl(False)  # one after another: the tools do not know of PDL
    torch.manual_seed(0)
    frames = [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda") for _ in range(4)]
    frames += [frames[0].roll(shift, 1).contiguous() for shift in range(1, 5)]  # cuts, then motion
    with torch.inference_mode():
        for number in range(count):
            painter.plan.run(frames[number % len(frames)])
        session.runner.frame.function(torch.randint(0, 256, session.frame_shape, dtype=torch.uint8, device="cuda"))
        torch.cuda.synchronize()
    print(f"{count} frames, flags {painter.plan.flags.tolist()}")
