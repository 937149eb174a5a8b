"""Who may steer: addresses, hosts, origins, tokens and rates. Pure checks, no network.

A page of a foreign site, open in a browser on the same machine, can reach loopback too. It is kept out
by three checks: the ``Host`` asked for must be an address or this machine's own name (a name that a
foreign DNS server resolves to 127.0.0.1 is neither), an ``Origin`` must be that same host, and
``Sec-Fetch-Site``, which browsers set and pages cannot, must not be of another site.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mirage_cli.errors import UsageProblem

MIN_TOKEN = 16
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Address:
    """Where to listen: a host and a TCP or UDP port; port 0 takes a free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        return is_loopback(self.host)

    def url(self, scheme: str = "http") -> str:
        """For a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"


def is_loopback(host: str) -> bool:
    """``localhost``, 127.x.x.x or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_address(text: str, flag: str) -> Address:
    """``8765`` (loopback), ``0.0.0.0:8765``, ``[::1]:8765``.

    Raises:
        UsageProblem: anything else, or a port outside 0..65535.
    """
    value = text.strip()
    match = _HOST.fullmatch(value if not re.fullmatch("[0-9]+", value) else f"127.0.0.1:{value}")
    if match is None or match["port"] is None or int(match["port"]) > 65535:
        raise UsageProblem(
            f"{flag} {text!r} is not [HOST:]PORT with a port of 0 to 65535",
            f"As in {flag} 8765, or {flag} 0.0.0.0:8765 with a token.",
        )
    host = match["six"] or match["name"]
    if match["six"]:
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise UsageProblem(
                f"{flag} {text!r}: {host!r} is not an IPv6 address", f"As in {flag} [::1]:8765."
            ) from error
    return Address(host, int(match["port"]))


def check_token(token: str | None, addresses: list[tuple[str, Address]]) -> None:
    """Refuse an address that others can reach without a token, and a token that can be guessed.

    Args:
        addresses: (flag, address) of each listener.

    Raises:
        UsageProblem: see above.
    """
    if token is not None and (len(token) < MIN_TOKEN or not re.fullmatch(r"[A-Za-z0-9_-]+", token)):
        raise UsageProblem(
            f"the control token has {len(token)} characters; allowed: {MIN_TOKEN} or more of A-Z a-z 0-9 - _",
            f"This one is good: {secrets.token_urlsafe(24)}",
        )
    for flag, address in addresses:
        if token is None and not address.loopback:
            raise UsageProblem(
                f"{flag} {address.host}:{address.port} can be reached from other machines and needs a token",
                f"Set MIRAGE_CONTROL_TOKEN={secrets.token_urlsafe(24)}, "
                f"or listen on this machine: {flag} {address.port}",
            )


class Gate:
    """Decides on each request.

    Args:
        addresses: what is listened on.
        token: what a client must know; None admits everyone on loopback.
    """

    def __init__(self, addresses: list[Address], token: str | None = None) -> None:
        self._names = {"localhost", socket.gethostname().lower()}
        self._names |= {a.host.lower() for a in addresses}
        self._token = token.encode() if token is not None else None
        self._sessions: OrderedDict[str, None] = OrderedDict()

    def refusal(self, headers: Mapping[str, str], navigation: bool = False) -> str | None:
        """Why a request may not come in, by its headers; None lets it.

        Args:
            navigation: of the page itself, which a link on another site may open: it holds no secret.
        """
        host = headers.get("Host", "")
        if not self._own_host(host):
            return "the Host asked for is not this machine"
        origin = headers.get("Origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return "the request comes from a page of another origin"
        if not navigation and headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return "the request comes from a page of another site"
        return None

    def _own_host(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["six"] or match["name"]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._names
        return True  # an address is not resolved by DNS

    def knows(self, authorization: str | None, session: str | None) -> bool:
        """Is the client's token, or the session it got for it, right?"""
        if self._token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        wanted = (session or "").encode("utf-8", "replace")
        right = False
        for known in self._sessions:  # all of them, so that the time reveals nothing
            right |= hmac.compare_digest(wanted, known.encode())
        return right

    def is_token(self, given: str) -> bool:
        """Compared in a time that does not depend on how much of it is right."""
        return self._token is not None and hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def open_session(self) -> str:
        """A secret for a browser's cookie; the oldest of 64 is forgotten."""
        session = secrets.token_urlsafe(32)
        self._sessions[session] = None
        while len(self._sessions) > 64:
            self._sessions.popitem(last=False)
        return session


class RateLimit:
    """A token bucket for each client.

    Args:
        per_second: messages allowed in the long run.
        burst: messages allowed at once.
        clients: how many are remembered; the longest silent one is forgotten first.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic, clients: int = 256
    ) -> None:
        self.per_second, self.burst, self._clock, self._clients = per_second, burst, clock, clients
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, client: str) -> bool:
        """Count one message of a client; False when it has sent too many."""
        now = self._clock()
        level, then = self._level.pop(client, (float(self.burst), now))
        level = min(self.burst, level + (now - then) * self.per_second)
        allowed = level >= 1.0
        self._level[client] = (level - allowed, now)
        while len(self._level) > self._clients:
            self._level.popitem(last=False)
        return allowed
