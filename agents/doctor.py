"""Check this machine: versions, processor, GPU, rendering, disk, clashing packages; each with its fix.

python -m agents.doctor
python -m agents.doctor root=/scratch/runs
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agents.cli import OURS, option, owners_of, run_command

GIB = 2**30


@dataclass
class Doctor:
    """What to look at."""

    root: Path = option(Path("runs"), "folder of the run directories")


class Finding(NamedTuple):
    """One result: OK, WARN or FAIL, what was found and how to mend it."""

    level: str
    text: str
    fix: str = ""


def doctor(options: Doctor) -> int:
    """Print one line per check; the exit code is 1 only where something cannot work."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        check_python,
        check_versions,
        check_clashes,
        check_processor,
        check_gpu,
        check_compiler,
        check_rendering,
        lambda: check_disk(options.root),
        check_memory,
        check_extras,
    )
    failed = 0
    for check in checks:
        for finding in check():
            failed += finding.level == "FAIL"
            print(f"{finding.level:<4}  {finding.text}")
            if finding.fix:
                print(f"      fix: {finding.fix}")
    print("nothing stands in the way" if not failed else f"{failed} problem(s) stand in the way")
    return 1 if failed else 0


def check_python() -> Iterator[Finding]:
    """Python itself, and whether it runs in an environment of its own."""
    yield Finding("OK", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    if sys.prefix == sys.base_prefix:
        text = "not in a virtual environment: other projects' packages can hide ours"
        yield Finding("WARN", text, "make train, or python3 -m venv .venv")


def requirements() -> list[str]:
    """Return the requirement lines of the project, extras left out, from the checkout or the wheel."""
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if project.is_file():
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    try:
        lines = importlib.metadata.requires("jepa-agents") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [line for line in lines if "extra ==" not in line]


def check_versions() -> Iterator[Finding]:
    """Every dependency against the bounds that were tested."""
    from packaging.requirements import Requirement

    good = []
    for line in requirements():
        need = Requirement(line)
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("FAIL", f"{need.name} is not installed", "pip install -c constraints.txt -e .")
            continue
        if need.specifier.contains(version, prereleases=True):
            good.append(f"{need.name} {version}")
        else:
            fix = f"pip install -c constraints.txt '{need.name}{need.specifier}'"
            yield Finding("WARN", f"{need.name} {version} is outside the tested {need.specifier}", fix)
    yield Finding("OK", f"{len(good)} dependencies within tested bounds: {', '.join(good[:6])}, …")


def check_clashes() -> Iterator[Finding]:
    """Other distributions that install a package named like ours."""
    owners = {name: owners_of(name) for name in OURS}
    for name, others in owners.items():
        if others:
            fix = f"pip uninstall {others[0]}, or use a virtual environment of its own"
            yield Finding("WARN", f"{others[0]} also installs a package named {name}", fix)
    if not any(owners.values()):
        yield Finding("OK", "no other distribution installs agents, configs, envs or worldmodel")


def check_processor() -> Iterator[Finding]:
    """Cores, torch threads and the instructions that matter for matrix products."""
    import torch

    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.is_file() else set()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in words]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    yield Finding(
        "OK", f"{cores} cores ({' '.join(fast) or 'no vector flags found'}), {threads} torch threads"
    )
    if threads > cores:
        fix = f"trainer.threads={cores}, or export OMP_NUM_THREADS={cores}"
        yield Finding("WARN", f"{threads} torch threads on {cores} cores slow each other down", fix)
    load = os.getloadavg()[0]
    if load > 1.5 * cores:
        text = f"the machine is busy: load {load:.1f} on {cores} cores"
        yield Finding("WARN", text, "wait, or give torch fewer threads with trainer.threads=1")


def check_gpu() -> Iterator[Finding]:
    """The GPU, if torch can use one."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield Finding(
            "OK", f"GPU {name}: {free / GIB:.0f} of {total / GIB:.0f} GiB free, CUDA {torch.version.cuda}"
        )
    elif shutil.which("nvidia-smi"):
        fix = "install a CUDA build of torch, see https://pytorch.org/get-started/locally"
        yield Finding("WARN", f"there is an NVIDIA driver, but torch {torch.__version__} cannot use it", fix)
    else:
        yield Finding("OK", "no GPU: training runs on the processor")


def check_compiler() -> Iterator[Finding]:
    """What torch.compile needs on the processor."""
    compiler = next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), "")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if compiler and header.is_file():
        yield Finding("OK", f"torch.compile can use {compiler}")
        return
    missing = "a C++ compiler" if not compiler else "Python.h"
    yield Finding("WARN", f"agent.compile=true needs {missing}", "apt-get install g++ python3-dev")


def check_rendering() -> Iterator[Finding]:
    """Whether MuJoCo can render here; only pixels and videos need it."""
    try:
        from envs.render import choose_backend

        backend = choose_backend()
    except Exception as error:  # noqa: BLE001 - whatever the probe says is a finding, not a crash
        text = f"no rendering ({str(error).splitlines()[0]}): state tasks train, pixels and videos do not"
        yield Finding("WARN", text, "apt-get install libegl1 libgl1, or trainer.video=false")
        return
    yield Finding("OK", f"MuJoCo renders with {backend}")


def check_disk(root: Path) -> Iterator[Finding]:
    """Space and write access where runs go, and shared memory for worker processes."""
    place = root.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding("FAIL", f"cannot write below {place}", "choose another folder with run.root=/path")
        return
    free = shutil.disk_usage(place).free / GIB
    level = "FAIL" if free < 0.2 else "WARN" if free < 5 else "OK"
    fix = "" if level == "OK" else "free some space, or choose another disk with run.root=/path"
    yield Finding(level, f"{free:.1f} GiB free for {root}", fix)
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < GIB / 4:
        text = f"/dev/shm has only {shutil.disk_usage(shared).total / 2**20:.0f} MiB for worker processes"
        yield Finding("WARN", text, "docker run --shm-size=2g, or env.backend=serial")


def check_memory() -> Iterator[Finding]:
    """Free memory against the replay buffer of a state task."""
    import psutil

    free = psutil.virtual_memory().available / GIB
    fix = "" if free > 2 else "replay.storage=memmap, or a smaller replay.capacity"
    yield Finding("OK" if free > 2 else "WARN", f"{free:.1f} GiB of memory free", fix)


def check_extras() -> Iterator[Finding]:
    """Which optional packages are here."""
    optional = {"envpool": "envpool", "sklearn": "tables", "stable_baselines3": "sb3"}
    here = [extra for module, extra in optional.items() if importlib.util.find_spec(module)]
    absent = [extra for extra in optional.values() if extra not in here]
    text = f"optional extras here: {', '.join(here) or 'none'}; not here: {', '.join(absent) or 'none'}"
    yield Finding("OK", text)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("doctor", doctor, argv, options=Doctor)


if __name__ == "__main__":
    sys.exit(main())
