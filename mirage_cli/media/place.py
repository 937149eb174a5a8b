"""What the name of an input or output stands for: asked once, when a run begins.

Place.of_input("clip.mp4")            FILE, or PICTURES, PIPE, ADDRESS, DEVICE
Place.of_live_input("rtsp://cam/1")   STREAM, or also PLAYLIST, SCREEN, TEST
Place.of_camera(0)                    CAMERA
Place.of_output("rtmp://host/a/key")  ADDRESS, or FILE, PICTURES, PIPE, PLAYLIST, DEVICE, VIRTUAL_CAMERA
"""

from __future__ import annotations

import enum
import glob
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode, urlsplit, urlunsplit

from mirage_cli.config import PIPE
from mirage_cli.errors import plain_text
from mirage_cli.media.picture_names import find_pictures, is_pattern, is_picture, pictures_in

TEST = "test"
VIRTUAL_CAMERA = "camera"
BROADCAST_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "srt", "udp", "rtp", "tcp", "unix", "mms", "rist")
WATCHED_SCHEMES = ("rtmp", "rtmps", "rtsp", "srt", "udp")


class Kind(enum.Enum):
    """What a place is, as far as its name and a look at the disk say."""

    PIPE = "standard input or output"
    FILE = "a file on disk, there or not"
    PICTURES = "a picture, or numbered pictures: a folder, a pattern, a glob"
    DEVICE = "a named pipe; as an output, a device as well"
    ADDRESS = "a URL"
    STREAM = "a URL of a stream that comes at its own pace"
    PLAYLIST = "an HLS playlist: a URL to read, or a file that is read while it is written"
    SCREEN = "the screen, or a part of it"
    CAMERA = "a camera of this machine"
    TEST = "the moving test picture"
    VIRTUAL_CAMERA = "a camera that other programs open"


@dataclass(frozen=True)
class Place:
    """An input or output by its name.

    Attributes:
        kind: what it is.
        path: as it was typed: a path or a URL; of a ``file://`` URL the path that it names.
        shown: for people and logs: short, and without secrets.
    """

    kind: Kind
    path: str
    shown: str

    @classmethod
    def of_input(cls, name: str) -> Place:
        """An input that is read from its beginning to its end, as fast as the model takes it."""
        name = _path_of_url(name)
        if name == PIPE:
            return cls(Kind.PIPE, name, "standard input")
        if is_url(name):  # first: its query may look like a glob of pictures
            return cls(Kind.ADDRESS, name, shown_url(name))
        if _is_pictures(name):
            return cls(Kind.PICTURES, name, _file_name(name))
        return cls(Kind.DEVICE if _is_fifo(name) else Kind.FILE, name, _file_name(name))

    @classmethod
    def of_live_input(cls, name: str) -> Place:
        """An input of a live run, which may come at its own pace."""
        name = _path_of_url(name)
        if name == TEST:
            return cls(Kind.TEST, name, "test picture")
        if name == "screen" or name.startswith("screen:"):
            return cls(Kind.SCREEN, name, name)
        if is_playlist(name):
            return cls(Kind.PLAYLIST, name, shown_url(name))
        if is_broadcast(name):
            return cls(Kind.STREAM, name, shown_url(name))
        return cls.of_input(name)

    @classmethod
    def of_camera(cls, wanted: int | str) -> Place:
        """A camera, by its number, a part of its name or its /dev path."""
        return cls(Kind.CAMERA, str(wanted), f"camera {wanted}")

    @classmethod
    def of_output(cls, name: str) -> Place:
        """An output of any run."""
        name = _path_of_url(name)
        if name == PIPE:
            return cls(Kind.PIPE, name, "standard output")
        if name == VIRTUAL_CAMERA or name.startswith(VIRTUAL_CAMERA + ":"):
            return cls(Kind.VIRTUAL_CAMERA, name, name)
        shown = _without_key(name) if is_url(name) else os.path.basename(name)
        if is_picture(name):
            return cls(Kind.PICTURES, name, shown)
        if is_url(name):
            return cls(Kind.ADDRESS, name, shown)
        if name.lower().endswith(".m3u8"):
            return cls(Kind.PLAYLIST, name, shown)
        return cls(Kind.DEVICE if _is_device(name) else Kind.FILE, name, shown)

    @property
    def is_address(self) -> bool:
        """It is named by a URL."""
        return is_url(self.path)

    @property
    def typed(self) -> str:
        """The path, or the URL without what it must not show."""
        return _without_key(self.path) if self.is_address else self.path

    @property
    def on_disk(self) -> str | None:
        """The path of an input that lies on disk; None for all others."""
        return self.path if self.kind in (Kind.FILE, Kind.PICTURES, Kind.DEVICE) and not self.is_address else None

    @property
    def is_numbered(self) -> bool:
        """Pictures by a pattern with a number: ``frames/%05d.png``."""
        return self.kind is Kind.PICTURES and is_pattern(self.path)

    @property
    def is_watched(self) -> bool:
        """Viewers watch the address while it is written, so that a file must not come faster than its pace."""
        return self.path.partition("://")[0].lower() in WATCHED_SCHEMES

    def pictures(self) -> list[str]:
        """The paths of an input's pictures, in order; empty where it is not made of pictures.

        Raises:
            MediaError: a pattern or a glob that matches none.
        """
        return find_pictures(self.path) if self.kind is Kind.PICTURES else []


