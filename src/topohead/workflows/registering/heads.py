"""From a fit of the control mesh to a head that can be written: level, frame, rig."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, Topology
from topohead.core.scans import ScanFit
from topohead.geometry.alignment import apply
from topohead.geometry.skinning import FaceRig, RigPerformance, rigged
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.assets import reference_head
from topohead.solvers.personal_actions import PersonalActions


@dataclass(frozen=True)
class RegisteredHead:
    """A head of the reference topology: as the scan shows it, and as a rig at rest.

    All in one frame, metres. `sigma` is the expected error of each vertex along each axis.
    """

    mesh: Mesh
    rig: FaceRig
    expression: Float[Tensor, " 52"]
    sigma: Float[Tensor, " V"]

    @property
    def neutral(self) -> Mesh:
        """The head without its expression."""
        return Mesh(self.mesh.topology, self.rig.neutral)

    @property
    def played(self) -> RigPerformance:
        """The rig in one frame: what the scan shows."""
        still = torch.eye(4, dtype=torch.float64)[None]
        return RigPerformance(self.rig, self.expression[None], still, 30.0)


def level_one(fit: ScanFit) -> Float[Tensor, "V 3"]:
    """A fit's vertices at level 1, which is the surface that lies on the scan."""
    return level_of(1)[1](fit.vertices.double()).float()


def registered_head(
    fit: ScanFit,
    level: int,
    reference_frame: bool,
    fine: Float[Tensor, "V 3"] | None = None,
) -> RegisteredHead:
    """The head of a fit at a level of detail, where the scan is or upright at the origin.

    `fine` are level-1 vertices in the scan's frame that lie closer to the scan than the fit's own.
    Blendshapes are this person's (`PersonalActions`); the neutral is the fit without them.
    """
    topology, carry = level_of(level)
    pose = fit.pose.double()
    size = torch.linalg.det(pose[:3, :3]) ** (1 / 3)
    rigid = pose.clone()
    rigid[:3, :3] /= size
    upright = torch.linalg.inv(rigid)
    vertices = carry(fit.vertices.double()) if fine is None else fine.double()
    turn = pose[:3, :3]
    if reference_frame:
        vertices, turn = apply(upright, vertices), size * torch.eye(3, dtype=torch.float64)
        upright = torch.eye(4, dtype=torch.float64)
    vertices = vertices.float()
    _, actions = at_rest(fit)
    basis = (carry(actions.double()) @ turn.T).float()
    neutral = vertices - torch.tensordot(fit.expression.float(), basis, 1)
    rig = rigged(topology, neutral, basis, upright.float())
    sigma = carry(fit.sigma.double()[:, None])[:, 0].float()
    return RegisteredHead(Mesh(topology, vertices), rig, fit.expression.float(), sigma)


def at_rest(fit: ScanFit) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "52 V 3"]]:
    """A fit's head without its expression, and its own 52 actions; level 0, head frame."""
    shown = apply(torch.linalg.inv(fit.pose.double()), fit.vertices.double()).float()
    return _personal().at_rest(shown, fit.expression)


@cache
def _personal() -> PersonalActions:
    return PersonalActions.of(reference_head(0))


@cache
def level_of(level: int) -> tuple[Topology, Callable[[Tensor], Tensor]]:
    """A level's topology, and what carries values [V K] of the control mesh to it."""
    base = reference_head(0).topology
    if level == 0:
        return base, lambda values: values
    _, matrix = catmull_clark(base)
    return reference_head(1).topology, lambda values: refine(matrix, values)
