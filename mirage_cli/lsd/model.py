"""The causal denoiser: one network call turns noise, the new frame and the past into a frame.

A U-Net on 4x4 pixel-unshuffled frames. What it sees at 1/4 of the frame's resolution:

    x_t        48  the noised target (flow matching, Lipman et al., arXiv 2210.02747)
    I(i+1)     48  the incoming frame
    F(i)       48  the last generated frame, warped along the motion from I(i) to I(i+1)
    I(i)       16  luma of the last incoming frame, warped the same way: where it differs, motion failed
    positions   8  pixel-block parities and coordinates, for looks that are bound to the screen

and at 1/8: F(i-1) and F(i-2) at half size, warped the same way, 48 each. Every generated frame comes with its
own noise level (Diffusion Forcing, Chen et al., arXiv 2407.01392). The prompt arrives as a mixture of
look vectors, and together with the flow time t, the step size d (shortcut models, Frans et al.,
arXiv 2410.12557), the history levels and the strength it modulates every block. At 1/16 the network
attends to the context memory bank.

It predicts the clean frame and, a pixel, how much of the warped F(i) to keep.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mirage_cli.lsd.layers import BlockOps, MemoryAttention, ResBlock, fourier_features

UNSHUFFLE = 4
FRAME_MULTIPLE = 16  # frames are padded to a multiple of this: unshuffle 4, then two halvings
CELL_PIXELS = UNSHUFFLE**2  # 16: channels of one plane, unshuffled
PICTURE_CHANNELS = 3 * CELL_PIXELS  # 48: of a picture
SEEN_CHANNELS = 2 * PICTURE_CHANNELS + CELL_PIXELS  # 112: I(i+1), the warped F(i) and luma of I(i)
OLDER_CHANNELS = 2 * PICTURE_CHANNELS  # 96: the warped F(i-1) and F(i-2)
POSITION_CHANNELS = 8
KEEP_OFFSET = 2.0  # the keep mask is the sigmoid of what the network says, less this
LUMA_RED, LUMA_GREEN, LUMA_BLUE = 0.299, 0.587, 0.114  # BT.601


@dataclass(frozen=True)
class LSDConfig:
    """Sizes of a denoiser; everything else is the same for all models.

    Attributes:
        looks: names of the looks, in the order of the look table.
        widths: channels at 1/4, 1/8 and 1/16 of the frame.
        encoder_blocks, middle_blocks, decoder_blocks: residual blocks; the encoder's and decoder's
            first number is for 1/4, the second for 1/8.
        memory_slots: frames held by the memory bank, anchors included.
        memory_anchors: of these, slots that are written once and never leave.
        memory_grid: tokens (rows, columns) kept of a frame.
        keep_limit: the most of F(i) that a pixel may keep; below one, so that errors fade.
        history_levels: noise on F(i), F(i-1) and F(i-2) that the network is conditioned on at run time, 0 to 1, though
            there is none: the higher, the less it builds on what it made itself (Diffusion Forcing, arXiv
            2407.01392).
    """

    looks: tuple[str, ...]
    widths: tuple[int, int, int] = (64, 128, 256)
    encoder_blocks: tuple[int, int] = (1, 2)
    middle_blocks: int = 4
    decoder_blocks: tuple[int, int] = (3, 2)
    look_width: int = 128
    condition_width: int = 256
    memory_slots: int = 6
    memory_anchors: int = 2
    memory_grid: tuple[int, int] = (6, 8)
    keep_limit: float = 0.9
    history_levels: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to_dict(self) -> dict:
        """Plain data for config.json."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict) -> LSDConfig:
        """The inverse of ``to_dict``; unknown keys are refused with ValueError."""
        known = {f.name for f in fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        config = cls(**values)
        if config.memory_slots <= config.memory_anchors:
            raise ValueError(
                f"memory_slots {config.memory_slots}; allowed: more than memory_anchors, {config.memory_anchors}"
            )
        return config

    @property
    def memory_tokens(self) -> int:
        """Tokens in the bank: slots * rows * columns."""
        return self.memory_slots * self.memory_grid[0] * self.memory_grid[1]


class Past(NamedTuple):
    """What the denoiser is given of the past, already warped to where things are in I(i+1).

    Attributes:
        last: F(i), [B, 3, H, W] in [-1, 1].
        older: F(i-1) and F(i-2) at half size, [B, 6, H/2, W/2].
        input_luma: luma of I(i), [B, 1, H, W].
        memory: the bank's tokens, [B, M, C].
        valid: 1 where there is a past, 0 after a reset, [B].
    """

    last: Tensor
    older: Tensor
    input_luma: Tensor
    memory: Tensor
    valid: Tensor


class Prediction(NamedTuple):
    """Clean frame [B, 3, H, W], keep mask [B, 1, H, W] in [0, keep_limit], memory tokens [B, m, C]."""

    frame: Tensor
    keep: Tensor
    tokens: Tensor


def luma(rgb: Tensor) -> Tensor:
    """BT.601 luma of [B, 3, H, W] -> [B, 1, H, W], same range."""
    return LUMA_RED * rgb[:, 0:1] + LUMA_GREEN * rgb[:, 1:2] + LUMA_BLUE * rgb[:, 2:3]


def position_channels(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Where a 4x4 block lies on the screen: [1, 8, height/4, width/4].

    Parities of the blocks of 4, 8 and 16 pixels (columns, rows), then coordinates in [-1, 1].
    """
    rows = torch.arange(height // UNSHUFFLE, device=device)
    columns = torch.arange(width // UNSHUFFLE, device=device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    parities = [((axis >> shift) & 1) * 2.0 - 1.0 for shift in (0, 1, 2) for axis in (x, y)]
    coordinates = [(2 * x + 1) / len(columns) - 1, (2 * y + 1) / len(rows) - 1]
    return torch.stack(parities + coordinates)[None].float()


def _on_cells(pictures: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution of pixel-unshuffled pictures.

    [B, C, H, W] and weight [c, 16 C, 1, 1] -> [B, c, H/4, W/4] in channels_last.
    """
    if pictures.is_cuda:
        cells = F.pixel_unshuffle(pictures, UNSHUFFLE).contiguous(memory_format=torch.channels_last)
        return F.conv2d(cells, weight, bias)
    # the same sums as one convolution of stride 4, which spares a CPU the reordering of all pixels
    patches = weight.reshape(len(weight), -1, UNSHUFFLE, UNSHUFFLE).contiguous(memory_format=torch.channels_last)
    return F.conv2d(pictures, patches, bias, stride=UNSHUFFLE)


def _double_and_join(layer: nn.Conv2d, x: Tensor, skip: Tensor, ops: BlockOps | None = None) -> Tensor:
    """``layer``, a 1x1 convolution, of x doubled in size (nearest) and joined with the skip connection.

    x [B, C1, h, w], skip [B, C2, 2h, 2w] -> [B, c, 2h, 2w].
    """
    if ops is not None:
        return layer(ops.upsample_concat(x, skip))
    # doubling after the convolution instead of before: a quarter of the work, and nothing to concatenate
    channels = x.shape[1]
    small = F.conv2d(x, layer.weight[:, :channels])
    of_skip = F.conv2d(skip, layer.weight[:, channels:], layer.bias)
    return of_skip + F.interpolate(small, scale_factor=2, mode="nearest")


class LSDNet(nn.Module):
    """The denoiser. ``modulation`` once a prompt, ``forward`` once a step and frame.

    Attributes:
        recompute: True keeps only the input of each residual block for the backward pass and computes
            the block again there: less memory for more time (gradient checkpointing, Chen et al.,
            arXiv 1604.06174). Without gradients it changes nothing.
    """

    def __init__(self, config: LSDConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        c0, c1, c2 = config.widths
        self.look_table = nn.Embedding(len(config.looks), config.look_width)
        scalars = 6  # t, d, three history levels, strength
        self.condition = nn.Sequential(
            nn.Linear(config.look_width + scalars * 16, config.condition_width),
            nn.SiLU(),
            nn.Linear(config.condition_width, config.condition_width),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(PICTURE_CHANNELS + SEEN_CHANNELS + POSITION_CHANNELS, c0, 1)
        self.encoder0 = nn.ModuleList(ResBlock(c0) for _ in range(config.encoder_blocks[0]))
        self.down0 = nn.Conv2d(c0, c1, 3, stride=2, padding=1)
        self.older = nn.Conv2d(OLDER_CHANNELS, c1, 1)
        self.encoder1 = nn.ModuleList(ResBlock(c1) for _ in range(config.encoder_blocks[1]))
        self.down1 = nn.Conv2d(c1, c2, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(ResBlock(c2) for _ in range(config.middle_blocks))
        self.attention = MemoryAttention(c2)
        self.memory_null = nn.Parameter(torch.zeros(1, 1, c2))
        self.up1 = nn.Conv2d(c2 + c1, c1, 1)
        self.decoder1 = nn.ModuleList(ResBlock(c1) for _ in range(config.decoder_blocks[1]))
        self.up0 = nn.Conv2d(c1 + c0, c0, 1)
        self.decoder0 = nn.ModuleList(ResBlock(c0) for _ in range(config.decoder_blocks[0]))
        self.out = nn.Conv2d(c0, PICTURE_CHANNELS + CELL_PIXELS, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        self.modulate = nn.Linear(config.condition_width, sum(b.film_width for b in self.blocks()))
        nn.init.normal_(self.modulate.weight, std=0.02)
        nn.init.zeros_(self.modulate.bias)

    def blocks(self) -> list[ResBlock]:
        """All residual blocks, in the order in which ``forward`` runs them."""
        stages = (self.encoder0, self.encoder1, self.middle, self.decoder1, self.decoder0)
        return [block for stage in stages for block in stage if isinstance(block, ResBlock)]

    def look_vector(self, weights: Tensor) -> Tensor:
        """Mixture of looks [B, number of looks], each row summing to one -> [B, look_width]."""
        return weights @ self.look_table.weight

    def modulation(self, look: Tensor, t: Tensor, d: Tensor, levels: Tensor, strength: Tensor) -> Tensor:
        """Conditioning of all blocks, constant while prompt, step and levels are: [B, sum of film widths].

        Args:
            look: [B, look_width] from ``look_vector``.
            t, d: flow time and step size in [0, 1], [B].
            levels: noise level in [0, 1] of F(i), F(i-1), F(i-2), [B, 3]; 1 is "no such frame".
            strength: [B] in [0, 1].
        """
        scalars = torch.cat((t[:, None], d[:, None], levels, strength[:, None]), dim=1)
        features = fourier_features(scalars).to(look.dtype)
        return self.modulate(self.condition(torch.cat((look, features), dim=1)))

    def condition_levels(self, batch: int, has_past: bool) -> Tensor:
        """Noise levels of F(i), F(i-1), F(i-2) to condition on at run time: [B, 3], all 1 without a past."""
        levels = self.config.history_levels if has_past else (1.0, 1.0, 1.0)
        return torch.tensor([levels], dtype=torch.float32, device=self.memory_null.device).repeat(batch, 1)

    def empty_memory(self, batch: int) -> Tensor:
        """A bank that holds nothing: [B, M, C] of the null token."""
        return self.memory_null.expand(batch, self.config.memory_tokens, -1)

    def stem_constant(self, x_t: Tensor, positions: Tensor) -> Tensor:
        """What the stem makes of x_t and the position channels, its bias included: [B, c0, H/4, W/4].

        With one step x_t is the stream's noise, the same in each frame: a ``Session`` computes this once.
        """
        weight = self.stem.weight
        noise = _on_cells(x_t.to(weight.dtype), weight[:, :PICTURE_CHANNELS], self.stem.bias)
        return noise + F.conv2d(positions.to(weight.dtype), weight[:, -POSITION_CHANNELS:])

    def forward(
        self,
        x_t: Tensor,
        frame: Tensor,
        past: Past,
        positions: Tensor,
        modulation: Tensor,
        ops: BlockOps | None = None,
        constant: Tensor | None = None,
    ) -> Prediction:
        """Predict the clean frame.

        Args:
            x_t: [B, 3, H, W]; frame: I(i+1), [B, 3, H, W], both in [-1, 1]; H, W multiples of 16. These
                and the past may have a wider type than the weights; the result has theirs.
            past: see ``Past``.
            positions: ``position_channels``, [1 or B, 8, H/4, W/4].
            modulation: from ``modulation``.
            ops: an ``engine.ops.OpSet`` that does norms, sums and upsampling of one picture (batch 1),
                or None for torch.
            constant: ``stem_constant(x_t, positions)``, where the caller has it already.
        """
        dtype = self.stem.weight.dtype
        if constant is None:
            constant = self.stem_constant(x_t, positions)
        films = iter(modulation.split([b.film_width for b in self.blocks()], dim=1))
        again = self.recompute and torch.is_grad_enabled()

        def run(stage: nn.ModuleList, x: Tensor) -> Tensor:
            for block in stage:
                if again:
                    x = checkpoint(block, x, next(films), ops, use_reentrant=False, preserve_rng_state=False)
                else:
                    x = block(x, next(films), ops)
            return x

        pictures = torch.cat([x.to(dtype) for x in (frame, past.last, past.input_luma)], dim=1)
        seen = self.stem.weight[:, PICTURE_CHANNELS:-POSITION_CHANNELS]
        skip0 = run(self.encoder0, _on_cells(pictures, seen) + constant)
        older = _on_cells(past.older.to(dtype), self.older.weight, self.older.bias)
        skip1 = run(self.encoder1, self.down0(skip0) + older)
        x = self.down1(skip1)
        half = len(self.middle) // 2
        x = run(self.middle[:half], x)
        x = self.attention(x, past.memory)
        x = run(self.middle[half:], x)
        tokens = F.adaptive_avg_pool2d(x, self.config.memory_grid).flatten(2).transpose(1, 2)
        x = _double_and_join(self.up1, x, skip1, ops)
        x = run(self.decoder1, x)
        x = _double_and_join(self.up0, x, skip0, ops)
        return self.finish(self.out(run(self.decoder0, x)), frame, past, tokens)

    def finish(self, x: Tensor, frame: Tensor, past: Past, tokens: Tensor) -> Prediction:
        """The last layer's result [B, 64, H/4, W/4] as a prediction."""
        x = F.pixel_shuffle(x, UNSHUFFLE).to(frame.dtype)  # the frame is added unrounded
        keep = torch.sigmoid(x[:, 3:] - KEEP_OFFSET) * (self.config.keep_limit * past.valid)[:, None, None, None]
        return Prediction(x[:, :3] + frame, keep.to(frame.dtype), tokens)
