"""What an output copies from its source besides pictures (sound, subtitles, fonts, tags, chapters), and the ffmpeg
commands that mux it with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ffmpeg

from mirage_cli.errors import MediaError
from mirage_cli.media.addresses import file_url
from mirage_cli.media.ffmpeg import FfmpegTool, pick_message, run_ffmpeg
from mirage_cli.media.formats import TEXT_SUBTITLES, Container
from mirage_cli.media.messages import disk_is_full
from mirage_cli.media.probe import MediaProbe, Timeline
from mirage_cli.media.tags import FileTags

SOUND_BITRATE = "192k"
COMMON_LAYOUTS = "aformat=channel_layouts=7.1|5.1|stereo|mono"


@dataclass(frozen=True, slots=True)
class SoundPlan:
    """Sound, subtitles and tags to mux with pictures whose first frame is at 0.

    Attributes:
        url: where it is read from.
        codecs: (index among the source's sound tracks, "copy" or an encoder).
        timeline: of the pictures, in the time stamps of ``url``.
        cut_start: leave out what comes before the first picture.
        end_seconds: time stamp at which the sound ends; None for its own end.
        subtitles: as ``codecs``, of the subtitle tracks.
        fonts: copy what is attached.
        tags: title, chapters and the like; None to keep none.
        common_layouts: what is encoded is brought to mono, stereo, 5.1 or 7.1, which every encoder takes.
        kept: ``url`` is a file to which the decoder copies the sound of a pipe; complete once the source is closed.
    """

    url: str
    codecs: tuple[tuple[int, str], ...]
    timeline: Timeline
    cut_start: bool
    end_seconds: float | None
    subtitles: tuple[tuple[int, str], ...] = ()
    fonts: bool = False
    tags: FileTags | None = None
    common_layouts: bool = False
    kept: bool = False

    @property
    def extras(self) -> bool:
        """Whether there is more than sound."""
        return bool(self.subtitles or self.fonts or self.tags)

    def without_extras(self) -> SoundPlan:
        """The sound alone."""
        return replace(self, subtitles=(), fonts=False, tags=None)

    def tags_text(self) -> bytes | None:
        """For ffmpeg's standard input, where the command of ``with_sound`` reads the tags."""
        if self.tags is None:
            return None
        line = self.timeline
        begin = line.first_frame_seconds if self.cut_start else line.zero_seconds
        return self.tags.text(line.zero_seconds, begin, self.end_seconds)

    def encoded_to(self, encoder: str) -> SoundPlan:
        """The same with no track copied."""
        return replace(self, codecs=tuple((index, encoder) for index, _ in self.codecs))

    def attempts(self, encoder: str) -> list[SoundPlan]:
        """What to ask of ffmpeg, one after the other: the sound as planned, encoded, encoded in common layouts; each
        with the extras and without."""
        sounds = [self]
        if any(codec == "copy" for _, codec in self.codecs):
            sounds.append(self.encoded_to(encoder))
        if self.codecs:
            sounds.append(replace(self.encoded_to(encoder), common_layouts=True))
        return [plan for sound in sounds for plan in ([sound, sound.without_extras()] if self.extras else [sound])]

    def later(self, seconds: float) -> SoundPlan:
        """The same for pictures that begin ``seconds`` after the source's first."""
        line = self.timeline
        moved = Timeline(line.zero_seconds + (seconds if self.cut_start else 0.0), line.first_frame_seconds + seconds)
        return replace(self, timeline=moved)

    def ending_at(self, pictures_seconds: float) -> SoundPlan:
        """The same, cut to the length of the pictures."""
        end = self.timeline.first_frame_seconds + pictures_seconds
        return replace(self, end_seconds=min(end, self.end_seconds or end))


def plan_subtitles(probe: MediaProbe, container: Container, warnings: list[str]) -> tuple[tuple[int, str], ...]:
    """(index, codec) of the subtitle tracks that the container can hold; a warning names the others."""
    plan: list[tuple[int, str]] = []
    left_out = []
    for index, codec in enumerate(probe.subtitle_codecs):
        if codec in container.subtitles_copied:
            plan.append((index, "copy"))
        elif codec in TEXT_SUBTITLES and container.subtitle_encoder:
            plan.append((index, container.subtitle_encoder))
        else:
            left_out.append(codec)
    if left_out:
        warnings.append(
            f"subtitles were left out ({', '.join(left_out)}), which this output cannot hold; a .mkv file can"
        )
    return tuple(plan)


def with_sound(pictures: Any, plan: SoundPlan, target: str, output_options: dict[str, Any]) -> list[str]:
    """The command that muxes pictures and all of the plan into ``target``.

    All times are those of the sound's file (-copyts) until the muxer subtracts the start. Tags are read from
    standard input: see ``SoundPlan.tags_text``.

    Args:
        pictures: an ffmpeg-python input made with ``picture_offset``'s itsoffset.
    """
    options: dict[str, Any] = {"vn": None}
    first = plan.timeline.first_frame_seconds
    if plan.cut_start:
        options.update(ss=f"{first - 0.0005:.6f}", seek_timestamp=1)
    sound = ffmpeg.input(plan.url, **options)
    settings = dict(output_options)
    for place, (_, codec) in enumerate(plan.codecs):
        settings[f"c:a:{place}"] = codec
        if codec != "copy":
            settings[f"b:a:{place}"] = SOUND_BITRATE
            if plan.common_layouts:
                settings[f"filter:a:{place}"] = COMMON_LAYOUTS
    if plan.cut_start:
        settings["copypriorss"] = 0
    if plan.end_seconds is not None:
        settings["t"] = f"{max(plan.end_seconds, first + 0.001):.6f}"
    settings["output_ts_offset"] = f"{-plan.timeline.zero_seconds:.6f}"
    tracks = [sound[f"a:{index}"] for index, _ in plan.codecs]
    for place, (index, codec) in enumerate(plan.subtitles):
        settings[f"c:s:{place}"] = codec
        tracks.append(sound[f"s:{index}"])
    if plan.fonts:
        settings["c:t"] = "copy"
        tracks.append(sound["t"])
    if plan.tags is None:
        settings["map_chapters"] = -1  # output_ts_offset does not apply to their times
        return ["-copyts", *ffmpeg.output(pictures, *tracks, target, **settings).get_args()]
    place = 2 if tracks else 1  # ffmpeg-python omits an input of which no track is mapped
    settings.update(map_metadata=place, map_chapters=place)
    command = ffmpeg.output(pictures, *tracks, target, **settings).get_args()
    begin = command.index("-map")
    return ["-copyts", *command[:begin], "-f", "ffmetadata", "-i", "pipe:0", *command[begin:]]


def picture_offset(plan: SoundPlan) -> dict[str, str]:
    """Input options that shift pictures from 0 to their place among the sound's time stamps."""
    return {"itsoffset": f"{plan.timeline.first_frame_seconds:.6f}"}


def add_sound(
    tool: FfmpegTool,
    plan: SoundPlan,
    pictures: tuple[str, dict[str, Any]],
    whole: Path,
    container: Container,
    warnings: list[str],
    explain: Callable[[str], MediaError],
) -> bool:
    """Write ``whole`` from finished pictures and the plan: all of it, or the first of the plan's attempts
    that ffmpeg does not refuse; at last without the tracks that it refuses.

    Args:
        pictures: the input that ffmpeg reads them from, and its options.
        whole: the file to write.
        warnings: gets sentences about what could not be kept.
        explain: makes the error of a full disk or a killed ffmpeg.

    Returns:
        False where not even the sound could be written: the pictures are kept without it.

    Raises:
        MediaError: the disk is full, or ffmpeg was ended.
    """
    settings = {"c:v": "copy", "f": container.muxer, **container.options}

    def refusal(attempt: SoundPlan) -> str | None:
        """Why ffmpeg did not write the attempt; None where it did."""
        source = ffmpeg.input(pictures[0], **pictures[1], **picture_offset(attempt))
        command = with_sound(source["v:0"], attempt, file_url(whole), settings)
        done = run_ffmpeg(
            tool, ["-y", "-nostats", "-loglevel", "warning", *command], timeout_s=None, feed=attempt.tags_text()
        )
        if done.returncode == 0:
            return None
        message = pick_message(done.stderr.decode("utf-8", "replace").splitlines())
        if disk_is_full([message]) or done.returncode < 0:
            raise explain(message)
        return message

    message = None
    for attempt in plan.attempts(container.sound_encoder):
        if not (attempt.codecs or attempt.extras):
            continue
        message, before = refusal(attempt), message
        if message is None:
            if plan.extras and not attempt.extras:
                warnings.append(f"subtitles and tags could not be written ({before})")
            return True
    if not plan.codecs:
        warnings.append(f"subtitles and tags could not be written ({message})")
        return False
    bare = plan.without_extras()
    written: tuple[tuple[int, str], ...] = ()
    for track in plan.codecs if len(plan.codecs) > 1 else ():
        for attempt in replace(bare, codecs=(track,)).attempts(container.sound_encoder):
            if refusal(attempt) is None:
                written += attempt.codecs
                break
    if written and refusal(replace(bare, codecs=written, common_layouts=True)) is None:
        lost = [str(number) for number, track in enumerate(plan.codecs, 1) if track[0] not in dict(written)]
        warnings.append(f"sound track {', '.join(lost)} could not be written ({message}); the others are there")
        return True
    warnings.append(f"the sound could not be written ({message}); the output is silent")
    return False
