"""Another family's identities on the reference topology, brought over by a bridge that is checked.

Skin is carried point by point. What lies behind it follows: sockets by a smooth fill, eyeballs with
the other family's own eyeballs, tongue and teeth with the mouth around them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import splu
from torch import Tensor

from topohead.core import ARKIT_52, Mesh, Topology
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.bridge import Bridge, bind, fit_bridge
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.globes import fit_sphere
from topohead.geometry.meshes import (
    connected_parts,
    face_normals,
    neighbour_rings,
    uniform_laplacian,
)
from topohead.models.controls import skull_weights, without_motion
from topohead.models.linear import LinearHead

GATES = {"landmarks_mm": 1.0, "surface_mm": 1.2, "flipped": 0.004, "expressions": 0.7}
"""The worst that a bridge may be to be used. The first three are upper limits."""


SLIT_RINGS = 2
"""Edge loops along slits that follow the skin around: there both lips are equally near."""


@dataclass(frozen=True)
class CarriedHead:
    """Identities mean + Σ weight · identity in the reference's head frame and topology, metres.

    Weights are standard normal. `quality`: median distance of inner landmarks on the mean head
    (`landmarks_mm`), 95th percentile of the distance from the other family's face to the carried
    skin over random identities (`surface_mm`), share of skin triangles that turn over in them
    (`flipped`), median correlation of like-named expressions' motion (`expressions`).
    """

    mean: Float[Tensor, "V 3"]
    identity: Float[Tensor, "I V 3"]
    quality: Mapping[str, float]

    def checked(self, name: str) -> "CarriedHead":
        """Itself, or ValueError when a gate fails."""
        for gate, limit in GATES.items():
            value = self.quality[gate]
            if (value < limit) if gate == "expressions" else (value > limit):
                raise ValueError(
                    f"the bridge to {name} fails its gate {gate}: {value:.3g}, limit {limit:g}"
                )
        return self


def carry(other: LinearHead, reference: LinearHead) -> CarriedHead:
    """The other family's mean and modes on the reference topology, and how well that went."""
    mesh = Mesh(replace(other.topology, regions={}), other.template)
    fit = fit_bridge(reference, mesh, other.topology.landmarks["ibug68"])[1]
    skin = _skin_of(other)
    bridge = bind(Mesh(skin, other.template), Mesh(reference.topology, fit.vertices))
    topology = reference.topology
    known = bridge.near & topology.region_mask("skin") & _unmistaken(other, topology, bridge)
    fill = _Fill(topology, known)
    foot = bridge.values(other.template)
    mean = fit.vertices.double() + fill(torch.where(known[:, None], foot - fit.vertices, 0.0))
    modes = torch.stack([fill(bridge.values(row)) for row in other.identity_basis])
    for side in ("eye_left", "eye_right"):
        own, theirs = topology.regions[side], other.topology.regions[side]
        still = _reseated(reference.template[own], other.template[theirs])
        mean[own] = still
        for row, delta in zip(modes, other.identity_basis[:, theirs], strict=True):
            row[own] = _reseated(reference.template[own], other.template[theirs] + delta) - still
    template = reference.template.double()
    weights = skull_weights(topology, template)
    pose = rigid(mean, template, weights)
    carried = CarriedHead(
        apply(pose, mean).float(),
        without_motion(modes @ pose[:3, :3].T, template, weights).float(),
        {},
    )
    quality = _quality(other, reference, mean.float(), modes.float(), known, bridge)
    return replace(carried, quality=quality)


def _skin_of(head: LinearHead) -> Topology:
    """The topology with the faces of skin alone: no shells, globes or teeth to be caught by."""
    inside = head.topology.region_mask("skin")[head.topology.faces].all(1)
    faces = head.topology.faces[inside]
    neck = {"neck": head.topology.regions["neck"]}
    return Topology(head.topology.vertex_count, faces, head.topology.uv, 0 * faces, neck)


