"""What one registered head is worth beside the truth: every number of the protocol, by name."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import median_low
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from register_scans import Bench, Case
from torch import Tensor

from topohead.core import ARKIT_52, Mesh, ScanFit, Topology
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.mesh_quality import flipped, quad_angles, self_intersections
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.registered import (
    coverage,
    error_parts,
    f_score,
    round_trip,
    tangential,
)
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.models.registration import umeyama
from topohead.synthesis.shapes import Shapes, carried

FAILED_DEGREES, FAILED_SIZE, FAILED_MM = 10.0, 0.05, 5.0
"""A head has failed whose pose, size or mean error on the face is off by more."""

REGIONS = ("face", "lips", "eyelids", "nose", "ears", "neck", "scalp")
INNER = ("mouth_interior", "eye_sockets", "tongue", "teeth", "eyes")
EVERY = 4
"""Of the finer surface's vertices, one in so many is asked for its distance."""

DEEP_MM = 0.5
"""Lips or lids cross where a vertex lies so much deeper in the other side than in truth."""

MOVES_MM = 0.5
"""An action counts where it moves the true skin by more."""


class Judge:
    """Measures fits of one topology's heads."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.shapes: Shapes = bench.shapes
        self.topology: Topology = self.shapes.topology
        inner = self.topology.region_mask(*INNER)
        self.skin = ~inner
        self.regions = {n: self.topology.region_mask(n) & ~inner for n in REGIONS}
        corners = self.topology.triangles
        self.outer = corners[self.skin[corners].all(1)]
        faces = self.topology.faces
        self.skin_quads = replace(self.topology, faces=faces[self.skin[faces].all(1)])

    @cached_property
    def finer(self) -> tuple[Topology, Tensor]:
        """One Catmull–Clark step on: the surface that is scanned; and its matrix."""
        return catmull_clark(replace(self.topology, mirror=None))

    @cached_property
    def asked(self) -> tuple[Int[Tensor, " N"], Int[Tensor, "T 3"]]:
        """The finer surface's vertices of the face that are asked, and its outer triangles."""
        topology = self.finer[0]
        inner = topology.region_mask(*INNER)
        face = (topology.region_mask("face") & ~inner).nonzero()[:, 0]
        corners = topology.triangles
        return face[::EVERY], corners[(~inner)[corners].all(1)]

    def __call__(self, case: Case, fit: ScanFit) -> dict[str, float]:
        """Every number; lengths in millimetres, in the true head frame without new alignment.

        A head that failed has only the few that say so.
        """
        scores = self.failure(case, fit)
        if scores["failed"]:
            return scores
        found, truth = case.in_head(fit.vertices), case.person.vertices
        sigma = fit.sigma / case.pose.scale
        scores |= self.distances(found, truth)
        scores |= self.surfaces(found, truth)
        scores |= self.wholeness(found, truth)
        for per_cent in (50, 90):
            face = self.regions["face"]
            share = coverage(found[face], truth[face], sigma[face], per_cent)
            scores[f"within_{per_cent}"] = float(share)
        scores["expression"] = float((fit.expression - case.person.coefficients).abs().mean())
        scores["inliers"] = float((fit.inliers == case.inlier).double().mean())
        if not case.person.coefficients.any():
            scores |= self.actions(found, truth)
        return scores

    def failure(self, case: Case, fit: ScanFit) -> dict[str, float]:
        """Whether the head is lost, and by how much; mean error and median σ on the face, mm."""
        found, truth = case.in_head(fit.vertices), case.person.vertices
        sigma = fit.sigma / case.pose.scale
        mean = 1e3 * float((found - truth)[self.regions["face"]].norm(dim=-1).mean())
        turned, sized = self._pose(found, truth) if found.isfinite().all() else (180.0, 1.0)
        failed = turned > FAILED_DEGREES or sized > FAILED_SIZE or not mean < FAILED_MM
        return {
            "failed": float(failed),
            "face": mean,
            "turned_degrees": turned,
            "sigma": 1e3 * float(sigma[self.regions["face"]].median()),
        }

    def distances(
        self, found: Float[Tensor, "V 3"], truth: Float[Tensor, "V 3"]
    ) -> dict[str, float]:
        """Of equal vertices, region by region; split along and across the skin on the face."""
        parts = error_parts(found, truth, self.topology.triangles)
        scores = {}
        for name, rows in self.regions.items():
            mm = 1e3 * parts.distance[rows]
            scores |= {
                name: float(mm.mean()),
                f"{name}_median": float(mm.median()),
                f"{name}_p95": float(mm.quantile(0.95)),
            }
        face = self.regions["face"]
        scores["normal"] = 1e3 * float(parts.normal[face].mean())
        scores["slide"] = 1e3 * float(parts.slide[face].mean())
        spread = [part[face].square().mean() for part in (parts.normal, parts.distance)]
        scores["normal_share"] = float(spread[0] / spread[1])
        normals = [vertex_normals(v, self.topology.triangles)[face] for v in (found, truth)]
        scores["normal_cosine"] = float((normals[0] * normals[1]).sum(-1).mean())
        known = self.topology.landmarks["ibug68"]
        error = interpolate(known, self.topology.triangles, (found - truth).double())
        scores["landmarks"] = 1e3 * float(error.norm(dim=-1).mean())
        return scores

    def surfaces(
        self, found: Float[Tensor, "V 3"], truth: Float[Tensor, "V 3"]
    ) -> dict[str, float]:
        """Point to surface both ways on the finer surfaces of the face; textures there and back."""
        topology, matrix = self.finer
        rows, corners = self.asked
        outer = replace(topology, faces=corners[:, [0, 1, 2, 2]], face_uv=corners[:, [0, 1, 2, 2]])
        meshes = [Mesh(outer, refine(matrix, v.float()).double()) for v in (found, truth)]
        there = closest_points(meshes[0].vertices[rows], meshes[1])[1]
        back = closest_points(meshes[1].vertices[rows], meshes[0])[1]
        trip = round_trip(meshes[0], meshes[1], rows)
        return {
            "p2s": 1e3 * float(there.median()),
            "p2s_mean": 1e3 * float(there.mean()),
            "p2s_p95": 1e3 * float(there.quantile(0.95)),
            "s2p": 1e3 * float(back.median()),
            "f_1mm": float(f_score(there, back, 1e-3)),
            "round_trip": 1e3 * float(trip.median()),
            "round_trip_p95": 1e3 * float(trip.quantile(0.95)),
        }

    def wholeness(
        self, found: Float[Tensor, "V 3"], truth: Float[Tensor, "V 3"]
    ) -> dict[str, float]:
        """Faults of the mesh in itself beyond those of the true one."""
        angles = quad_angles(found, self.skin_quads)
        own = self_intersections(truth, self.outer)
        pierced = self_intersections(found, self.outer) & ~own
        deepest = []
        for slit in (self.shapes.lips, *self.shapes.lids):
            depth = slit.depth(torch.stack([found, truth])).clamp(min=0)
            deepest.append(1e3 * float((depth[0] - depth[1]).max()))
        return {
            "flipped": float(flipped(found, truth, self.outer).sum()),
            "pierced": float(pierced.sum()),
            "pierced_true": float(own.sum()),
            "slits_crossed": float(max(deepest) > DEEP_MM),
            "slits_deepest": max(deepest),
            "angle_min": float(angles.min()),
            "angle_max": float(angles.max()),
            "angle_p1": float(angles.flatten().quantile(0.01)),
            "angle_p99": float(angles.flatten().quantile(0.99)),
        }

    def actions(self, found: Float[Tensor, "V 3"], truth: Float[Tensor, "V 3"]) -> dict[str, float]:
        """How far the found head's 52 actions lead from where the true person's lead.

        Both are carried by deformation gradients, as the rig does. `rig` is the mean of the error
        of the motion, over the skin that an action moves and then over actions; `rig_worst` that of
        the worst action.
        """
        basis = self.shapes.head.expression_basis
        gradients = self.shapes.gradients(torch.stack([found, truth]).float())
        ones = torch.eye(len(ARKIT_52))
        motions = [carried(basis, g.expand(52, -1, -1, -1), ones) for g in gradients]
        moved = (motions[1].norm(dim=-1) > MOVES_MM / 1e3) & self.skin
        error = 1e3 * (motions[0] - motions[1]).norm(dim=-1)
        count = moved.sum(1)
        means = ((error * moved).sum(1) / count.clamp(min=1))[count > 0]
        return {"rig": float(means.mean()), "rig_worst": float(means.max())}

    def slide_of(self, case: Case, fit: ScanFit) -> Float[Tensor, "V 3"]:
        """Where the vertices lie along the skin beside the true ones, head frame, metres."""
        truth = case.person.vertices
        normals = vertex_normals(truth, self.topology.triangles)
        return tangential(case.in_head(fit.vertices) - truth, normals)

    @staticmethod
    def _pose(found: Float[Tensor, "V 3"], truth: Float[Tensor, "V 3"]) -> tuple[float, float]:
        """Degrees and share by which a head is turned and sized wrongly as a whole."""
        fix = umeyama(found[None].float(), truth[None].float())
        cosine = (float(fix.rotation[0].trace()) - 1) / 2
        turned = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        return turned, abs(float(fix.scale[0]) - 1)


