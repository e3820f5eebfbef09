"""Where a file's own axes and unit stand against the world: one similarity for everything in it."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import Cameras, Rig, Splats
from topohead.geometry.skinning import FaceRig, RigPerformance

Axis = Literal["y-up", "z-up"]

AXIS_TURNS: dict[Axis, tuple[tuple[float, ...], ...]] = {
    "y-up": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "z-up": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
"""From y up, face along +z, to a file's axes; z up has the face along −y, as Blender does."""


@dataclass(frozen=True)
class Placement:
    """World metres to a file: x' = scale · (rotation · x + shift), `shift` in metres, float64."""

    rotation: Float[Tensor, "3 3"]
    shift: Float[Tensor, "3"]
    scale: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether numbers may pass untouched, so that they return bit by bit."""
        still = torch.equal(self.rotation, torch.eye(3).double()) and not self.shift.any()
        return bool(still) and self.scale == 1.0

    def points(self, points: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3"]:
        """Positions in the file, of the type they came in."""
        if self.is_identity:
            return points
        moved = (points.double() @ self.rotation.T + self.shift) * self.scale
        return moved.to(points.dtype)

    def offsets(self, offsets: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3"]:
        """Differences of positions."""
        if self.is_identity:
            return offsets
        return (offsets.double() @ self.rotation.T * self.scale).to(offsets.dtype)

    def poses(self, poses: Float[Tensor, "T 4 4"]) -> Float[Tensor, "T 4 4"]:
        """Rigid motions of the world as motions in the file, float64."""
        return self.matrix @ poses.double() @ torch.linalg.inv(self.matrix)

    @property
    def matrix(self) -> Float[Tensor, "4 4"]:
        """The whole similarity."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = self.rotation * self.scale
        matrix[:3, 3] = self.shift * self.scale
        return matrix

    def performance(self, played: RigPerformance) -> RigPerformance:
        """A rig and its motion, standing in the file's axes (`upright` is then the identity)."""
        rig = played.rig
        moved = FaceRig(
            rig.topology,
            self.points(rig.neutral),
            self.offsets(rig.blendshapes),
            rig.head_share,
            torch.eye(4).to(rig.upright),
            self.points(rig.neck),
            self.points(rig.head),
        )
        return replace(played, rig=moved, poses=self.poses(played.poses))

    def cameras(self, rig: Rig) -> Rig:
        """Cameras whose world has the file's axes; still metres, for `write_rig` to convert."""
        back = torch.eye(4, dtype=torch.float64)
        back[:3, :3] = self.rotation.T
        back[:3, 3] = -(self.rotation.T @ self.shift)
        pose = rig.cameras.world_to_camera.double() @ back
        cameras = rig.cameras
        placed = Cameras(cameras.names, pose, cameras.intrinsics, cameras.sizes)
        return Rig(placed, rig.distortion)

    def splats(self, splats: Splats) -> Splats:
        """Gaussians of constant colour; harmonics that depend on direction are not turned."""
        if splats.harmonics.shape[1] > 1:
            raise ValueError("only Gaussians of constant colour can be turned")
        wxyz = splats.quats.detach().cpu().double().numpy()
        turned = Rotation.from_matrix(self.rotation.numpy()) * Rotation.from_quat(
            wxyz, scalar_first=True
        )
        quats = torch.from_numpy(turned.as_quat(scalar_first=True)).to(splats.quats)
        return replace(
            splats,
            means=self.points(splats.means),
            quats=quats,
            scales=splats.scales * self.scale,
        )


def placement(
    upright: Float[Tensor, "4 4"] | None, axis: Axis = "y-up", meters: float = 1.0
) -> Placement:
    """World to a file of these axes whose unit is `meters` long.

    `upright` moves the world to y up, face along +z; None leaves the world's axes as they are.
    """
    turn = torch.tensor(AXIS_TURNS[axis], dtype=torch.float64)
    if upright is None:
        return Placement(turn, torch.zeros(3).double(), 1 / meters)
    matrix = upright.double()
    return Placement(turn @ matrix[:3, :3], turn @ matrix[:3, 3], 1 / meters)
