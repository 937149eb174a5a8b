"""Make the .ptx files from the .cu files, and manifest.toml from all of them.

    python kernels/build.py            # needs nvcc and ptxas of CUDA 11.8 or newer
    python kernels/build.py --check    # fails if a .ptx or the manifest is older than its source

First come the headers that ``generated.py`` makes from Python's tables and constants. A ``NAME.cu`` becomes
``NAME.sm80.ptx``, and with a line ``// targets: sm_80 sm_90`` also ``NAME.sm90.ptx``. A ``NAME.sm80.ptx`` without a
``.cu`` is hand-written: it is its own source and is only assembled, for the manifest's numbers.

nvcc stamps its own PTX version, which drivers older than the toolkit refuse; the stamp is lowered to the lowest
version that assembles for all of ``ARCHITECTURES`` that the target allows. Only the standard library is used, and
mirage itself must be installed (``pip install -e .``).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from mirage_cli.kernels import generated

HERE = Path(__file__).resolve().parent
ARCHITECTURES = ("sm_80", "sm_89", "sm_90")
FIRST_VERSION = {"compute_80": "7.0", "compute_90": "7.8"}  # the PTX that first knew the target
PTX_VERSIONS = ("7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "8.0", "8.1", "8.2", "8.3", "8.4")


def sources() -> dict[str, Path]:
    """PTX file name -> its source: the .cu of the same stem, else the .ptx itself."""
    found = {}
    for path in HERE.glob("*.cu"):
        targets = re.search(r"^// targets: (.+)$", path.read_text(), re.MULTILINE)
        for target in targets.group(1).split() if targets else ("sm_80",):
            found[f"{path.stem}.{target.replace('_', '')}.ptx"] = path
    for path in HERE.glob("*.ptx"):
        found.setdefault(path.name, path)
    return dict(sorted(found.items()))


def source_hash(path: Path) -> str:
    """SHA-256 of a source and of the local headers it includes, in order of inclusion."""
    digest, seen = hashlib.sha256(), []

    def take(file: Path) -> None:
        seen.append(file.name)
        digest.update(file.read_bytes())
        for name in re.findall(r'^#include "([^"]+)"', file.read_text(), re.MULTILINE):
            if name not in seen:
                take(HERE / name)

    take(path)
    return digest.hexdigest()


def architectures(target: str) -> tuple[str, ...]:
    """Of ``ARCHITECTURES`` those that take PTX for ``target``, such as "sm_90"."""
    return tuple(a for a in ARCHITECTURES if int(a[3:]) >= int(target[3:]))


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def header(text: str) -> tuple[str, str]:
    """PTX version and target that a PTX text declares, such as ("7.0", "sm_80")."""
    version = re.search(r"^\.version\s+([\d.]+)", text, re.MULTILINE)
    target = re.search(r"^\.target\s+(\w+)", text, re.MULTILINE)
    if version is None or target is None:
        raise SystemExit("a PTX text has no .version or no .target")
    return version.group(1), target.group(1)


def assemble(path: Path, architecture: str) -> subprocess.CompletedProcess:
    """ptxas with its resource report on stderr; the machine code is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["ptxas", f"-arch={architecture}", "-v", str(path), "-o", str(Path(folder, "out.cubin"))]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def resources(path: Path, architecture: str) -> dict[str, dict[str, int]]:
    """Entry -> registers, shared_bytes, stack_bytes, spill_bytes, as ptxas reports them."""
    result = assemble(path, architecture)
    report = result.stdout + result.stderr
    if result.returncode:
        raise SystemExit(f"{path.name} does not assemble for {architecture}:\n{report}")
    found = {}
    for part in re.split(r"Compiling entry function '", report)[1:]:
        used = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        if used is None or stack is None:
            raise SystemExit(f"{path.name}: ptxas's report is not understood:\n{report}")
        found[part.split("'", 1)[0]] = {
            "registers": int(used.group(1)),
            "shared_bytes": int(shared.group(1)) if shared else 0,
            "stack_bytes": int(stack.group(1)),
            "spill_bytes": int(stack.group(2)) + int(stack.group(3)),
        }
    return dict(sorted(found.items()))


