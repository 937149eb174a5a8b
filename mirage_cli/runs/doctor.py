"""Can mirage do its main job here, and what is missing for the rest?

``run`` looks at everything the main job needs (Python, packages, ffmpeg, the models, a place to
write) and at what makes it faster or lets it see and show more (GPU, CuPy, kernels, cameras, a
display). Each finding carries its fix. "fail" means that ``mirage transform`` cannot run; "warn"
that something one may want does not; nothing here raises.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mirage_cli.errors import MirageError, first_line
from mirage_cli.models import catalog
from mirage_cli.runs.machine import nvidia_driver

if TYPE_CHECKING:
    from mirage_cli.kernels.loader import KernelState

Finding = dict[str, str]

PYTHON_TESTED = ((3, 10), (3, 13))
LOW_DISK_BYTES = 1 << 30
LOW_MEMORY_MIB = 2560  # what transform may take at most
TRIAL_SIDE = 64
REINSTALL = "pip install -c constraints.txt -e . (in the clone), or reinstall the wheel"

_IMPORTS = {
    "numpy": "numpy",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "ffmpeg-python": "ffmpeg",
    "imageio-ffmpeg": "imageio_ffmpeg",
    "click": "click",
    "rich": "rich",
}


def finding(name: str, status: str, detail: str, fix: str = "") -> Finding:
    """One finding: status is ok, warn or fail; ``fix`` is what to do where it is not ok."""
    return {"name": name, "status": status, "detail": detail, "fix": fix}


def run(
    models_root: Path = catalog.MODELS_ROOT,
    folder: Path | None = None,
    devices: Path = Path("/dev"),
    environment: Mapping[str, str] = os.environ,
    trial: bool = True,
) -> list[Finding]:
    """Look at everything.

    Args:
        models_root: the folder of models.
        folder: where output would be written; None is the current directory.
        devices: where cameras are listed.
        environment: stands in for os.environ.
        trial: run one small frame through the bundled model, the surest check of all.

    Returns:
        Findings in the order in which they are worth reading.
    """
    folder = folder or Path.cwd()
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("opencv", check_opencv),
        ("torch", check_torch),
        ("cupy", check_cupy),
        ("kernels", check_kernels),
        ("ffmpeg", check_ffmpeg),
        ("models", lambda: check_models(models_root)),
        ("cameras", lambda: check_cameras(devices)),
        ("display", lambda: check_display(environment)),
        ("memory", check_memory),
        ("disk", lambda: check_disk(folder)),
    ]
    if trial:
        model = models_root / catalog.DEFAULT_MODEL
        checks.append(("trial frame", lambda: check_trial(model)))
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings.extend(check())
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            findings.append(finding(name, "warn", f"could not be checked: {text}", REINSTALL))
    return findings


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when the main job cannot run, else 0."""
    return int(any(item["status"] == "fail" for item in findings))


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> list[Finding]:
    """The interpreter's version against those that are tested."""
    low, high = PYTHON_TESTED
    dotted = ".".join(map(str, version))
    detail = f"{dotted} at {sys.executable}"
    span = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
    if version[:2] < low:
        return [finding("python", "fail", detail, f"Install Python {span} and make a venv with it.")]
    if version[:2] > high:
        return [finding("python", "warn", f"{detail}; tested are {span}", f"Prefer Python {span}.")]
    return [finding("python", "ok", f"{detail}, {platform.platform(terse=True)}")]


def check_packages(
    imports: Mapping[str, str] = _IMPORTS, load: Callable[[str], ModuleType] = importlib.import_module
) -> list[Finding]:
    """Every package of the main job but torch and OpenCV, which have checks of their own."""
    versions, broken = [], []
    for package, module in imports.items():
        try:
            load(module)
            versions.append(f"{package} {_version(package)}")
        except Exception as error:
            broken.append(f"{package}: {first_line(error)}")
    if broken:
        return [finding("packages", "fail", "; ".join(broken), REINSTALL)]
    return [finding("packages", "ok", ", ".join(versions))]


