"""Times, rates and memory are measured right, in fixed memory."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from mirage_cli.measure import LatencyHistogram, Meter, PeakMemory, RateMeter, exact_percentile


def test_the_gpus_share_is_its_own_time():
    meter = Meter()
    assert meter.busy(0.0, on_gpu=True) == {
        "busy": dict.fromkeys(("decode", "model", "encode", "gpu"), 0.0),
        "limiting_stage": None,
    }
    for _ in range(10):
        meter.stage("denoise", 5.0)
        meter.stage("model", 8.0)
    assert meter.busy(0.1, on_gpu=True) == {
        "busy": {"decode": 0.0, "model": 0.8, "encode": 0.0, "gpu": 0.5},
        "limiting_stage": "model",
    }


def test_percentiles_are_right_in_fixed_memory():
    histogram, random_ = LatencyHistogram(), random.Random(3)
    values = [random_.lognormvariate(3.0, 1.0) for _ in range(20_000)]
    for value in values:
        histogram.add(value)
    for percent in (50, 95, 99):
        assert histogram.percentile(percent) == pytest.approx(exact_percentile(values, percent), rel=0.01)
    summary = histogram.summary()
    assert summary["max"] == pytest.approx(max(values), abs=1e-3)
    assert summary["mean"] == pytest.approx(sum(values) / len(values), abs=1e-3)
    assert summary["count"] == 20_000 and len(histogram._counts) == LatencyHistogram._BUCKETS
    assert LatencyHistogram().summary() == {}
    outside = LatencyHistogram()
    for value in (0.0, 1e12):
        outside.add(value)
    assert outside.percentile(100) == 1e12


def test_rates():
    meter = RateMeter()
    for number in range(31):
        meter.tick(number / 10.0)
    assert meter.rate(3.0) == pytest.approx(10.0)
    assert meter.rate(9.0) < 5.0


def test_peak_memory_sees_a_big_array():
    """In a process of its own: here an earlier test may have had a higher peak."""
    code = (
        "import numpy as np\n"
        "from mirage_cli.measure import PeakMemory\n"
        "print(PeakMemory().megabytes()['process'])\n"
        "block = np.ones(100_000_000, np.uint8)\n"
        "print(PeakMemory().megabytes()['process'])\n"
        "del block\n"
        "print(PeakMemory().megabytes()['process'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, during, after = map(float, done.stdout.split())
    assert before > 20.0
    assert 100_000_000 / 2**20 - 0.2 <= during - before < 130.0  # both are rounded to 0.1 MiB
    assert after == pytest.approx(during, rel=0.05)  # a peak stays


def test_children_that_never_lived_together_are_not_added_up():
    memory, peaks = PeakMemory(), []
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        child.stdout.readline()
        memory.sample()
        child.communicate(b"\n")
        peaks.append(memory.megabytes()["children"])
    assert peaks[0] > 1 and peaks[-1] < 1.5 * peaks[0]