def compile_cuda(source: Path, target: Path, version: str | None = None) -> None:
    """nvcc, then the lowest PTX version that assembles everywhere (or the one given), then the header that
    says whence."""
    virtual = re.sub(r".*\.sm(\d+)\.ptx", r"compute_\1", target.name)
    real = architectures(virtual.replace("compute", "sm"))
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw.ptx")
        command = ["nvcc", "-std=c++17", "-O3", "-ptx", f"-arch={virtual}", str(source), "-o", str(raw)]
        subprocess.run(command, check=True)
        body = re.sub(r"\A(//[^\n]*\n|\s*\n)*", "", raw.read_text())
        for trial in (version,) if version else PTX_VERSIONS[PTX_VERSIONS.index(FIRST_VERSION[virtual]) :]:
            raw.write_text(re.sub(r"^\.version .*$", f".version {trial}", body, count=1, flags=re.MULTILINE))
            if version or all(assemble(raw, architecture).returncode == 0 for architecture in real):
                break
        else:
            raise SystemExit(f"{source.name} assembles with none of PTX {', '.join(PTX_VERSIONS)}")
        note = f"// Made from {source.name} by kernels/build.py; edit that, not this.\n\n"
        target.write_text(note + raw.read_text())


def manifest() -> str:
    """The text of manifest.toml for the files as they are."""
    compiler = subprocess.run(["ptxas", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release [\d.]+, (V[\d.]+)", compiler)
    lines = [
        "# Made by kernels/build.py. Registers are those of ptxas for each architecture.",
        f'ptxas = "{release.group(1) if release else "unknown"}"',
    ]
    for name, source in sources().items():
        path = HERE / name
        version, target = header(path.read_text())
        taking = architectures(target)
        reports = {architecture: resources(path, architecture) for architecture in taking}
        lines += [
            "",
            "[[file]]",
            f'ptx = "{name}"',
            f'source = "{source.name}"',
            f'origin = "{"hand-written PTX" if source == path else "CUDA C++"}"',
            f'source_sha256 = "{source_hash(source)}"',
            f'ptx_sha256 = "{file_hash(path)}"',
            f'ptx_version = "{version}"',
            f'target = "{target}"',
        ]
        for entry, base in reports[taking[0]].items():
            registers = ", ".join(f"{a} = {reports[a][entry]['registers']}" for a in taking)
            spills = max(reports[a][entry]["spill_bytes"] for a in taking)
            lines += [
                "",
                "[[file.entry]]",
                f'name = "{entry}"',
                f"registers = {{ {registers} }}",
                f"shared_bytes = {base['shared_bytes']}",
                f"spill_bytes = {spills}",
            ]
    return "\n".join(lines) + "\n"


def stale() -> list[str]:
    """What does not match its source any more, one sentence each; needs no compiler."""
    path = HERE / "manifest.toml"
    text = path.read_text() if path.is_file() else ""
    problems = [f"{name} is not what its Python sources make" for name in generated.stale(HERE)]
    for name, source in sources().items():
        block = next((b for b in text.split("[[file]]") if f'ptx = "{name}"' in b), "")
        if not block:
            problems.append(f"{name} is not in manifest.toml")
        elif not (HERE / name).is_file():
            problems.append(f"{name} is missing")
        elif f'source_sha256 = "{source_hash(source)}"' not in block:
            problems.append(f"{source.name} has changed since {name} was made")
        elif f'ptx_sha256 = "{file_hash(HERE / name)}"' not in block:
            problems.append(f"{name} is not the file that the manifest describes")
    known = set(sources())
    problems += [
        f"manifest.toml lists {n}, which is gone" for n in re.findall(r'^ptx = "(.+)"$', text, re.M) if n not in known
    ]
    return problems


def main() -> int:
    """Build, or check."""
    parser = argparse.ArgumentParser(description="Build the PTX kernels and their manifest.")
    parser.add_argument("--check", action="store_true", help="only list what is stale; needs no compiler")
    if not parser.parse_args().check:
        generated.write(HERE)
        for name, source in sources().items():
            if source.suffix == ".cu":
                compile_cuda(source, HERE / name)
        (HERE / "manifest.toml").write_text(manifest())
    problems = stale()
    print("\n".join(problems) or "kernels: all .ptx match their sources", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
