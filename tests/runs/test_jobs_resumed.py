"""Which job is gone on with: the same one, undamaged, where that was asked."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from helpers import media
from helpers.fakes import FakeModels
from helpers.jobs import Dies, config, do

from mirage_cli.config import ModelOptions
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import StreamInfo
from mirage_cli.inputs import file as video_in
from mirage_cli.outputs import open as outputs_open
from mirage_cli.outputs.job_folder import job_path, unfinished

pytestmark = pytest.mark.usefixtures("echo")


@pytest.mark.slow
def test_work_is_not_thrown_away_unasked(clip, golden, tmp_path):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=25))
    with pytest.raises(MediaError, match="unfinished job, of which 20 frames are done") as caught:
        do(config(clip, out))
    assert "--resume" in caught.value.remedy and unfinished(out) == 20
    for other, telling in (
        ({"prompts": ("mosaic",)}, "another prompts"),
        ({"size": (48, 32)}, "another size"),
        ({"model": ModelOptions(seed=4)}, "another model"),
        ({"crf": 30}, "another encoder"),
        ({"start_seconds": 0.5}, "another range"),
    ):
        with pytest.raises(UsageProblem, match=telling):
            do(config(clip, out, resume=True, **other))
    assert unfinished(out) == 20
    document, _ = do(config(clip, out, overwrite=True))  # starts over
    assert document["frames"] == 60 and out.read_bytes() == golden


def test_a_changed_input_is_another_job(clip, tmp_path):
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    source.write_bytes(clip.read_bytes())
    with pytest.raises(ValueError):
        do(config(source, out), Dies(fail_at=15))
    os.utime(source, ns=(1, 1))
    with pytest.raises(UsageProblem, match="another content of the input"):
        do(config(source, out, resume=True))


def test_other_weights_are_another_job(clip, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=15))
    monkeypatch.setattr("mirage_cli.models.catalog.file_sha256", lambda path: "trained on")
    with pytest.raises(UsageProblem, match="another weights"):
        do(config(clip, out, resume=True))


@pytest.mark.slow
def test_the_times_of_a_job_stay_those_it_was_begun_with(clip, golden, tmp_path, monkeypatch):
    """A second look at an input may end before it is whole, on a busy machine, and tell another rate."""
    out, described = tmp_path / "out.mp4", video_in.describe
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=25))

    def otherwise(*given, **named):
        return replace(described(*given, **named), fps=29.87, variable_rate=True, duration_seconds=2.1)

    monkeypatch.setattr(video_in, "describe", otherwise)
    do(config(clip, tmp_path / "alone.mp4"))
    assert (tmp_path / "alone.mp4").read_bytes() != golden  # it does make a difference
    document, _ = do(config(clip, out, resume=True))
    assert document["resumed_at_frame"] == 20 and out.read_bytes() == golden


@pytest.mark.parametrize("times", [None, 3, [], ["a", True, None], [30.0, False, "x"]])
def test_times_that_say_nothing_are_not_taken(times):
    info = StreamInfo(width=8, height=8, fps=25.0, duration_seconds=2.0)
    assert outputs_open._with_times(info, times) == info


def test_a_damaged_job_is_said_to_be(clip, tmp_path):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError):
        do(config(clip, out), Dies(fail_at=25))
    (state,) = job_path(out).glob("*.safetensors")
    state.write_bytes(b"nonsense")
    with pytest.raises(MediaError, match="is damaged"):
        do(config(clip, out, resume=True))
    (job_path(out) / "progress.json").write_text("{")
    with pytest.raises(MediaError, match="cannot be used"):
        do(config(clip, out, resume=True))


def test_a_folder_of_the_user_is_left_alone(clip, tmp_path):
    mine = tmp_path / "out.mp4.part"
    mine.mkdir()
    (mine / "thesis.txt").write_text("two years of work")
    with pytest.raises(MediaError, match="folder with other things in it"):
        do(config(clip, tmp_path / "out.mp4", overwrite=True))
    assert (mine / "thesis.txt").read_text() == "two years of work"


def test_a_file_of_the_folders_name_is_left_alone(clip, tmp_path):
    mine = tmp_path / "out.mp4.part"
    mine.write_bytes(b"a download that goes on")
    with pytest.raises(MediaError, match="is a file, and the job needs that name"):
        do(config(clip, tmp_path / "out.mp4", overwrite=True))
    assert mine.read_bytes() == b"a download that goes on" and os.listdir(tmp_path) == [mine.name]


def test_an_input_by_a_file_url(clip, golden, tmp_path):
    do(replace(config(clip, tmp_path / "out.mp4"), input=f"file://{clip}"))
    assert (tmp_path / "out.mp4").read_bytes() == golden


def test_a_job_needs_no_temporary_folder(clip, golden, tmp_path, monkeypatch):
    def none_usable(*_, **__):
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", none_usable)
    do(config(clip, tmp_path / "out.mp4"))
    assert (tmp_path / "out.mp4").read_bytes() == golden


def test_two_at_once_do_not_write_the_same_output(clip, tmp_path):
    out = tmp_path / "out.mp4"
    tried: list[str] = []

    class Second(FakeModels):
        def session(self, *arguments):
            with pytest.raises(MediaError, match="another mirage is writing"):
                do(config(clip, out, overwrite=True))
            tried.append("once")
            return super().session(*arguments)

    do(config(clip, out), Second())
    assert tried == ["once"] and media.probe(out).frames == 60


@pytest.mark.parametrize("name", ["o.gif", "o.avi", "-"])
def test_what_cannot_be_gone_on_with_says_so(clip, tmp_path, name):
    out = name if name == "-" else tmp_path / name
    with pytest.raises(UsageProblem, match="--resume cannot hold"):
        do(config(clip, out, resume=True))
    assert os.listdir(tmp_path) == []
