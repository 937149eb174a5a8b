"""Several inputs, and several outputs of one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import media
from helpers.fakes import FakeModels, RecordingUi, main
from helpers.jobs import config, do

from mirage_cli.config import TransformConfig
from mirage_cli.errors import UsageProblem
from mirage_cli.runs import batch
from mirage_cli.styling.stopping import StopSwitch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("echo")]


def test_a_folder_is_done_with_one_report(films, tmp_path, capsys):
    code = main(["transform", str(films), "-p", "night", "-o", f"{tmp_path}/out/", "--json"])
    report = json.loads(capsys.readouterr().out)
    names = [Path(entry["input"]).name for entry in report["batch"]]
    assert names == ["broken.mp4", "take 9.mp4", "take 10.mp4"] and code == 3
    assert (report["done"], report["failed"], report["left"]) == (2, 1, 0)
    broken, nine, _ = report["batch"]
    assert "not a media file" in broken["error"] and nine["document"]["frames"] == 60
    assert sorted(os.listdir(tmp_path / "out")) == ["take 10.night.mp4", "take 9.night.mp4"]
    # Once more: what is whole stays as it is.
    (films / "broken.mp4").unlink()
    before = os.stat(tmp_path / "out" / "take 9.night.mp4").st_mtime_ns
    assert main(["transform", str(films), "-p", "night", "-o", f"{tmp_path}/out", "--resume"]) == 0
    assert "2 skipped" in capsys.readouterr().out
    assert os.stat(tmp_path / "out" / "take 9.night.mp4").st_mtime_ns == before


def test_a_glob_and_a_list_are_batches_too(films, capsys):
    assert main(["transform", f"{films}/take*.mp4", "-p", "night"]) == 0
    assert "2 done" in capsys.readouterr().out
    made = sorted(path.name for path in films.glob("*.night.mp4"))
    assert made == ["take 10.night.mp4", "take 9.night.mp4"]
    # What was made is not made again of itself.
    names = [f"{films}/take 9.mp4", f"{films}/take 10.mp4"]
    assert main(["transform", *names, "-p", "night", "-y", "-q"]) == 0
    assert main(["transform", str(films), "-p", "night", "--resume"]) == 3
    assert "2 skipped" in capsys.readouterr().out
    assert main(["transform", f"{films}/none*.mp4", "-p", "night"]) == 3
    assert "no file is called" in capsys.readouterr().err
    assert main(["transform", *names, "-p", "night", "-o", "x.mp4"]) == 2


def test_files_of_one_name_in_many_folders_all_get_an_output(clip, tmp_path):
    inputs = [tmp_path / folder / "x.mp4" for folder in "abcd"]
    for path in inputs:
        path.parent.mkdir()
        path.symlink_to(clip)
    assert main(["transform", *map(str, inputs), "-p", "night", "-o", f"{tmp_path / 'out'}/", "-q"]) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["x.mp4-2.night.mp4", "x.mp4-3.night.mp4", "x.mp4.night.mp4", "x.night.mp4"]


def test_only_what_an_earlier_run_made_is_left_out_of_a_folder(clip, tmp_path):
    for name in ("trip.mov", "trip.night.mp4", "trip.part2.mp4", "2024.mp4", "2024.05.mp4", "trip.night.cut-off.mp4"):
        (tmp_path / name).symlink_to(clip)
    told = []
    found = batch.expand([str(tmp_path)], lambda: ("night", "mosaic"), told.append)
    assert [Path(name).name for name in found] == ["2024.05.mp4", "2024.mp4", "trip.mov", "trip.part2.mp4"]
    assert told == ["left out, since an earlier run made them: trip.night.cut-off.mp4, trip.night.mp4"]


class StopsAt(FakeModels):
    """Sets the switch at the third session step of the second file, as a signal would."""

    def __init__(self, stop):
        super().__init__()
        self.stop, self.steps = stop, 0

    def session(self, options, width, height):
        made = super().session(options, width, height)
        step, number = made.step, len(self.sessions)

        def counted(*given):
            self.steps += number == 2
            if self.steps == 3:
                self.stop.event.set()
            return step(*given)

        made.step = counted
        return made


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_was_cut_off_is_not_taken_for_a_whole_one(clip, tmp_path, resume):
    inputs = [str(tmp_path / f"{name}.mp4") for name in "abc"]
    for name in inputs:
        Path(name).symlink_to(clip)
    wanted = TransformConfig(input=inputs[0], prompts=("night",), output=f"{tmp_path / 'out'}/", resume=resume)
    stop = StopSwitch()
    report = batch.run(wanted, inputs, RecordingUi(), models=StopsAt(stop), stop=stop)
    assert [entry["status"] for entry in report["batch"]] == ["done", "interrupted"]
    assert (report["done"], report["left"], batch.exit_code(report)) == (1, 2, 130)
    cut = tmp_path / "out" / "b.night.mp4"
    assert not cut.exists()
    if not resume:  # what there is of it is not thrown away
        aside = tmp_path / "out" / "b.night.cut-off.mp4"
        assert report["batch"][1]["output"] == str(aside) and 0 < media.probe(aside).frames < 60
    again = batch.run(replace(wanted, resume=True), inputs, RecordingUi(), models=FakeModels())
    assert (again["done"], again["skipped"], again["left"]) == (2, 1, 0)
    assert media.probe(cut).frames == 60


def test_a_file_cut_off_twice_replaces_nothing(tmp_path):
    for content in (b"1", b"2"):
        (tmp_path / "b.mp4").write_bytes(content)
        batch._put_aside(str(tmp_path / "b.mp4"), resume=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "b.cut-off.mp4": b"1",
        "b.cut-off-2.mp4": b"2",
    }


def test_a_signal_between_two_files_leaves_the_report(clip, tmp_path):
    class Interrupted(FakeModels):
        def session(self, options, width, height):
            if self.sessions:
                raise KeyboardInterrupt
            return super().session(options, width, height)

    inputs = [str(tmp_path / f"{name}.mp4") for name in "abc"]
    for name in inputs:
        Path(name).symlink_to(clip)
    wanted = TransformConfig(input=inputs[0], prompts=("night",), output=f"{tmp_path / 'out'}/")
    report = batch.run(wanted, inputs, RecordingUi(), models=Interrupted())
    assert [entry["status"] for entry in report["batch"]] == ["done"]
    assert (report["left"], report["interrupted"], batch.exit_code(report)) == (2, True, 130)
    assert os.listdir(tmp_path / "out") == ["a.night.mp4"]


def test_pictures_are_not_replaced_by_their_own_output(shots, tmp_path, capsys):
    before = {path: path.read_bytes() for path in shots.iterdir()}
    pattern = str(shots / "s%d.png")
    for given in (pattern, str(shots), str(shots / "*.png")):
        assert main(["transform", given, "-p", "night", "-o", pattern, "-y"]) == 3
        assert "is the input itself" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in before} == before
    assert main(["transform", pattern, "-p", "night", "-o", str(shots / "new%d.png")]) == 0


def test_two_names_of_one_output_are_told_at_once(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["transform", str(clip), "-p", "night", "-o", "o.mp4", "-o", "./o.mp4"]) == 3
    assert "are the same file" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_prompts_that_come_late_or_never_are_told(clip, tmp_path):
    done, _ = do(config(clip, tmp_path / "o.mp4", prompts=("16:9 night",)))
    assert any("'9 night' begins at 16 s" in text and "never shown" in text for text in done["warnings"])
    done, _ = do(config(clip, tmp_path / "p.mp4", prompts=("1s:night", "60s:ink wash")))
    assert any("unchanged until 1 s" in text for text in done["warnings"])
    assert any("'ink wash' begins at 60 s" in text and "never shown" in text for text in done["warnings"])
    done, _ = do(config(clip, tmp_path / "q.mp4", prompts=("0:night", "1s:ink wash")))
    assert done["warnings"] == []


def test_several_outputs_at_once(clip, tmp_path):
    names = [str(tmp_path / name) for name in ("a.mp4", "b.mkv", "f%03d.png")]
    document, _ = do(config(clip, names[0], more_outputs=tuple(names[1:])))
    assert document["more_outputs"] == names[1:]
    assert media.probe(tmp_path / "a.mp4").frames == media.probe(tmp_path / "b.mkv").frames == 60
    assert len(list(tmp_path.glob("f*.png"))) == 60 and media.probe(tmp_path / "b.mkv").sound
    with pytest.raises(UsageProblem, match="--resume"):
        do(config(clip, tmp_path / "c.mp4", more_outputs=(str(tmp_path / "d.mp4"),), resume=True))
    assert len(os.listdir(tmp_path)) == 62
