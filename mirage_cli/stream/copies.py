"""Copies to and from the GPU on side streams: the next frame goes up and the last one comes down while a frame
is made.

    upload = session.copies.upload(rgb)      # in any thread
    pending = session.step_later(upload)     # in the model's thread; the frame that session.step would make
    rgb = pending.picture()                  # in any thread; waits for the copy alone

Each direction has a stream of its own. Pinned memory comes from torch's cache, so nothing is allocated once a
few frames have passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


class Pending:
    """A finished frame, whose copy to the host may still be under way.

    Attributes:
        on_device: the frame on the device, where it is kept there: uint8, as the session's frames.
    """

    def __init__(self, fetch: Callable[[], np.ndarray], on_device: Tensor | None = None) -> None:
        self._fetch = fetch
        self._picture: np.ndarray | None = None
        self.on_device = on_device

    @classmethod
    def ready(cls, picture: np.ndarray) -> Pending:
        """A frame that is on the host already."""
        return cls(lambda: picture)

    def picture(self) -> np.ndarray:
        """The frame on the host; waits for the copy the first time."""
        if self._picture is None:
            self._picture = self._fetch()
        return self._picture


@dataclass(frozen=True)
class Upload:
    """A frame on its way to the device.

    Attributes:
        picture: the same on the host.
        tensor: on the device, whole once ``ready`` has happened.
    """

    picture: np.ndarray
    tensor: Tensor
    ready: torch.cuda.Event

    def arrived(self) -> Tensor:
        """The tensor, for work queued on the current stream from now on."""
        stream = torch.cuda.current_stream(self.tensor.device)
        stream.wait_event(self.ready)
        self.tensor.record_stream(stream)  # its memory is not taken for another frame before
        return self.tensor


class Copies:
    """The two side streams of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def upload(self, picture: np.ndarray) -> Upload:
        """Begin to copy a frame to the device; returns at once."""
        pinned = torch.empty(picture.shape, dtype=torch.uint8, pin_memory=True)
        pinned.numpy()[:] = picture
        with torch.cuda.stream(self._up):
            tensor = pinned.to(self.device, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(self._up)
        return Upload(picture, tensor, ready)

    def download(self, static: Tensor) -> Pending:
        """Begin to copy what the current stream leaves in a buffer that the next frame overwrites."""
        kept = static.clone()
        stream = torch.cuda.current_stream(self.device)
        finished = torch.cuda.Event()
        finished.record(stream)
        pinned = torch.empty(static.shape, dtype=torch.uint8, pin_memory=True)
        with torch.cuda.stream(self._down):
            self._down.wait_event(finished)
            pinned.copy_(kept, non_blocking=True)
            kept.record_stream(self._down)
            done = torch.cuda.Event()
            done.record(self._down)

        def fetch() -> np.ndarray:
            done.synchronize()
            return pinned.numpy()

        return Pending(fetch, kept)
