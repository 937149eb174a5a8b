"""Run small frames through the whole-frame program, for compute-sanitizer: frames, width, height as arguments."""

from __future__ import annotations

import sys

import torch

from mirage_cli.lsd.checkpoint import load_bundle
from mirage_cli.lsd.stream import Session

if __name__ == "__main__":
    count, width, height = (int(word) for word in sys.argv[1:4])
    session = Session(load_bundle("lsd-small", device="cuda"), width=width, height=height, backend="ptx", guard=False)
    session.set_look({"starry-night": 1.0})
    assert session.program is not None
    for launch in session.program.launches:  # one after another: the tools do not know of early starts
        launch.early_start = False
    torch.manual_seed(0)
    frames = [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda") for _ in range(4)]
    frames += [frames[0].roll(shift, 1).contiguous() for shift in range(1, 5)]  # cuts, then motion
    with torch.inference_mode():
        for number in range(count):
            session.program.run(frames[number % len(frames)])
        torch.cuda.synchronize()
    print(f"{count} frames, flags {session.program.flags.tolist()}")
