"""The folder of a job that has not ended: what was asked for, which segments are complete, where to resume.

    out.mp4.part/
      job.json                    the request; a job is resumed only with the same one
      progress.json               the complete segments, in order, and the name of the state after them
      piece-00000.mp4             a segment: 250 frames, encoded
      state-000250.safetensors    the stream's state after them
      lock                        held by the mirage that writes

On disk a segment is called a piece, as it always was: a job can be resumed by another version. Every file is
written under another name, synced and renamed, so that the folder is consistent at any moment, whatever
happens to the process or the machine.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mirage_cli.errors import MediaError, MirageError, UsageProblem, reason_of, short

FORMAT = 1
START_OVER = "Give the same flags again, or start over with -y and without --resume."

SEGMENT_LIST = "pieces.txt"
"""The segments that are joined at the end, for ffmpeg."""

# All names that a job gives, half-written ones too. What is called otherwise is not ours to delete.
_OWN_NAMES = re.compile(
    r"lock|(job|progress)\.json(\.new)?|pieces\.txt|piece-\d{5,}\..+|state-\d{6,}\.safetensors(\.new)?|whole(\..+)?"
)
LOCK_IS_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

State = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays by name, and facts as JSON holds them."""


def segment_name(number: int, suffix: str) -> str:
    """The file of a segment, from 0: ``piece-00000.mp4``."""
    return f"piece-{number:05d}{suffix}"


@dataclass(frozen=True)
class Segment:
    """Frames that are encoded and complete on disk.

    Attributes:
        name: of the file in the folder.
        frames: how many.
        first_tick: presentation time of the first one, in ticks of the output, from 0.
    """

    name: str
    frames: int
    first_tick: int


@dataclass
class Progress:
    """What is complete on disk.

    Attributes:
        segments: in order.
        state: name of the file that holds the state after them.
        first_pts: time of the first frame in the source, in seconds.
        last_pts: time of the last complete frame, from the first on, in seconds.
        last_tick: the same in ticks.
    """

    segments: list[Segment] = field(default_factory=list)
    state: str = ""
    first_pts: float = 0.0
    last_pts: float = 0.0
    last_tick: int = -1

    @property
    def frames(self) -> int:
        return sum(segment.frames for segment in self.segments)

    def document(self) -> dict[str, Any]:
        """As ``progress.json`` holds it."""
        document = asdict(self)
        return {"pieces": document.pop("segments"), **document}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Progress:
        """Of the content of ``progress.json``.

        Raises:
            KeyError, TypeError: it lacks something, or holds something else.
        """
        rest = dict(document)
        return cls([Segment(**segment) for segment in rest.pop("pieces")], **rest)


