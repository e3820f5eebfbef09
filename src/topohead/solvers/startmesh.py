"""A start mesh of any topology: is it on the subject, and where exactly?"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from topohead.core import InputError, Mesh, Views
from topohead.geometry.meshes import vertex_normals
from topohead.solvers.agreement import Agreement
from topohead.solvers.evidence import Evidence, Normals, project_with_jacobian, surface_positions

PLAUSIBLE = 0.6
"""Least share of a start mesh's vertices that must fall on the subject."""

CERTAIN = 0.9
"""Share from which no other scale or turn is tried."""

MARGIN = 0.15
"""A larger share after a change of scale or axes by this much says that the mesh is turned."""

_SCALES = (1.0, 0.001, 0.01, 0.1, 10.0, 100.0, 1000.0)

_AXES = {
    "": np.eye(3),
    "turned from z-up to y-up": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "turned from y-up to z-up": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "turned by 180 degrees about x": np.diag([1.0, -1, -1]),
    "turned by 180 degrees about y": np.diag([-1.0, 1, -1]),
}


def check_start(start: Mesh, views: Views) -> None:
    """InputError when the mesh is not where the cameras see a subject.

    Tries scales by powers of ten and the usual swaps of axes, and names the one that fits.
    """
    vertices = start.vertices.double().numpy()
    if not np.isfinite(vertices).all():
        bad = int(np.flatnonzero(~np.isfinite(vertices).all(1))[0])
        raise InputError(f"expected finite vertices in the start mesh, got NaN at vertex {bad}")
    triangles = start.topology.triangles
    share = share_on_subject(vertices, triangles, views)
    sized = _sized_like_a_head(vertices)
    if sized and share >= CERTAIN:
        return
    better, advice = _better_place(vertices, triangles, views)
    if sized and share >= PLAUSIBLE and better < share + MARGIN:
        return
    if better >= PLAUSIBLE:
        raise InputError(
            f"expected the start mesh on the subject, got {share:.0%} of it there: "
            f"it fits when {advice}"
        )
    _check_rig_units(vertices, triangles, views)
    extent = float(np.ptp(vertices, axis=0).max())
    raise InputError(
        f"expected the start mesh on the subject, got {share:.0%} of it there (it is {extent:.3g} "
        "m large): put it into the world of the cameras, or leave it out and give landmarks"
    )


def _check_rig_units(
    vertices: Float[np.ndarray, "V 3"], triangles: torch.Tensor, views: Views
) -> None:
    """InputError when a mesh of a head's size fits at another scale: then the rig is off."""
    if not _sized_like_a_head(vertices):
        return
    for scale in _SCALES:
        if scale == 1 or not _fills_pictures(scale * vertices, views):
            continue
        if share_on_subject(scale * vertices, triangles, views) >= PLAUSIBLE:
            raise InputError(
                "expected a calibration in the unit of the start mesh, which has a head's size, "
                f"got lengths {scale:g} times as large: give the calibration's unit with --units"
            )


def _fills_pictures(vertices: Float[np.ndarray, "V 3"], views: Views) -> bool:
    """Whether the mesh spans a tenth of the first picture or more: a speck is on any subject."""
    pixels, depth, _ = project_with_jacobian(views.cameras, 0, vertices)
    if not (depth > 0).all():
        return False
    return float(np.ptp(pixels, axis=0).max()) >= 0.1 * max(views.cameras.size(0))


def _better_place(
    vertices: Float[np.ndarray, "V 3"], triangles: torch.Tensor, views: Views
) -> tuple[float, str]:
    """The largest share on the subject after a power of ten and a swap of axes, and which."""
    best = (0.0, "")
    for scale in _SCALES:
        for axes, turn in _AXES.items():
            moved = scale * vertices @ turn.T
            if (scale == 1 and not axes) or not _sized_like_a_head(moved):
                continue
            parts = [f"scaled by {scale:g}"] if scale != 1 else []
            parts += [axes] if axes else []
            share = share_on_subject(moved, triangles, views)
            best = max(best, (share, " and ".join(parts)), key=lambda pair: pair[0])
    return best


