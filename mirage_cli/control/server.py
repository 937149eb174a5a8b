"""The control socket: HTTP and WebSocket with JSON, ``/metrics``, and the preview page.

One event loop in a thread of its own. Nothing in it waits for a frame without a limit, and nothing that
a client does, or leaves undone, can hold the stream up: the model thread only ever puts a number into a
future. ``access.Gate`` decides who comes in; here are the limits on how much.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from mirage_cli.control.access import Address, Gate, RateLimit
from mirage_cli.control.hub import FRAME_SECONDS, Busy, Controls, TooLate, error_document
from mirage_cli.control.presets import shipped_presets, toml_text
from mirage_cli.control.prometheus import CONTENT_TYPE, metrics_text
from mirage_cli.control.schema import MAX_MESSAGE_BYTES, Change, json_schema, parse_message
from mirage_cli.errors import MediaError, MirageError, UsageProblem
from mirage_cli.outputs.taps import NewestPicture

SLOW_SECONDS = 5.0
"""A client that takes longer to send a body, or to take what it is sent, is disconnected."""
IDLE_SECONDS = 15.0
MAX_CONNECTIONS, MAX_SOCKETS, MAX_STREAMS, MAX_OPEN = 64, 16, 8, 64
REQUESTS, MESSAGES, LOGINS = (50.0, 100), (100.0, 200), (1.0, 5)
STATE_SECONDS = 0.5
PREVIEW_FPS = 30.0
LOOK_SECONDS = 1.0
"""How often a preview without a new picture checks whether its client is still there."""
PREVIEW_BUFFER = 128 * 1024
COOKIE = "mirage_session"
INSTALL = "pip install 'mirage-cli[control]', or in a clone: pip install -c constraints.txt -e '.[control]'"

_log = logging.getLogger("mirage.control.http")
_log.addHandler(logging.NullHandler())  # what strangers send is logged with -v only

_FILES = Path(__file__).parent
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def need_aiohttp(flag: str) -> Any:
    """The library, or one line on how to get it.

    Raises:
        UsageProblem: it is not installed.
    """
    try:
        import aiohttp.web
    except ImportError as error:
        raise UsageProblem(f"{flag} needs aiohttp, which is not installed ({error})", INSTALL) from error
    return aiohttp.web


class ControlServer:
    """Listens from ``start`` to ``close``.

    Args:
        controls: gets the changes and knows the state.
        listeners: (flag, address) of each port.
        token: what clients must know, or None.
        picture: what the preview shows; None leaves the preview out.
    """

    def __init__(
        self,
        controls: Controls,
        listeners: list[tuple[str, Address]],
        token: str | None = None,
        picture: NewestPicture | None = None,
    ) -> None:
        self._web = need_aiohttp(listeners[0][0])
        self._controls, self._listeners, self._picture = controls, listeners, picture
        self._gate = Gate([address for _, address in listeners], token)
        self._requests, self._logins = RateLimit(*REQUESTS), RateLimit(*LOGINS)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mirage-control", daemon=True)
        self._runner: Any = None
        self._sockets: set[_Socket] = set()
        self.preview = Preview(picture, self._loop) if picture is not None else None
        self.addresses: list[Address] = []

    # --- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen.

        Raises:
            MediaError: a port is taken or not allowed.
        """
        self._thread.start()
        try:
            self._call(self._open())
        except BaseException:
            self.close()
            raise
        self._controls.on_applied.append(self._tell)

    def close(self) -> None:
        """Disconnect all clients; idempotent."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(ValueError):
            self._controls.on_applied.remove(self._tell)
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self._call(self._shut(), 5.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
        if not self._loop.is_running():
            self._loop.close()

    def _call(self, work: Awaitable[Any], seconds: float = 30.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._runner = self._web.AppRunner(
            self._app(),
            access_log=None,
            logger=_log,
            keepalive_timeout=IDLE_SECONDS,
            handle_signals=False,
            shutdown_timeout=1.0,
            lingering_time=0.5,
        )
        await self._runner.setup()
        for flag, address in self._listeners:
            site = self._web.TCPSite(self._runner, address.host, address.port, backlog=32)
            try:
                await site.start()
            except OSError as error:
                raise MediaError(
                    f"{flag} {address.host}:{address.port} cannot be listened on: {error.strerror or error}",
                    f"Take another port, as in {flag} {min(address.port + 1, 65535)}, or 0 for a free one.",
                ) from error
            self.addresses.append(replace(address, port=self._runner.addresses[-1][1]))

    async def _shut(self) -> None:
        for socket in list(self._sockets):
            await socket.close()
        if self._runner is not None:
            await self._runner.cleanup()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _app(self) -> Any:
        web = self._web

        @web.middleware
        async def guard(request: Any, handler: Any) -> Any:
            return await self._guarded(request, handler)

        app = web.Application(middlewares=[guard], client_max_size=MAX_MESSAGE_BYTES)
        app.router.add_post("/api/control", self._control)
        app.router.add_post("/api/login", self._login)
        app.router.add_get("/api/state", self._state)
        app.router.add_get("/api/looks", self._looks)
        app.router.add_get("/api/presets", self._presets)
        app.router.add_get("/api/preset.toml", self._preset)
        app.router.add_get("/api/schema", self._schema)
        app.router.add_get("/api/socket", self._socket)
        app.router.add_get("/metrics", self._metrics)
        if self.preview is not None:
            app.router.add_get("/preview.mjpg", self._preview)
            for path in _PAGE:
                app.router.add_get(path, self._page)
            app.router.add_get("/favicon.ico", self._no_icon)
        return app

    # --- who comes in --------------------------------------------------------------------------------

    async def _guarded(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """All that every request has to pass, and what every answer carries."""
        try:
            response = self._refused(request) or await handler(request)
        except self._web.HTTPException as problem:  # 404, 405, 413
            response = self._error(problem.status, problem.reason, "docs/control.md lists what there is.")
        except (TimeoutError, asyncio.TimeoutError):
            response = self._error(408, f"nothing came for {SLOW_SECONDS:g} s", "Send the body at once.")
        if not response.prepared:
            response.headers.update(_HEADERS)
            if response.status >= 400:  # whatever else such a client has sent is not read
                self._controls.count_refused()
                response.force_close()
        return response

    def _refused(self, request: Any) -> Any:
        page = request.path in _PAGE and request.method == "GET"
        if reason := self._gate.refusal(request.headers, navigation=page):
            return self._error(403, reason, "Open it by its address, as in http://127.0.0.1:8765/")
        if (request.content_length or 0) > MAX_MESSAGE_BYTES:
            return self._error(413, f"a body of more than {MAX_MESSAGE_BYTES} bytes", "Send one change a message.")
        if len(self._runner.server.connections) > MAX_CONNECTIONS:
            return self._error(503, f"more than {MAX_CONNECTIONS} connections", "Close some.")
        if not self._requests.allows(request.remote or ""):
            return self._error(
                429, f"more than {REQUESTS[0]:g} requests a second", "Send changes over one WebSocket: /api/socket"
            )
        if page or request.path == "/api/login":
            return None
        if not self._gate.knows(request.headers.get("Authorization"), request.cookies.get(COOKIE)):
            return self._error(401, "the token is missing or wrong", "Send the header: Authorization: Bearer TOKEN")
        return None

    def _error(self, status: int, message: str, remedy: str) -> Any:
        return self._json(error_document(MirageError(message, remedy)), status)

    def _json(self, data: Any, status: int = 200) -> Any:
        return self._web.json_response(data, status=status)

    async def _body(self, request: Any) -> bytes:
        if request.content_type != "application/json":  # what a form of a foreign page cannot send
            raise UsageProblem(f"the body is {request.content_type}", "Send Content-Type: application/json")
        return await asyncio.wait_for(request.read(), SLOW_SECONDS)

    async def _login(self, request: Any) -> Any:
        if not self._logins.allows(request.remote or ""):
            return self._error(429, "too many tries", "Wait some seconds.")
        try:
            given = json.loads(await self._body(request))["token"]
            right = isinstance(given, str) and self._gate.is_token(given)
        except (ValueError, KeyError, TypeError, RecursionError, UsageProblem):
            right = False
        if not right:
            return self._error(401, "the token is wrong", "It is what MIRAGE_CONTROL_TOKEN holds where mirage runs.")
        response = self._json({"ok": True})
        response.set_cookie(COOKIE, self._gate.open_session(), httponly=True, samesite="Strict", path="/")
        return response

    # --- what there is ------------------------------------------------------------------------------

    async def _control(self, request: Any) -> Any:
        try:
            body = await self._body(request)
        except UsageProblem as error:
            return self._json(error_document(error), 400)
        try:
            change = parse_message(body)
            return self._json(await _answer(self._controls, change, "http"))
        except MirageError as error:
            kinds = ((Busy, 429), (TooLate, 504), (UsageProblem, 400))
            status = next((status for kind, status in kinds if isinstance(error, kind)), 409)
            return self._json(error_document(error), status)

    async def _state(self, request: Any) -> Any:
        return self._json(self._controls.state())

    async def _looks(self, request: Any) -> Any:
        return self._json({"model": self._controls.options.model, "looks": list(self._controls.looks())})

    async def _presets(self, request: Any) -> Any:
        return self._json({"presets": [preset.document() for preset in shipped_presets()]})

    async def _preset(self, request: Any) -> Any:
        text = toml_text(self._controls.state())
        return self._web.Response(text=text, content_type="application/toml")

    async def _schema(self, request: Any) -> Any:
        return self._json(json_schema())

    async def _metrics(self, request: Any) -> Any:
        hub = self._controls
        text = metrics_text(hub.styler.meter, hub.state(), hub.changes, hub.refused)
        return self._web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _page(self, request: Any) -> Any:
        name, kind = _PAGE[request.path]
        return self._web.Response(body=(_FILES / name).read_bytes(), content_type=kind, charset="utf-8")

    async def _no_icon(self, request: Any) -> Any:
        return self._web.Response(status=204)

    async def _preview(self, request: Any) -> Any:
        assert self.preview is not None  # else there is no such route
        if len(self.preview.clients) >= MAX_STREAMS:
            return self._error(503, f"{MAX_STREAMS} pages watch already", "Close one.")
        kind = f"multipart/x-mixed-replace; boundary={Preview.BOUNDARY}"
        response = self._web.StreamResponse(headers={"Content-Type": kind, **_HEADERS})
        await response.prepare(request)
        plain = request.transport and request.transport.get_extra_info("socket")
        if plain:  # what a slow client has not taken must not grow old in a large buffer
            plain.setsockopt(SOL_SOCKET, SO_SNDBUF, PREVIEW_BUFFER)
        await self.preview.serve(response, request.transport)
        return response

    async def _socket(self, request: Any) -> Any:
        if len(self._sockets) >= MAX_SOCKETS:
            return self._error(503, f"{MAX_SOCKETS} sockets are open already", "Close one.")
        socket = _Socket(self._web, self._controls)
        self._sockets.add(socket)
        try:
            return await socket.serve(request)
        finally:
            self._sockets.discard(socket)

    def _tell(self, answer: dict[str, Any]) -> None:
        """A change was applied: all sockets hear of it, including the sender. Called by any thread."""
        document = {"type": "applied", **{k: v for k, v in answer.items() if k not in ("id", "ok")}}
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._send_to_all, document)

    def _send_to_all(self, document: dict[str, Any]) -> None:
        for socket in self._sockets:
            socket.send(document)


async def _answer(controls: Controls, change: Change, origin: str) -> dict[str, Any]:
    """Ask for a change and wait; a client that goes meanwhile has asked all the same.

    Raises:
        TooLate: it was not done in time and is withdrawn.
        MirageError: it is refused.
    """
    answer = controls.submit(change, origin)
    while True:
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(answer)), FRAME_SECONDS)
        except asyncio.TimeoutError:
            controls.check_time(answer)


class _Socket:
    """One WebSocket: changes come in; answers, the state and others' changes go out."""

    def __init__(self, web: Any, controls: Controls) -> None:
        self._web, self._controls = web, controls
        self._ws = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=20.0, timeout=1.0, compress=False)
        self._out: asyncio.Queue[str] = asyncio.Queue(128)
        self._rate = RateLimit(*MESSAGES)
        self._transport: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, request: Any) -> Any:
        self._transport = request.transport
        await self._ws.prepare(request)
        background = [asyncio.ensure_future(work) for work in (self._write(), self._states())]
        try:
            async for message in self._ws:
                if message.type.name not in ("TEXT", "BINARY"):
                    break
                if not self._rate.allows(""):
                    await self._ws.close(code=1008, message=b"too many messages")
                    break
                self._receive(message.data)
        finally:
            for task in [*background, *self._tasks]:
                task.cancel()
        return self._ws

    def send(self, document: dict[str, Any]) -> None:
        """Queue for the client; one that does not read is disconnected."""
        try:
            self._out.put_nowait(json.dumps(document))
        except asyncio.QueueFull:
            self._drop()

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._ws.close(code=1001, message=b"the stream ended"), 1.0)

    def _receive(self, data: str | bytes) -> None:
        if len(self._tasks) >= MAX_OPEN:
            self.send({"type": "answer", **error_document(Busy(f"{MAX_OPEN} changes wait for their answers", "Wait."))})
            return
        try:
            change = parse_message(data)
        except UsageProblem as error:
            self._controls.count_refused()
            self.send({"type": "answer", **error_document(error)})
            return
        task = asyncio.ensure_future(self._answer(change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, change: Any) -> None:
        try:
            answer = await _answer(self._controls, change, "socket")
        except MirageError as error:
            answer = error_document(error, change.id)
        self.send({"type": "answer", **answer})

    async def _states(self) -> None:
        while True:
            self.send({"type": "state", **self._controls.state()})
            await asyncio.sleep(STATE_SECONDS)

    async def _write(self) -> None:
        while True:
            text = await self._out.get()
            try:
                await asyncio.wait_for(self._ws.send_str(text), SLOW_SECONDS)
            except (asyncio.TimeoutError, OSError, RuntimeError):
                self._drop()
                return

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Preview:
    """The preview: the newest picture as JPEG, made once for all who watch, and only while some do."""

    BOUNDARY = "mirageframe"

    def __init__(self, picture: NewestPicture, loop: asyncio.AbstractEventLoop) -> None:
        self._picture, self._loop = picture, loop
        self._came, self._made = asyncio.Event(), asyncio.Condition()
        self._jpeg, self._number = b"", 0
        self._maker: asyncio.Task[None] | None = None
        self.clients: set[Any] = set()
        picture.came = self._tell

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._came.set)

    async def _make(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            jpeg = await self._loop.run_in_executor(None, self._picture.jpeg)
            if jpeg is not None:
                async with self._made:
                    self._jpeg, self._number = jpeg, self._number + 1
                    self._made.notify_all()
                await asyncio.sleep(1.0 / PREVIEW_FPS - 0.005)

    async def serve(self, response: Any, transport: Any) -> None:
        """Send pictures until the client goes; one that is slow misses some."""
        self.clients.add(response)
        self._picture.watch(True)
        if self._maker is None:
            self._maker = asyncio.ensure_future(self._make())
        sent, opening = 0, f"--{self.BOUNDARY}\r\n".encode()
        try:
            while True:
                async with self._made:
                    while self._number == sent:
                        if transport is None or transport.is_closing():  # nothing is written that would tell
                            return
                        with contextlib.suppress(asyncio.TimeoutError):
                            await asyncio.wait_for(self._made.wait(), LOOK_SECONDS)
                    jpeg, sent = self._jpeg, self._number
                # A browser shows a part when the next boundary has come: it is sent at once.
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                part = opening + head + jpeg + f"\r\n--{self.BOUNDARY}\r\n".encode()
                await asyncio.wait_for(response.write(part), SLOW_SECONDS)
                opening = b""
        except (asyncio.TimeoutError, OSError, RuntimeError):
            if transport is not None:
                transport.abort()
        finally:
            self.clients.discard(response)
            self._picture.watch(False)
            if not self.clients and self._maker is not None:
                self._maker.cancel()
                self._maker = None
