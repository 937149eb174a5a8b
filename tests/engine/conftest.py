"""The PTX kernels for the tests of ops: in the emulator, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from helpers.emulator import EmulatedKernels
from mirage_cli.kernels import loader

from mirage_cli.engine.ops import OpSet, PtxOps, select_backend


@pytest.fixture(scope="module")
def emulated() -> EmulatedKernels:
    return EmulatedKernels([(loader.HERE / file).read_text() for file in loader.FILES])


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def ptx(request, emulated) -> OpSet:
    """The PTX ops: on the CPU through the emulator, or on the GPU."""
    if request.param == "emulated":
        return PtxOps(torch.device("cpu"), "emulated", emulated, strict=True)
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return select_backend("cuda", "ptx")[0]
