"""A run's face as a rig: what was played most, and an expression that the take never showed.

python examples/05_rig.py RUN OUT.obj
"""

import sys
from pathlib import Path

import torch

from topohead.core import ARKIT_52, Mesh
from topohead.io.gltf_rig import read_rig_glb
from topohead.io.meshes import write_obj
from topohead.workflows.rig import RigConfig, rig

result = rig(RigConfig(Path(sys.argv[1])))
print(result.summary())

played = read_rig_glb(result.folder / "rig.glb")
strongest = played.weights.amax(0)
for index in strongest.argsort(descending=True)[:5].tolist():
    print(f"{ARKIT_52[index]}: up to {float(strongest[index]):.2f}")

# the person's own wink and half-open mouth, the head at rest
weights = torch.zeros(1, 52)
weights[0, ARKIT_52.index("eyeBlinkLeft")] = 1.0
weights[0, ARKIT_52.index("jawOpen")] = 0.5
face = played.rig.vertices(weights, torch.eye(4)[None])[0]
write_obj(Mesh(played.rig.topology, face), sys.argv[2])
