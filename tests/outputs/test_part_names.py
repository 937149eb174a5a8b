"""Names of what is not whole yet: what has such a name already belongs to somebody and stays as it is."""

from __future__ import annotations

import errno
import os

import pytest
from helpers import media
from helpers.media import copy_clip
from helpers.pictures import pictures, still_info

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame
from mirage_cli.outputs import job_folder
from mirage_cli.outputs.file import open_output
from mirage_cli.outputs.job_folder import job_path, open_job
from mirage_cli.outputs.pictures import ImageSink

PRECIOUS = b"a download that goes on"


@pytest.mark.parametrize("suffix", [".part", ".sound.part", ".2.part"])
@pytest.mark.parametrize("commit", [True, False])
def test_a_part_of_somebody_else_stays(tmp_path, suffix, commit):
    theirs = tmp_path / f"out.avi{suffix}"
    theirs.write_bytes(PRECIOUS)
    (tmp_path / "in").mkdir()
    source = media.clip(tmp_path / "in" / "a.mkv", seconds=0.3)
    if commit:
        copy_clip(source, tmp_path / "out.avi")
    else:
        sink = open_output(tmp_path / "out.avi", still_info())
        sink.write(Frame(pictures(1)[0], 0.0, 0))
        sink.close(commit=False)
    assert theirs.read_bytes() == PRECIOUS
    assert sorted(os.listdir(tmp_path)) == sorted(["in", theirs.name] + ["out.avi"] * commit)


def test_the_input_may_be_called_a_part(tmp_path):
    source = media.clip(tmp_path / "a.avi", seconds=0.3).rename(tmp_path / "big.avi.part")
    before = source.read_bytes()
    copy_clip(source, tmp_path / "big.avi")
    assert source.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["big.avi", "big.avi.part"]


def test_two_writers_of_one_name_do_not_mix(tmp_path):
    sinks = [open_output(tmp_path / "s.avi", still_info(), overwrite=True) for _ in range(2)]
    for count, sink in zip((9, 3), sinks):
        for number in range(count):
            sink.write(Frame(pictures(1)[0], number / 30, number))
    sinks[1].close()
    assert len(media.times_of(tmp_path / "s.avi")) == 3
    sinks[0].close()
    assert len(media.times_of(tmp_path / "s.avi")) == 9 and os.listdir(tmp_path) == ["s.avi"]


def test_a_folder_of_pictures_that_is_there_stays(tmp_path):
    theirs = tmp_path / ".N.png.part"
    theirs.mkdir()
    (theirs / "thesis.txt").write_bytes(PRECIOUS)
    sink = ImageSink(str(tmp_path / "%d.png"))
    sink.write(Frame(pictures(1)[0], 0.0, 0))
    sink.close()
    assert (theirs / "thesis.txt").read_bytes() == PRECIOUS and sorted(os.listdir(tmp_path)) == [theirs.name, "1.png"]


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_put_into_a_job_folder_stays(tmp_path, resume):
    target = str(tmp_path / "out.mp4")
    open_job(target, {}, False).release()
    theirs = job_path(target) / "notes.txt"
    theirs.write_bytes(PRECIOUS)
    (job_path(target) / "piece-00000.mp4.part").write_bytes(b"left by a run that was killed")
    folder = open_job(target, {}, resume)
    assert not (job_path(target) / "piece-00000.mp4.part").exists()
    folder.remove()
    assert os.listdir(job_path(target)) == [theirs.name] and theirs.read_bytes() == PRECIOUS


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EWOULDBLOCK])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    target = str(tmp_path / "out.mp4")
    if number in job_folder.LOCK_IS_HELD:
        with pytest.raises(MediaError, match="another mirage is writing"):
            open_job(target, {}, False)
    else:
        open_job(target, {}, False).remove()
        assert not os.listdir(tmp_path)
