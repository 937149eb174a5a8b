"""Changes by OSC, over real UDP sockets."""

from __future__ import annotations

import socket
import sys
import time

import pytest
from helpers.control import running

from mirage_cli.errors import MediaError, UsageProblem

pytest.importorskip("pythonosc", reason="OSC needs python-osc")
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder, build_msg

TOKEN = "a-long-token_0123456789"


class Performer:
    """A client that hears the answers."""

    def __init__(self, port):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(3)
        self._to = ("127.0.0.1", port)

    def send(self, address, *values):
        self.raw(build_msg(address, list(values)).dgram)

    def raw(self, data):
        self._socket.sendto(data, self._to)

    def hear(self):
        message = OscMessage(self._socket.recv(4096))
        return message.address, message.params

    def silent(self, seconds=0.3):
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(4096) is None
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(3)

    def close(self):
        self._socket.close()


def performer(run):
    deadline = time.monotonic() + 5
    while not run.live.steering.servers and time.monotonic() < deadline:
        time.sleep(0.01)
    return Performer(run.live.steering.servers[-1].address.port)


def test_each_message_is_applied_and_answered():
    with running(osc="0") as run:
        me = performer(run)
        me.send("/mirage/strength", 0.25)
        address, (name, frame) = me.hear()
        assert (address, name) == ("/mirage/applied", "strength") and frame >= 0
        for message in (
            ("/mirage/prompt", "night"),
            ("/mirage/blend/mosaic", 1.0),
            ("/mirage/seed", 7),
            ("/mirage/blend-seconds", 0.5),
            ("/mirage/pause", True),
            ("/mirage/pause", 0),
        ):
            me.send(*message)
            assert me.hear()[0] == "/mirage/applied", message
        state = run.hub.state()
        assert (state["strength"], state["seed"], state["pause"]) == (0.25, 7, False)
        assert state["prompt"] == "1.0*mosaic" and state["blend_seconds"] == 0.5
        me.send("/mirage/strength", 4.0)
        address, (telling,) = me.hear()
        assert address == "/mirage/refused" and "strength 4.0; allowed" in telling
        me.send("/mirage/nothing", 1)
        assert me.hear()[0] == "/mirage/refused"
        me.send("/mirage/snapshot", 0.0)  # the button let go
        me.send("/other/strength", 0.9)
        assert me.silent()
        me.close()
    assert run.document["files"] == []


def test_what_is_no_osc_is_dropped_in_silence(capfd):
    with running(osc="0") as run:
        me = performer(run)
        for data in (
            b"",
            b"\0",
            b"/mirage",
            b"/mirage/strength\0\0\0\0,f\0",
            b"#bundle\0" + b"\xff" * 40,
            b"/" * 60000,
        ):
            me.raw(data)
        # A bundle for next year must not hold up what comes after it.
        late = OscBundleBuilder(time.time() + 3e7)
        message = OscMessageBuilder("/mirage/seed")
        message.add_arg(3)
        late.add_content(message.build())
        me.raw(late.build().dgram)
        me.send("/mirage/strength", 0.5)
        answers = [me.hear() for _ in range(2)]
        assert ("/mirage/applied", ["strength"]) in [(a, p[:1]) for a, p in answers]
        me.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_token_is_part_of_the_address():
    with running(osc="0.0.0.0:0", control_token=TOKEN) as run:
        me = performer(run)
        me.send("/mirage/strength", 0.1)
        me.send(f"/mirage/{TOKEN[:-1]}x/strength", 0.1)
        assert me.silent() and run.hub.state()["strength"] == 1.0
        me.send(f"/mirage/{TOKEN}/strength", 0.4)
        assert me.hear()[0] == "/mirage/applied"
        me.close()


def test_a_flood_is_dropped():
    with running(osc="0") as run:
        me = performer(run)
        begin = time.monotonic()
        for _ in range(5000):
            me.send("/mirage/strength", 0.5)
        seconds = time.monotonic() - begin
        time.sleep(0.3)
        assert run.hub.changes <= 800 + 400 * (seconds + 0.5) and run.hub.changes > 0
        me.close()


def test_a_port_that_is_taken_and_a_library_that_is_missing(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        refusal = pytest.raises(MediaError, match="--osc 127.0.0.1:.* cannot be listened on")
        with refusal, running(osc=str(taken.getsockname()[1])):
            pass
    monkeypatch.setitem(sys.modules, "pythonosc", None)
    with pytest.raises(UsageProblem, match="--osc needs python-osc") as caught, running(osc="0"):
        pass
    assert "mirage-cli[control]" in caught.value.remedy
