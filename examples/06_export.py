"""A run for other programs: what was written, and the same numbers read back.

    python examples/06_export.py RUN OUT

Writes a quad OBJ a frame, one GLB, a PLY and the cameras below OUT; `to="usd"` needs
`pip install 'topohead[usd]'`, `to="fbx"` and `to="abc"` need Blender.
"""

import sys
from pathlib import Path

from topohead.io.gltf import read_glb
from topohead.io.meshes import read_mesh
from topohead.workflows.export import ExportConfig, export

run, out = Path(sys.argv[1]), Path(sys.argv[2])
obj = export(ExportConfig(run, "obj", out=out / "obj"))
print(obj.summary())
print(export(ExportConfig(run, "glb", out=out / "glb", sequence=True)).summary())
print(export(ExportConfig(run, "ply", out=out / "ply", frames="1:1", units="cm")).summary())
print(export(ExportConfig(run, "cameras", out=out / "cameras")).summary())

# one topology, one place, whatever the format
first = read_mesh(next(obj.folder / name for name in obj.files if name.endswith(".obj")))
takes = read_glb(next((out / "glb").glob("*.glb")))
assert takes.topology.faces.equal(first.topology.faces)
gap = (takes.vertices[0] - first.vertices).norm(dim=1).max()
print(f"OBJ and GLB differ by {1e6 * float(gap):.2f} micrometres")
