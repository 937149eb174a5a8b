"""The document of ``mirage eval``: what is complete, which bars are met, and its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.paths import ROOT
from helpers.pictures import texture

from mirage_cli.errors import MediaError
from mirage_cli.evaluation import clips, pictures, report, run
from mirage_cli.evaluation.worker import NO_TIME


def kept(*messages: tuple) -> dict:
    """The document after these messages, one from each task that was planned."""
    document = {"looks": {"night": {}, "mosaic": {}}, "left_out": []}
    keeper = run.Keeper(
        document, SimpleNamespace(output=None, sheet=None, plot=None), [m[0] for m in messages], 0.0, print, print
    )
    for message in messages:
        keeper.take(*message)
    keeper.finish()
    return document


def test_only_what_was_measured_to_its_end_is_complete() -> None:
    whole = {"returns": 2, "returns_asked": 2, "first_5": 0.1}
    night, mosaic = run.Task("fidelity", "night"), run.Task("fidelity", "mosaic")
    assert kept((night, whole, True, {}), (mosaic, {"left_out": "its teacher is not here"}, True, {}))["complete"]
    for found, why in (
        ({"left_out": NO_TIME}, "no time left"),
        ({"failed": "RuntimeError: x"}, "RuntimeError: x"),
        (whole | {"returns": 1}, "only 1 of 2 returns: no time left"),
        (whole | {"edges": [{"kept": float("nan")}]}, "kept is not finite"),
    ):
        document = kept((night, whole, True, {}), (mosaic, found, True, {}))
        assert not document["complete"] and [entry["why"] for entry in document["left_out"]] == [why]
        json.dumps(document, allow_nan=False)
    unfinished = kept((night, {"first_5": float("inf")}, False, {}))
    assert unfinished["looks"]["night"] == {} and unfinished["left_out"][0]["why"] == "not reached"


def test_bars_are_met_and_missed() -> None:
    one = {
        "clip": "c",
        "frames": 100,
        "guard_events": 0,
        "cuts": 0,
        "drift": {
            "tail_over_head": dict.fromkeys(("luma_spread", "saturation", "sharpness"), 1.02),
            "video_drift_error_worst": 0.04,
        },
    }
    document = {
        "looks": {"night": {"drift": [one]}},
        "prompts": {"share": 0.96, "by_name": 1.0, "paraphrases": 4, "looks": 1},
    }
    met = {bar["bar"]: bar["met"] for bar in report.summary(document)["bars"]}
    assert met == {
        "tail/head ratios within 5%": True,
        "video drift error": False,
        "unseen paraphrases judged on the picture": True,
        "guard events in the long streams, which hide drift": True,
        "cuts seen in the long streams, which have none": True,
    }


def test_looks_bound_to_the_screen_are_not_asked_to_move_along() -> None:
    def look(teacher: float, ratio: float) -> dict:
        return {
            "fidelity": {"warped_error_teacher": teacher, "warped_error_history_off": 0.1},
            "temporal": {"warped_error_over_history_off": ratio},
        }

    found = report.summary({"looks": {"mosaic": look(0.1, 1.0), "cartoon": look(0.05, 0.6), "night": look(0.07, 0.8)}})
    temporal = found["summary"]["temporal"]
    assert temporal["bound_to_screen"] == ["mosaic"]
    assert temporal["free_over_history_off"] == pytest.approx(0.7)
    assert temporal["warped_error_over_history_off"] == pytest.approx(0.8)
    assert [bar["met"] for bar in found["bars"] if "move along" in bar["bar"]] == [True]


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    frame = texture(48, 64)
    with pytest.raises(MediaError):
        pictures.draw_sheet(str(tmp_path / "no" / "folder.png"), {"night": {1: (frame, frame)}})
    assert clips.EXAMPLE_CLIP == ROOT / "examples" / "bunny.mp4"
