"""Kernel files and their loader: fresh, assembling, refused for the right reason. The ops are in tests/engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.emulator import EmulatedKernels, Launch, Memory
from helpers.ptx_text import PtxError, parse
from mirage_cli.kernels import build, loader

from mirage_cli.engine import ops
from mirage_cli.errors import GpuError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings tomli there
    import tomli as tomllib

MANIFEST = tomllib.loads((loader.HERE / "manifest.toml").read_text())
FILES = sorted(loader.FILES)
PLAN_FILES = {f"{file}.sm{t}.ptx": entries for file, entries in loader.PLAN_FILES.items() for t in loader.PLAN_TARGETS}
VERSIONS = {"sm_80": "7.0", "sm_90": "7.8"}  # the lowest PTX that knows the target: CUDA 11.0 and 11.8
needs_ptxas = pytest.mark.skipif(shutil.which("ptxas") is None, reason="ptxas is not installed")


# files -----------------------------------------------------------------------------------------------


def test_manifest_matches_the_sources():
    assert build.stale() == []


def test_manifest_lists_what_the_loader_loads():
    listed = {file["ptx"]: sorted(entry["name"] for entry in file["entry"]) for file in MANIFEST["file"]}
    assert listed == {file: sorted(entries) for file, entries in (loader.FILES | PLAN_FILES).items()}
    for file in MANIFEST["file"]:
        header = loader.ptx_header(loader.HERE / file["ptx"])
        assert header == (file["ptx_version"], file["target"]) == (VERSIONS[file["target"]], file["target"])
        assert file["target"].replace("_", "") in file["ptx"]
        if file["ptx"] in loader.FILES:  # the emulator reads these
            assert sorted(parse((loader.HERE / file["ptx"]).read_text())) == listed[file["ptx"]]
        assert all(entry["spill_bytes"] == 0 for entry in file["entry"])
        # 256 threads a block must fit twice on a multiprocessor of 65,536 registers
        assert all(max(entry["registers"].values()) <= 128 for entry in file["entry"])


def test_a_changed_source_is_noticed(tmp_path, monkeypatch):
    for path in loader.HERE.iterdir():
        if path.suffix in {".ptx", ".cu", ".cuh", ".toml"}:
            shutil.copy(path, tmp_path)
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.stale() == []
    (tmp_path / "common.cuh").write_text((tmp_path / "common.cuh").read_text() + "\n")
    (tmp_path / "frame_in.sm80.ptx").write_text((tmp_path / "frame_in.sm80.ptx").read_text() + "\n")
    (tmp_path / "frame_out.sm80.ptx").unlink()
    (tmp_path / "new.cu").write_text("")
    problems = "\n".join(build.stale())
    assert "motion.cu has changed since motion.sm80.ptx was made" in problems and "upsample_concat.cu" not in problems
    assert "frame_in.sm80.ptx has changed" in problems
    assert "manifest.toml lists frame_out.sm80.ptx, which is gone" in problems
    assert "new.sm80.ptx is not in manifest.toml" in problems
    assert "denoiser_f16.cu has changed since denoiser_f16.sm90.ptx was made" in problems  # through its headers


def test_at_least_four_kernels_are_hand_written_with_wide_accesses_and_warp_exchange():
    texts = {
        f["ptx"]: (loader.HERE / f["ptx"]).read_text() for f in MANIFEST["file"] if f["origin"] == "hand-written PTX"
    }
    assert len(texts) >= 4
    for text in texts.values():
        assert re.search(r"st\.global\.v4\.b32", text)
        assert len(re.findall(r"//", text)) >= 15  # it teaches
    assert "shfl.sync.bfly" in texts["channel_norm.sm80.ptx"]
    assert "redux.sync.add" in texts["frame_out.sm80.ptx"]


def test_the_plans_kernels_use_tensor_cores_and_pdl_where_they_can():
    for kind, product in (("f16", "f32.f16.f16.f32"), ("bf16", "f32.bf16.bf16.f32")):
        for target in loader.PLAN_TARGETS:
            text = (loader.HERE / f"denoiser_{kind}.sm{target}.ptx").read_text()
            for instruction in (
                f"mma.sync.aligned.m16n8k16.row.col.{product}",
                "ldmatrix.sync.aligned.m8n8.x4",
                "cp.async.cg",
            ):
                assert instruction in text
            assert ("griddepcontrol.wait" in text) == (target == 90)


@pytest.mark.slow
@needs_ptxas
@pytest.mark.parametrize(
    ("file", "architecture"),
    [(f, a) for f in FILES for a in build.ARCHITECTURES]
    + [(f, a) for f in PLAN_FILES for a in build.architectures(f"sm_{f.split('.sm')[1][:2]}")],
)
def test_ptx_assembles_without_spills(file, architecture):
    for entry, used in build.resources(loader.HERE / file, architecture).items():
        assert used["spill_bytes"] == used["stack_bytes"] == 0, entry


@pytest.mark.slow
@needs_ptxas
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_cuda_sources_give_the_checked_in_ptx(tmp_path):
    release = subprocess.run(["ptxas", "--version"], capture_output=True, text=True, check=True).stdout
    if MANIFEST["ptxas"] not in release:
        pytest.skip(f"another CUDA toolkit than {MANIFEST['ptxas']}")
    # bf16 differs from fp16 in one word, and takes as long again
    left_out = ("denoiser_bf16.sm80.ptx", "denoiser_bf16.sm90.ptx")
    sources = {name: s for name, s in build.sources().items() if s.suffix == ".cu" and name not in left_out}

    def compiled(name: str) -> str:
        build.compile_cuda(sources[name], tmp_path / name, loader.ptx_header(loader.HERE / name)[0])
        return (tmp_path / name).read_text()

    with ThreadPoolExecutor(2) as pool:  # the compiler is a process of its own
        for name, text in zip(sources, pool.map(compiled, sources)):
            assert text == (loader.HERE / name).read_text(), name


def test_build_check_needs_no_compiler():
    command = [sys.executable, str(loader.HERE / "build.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, check=False)
    assert result.returncode == 0, result.stderr
    assert "match" in result.stdout


# the emulator ----------------------------------------------------------------------------------------


def frame_in_text() -> str:
    return (loader.HERE / "frame_in.sm80.ptx").read_text()


def run_frame_in(text: str) -> torch.Tensor:
    rgb = torch.arange(8 * 8 * 3).remainder(256).to(torch.uint8).view(8, 8, 3)
    out = torch.full((1, 2, 2, 64), float("nan")).half().permute(0, 3, 1, 2)[:, :48]
    ops.PtxOps(torch.device("cpu"), "", EmulatedKernels([text]), strict=True).frame_in(rgb, out)
    return out


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("%wide, %part, 16", "%wide, %part, 24", "not a multiple of 16"),
        ("mul.lo.u32      %count, %columns, 6", "mul.lo.u32      %count, %columns, 7", "outside of the allocations"),
        ("min.u32         %y1, %y1, %last_y", "mov.u32         %y1, 8", "outside of the allocations"),
        ("bra             STORE_16", "bra             STORE_FP32", None),
    ],
)
def test_the_emulator_catches_wrong_addresses(good, bad, complaint):
    right = run_frame_in(frame_in_text())
    assert good in frame_in_text() and not right.isnan().any()
    broken = frame_in_text().replace(good, bad)
    if complaint is None:
        with pytest.raises(PtxError):
            run_frame_in(broken)
    else:
        with pytest.raises(PtxError, match=complaint):
            run_frame_in(broken)


HEADER = (
    ".visible .entry k(.param .u64 p) { .reg .pred %q; .reg .b32 %t, %a, %b; .reg .b64 %p; "
    ".shared .align 4 .b32 s[1];\n"
)


def run_snippet(body: str, size: int = 64) -> np.ndarray:
    memory, out = Memory(4096), np.zeros(size, np.uint32)
    address = memory.put(out)
    Launch(parse(HEADER + body + "}")["k"], memory, (1,), (size,), [np.uint64(address)]).run()
    return memory.get(address, out)


STORE = "ld.param.u64 %p, [p]; mul.wide.u32 %p2, %t, 4; add.u64 %p, %p, %p2; st.global.b32 [%p], %a; ret;"


def test_the_emulator_knows_branches_shuffles_and_barriers():
    body = (
        ".reg .b64 %p2; mov.u32 %t, %tid.x; and.b32 %b, %t, 1; setp.eq.u32 %q, %b, 0; @%q bra EVEN;\n"
        "mov.u32 %a, 100; bra MEET; EVEN: mov.u32 %a, 1; MEET: shfl.sync.bfly.b32 %b, %a, 1, 31, 0xffffffff;\n"
        "setp.eq.u32 %q, %t, 0; @%q st.shared.b32 [s], 5; bar.sync 0; ld.shared.b32 %a, [s]; add.u32 %a, %a, %b;\n"
        + STORE
    )
    assert (run_snippet(body) == np.where(np.arange(64) % 2 == 0, 105, 6)).all()
    with pytest.raises(PtxError, match="warp is not whole"):
        run_snippet(
            "mov.u32 %t, %tid.x; setp.eq.u32 %q, %t, 3; @%q ret; shfl.sync.bfly.b32 %b, %a, 1, 31, 0xffffffff; ret;"
        )
    with pytest.raises(PtxError, match="unknown instruction"):
        run_snippet("popc.b32 %a, %a; ret;")


# the loader ------------------------------------------------------------------------------------------


class FakeDevice:
    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def fake_cupy(driver=13000, major=9, minor=0, count=1, refuse=None) -> types.ModuleType:
    """What the loader uses of CuPy, with a driver and a GPU to choose."""
    cupy = types.ModuleType("cupy")
    cupy.launched = []

    class RawModule:
        def __init__(self, path):
            self.path = path

        def get_function(self, name):
            if refuse:
                raise RuntimeError(refuse)
            return types.SimpleNamespace(kernel=lambda *arguments: cupy.launched.append((name, *arguments)))

    class Stream(FakeDevice):
        @classmethod
        def from_external(cls, stream):
            return cls()

    def get_count():
        if isinstance(count, Exception):
            raise count
        return count

    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver,
        getDeviceCount=get_count,
        getDeviceProperties=lambda index: {"major": major, "minor": minor},
    )
    cupy.RawModule = RawModule
    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=FakeDevice, Stream=Stream)
    return cupy


@pytest.fixture(autouse=True)
def forget_loaded_kernels(monkeypatch):
    monkeypatch.setattr(loader, "_sets", {})


@pytest.mark.slow
def test_importing_the_engine_does_not_import_cupy():
    modules = "mirage_cli.kernels.loader, mirage_cli.engine.ops, mirage_cli.engine.graphs"
    code = f"import sys, {modules}; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_cupy_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(GpuError, match="need CuPy, which is not installed") as caught:
        loader.load(0)
    assert "pip install 'mirage-cli[gpu]'" in caught.value.remedy
    states = loader.kernel_states()
    assert [s.entry for s in states] == [e for entries in (loader.FILES | loader.PLAN_FILES).values() for e in entries]
    assert not any(s.ready for s in states) and all("not installed" in s.reason for s in states)
    assert {s.origin for s in states} == {"hand-written PTX", "CUDA C++"}


def test_broken_cupy_is_told_from_a_missing_one(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("import a_library_that_is_gone\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(GpuError, match="does not import: No module named 'a_library_that_is_gone'"):
        loader.load(0)


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (fake_cupy(driver=0), "no CUDA driver was found"),
        (fake_cupy(driver=10020), r"speaks CUDA 10\.2, PTX 7\.0 needs 11\.0 or newer"),
        (fake_cupy(major=7, minor=5), "architecture sm_75, the kernels need sm_80 or newer"),
        (fake_cupy(count=0), "there is no GPU 0; CuPy sees 0"),
        (
            fake_cupy(count=RuntimeError("cudaErrorNoDevice: none\nmore")),
            "CuPy cannot use the GPU: RuntimeError: cudaErrorNoDevice: none$",
        ),
        (
            fake_cupy(refuse="CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed"),
            "refuses kernel mirage_frame_in .* CUDA_ERROR_INVALID_PTX",
        ),
    ],
    ids=["no-driver", "old-driver", "old-gpu", "no-gpu", "runtime", "refused"],
)
def test_what_a_machine_lacks_is_a_gpu_error(monkeypatch, cupy, message):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(GpuError, match=message) as caught:
        loader.load(0)
    assert caught.value.exit_code == 5 and caught.value.remedy
    assert not any(state.ready for state in loader.kernel_states())


def test_an_exact_architecture_is_exact():
    loader.check_device(fake_cupy(), 0, "8.0", "sm_90a")
    with pytest.raises(GpuError, match=r"sm_100, the kernels need sm_90a$"):
        loader.check_device(fake_cupy(major=10, minor=0), 0, "8.0", "sm_90a")


def test_damaged_ptx_is_said(tmp_path):
    (tmp_path / "x.ptx").write_text("not PTX")
    with pytest.raises(GpuError, match="is not PTX"):
        loader.ptx_header(tmp_path / "x.ptx")
    with pytest.raises(GpuError, match="cannot be read"):
        loader.ptx_header(tmp_path / "y.ptx")


def test_launch_passes_addresses_and_scalars_of_fixed_width(monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    stream = types.SimpleNamespace(cuda_stream=7, __cuda_stream__=lambda: (0, 7))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    monkeypatch.setattr(loader, "load_plan", lambda index, files: None)
    kernels = loader.load(0)
    assert loader.load(0) is kernels
    assert set(kernels.entries) == {e for entries in loader.FILES.values() for e in entries}
    assert all(state.ready and not state.reason for state in loader.kernel_states())
    tensor = torch.zeros(3)
    kernels.launch("mirage_frame_in", (2, 3), (256,), (tensor, None, np.uint32(5)))
    name, grid, block, arguments = cupy.launched[0]
    assert (name, grid, block) == ("mirage_frame_in", (2, 3), (256,))
    assert [(a.dtype.name, int(a)) for a in arguments] == [("uint64", tensor.data_ptr()), ("uint64", 0), ("uint32", 5)]
    for number in (5, 0.5, True):
        with pytest.raises(TypeError, match="no fixed width"):
            kernels.launch("mirage_frame_in", (1,), (256,), (number,))


@pytest.mark.parametrize(
    ("architecture", "driver", "target", "pdl"),
    [
        ((8, 6), 13000, "sm_80", False),
        ((9, 0), 13000, "sm_90", True),
        ((9, 0), 12020, "sm_90", False),
        ((12, 0), 13000, "sm_90", True),
    ],
    ids=["RTX 3090", "H200", "H200, old driver", "Blackwell"],
)
def test_the_plans_files_are_the_best_that_fit(monkeypatch, architecture, driver, target, pdl):
    cupy = fake_cupy(driver=driver, major=architecture[0], minor=architecture[1])
    opened = []

    class RawModule:
        def __init__(self, path):
            opened.append(path)

        def get_function(self, name):
            return types.SimpleNamespace(kernel=types.SimpleNamespace(ptr=len(name)))

    cupy.RawModule = RawModule
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    found = loader.load_plan(0, ["motion", "denoiser_f16"])
    assert set(found.targets.values()) == {target} and found.pdl is pdl
    assert set(found.functions) == {*loader.PLAN_FILES["motion"], *loader.PLAN_FILES["denoiser_f16"]}
    assert len(opened) == 2  # each file is compiled by the driver once


def test_a_card_too_old_for_the_plans_kernels_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(major=7, minor=5))
    with pytest.raises(GpuError, match="architecture sm_75, the kernels need sm_80 or newer"):
        loader.load_plan(0, ["motion"])


@pytest.mark.gpu
def test_all_kernels_load_on_this_gpu():
    states = loader.kernel_states()
    assert all(state.ready for state in states), [state for state in states if not state.ready]
    plan = loader.load_plan(0, list(loader.PLAN_FILES))
    assert {*loader.load(0).entries, *plan.functions} == {state.entry for state in states}
    assert set(plan.targets.values()) == {"sm_90" if torch.cuda.get_device_capability()[0] >= 9 else "sm_80"}
