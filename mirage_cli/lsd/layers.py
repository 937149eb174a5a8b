"""Building blocks of the denoiser. All feature maps are channels_last: [B, C, H, W] in NHWC memory.

Normalisation is over the channels of one pixel, never over the picture: a frame's statistics then
cannot flicker into its neighbours, results do not depend on the picture's size, and a kernel needs
one warp a pixel and no second pass.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class BlockOps(Protocol):
    """Operations of one picture (batch 1) that a block can leave to hand-written kernels; engine/reference.py says
    what each does."""

    def channel_norm_film_silu(self, x: Tensor, scale: Tensor, shift: Tensor, *, normalise: bool = True) -> Tensor: ...

    def residual_add(self, x: Tensor, residual: Tensor) -> Tensor: ...

    def upsample_concat(self, x: Tensor, skip: Tensor) -> Tensor: ...


def in_memory_order(net: Net, order: torch.memory_format) -> Net:
    """The network with its convolutions' weights in another order, channels_last for one; changed in place."""
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=order)
    return net


def channel_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer norm over channels, no affine (Ba et al., arXiv 1607.06450). [B, C, H, W] -> same."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=eps).permute(0, 3, 1, 2)


def film(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Feature-wise modulation, x * scale + shift (Perez et al., arXiv 1709.07871).

    x [B, C, H, W]; scale and shift [B, C], the scale already around one; ``out`` may be x.
    """
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None], out=out)


def fourier_features(values: Tensor, octaves: int = 8) -> Tensor:
    """Sines and cosines of scalars in [0, 1]: [B, N] -> [B, N * 2 * octaves]."""
    frequency = math.pi * 2.0 ** torch.arange(octaves, device=values.device, dtype=torch.float32) / 4
    angle = values.float()[:, :, None] * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1).flatten(1)


class ResBlock(nn.Module):
    """Pre-activation residual block; the look enters at both activations through ``film``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    @property
    def film_width(self) -> int:
        """Numbers a frame needs from the conditioning: two scales and two shifts a channel."""
        return 4 * self.channels

    def forward(self, x: Tensor, modulation: Tensor, ops: BlockOps | None = None) -> Tensor:
        """x [B, C, H, W], modulation [B, 4C] -> [B, C, H, W]; ``ops`` as in ``LSDNet.forward``."""
        scale1, shift1, scale2, shift2 = modulation.chunk(4, dim=1)
        if ops is not None:
            h = ops.channel_norm_film_silu(x, scale1[0], shift1[0])
            h = ops.channel_norm_film_silu(self.conv1(h), scale2[0], shift2[0], normalise=False)
            return ops.residual_add(self.conv2(h), x)
        # memory, not arithmetic, is what a CPU waits for; torch.compile fuses what it is given, and cannot take out=
        inplace = not (torch.is_grad_enabled() or torch.compiler.is_compiling())

        def activated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return F.silu(film(h, 1 + scale, shift, out=h if inplace else None), inplace=inplace)

        h = activated(channel_norm(x), scale1, shift1)
        h = self.conv2(activated(self.conv1(h), scale2, shift2))
        return h.add_(x) if inplace else h + x


FEW_TOKENS = 4096
"""Up to this many tokens of the picture (1024x1024 pixels) the full attention matrix is materialised on a CPU."""


class MemoryAttention(nn.Module):
    """Self-attention over the picture's tokens and the context memory bank in one pass.

    Queries come from the picture; keys and values from the picture and the bank, so that an empty
    bank (null tokens) costs nothing in quality and its size never changes the shapes.
    """

    def __init__(self, channels: int, head_width: int = 64) -> None:
        super().__init__()
        if channels % head_width:
            raise ValueError(f"channels {channels} is not a multiple of the head width {head_width}")
        self.heads = channels // head_width
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x [B, C, H, W], memory [B, M, C] -> [B, C, H, W]."""
        batch, channels, height, width = x.shape
        tokens = F.layer_norm(x.permute(0, 2, 3, 1).reshape(batch, height * width, channels), (channels,))
        context = torch.cat((tokens, F.layer_norm(memory.to(tokens.dtype), (channels,))), dim=1)
        q = self.query(tokens)
        k, v = self.key_value(context).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if x.is_cuda or tokens.shape[1] > FEW_TOKENS:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:  # half the time of torch's blockwise attention on CPUs, at these few tokens
            mixed = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2), dim=-1) @ v
        mixed = mixed.transpose(1, 2).flatten(2)
        return x + self.out(mixed).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
