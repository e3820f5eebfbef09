"""Carry a calibration from one program to another.

    python examples/04_convert_a_calibration.py cameras.xml rig.json mm

Reads any format that `topohead capture` reads and writes ours, in metres; `write_rig` also writes
Metashape, COLMAP, nerfstudio and OpenCV files.
"""

import sys
from pathlib import Path

from topohead.io.calibration import read_rig, write_rig

source, target = Path(sys.argv[1]), Path(sys.argv[2])
rig = read_rig(source, units=sys.argv[3] if len(sys.argv) > 3 else None)
write_rig(rig, target)
print(f"{len(rig.cameras)} cameras to {target}")
