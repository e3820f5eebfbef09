"""Inputs that no avatar comes of, told before the work."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import InputError, PosedViews
from topohead.geometry.meshes import vertex_normals
from topohead.io.calibration import find_calibration
from topohead.io.images import IMAGE_SUFFIXES
from topohead.rendering.mesh import depth_maps
from topohead.solvers.reprojection import picture_values, sight
from topohead.workflows.avatars.inputs import Sitting

LEAST_SHARED = 100
"""Vertices that a picture must share with others to be compared."""

WANTED = (
    "the run folder of a `topohead capture`, or a folder with fit.npz and alignment.npz of CAP4D's "
    "tracker beside images/"
)
"""What a fit takes."""

UNLIKE = 0.2
"""Correlation with the other pictures below which a picture does not show the head."""


def refuse_untracked(path: Path) -> None:
    """Refuses pictures or a video of whose cameras and heads nobody tells, and bare tracks."""
    if (path / "run.json").exists():
        return
    if not path.exists():
        raise InputError(f"no such file or folder: {path}; expected {WANTED}")
    if path.is_file():
        raise InputError(
            f"{path} is a file; a picture or video by itself has no cameras and no "
            f"tracked head: expected {WANTED}"
        )
    pictures = [f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures and (path / "fit.npz").is_file():
        raise InputError(
            f"{path} has tracks (fit.npz) and no pictures; expected images/CAMERA/ "
            "beside them (tracks alone drive: `topohead avatar animate --drive`)"
        )
    if not pictures:
        raise InputError(f"{path} holds no pictures and no run; expected {WANTED}")
    try:
        calibration = find_calibration(path)
    except InputError:
        raise InputError(
            f"{path} has {len(pictures)} pictures and no cameras; expected {WANTED}"
        ) from None
    raise InputError(
        f"{path} has cameras ({calibration.name}) but no head; run `topohead capture` first and "
        "give its run, or give a mesh of the head in the cameras' world with --head"
    )


def check_agreement(sitting: Sitting) -> None:
    """Refuses pictures that look like none of the others where they should show the same skin.

    The face's vertices carry each picture's brightness; a picture's correlation with the mean of
    the others, over what both see, tells. One picture alone cannot be judged.
    """
    values, seen, names = face_values(sitting.posed)
    if len(values) < 2:
        return
    for k, name in enumerate(names):
        others = seen.clone()
        others[k] = False
        shared = seen[k] & others.any(0)
        if int(shared.sum()) < LEAST_SHARED:
            continue  # the back of the head
        mean = (values * others).sum(0) / others.sum(0).clamp(min=1)
        score = correlation(values[k][shared], mean[shared])
        if score < UNLIKE:
            raise InputError(
                f"{name} does not show the head that the other pictures do (correlation "
                f"{score:.2f}); expected one person, with heads tracked in these very pictures"
            )


def face_values(
    posed: PosedViews,
) -> tuple[Float[Tensor, "P N"], Bool[Tensor, "P N"], list[str]]:
    """Brightness of the face's vertices in every picture, where it is seen, and pictures' names."""
    topology = posed.topology
    face = topology.regions.get("face", torch.arange(topology.vertex_count))
    values, seen, names = [], [], []
    for view, vertices in zip(posed.views, posed.vertices.float(), strict=True):
        normals = vertex_normals(vertices, topology.triangles)
        depths = depth_maps(vertices, topology.triangles, view.cameras, cull=False)
        for c, image in enumerate(view.images):
            pixels, weight = sight(
                vertices[face], normals[face], view.cameras.world_to_camera[c],
                view.cameras.intrinsics[c], depths[c],
            )  # fmt: skip
            values.append(picture_values(image, pixels).mean(1))
            seen.append(weight > 0)
            names.append(f"picture {view.cameras.names[c]} of frame {view.frame}")
    return torch.stack(values), torch.stack(seen), names


def correlation(a: Float[Tensor, " N"], b: Float[Tensor, " N"]) -> float:
    """Pearson's; 0 where one of them is flat."""
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 1e-9 else 0.0
