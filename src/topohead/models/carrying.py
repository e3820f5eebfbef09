"""Another family's identities on the reference topology, brought over by a bridge that is checked.

Skin is carried point by point. What lies behind it follows: sockets by a smooth fill, eyeballs with
the other family's own eyeballs, tongue and teeth with the mouth around them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, Mesh
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.bridge import fit_bridge
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.globes import fit_sphere
from topohead.geometry.lines import INNER, LINES, drawn, hausdorff, landmark_lines
from topohead.geometry.meshes import face_normals
from topohead.models.controls import skull_weights, without_motion
from topohead.models.linear import LinearHead
from topohead.models.sliding import common_slide, held, skin_mesh
from topohead.models.unfolding import FIRM, Continued, Places, places_on, unfolded

GATES = {
    "landmarks_mm": 1.0, "lines_mm": 1.2, "surface_mm": 1.2, "flipped": 0.004, "expressions": 0.7,
}  # fmt: skip
"""The worst that a bridge may be to be used. All but the last are upper limits."""


@dataclass(frozen=True)
class CarriedHead:
    """Identities mean + Σ weight · identity in the reference's head frame and topology, metres.

    Weights are standard normal. `quality`: median distance of inner landmarks on the mean head
    (`landmarks_mm`), how far rims lie apart where they do most (`lines_mm`), 95th percentile of
    the distance from the other family's face to the carried skin over random identities
    (`surface_mm`), share of skin triangles that turn over in them (`flipped`), median correlation
    of like-named expressions' motion (`expressions`), each of them in `actions`.
    """

    mean: Float[Tensor, "V 3"]
    identity: Float[Tensor, "I V 3"]
    quality: Mapping[str, float]
    actions: Mapping[str, float] = field(default_factory=dict)

    def checked(self, name: str) -> "CarriedHead":
        """Itself, or ValueError when a gate fails."""
        for gate, limit in GATES.items():
            value = self.quality[gate]
            if (value < limit) if gate == "expressions" else (value > limit):
                raise ValueError(
                    f"the bridge to {name} fails its gate {gate}: {value:.3g}, limit {limit:g}"
                )
        return self


def carry(other: LinearHead, reference: LinearHead, slide: bool = True) -> CarriedHead:
    """The other family's mean and modes on the reference topology, and how well that went.

    A fit to the mean head places the vertices on it; then they `slide` to where both families' own
    shapes say that they belong (`models.sliding`), and what folds is laid smooth
    (`models.unfolding`).
    """
    mesh = Mesh(replace(other.topology, regions={}), other.template)
    fit = fit_bridge(reference, mesh, other.topology.landmarks["ibug68"])[1]
    places = fit.vertices
    if slide:
        first = _Placed.at(places, other, reference)
        slid = first.mean + first.fill(first.slide(other, reference))
        places = held(slid, reference, other).float()
    placed = _Placed.smooth(places, other, reference)
    pose, weights = placed.upright(reference)
    carried = CarriedHead(
        apply(pose, placed.mean).float(),
        without_motion(placed.modes @ pose[:3, :3].T, reference.template.double(), weights).float(),
        {},
    )
    quality, actions = _quality(other, reference, placed)
    return replace(carried, quality=quality, actions=actions)


@dataclass(frozen=True)
class _Placed:
    """The other family's mean and modes at places on its surface, in its own frame, metres."""

    places: Places
    fill: Continued
    mean: Float[Tensor, "V 3"]
    modes: Float[Tensor, "I V 3"]

    @staticmethod
    def at(vertices: Float[Tensor, "V 3"], other: LinearHead, reference: LinearHead) -> "_Placed":
        """With the reference's vertices put down where they lie beside the other's mean head."""
        places = places_on(vertices, other, reference.topology)
        fill = Continued(reference.topology, FIRM * places.weight)
        foot = places(other.template)
        mean = vertices.double() + fill(foot - vertices)
        modes = torch.stack([fill(places(row)) for row in other.identity_basis])
        return _Placed(places, fill, mean, modes).seated(other, reference)

    @staticmethod
    def smooth(
        vertices: Float[Tensor, "V 3"], other: LinearHead, reference: LinearHead
    ) -> "_Placed":
        """From where `at` would put them, without folds (`models.unfolding`)."""
        laid = unfolded(vertices, other, reference)
        modes = torch.stack([laid.mode(row, other.topology) for row in other.identity_basis])
        return _Placed(laid.places, laid.fill, laid.mean, modes).seated(other, reference)

    def seated(self, other: LinearHead, reference: LinearHead) -> "_Placed":
        """With eyeballs where the other's are and as large."""
        mean, modes = self.mean.clone(), self.modes.clone()
        for side in ("eye_left", "eye_right"):
            own, theirs = reference.topology.regions[side], other.topology.regions[side]
            still = _reseated(reference.template[own], other.template[theirs])
            mean[own] = still
            for row, delta in zip(modes, other.identity_basis[:, theirs], strict=True):
                moved = other.template[theirs] + delta
                row[own] = _reseated(reference.template[own], moved) - still
        return replace(self, mean=mean, modes=modes)

    def upright(self, reference: LinearHead) -> tuple[Float[Tensor, "4 4"], Float[Tensor, " V"]]:
        """What brings the mean to the head frame, and the weights of the skull that say so."""
        template = reference.template.double()
        weights = skull_weights(reference.topology, template)
        return rigid(self.mean, template, weights), weights

    def slide(self, other: LinearHead, reference: LinearHead) -> Float[Tensor, "V 3"]:
        """How far the vertices should slide along the other's skin; zero where it is not known."""
        pose = self.upright(reference)[0]
        mean, modes = apply(pose, self.mean).float(), (self.modes @ pose[:3, :3].T).float()
        upright = replace(other, template=apply(pose, other.template.double()).float())
        theirs = replace(reference, template=mean, identity_basis=modes)
        found = common_slide(reference, theirs, skin_mesh(upright), skin_mesh(reference))
        return torch.where(self.places.known[:, None], found @ pose[:3, :3], 0.0)


