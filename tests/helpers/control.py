"""A live run in a thread, and how its control socket is spoken to."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager

import aiohttp

from helpers.fakes import FakeModels, RecordingUi
from mirage_cli.config import LiveConfig
from mirage_cli.control import hub as hub_module
from mirage_cli.control.schema import make_change
from mirage_cli.runs import live
from mirage_cli.styling.stopping import StopSwitch


@contextmanager
def running(**values):
    """A live run in a thread: its models, ui, hub and, at the end, document."""
    given = {
        "input": "test",
        "prompts": ("ink wash",),
        "window": False,
        "size": (64, 48),
        "fps": 100.0,
        "duration_seconds": 20.0,
        **values,
    }
    run = type("Run", (), {})()
    run.models, run.ui, run.stop = FakeModels(), RecordingUi(), StopSwitch()
    ready = threading.Event()

    def started(begun):
        run.live, run.hub = begun, begun.steering.hub
        ready.set()

    def work():
        try:
            run.document = live.run(
                LiveConfig(**given), run.ui, models=run.models, stop=run.stop, keys=False, started=started
            )
        except BaseException as error:
            run.error = error
            ready.set()

    thread = threading.Thread(target=work)
    try:
        thread.start()
        assert ready.wait(10)
        while not hasattr(run, "error") and not run.hub.styler.frames:
            time.sleep(0.005)
        if hasattr(run, "error"):
            raise run.error
        yield run
    finally:
        run.stop.stop("test")
        thread.join(20)
    if hasattr(run, "error"):
        raise run.error


def wait(hub, answer):
    """The answer, or ``TooLate`` when none comes in time, as a client of the control socket gets it."""
    while True:
        try:
            return answer.result(hub_module.FRAME_SECONDS)
        except NotInTime:
            hub.check_time(answer)


def ask(run, **fields):
    return wait(run.hub, run.hub.submit(make_change(fields), "test"))


TOKEN = "a-long-token_0123456789"


def url_of(run) -> str:
    deadline = time.monotonic() + 5
    while not run.live.steering.address and time.monotonic() < deadline:
        time.sleep(0.01)
    return run.live.steering.address.rstrip("/")


def port_of(run) -> int:
    return int(url_of(run).rsplit(":", 1)[1])


def browse(run, work, headers=None):
    """Run ``work(session, url)`` against the live run's server."""

    async def main():
        few = aiohttp.TCPConnector(limit=8)
        async with aiohttp.ClientSession(headers=headers, connector=few) as session:
            return await asyncio.wait_for(work(session, url_of(run)), 30)

    return asyncio.run(main())