def check_opencv(load: Callable[[str], ModuleType] = importlib.import_module) -> list[Finding]:
    """OpenCV, with or without windows."""
    try:
        cv2 = load("cv2")
        from mirage_cli.outputs.window import opencv_gui

        gui = opencv_gui(cv2)
        kind = f"windows by {gui}" if gui else "headless; Python's Tk opens windows instead"
        return [finding("opencv", "ok", f"{cv2.__version__}, {kind}")]
    except Exception as error:
        fix = REINSTALL
        if ".so" in str(error):
            fix = (
                "pip uninstall -y opencv-python && pip install opencv-python-headless "
                "(or, as root: apt-get install libgl1 libglib2.0-0 libsm6 libxext6)"
            )
        return [finding("opencv", "fail", first_line(error), fix)]


def check_torch(load: Callable[[str], ModuleType] = importlib.import_module) -> list[Finding]:
    """PyTorch, and the GPU it can use."""
    try:
        torch = load("torch")
    except Exception as error:
        return [finding("torch", "fail", first_line(error), REINSTALL)]
    build = torch.version.cuda
    detail = f"{torch.__version__}, {f'CUDA {build}' if build else 'CPU build'}"
    detail += f", {torch.get_num_threads()} threads"
    return [finding("torch", "ok", detail), _gpu_finding(torch)]


def _gpu_finding(torch: ModuleType) -> Finding:
    cuda = torch.cuda
    driver = nvidia_driver()
    if cuda.is_available():
        names = []
        for index in range(cuda.device_count()):
            device = cuda.get_device_properties(index)
            memory = device.total_memory / 2**30
            names.append(f"{device.name} (sm_{device.major}{device.minor}, {memory:.0f} GiB)")
        return finding("gpu", "ok", f"{', '.join(names)}, driver {driver or 'unknown'}")
    if driver is None:
        return finding("gpu", "ok", "no NVIDIA GPU; the model runs on the CPU")
    if torch.version.cuda is None:
        fix = "Install a CUDA build of the same torch version (pytorch.org, Get started)."
        return finding("gpu", "warn", f"driver {driver}, but torch is a CPU build", fix)
    fix = "Update the driver, or install the torch build for the driver's CUDA version."
    text = f"driver {driver}, but torch (CUDA {torch.version.cuda}) cannot use it"
    return finding("gpu", "warn", text, fix)


def check_cupy(load: Callable[[str], ModuleType] = importlib.import_module) -> list[Finding]:
    """CuPy launches the PTX kernels; without it torch computes everything."""
    torch = sys.modules.get("torch")
    has_gpu = torch is not None and torch.cuda.is_available()
    cuda = torch.version.cuda if torch is not None and has_gpu else None
    major = int(cuda.split(".")[0]) if cuda else 13
    extra = "gpu" if major >= 13 else "gpu-cuda12"
    fix = f"pip install -c constraints.txt -e '.[{extra}]'"
    try:
        cupy = load("cupy")
    except ImportError as error:
        if not has_gpu:
            return [finding("cupy", "ok", "not installed; of use with an NVIDIA GPU only")]
        return [finding("cupy", "warn", f"not usable: {first_line(error)}", fix)]
    except Exception as error:
        return [finding("cupy", "warn", f"does not start: {first_line(error)}", fix)]
    return [finding("cupy", "ok", f"{cupy.__version__}")]


