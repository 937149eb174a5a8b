"""What ``mirage transform`` refuses, and the code that it ends with."""

from __future__ import annotations

import pytest
from helpers.commands import mirage
from helpers.fakes import FakeModels, RecordingUi, main
from helpers.media import probe

from mirage_cli.config import TransformConfig
from mirage_cli.errors import MediaError
from mirage_cli.runs import transform
from mirage_cli.styling.loading import Models


def test_bad_inputs_end_with_3_and_leave_nothing(tmp_path, capsys, monkeypatch, clip):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").write_bytes(b"")
    before = sorted(p.name for p in tmp_path.iterdir())
    for name in ("none.mp4", "text.mp4", "folder.mp4", "empty.mp4"):
        assert main(["transform", name, "-p", "night", "-o", "out.mp4"]) == 3, name
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[0].startswith("error: ") and name in lines[0] and len(lines) == 2, lines
    for target in ("missing/out.mp4", "folder.mp4", "/proc/out.mp4"):
        assert main(["transform", str(clip), "-p", "night", "-o", target]) == 3, target
        lines = capsys.readouterr().err.strip().splitlines()
        assert any(line.startswith("error: ") for line in lines), lines
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_existing_output_is_kept_unless_y(clip, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    for flags in ([], ["-n"]):
        assert main(["transform", str(clip), "-p", "night", "-o", str(out), *flags]) == 3
        assert "exists" in capsys.readouterr().err and out.read_text() == "precious"
    assert main(["transform", str(clip), "-p", "night", "-o", str(out), "-y"]) == 0
    assert probe(out).frames == 20


def test_the_input_is_never_its_own_output(clip, tmp_path, capsys):
    copy = tmp_path / "in.mp4"
    copy.write_bytes(clip.read_bytes())
    (tmp_path / "link.mp4").symlink_to(copy)
    for target in (copy, tmp_path / "link.mp4"):
        assert main(["transform", str(copy), "-p", "night", "-o", str(target), "-y"]) == 3
        assert "is the input itself" in capsys.readouterr().err
    assert copy.read_bytes() == clip.read_bytes()


def test_a_gpu_that_is_not_there_is_5(clip, tmp_path, capsys, monkeypatch):
    import torch

    device = "cuda:63" if torch.cuda.is_available() else "cuda"

    class HalfFake(FakeModels):
        is_cpu = Models.is_cpu

    out = tmp_path / "o.mp4"
    code = main(["transform", str(clip), "-p", "night", "-o", str(out), "--device", device], HalfFake())
    err = capsys.readouterr().err
    assert code == 5 and f"--device {device}: torch sees" in err and "--device cpu" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_such_model_is_4(clip, tmp_path):
    done = mirage("transform", clip, "-p", "night", "-m", "no-such", "-o", tmp_path / "o.mp4", fake=False)
    assert done.returncode == 4 and b"no-such" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_faults_have_a_traceback_only_under_debug(clip, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "o.mp4")
    assert main(["transform", str(clip), "-p", "night", "-o", out], FakeModels(fail_at=3)) == 1
    err = capsys.readouterr().err
    assert "error: ValueError: the model broke" in err and "Traceback" not in err
    assert "--debug" in err and list(tmp_path.iterdir()) == []
    assert main(["transform", str(clip), "-p", "night", "-o", out, "--debug"], FakeModels(fail_at=3)) == 1
    assert "Traceback" in capsys.readouterr().err


def test_running_out_of_memory_names_the_size(clip, tmp_path, capsys, monkeypatch):
    code = main(["transform", str(clip), "-p", "night", "-o", str(tmp_path / "o.mp4")], FakeModels(out_of_memory=True))
    err = capsys.readouterr().err
    assert code == 1 and "not enough memory for frames of 96x64" in err and "--size" in err
    assert list(tmp_path.iterdir()) == []


def test_events_of_the_session_are_counted(clip, tmp_path):
    models = FakeModels(cut_at=(4, 9), guard_at=(12,))
    config = TransformConfig(str(clip), str(tmp_path / "o.mp4"), ("night",))
    ui = RecordingUi()
    document = transform.run(config, ui, models=models)
    assert document["cuts"] == 2 and document["guard_event_count"] == 1
    assert document["guard_events"] == [{"frame": 12, "event": "re-anchored: grey"}]
    assert ui.stats[-1].frames_total == 20


def test_asking_before_an_output_is_replaced(clip, tmp_path):
    out = tmp_path / "o.mp4"
    out.write_text("old")
    config = TransformConfig(str(clip), str(out), ("night",))
    no, yes = RecordingUi(False), RecordingUi(True)
    with pytest.raises(MediaError, match="exists"):
        transform.run(config, no, models=FakeModels())
    assert no.asked == [str(out)] and out.read_text() == "old"
    transform.run(config, yes, models=FakeModels())
    assert probe(out).frames == 20
