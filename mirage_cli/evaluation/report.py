"""What the measurements come to: means over the looks, and the bars that a good model is held to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mirage_cli.evaluation.drift import JUDGED

STEADY = 0.8  # warped error over that with history off
ABOVE_OFF = "last_return_above_history_off_levels"
# name, where it lies in the summary, largest (or, with a minus, smallest) allowed value
BARS = (
    ("tail/head ratios within 5%", "drift", "worst_departure", 0.05),
    ("video drift error", "drift", "worst_video_drift_error", 0.03),
    ("guard events in the long streams, which hide drift", "drift", "guard_events", 0),
    ("cuts seen in the long streams, which have none", "drift", "cuts", 0),
    ("resident memory grown after the first loop, MiB", "drift", "memory_growth_mib", 64.0),
    ("GPU memory grown after the first loop, MiB", "drift", "gpu_memory_growth_mib", 64.0),
    ("first five frames, L1 to the teacher, mean of looks", "fidelity", "first_5", 0.13),
    ("last return over first, worst look", "fidelity", "worst_last_over_first_return", 1.05),
    ("last return over history off, mean of looks", "fidelity", "last_return_over_history_off", 1.0),
    # In levels: a look that is right to three levels is a tenth worse for a third of one.
    ("last return above history off, levels, worst look", "fidelity", f"worst_{ABOVE_OFF}", 0.5),
    ("warped error over history off, mean of looks that can move along", "temporal", "free_over_history_off", STEADY),
    ("warped error over the teacher's, mean of looks", "fidelity", "warped_error_over_teacher", 1.2),
    (
        "strokes of the first frame, likeness to the teacher's, mean of looks",
        "fidelity",
        "strokes_first_likeness",
        -0.9,
    ),
    ("strokes later on, likeness to the teacher's, mean of looks", "fidelity", "strokes_likeness", -0.9),
    ("weave of 4x4 cells in the first frame, levels, mean of looks", "fidelity", "weave_levels_first", 1.0),
    ("flicker on a still, levels, worst look", "temporal", "worst_still_flicker_levels", 1.0),
    ("perceptual distance in 1 step over 4, mean of looks", "steps", "perceptual_1_over_4", 1.1),
    ("unseen paraphrases judged on the picture", "prompts", "share", -0.95),
)


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """ "summary" (part -> numbers over all looks) and "bars" of a document, from what it holds so far."""
    looks = document["looks"]
    parts = {
        "drift": _drift(looks),
        "temporal": _means(looks, "temporal", worst=("still_flicker_levels",)),
        "fidelity": _means(
            looks, "fidelity", worst=("last_over_first_return", "last_return_over_history_off", ABOVE_OFF)
        ),
        "steps": _means(looks, "steps"),
    }
    if parts["temporal"]:
        parts["temporal"] |= _steadiness(looks)
    if "prompts" in document:
        parts["prompts"] = {key: document["prompts"][key] for key in ("share", "by_name", "paraphrases", "looks")}
    parts = {name: found for name, found in parts.items() if found}
    bars = []
    for name, part, key, limit in BARS:
        value = parts.get(part, {}).get(key)
        if value is not None:
            met = value >= -limit if limit < 0 else value <= limit
            bars.append({"bar": name, "value": value, "limit": abs(limit), "met": bool(met)})
    return {"summary": parts, "bars": bars}


def _runs(looks: dict) -> Iterator[tuple[str, dict]]:
    for look, found in looks.items():
        for one in found.get("drift", []):
            if "drift" in one:
                yield look, one


def departure(one: dict) -> float:
    """The largest departure from 1 of the judged ratios of a drift run."""
    return max(abs(one["drift"]["tail_over_head"][name] - 1) for name in JUDGED)


def _drift(looks: dict) -> dict[str, Any]:
    runs = list(_runs(looks))
    if not runs:
        return {}
    result: dict[str, Any] = {
        "runs": len(runs),
        "fewest_frames": min(one["frames"] for _, one in runs),
        "worst_departure": max(departure(one) for _, one in runs),
        "looks_outside_5_percent": sorted({look for look, one in runs if departure(one) > 0.05}),
        "worst_video_drift_error": max(one["drift"]["video_drift_error_worst"] for _, one in runs),
        "mean_video_drift_error": sum(one["drift"]["video_drift_error_worst"] for _, one in runs) / len(runs),
        "guard_events": sum(one["guard_events"] for _, one in runs),
        "cuts": sum(one["cuts"] for _, one in runs),
    }
    for name in JUDGED:
        ratios = [one["drift"]["tail_over_head"][name] for _, one in runs]
        result[f"{name}_ratio_least"], result[f"{name}_ratio_most"] = min(ratios), max(ratios)
    for kind, key in (("resident", "memory_growth_mib"), ("cuda_reserved", "gpu_memory_growth_mib")):
        growths = [_growth(one, kind) for _, one in runs]
        if growths := [g for g in growths if g is not None]:
            result[key] = max(growths)
    return result


def _growth(one: dict, kind: str) -> float | None:
    memory = one.get("memory_mib") or {}
    begin, end = memory.get("after_first_loop") or {}, memory.get("end") or {}
    return round(end[kind] - begin[kind], 1) if kind in begin and kind in end else None


def _means(looks: dict, part: str, worst: tuple[str, ...] = ()) -> dict[str, Any]:
    """Mean over looks of every number of a part; the largest as well for some."""
    found = [looks[look][part] for look in looks if part in looks[look]]
    result: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in found for key in one):
        values = [one[key] for one in found if isinstance(one.get(key), (int, float))]
        if values:
            result[key] = sum(values) / len(values)
            if key in worst:
                result[f"worst_{key}"] = max(values)
    return result


def _steadiness(looks: dict) -> dict[str, Any]:
    """Warped error over that with history off, mean of the looks that can be steadier than without a past.

    In a look whose pattern is bound to the screen (tesserae, halftone dots, grain) even the teacher, painting every
    frame as it should be, stays above the bar: those are named and left out, and judged against their teacher.
    """
    bound = []
    for look, found in looks.items():
        teacher, alone = (found.get("fidelity", {}).get(f"warped_error_{of}") for of in ("teacher", "history_off"))
        if teacher and alone and teacher > STEADY * alone:
            bound.append(look)
    free = _means({look: found for look, found in looks.items() if look not in bound}, "temporal")
    return {"bound_to_screen": bound, "free_over_history_off": free.get("warped_error_over_history_off")}


def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a look for the table on the terminal."""
    result = []
    for look, found in document["looks"].items():
        row: dict[str, Any] = {"look": look}
        runs = [one for one in found.get("drift", []) if "drift" in one]
        if runs:
            worst = max(runs, key=departure)
            row["frames"] = worst["frames"]
            row |= {name: worst["drift"]["tail_over_head"][name] for name in JUDGED}
            row["drift_error"] = max(one["drift"]["video_drift_error_worst"] for one in runs)
            row["guard"] = sum(one["guard_events"] for one in runs)
        temporal, fidelity, steps = (found.get(part, {}) for part in ("temporal", "fidelity", "steps"))
        for heading, part, key in (
            ("warp/off", temporal, "warped_error_over_history_off"),
            ("flicker", temporal, "still_flicker_levels"),
            ("edges", temporal, "edges_kept"),
            ("first 5", fidelity, "first_5"),
            ("return", fidelity, "last_over_first_return"),
            ("perceptual", fidelity, "perceptual"),
            ("strokes", fidelity, "strokes_first"),
            ("weave", fidelity, "weave_levels_first"),
            ("1/4 steps", steps, "perceptual_1_over_4"),
        ):
            if isinstance(part.get(key), (int, float)):
                row[heading] = part[key]
        result.append(row)
    return result


def in_short(part: str, found: dict) -> str:
    """One line on a finished measurement."""
    if part == "drift" and "drift" in found:
        error = found["drift"]["video_drift_error_worst"]
        speed = f"{found['frames_per_second']} frames/s"
        return f"{found['frames']} frames on {found['clip']}, drift error {error:.3f}, {speed}"
    if part == "drift":
        return f"only {found['frames']} frames, too few to show drift"
    if part == "temporal":
        return f"warped error {found['warped_error']:.4f}, history off {found['warped_error_history_off']:.4f}"
    if part == "fidelity":
        return f"first five frames {found['first_5']:.3f}, {found['returns']} returns"
    if part == "prompts":
        return f"{100 * found['share']:.1f}% of {found['paraphrases']} unseen paraphrases"
    return ", ".join(f"{key} {value:.3f}" for key, value in found.items() if isinstance(value, float))