def check_kernels(
    has_gpu: bool | None = None, states: Callable[[], Iterable[KernelState]] | None = None
) -> list[Finding]:
    """The PTX kernels that are shipped, and whether this GPU and its driver take them.

    Args:
        has_gpu: None asks torch.
        states: stands in for ``kernels.loader.kernel_states``.
    """
    from mirage_cli.kernels import loader

    if has_gpu is None:
        torch = sys.modules.get("torch")
        has_gpu = bool(torch is not None and torch.cuda.is_available())
    if not has_gpu:
        count = sum(len(entries) for files in (loader.FILES, loader.PLAN_FILES) for entries in files.values())
        return [finding("kernels", "ok", f"{count} PTX kernels, not used without an NVIDIA GPU")]
    found = list((states or loader.kernel_states)())
    ready = [state for state in found if state.ready]
    files: dict[str, list[str]] = {}
    for state in found:
        kind = f"{state.file} ({state.origin}, {state.target}): {'ready' if state.ready else 'not loaded'}"
        files.setdefault(kind, []).append(state.entry)
    text = f"{len(ready)} of {len(found)} PTX kernels load"
    text += "".join(
        f"\n{kind}: {', '.join(e.removeprefix('mirage_') for e in entries)}" for kind, entries in files.items()
    )
    if len(ready) == len(found):
        return [finding("kernels", "ok", text)]
    reasons = dict.fromkeys(state.reason for state in found if not state.ready)
    detail = f"{text}, torch computes instead: {'; '.join(reasons)}"
    return [finding("kernels", "warn", detail, "Fix the reason above; until then torch computes the same result.")]


def check_ffmpeg() -> list[Finding]:
    """The ffmpeg that will be used, and that it encodes H.264."""
    from mirage_cli.media.ffmpeg import find_ffmpeg, run_ffmpeg

    fix = "pip install imageio-ffmpeg (brings one), or install ffmpeg by the system's packages."
    try:
        tool = find_ffmpeg()
        listed = run_ffmpeg(tool, ["-encoders"])
    except MirageError as error:
        return [finding("ffmpeg", "fail", error.message, error.remedy or fix)]
    if listed.returncode:
        return [finding("ffmpeg", "fail", f"{tool.path} ends with {listed.returncode}", fix)]
    detail = f"{tool.version} at {tool.path} ({tool.origin})"
    if b"libx264" not in listed.stdout:
        return [finding("ffmpeg", "warn", f"{detail} has no libx264", fix)]
    return [finding("ffmpeg", "ok", detail)]


def check_models(root: Path) -> list[Finding]:
    """Every shipped model's files against their recorded hashes."""
    names = [entry.name for entry in catalog.list_models(root)]
    for needed in (catalog.DEFAULT_MODEL, catalog.TEXT_ENCODER):
        if needed not in names:
            names.append(needed)
    findings = []
    for name in names:
        needed_here = name in (catalog.DEFAULT_MODEL, catalog.TEXT_ENCODER)
        try:
            path = catalog.verify(name, root)
        except MirageError as error:
            status = "fail" if needed_here else "warn"
            findings.append(finding(f"model {name}", status, error.message, error.remedy))
            continue
        summary = catalog.weight_summary(path)
        megabytes = (path / catalog.WEIGHTS).stat().st_size / 1e6
        detail = (
            f"{int(summary['parameters']) / 1e6:.1f} M parameters, {megabytes:.1f} MB "
            f"{summary['dtype']}, SHA-256 {catalog.file_sha256(path / catalog.WEIGHTS)[:12]} as recorded"
        )
        findings.append(finding(f"model {name}", "ok", detail))
    return findings


def check_cameras(devices: Path = Path("/dev")) -> list[Finding]:
    """Camera device files, and whether this user may read them."""
    if not sys.platform.startswith("linux"):
        return [finding("cameras", "ok", "not listed on this system; try mirage live --camera 0")]
    found = sorted(devices.glob("video[0-9]*"))
    if not found:
        return [finding("cameras", "ok", "none; mirage live --input test runs without one")]
    names = ", ".join(str(path) for path in found)
    if not any(os.access(path, os.R_OK | os.W_OK) for path in found):
        fix = "sudo usermod -aG video $USER, then log in again."
        return [finding("cameras", "warn", f"{names}, but you may not open them", fix)]
    return [finding("cameras", "ok", names)]


