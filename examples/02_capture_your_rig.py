"""Look at a rig before capturing it: most failed captures are a unit, an axis or a name.

    python examples/02_capture_your_rig.py TAKE RUN [mm|cm|m]

Prints what the readers understood (cameras, sizes, distances), then captures the first frames.
"""

import sys
from pathlib import Path

from topohead.io.captures import open_capture
from topohead.workflows.capture import CaptureConfig, capture

source, out = Path(sys.argv[1]), Path(sys.argv[2])
units = sys.argv[3] if len(sys.argv) > 3 else None

take = open_capture(source, units=units)
cameras = take.rig.cameras
print(f"{len(take.frames)} frames, {len(cameras)} cameras, {take.frames_per_second:g} a second")
middle = cameras.centers.mean(0)
for index, name in enumerate(cameras.names):
    width, height = cameras.size(index)
    focal = cameras.intrinsics[index, 0, 0]
    away = (cameras.centers[index] - middle).norm()
    lens = take.rig.distortion[index].model
    print(f"  {name}: {width}x{height}, focal {focal:.0f} px, {lens}, {away:.2f} m from the middle")

# two frames first: if they look right, the same command without `frames` does the rest elsewhere
first, second = (take.frames * 2)[:2]
result = capture(CaptureConfig(source=source, out=out, units=units, frames=f"{first},{second}"))
print(result)
