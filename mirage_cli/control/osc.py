"""The same changes over OSC (Open Sound Control 1.0, UDP), for mixers, faders and show software.

    /mirage/strength 0.4        /mirage/prompt "ink wash"        /mirage/blend/ink-wash 1.0
    /mirage/pause 1             /mirage/snapshot                 /mirage/seed 7

OSC knows no passwords: where other machines can send, the token is the second part of the address,
``/mirage/TOKEN/strength``. The sender of each change is answered: ``/mirage/applied
"strength" 1234``; or ``/mirage/refused "why"``.
"""

from __future__ import annotations

import contextlib
import hmac
import threading
from typing import Any

from mirage_cli.control.access import Address, RateLimit
from mirage_cli.control.hub import Controls
from mirage_cli.control.schema import Released, from_arguments
from mirage_cli.control.server import INSTALL
from mirage_cli.errors import MediaError, MirageError, UsageProblem

MESSAGES = (400.0, 800)


def need_osc() -> tuple[Any, Any]:
    """python-osc's server and dispatcher.

    Raises:
        UsageProblem: it is not installed.
    """
    try:
        from pythonosc import dispatcher, osc_server
    except ImportError as error:
        raise UsageProblem(f"--osc needs python-osc, which is not installed ({error})", INSTALL) from error
    return osc_server, dispatcher


class OscServer:
    """Listens on a UDP port from ``start`` to ``close``.

    Raises:
        UsageProblem: python-osc is not installed.
    """

    def __init__(self, controls: Controls, address: Address, token: str | None = None) -> None:
        osc_server, dispatching = need_osc()
        self._controls, self._token = controls, token
        self._rate = RateLimit(*MESSAGES)
        self.address = address
        dispatcher = dispatching.Dispatcher(strict_timing=False)  # a bundle dated next year must not hold up the rest
        dispatcher.set_default_handler(self._message, needs_reply_address=True)
        try:
            self._server = _quiet(osc_server.BlockingOSCUDPServer)((address.host, address.port), dispatcher)
        except OSError as error:
            raise MediaError(
                f"--osc {address.host}:{address.port} cannot be listened on: {error.strerror or error}",
                f"Take another port, as in --osc {min(address.port + 1, 65535)}.",
            ) from error
        self.address = Address(address.host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="mirage-osc", daemon=True
        )

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop; idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(2.0)
        self._server.server_close()

    def _message(self, client: tuple[str, int], address: str, *arguments: Any) -> None:
        if not self._rate.allows(client[0]):
            self._controls.count_refused()
            return  # no answer: it would be a flood too
        parts = address.strip("/").split("/")
        if not parts or parts.pop(0) != "mirage":
            return
        if self._token is not None:
            given = parts.pop(0) if parts else ""
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                self._controls.count_refused()
                return
        name, look = (parts + [""])[0].replace("-", "_"), parts[1] if len(parts) > 1 else None
        try:
            change = from_arguments(name, arguments, look)
        except Released:
            return
        except MirageError as error:
            self._controls.count_refused()
            self._reply(client, "/mirage/refused", error.message)
            return

        def answered(answer: Any) -> None:
            if answer.cancelled():
                return
            error = answer.exception()
            if error is not None:
                self._reply(client, "/mirage/refused", str(error))
            else:
                self._reply(client, "/mirage/applied", name, answer.result()["frame"])

        self._controls.submit(change, "osc").add_done_callback(answered)

    def _reply(self, client: tuple[str, int], address: str, *values: Any) -> None:
        from pythonosc.osc_message_builder import OscMessageBuilder

        message = OscMessageBuilder(address)
        for value in values:
            message.add_arg(value)
        with contextlib.suppress(OSError, ValueError):  # the client has gone, or the socket is closed
            self._server.socket.sendto(message.build().dgram, client)


def _quiet(server: type) -> type:
    """The server without a traceback on standard error for each datagram that is not OSC."""

    class Quiet(server):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    return Quiet
