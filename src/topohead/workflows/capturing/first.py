"""The first frame: the head, found or given, and what is known about how it moves."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from topohead.core import (
    ARKIT_52,
    HeadModel,
    Mesh,
    Topology,
)
from topohead.geometry.alignment import rigid
from topohead.geometry.bridge import fit_bridge
from topohead.io.assets import reference_head, topology_from, topology_tensors
from topohead.io.meshes import check_mesh, read_mesh, write_obj
from topohead.io.runs import RunFolder
from topohead.io.undistortion import undistorted_landmarks
from topohead.solvers.registration import FirstFrameConfig, first_frame
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.take import Take
from topohead.workflows.progress import Sight, show
from topohead.workflows.progress import track as progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """The first frame's mesh and how a face like it moves.

    `basis` [K V 3] are the expression displacements of the head model at this head's place and
    size, `expression` [K] how much of each the mesh shows. `upright` moves the world to the head's
    y-up frame.
    """

    mesh: Mesh
    basis: Float[Tensor, "K V 3"]
    expression: Float[Tensor, " K"]
    upright: Float[Tensor, "4 4"]


def first(run: RunFolder, take: Take, config: CaptureConfig) -> Head:
    """The head of the first frame, found or given."""
    if not (run.is_done("first") and run.has("first/head.safetensors")):
        started = time.perf_counter()
        for _ in progress(range(1), "first frame"):
            head, facts = _find_first(take, config)
        write_obj(head.mesh, run.path / "first" / "start.obj")
        tensors = topology_tensors(head.mesh.topology) | {
            "vertices": head.mesh.vertices,
            "basis": head.basis,
            "expression": head.expression,
            "upright": head.upright,
        }
        with run.write("first/head.safetensors") as path:
            save_file(packed(tensors), path)
        regions = {k: v.tolist() for k, v in head.mesh.topology.regions.items()}
        run.write_json("regions.json", regions)
        run.append_metrics("first", seconds=time.perf_counter() - started, **facts)
        run.finish("first")
    return read_head(run.path / "first" / "head.safetensors")


def show_head(take: Take, head: Head) -> None:
    """Shows the first frame's head and the cameras that look at it."""
    cameras = take.capture.rig.cameras.select(take.names)
    show(Sight(meshes={"head": head.mesh}, cameras=cameras, upright=head.upright))


def read_head(path: Path) -> Head:
    """The head of a run's first frame, as the stage `first` wrote it."""
    stored = load_file(path)
    mesh = Mesh(topology_from(stored), stored["vertices"])
    return Head(mesh, stored["basis"], stored["expression"], stored["upright"])


def _find_first(take: Take, config: CaptureConfig) -> tuple[Head, dict[str, float]]:
    frame = take.capture.frames[0]
    views = take.views(frame, config.height)
    show(Sight(frame, images=dict(zip(views.cameras.names, views.images, strict=True))))
    model = reference_head(1)
    settings = FirstFrameConfig(refine=not config.keep_start, units=config.units)
    if take.start_path is None:
        landmarks = undistorted_landmarks(take.capture, frame, views.cameras)
        found = first_frame(views, model, landmarks, config=replace(settings, refine=True))
        pose = found.pose.double()
        assert found.expression is not None, "the head model was fitted"
        basis = _turned(model.expression_basis, pose[:3, :3])
        head = Head(found.mesh, basis, found.expression, torch.linalg.inv(pose))
    else:
        start = read_mesh(take.start_path, config.units)
        check_mesh(start, take.start_path, uv_required=True)
        found = first_frame(views, start=start, config=settings)
        head = recognised(found.mesh)
    return head, {} if found.residual is None else {"residual": found.residual}


def recognised(mesh: Mesh) -> Head:
    """A mesh of any topology with what the reference head knows about it: regions and motion."""
    for level in (1, 0):
        model = reference_head(level)
        if _same_faces(model.topology, mesh.topology):
            pose = rigid(model.template.double(), mesh.vertices.double())
            known = replace(
                mesh.topology,
                regions=model.topology.regions,
                landmarks=model.topology.landmarks,
                mirror=model.topology.mirror,
            )
            basis = _turned(model.expression_basis, pose[:3, :3])
            # a start mesh is taken to be at rest
            return Head(Mesh(known, mesh.vertices), basis, _at_rest(), torch.linalg.inv(pose))
    model: HeadModel = reference_head(0)
    bridge, fit = fit_bridge(model, mesh)
    log.info("start mesh bridged to the reference head, %.2f mm apart", fit.residual * 1e3)
    similarity = fit.model_to_mesh.double()
    size = torch.linalg.det(similarity[:3, :3]) ** (1 / 3)
    pose = similarity.clone()
    pose[:3, :3] /= size
    basis = _turned(bridge.basis(model.expression_basis), similarity[:3, :3])
    # what lies beside the reference head (shoulders, lashes) has no expression to follow
    basis = basis * bridge.near[None, :, None]
    expression = fit.expression.float()
    return Head(Mesh(bridge.target, mesh.vertices), basis, expression, torch.linalg.inv(pose))


def _at_rest() -> Float[Tensor, " K"]:
    return torch.zeros(len(ARKIT_52))


def _same_faces(a: Topology, b: Topology) -> bool:
    return a.vertex_count == b.vertex_count and torch.equal(a.faces, b.faces)


def _turned(basis: Float[Tensor, "K V 3"], turn: Float[Tensor, "3 3"]) -> Float[Tensor, "K V 3"]:
    return (basis.double() @ turn.T.double()).float()


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory and have no holes, as safetensors wants them."""
    return {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
