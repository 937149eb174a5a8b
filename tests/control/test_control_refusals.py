"""What the control server refuses: foreign pages, floods, slow clients, requests without the token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time

import aiohttp
import pytest
from helpers.control import TOKEN, ask, browse, port_of, running

from mirage_cli.control import server as server_module
from mirage_cli.control.access import Address, Gate, RateLimit, check_token, parse_address
from mirage_cli.control.schema import MAX_MESSAGE_BYTES
from mirage_cli.errors import UsageProblem


def raw(run, data: bytes, wait_seconds: float = 5.0) -> bytes:
    """What the server says to bytes on a plain socket, until it closes or time is up."""
    with socket.create_connection(("127.0.0.1", port_of(run)), timeout=wait_seconds) as client:
        client.sendall(data)
        answer = b""
        try:
            while part := client.recv(65536):
                answer += part
        except (TimeoutError, ConnectionError):
            pass
        return answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "evil.example:{port}"}, 403),  # DNS bent to 127.0.0.1
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another program's page on this machine
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_foreign_pages_are_refused(control_run, headers, status):
    port = port_of(control_run)
    given = {"Host": "127.0.0.1:{port}", "Connection": "close", **headers}
    for request in ("GET /api/state", "GET /api/socket", "GET /metrics"):
        lines = [f"{request} HTTP/1.1"] + [f"{name}: {value.format(port=port)}" for name, value in given.items()]
        if "socket" in request:
            lines += [
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ]
            lines.remove("Connection: close")
            if status == 200:
                continue  # the next test opens one
        answer = raw(control_run, ("\r\n".join(lines) + "\r\n\r\n").encode())
        assert answer.split()[1] == str(status).encode(), (request, answer[:200])
        if status == 403:
            assert b'"ok": false' in answer and b"Access-Control" not in answer


@pytest.fixture(scope="module")
def control_run():
    with running(control="0") as run:
        yield run


def test_a_form_of_a_foreign_page_changes_nothing(control_run):
    """A simple request needs no preflight; its content type gives it away, and OPTIONS grants nothing."""
    host = f"127.0.0.1:{port_of(control_run)}"
    body = '{"quit": true}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = raw(
            control_run,
            f"POST /api/control HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode(),
        )
        assert answer.startswith(b"HTTP/1.1 400") and b"application/json" in answer
    answer = raw(
        control_run,
        f"OPTIONS /api/control HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n"
        "Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 403") and b"Access-Control-Allow" not in answer
    assert not control_run.stop.event.is_set()


def test_oversized_bodies_and_messages_are_refused(control_run):
    async def work(session, url):
        big = "x" * (MAX_MESSAGE_BYTES + 100)
        async with session.post(f"{url}/api/control", json={"prompt": big}) as reply:
            assert reply.status == 413
        async with session.ws_connect(f"{url}/api/socket") as ws:
            await ws.send_str(json.dumps({"prompt": big}))
            while (message := await ws.receive(timeout=5)).type == aiohttp.WSMsgType.TEXT:
                assert json.loads(message.data)["type"] == "state"
            assert ws.close_code == 1009

    browse(control_run, work)
    host = f"127.0.0.1:{port_of(control_run)}"
    answer = raw(control_run, f"GET /api/state HTTP/1.1\r\nHost: {host}\r\nX: {'y' * 20000}\r\n\r\n".encode())
    assert answer.split()[1] == b"400"
    answer = raw(
        control_run,
        f"POST /api/control HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        "Content-Length: 99999999999\r\n\r\n{".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 413")


def test_floods_are_refused_and_the_stream_goes_on(monkeypatch):
    async def work(session, url):
        async def one():
            async with session.get(f"{url}/api/state") as reply:
                return reply.status

        statuses = await asyncio.gather(*(one() for _ in range(300)), return_exceptions=True)
        assert 429 in statuses and 200 in statuses

    async def chatter(session, url):
        async with session.ws_connect(f"{url}/api/socket") as ws:
            with contextlib.suppress(ConnectionError):
                for _ in range(1000):
                    await ws.send_str('{"strength": 0.5}')
            while (await ws.receive(timeout=5)).type == aiohttp.WSMsgType.TEXT:
                pass
            return ws.close_code

    with running(control="0") as run:
        frames = run.hub.styler.frames
        browse(run, work)
        time.sleep(0.5)
        assert browse(run, chatter) in (1008, 1006)  # 1006: the reason is lost among what it still sent
        assert ask(run, strength=1.0)["ok"] and run.hub.styler.frames > frames
    assert run.hub.refused > 0


def test_slow_clients_are_let_go(monkeypatch):
    monkeypatch.setattr(server_module, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(server_module, "IDLE_SECONDS", 0.8)
    with running(control="0") as run:
        host = f"127.0.0.1:{port_of(run)}"
        begin = time.monotonic()
        answer = raw(
            run,
            f"POST /api/control HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: 20\r\n\r\n{".encode(),
            8,
        )
        assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - begin < 4
        begin = time.monotonic()
        assert raw(run, b"GET /api/sta", 8) == b"" and time.monotonic() - begin < 5  # never ends its request
        assert ask(run, strength=0.5)["ok"]


def test_connections_and_sockets_have_a_limit(monkeypatch):
    monkeypatch.setattr(server_module, "MAX_SOCKETS", 3)
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 10)

    async def work(session, url):
        open_ones = [await session.ws_connect(f"{url}/api/socket") for _ in range(3)]
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await session.ws_connect(f"{url}/api/socket")
        for ws in open_ones:
            await ws.close()

    with running(control="0") as run:
        browse(run, work)
        port = port_of(run)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        time.sleep(0.1)
        answer = raw(run, f"GET /api/state HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 503")
        for client in clients:
            client.close()


def test_a_token_is_asked_for(monkeypatch):
    async def work(session, url):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Cookie": "mirage_session=x"},
        ):
            for path in ("/api/state", "/api/socket", "/metrics", "/preview.mjpg"):
                async with session.get(url + path, headers=headers) as reply:
                    assert reply.status == 401, (headers, path)
        async with session.get(f"{url}/api/state", headers={"Authorization": f"Bearer {TOKEN}"}) as reply:
            assert reply.status == 200
        async with session.get(url) as reply:  # the page holds no secret
            assert reply.status == 200
        async with session.post(f"{url}/api/login", json={"token": "wrong"}) as reply:
            assert reply.status == 401
        async with session.post(f"{url}/api/login", json={"token": TOKEN}) as reply:
            assert reply.status == 200
            cookie = reply.headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
            secret = reply.cookies["mirage_session"].value
        async with session.get(f"{url}/api/state", headers={"Cookie": f"mirage_session={secret}"}) as reply:
            assert reply.status == 200
        statuses = []
        for _ in range(6):
            async with session.post(f"{url}/api/login", json={"token": "wrong"}) as reply:
                statuses.append(reply.status)
        assert 429 in statuses

    with running(preview="0", control_token=TOKEN) as run:
        browse(run, work)
    assert TOKEN not in json.dumps(run.document, default=str)


def test_addresses_tokens_and_rates():
    assert parse_address("8765", "--control") == Address("127.0.0.1", 8765)
    assert parse_address("0.0.0.0:0", "--control") == Address("0.0.0.0", 0)
    assert parse_address("[::1]:80", "--control").loopback and parse_address("localhost:80", "--c").loopback
    for text in ("", "x", ":80", "1.2.3.4", "host:99999", "-1", "[zz]:80", "a b:80", "８０"):
        with pytest.raises(UsageProblem):
            parse_address(text, "--control")
    check_token(None, [("--control", Address("127.0.0.1", 1))])
    check_token(TOKEN, [("--control", Address("0.0.0.0", 1))])
    for token in (None, "short", "x" * 15, "has a space in it somewhere"):
        with pytest.raises(UsageProblem):
            check_token(token, [("--control", Address("0.0.0.0", 1))])
    gate = Gate([Address("0.0.0.0", 1)], TOKEN)
    assert gate.knows(f"Bearer {TOKEN}", None) and not gate.knows(f"Bearer {TOKEN}x", None)
    sessions = [gate.open_session() for _ in range(65)]
    assert gate.knows(None, sessions[-1]) and not gate.knows(None, sessions[0]) and not gate.knows(None, "é")
    now = [0.0]
    rate = RateLimit(10.0, 3, clock=lambda: now[0], clients=2)
    assert [rate.allows("a") for _ in range(5)] == [True, True, True, False, False]
    now[0] = 0.1
    assert rate.allows("a") and not rate.allows("a")
    assert rate.allows("b") and rate.allows("c") and len(rate._level) == 2
