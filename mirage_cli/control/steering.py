"""All ways to steer one live run, opened and closed together: keyboard, control socket, preview, OSC."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from mirage_cli.config import LiveConfig
from mirage_cli.control.access import Address, check_token, parse_address
from mirage_cli.control.hub import Answer, Controls
from mirage_cli.control.presets import load_preset, save_preset
from mirage_cli.control.schema import parse_line
from mirage_cli.errors import MirageError, UsageProblem
from mirage_cli.frames import Ui
from mirage_cli.outputs.taps import NewestPicture


@dataclass(frozen=True)
class Listeners:
    """Where to listen, checked: made before anything slow is begun."""

    control: Address | None
    preview: Address | None
    osc: Address | None
    token: str | None

    @property
    def http(self) -> list[tuple[str, Address]]:
        """(flag, address) of each TCP port, each once."""
        asked = [("--control", self.control), ("--preview", self.preview)]
        found: dict[Address, str] = {}
        for flag, address in asked:
            if address is not None:
                found.setdefault(address, flag)
        return [(flag, address) for address, flag in found.items()]


def check_listeners(config: LiveConfig) -> Listeners:
    """The addresses that a run listens on.

    Raises:
        UsageProblem: not an address, one that other machines can reach without a token, or a library
            that is not installed.
    """
    control, preview, osc = (
        None if text is None else parse_address(text, flag)
        for flag, text in (("--control", config.control), ("--preview", config.preview), ("--osc", config.osc))
    )
    listeners = Listeners(control, preview, osc, config.control_token)
    check_token(config.control_token, [*listeners.http, *([("--osc", osc)] if osc else [])])
    if listeners.http:
        from mirage_cli.control.server import need_aiohttp

        need_aiohttp(listeners.http[0][0])
    if osc is not None:
        from mirage_cli.control.osc import need_osc

        need_osc()
    return listeners


class Server(Protocol):
    """What listens on a port, from ``start`` to ``close``."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class Steering:
    """Opens the listeners, and understands typed lines.

    Args:
        hub: gets the changes.
        listeners: from ``check_listeners``.
        ui: is told of addresses, files and refusals.

    Attributes:
        servers: what listens, once it is started: HTTP first, then OSC.
        address: where a browser or program can steer, as a URL; "" before ``start`` and without a port.
    """

    def __init__(self, hub: Controls, listeners: Listeners, ui: Ui) -> None:
        self.hub = hub
        self._listeners, self._ui = listeners, ui
        self.hub.on_applied.append(self._note_files)
        self.servers: list[Server] = []
        self.address = ""

    def start(self) -> None:
        """Listen, and say where.

        Raises:
            MediaError: a port is taken.
            UsageProblem: a library is missing.
        """
        listeners = self._listeners
        if listeners.http:
            from mirage_cli.control.server import ControlServer

            picture = NewestPicture(self.hub.taps) if listeners.preview is not None else None
            server = ControlServer(self.hub, listeners.http, listeners.token, picture)
            self.servers.append(server)
            server.start()
            names = {"--control": "control", "--preview": "preview and control"}
            for (flag, _), address in zip(listeners.http, server.addresses):
                self._ui.note(f"{names[flag] if not picture or flag == '--preview' else 'control'}: {address.url()}")
            self.address = server.addresses[-1].url()
        if listeners.osc is not None:
            from mirage_cli.control.osc import OscServer

            osc = OscServer(self.hub, listeners.osc, listeners.token if not listeners.osc.loopback else None)
            self.servers.append(osc)
            osc.start()
            self._ui.note(f"osc: {osc.address.host}:{osc.address.port}")

    def line(self, text: str) -> None:
        """A typed line: a prompt, ``/field value``, ``/save FILE``, ``q``."""
        if not text:
            return
        text = "/quit" if text.lower() in ("q", "quit", "/q") else text
        try:
            word, _, rest = text.partition(" ")
            if word == "/save":
                self._save(rest.strip())
                return
            if word == "/preset" and any(mark in rest for mark in "./\\"):
                change = load_preset(rest.strip()).change
            else:
                change = parse_line(text)
        except MirageError as error:
            self._warn(error)
            return
        self.hub.submit(change, "keyboard").add_done_callback(self._answered)

    def _save(self, path: str) -> None:
        if not path:
            raise UsageProblem("/save needs a file's name", "As in: /save my-look.toml")
        path = path if path.endswith(".toml") else f"{path}.toml"
        save_preset(path, self.hub.state())
        self._ui.note(f"wrote {path}; use it with --preset {path}")

    def _note_files(self, answer: Answer) -> None:
        if "record" in answer["applied"] or "snapshot" in answer["applied"]:
            self._ui.note(f"{answer['notes'][-1]} (frame {answer['frame']})")

    def _answered(self, answer: Future[Answer]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if isinstance(error, MirageError):
            self._warn(error)

    def _warn(self, error: MirageError) -> None:
        self._ui.warn(f"{error.message}. {error.remedy}")

    def close(self) -> None:
        """Stop listening; changes that wait for a frame are refused, since none will come. Idempotent."""
        self.hub.close()
        for server in self.servers:
            server.close()
