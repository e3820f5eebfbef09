"""Read what a capture left: how far the mouth opens over time, from the meshes.

    python examples/03_read_a_run.py RUN

Vertices have the same meaning in every frame, so a measurement is a line: here the distance
between the vertices that are the upper and lower lip's middle in the first frame.
"""

import sys
from pathlib import Path

from topohead.io.results import open_run

run = open_run(Path(sys.argv[1]))
print(f"{len(run.frames)} frames of {run.topology.vertex_count} vertices, {run.topology.name}")

# the frontmost vertices of the lips in the first frame, in the head's own axes (y up, face to +z)
first = run.vertices[0]
upper, lower = (run.topology.regions[name] for name in ("lips_upper", "lips_lower"))
top = upper[first[upper, 2].argmax()]
bottom = lower[first[lower, 2].argmax()]

rows = run.frame_rows()
for index, frame in enumerate(run.frames):
    opening = (run.vertices[index, top] - run.vertices[index, bottom]).norm() * 1000
    doubtful = " (doubtful)" if rows.get(frame, {}).get("doubtful") else ""
    print(f"{frame}: lips {opening:.1f} mm apart{doubtful}")
