"""`topohead doctor`: what this machine can do, and the command that adds what is missing."""

import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from topohead import __version__

GIB = 1 << 30

EXTRAS = {
    "gsplat": ("cuda", "Gaussian splats on a CUDA device, from Python"),
    "torchvision": ("cuda", "JPEG files decoded on a CUDA device, faster than on the cores"),
    "mitsuba": ("pathtrace", "path-traced staged takes: `topohead stage --renderer pathtrace`"),
    "pxr": ("usd", "USD, in and out: `topohead export RUN --to usd`"),
    "viser": ("viewer", "the page of --dashboard; meshes where `topohead view` has no built page"),
    "lightning_fabric": ("train", "training networks again: `topohead train`"),
}
"""Optional modules: the package's extra that holds each, and what it is for."""


@dataclass(frozen=True)
class DoctorConfig:
    """What this machine can do, and the command that adds what is missing."""

    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    `state` is "ok"; "optional" for what is absent and not needed; "bad" for what will hurt.
    """

    name: str
    state: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All checks, in reading order."""

    checks: tuple[Check, ...]

    def summary(self) -> str:
        """A line a check, and the advice below it."""
        marks = {"ok": "ok ", "optional": " - ", "bad": " ! "}
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            lines.append(f"{marks[check.state]} {check.name:<{width}}  {check.found}")
            if check.advice:
                lines.append(f"{'':{width + 6}}{check.advice}")
        bad = [check.name for check in self.checks if check.state == "bad"]
        lines.append("")
        lines.append(f"to mend: {', '.join(bad)}" if bad else "ready to capture")
        return "\n".join(lines)


def doctor(config: DoctorConfig) -> DoctorReport:
    """Looks at the machine; changes nothing."""
    return DoctorReport(
        (
            _python(),
            _cores(),
            _memory(),
            _disk("disk here", Path.cwd(), needed=2 * GIB),
            _torch(),
            _cuda(),
            _kernel_cache(),
            _reference_head(),
            _page(),
            *_extras(),
            _blender(),
        )
    )


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.platform(terse=True)}, topohead"
    return Check("python", "ok", f"{found} {__version__}")


def _cores() -> Check:
    count = usable_cores()
    if count == 1:
        return Check("cores", "bad", "1", "give this process two or more cores: captures crawl")
    return Check("cores", "ok", str(count))


def usable_cores() -> int:
    """Cores that this process may run on, which containers make fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    found = f"{total / GIB:.1f} GiB"
    if total < 4 * GIB:
        return Check("memory", "bad", found, "a capture takes up to 4 GiB: close other programs")
    return Check("memory", "ok", found)


def _disk(name: str, folder: Path, needed: int) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if free < needed:
        return Check(name, "bad", found, "a capture writes gigabytes: free some space")
    return Check(name, "ok", found)


def _torch() -> Check:
    import torch

    return Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _cuda() -> Check:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / GIB
        return Check("cuda", "ok", f"{properties.name}, {memory:.0f} GiB")
    if shutil.which("nvidia-smi"):
        reason = (
            "this torch was built without CUDA"
            if torch.version.cuda is None
            else f"torch expects CUDA {torch.version.cuda}: the driver may be too old"
        )
        return Check(
            "cuda", "bad", f"a driver is installed, but {reason}",
            f"{_pip()} --force-reinstall torch",
        )  # fmt: skip
    return Check("cuda", "optional", "no NVIDIA device: everything runs on the CPU, slower")


def _kernel_cache() -> Check:
    """Where numba keeps compiled kernels; without it, every start compiles for a minute."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parents[1])
    found = f"numba {metadata.version('numba')}, cache in"
    if os.access(folder, os.W_OK):
        return Check("kernels", "ok", f"{found} {folder}")
    return Check(
        "kernels", "bad", f"{found} {folder}, which is read-only: each start compiles anew",
        "export NUMBA_CACHE_DIR=~/.cache/topohead/kernels",
    )  # fmt: skip


def _reference_head() -> Check:
    from topohead.io.assets import cache_folder

    folder = cache_folder()
    heads = sorted(path.name for path in folder.glob("*anny*")) if folder.is_dir() else []
    version = metadata.version("anny")
    if heads:
        return Check("reference head", "ok", f"anny {version}, derived data in {folder}")
    return Check(
        "reference head", "optional", f"anny {version}, derived data not built yet",
        "the first stage or capture builds it once: topohead demo",
    )  # fmt: skip


def _page() -> Check:
    """The page of `topohead view`, which the build puts into the package."""
    page = Path(__file__).parents[1] / "viewer"
    if (page / "dist" / "index.html").is_file():
        return Check("page", "ok", "`topohead view` has its page")
    return Check(
        "page", "optional", "not built: `topohead view` shows meshes alone, with viser",
        f"with Node 20 or newer: cd {page / 'page'} && npm ci && npm run build",
    )  # fmt: skip


def _extras() -> Iterator[Check]:
    wanted = _requirements_of_extras()
    for module, (extra, purpose) in EXTRAS.items():
        requirement = wanted.get(module) or wanted.get(extra, module)
        if importlib.util.find_spec(module) is not None:
            name = _distribution(requirement)
            yield Check(module, "ok", f"{_version(name)}: {purpose}")
        else:
            yield Check(module, "optional", f"absent: {purpose}", f"{_pip()} '{requirement}'")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a module that came by another way than pip
        return "here"


def _blender() -> Check:
    """Blender for FBX and Alembic; only looked for, not started."""
    from topohead.core.errors import InputError
    from topohead.io.blender import find_blender

    purpose = "FBX and Alembic: `topohead export RUN --to fbx`"
    try:
        command = find_blender(None)
    except InputError as error:
        return Check("blender", "optional", f"absent: {purpose}", str(error).split(": ", 1)[1])
    return Check("blender", "ok", f"{command[0]}: {purpose}")


def _requirements_of_extras() -> dict[str, str]:
    """What the package's metadata asks for, like "mitsuba>=3.6", by package and by extra.

    Of an extra with several packages it is the first.
    """
    found: dict[str, str] = {}
    for line in metadata.requires("topohead") or []:
        requirement, _, marker = line.partition(";")
        if "extra ==" in marker:
            name = marker.split("extra ==")[1].strip(" '\"")
            found.setdefault(name, requirement.strip())
            found.setdefault(_distribution(requirement.strip()), requirement.strip())
    return found


def _distribution(requirement: str) -> str:
    """The package that a requirement names."""
    return re.split(r"[^\w-]", requirement)[0]


def _pip() -> str:
    return f"{sys.executable} -m pip install"
