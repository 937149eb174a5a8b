"""The numbers that README, docs/live.md and the model card print are those of the documents that they name.

A claim is the text of a page with ``{}`` for each number, and for each number where it stands in the document. A number
agrees when the document's value rounds to it, at the decimals that are printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README, CARD, LIVE = "README.md", "models/lsd-small/MODEL_CARD.md", "docs/live.md"
NUMBER = r"(\d[\d,]*(?:\.\d+)?)"
Value = Callable[[Any], float]


@dataclass(frozen=True)
class Claim:
    """``text``: of the page, whitespace folded, without ``**``. ``values``: one for each ``{}`` of it."""

    page: str
    file: str
    text: str
    values: tuple[Value, ...]


@cache
def page_text(page: str) -> str:
    """A page with its line breaks kept only where they end a row of a table."""
    text = (ROOT / page).read_text("utf-8").replace("**", "")
    return re.sub(r"(?<!\|)\s*\n(?!\|)", " ", text)


@cache
def document(file: str) -> Any:
    return json.loads((ROOT / "docs" / "benchmarks" / file).read_text("utf-8"))


def numbers(text: str, claim: Claim) -> list[str]:
    """The numbers that ``text`` prints where the claim has ``{}``."""
    pattern = NUMBER.join(re.escape(part) for part in claim.text.split("{}"))
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{claim.page}: {len(found)} places like {claim.text!r}"
    return [found[0]] if isinstance(found[0], str) else list(found[0])


def agrees(printed: str, value: float) -> bool:
    decimals = len(printed.partition(".")[2])
    return abs(float(printed.replace(",", "")) - value) <= 0.5 * 10**-decimals * (1 + 1e-6)


def check(text: str, claim: Claim) -> None:
    printed = numbers(text, claim)
    assert len(printed) == len(claim.values)
    for shown, value in zip(printed, claim.values):
        recorded = value(document(claim.file))
        assert agrees(shown, recorded), f"{claim.page} prints {shown}, {claim.file} has {recorded}: {claim.text!r}"


# --- where numbers stand in the documents ---


def at(*path: str | int) -> Value:
    """A number by its keys, e.g. ``at("latency_ms", "denoise", "p50")``."""

    def value(found: Any) -> float:
        for key in path:
            found = found[key]
        return found

    return value


def percent(of: Value) -> Value:
    return lambda found: 100 * of(found)


def row(table: str, name: str, key: str) -> Value:
    """A number of the row called ``name``, e.g. of the ladder."""
    return lambda found: next(row for row in found[table] if row["name"] == name)[key]


def percentiles(*path: str, names: tuple[str, ...] = ("p50", "p95")) -> tuple[Value, ...]:
    return tuple(at(*path, name) for name in names)


def departure(look: str) -> Value:
    """The largest departure of the last loop from the first, in percent: contrast, colour, sharpness."""

    def value(found: Any) -> float:
        ratios = found["looks"][look]["drift"][0]["drift"]["tail_over_head"]
        return max(100 * abs(ratios[name] - 1) for name in ("luma_spread", "saturation", "sharpness"))

    return value


def ranked(place: int, of: Callable[[Any], Iterator[float]]) -> Value:
    """The number at ``place`` from the largest on."""
    return lambda found: sorted(of(found), reverse=True)[place]


def departures(found: Any) -> Iterator[float]:
    return (departure(look)(found) for look in found["looks"])


def above_history_off(found: Any) -> Iterator[float]:
    return (one["fidelity"]["last_return_above_history_off_levels"] for one in found["looks"].values())


def drift_of_still_clips(found: Any) -> Iterator[float]:
    rows = found["light_is_no_motion"]["0.5, 1, 1"]["still_worst_of_four_clips"]
    return (row["worst_drift_error"] for row in rows)


def looks_above_history_off(found: Any) -> float:
    return sum(one["fidelity"]["last_return_over_history_off"] > 1 for one in found["looks"].values())


# --- the claims ---


def ladder(label: str, name: str) -> Claim:
    values = tuple(row("ladder", name, key) for key in ("p50", "p99"))
    return Claim(README, "h200-ladder-512x512.json", f"| {label} | {{}} ms | {{}} ms |", values)


def race(label: str, name: str) -> Claim:
    values = tuple(row("race", name, key) for key in ("p50", "p99", "prepare_seconds"))
    return Claim(README, "h200-race-512x512.json", f"| {label} | {{}} ms | {{}} ms | {{}} s |", values)


def evaluated(text: str, *paths: str) -> Claim:
    return Claim(CARD, "eval-h200.json", text, tuple(at("summary", *path.split("/")) for path in paths))


def live(label: str, name: str) -> Claim:
    values = (*(at("marker", "latency_ms", key) for key in ("min", "p50", "p95")), at("marker", "dropped"))
    text = f"| {label} | {{}} ms | {{}} ms | {{}} ms | {{}} of {{}} | {{}} |"
    return Claim(LIVE, f"live-2core-{name}.json", text, (*values, at("marker", "frames_seen"), at("marker", "doubled")))


CPU, LONG, STILL = "cpu-2core-512x288.json", "eval-h200-36000-frames.json", "h200-history-levels.json"

CLAIMS = [
    Claim(README, CPU, "| denoiser | {} ms | {} ms |", percentiles("latency_ms", "denoise")),
    Claim(
        README,
        CPU,
        "| frame to frame (motion, denoiser, composing) | {} ms | {} ms |",
        percentiles("latency_ms", "device_frame"),
    ),
    Claim(
        README,
        CPU,
        "| end to end, with decoding and encoding, one frame at a time | {} ms | {} ms |",
        percentiles("latency_ms", "end_to_end"),
    ),
    Claim(
        README,
        CPU,
        "| frames a second, decoding and encoding in parallel with the model | {} | |",
        (at("pipelined", "frames_per_second"),),
    ),
    Claim(README, CPU, "one step, {} frames after {} of warm-up", (at("frames"), at("warmup_frames"))),
    Claim(
        README,
        "cpu-cores-512x288.json",
        "On 2, 4, 8 and 16 cores of a Xeon with AMX a frame takes {}, {}, {} and {} ms",
        tuple(at("cores", cores, "latency_ms", "end_to_end", "p50") for cores in ("2", "4", "8", "16")),
    ),
    ladder("torch, eager", "eager"),
    ladder("channels_last", "channels_last"),
    ladder("the same under a CUDA graph", "graph"),
    ladder("with kernels for norms, sums and doubling", "+ doubling"),
    ladder("the whole frame as one plan of PTX kernels", "program"),
    ladder("programmatic dependent launch (PDL)", "all"),
    Claim(README, "h200-ladder-512x512.json", "of 512x512, {} frames of each row", (at("frames"),)),
    Claim(
        README,
        "h200-ladder-512x512.json",
        "From pinned memory to pinned memory a frame takes {} ms.",
        (at("host", "host_frame", "p50"),),
    ),
    Claim(
        README,
        "h200-tests.json",
        "takes {} ms at 1280x704 and {} ms at 512x288",
        (at("1280x704 ptx", "p50_ms"), at("512x288 ptx", "p50_ms")),
    ),
    race("mirage", "mirage"),
    race("torch.compile (max-autotune), under a CUDA graph", "torch.compile max-autotune-no-cudagraphs"),
    race("torch.compile (default), under a CUDA graph", "torch.compile default"),
    race("torch under a CUDA graph", "torch"),
    Claim(
        README,
        "h200-transform-720p.json",
        "made {} frames a second at commit 785047d, limited by ffmpeg's decoding"
        " (busy {}% of the time; model {}%, encoder {}%, GPU {}%;",
        (
            at("transform", "fps"),
            *(percent(at("transform", "busy", part)) for part in ("decode", "model", "encode", "gpu")),
        ),
    ),
    Claim(
        README,
        "eval-h200.json",
        "over {} frames, contrast, colour and sharpness of all thirty-five looks, each on one of nine clips,"
        " stayed within {}% of where they began",
        (at("summary", "drift", "fewest_frames"), percent(at("summary", "drift", "worst_departure"))),
    ),
    Claim(
        README,
        LONG,
        "over {} frames (20 minutes) of the three looks tried, within {}%,",
        (at("summary", "drift", "fewest_frames"), percent(at("summary", "drift", "worst_departure"))),
    ),
    Claim(
        CARD,
        "eval-h200.json",
        "| within {}% (starry-night on bottles; the others within {}%) | 5% |",
        (departure("starry-night"), ranked(1, departures)),
    ),
    evaluated(
        "| video drift error, worst look; mean | {}; {} | 0.03 |",
        "drift/worst_video_drift_error",
        "drift/mean_video_drift_error",
    ),
    evaluated(
        "| resets by the guard; memory grown after the first loop | {}; {} MiB, on the GPU {} | 0; flat |",
        "drift/guard_events",
        "drift/memory_growth_mib",
        "drift/gpu_memory_growth_mib",
    ),
    evaluated(
        "| camera paths, 20 returns: L1 at the 20th over the first, worst look | {} | 1.05 |",
        "fidelity/worst_last_over_first_return",
    ),
    evaluated(
        "| L1 at the 20th return over history off, mean of the looks | {} | 1 |",
        "fidelity/last_return_over_history_off",
    ),
    Claim(
        CARD,
        "eval-h200.json",
        "worst looks, levels of 255 | {} (starry-night, stained-glass): missed; the next {} (snow-frost) | 0.5 |",
        (ranked(0, above_history_off), ranked(2, above_history_off)),
    ),
    evaluated(
        "| L1 to the teacher, first five frames; 20th return | {}; {} | 0.13 |",
        "fidelity/first_5",
        "fidelity/last_return",
    ),
    evaluated("| perceptual distance to the teacher | {} | - |", "fidelity/perceptual"),
    evaluated(
        "| warped error over history off, clips, mean of the looks that can move along | {} | 0.8 |",
        "temporal/free_over_history_off",
    ),
    evaluated("| warped error over the teacher's own | {} | 1.2 |", "fidelity/warped_error_over_teacher"),
    evaluated(
        "| flicker on a still input, worst look; mean, levels of 255 | {}; {} | 1 |",
        "temporal/worst_still_flicker_levels",
        "temporal/still_flicker_levels",
    ),
    evaluated(
        "| strokes in plain places, likeness to the teacher's: first frame; later | {}; {} | 0.9 |",
        "fidelity/strokes_first_likeness",
        "fidelity/strokes_likeness",
    ),
    evaluated("| weave of the 4x4 cells, first frame, levels of 255 | {} | 1 |", "fidelity/weave_levels_first"),
    evaluated(
        "| perceptual distance in one step over four; L1 | {}; {} | 1.1 |",
        "steps/perceptual_1_over_4",
        "steps/l1_1_over_4",
    ),
    Claim(
        CARD,
        "eval-h200.json",
        "| unseen paraphrases, judged on the picture | {} of {} | 95% |",
        (lambda found: found["prompts"]["share"] * found["prompts"]["paraphrases"], at("prompts", "paraphrases")),
    ),
    evaluated(
        "| edges of the input kept on known warps (the teacher keeps {}) | {} | - |",
        "fidelity/edges_kept_teacher",
        "fidelity/edges_kept",
    ),
    Claim(
        CARD,
        "eval-h200.json",
        "lies above history off in {} looks, as a ratio up to {} (night",
        (looks_above_history_off, at("summary", "fidelity", "worst_last_return_over_history_off")),
    ),
    Claim(
        CARD,
        LONG,
        "ink-wash within {}%, starry-night on bottles within {}%, drift error {},"
        " stained-glass on a car park within {}%, {}.",
        (
            departure("ink-wash"),
            departure("starry-night"),
            at("looks", "starry-night", "drift", 0, "drift", "video_drift_error_worst"),
            departure("stained-glass"),
            at("looks", "stained-glass", "drift", 0, "drift", "video_drift_error_worst"),
        ),
    ),
    Claim(
        CARD,
        STILL,
        "the-scream drifts by up to {}, van-gogh-wheatfield by {} (missed: 0.03), all other looks by at most {}.",
        tuple(ranked(place, drift_of_still_clips) for place in range(3)),
    ),
    live("the output", "sink"),
    live("the output, `--inject-ms 50`", "inject"),
    live("behind H.264, `--through h264`", "h264"),
]
IDS = [f"{Path(claim.page).stem} {claim.text[:44]}" for claim in CLAIMS]


@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_a_printed_number_is_that_of_its_document(claim: Claim) -> None:
    check(page_text(claim.page), claim)


@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_a_changed_number_is_found(claim: Claim) -> None:
    """Each printed number in turn, one more in its last place."""
    text = page_text(claim.page)
    for place, shown in enumerate(numbers(text, claim)):
        decimals = len(shown.partition(".")[2])
        wrong = f"{float(shown.replace(',', '')) + 10**-decimals:.{decimals}f}"
        right = numbers(text, claim)
        changed = [*right[:place], wrong, *right[place + 1 :]]
        with pytest.raises(AssertionError, match="prints"):
            check(text.replace(claim.text.format(*right), claim.text.format(*changed)), claim)


def test_every_document_that_readme_names_is_compared() -> None:
    named = set(re.findall(r"docs/benchmarks/([\w-]+\.json)", page_text(README)))
    assert named and named <= {claim.file for claim in CLAIMS if claim.page == README}


def test_every_row_of_the_speed_tables_is_compared() -> None:
    speed = (ROOT / README).read_text("utf-8").split("\n## Speed")[1].split("\n## ")[0].replace("**", "")
    rows = re.findall(r"^\| .*\|$(?!\n\|---)", speed, re.M)  # without the heads
    texts = [claim.text for claim in CLAIMS if claim.page == README]
    assert len(rows) >= 14
    for line in rows:
        assert any(line.startswith(text.split("{}")[0]) for text in texts), f"no claim for {line}"
