"""What `evaluate` measures of a run: against the truth, in held-out views, and its cost.

Frames 2…T are pooled and frame 1 stands apart, because the first frame binds the vertices to the
true skin. Nothing is re-aligned.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import InputError, Mesh, SurfacePoints, Topology
from topohead.geometry import metrics
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.io.results import RunResult, TrueFrame, Truth
from topohead.rendering.displacement import displaced_mesh
from topohead.solvers.detail import halvings_to
from topohead.solvers.sightlines import texel_size
from topohead.workflows.progress import track

log = logging.getLogger(__name__)

REGIONS = ("face", "lips", "eyelids", "brows", "nose")
"""Regions that get a row of their own, as far as the topology names them."""

HIDDEN = ("eyes", "mouth_interior")
"""Not skin: nearest points are not looked for here, or a lid could lie on the globe unpunished."""

SCAN_POINTS = 20_000
"""At most so many points of the true face are measured against the tracked mesh, evenly taken."""


@dataclass
class Errors:
    """Distances of face vertices in metres, one row a frame, and what frames tell besides.

    `vertices` are the face's vertex numbers N. `slide` is the part of `correspondence` along the
    skin. `by_number` compares vertices of equal number; it is empty when topologies differ.
    `detail_surface` and `detail_scan` are `surface` and `scan` of the mesh with its displacement
    map applied; empty for frames without one.
    """

    frames: list[str]
    vertices: Tensor
    regions: dict[str, Tensor]
    surface: list[Tensor] = field(default_factory=list)
    scan: list[Tensor] = field(default_factory=list)
    correspondence: list[Tensor] = field(default_factory=list)
    slide: list[Tensor] = field(default_factory=list)
    by_number: list[Tensor] = field(default_factory=list)
    detail_surface: list[Tensor] = field(default_factory=list)
    detail_scan: list[Tensor] = field(default_factory=list)
    bound_points: list[Tensor] = field(default_factory=list)
    poses: list[metrics.PoseError] = field(default_factory=list)

    def arrays(self) -> dict[str, Tensor]:
        """Per-vertex errors in mm [T N], as `evaluation.safetensors` keeps them."""
        stacks = {name: getattr(self, name) for name in ("surface", "correspondence", "slide")}
        in_mm = {f"{k}_mm": (torch.stack(v) * 1000).float() for k, v in stacks.items()}
        return {"face_vertices": self.vertices, **in_mm}


def with_known_regions(truth: Truth, run: RunResult) -> Truth:
    """The truth with named regions: its own, the staged head model's, or else the run's."""
    if "face" in truth.topology.regions:
        return truth
    model = _staged_topology(truth)
    if model is not None and metrics.same_topology(truth.topology, model):
        regions = model.regions
    elif "face" not in run.topology.regions:
        raise InputError(
            f"neither {truth.path} nor {run.path} names a region 'face'; "
            'expected regions.json beside mesh.obj: {"face": [vertex numbers], ...}'
        )
    elif metrics.same_topology(truth.topology, run.topology):
        regions = run.topology.regions
    else:
        regions = metrics.transferred_regions(run.mesh(0), truth.frame(run.frames[0]).mesh)
    return replace(truth, topology=replace(truth.topology, regions=dict(regions)))


def _staged_topology(truth: Truth) -> Topology | None:
    """The topology of the head model that was staged; None where its file is not at hand."""
    from topohead.io.assets import ict_head, reference_head

    if truth.head != "ict":
        return reference_head(level=1).topology
    try:
        known = truth.head_file is not None and truth.head_file.exists()
        return ict_head(truth.head_file if known else None).topology
    except InputError as error:
        log.info("the run's regions stand in for the truth's: %s", error)
        return None


def run_with_regions(run: RunResult, truth: Truth | None) -> RunResult:
    """The run with named regions: the truth's by vertex number, its own, or by nearest vertex."""
    if truth is None:
        return run
    if metrics.same_topology(run.topology, truth.topology):
        regions = truth.topology.regions
    elif "face" in run.topology.regions:
        return run
    else:
        regions = metrics.transferred_regions(truth.frame(run.frames[0]).mesh, run.mesh(0))
    return replace(run, topology=replace(run.topology, regions=dict(regions)))


