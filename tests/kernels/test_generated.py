"""Headers made from Python: current, complete, and what they are made from is read right."""

from __future__ import annotations

import re
import shutil

import pytest
from mirage_cli.kernels import build, generated, loader
from mirage_cli.kernels.shapes import CONV_SHAPES

from mirage_cli.lsd import model
from mirage_cli.stream import motion


def test_headers_are_current():
    assert generated.stale(loader.HERE) == []


def test_a_changed_header_or_source_is_noticed(tmp_path, monkeypatch):
    for name in generated.headers():
        shutil.copy(loader.HERE / name, tmp_path)
    assert generated.stale(tmp_path) == []
    monkeypatch.setitem(CONV_SHAPES, "more", CONV_SHAPES["out"])
    assert generated.stale(tmp_path) == ["conv_table.cuh"]
    (tmp_path / "constants.cuh").unlink()
    assert generated.stale(tmp_path) == ["conv_table.cuh", "constants.cuh"]
    generated.write(tmp_path)
    assert generated.stale(tmp_path) == []
    monkeypatch.setattr(build, "HERE", loader.HERE)
    assert "conv_table.cuh is not what its Python sources make" in build.stale()


def test_the_table_has_a_line_a_layer():
    lines = re.findall(r"^LAYER\((.+)\)$", generated.conv_table(), re.MULTILINE)
    rows = {name.strip(): [field.strip() for field in fields] for name, *fields in (line.split(",") for line in lines)}
    assert list(rows) == list(CONV_SHAPES)
    assert rows["down0"] == ["64", "9", "2", "0", "96", "1", "2", "1", "5", "AS_IS", "STORE"]
    assert rows["block256_first"][-2:] == ["NORM_FILM_SILU", "FILM_SILU"]


@pytest.mark.parametrize(("namespace", "module"), [("motion", motion), ("lsd", model)], ids=["motion", "lsd"])
def test_constants_are_those_that_python_has(namespace, module):
    source, names = generated.CONSTANTS[namespace]
    values = generated.read_constants(generated.PACKAGE / source, names)
    assert values == {name: getattr(module, name) for name in names}
    assert {name: type(value) for name, value in values.items()} == {n: type(getattr(module, n)) for n in names}


def test_constants_are_numbers_and_arithmetic_of_numbers(tmp_path):
    source = tmp_path / "numbers.py"
    source.write_text("A = 3\nB, C = 0.5, 2\nD = A * C + A**2\nE = len('four')\n")
    assert generated.read_constants(source, ("D", "B", "A", "C")) == {"D": 15, "B": 0.5, "A": 3, "C": 2}
    with pytest.raises(ValueError, match="not a number"):
        generated.read_constants(source, ("E",))
    with pytest.raises(ValueError, match=r"numbers.py has no constant F"):
        generated.read_constants(source, ("F", "A"))
