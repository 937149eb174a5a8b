"""The torch definition of every op: what the PTX kernels must equal, and what runs without them.

Read these first; ``ops.py`` has the same signatures. Feature maps are channels_last,
``[1, C, h, w]`` in NHWC memory, in fp32, fp16 or bf16; a channel slice of a wider buffer is fine.
Pictures live in *unshuffled* form, ``[1, 48, h, w]`` with h = H/4 and w = W/4: channel
``c * 16 + dy * 4 + dx`` of cell (y, x) is colour c of pixel (4y + dy, 4x + dx), the order of
``torch.nn.functional.pixel_unshuffle``. Values of pictures are in [-1, 1].

Every op fills ``out`` when it is given and returns it. Errors of shape are torch's own; ``ops.py``
checks what it hands to a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 4  # pixels a side that one cell of the network's grid holds
NORM_EPS = 1e-5
LUMA_WEIGHTS = (77, 150, 29)  # BT.601 luma in 1/256
STATS = ("luma", "luma_squared", "saturation", "gradient", "nan")  # order of frame_out's sums


def _filled(out: Tensor | None, value: Tensor, like: Tensor) -> Tensor:
    """``value`` in ``like``'s dtype: copied into ``out`` where there is one."""
    if out is not None:
        return out.copy_(value)
    return value.to(like.dtype).contiguous(memory_format=torch.channels_last)


def frame_in(rgb: Tensor, out: Tensor) -> Tensor:
    """uint8 picture -> [-1, 1] -> padded -> unshuffled, into a slice of the network's input.

    Args:
        rgb: uint8 [H, W, 3].
        out: [1, 48, h, w] with 4h >= H and 4w >= W. What the picture lacks is filled on the right
            and at the bottom by repeating its edge.
    """
    height, width, _ = rgb.shape
    pad = (0, CELL * out.shape[3] - width, 0, CELL * out.shape[2] - height)
    if min(pad) < 0:
        raise ValueError(f"a picture of {width}x{height} does not fit {tuple(out.shape)} cells of {CELL}x{CELL}")
    # rgb / 127.5 - 1, with one rounding and the same one on every device (a GPU divides by a constant
    # through its reciprocal, which would make 255 more than one)
    frame = (2 * rgb.permute(2, 0, 1)[None].float() - 255) * (1 / 255)
    if any(pad):
        frame = F.pad(frame, pad, mode="replicate")
    return out.copy_(F.pixel_unshuffle(frame, CELL))


def frame_out(
    x: Tensor,
    out: Tensor,
    *,
    base: Tensor | None = None,
    warped: Tensor | None = None,
    keep: Tensor | None = None,
    history: Tensor | None = None,
    stats: Tensor | None = None,
) -> Tensor:
    """Unshuffled frame -> consistency blend -> clamp -> uint8, with the drift guard's sums on the way.

    frame = x + base; frame += keep * (warped - frame); NaN becomes 0; clamp to [-1, 1];
    ``out`` = round-half-to-even((frame + 1) * 127.5), cropped to H x W. Computed in fp32.

    Args:
        x: [1, 48, h, w], the network's output.
        out: uint8 [H, W, 3] with H <= 4h and W <= 4w.
        base: [1, 48, h, w] to add, for networks that predict a difference.
        warped, keep: the last frame, moved, [1, 48, h, w], and how much of it to keep, [1, 16, h, w]
            (channel dy * 4 + dx), in [0, 1]; both or neither.
        history: [1, 48, h, w], filled with the clamped frame (padding included) for the next one.
        stats: int64 [5], filled with sums over the H x W pixels of ``out`` in levels of 255 (see
            ``STATS``): luma (77 R + 150 G + 29 B + 128) >> 8; its square; max(R, G, B) -
            min(R, G, B); absolute luma differences between horizontal neighbours of one cell; and
            the number of NaN values met. Integers, so that every order of summation agrees.
    """
    if (warped is None) != (keep is None):
        raise ValueError("frame_out blends with both warped and keep, or with neither")
    frame = x.float()
    if base is not None:
        frame = frame + base.float()
    if warped is not None and keep is not None:
        frame = frame + keep.float().repeat(1, 3, 1, 1) * (warped.float() - frame)
    nan = frame.isnan()
    frame = torch.where(nan, 0.0, frame).clamp(-1, 1)
    if history is not None:
        history.copy_(frame)
    height, width, _ = out.shape
    pixels = F.pixel_shuffle(frame, CELL)[0, :, :height, :width]
    levels = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    out.copy_(levels)
    if stats is not None:
        nan_values = F.pixel_shuffle(nan.float(), CELL)[0, :, :height, :width].sum(dtype=torch.float64)
        stats.copy_(torch.stack((*_picture_sums(levels.long()), nan_values.long())))
    return out


def _picture_sums(levels: Tensor) -> tuple[Tensor, ...]:
    """Luma, squared luma, saturation and gradient sums of int64 [H, W, 3] levels."""
    red, green, blue = LUMA_WEIGHTS
    luma = (red * levels[..., 0] + green * levels[..., 1] + blue * levels[..., 2] + 128) >> 8
    steps = (luma[:, 1:] - luma[:, :-1]).abs()
    inside = torch.arange(1, luma.shape[1], device=luma.device) % CELL != 0  # not across two cells
    saturation = levels.amax(2) - levels.amin(2)
    return luma.sum(), (luma * luma).sum(), saturation.sum(), (steps * inside).sum()