def errors_against_truth(run: RunResult, truth: Truth) -> Errors:
    """Every distance of every frame that the truth has; `run` and `truth` must have regions."""
    frames = [name for name in run.frames if truth.has(name)]
    if not frames or frames[0] != run.frames[0]:
        raise InputError(
            f"the truth in {truth.path} lacks the run's first frame {run.frames[0]}, to which "
            "vertices are bound; expected the truth of the same take"
        )
    ruler = _Ruler.of(run, truth)
    face = run.topology.region_mask("face")
    vertices = torch.nonzero(face)[:, 0]
    regions = {
        name: torch.nonzero(run.topology.region_mask(name)[vertices])[:, 0]
        for name in REGIONS
        if name in run.topology.regions
    }
    errors = Errors(frames, vertices, {k: v for k, v in regions.items() if len(v)})
    for name in track(frames, "comparing with the truth"):
        index = run.frames.index(name)
        true, tracked = truth.frame(name), run.mesh(index)
        _measure_frame(errors, ruler, true, tracked, run.poses[index])
        displacement = run.displacement(name)
        if displacement is not None:
            _measure_detail(errors, ruler, true, with_detail(tracked, displacement))
    return errors


@dataclass(frozen=True)
class _Ruler:
    """What stays the same over a take: parts of the true surface, and who is bound where."""

    skin: Topology
    face: Topology
    scan_points: Tensor
    bound: SurfacePoints
    first_pose: Tensor | None
    center: Tensor
    same_numbers: bool

    @staticmethod
    def of(run: RunResult, truth: Truth) -> "_Ruler":
        first = truth.frame(run.frames[0])
        regions = metrics.transferred_regions(first.mesh, first.surface)
        surface = replace(first.surface.topology, regions=regions)
        mesh = Mesh(surface, first.surface.vertices)
        hidden = [name for name in HIDDEN if name in regions]
        skin = metrics.restricted(mesh, ~surface.region_mask(*hidden)).topology
        face = metrics.restricted(mesh, surface.region_mask("face"))
        tracked = run.vertices[0][run.topology.region_mask("face")]
        bound, _ = closest_points(tracked.double(), face)
        points = regions["face"]
        return _Ruler(
            skin=skin,
            face=face.topology,
            scan_points=points[:: max(1, -(-len(points) // SCAN_POINTS))],
            bound=bound,
            first_pose=first.pose,
            center=tracked.double().mean(0),
            same_numbers=metrics.same_topology(run.topology, truth.topology),
        )


def _measure_frame(
    errors: Errors, ruler: _Ruler, true: TrueFrame, tracked: Mesh, pose: Float[Tensor, "4 4"]
) -> None:
    face = errors.vertices
    points, surface = tracked.vertices[face].double(), true.surface.vertices
    errors.surface.append(metrics.surface_distance(points, Mesh(ruler.skin, surface)))
    scan = surface[ruler.scan_points].double()
    hidden = [name for name in HIDDEN if name in tracked.topology.regions]
    shown = metrics.restricted(tracked, ~tracked.topology.region_mask(*hidden))
    errors.scan.append(metrics.surface_distance(scan, shown))
    found = metrics.correspondence(points, ruler.bound, Mesh(ruler.face, surface))
    errors.correspondence.append(found.distance)
    errors.slide.append(found.slide)
    errors.bound_points.append(interpolate(ruler.bound, ruler.face.triangles, surface.double()))
    if ruler.same_numbers:
        errors.by_number.append((points - true.mesh.vertices[face].double()).norm(dim=-1))
    if true.pose is not None and ruler.first_pose is not None:
        moved = true.pose.double() @ torch.linalg.inv(ruler.first_pose.double())
        errors.poses.append(metrics.pose_error(pose, moved, ruler.center))


def _measure_detail(errors: Errors, ruler: _Ruler, true: TrueFrame, fine: Mesh) -> None:
    surface = true.surface.vertices
    face = fine.topology.regions["face"]
    points = fine.vertices[face[:: max(1, -(-len(face) // SCAN_POINTS))]].double()
    errors.detail_surface.append(metrics.surface_distance(points, Mesh(ruler.skin, surface)))
    errors.detail_scan.append(metrics.surface_distance(surface[ruler.scan_points].double(), fine))


def with_detail(tracked: Mesh, displacement: Float[Tensor, "S S"]) -> Mesh:
    """The skin in triangles about as fine as the map's texels, displaced by the map."""
    topology = tracked.topology
    texel = texel_size(topology, tracked.vertices, len(displacement))
    halvings = min(halvings_to(topology, tracked.vertices, texel), 3)
    hidden = tuple(name for name in HIDDEN if name in topology.regions)
    return displaced_mesh(tracked, displacement, halvings, hidden)


def summarised(errors: Errors, run: RunResult) -> dict[str, Any]:
    """Tables of the errors: frame 1, frames 2…T, regions, motion; a row a frame."""
    first = {"surface": metrics.summary(errors.surface[0]),
             "scan_to_mesh": metrics.summary(errors.scan[0])}  # fmt: skip
    if errors.detail_surface:
        first["detail_surface"] = metrics.summary(errors.detail_surface[0])
        first["detail_scan"] = metrics.summary(errors.detail_scan[0])
    if errors.by_number:
        first["vertex_number"] = metrics.summary(errors.by_number[0])
    result: dict[str, Any] = {"face_vertices": len(errors.vertices), "first_frame": first}
    later = slice(1, None)
    kinds = {"surface": errors.surface, "scan_to_mesh": errors.scan,
             "correspondence": errors.correspondence, "slide": errors.slide,
             "vertex_number": errors.by_number, "detail_surface": errors.detail_surface,
             "detail_scan": errors.detail_scan}  # fmt: skip
    for name, rows in kinds.items():
        if rows[later]:
            result[name] = metrics.summary(torch.cat(rows[later]))
    if errors.correspondence[later]:
        result["correspondence_last_frame"] = metrics.summary(errors.correspondence[-1])
    result["regions"] = {name: _region_row(errors, index) for name, index in errors.regions.items()}
    tracked = torch.stack([run.vertices[run.frames.index(f)] for f in errors.frames])
    moving = metrics.temporal(tracked[:, errors.vertices], torch.stack(errors.bound_points))
    result["temporal"] = None if moving is None else asdict(moving)
    if errors.poses[later]:
        turns = torch.tensor([pose.rotation_degrees for pose in errors.poses[later]])
        ways = torch.tensor([pose.translation_mm for pose in errors.poses[later]])
        result["pose"] = {
            "rotation_median_degrees": float(turns.median()),
            "rotation_max_degrees": float(turns.max()),
            "translation_median_mm": float(ways.median()),
            "translation_max_mm": float(ways.max()),
        }
    return result


def _region_row(errors: Errors, index: Tensor) -> dict[str, Any]:
    """Surface, correspondence and slide of one region; frames 2…T, or frame 1 when alone."""
    later = slice(1, None) if len(errors.frames) > 1 else slice(None)
    row: dict[str, Any] = {"vertices": len(index)}
    for name in ("surface", "correspondence", "slide"):
        stats = metrics.summary(torch.cat([d[index] for d in getattr(errors, name)[later]]))
        row |= {f"{name}_median_mm": stats["median_mm"], f"{name}_p95_mm": stats["p95_mm"]}
    return row


def frame_rows(run: RunResult, errors: Errors | None) -> list[dict[str, Any]]:
    """A row a frame: what the run logged, how fast the head moved, and its errors."""
    logged = run.frame_rows()
    kept = ("residual", "doubtful", "seconds")
    rows = []
    speeds = head_speed(run)
    for index, name in enumerate(run.frames):
        row: dict[str, Any] = {"frame": name, "head_speed_mm": speeds[index]}
        row |= {key: logged[name][key] for key in kept if key in logged.get(name, {})}
        if errors is not None and name in errors.frames:
            at = errors.frames.index(name)
            for kind in ("surface", "scan", "correspondence", "slide"):
                stats = metrics.summary(getattr(errors, kind)[at])
                row |= {f"{kind}_{k}": stats[k] for k in ("median_mm", "p95_mm", "within_0.5_mm")}
            if errors.poses:
                row |= {f"pose_{k}": v for k, v in asdict(errors.poses[at]).items()}
        rows.append(row)
    return rows


def head_speed(run: RunResult) -> list[float | None]:
    """Root mean square motion of the head as a rigid body since the frame before, mm."""
    points = run.vertices[0].double()
    points = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    moved = torch.stack([(points @ pose.double().T)[:, :3] for pose in run.poses])
    speed = moved.diff(dim=0).square().sum(-1).mean(-1).sqrt() * 1000
    return [None, *speed.tolist()]


def cost(run: RunResult) -> dict[str, dict[str, Any]]:
    """Seconds by stage: in all, how many frames, and a frame's median without the first frame.

    The first frame carries start-up and compilation, so it stands apart.
    """
    by_stage: Mapping[str, list[tuple[str | None, float]]] = defaultdict(list)
    for row in run.rows:
        if isinstance(row.get("seconds"), int | float) and row.get("stage"):
            by_stage[row["stage"]].append((row.get("frame"), float(row["seconds"])))
    table = {}
    for stage, entries in by_stage.items():
        seconds = torch.tensor([value for _, value in entries], dtype=torch.float64)
        table[stage] = {"frames": sum(frame is not None for frame, _ in entries),
                        "seconds": float(seconds.sum())}  # fmt: skip
        warm = [v for frame, v in entries if frame is not None and frame != run.frames[0]]
        if warm:
            table[stage]["seconds_per_frame"] = float(torch.tensor(warm).double().median())
        if any(frame == run.frames[0] for frame, _ in entries):
            table[stage]["first_frame_seconds"] = next(
                v for frame, v in entries if frame == run.frames[0]
            )
    return table


def doubtful_frames(run: RunResult) -> list[str]:
    """Frames that the solver itself does not trust."""
    logged = run.frame_rows()
    return [name for name in run.frames if logged.get(name, {}).get("doubtful")]


def seen_mask(run: RunResult, index: int, names: Sequence[str] | None = None) -> Bool[Tensor, " V"]:
    """Vertices that at least two cameras see at cos > 0.3, by depth maps of the mesh itself."""
    from topohead.geometry.meshes import vertex_normals
    from topohead.rendering.mesh import depth_maps

    assert run.rig is not None
    cameras = run.rig.cameras if names is None else run.rig.cameras.select(names)
    cameras = cameras.resized((cameras.sizes * (512 / cameras.sizes.max())).round().long())
    mesh = run.mesh(index)
    points = mesh.vertices.double()
    normals = vertex_normals(points, mesh.topology.triangles)
    views = torch.zeros(len(points), dtype=torch.long)
    maps = depth_maps(mesh.vertices, mesh.topology.triangles, cameras)
    for c, depth in enumerate(maps):
        local = points @ cameras.world_to_camera[c, :3, :3].double().T
        local = local + cameras.world_to_camera[c, :3, 3].double()
        pixel = local @ cameras.intrinsics[c].double().T
        column, row = (pixel[:, :2] / pixel[:, 2:]).floor().long().unbind(1)
        inside = (column >= 0) & (row >= 0) & (column < depth.shape[1]) & (row < depth.shape[0])
        front = depth[row.clamp(0, depth.shape[0] - 1), column.clamp(0, depth.shape[1] - 1)]
        toward = torch.nn.functional.normalize(cameras.centers[c].double() - points, dim=-1)
        # 2 mm: half a low-resolution pixel on a slope
        views += inside & (local[:, 2] < front + 0.002) & ((normals * toward).sum(-1) > 0.3)
    return views >= 2
