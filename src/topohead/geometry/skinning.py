"""Blendshapes and joints to vertices and back: the linear face rig."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Topology


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


def placed(
    shapes: Float[Tensor, "T V 3"], poses: Float[Tensor, "T 4 4"]
) -> Float[Tensor, "T V 3"]:
    """Each frame's shape moved by its pose."""
    turn, shift = poses[:, :3, :3].to(shapes), poses[:, None, :3, 3].to(shapes)
    return shapes @ turn.transpose(1, 2) + shift


def unposed(
    vertices: Float[Tensor, "T V 3"], poses: Float[Tensor, "T 4 4"]
) -> Float[Tensor, "T V 3"]:
    """Meshes brought back to where the head was at rest."""
    turn, shift = poses[:, :3, :3].to(vertices), poses[:, None, :3, 3].to(vertices)
    return (vertices - shift) @ turn


def head_share(
    vertices: Float[Tensor, "T V 3"],
    shapes: Float[Tensor, "T V 3"],
    poses: Float[Tensor, "T 4 4"],
    topology: Topology,
) -> Float[Tensor, " V"]:
    """How much of the head's motion each neck vertex follows in a take; 1 off the neck.

    Least squares of vertices between the resting `shapes` and the posed ones, held to 1 by `DOUBT`, so
    that a still head says nothing.
    """
    share = torch.ones(vertices.shape[1], dtype=torch.float64)
    neck = topology.regions.get("neck")
    if neck is None or not len(neck):
        return share
    motion = (placed(shapes, poses) - shapes)[:, neck].double()
    actual = (vertices - shapes)[:, neck].double()
    along, size = (actual * motion).sum((0, 2)), motion.square().sum((0, 2))
    hold = len(vertices) * DOUBT**2
    share[neck] = ((along + hold) / (size + hold)).clamp(0, 1)
    return share


DOUBT = 0.002
"""Metres rms of head motion below which a take does not show how the neck follows."""

