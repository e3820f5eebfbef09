"""What every result says of itself: the revision and the machine that it was measured on."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def commit() -> str:
    """The revision that is measured; "unknown" where git is not there."""
    said = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, the GPU if there is one, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    found = {
        "processor": names[0] if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        # of other work too: timings are to be believed only when this stays near `cores`
        "load": os.getloadavg()[1],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return found
