"""What comes before the network in a plan: the incoming frame's cells, motion, the warped past, and what is carried on.

The kernels are motion.cu's. They compute what ``History.warped_to`` and ``History.advance`` do in torch.
"""

from __future__ import annotations

import ctypes

import torch

from mirage_cli.engine.plan import Plan
from mirage_cli.lsd.history import History
from mirage_cli.lsd.model import CELL_PIXELS, OLDER_CHANNELS, SEEN_CHANNELS, UNSHUFFLE
from mirage_cli.stream.motion import COARSE, CUT_THRESHOLD, STEPS

SCALES = tuple(2**level for level in range(1, len(STEPS) + 1))  # of the luma pyramid: 1/2, 1/4, 1/8, 1/16
FRAME_TILE = (16, 64)  # rows and columns of pixels a block of ingest and warp_past makes
FLOW_TILE = (8, 32)  # of vectors, a block of refine, spread and moves
MATCH_TILE = (4, 4)  # of coarse cells, a block of block_match
CARRIED_CELLS = 64  # a block of carry


def tiles(size: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    """A grid, columns first, that covers rows and columns."""
    return -(-size[1] // tile[1]), -(-size[0] // tile[0])


class MotionPlan:
    """Buffers and launches; made before the network's.

    Attributes:
        cells: the network's input [cells, SEEN_CHANNELS] but for the noise: the incoming frame, the warped last one,
            the warped luma of the last incoming one, unshuffled. older_cells: the warped older frames at half
            size, unshuffled too.
        warped_last: the warped last frame, fp32 [3, H, W]; warped_older: that of the two older ones which is kept.
        pyramid, previous_pyramid: luma at ``SCALES`` of the incoming frame and of the one before, one after another.
        flow: what the past is warped by, fp32 [2, pixels of half size].
        flags: int32 [4]: there is a past, the input cuts, all is finite, blocks that are done.

    Args:
        history: read and written in place; its tensors are padded.
        size: height and width of the frames in and out, not padded.
        rgb: address of the incoming frame, set before each run.
    """

    def __init__(self, plan: Plan, history: History, size: tuple[int, int], rgb: ctypes.c_void_p) -> None:
        self.plan, self.history, self.size, self.rgb = plan, history, size, rgb
        height, width = self.padded = (history.last.shape[-2], history.last.shape[-1])
        self.sizes = [(height // scale, width // scale) for scale in SCALES]
        self._allocate()
        self._ingest()
        self._estimate()
        self._warp()
        self._carry()

    def _allocate(self) -> None:
        height, width = self.padded
        buffer, fp32 = self.plan.buffer, torch.float32
        self.cells = buffer(height * width // CELL_PIXELS, SEEN_CHANNELS)
        self.older_cells = buffer(height * width // (4 * CELL_PIXELS), OLDER_CHANNELS)
        self.warped_last = buffer(3, height, width, dtype=fp32)
        self.warped_older = buffer(3, height // 2, width // 2, dtype=fp32)
        levels = [h * w for h, w in self.sizes]
        self.level_starts = [sum(levels[:level]) for level in range(len(levels))]  # in a pyramid
        self.pyramid = buffer(sum(levels), dtype=fp32)
        self.previous_pyramid = buffer(sum(levels), dtype=fp32)
        self.warped_coarse = buffer(levels[-1], dtype=fp32)
        # Each step has buffers of its own: with PDL, kernels may read through caches that are not coherent.
        refined = [n for n, steps in zip(reversed(levels), STEPS) for _ in range(steps)]
        self.matched = buffer(2, levels[-1], dtype=fp32)
        self.weighted = [buffer(3, n, dtype=fp32) for n in refined]  # vectors times their confidence, and that
        self.flows = [buffer(2, n, dtype=fp32) for n in refined]
        self.flow = buffer(2, levels[0], dtype=fp32)
        self.flags = buffer(4, dtype=torch.int32)

    def _ingest(self) -> None:
        """The incoming frame as cells, and its pyramid."""
        self.plan.launch(
            self.plan.typed("mirage_ingest"),
            tiles(self.padded, FRAME_TILE),
            (self.rgb, self.cells, self.pyramid, self.flags, *self.size, *self.padded),
        )

    def _estimate(self) -> None:
        """Block matching, then Lucas-Kanade from coarse to fine; ``estimate_motion`` of stream/motion.py."""
        launch, previous, following = self.plan.launch, self.previous_pyramid, self.pyramid
        coarsest = len(SCALES) - 1
        at, size = self.level_starts[coarsest], self.sizes[coarsest]
        launch(
            "mirage_block_match",
            tiles(size, MATCH_TILE),
            (previous[at:], following[at:], self.matched, *size),
            block=1024,
        )
        flow, fields = self.matched, iter(zip(self.weighted, self.flows))
        for level, steps in zip(range(coarsest, -1, -1), STEPS):
            size, at = self.sizes[level], self.level_starts[level]
            grid = tiles(size, FLOW_TILE)
            for step in range(steps):
                coarser = step == 0 and level < coarsest
                weighted, refined = next(fields)
                launch(
                    "mirage_refine_from_coarser" if coarser else "mirage_refine",
                    grid,
                    (previous[at:], following[at:], flow, weighted, *size),
                )
                launch("mirage_spread", grid, (weighted, refined, *size))
                flow = refined
        size = self.sizes[0]
        launch("mirage_moves", tiles(size, FLOW_TILE), (previous, following, flow, self.flow, *size))

    def _warp(self) -> None:
        """The past along the flow, and whether the input cuts."""
        history, coarse = self.history, self.pyramid[self.level_starts[SCALES.index(COARSE)] :]
        self.plan.launch(
            self.plan.typed("mirage_warp_past"),
            tiles(self.padded, FRAME_TILE),
            (
                history.last,
                history.input_luma,
                history.older,
                self.flow,
                self.cells,
                self.older_cells,
                self.warped_last,
                self.warped_older,
                self.warped_coarse,
                coarse,
                history.valid,
                self.flags,
                CUT_THRESHOLD,
                *self.padded,
            ),
        )

    def _carry(self) -> None:
        """For the next frame, on the side stream: the older frames, this one's luma and its pyramid."""
        history, (height, width) = self.history, self.padded
        self.plan.launch(
            "mirage_carry",
            (-(-(height // UNSHUFFLE * (width // UNSHUFFLE)) // CARRIED_CELLS),),
            (
                self.rgb,
                self.warped_last,
                self.warped_older,
                self.pyramid,
                history.older,
                history.input_luma,
                self.previous_pyramid,
                self.flags,
                *self.size,
                *self.padded,
            ),
            side=True,
        )