def channel_norm_film_silu(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    normalise: bool = True,
    activate: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """Layer norm over channels, feature-wise modulation, SiLU: the head of every residual block.

    silu(norm(x) * (1 + scale) + shift), norm without affine and with eps 1e-5 (Ba et al.,
    arXiv 1607.06450; Perez et al., arXiv 1709.07871).

    Args:
        x: [B, C, h, w].
        scale, shift: [C] or [B, C]; None is zero.
        normalise, activate: leave out the norm or the SiLU.
    """
    value = x
    if normalise:
        value = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=NORM_EPS).permute(0, 3, 1, 2)
    if scale is not None:
        value = value * (1 + scale).reshape(-1, x.shape[1], 1, 1)
    if shift is not None:
        value = value + shift.reshape(-1, x.shape[1], 1, 1)
    return _filled(out, F.silu(value) if activate else value, x)


def residual_add(
    x: Tensor, residual: Tensor, *, bias: Tensor | None = None, activate: bool = False, out: Tensor | None = None
) -> Tensor:
    """x + bias + residual, then SiLU if asked: [B, C, h, w], bias [C]."""
    value = x if bias is None else x + bias.reshape(1, -1, 1, 1)
    value = value + residual
    return _filled(out, F.silu(value) if activate else value, x)


def upsample_concat(x: Tensor, skip: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Nearest-neighbour doubling of x, concatenated with the skip connection.

    x [B, C1, h, w], skip [B, C2, 2h, 2w] -> [B, C1 + C2, 2h, 2w]
    """
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    return _filled(out, torch.cat((doubled, skip), dim=1), x)


@dataclass(frozen=True)
class Nv12:
    """How an NV12 frame codes colours: a luma plane, then half as many rows of U and V side by side.

    Attributes:
        matrix: "bt709" (HD) or "bt601" (SD): ITU-R BT.709-6 and BT.601-7, the weights of red and blue in luma.
        full_range: luma of 0 to 255 and chroma of 128 -+ 127.5, instead of 16 to 235 and 16 to 240.

    Raises:
        ValueError: another matrix.
    """

    matrix: str = "bt709"
    full_range: bool = False

    def __post_init__(self) -> None:
        if self.matrix not in NV12_MATRICES:
            raise ValueError(f"matrix {self.matrix!r}; allowed: {', '.join(NV12_MATRICES)}")

    @property
    def _ranges(self) -> tuple[int, float, float]:
        """Luma of black, levels from black to white, levels of chroma from end to end."""
        return (0, 255.0, 255.0) if self.full_range else (16, 219.0, 224.0)

    def to_rgb(self) -> tuple[int, ...]:
        """(offset, scale, red of V, green of U, green of V, blue of U), but for the offset in 1/65536."""
        red, blue = NV12_MATRICES[self.matrix]
        offset, luma, chroma = self._ranges
        green = 1 - red - blue
        of_v, of_u = 2 * (1 - red), 2 * (1 - blue)
        parts = (255 / luma, *(255 / chroma * part for part in (of_v, -blue * of_u / green, -red * of_v / green, of_u)))
        return (offset, *(round(65536 * part) for part in parts))

    def from_rgb(self) -> tuple[int, ...]:
        """(offset, luma's red, green, blue, U's, V's), but for the offset in 1/65536. Greens take the rounding, so
        that grey has no colour and white is white."""
        red, blue = NV12_MATRICES[self.matrix]
        offset, luma, chroma = self._ranges
        scale = round(65536 * luma / 255)
        y = round(scale * red), round(scale * blue)
        half = 65536 * chroma / 255 / 2
        u = round(-half * red / (1 - blue)), round(half)
        v = round(half), round(-half * blue / (1 - red))
        return (offset, y[0], scale - sum(y), y[1], u[0], -sum(u), u[1], v[0], -sum(v), v[1])


NV12_MATRICES = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}


def nv12_to_rgb(luma: Tensor, chroma: Tensor, code: Nv12, out: Tensor) -> Tensor:
    """An NV12 frame as RGB; four pixels share their chroma as it is.

    Args:
        luma: uint8 [H, W]; chroma: uint8 [ceil(H / 2), 2 ceil(W / 2)], U and V in turns; rows may be apart.
        out: uint8 [H, W, 3].
    """
    height, width = luma.shape
    offset, scale, *parts = code.to_rgb()
    pairs = chroma.int().reshape(chroma.shape[0], -1, 2) - 128
    u, v = (p.repeat_interleave(2, 0)[:height].repeat_interleave(2, 1)[:, :width] for p in pairs.unbind(2))
    grey = scale * (luma.int() - offset)
    colours = (grey + parts[0] * v, grey + parts[1] * u + parts[2] * v, grey + parts[3] * u)
    return out.copy_(torch.stack([(c + 32768) >> 16 for c in colours], dim=2).clamp(0, 255))


def rgb_to_nv12(rgb: Tensor, code: Nv12, luma: Tensor, chroma: Tensor) -> Tensor:
    """RGB as an NV12 frame, shapes as in ``nv12_to_rgb``; chroma is of the mean of four pixels, of which an odd
    side's last are doubled. Returns ``luma``."""
    height, width, _ = rgb.shape
    offset, *parts = code.from_rgb()
    levels = rgb.int()
    red, green, blue = levels.unbind(2)
    luma.copy_((offset + ((parts[0] * red + parts[1] * green + parts[2] * blue + 32768) >> 16)).clamp(0, 255))
    whole = torch.cat((levels, levels[-1:]), 0) if height % 2 else levels
    whole = torch.cat((whole, whole[:, -1:]), 1) if width % 2 else whole
    red, green, blue = (whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]).unbind(2)
    pairs = [128 + ((a * red + b * green + c * blue + (1 << 17)) >> 18) for a, b, c in (parts[3:6], parts[6:9])]
    chroma.copy_(torch.stack(pairs, dim=2).clamp(0, 255).reshape(chroma.shape))
    return luma
