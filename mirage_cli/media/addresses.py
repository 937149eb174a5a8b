"""How ffmpeg opens what is not a plain file: streams, the screen, files of odd names."""

from __future__ import annotations

import http.client
import os
import re
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.media.place import is_playlist, listening_url, shown_url

SCREEN_INPUT = ["-f", "x11grab"]
"""Input options under which ffmpeg reads an X display."""


def file_url(path: str | os.PathLike[str]) -> str:
    """The path as ffmpeg reads it whatever its characters: dashes, colons, quotes, unicode."""
    return "file:" + os.fspath(path)


class NameAlias:
    """A link to a file whose own name ffmpeg would misread, in a temporary folder.

    ``%03d`` in the name of a picture stands for numbers, and a name that is not UTF-8 cannot be put
    into a command here. The link keeps the suffix, by which ffmpeg knows some formats.
    """

    def __init__(self, path: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mirage-name-")
        suffix = os.path.splitext(path)[1]
        self.path = os.path.join(self._folder.name, "input" + (suffix if suffix.isascii() else ""))
        os.symlink(os.path.abspath(path), self.path)

    @staticmethod
    def needed(path: str) -> bool:
        return re.search(r"%\d*d", path) is not None or not is_utf8(path)

    def remove(self) -> None:
        self._folder.cleanup()


def is_utf8(text: str) -> bool:
    """Whether a file name can be written as text: on Linux it may hold any bytes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0


# Enough for every codec to be known; by default ffmpeg looks at five seconds.
ANALYZE_US = 500_000


_SCREEN = re.compile(r"screen(?::(\d+)x(\d+)(?:\+(\d+)\+(\d+))?)?")


def endless_type(name: str, timeout_seconds: float = 5.0) -> str | None:
    """Content type of an HTTP response without Content-Length (an endless stream), else None."""
    parts = urlsplit(name)
    if parts.scheme.lower() not in ("http", "https"):
        return None
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
    opener = urllib.request.build_opener(
        urllib.request.HTTPBasicAuthHandler(passwords), urllib.request.HTTPDigestAuthHandler(passwords)
    )
    try:
        with opener.open(plain, timeout=timeout_seconds) as answer:  # the headers only
            return answer.headers.get_content_type() if answer.headers.get("Content-Length") is None else None
    except (OSError, ValueError, http.client.HTTPException):
        return None  # ffmpeg will say what is wrong with it


def pause_seconds(attempt: int) -> float:
    """How long to wait before the n-th attempt, from 1."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(attempt - 1, 10))


@dataclass(frozen=True)
class Address:
    """What ffmpeg opens.

    Attributes:
        url: of the stream, or the X display.
        name: for the user, without user name and password.
        options: that go before ``-i``.
        listens: mirage waits for a sender to connect.
        playlist: it gives seconds of video at once.
    """

    url: str
    name: str
    options: dict[str, str] = field(default_factory=dict)
    listens: bool = False
    playlist: bool = False


def stream_address(url: str, content_type: str = "") -> Address:
    """How a URL is opened: with low delay, and as a server where it says ``?listen=1``.

    rtsp, rtmp, http and tcp take ``listen=1`` in the query; srt has its own ``mode=listener``.

    Args:
        content_type: of the HTTP response, from ``endless_type``.
    """
    scheme = urlsplit(url).scheme.lower()
    options = {"flags": "low_delay", "analyzeduration": str(ANALYZE_US)}
    plain = listening_url(url)
    listens = plain is not None
    if scheme in ("rtsp", "rtsps"):
        options.update({"rtsp_flags": "listen", "listen_timeout": "86400"} if listens else {"rtsp_transport": "tcp"})
    elif scheme == "udp":
        options.update(overrun_nonfatal="1", fifo_size="200000")
    elif scheme == "rtmp" and not listens:
        options.update(rtmp_live="live", rtmp_buffer="200")
    if listens and scheme in ("rtmp", "http", "tcp"):
        options.update(listen="1")
    if content_type.startswith("multipart/"):  # JPEGs without times, which ffmpeg counts as 25 a second
        options.update(use_wallclock_as_timestamps="1")
    return Address(plain if plain is not None else url, shown_url(url), options, listens, is_playlist(url))


def screen_address(name: str, fps: float | None) -> Address:
    """The X display, or a part of it, as ffmpeg grabs it.

    Raises:
        UsageProblem: not ``screen``, ``screen:WxH`` or ``screen:WxH+X+Y``; MediaError: no display.
    """
    match = _SCREEN.fullmatch(name)
    if not match:
        raise UsageProblem(
            f"input {name!r} is not a part of a screen", "Write screen, screen:640x360 or screen:640x360+100+50."
        )
    display = os.environ.get("DISPLAY", "")
    if not sys.platform.startswith("linux") or not display:
        raise MediaError(
            "there is no screen to watch: DISPLAY is not set",
            "Run it in a graphical session; on Wayland, in one with Xwayland.",
        )
    options = {"f": "x11grab", "framerate": f"{fps or 30:g}", "draw_mouse": "1"}
    if match[1]:
        options["s"] = f"{match[1]}x{match[2]}"  # ffmpeg-python would take "video_size" for a pair
    if match[3]:
        options.update(grab_x=match[3], grab_y=match[4])
    return Address(display, f"screen {display}", options)