# --- names ---------------------------------------------------------------------------------------


def is_url(name: str) -> bool:
    """True for http://, rtsp:// and the like, but not for a drive letter."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) is not None


def is_broadcast(name: str) -> bool:
    """Whether ``name`` is a stream that comes at its own pace: by its scheme, or a sender that is waited for."""
    return is_url(name) and (urlsplit(name).scheme.lower() in BROADCAST_SCHEMES or listening_url(name) is not None)


def is_playlist(name: str) -> bool:
    """Whether ``name`` is the address of an HLS playlist."""
    return is_url(name) and urlsplit(name).path.lower().endswith(".m3u8")


def listening_url(url: str) -> str | None:
    """The address without its ``listen=1``, where mirage is to be the server; else None."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if parts.scheme.lower() == "srt":
        return url if ("mode", "listener") in query else None
    if ("listen", "1") not in query or parts.scheme.lower() not in ("rtsp", "rtmp", "http", "tcp"):
        return None
    rest = urlencode([item for item in query if item[0] != "listen"])
    return urlunsplit(parts._replace(query=rest))


def shown_url(url: str) -> str:
    """An address that is read, without its user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _without_key(url: str) -> str:
    """An address without its user, password and query, and without the stream key that ends an rtmp address."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.rpartition("@")[2].partition("?")[0].partition("/")
    if scheme.lower().startswith("rtmp") and path.count("/"):
        path = path.rpartition("/")[0] + "/..."
    return f"{scheme}://{host}{slash}{path}"


def _file_name(path: str) -> str:
    return plain_text(Path(path).name or path)


# --- a look at the disk --------------------------------------------------------------------------


def _is_pictures(name: str) -> bool:
    if os.path.isdir(name):
        return bool(pictures_in(name))
    if not is_picture(name):
        return False
    return os.path.isfile(name) if os.path.exists(name) else is_pattern(name) or glob.has_magic(name)


def _path_of_url(name: str) -> str:
    """The path that a ``file://`` URL names, as file managers copy it: ``file:///a%20b.mp4``; all else as it is."""
    found = re.fullmatch(r"file://(?:localhost)?(/.*)", name, re.IGNORECASE | re.DOTALL)
    return os.fsdecode(unquote_to_bytes(os.fsencode(found.group(1)))) if found else name


def _is_fifo(name: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def _is_device(name: str) -> bool:
    """Whether it is there and is not a regular file."""
    try:
        return not stat.S_ISREG(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False
