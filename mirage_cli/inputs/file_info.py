"""What is asked of a file of video, and what is known of it before its first frame is given."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mirage_cli.errors import UsageProblem
from mirage_cli.frames import MEDIA_MAX_SIDE, StreamInfo
from mirage_cli.media.ffmpeg import rational_rate
from mirage_cli.media.probe import MediaProbe, PacketScan, VideoTrack, exact_rate


@dataclass(frozen=True, slots=True)
class FileRequest:
    """Which frames of a file are wanted, and how.

    Attributes:
        size: (width, height) to scale to in pixels; None keeps the file's own.
        start_seconds, duration_seconds: the range, from the first frame of the file; None is all that follows.
        fps: the constant rate to resample to; None keeps all frames.
    """

    size: tuple[int, int] | None = None
    start_seconds: float = 0.0
    duration_seconds: float | None = None
    fps: float | None = None

    @property
    def end_seconds(self) -> float | None:
        return None if self.duration_seconds is None else self.start_seconds + self.duration_seconds

    def check(self) -> None:
        """Raises:
        UsageProblem: a value that is not allowed.
        """
        size, start, duration, fps = self.size, self.start_seconds, self.duration_seconds, self.fps
        if size is not None and not all(1 <= side <= MEDIA_MAX_SIDE for side in size):
            raise UsageProblem(
                f"size {size[0]}x{size[1]} is not allowed: each side is 1 to {MEDIA_MAX_SIDE} pixels",
                "give a size such as 768x432",
            )
        if not 0.0 <= start < 1e7:
            raise UsageProblem(f"start {start:g} s is not allowed: 0 or more", "give --start 1.5")
        if duration is not None and not 0.0 < duration < 1e7:
            raise UsageProblem(f"duration {duration:g} s is not allowed: more than 0", "give --duration 10")
        if fps is not None and not 0.01 <= fps <= 1000.0:
            raise UsageProblem(f"{fps:g} frames a second are not allowed: 0.01 to 1000", "give --fps 30")


def describe(
    name: str,
    probe: MediaProbe,
    video: VideoTrack,
    scan: PacketScan | None,
    request: FileRequest,
    *,
    size: tuple[int, int],
    sample_aspect: tuple[int, int],
) -> StreamInfo:
    """What the frames of a file will be.

    Args:
        name: for people.
        scan: the times of all its pictures, where they were listed.
        size, sample_aspect: of the pictures as they are decoded.
    """
    start, duration, fps = request.start_seconds, request.duration_seconds, request.fps
    rate = rational_rate(fps) if fps else exact_rate(video, scan)
    length = probe.duration_seconds
    if length is not None:
        length = max(length - start, 0.0)
    if scan is not None and scan.frame_count:
        length = scan.end_seconds - scan.first_seconds
        if scan.variable_rate and not fps and length > 0:
            rate = Fraction(scan.frame_count / length).limit_denominator(1001)
    if duration is not None:
        length = min(length, duration) if length is not None else None
    count = scan.frame_count if scan and not fps else None
    if count is None and length is not None:
        count = max(1, round(length * rate))
    if scan is not None:
        variable = scan.variable_rate
    else:
        variable = bool(video.fps and video.base_rate and _differ(video.fps, video.base_rate))
    return StreamInfo(
        width=size[0],
        height=size[1],
        fps=float(rate) or 25.0,
        frame_count=count,
        duration_seconds=length,
        variable_rate=variable and not fps,
        has_audio=bool(probe.sound_tracks),
        name=name,
        pixel_aspect=_pixel_aspect(sample_aspect, video, request.size),
    )


def _differ(fps: Fraction, base: Fraction) -> bool:
    """Whether an average rate and the rate of the ticks are so far apart that the gaps between frames must differ."""
    return base < 1000 and abs(fps / base - 1) > 0.005


def _pixel_aspect(sample_aspect: tuple[int, int], video: VideoTrack, size: tuple[int, int] | None) -> tuple[int, int]:
    """The shape of a pixel after scaling; that a size was rounded to whole pixels does not change it."""
    num, den = sample_aspect
    if size is None:
        return num, den
    turned = round(video.rotation_degrees / 90.0) % 2 == 1
    width, height = (video.height, video.width) if turned else (video.width, video.height)
    own = Fraction(num, den) * size[0] * height / (size[1] * width)  # before scaling
    for plain in {Fraction(1), own.limit_denominator(100)}:
        if abs(float(own / plain) - 1) > 1e-3:
            continue
        exact_height = size[0] * height * plain / width / plain
        if abs(exact_height - size[1]) <= 1 or abs(Fraction(size[1] * width, height) - size[0]) <= 1:
            return plain.numerator, plain.denominator
    return num, den
