"""Types that every layer shares."""

from topohead.core.cameras import Cameras, Distortion, Rig
from topohead.core.capture import Capture
from topohead.core.errors import InputError
from topohead.core.head import ARKIT_52, HeadModel
from topohead.core.topology import Mesh, SurfacePoints, Topology
from topohead.core.views import TrackedFrame, Views

__all__ = [
    "ARKIT_52", "Cameras", "Capture", "Distortion", "HeadModel", "InputError", "Mesh", "Rig",
    "SurfacePoints", "Topology", "TrackedFrame", "Views",
]  # fmt: skip