def _reseated(own: Float[Tensor, "N 3"], theirs: Float[Tensor, "M 3"]) -> Float[Tensor, "N 3"]:
    """Our globe where theirs is and as large: by the spheres through both."""
    (start, size), (goal, wanted) = fit_sphere(own), fit_sphere(theirs)
    return (goal + wanted / size * (own - start)).double()


def _quality(
    other: LinearHead, reference: LinearHead, placed: _Placed
) -> tuple[dict[str, float], dict[str, float]]:
    topology, known = reference.topology, placed.places.known
    mean, modes = placed.mean.float(), placed.modes.float()
    both = ((topology, mean), (other.topology, other.template))
    marks = [interpolate(t.landmarks["ibug68"], t.triangles, v)[INNER] for t, v in both]
    named = [
        landmark_lines(t, v)
        for t, v in ((topology, reference.template), (other.topology, other.template))
    ]
    apart = [
        hausdorff(*(drawn(v, lines[name]) for (_, v), lines in zip(both, named, strict=True)))
        for name in LINES
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
    ours = reference.expression_basis
    theirs = torch.stack([placed.places(row).float() for row in other.expression_basis])
    like = {
        name: float(torch.corrcoef(torch.stack([a[known].flatten(), b[known].flatten()]))[0, 1])
        for name, a, b in zip(ARKIT_52, ours, theirs, strict=True)
        if float(b.abs().amax()) > 0 and not name.startswith("eyeLook")
    }
    quality = {
        "landmarks_mm": 1000 * float((marks[0] - marks[1]).norm(dim=1).median()),
        "lines_mm": 1000 * max(apart),
        "surface_mm": 1000 * float(torch.cat(distance).quantile(0.95)),
        "flipped": float(torch.stack(flipped).mean()),
        "expressions": float(np.median([*like.values()])),
    }
    return quality, like