def _unmistaken(other: LinearHead, topology: Topology, bridge: Bridge) -> Bool[Tensor, " V"]:
    """Vertices that may be carried: none at a slit's edge, and no lip found on the other one."""
    slit = topology.region_mask("mouth_socket", "eye_sockets")
    good = neighbour_rings(topology, slit, SLIT_RINGS) > SLIT_RINGS
    for ours, wrong in (("lips_upper", "lips_lower"), ("lips_lower", "lips_upper")):
        found = bridge.values(other.topology.region_mask(wrong).float()[:, None])[:, 0] > 0.3
        good &= ~(topology.region_mask(ours) & found)
    return good


class _Fill:
    """Fields known on part of the skin, continued with least bending over the rest of the head.

    Parts apart from the skin move as the mouth's socket does on average.
    """

    def __init__(self, topology: Topology, known: Bool[Tensor, " V"]) -> None:
        laplacian = uniform_laplacian(topology)
        index, value = laplacian.indices().numpy(), laplacian.values().double().numpy()
        matrix = csr_array((value, (index[0], index[1])), shape=tuple(laplacian.shape))
        part = connected_parts(topology)
        self.main = (part == 0).numpy()
        self.hold = (1e3 * known.double().numpy())[self.main]
        system = (matrix.T @ matrix)[self.main][:, self.main] + diags_array(self.hold)
        self.solver = splu(system.tocsc())
        self.mouth = topology.region_mask("mouth_socket")
        self.apart = part != 0

    def __call__(self, values: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        filled = np.zeros((len(self.main), 3))
        right = self.hold[:, None] * values.double().numpy()[self.main]
        filled[self.main] = self.solver.solve(right)
        out = torch.from_numpy(filled)
        out[self.apart] = out[self.mouth].mean(0)
        return out


def _reseated(own: Float[Tensor, "N 3"], theirs: Float[Tensor, "M 3"]) -> Float[Tensor, "N 3"]:
    """Our globe where theirs is and as large: by the spheres through both."""
    (start, size), (goal, wanted) = fit_sphere(own), fit_sphere(theirs)
    return (goal + wanted / size * (own - start)).double()


def _quality(
    other: LinearHead, reference: LinearHead, mean: Tensor, modes: Tensor, known: Tensor,
    bridge: Bridge,
) -> dict[str, float]:  # fmt: skip
    topology = reference.topology
    marks = [
        interpolate(t.landmarks["ibug68"], t.triangles, v)[27:]
        for t, v in ((topology, mean), (other.topology, other.template))
    ]
    generator = torch.Generator().manual_seed(0)
    corners = topology.triangles[known[topology.triangles].all(1)]
    before = face_normals(mean, corners)
    face = other.topology.regions["face"]
    distance, flipped = [], []
    for _ in range(5):
        weights = torch.randn(len(modes), generator=generator)
        ours = mean + torch.tensordot(weights, modes, 1)
        surface = other.template + torch.tensordot(weights, other.identity_basis, 1)
        distance.append(closest_points(surface[face], Mesh(topology, ours))[1])
        flipped.append(((face_normals(ours, corners) * before).sum(1) < 0).float().mean())
    ours, theirs = reference.expression_basis, bridge.basis(other.expression_basis)
    like = [
        float(torch.corrcoef(torch.stack([a[known].flatten(), b[known].flatten()]))[0, 1])
        for name, a, b in zip(ARKIT_52, ours, theirs, strict=True)
        if float(b.abs().amax()) > 0 and not name.startswith("eyeLook")
    ]
    return {
        "landmarks_mm": 1000 * float((marks[0] - marks[1]).norm(dim=1).median()),
        "surface_mm": 1000 * float(torch.cat(distance).quantile(0.95)),
        "flipped": float(torch.stack(flipped).mean()),
        "expressions": float(np.median(like)),
    }