def check_display(
    environment: Mapping[str, str] = os.environ,
    load: Callable[[str], ModuleType] = importlib.import_module,
    opens: Callable[[], bool] | None = None,
) -> list[Finding]:
    """Is there a screen that ``mirage live`` can show its window on, and OpenCV or Tk to open it?

    Args:
        environment, load: stand in for os.environ and the import of a module.
        opens: stands in for ``window.x_display_opens``.
    """
    screen = platform.system()
    if sys.platform.startswith("linux"):
        screen = environment.get("WAYLAND_DISPLAY") or environment.get("DISPLAY") or ""
    if not screen:
        fix = "Without a screen: mirage live --no-window -o out.mp4"
        return [finding("display", "warn", "none, so no window can be shown", fix)]
    from mirage_cli.outputs.window import opencv_gui, x_display_opens

    x_only = environment.get("DISPLAY") and not environment.get("WAYLAND_DISPLAY")
    if x_only and not (opens or x_display_opens)():
        fix = "Log in on that screen, or set DISPLAY right; without: mirage live --no-window -o out.mp4"
        return [finding("display", "warn", f"{screen} cannot be opened", fix)]
    toolkits = []
    with contextlib.suppress(Exception):  # a broken package can raise anything
        if gui := opencv_gui(load("cv2")):
            toolkits.append(f"OpenCV ({gui})")
    with contextlib.suppress(Exception):
        load("tkinter")
        toolkits.append("Tk")
    if not toolkits:
        fix = "Install Python's tkinter (as root: apt-get install python3-tk), or opencv-python."
        return [finding("display", "warn", f"{screen}, but neither OpenCV nor Tk opens windows", fix)]
    return [finding("display", "ok", f"{screen}, windows by {' or '.join(toolkits)}")]


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> list[Finding]:
    """Memory that is free to take."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free_mib = int(lines["MemAvailable"].split()[0]) // 1024
        total_mib = int(lines["MemTotal"].split()[0]) // 1024
    except (OSError, KeyError, ValueError, IndexError):
        return [finding("memory", "ok", "this system does not say")]
    detail = f"{free_mib} of {total_mib} MiB available, {os.cpu_count()} CPU cores"
    if free_mib < LOW_MEMORY_MIB:
        fix = "Close other programs, or use --size 512x288."
        return [finding("memory", "warn", f"{detail}; up to {LOW_MEMORY_MIB} may be needed", fix)]
    return [finding("memory", "ok", detail)]


def check_disk(folder: Path) -> list[Finding]:
    """A real write where output would go, and the room there is."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mirage-") as file:
            file.write(b"\0" * 65536)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        fix = "Give another place: -o /some/folder/out.mp4"
        return [finding("disk", "warn", f"{folder}: {error.strerror or error}", fix)]
    detail = f"{folder}: writable, {free / 2**30:.1f} GiB free"
    if free < LOW_DISK_BYTES:
        return [finding("disk", "warn", detail, "Free some space, or write elsewhere with -o.")]
    return [finding("disk", "ok", detail)]


def check_trial(model: Path, side: int = TRIAL_SIDE) -> list[Finding]:
    """One grey ramp of ``side`` pixels through the bundled model, on the device it would take."""
    try:
        import numpy as np

        from mirage_cli.stream.families import open_model
        from mirage_cli.stream.session import Session

        session = Session(open_model(str(model)), width=side, height=side)
        ramp = np.linspace(0, 255, side, dtype=np.uint8)
        out = session.step(np.ascontiguousarray(np.broadcast_to(ramp[:, None], (side, side, 3))))
    except MirageError as error:
        return [finding("trial frame", "fail", error.message, error.remedy)]
    except Exception as error:
        text = f"{type(error).__name__}: {first_line(error)}"
        return [finding("trial frame", "fail", text, "mirage transform --debug shows where.")]
    if out.shape != (side, side, 3) or out.dtype != np.uint8:
        text = f"the model gave {out.dtype} {list(out.shape)}"
        return [finding("trial frame", "fail", text, REINSTALL)]
    about = session.describe()
    words = ", ".join(str(about[key]) for key in ("device", "dtype", "backend") if key in about)
    return [finding("trial frame", "ok", f"one {side}x{side} frame made ({words})")]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"
