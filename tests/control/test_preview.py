"""The preview page: its stream by a plain HTTP client, and the page itself in a browser where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import pytest
from helpers.control import TOKEN, ask, browse, port_of, running, url_of

from mirage_cli.control import server as server_module

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


def test_the_stream_is_jpegs_of_the_styled_picture():
    async def work(session, url):
        pictures = []
        async with session.get(f"{url}/preview.mjpg") as reply:
            assert reply.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=mirageframe"
            while len(pictures) < 5:
                line = await reply.content.readline()
                if line.startswith(b"Content-Length:"):
                    assert await reply.content.readline() == b"\r\n"
                    data = await reply.content.readexactly(int(line.split(b":")[1]))
                    pictures.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
        return pictures

    with running(preview="0", fps=60.0) as run:
        assert run.live.outputs.taps.watch is None  # nobody watches: nothing is encoded
        pictures = browse(run, work)
        shown = cv2.cvtColor(pictures[-1], cv2.COLOR_BGR2RGB).astype(int)
        negative = 255 - run.live.source.draw(0.1).astype(int)  # what the stand-in model makes
        assert shown.shape == (48, 64, 3) and np.abs(shown - negative).mean() < 25
        deadline = time.monotonic() + 5
        while run.live.outputs.taps.watch is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert run.live.outputs.taps.watch is None


def test_the_page_needs_nothing_from_elsewhere():
    async def work(session, url):
        texts = {}
        for path in ("/", "/page.js", "/page.css"):
            async with session.get(url + path) as reply:
                assert reply.status == 200
                texts[path] = await reply.text()
                assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        return texts

    with running(preview="0") as run:
        texts = browse(run, work)
        assert any(note.startswith("preview and control: http://127.0.0.1:") for note in run.ui.notes)
    for text in texts.values():
        assert not re.search(r"https?://(?!\$)", text)
    named = set(re.findall(r'\$\("([\w-]+)"\)', texts["/page.js"]))
    assert named <= set(re.findall(r'id="([\w-]+)"', texts["/"])) and len(named) > 10
    assert "innerHTML" not in texts["/page.js"]


def test_a_watcher_that_goes_while_no_picture_comes_frees_its_place(monkeypatch):
    monkeypatch.setattr(server_module, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(server_module, "MAX_STREAMS", 2)
    monkeypatch.setattr(server_module.NewestPicture, "jpeg", lambda self: None)
    with running(preview="0") as run:
        url_of(run)  # waits until it listens
        clients = run.live.steering.servers[0].preview.clients
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", port_of(run))) as client:
                client.sendall(f"GET /preview.mjpg HTTP/1.1\r\nHost: 127.0.0.1:{port_of(run)}\r\n\r\n".encode())
                assert client.recv(64).startswith(b"HTTP/1.1 200")
            deadline = time.monotonic() + 5
            while clients and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not clients


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_a_typed_prompt_is_not_written_over_before_it_is_sent():
    page = (Path(server_module.__file__).parent / "page.js").read_text("utf-8")
    script = """
        const parts = {};
        const none = () => new Promise(() => {});
        globalThis.document = { activeElement: null, getElementById: (id) => (parts[id] ??= { setAttribute() {} }) };
        globalThis.location = { hash: "" };
        globalThis.fetch = none;
    """
    script += (
        page
        + """
        const told = [];
        const show = (prompt) => {
          showState({ prompt, strength: 1, size: [1, 1] });
          told.push($("prompt").value);
        };
        const type = (text) => { $("prompt").value = text; $("prompt").oninput(); };
        socket = { readyState: 1, send() {} };
        globalThis.WebSocket = { OPEN: 1 };
        show("ink");
        type("night");
        show("ink");
        $("ask").onsubmit({ preventDefault() {} });
        show("ink");
        show("night");
        type("sea");
        show("of another");
        console.log(told.join());
    """
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "ink,night,night,night,sea", done.stderr


def test_a_watcher_that_takes_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(server_module, "SLOW_SECONDS", 0.3)
    with running(preview="0", size=(640, 480)) as run:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port_of(run)))
        client.sendall(f"GET /preview.mjpg HTTP/1.1\r\nHost: 127.0.0.1:{port_of(run)}\r\n\r\n".encode())
        deadline = time.monotonic() + 10
        while run.live.outputs.taps.watch is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert run.live.outputs.taps.watch is not None
        while run.live.outputs.taps.watch is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert run.live.outputs.taps.watch is None
        before = run.hub.styler.frames
        assert ask(run, strength=0.5)["frame"] >= before
        client.close()


class Browser:
    """A headless Chromium spoken to over its debugging socket."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-port=0",
                "--window-size=1000,900",
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._port_file = folder / "DevToolsActivePort"
        self._count = 0

    async def __aenter__(self):
        deadline = time.monotonic() + 60
        while not (self._port_file.exists() and self._port_file.read_text().strip()):
            assert time.monotonic() < deadline and self._process.poll() is None, "the browser did not start"
            await asyncio.sleep(0.05)
        port = self._port_file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as reply:
            page = next(item for item in await reply.json() if item["type"] == "page")
        self._ws = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        self.problems = []
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(Exception):
            await self._ws.close()
        await self._session.close()
        self._process.terminate()
        self._process.wait(10)

    async def call(self, method, **params):
        self._count += 1
        await self._ws.send_json({"id": self._count, "method": method, "params": params})
        while True:
            message = json.loads((await self._ws.receive(timeout=30)).data)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(message["params"])
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]

    async def value(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not (value := await self.value(expression)):
            assert time.monotonic() < deadline, expression
            await asyncio.sleep(0.05)
        return value


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_shows_and_steers_in_a_browser(tmp_path):
    async def work(session, url):
        async with Browser(tmp_path / "profile") as page:
            await page.call("Page.navigate", url=f"{url}/#token={TOKEN}")
            await page.until("document.getElementById('link')?.textContent === 'connected'")
            assert await page.value("location.hash") == "", "the token does not stay in the address"
            await page.until("document.getElementById('picture').naturalWidth === 64")
            await page.until("parseFloat(document.getElementById('fps-out').textContent) > 1")
            await page.until("parseFloat(document.getElementById('p50').textContent) > 0")
            assert await page.value("document.getElementById('looks').options.length") == 5
            await page.value(
                "document.getElementById('prompt').value = 'night';document.getElementById('ask').requestSubmit(); 1"
            )
            told = await page.until(
                "(t => t.includes('applied at frame') && t)(document.getElementById('told').textContent)"
            )
            assert told.startswith("prompt night: applied at frame") and "taken as the look night" in told
            await page.value(
                "(s => {s.value = 0.3; s.dispatchEvent(new Event('input')); s.dispatchEvent(new Event('change'))})"
                "(document.getElementById('strength'))"
            )
            await page.until("document.getElementById('told').textContent.startsWith('strength 0.3')")
            await page.value(
                "(l => {l.value = 'mosaic'; l.dispatchEvent(new Event('change'))})(document.getElementById('looks'))"
            )
            await page.until("document.getElementById('told').textContent.startsWith('blend')")
            await page.value("document.getElementById('pause').click()")
            await page.until("document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
            await page.value(
                "document.getElementById('prompt').value = '';document.getElementById('ask').requestSubmit(); 1"
            )
            await page.until("document.getElementById('told').className === 'bad'")
            return [p for p in page.problems if p.get("entry", {}).get("level", "error") == "error"]

    with running(preview="0", control_token=TOKEN, fps=30.0, duration_seconds=60.0) as run:
        problems = browse(run, work)
        state = run.hub.state()
    assert (state["strength"], state["pause"], state["looks"]) == (0.3, True, {"mosaic": 1.0}) or state[
        "prompt"
    ] == "1.0*mosaic"
    assert [p for p in problems if "401" not in str(p)] == []  # the first question, before the token was given


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_page_of_another_site_gets_nothing(tmp_path):
    """A real browser, a page on another port, loopback control without a token."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "evil.html").write_text("<title>evil</title>")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "site"))
    Thread(target=site.serve_forever, daemon=True).start()

    async def work(session, url):
        async with Browser(tmp_path / "profile") as page:
            await page.call("Page.navigate", url=f"http://127.0.0.1:{site.server_port}/evil.html")
            await page.until("document.title === 'evil'")
            for mode in ("cors", "no-cors"):
                await page.value(
                    f"fetch('{url}/api/control', {{method: 'POST', mode: '{mode}', body: '{{\"strength\": 0.1}}'}})"
                    ".then(() => 'came through', () => 'refused')"
                )
            opened = await page.value(
                f"new Promise(r => {{const w = new WebSocket('{url.replace('http', 'ws')}/api/socket');"
                "w.onopen = () => r('open'); w.onerror = () => r('refused')})"
            )
            seen = await page.value(
                f"new Promise(r => {{const i = new Image(); i.onload = () => r('seen'); i.onerror = () => r('refused');"
                f"i.src = '{url}/preview.mjpg'}})"
            )
            return opened, seen

    try:
        with running(preview="0", fps=30.0, duration_seconds=60.0) as run:
            assert browse(run, work) == ("refused", "refused")
            assert run.hub.state()["strength"] == 1.0 and run.hub.changes == 0 and run.hub.refused >= 3
    finally:
        site.shutdown()


def test_the_address_is_told():
    with running(preview="0") as run:
        assert url_of(run).startswith("http://127.0.0.1:") and run.live.stats().control.startswith("http://")
