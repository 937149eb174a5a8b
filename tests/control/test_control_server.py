"""The control socket on real sockets: what it answers, and whom it keeps out."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time

import pytest
from helpers.control import ask, browse, running

from mirage_cli.control import hub as hub_module, server as server_module
from mirage_cli.control.schema import json_schema
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.measure import LatencyHistogram


def test_http_changes_and_answers():
    async def work(session, url):
        async with session.post(f"{url}/api/control", json={"strength": 0.25, "id": 4}) as reply:
            answer = await reply.json()
            assert reply.status == 200 and answer["ok"] and answer["id"] == 4
            assert isinstance(answer["frame"], int) and answer["waited_frames"] <= 2
            assert reply.headers["X-Frame-Options"] == "DENY"
        async with session.get(f"{url}/api/state") as reply:
            state = await reply.json()
            assert state["strength"] == 0.25 and state["fps_out"] is not None and state["latency_ms"]["p95"] > 0
        async with session.get(f"{url}/api/looks") as reply:
            assert "ink-wash" in (await reply.json())["looks"]
        async with session.get(f"{url}/api/presets") as reply:
            assert len((await reply.json())["presets"]) >= 5
        async with session.get(f"{url}/api/schema") as reply:
            assert await reply.json() == json_schema()
        async with session.get(f"{url}/api/preset.toml") as reply:
            assert "strength = 0.25" in await reply.text()
        for body, status in (({"strength": 3}, 400), ({"record": False}, 409), ({}, 400), ([], 400)):
            async with session.post(f"{url}/api/control", json=body) as reply:
                answer = await reply.json()
                assert reply.status == status and not answer["ok"] and answer["error"]["message"]
        for path, status in (("/", 404), ("/preview.mjpg", 404), ("/api/nothing", 404), ("/../etc/passwd", 404)):
            async with session.get(f"{url}{path}") as reply:
                assert reply.status == status, path
        async with session.get(f"{url}/api/control") as reply:
            assert reply.status == 405

    with running(control="0") as run:
        browse(run, work)
        assert any(note.startswith("control: http://127.0.0.1:") for note in run.ui.notes)


def test_a_websocket_gets_answers_states_and_the_changes_of_others():
    async def work(session, url):
        async with session.ws_connect(f"{url}/api/socket") as ws:
            seen = {"state": [], "answer": [], "applied": []}
            await ws.send_json({"prompt": "night", "id": "a"})
            await ws.send_json({"strength": 9, "id": "b"})
            await ws.send_str("no json")
            await session.post(f"{url}/api/control", json={"seed": 5})
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and (
                len(seen["answer"]) < 3 or len(seen["applied"]) < 2 or len(seen["state"]) < 2
            ):
                message = await ws.receive_json(timeout=5)
                seen[message["type"]].append(message)
            answers = {answer.get("id"): answer for answer in seen["answer"]}
            assert answers["a"]["ok"] and "look night" in answers["a"]["notes"][0]
            assert not answers["b"]["ok"] and "strength 9" in answers["b"]["error"]["message"]
            assert "not JSON" in answers[None]["error"]["message"]
            assert {tuple(item["applied"]) for item in seen["applied"]} == {("prompt",), ("seed",)}
            assert seen["state"][-1]["frame"] >= seen["state"][0]["frame"]

    with running(control="0") as run:
        browse(run, work)


def test_a_change_takes_effect_within_two_frames_of_its_message():
    """At 25 frames a second with a model of 20 ms: frames between the message and its frame."""

    async def work(session, url):
        waited = []
        async with session.ws_connect(f"{url}/api/socket") as ws:
            for number in range(30):
                change = {"prompt": ("night", "ink wash")[number % 2]} if number % 3 == 0 else {"strength": number / 30}
                await ws.send_json({**change, "id": number})
                while (message := await ws.receive_json(timeout=5))["type"] != "answer":
                    pass
                waited.append(message["waited_frames"])
        return waited

    import os

    os.environ["FAKE_MODEL_MS"] = "20"
    try:
        with running(control="0", fps=25.0) as run:
            waited = browse(run, work)
    finally:
        del os.environ["FAKE_MODEL_MS"]
    assert max(waited) <= 2, waited


def test_metrics_are_in_prometheus_form():
    async def work(session, url):
        async with session.get(f"{url}/metrics") as reply:
            assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            return await reply.text()

    with running(control="0") as run:
        ask(run, strength=0.5)
        text = browse(run, work)
    sample = re.compile(r'([a-z_]+)(\{(?:[a-z]+="[^"\\]*",?)+\})? ([-+0-9.e]+)')
    values, kinds = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            kinds[line.split()[2]] = line.split()[3]
        elif not line.startswith("#"):
            match = sample.fullmatch(line)
            assert match, line
            values[match[1] + (match[2] or "")] = float(match[3])
    assert kinds["mirage_latency_seconds"] == "histogram" and kinds["mirage_frames_out_total"] == "counter"
    assert values["mirage_frames_out_total"] > 0 and values["mirage_strength"] == 0.5
    assert values["mirage_control_changes_total"] == 1
    for stage in ("read", "model", "write", "end_to_end"):
        buckets = [
            value
            for name, value in values.items()
            if name.startswith(f'mirage_latency_seconds_bucket{{stage="{stage}"')
        ]
        assert (
            buckets == sorted(buckets) and buckets[-1] == values[f'mirage_latency_seconds_count{{stage="{stage}"}}'] > 0
        )
    assert text.endswith("\n")


def test_histogram_buckets_count_what_is_under_their_bound():
    histogram = LatencyHistogram()
    for latency_ms in (0.5, 4.9, 5.2, 39.0, 41.0, 900.0):
        histogram.add(latency_ms)
    assert histogram.at_most((1, 5, 40, 1000)) == [1, 2, 4, 6]


def test_a_change_that_gets_no_frame_is_withdrawn(monkeypatch):
    monkeypatch.setattr(server_module, "FRAME_SECONDS", 0.2)
    monkeypatch.setattr(hub_module, "PREPARE_SECONDS", 0.5)
    goes_on = threading.Event()

    async def work(session, url):
        async with session.post(f"{url}/api/control", json={"prompt": "night", "id": 1}) as reply:
            answer = await reply.json()
            assert reply.status == 504 and "was not ready within" in answer["error"]["message"]
        goes_on.set()
        async with session.post(f"{url}/api/control", json={"prompt": "sea"}) as reply:
            assert reply.status == 200
        stalled.set()
        await asyncio.sleep(0.2)  # the step that is under way
        async with session.post(f"{url}/api/control", json={"strength": 0.3}) as reply:
            answer = await reply.json()
        stalled.clear()
        assert reply.status == 504 and "no frame came" in answer["error"]["message"]

    stalled = threading.Event()
    with running(control="0") as run:
        match = run.models.match
        run.models.match = lambda options, text: goes_on.wait(5) and match(options, text)
        session = run.models.sessions[0]
        make = session.step

        def slow(rgb):
            while stalled.is_set():
                time.sleep(0.01)
            return make(rgb)

        session.step = slow
        browse(run, work)
        assert ask(run, seed=1)["ok"] and run.hub.prompt == "sea" and not session.strengths


def test_a_port_that_is_taken_is_one_error():
    def threads():
        return sum(thread.name == "mirage-control" for thread in threading.enumerate())

    before = threads()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refusal = pytest.raises(MediaError, match=f"--control 127.0.0.1:{port} cannot be listened on")
        with refusal, running(control=str(port)):
            pass
    assert threads() == before


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "aiohttp.web", None)
    with pytest.raises(UsageProblem, match="--preview needs aiohttp") as caught, running(preview="0"):
        pass
    assert "mirage-cli[control]" in caught.value.remedy


def test_two_ports_are_one_server():
    async def work(session, url):
        async with session.get(f"{url}/api/state") as reply:
            return await reply.json()

    with running(control="0", preview="127.0.0.1:0") as run:  # the same address, and so one port
        assert browse(run, work)["frame"] > 0
        assert len(run.live.steering.servers[0].addresses) == 1