def digest(fit: ScanFit) -> str:
    """16 hexadecimal digits of all that a fit says."""
    told = hashlib.sha256()
    for part in (fit.vertices, fit.sigma, fit.pose, fit.expression, fit.inliers):
        told.update(np.ascontiguousarray(part.numpy()).tobytes())
    return told.hexdigest()[:16]


def summary(scans: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over the scans that did not fail, and the share of those that did."""
    kept = [scan for scan in scans if not scan["failed"]]
    told: dict[str, Any] = {}
    for name in dict.fromkeys(name for scan in kept for name in scan):
        told[name] = float(np.mean([scan[name] for scan in kept if name in scan]))
    told |= {"scans": len(scans), "failed": sum(scan["failed"] for scan in scans)}
    if kept:
        told["face_worst"] = max(scan["face"] for scan in kept)
    for name in ("seconds", "cpu_seconds"):
        # the lower one: the first call may compile
        told[name] = median_low(scan[name] for scan in scans if name in scan)
    return told


def area_under(flagged: Float[np.ndarray, " N"], failed: Bool[np.ndarray, " N"]) -> float | None:
    """Chance that a failed scan scores higher than a good one; None without both kinds."""
    bad, good = flagged[failed], flagged[~failed]
    if not len(bad) or not len(good):
        return None
    more = (bad[:, None] > good).mean() + 0.5 * (bad[:, None] == good).mean()
    return float(more)
