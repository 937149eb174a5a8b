"""The test picture, sources that keep time and begin again, and sources that are resized."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers.flow import Source

from mirage_cli.errors import MediaError
from mirage_cli.inputs import wrappers as capture
from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.inputs.wrappers import PacedSource, ResizedSource


def test_the_test_picture_moves_and_is_the_same_each_time():
    one = [f.rgb for f in TestPicture(160, 96, paced=False, frames=8)]
    two = [f.rgb for f in TestPicture(160, 96, paced=False, frames=8)]
    assert all(np.array_equal(a, b) for a, b in zip(one, two))
    assert all(not np.array_equal(a, b) for a, b in zip(one, one[1:]))
    assert one[0].std() > 30 and one[0].shape == (96, 160, 3) and one[0].flags["C_CONTIGUOUS"]
    assert TestPicture(16, 16).draw(1234.5).shape == (16, 16, 3)


def test_a_paced_source_keeps_time_and_can_begin_again():
    paced = PacedSource(Source(4), reopen=lambda: Source(4))
    begin, seen = time.perf_counter(), []
    for frame in paced:
        seen.append((frame.index, frame.pts_seconds, time.perf_counter() - begin))
        if frame.index == 9:
            paced.close()
    assert [index for index, _, _ in seen] == list(range(10))
    assert [pts for _, pts, _ in seen] == pytest.approx([n / 30.0 for n in range(10)])
    assert all(at >= pts - 1e-3 for _, pts, at in seen)
    assert seen[-1][2] < 1.0 and paced.info.frame_count is None
    once = [frame.index for frame in PacedSource(Source(3))]
    assert once == [0, 1, 2]


def lasting(count):
    """Frames, and how long they last, as a file says it."""
    source = Source(count)
    source.info = replace(source.info, duration_seconds=count / 30.0)
    return source


def test_the_next_pass_is_opened_before_this_one_ends(monkeypatch):
    monkeypatch.setattr(capture, "REOPEN_SECONDS", 3 / 30.0)
    opened, ahead = [lasting(6)], []

    def reopen():
        opened.append(lasting(6))
        return opened[-1]

    paced = PacedSource(opened[0], reopen=reopen)
    for frame in paced:
        if paced._next is not None:
            paced._next.result(5)  # begun; however busy the machine is
        ahead.append(len(opened))
        if frame.index == 10:
            paced.close()
    # The fourth picture of a pass is the first within the time; its successor sees the next pass open.
    assert ahead[:3] == [1, 1, 1] and ahead[4:9] == [2] * 5 and ahead[10] == 3
    assert all(source.closed.is_set() for source in opened)  # the third too, which never was shown


def test_a_slow_opening_does_not_hold_the_last_picture(monkeypatch):
    monkeypatch.setattr(capture, "REOPEN_SECONDS", 10.0)

    def reopen():
        time.sleep(0.6)
        return lasting(30)

    paced, begin, late = PacedSource(lasting(30), reopen=reopen), None, []
    for frame in paced:
        begin = begin or time.perf_counter()
        late.append(time.perf_counter() - begin - frame.pts_seconds)
        if frame.index == 40:
            paced.close()
    assert late[30] < 0.3  # opened only at the end, it would be 0.6


def test_a_file_that_is_gone_at_the_end_of_a_pass_is_an_error():
    def gone():
        raise MediaError("gone", "look for it")

    paced, seen = PacedSource(Source(4), reopen=gone), []
    with pytest.raises(MediaError, match="gone"):
        for frame in paced:
            seen.append(frame.index)
    assert seen == [0, 1, 2, 3]
    paced.close()


def test_an_opening_that_hangs_keeps_nobody(monkeypatch):
    """Neither the reader of the frames (the pipeline's watch tells that none comes) nor the end."""
    monkeypatch.setattr(capture, "CLOSE_SECONDS", 0.1)
    hangs, late = threading.Event(), lasting(2)

    def reopen():
        hangs.wait(30)
        return late

    paced = PacedSource(Source(2), reopen=reopen)
    taker = threading.Thread(target=lambda: list(paced))
    taker.start()
    time.sleep(0.3)
    begin = time.perf_counter()
    paced.close()
    taker.join(5)
    assert not taker.is_alive() and time.perf_counter() - begin < 4
    hangs.set()
    assert late.closed.wait(5)  # what came too late is closed when it comes


def test_a_resized_source_says_its_size():
    source = ResizedSource(Source(2), (64, 40))
    assert (source.info.width, source.info.height) == (64, 40)
    assert [frame.rgb.shape for frame in source] == [(40, 64, 3)] * 2