class JobFolder:
    """The folder of one output; made by ``open_job``."""

    def __init__(self, path: Path, progress: Progress, lock: int) -> None:
        self.path, self.progress, self._lock = path, progress, lock

    def commit(self, segment: Segment, state: State, progress: Progress) -> None:
        """Add a segment and the state after it to what is complete; older states are deleted.

        Raises:
            OSError: the disk is full or gone; what was complete before still is.
        """
        from safetensors.numpy import save

        arrays, facts = state
        name = f"state-{progress.frames + segment.frames:06d}.safetensors"
        data = save({key: np.ascontiguousarray(array) for key, array in arrays.items()}, {"facts": json.dumps(facts)})
        _write(self.path / name, data)
        _sync(self.path / segment.name)
        progress.segments = [*progress.segments, segment]
        old, progress.state = progress.state, name
        _write(self.path / "progress.json", json.dumps(progress.document()).encode())
        self.progress = progress
        if old:
            (self.path / old).unlink(missing_ok=True)

    def read_state(self) -> State:
        """The state after the last complete segment.

        Raises:
            MediaError: it is damaged or missing.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / self.progress.state
        try:
            with safe_open(path, "np") as file:
                arrays = {key: file.get_tensor(key) for key in file.keys()}
                facts = json.loads((file.metadata() or {}).get("facts", ""))
            return arrays, facts
        except (OSError, ValueError, SafetensorError) as problem:
            raise MediaError(f"{path} is damaged: {problem}", START_OVER) from None

    def remove(self) -> None:
        """Delete the folder and release its lock; where others have put something into the folder, it stays."""
        with contextlib.suppress(OSError):
            for item in self.path.iterdir():
                if _OWN_NAMES.fullmatch(item.name):
                    item.unlink(missing_ok=True)
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Release the lock; the folder stays."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def job_path(target: str | os.PathLike[str]) -> Path:
    """Where the job of an output has its folder."""
    final = Path(os.path.realpath(target))
    return final.with_name(final.name + ".part")


def unfinished(target: str | os.PathLike[str]) -> int:
    """How many frames an earlier, unfinished job of this output has made; 0 where there is none."""
    try:
        return _read_progress(job_path(target)).frames
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def begun_with(target: str | os.PathLike[str], key: str) -> Any:
    """An entry of the request that the unfinished job of an output was begun with; None without one."""
    try:
        return json.loads((job_path(target) / "job.json").read_text("utf-8"))[key]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def open_job(target: str, request: dict[str, Any], resume: bool) -> JobFolder:
    """Make the folder of an output, or resume the one that is there.

    Args:
        target: the output.
        request: all that the frames depend on, as JSON holds it; a job goes on only where it is the
            same.
        resume: go on; without a folder, or without a complete segment in it, begin.

    Raises:
        MediaError: the folder cannot be made, another mirage writes to it, or it is damaged.
        UsageProblem: the job that is there was begun with another request.
    """
    path = job_path(target)
    request = json.loads(json.dumps({"format": FORMAT, **request}))
    try:
        if path.exists() and not path.is_dir():
            raise MediaError(f"{path} is a file, and the job needs that name", "Rename it, or give -o another name.")
        path.mkdir(exist_ok=True)
        if not (path / "lock").exists() and any(path.iterdir()):
            raise MediaError(
                f"{path} is a folder with other things in it, and the job needs that name",
                "Rename it, or give -o another name.",
            )
        lock = _take_lock(path)
    except OSError as problem:
        raise MediaError(
            f"output {target!r} cannot be written: {problem.strerror or problem}",
            "choose a folder that exists and that you may write to",
        ) from None
    if lock is None:
        raise MediaError(f"another mirage is writing {target!r}", "Wait for it, or give -o another name.")
    folder = JobFolder(path, Progress(), lock)
    try:
        if resume and (path / "progress.json").exists():
            _check_same(json.loads((path / "job.json").read_text("utf-8")), request, target)
            folder.progress = _read_progress(path)
        whole = {segment.name for segment in folder.progress.segments} | {folder.progress.state}
        if folder.progress.segments:
            whole |= {"job.json", "progress.json"}
        for item in path.iterdir():  # segments that were not finished
            if item.name not in whole and item.name != "lock" and _OWN_NAMES.fullmatch(item.name):
                item.unlink()
        _write(path / "job.json", json.dumps(request, indent=1).encode())
    except MirageError:
        folder.release()
        raise
    except (OSError, ValueError, TypeError, KeyError) as problem:
        folder.release()
        raise MediaError(f"the unfinished job {path} cannot be used: {reason_of(problem)}", START_OVER) from None
    return folder


def _take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, which ends with the process; None where another process holds it.

    File systems without locks (NFS without lockd, Lustre, some of FUSE) answer with other errors: the job goes on
    without one.
    """
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError as problem:
        if problem.errno in LOCK_IS_HELD:
            os.close(descriptor)
            return None
    return descriptor


def _read_progress(path: Path) -> Progress:
    progress = Progress.from_document(json.loads((path / "progress.json").read_text("utf-8")))
    for name in (*(segment.name for segment in progress.segments), progress.state):
        if os.path.basename(name) != name or not (path / name).is_file():
            raise ValueError(f"{name} is missing")
    return progress


def _check_same(began: dict[str, Any], now: dict[str, Any], target: str) -> None:
    for key in sorted({*began, *now}):
        if began.get(key) != now.get(key):
            raise UsageProblem(
                f"the unfinished job of {target} was begun with another {key.replace('_', ' ')}: "
                f"{short(json.dumps(began.get(key)))}, and now it is {short(json.dumps(now.get(key)))}",
                START_OVER,
            )


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing, also when the machine stops."""
    part = path.with_name(path.name + ".new")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return  # a folder cannot be opened on some systems
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
