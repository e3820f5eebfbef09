"""Types that every layer shares.

Each is imported when it is first asked for: the command line's help needs `InputError` and
defaults, and must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topohead.core.cameras import Cameras, Distortion, Rig
    from topohead.core.capture import Capture
    from topohead.core.errors import InputError
    from topohead.core.head import ARKIT_52, HeadModel
    from topohead.core.posed_views import PosedViews
    from topohead.core.scans import Scan, ScanFit
    from topohead.core.splats import BoundSplats, GaussianBinding, Splats
    from topohead.core.strands import Strands
    from topohead.core.topology import Mesh, SurfacePoints, Topology
    from topohead.core.views import Photographs, TrackedFrame, Views

__all__ = [
    "ARKIT_52", "BoundSplats", "Cameras", "Capture", "Distortion", "GaussianBinding", "HeadModel",
    "InputError", "Mesh", "Photographs", "PosedViews", "Rig", "Scan", "ScanFit", "Splats",
    "Strands", "SurfacePoints", "Topology", "TrackedFrame", "Views",
]  # fmt: skip

_HOMES = {
    "cameras": ("Cameras", "Distortion", "Rig"),
    "capture": ("Capture",),
    "errors": ("InputError",),
    "head": ("ARKIT_52", "HeadModel"),
    "posed_views": ("PosedViews",),
    "scans": ("Scan", "ScanFit"),
    "splats": ("BoundSplats", "GaussianBinding", "Splats"),
    "strands": ("Strands",),
    "topology": ("Mesh", "SurfacePoints", "Topology"),
    "views": ("Photographs", "TrackedFrame", "Views"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"topohead.core.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'topohead.core' has no attribute '{name}'")
