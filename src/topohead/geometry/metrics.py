"""How far a tracked sequence is from the truth: pure functions, metres in, millimetres out.

What is measured, and why each number stands beside the others:

* surface distance rewards lying on the skin but not being at the right place on it;
* correspondence binds each vertex to the true skin in the first frame and asks where that point
  of skin is later; its tangential part is the slide, which a texture shows as swimming;
* temporal numbers tell trembling from motion.

Nothing here re-aligns: an error of the head's pose is an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Mesh, SurfacePoints, Topology
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.meshes import vertex_normals

SHARES_MM = (0.2, 0.5, 1.0, 2.0, 3.0)
"""A summary tells which share of the vertices lies nearer than each of these."""

MILLIMETRES = 1000.0


def summary(distances: Float[Tensor, " N"]) -> dict[str, float]:
    """Median, mean, 95th percentile, maximum (mm) and shares in [0, 1] of distances in metres."""
    if len(distances) == 0:
        raise ValueError("no distances to summarise: the region has no vertices")
    mm = distances.double() * MILLIMETRES
    # not torch.quantile, which refuses more than 16 M values
    ordered = mm.sort().values
    result = {
        "median_mm": _at(ordered, 0.5),
        "mean_mm": float(mm.mean()),
        "p95_mm": _at(ordered, 0.95),
        "max_mm": float(ordered[-1]),
    }
    return result | {f"within_{s:g}_mm": float((mm < s).double().mean()) for s in SHARES_MM}


def _at(ordered: Float[Tensor, " N"], share: float) -> float:
    """The value below which this share lies, linear between neighbours."""
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low].lerp(ordered[high], position - low))


def restricted(mesh: Mesh, keep: Bool[Tensor, " V"]) -> Mesh:
    """The mesh with only the faces whose corners are all kept; vertex numbers stay."""
    inside = keep[mesh.topology.faces].all(1)
    topology = Topology(
        vertex_count=mesh.topology.vertex_count,
        faces=mesh.topology.faces[inside],
        uv=mesh.topology.uv,
        face_uv=mesh.topology.face_uv[inside],
        name=mesh.topology.name,
    )
    return Mesh(topology, mesh.vertices)


def surface_distance(points: Float[Tensor, "N 3"], surface: Mesh) -> Float[Tensor, " N"]:
    """Metres from each point to the nearest point of the triangle surface."""
    return closest_points(points, surface)[1]


@dataclass(frozen=True)
class Correspondence:
    """Where vertices lie against the points of skin they were bound to, metres.

    `distance` is the whole way, `slide` its part along the true skin.
    """

    distance: Float[Tensor, " N"]
    slide: Float[Tensor, " N"]


def correspondence(
    vertices: Float[Tensor, "N 3"], bound: SurfacePoints, surface: Mesh
) -> Correspondence:
    """Distance of each vertex to its bound point on the true surface of the same frame."""
    triangles = surface.topology.triangles
    true = surface.vertices.double()
    offset = vertices.double() - interpolate(bound, triangles, true)
    normal = interpolate(bound, triangles, vertex_normals(true, triangles))
    normal = torch.nn.functional.normalize(normal, dim=-1)
    along = (offset * normal).sum(-1, keepdim=True) * normal
    return Correspondence(offset.norm(dim=-1), (offset - along).norm(dim=-1))


def same_topology(a: Topology, b: Topology) -> bool:
    """Whether vertex numbers mean the same: equal counts and equal faces."""
    return a.vertex_count == b.vertex_count and torch.equal(a.faces, b.faces)


@dataclass(frozen=True)
class Temporal:
    """How a sequence moves against the truth; root mean squares over vertices and frames.

    `step_mm` and `true_step_mm` are the motion from frame to frame (the published measure, which
    rewards standing still), `step_error_mm` the difference of the two motions. `rest_jerk_mm` is
    the third difference (mm per frame³) where the true skin rests, None where it never does.
    """

    step_mm: float
    true_step_mm: float
    step_error_mm: float
    rest_jerk_mm: float | None
    resting_share: float


def temporal(
    vertices: Float[Tensor, "T N 3"], truth: Float[Tensor, "T N 3"], rest_mm: float = 0.05
) -> Temporal | None:
    """Motion statistics of tracked vertices and the true points they are bound to.

    A vertex rests over four frames in a row when no true step in them exceeds `rest_mm`.
    None for fewer than two frames.
    """
    if len(vertices) < 2:
        return None
    step, true_step = vertices.double().diff(dim=0), truth.double().diff(dim=0)
    still = true_step.norm(dim=-1) * MILLIMETRES <= rest_mm
    jerk, share = None, 0.0
    if len(vertices) >= 4:
        rests = still[:-2] & still[1:-1] & still[2:]
        share = float(rests.double().mean())
        if rests.any():
            jerk = _rms_mm(step.diff(dim=0).diff(dim=0)[rests])
    return Temporal(_rms_mm(step), _rms_mm(true_step), _rms_mm(step - true_step), jerk, share)


def _rms_mm(vectors: Float[Tensor, "*N 3"]) -> float:
    return float(vectors.square().sum(-1).mean().sqrt()) * MILLIMETRES


@dataclass(frozen=True)
class PoseError:
    """A head's motion since the first frame against the true one."""

    rotation_degrees: float
    translation_mm: float


def pose_error(
    pose: Float[Tensor, "4 4"], true_pose: Float[Tensor, "4 4"], center: Float[Tensor, " 3"]
) -> PoseError:
    """Angle between two motions from frame 1, and how far apart they carry the head's centre."""
    pose, true_pose, center = pose.double(), true_pose.double(), center.double()
    relative = pose[:3, :3] @ true_pose[:3, :3].T
    # atan2 of sine and cosine: acos alone loses angles under 1e-8
    sine = torch.stack([relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0],
                        relative[1, 0] - relative[0, 1]]).norm()  # fmt: skip
    angle = torch.atan2(sine, relative.diagonal().sum() - 1)
    apart = (pose[:3, :3] - true_pose[:3, :3]) @ center + pose[:3, 3] - true_pose[:3, 3]
    return PoseError(float(torch.rad2deg(angle)), float(apart.norm()) * MILLIMETRES)


def transferred_regions(
    source: Mesh, target: Mesh, names: Sequence[str] | None = None
) -> dict[str, Int[Tensor, " N"]]:
    """The source's regions on another mesh of the same shape, by nearest vertex.

    Normals count beside positions (1 rad as much as 4 mm), since closed lips and lids on globes
    touch what faces another way. Both meshes must already lie on one another.
    """
    _, nearest = KDTree(_oriented(source)).query(_oriented(target))
    nearest = torch.from_numpy(nearest)
    wanted = source.topology.regions if names is None else names
    return {
        name: torch.nonzero(source.topology.region_mask(name)[nearest])[:, 0] for name in wanted
    }


def _oriented(mesh: Mesh, normal_weight: float = 0.004) -> np.ndarray:
    """Positions and scaled normals [V 6]."""
    normals = vertex_normals(mesh.vertices.double(), mesh.topology.triangles)
    return torch.cat([mesh.vertices.double(), normals * normal_weight], 1).numpy()