def share_on_subject(
    vertices: Float[np.ndarray, "V 3"], triangles: torch.Tensor, views: Views
) -> float:
    """Share of the surface that two or more cameras see inside the picture and the mask.

    Counts only what faces a camera: each vertex needs two of those it faces (or all, if fewer).
    """
    normals = vertex_normals(torch.from_numpy(vertices), triangles).numpy()
    seen, facing = np.zeros(len(vertices)), np.zeros(len(vertices))
    for camera in range(len(views.cameras)):
        center = views.cameras.centers[camera].double().numpy()
        faces = np.einsum("vd,vd->v", normals, center - vertices) > 0
        facing += faces
        pixels, depth, _ = project_with_jacobian(views.cameras, camera, vertices)
        width, height = views.cameras.size(camera)
        inside = (depth > 0) & (pixels >= 0).all(1)
        inside &= (pixels[:, 0] < width) & (pixels[:, 1] < height)
        if views.masks is not None:
            mask = views.masks[camera].numpy()
            place = np.clip(np.nan_to_num(pixels), 0, [width - 1, height - 1]).astype(int)
            inside &= mask[place[:, 1], place[:, 0]] > 0.5
        seen += inside & faces
    wanted = np.minimum(facing, 2)
    counted = wanted > 0
    return float((seen[counted] >= wanted[counted]).mean()) if counted.any() else 0.0


def _sized_like_a_head(vertices: Float[np.ndarray, "V 3"]) -> bool:
    """A face mask to a bust: 0.1 to 0.8 m in its largest extent."""
    return 0.1 <= float(np.ptp(vertices, axis=0).max()) <= 0.8


def align_start(
    vertices: Float[np.ndarray, "V 3"],
    normals: Normals,
    look: Agreement,
    iterations: int = 4,
    samples: int = 8000,
) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "V 3"]]:
    """Rigid motion that makes the mesh photo-consistent, coarse to fine, and the moved mesh.

    A prior of 5 mm and 3° holds what pictures leave open: a shape can only be placed by views
    that see it from different sides.
    """
    center = vertices.mean(0)
    turn, shift = np.eye(3), np.zeros(3)
    precision = np.array([1 / 0.05**2] * 3 + [1 / 0.005**2] * 3)
    for level in reversed(range(1, len(look.levels))):
        for _ in range(iterations):
            moved = (vertices - center) @ turn.T + center + shift
            found = look.evidence(moved, normals(moved), level, samples)
            jacobian = _rigid_jacobian(found, moved, center + shift)
            flat = jacobian.reshape(-1, 6)
            normal = flat.T @ (found.matrices @ jacobian).reshape(-1, 6)
            gradient = flat.T @ found.gradients.astype(np.float64).ravel()
            strayed = np.concatenate([Rotation.from_matrix(turn).as_rotvec(), shift])
            step = -np.linalg.solve(normal + np.diag(precision), gradient + precision * strayed)
            turn = Rotation.from_rotvec(step[:3]).as_matrix() @ turn
            shift = shift + step[3:]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, center + shift - turn @ center
    return pose, vertices @ turn.T + pose[:3, 3]


def _rigid_jacobian(
    found: Evidence, vertices: np.ndarray, center: np.ndarray
) -> Float[np.ndarray, "N 3 6"]:
    """∂point/∂(turn about the centre, shift)."""
    arm = surface_positions(vertices, found.corners, found.weights) - center
    jacobian = np.zeros((len(found), 3, 6))
    jacobian[:, 0, 1], jacobian[:, 0, 2] = arm[:, 2], -arm[:, 1]
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -arm[:, 2], arm[:, 0]
    jacobian[:, 2, 0], jacobian[:, 2, 1] = arm[:, 1], -arm[:, 0]
    jacobian[:, :, 3:] = np.eye(3)
    return jacobian
