"""H5: scans of real people, which no number was tuned on. Pictures go to the work folder alone."""

import argparse
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from measured_on import commit
from PIL import Image
from register_methods import Weights, linear_head, methods
from register_scans import Bench
from register_scores import Judge
from torch import Tensor

from topohead.core import Mesh, Scan, ScanFit
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.mesh_quality import self_intersections
from topohead.geometry.meshes import face_normals
from topohead.geometry.subdivision import refine as refined
from topohead.io.meshes import read_mesh
from topohead.rendering.mesh import rasterize
from topohead.solvers.scan_detail import refine_level1
from topohead.solvers.scan_quality import judge
from topohead.synthesis.mixture import SOURCES
from topohead.synthesis.remeshing import looking_at

log = logging.getLogger(__name__)

ASIDE = 0.01
"""Points of the scan farther from the head than this, metres, are hair or clothes."""

ASKED = 20_000
"""Points of the scan whose distance is taken."""

PARTS = {"brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}
"""Ranges of iBUG's 68 points."""

SIDE = 900
"""Of a picture, pixels."""


def real_section(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """Every scan below the folder by every method; nothing without the folder."""
    if args.scans is None or not args.scans.is_dir():
        log.warning("H5 is left out: give --scans a folder of real scans")
        return
    head = linear_head(bench, SOURCES if args.ict else ("anny", "field"), args.work)
    chosen = methods(args.methods.split(","), head, Weights(args.network, args.perceiver))
    scores = Judge(bench)
    for file in sorted(args.scans.glob("*/scan.obj")):
        mesh = read_mesh(file)
        scan = Scan(mesh.vertices.float(), mesh.topology.triangles)
        known = file.parent / "landmarks_51.npy"
        landmarks = torch.from_numpy(np.load(known)) if known.exists() else None
        found: dict[str, Any] = {}
        for label, method in chosen.items():
            start = time.process_time()
            fit = method(scan, chosen)
            spent = time.process_time() - start
            row = {"cpu_seconds": spent, "commit": args.commit or commit()}
            row |= measured(scores, scan, fit, landmarks)
            if label.endswith("+refine"):
                fine = refine_level1(scan, fit, bench.shapes.head).vertices
                row["p2s_written"] = 1e3 * float(to_face(scores, scan, fine.double()).median())
            quality = judge(scan, fit, bench.shapes.head)
            row["refused"], row["warned"] = [*quality.failures], [*quality.warnings]
            found[label] = row
            numbers = {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}
            print(f"{file.parent.name} {label} {numbers}", flush=True)
            picture = args.work / f"{file.parent.name}-{label}.png"
            Image.fromarray(drawn(scores, scan, fit)).save(picture)
        yield {file.parent.name: found}


def measured(
    scores: Judge, scan: Scan, fit: ScanFit, landmarks: Float[Tensor, "51 3"] | None
) -> dict[str, Any]:
    """Distances on the face both ways, landmarks, crossings; millimetres.

    `p2s`: points of the scan (whatever the method called hair) to the fitted surface. `s2p`: the
    fitted face to the scan, where its nearest place is not the scan's border.
    """
    topology, matrix = scores.finer
    rows = scores.asked[0]
    places = refined(matrix, fit.vertices.float()).double()
    there = to_face(scores, scan, places)
    faces = scan.triangles[:, [0, 1, 2, 2]]
    whole = replace(topology, vertex_count=len(scan.points), faces=faces, face_uv=faces,
                    regions={}, landmarks={}, mirror=None)  # fmt: skip
    onto, back = closest_points(places[rows], Mesh(whole, scan.points.double()))
    inside = ~_border(scan.triangles, len(scan.points))[scan.triangles[onto.triangles]].any(1)
    found: dict[str, Any] = {
        "p2s": 1e3 * float(there.median()),
        "p2s_mean": 1e3 * float(there.mean()),
        "p2s_p95": 1e3 * float(there.quantile(0.95)),
        "s2p": 1e3 * float(back[inside].median()) if inside.any() else float("nan"),
        "s2p_p95": 1e3 * float(back[inside].quantile(0.95)) if inside.any() else float("nan"),
        "face_points": len(there),
        "pierced": float(self_intersections(fit.vertices, scores.outer).sum()),
        "sigma": 1e3 * float(fit.sigma[scores.regions["face"]].median()),
    }
    if landmarks is not None:
        own = scores.topology
        at = interpolate(own.landmarks["ibug68"], own.triangles, fit.vertices.double())[17:]
        off = 1e3 * (at - landmarks.double()).norm(dim=-1)
        found |= {"landmarks": float(off.mean()), "landmarks_worst": float(off.max())}
        for name, (first, last) in PARTS.items():
            found[f"landmarks_{name}"] = float(off[first - 17 : last - 17].mean())
    return found


def to_face(scores: Judge, scan: Scan, places: Float[Tensor, "S 3"]) -> Float[Tensor, " N"]:
    """Distances, metres, of the scan's points to a finer surface, of those that land on its face.

    Points farther off than `ASIDE` are hair or clothes.
    """
    topology, corners = scores.finer[0], scores.asked[1]
    outer = replace(topology, faces=corners[:, [0, 1, 2, 2]], face_uv=corners[:, [0, 1, 2, 2]])
    points = scan.points[:: max(1, len(scan.points) // ASKED)].double()
    landed, there = closest_points(points, Mesh(outer, places))
    return there[topology.region_mask("face")[corners[landed.triangles]].all(1) & (there < ASIDE)]


def _border(triangles: Int[Tensor, "T 3"], count: int) -> Tensor:
    edges = torch.cat([triangles[:, [k, (k + 1) % 3]] for k in range(3)]).sort(1).values
    edges, times = edges.unique(dim=0, return_counts=True)
    found = torch.zeros(count, dtype=torch.bool)
    found[edges[times == 1].flatten()] = True
    return found


def drawn(scores: Judge, scan: Scan, fit: ScanFit) -> np.ndarray:
    """The scan with the head's quads drawn on it, from the front and from both sides of it."""
    pose = fit.pose.double()
    turn = pose[:3, :3] / torch.linalg.det(pose[:3, :3]) ** (1 / 3)
    face = fit.vertices[scores.regions["face"]]
    center, radius = face.mean(0), float((face - face.mean(0)).norm(dim=1).max())
    pictures = []
    for towards in ((0.0, 0.0, 1.0), (0.7, 0.0, 0.7), (-0.7, 0.0, 0.7)):
        away = (turn @ torch.tensor(towards).double()).float()
        up = (turn @ torch.tensor([0.0, 1.0, 0.0]).double()).float()
        camera, intrinsics = looking_at(center, away, 8 * radius, SIDE, radius, up)
        pictures.append(_drawn(scores, scan, fit, camera, intrinsics))
    return np.concatenate(pictures, 1)


def _drawn(
    scores: Judge, scan: Scan, fit: ScanFit, camera: Tensor, intrinsics: Tensor
) -> np.ndarray:
    size = (SIDE, SIDE)
    seen = rasterize(scan.points, scan.triangles, camera, intrinsics, size, cull=False)
    normals = face_normals(scan.points, scan.triangles) @ camera[:3, :3].float().T
    light = normals @ torch.tensor([-0.3, -0.4, -0.85])
    shade = torch.where(seen.covered, 0.15 + 0.75 * light.abs()[seen.triangle.clamp(min=0)], 1.0)
    picture = (255 * shade[..., None].expand(-1, -1, 3)).byte().numpy().copy()
    # quads in front of the scan or at most 3 mm in it
    head = rasterize(fit.vertices, scores.outer, camera, intrinsics, size)
    homogeneous = fit.vertices.double() @ camera[:3, :3].T + camera[:3, 3]
    pixels = homogeneous @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    edges = scores.skin_quads.edges
    steps = torch.linspace(0, 1, 24)[:, None, None]
    ends = [torch.cat([pixels, homogeneous[:, 2:]], 1)[edges[:, k]] for k in (0, 1)]
    along = (ends[0] + steps * (ends[1] - ends[0])).reshape(-1, 3)
    column, row = along[:, :2].floor().long().unbind(1)
    kept = (column >= 0) & (row >= 0) & (column < SIDE) & (row < SIDE)
    column, row, depth = column[kept], row[kept], along[kept, 2]
    shown = (depth < head.depth[row, column] + 2e-3) & (depth < seen.depth[row, column] + 3e-3)
    picture[row[shown].numpy(), column[shown].numpy()] = (20, 60, 220)
    return picture
