"""``doctor``, ``bench``, ``train`` and ``models`` as commands, and where settings come from."""

from __future__ import annotations

import json

import pytest
from helpers.fakes import main

# ---- where settings come from -----------------------------------------------------------------


@pytest.mark.slow
def test_flag_over_environment_over_file_over_default(clip, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mirage.toml"
    file.write_text(
        'strength = 0.25\nseed = 5\n[transform]\nsize = "64x48"\nprompt = "night"\n'
        "blend-seconds = 2\n[live]\nfps = 10\n"
    )

    def run(*flags):
        out = tmp_path / "o.mp4"
        code = main(["transform", str(clip), "-o", str(out), "-y", "--json", *flags])
        document = json.loads(capsys.readouterr().out)
        assert code == 0, document
        return document["size"], document["strength"], document["seed"]

    assert run("-p", "night") == ([96, 64], 1.0, 0)
    assert run("--config", str(file)) == ([64, 48], 0.25, 5)
    monkeypatch.setenv("MIRAGE_STRENGTH", "0.75")
    assert run("--config", str(file)) == ([64, 48], 0.75, 5)
    monkeypatch.setenv("MIRAGE_CONFIG", str(file))
    assert run("--strength", "0.5", "--size", "32x32") == ([32, 32], 0.5, 5)
    monkeypatch.setenv("MIRAGE_PROMPT", "0:ink wash;0.5s:night")
    assert run() == ([64, 48], 0.75, 5)


def test_bad_settings_are_named(clip, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MIRAGE_SIZE", "0x0")
    assert main(["transform", str(clip), "-p", "night"]) == 2
    assert "width 0" in capsys.readouterr().err
    monkeypatch.delenv("MIRAGE_SIZE")
    file = tmp_path / "mirage.toml"
    file.write_text("strenght = 0.5\n")
    assert main(["transform", str(clip), "-p", "night", "--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert "'strenght' is not a flag" in err and "'strength'" in err


# ---- the other commands -------------------------------------------------------------------------


def test_doctor_ends_with_1_when_something_fails(monkeypatch, capsys):
    findings = [
        {"name": "python", "status": "ok", "detail": "3.11", "fix": ""},
        {"name": "ffmpeg", "status": "fail", "detail": "none", "fix": "install it"},
    ]
    monkeypatch.setattr("mirage_cli.runs.doctor.run", lambda: findings)
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"command": "doctor", "ok": False, "findings": findings}
    assert main(["doctor"]) == 1
    streams = capsys.readouterr()
    assert "install it" in streams.out and "cannot run here: ffmpeg" in streams.err
    findings.pop()
    assert main(["doctor"]) == 0


def test_bench_gets_its_settings_and_prints_them(monkeypatch, capsys):
    seen = []

    def run(config, **more):
        seen.append((config, more["against_fp32"]))
        return {"frames": config.frames, "latency_ms": {"denoise": {"p50": 1.0, "max": 2.0}}}

    monkeypatch.setattr("mirage_cli.bench.run.run", run)
    assert main(["bench", "--size", "64x48", "--frames", "7", "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 7
    config, against = seen[0]
    assert (config.size, config.frames, config.warmup, config.model.steps) == ((64, 48), 7, 10, 2)
    assert against is False
    assert main(["bench", "--against-fp32"]) == 0
    assert "denoise" in capsys.readouterr().out and seen[1][1] is True


def test_train_passes_recipe_and_overrides_on(monkeypatch, capsys, tmp_path):
    from mirage_cli.training import loop

    seen = []
    record = {"progress": {"step": 3, "seconds": 6.0}, "run": "runs/x"}
    monkeypatch.setattr(loop, "main", lambda path, overrides, *_: seen.append((path, overrides)) or record)
    assert main(["train", "recipe.toml", "minutes=2", "seed=1"]) == 0
    assert capsys.readouterr().out == "trained 3 steps in 0.1 min: runs/x\n"
    assert main(["train", "minutes=2", "--tensorboard", "curves", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record
    assert seen == [("recipe.toml", ["minutes=2", "seed=1"]), (None, ["minutes=2", "tensorboard=curves"])]
    monkeypatch.setenv("RANK", "1")  # of torchrun: the first process speaks
    assert main(["train", "minutes=2", "--json"]) == 0 and capsys.readouterr().out == ""


def test_models_lists_looks_with_prompts(capsys, monkeypatch):
    models = [{"name": "lsd-small", "title": "t", "looks": [{"name": "night", "prompt": "dark", "names": []}]}]
    monkeypatch.setattr("mirage_cli.models.catalog.describe_models", lambda: models)
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"command": "models", "models": models}
    assert main(["models"]) == 0
    assert '"dark"' in capsys.readouterr().out
