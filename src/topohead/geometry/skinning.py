"""Blendshapes and joints to vertices and back: the linear face rig."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import spsolve
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import neighbour_rings, uniform_laplacian


@dataclass(frozen=True)
class FaceRig:
    """A face that can be played: a neutral mesh, its ARKit-52 blendshapes and two joints.

    All in one frame, metres; `upright` moves that frame to the y-up, z-forward head frame.
    `head_share` [V] is how much of the head's motion a vertex follows, the rest is the neck's,
    which stands still. `neck` and `head` are where the joints are at rest.
    """

    topology: Topology
    neutral: Float[Tensor, "V 3"]
    blendshapes: Float[Tensor, "52 V 3"]
    head_share: Float[Tensor, " V"]
    upright: Float[Tensor, "4 4"]
    neck: Float[Tensor, "3"]
    head: Float[Tensor, "3"]

    def vertices(
        self, weights: Float[Tensor, "T 52"], poses: Float[Tensor, "T 4 4"]
    ) -> Float[Tensor, "T V 3"]:
        """The meshes of a performance; `poses` move the head from rest, in the rig's frame."""
        return posed(self.neutral, self.blendshapes, weights, poses, self.head_share)


@dataclass(frozen=True)
class RigPerformance:
    """A rig and what it plays: `weights` of ARKit-52 and head `poses` in the rig's frame."""

    rig: FaceRig
    weights: Float[Tensor, "T 52"]
    poses: Float[Tensor, "T 4 4"]
    frames_per_second: float

    def vertices(self) -> Float[Tensor, "T V 3"]:
        """The mesh of every frame, in the rig's frame."""
        return self.rig.vertices(self.weights, self.poses)


def posed(
    neutral: Float[Tensor, "V 3"],
    blendshapes: Float[Tensor, "52 V 3"],
    weights: Float[Tensor, "T 52"],
    poses: Float[Tensor, "T 4 4"],
    share: Float[Tensor, " V"] | None = None,
) -> Float[Tensor, "T V 3"]:
    """Meshes pose(neutral + Σ weight · blendshape); only `share` of the pose where it is given."""
    shapes = blended(neutral, blendshapes, weights)
    moved = placed(shapes, poses)
    return moved if share is None else torch.lerp(shapes, moved, share.to(shapes)[:, None])


def blended(
    neutral: Float[Tensor, "V 3"],
    blendshapes: Float[Tensor, "52 V 3"],
    weights: Float[Tensor, "T 52"],
) -> Float[Tensor, "T V 3"]:
    """Shapes neutral + Σ weight · blendshape, the head at rest."""
    return neutral + torch.tensordot(weights.to(blendshapes), blendshapes, 1)


def placed(shapes: Float[Tensor, "T V 3"], poses: Float[Tensor, "T 4 4"]) -> Float[Tensor, "T V 3"]:
    """Each frame's shape moved by its pose."""
    turn, shift = poses[:, :3, :3].to(shapes), poses[:, None, :3, 3].to(shapes)
    return shapes @ turn.transpose(1, 2) + shift


def unposed(
    vertices: Float[Tensor, "T V 3"], poses: Float[Tensor, "T 4 4"]
) -> Float[Tensor, "T V 3"]:
    """Meshes brought back to where the head was at rest."""
    turn, shift = poses[:, :3, :3].to(vertices), poses[:, None, :3, 3].to(vertices)
    return (vertices - shift) @ turn


def retarget(performance: RigPerformance, target: FaceRig) -> RigPerformance:
    """The same weights and head motion on another rig.

    Poses are carried through both head frames, whose origins lie between the eyes.
    """
    there = performance.rig.upright.double()
    across = torch.linalg.inv(target.upright.double()) @ there
    poses = across @ performance.poses.double() @ torch.linalg.inv(across)
    return replace(performance, rig=target, poses=poses)


def relaxed_head_share(topology: Topology) -> Float[Tensor, " V"]:
    """How a neck follows its head when nothing else is known: harmonic from rim (0) to head (1).

    Free are vertices of no region of the head, such as neck and shoulders. A mesh that ends at the
    head, or knows no region `boundary`, follows as a whole.
    """
    share = torch.ones(topology.vertex_count, dtype=torch.float64)
    parts = [name for name in topology.regions if name not in ("neck", "skin", "boundary")]
    rim = topology.regions.get("boundary", torch.zeros(0, dtype=torch.long))
    head = topology.region_mask(*parts)
    anchored = rim[neighbour_rings(topology, head, 1)[rim] > 1]
    if 2 * len(anchored) <= len(rim):
        return share
    free = ~head
    free[anchored] = False
    share[anchored] = 0
    index = free.nonzero()[:, 0].numpy()
    laplacian = uniform_laplacian(topology).double()
    cells = laplacian.indices().numpy()
    matrix = csr_array((laplacian.values().numpy(), (cells[0], cells[1])), laplacian.shape)
    rows = matrix[index]
    known = torch.where(free, 0.0, share).numpy()
    # the tiny pull to 1 is for parts that touch neither rim nor head
    system = (rows[:, index] - 1e-9 * eye_array(len(index))).tocsc()
    share[free] = torch.from_numpy(spsolve(system, -(rows @ known) - 1e-9)).clamp(0, 1)
    return share


def measured_head_share(
    vertices: Float[Tensor, "T V 3"],
    shapes: Float[Tensor, "T V 3"],
    poses: Float[Tensor, "T 4 4"],
    expected: Float[Tensor, " V"],
) -> Float[Tensor, " V"]:
    """How much of the head's motion each vertex follows in a take, where `expected` is below 1.

    Least squares of vertices between the resting `shapes` and the posed ones, held to `expected` by
    `DOUBT`, so that a still head says nothing.
    """
    free = expected < 1
    motion = (placed(shapes, poses) - shapes)[:, free].double()
    actual = (vertices - shapes)[:, free].double()
    along, size = (actual * motion).sum((0, 2)), motion.square().sum((0, 2))
    hold = len(vertices) * DOUBT**2
    share = expected.double().clone()
    share[free] = ((along + hold * share[free]) / (size + hold)).clamp(0, 1)
    return share


DOUBT = 0.002
"""Metres rms of head motion below which a take does not show how the neck follows."""


def rigged(
    topology: Topology,
    neutral: Float[Tensor, "V 3"],
    blendshapes: Float[Tensor, "52 V 3"],
    upright: Float[Tensor, "4 4"],
    head_share: Float[Tensor, " V"] | None = None,
) -> FaceRig:
    """A rig with joints put where they belong: the neck's in its rim, the head's in the skull.

    `upright` must bring the eyes' middle to the origin. Without `head_share` the neck relaxes.
    """
    back = torch.linalg.inv(upright.double())
    skull = back[:3, :3] @ torch.tensor(SKULL_JOINT, dtype=torch.float64) + back[:3, 3]
    rim = topology.regions.get("boundary")
    neck = neutral[rim].double().mean(0) if rim is not None and len(rim) else skull
    share = relaxed_head_share(topology) if head_share is None else head_share
    return FaceRig(topology, neutral, blendshapes, share, upright, neck, skull)


SKULL_JOINT = (0.0, -0.035, -0.085)
"""Where skull meets spine in the head frame, metres: between the ears' lower ends."""
