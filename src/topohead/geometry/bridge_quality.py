"""What a bridge is measured by before anyone uses it, and the gates that it must pass."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Mesh, Topology
from topohead.geometry import alignment
from topohead.geometry.bridge import Bridge
from topohead.geometry.bridge_building import folds, random_heads
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.following import BOUND, CONTINUED
from topohead.geometry.lines import INNER, drawn, landmark_lines
from topohead.geometry.meshes import neighbour_rings
from topohead.geometry.regions import mirror_by_position

NAN = float("nan")

SYMMETRIC = 0.0005
"""A vertex has a partner on the other side when one lies so near (metres) to its reflection."""


@dataclass(frozen=True)
class Gates:
    """The worst that a bridge may measure, millimetres on a head of the reference's size."""

    landmarks_median_mm: float = 1.0
    landmarks_max_mm: float = 2.0
    lines_mm: float = 1.0
    round_trip_median_mm: float = 0.3
    round_trip_p99_mm: float = 1.0
    mirror_mm: float = 0.3
    identities_mm: float = 0.15
    flipped: float = 0.002
    expressions: float = 0.7
    covered: float = 0.6


@dataclass(frozen=True)
class BridgeQuality:
    """How well a bridge carries; NaN or nothing where the mesh has nothing to measure against.

    `landmarks_*`: the carried inner landmarks against the mesh's own. `lines_mm`: Hausdorff
    distance of each line from the mesh's own; `disordered`: lines along which places do not follow
    each other. `round_trip_*`: how far a point of smooth skin comes back from where it started.
    `mirror_mm`: 95th percentile of the distance between the bridge and its mirror image.
    `identities_mm`: mean distance of the carried skin from random heads; `flipped`: the share of
    its triangles that turn over; `flips_at` the region that has most of them. `expressions`:
    correlation of like-named actions' motion. `covered`: the share of the reference's face that
    the mesh's skin is bound to; `unmatched`: how many vertices belong to parts that only follow.
    """

    landmarks_median_mm: float = NAN
    landmarks_max_mm: float = NAN
    landmark: int = -1
    lines_mm: Mapping[str, float] = field(default_factory=dict)
    disordered: tuple[str, ...] = ()
    round_trip_median_mm: float = NAN
    round_trip_p99_mm: float = NAN
    mirror_mm: float = NAN
    identities_mm: float = NAN
    flipped: float = NAN
    flips_at: str = ""
    expressions: Mapping[str, float] = field(default_factory=dict)
    covered: float = NAN
    unmatched: int = 0

    def failures(self, exceptions: tuple[str, ...] = (), gates: Gates | None = None) -> list[str]:
        """A line for every gate that fails: element, region and number beside the limit.

        `exceptions` names actions that two models are known to mean differently.
        """
        gates = gates or Gates()
        found = []
        for name, told, where in (
            ("covered", "face covered", "region 'face'"),
            ("landmarks_median_mm", "landmarks, median", "nose, eyes and mouth"),
            ("landmarks_max_mm", "landmarks, largest", f"landmark {self.landmark}"),
            ("round_trip_median_mm", "round trip, median", "smooth skin"),
            ("round_trip_p99_mm", "round trip, 99th percentile", "smooth skin"),
            ("mirror_mm", "mirrored bridge", "region 'skin'"),
            ("identities_mm", "random heads carried over", "region 'skin'"),
            ("flipped", "flipped triangles", f"region {self.flips_at!r}"),
        ):
            value, limit = getattr(self, name), getattr(gates, name)
            if (value < limit) if name == "covered" else (value > limit):
                unit = " mm" if name.endswith("_mm") else ""
                found.append(f"{told}: {value:.3g}{unit} at {where}, limit {limit:g}{unit}")
        for name, value in self.lines_mm.items():
            if value > gates.lines_mm:
                found.append(f"line: {value:.3g} mm along the {name}, limit {gates.lines_mm:g} mm")
        found += [f"line: places along the {name} are out of order" for name in self.disordered]
        for name, value in self.expressions.items():
            if value < gates.expressions and name not in exceptions:
                found.append(
                    f"expression: correlation {value:.2f} of {name}, limit {gates.expressions:g}"
                )
        return found


def check_bridge(
    bridge: Bridge,
    own: Topology,
    model: HeadModel,
    other: HeadModel | None = None,
    identities: int = 100,
) -> BridgeQuality:
    """Measure a bridge from `model` to a mesh whose topology was `own` before it was bound.

    Landmarks and lines are compared with those that `own` names. `other` is the model of the mesh
    where it has one. `identities` random heads are carried over, the same ones each time.
    """
    size = float(torch.linalg.det(_upright(bridge, model)[:3, :3]) ** (1 / 3))
    millimetres = 1000 * size
    places = bridge.values(model.template)
    return BridgeQuality(
        **_landmarks(bridge, own, millimetres),
        **_lines(bridge, own, model, millimetres),
        **_round_trip(bridge, model, places),
        mirror_mm=_mirror(bridge, model, places),
        **_identities(bridge, model, identities),
        expressions={} if other is None else _expressions(bridge, model, other),
        covered=_covered(bridge, model),
        unmatched=int((bridge.kind > CONTINUED).sum()),
    )


def _upright(bridge: Bridge, model: HeadModel) -> Float[Tensor, "4 4"]:
    """The similarity from the mesh's frame to the head frame."""
    return alignment.rigid(bridge.placed, model.template.to(bridge.placed), scale=True)


def _landmarks(bridge: Bridge, own: Topology, millimetres: float) -> dict[str, float | int]:
    ours, theirs = (t.landmarks.get("ibug68") for t in (bridge.source, own))
    if ours is None or theirs is None:
        return {}
    source = Mesh(bridge.source, bridge.placed)
    carried = interpolate(ours, source.topology.triangles, source.vertices)[INNER]
    mesh = Mesh(bridge.target, bridge.rest)
    there = interpolate(closest_points(carried, mesh)[0], mesh.topology.triangles, mesh.vertices)
    wanted = interpolate(theirs, mesh.topology.triangles, mesh.vertices)[INNER]
    distance = millimetres * (there - wanted).norm(dim=1)
    return {
        "landmarks_median_mm": float(distance.median()),
        "landmarks_max_mm": float(distance.max()),
        "landmark": INNER.start + int(distance.argmax()),
    }


def _lines(bridge: Bridge, own: Topology, model: HeadModel, millimetres: float) -> dict:
    if "ibug68" not in own.landmarks:
        return {}
    ours = landmark_lines(bridge.source, model.template)
    theirs = landmark_lines(own, bridge.rest)
    apart, disordered = {}, []
    for name, pieces in ours.items():
        here = drawn(bridge.placed, pieces).double().numpy()
        there = drawn(bridge.rest, theirs[name]).double().numpy()
        forth, at = KDTree(there).query(here)
        back = KDTree(here).query(there)[0]
        apart[name] = millimetres * float(max(np.max(forth), np.max(back)))
        # a step back within the other line's own sampling is no disorder
        slack = max(2, len(there) // 50)
        if (np.maximum.accumulate(at) - at > slack).any():
            disordered.append(name)
    return {"lines_mm": apart, "disordered": tuple(disordered)}


def _round_trip(bridge: Bridge, model: HeadModel, places: Tensor) -> dict[str, float]:
    """From reference vertices to the mesh and back, by what is bound; metres in the head frame."""
    smooth = _smooth(bridge.source)
    rows = smooth.nonzero()[:, 0]
    reverse, near = bridge.carried(rows)
    bound = (bridge.kind == BOUND)[bridge.target.triangles[reverse.triangles]].all(1) & near
    if not bool(bound.any()):
        return {}
    back = interpolate(reverse, bridge.target.triangles, places)[bound]
    # a flat face of the mesh spans a curved piece of the source, whose places these are
    source = Mesh(bridge.source, model.template)
    back = interpolate(closest_points(back, source)[0], bridge.source.triangles, model.template)
    distance = 1000 * (back - model.template[rows[bound]]).norm(dim=1)
    return {
        "round_trip_median_mm": float(distance.median()),
        "round_trip_p99_mm": float(distance.quantile(0.99)),
    }


def _smooth(topology: Topology) -> Bool[Tensor, " V"]:
    """Skin without lips, lids, nose and ears: where a place is well told by its surroundings."""
    rough = topology.region_mask("lips", "eyelids", "nose", "ears")
    return topology.region_mask("skin") & (neighbour_rings(topology, rough, 2) > 2)


def _mirror(bridge: Bridge, model: HeadModel, places: Tensor) -> float:
    """NaN unless nine tenths of the mesh's bound skin have a partner on the other side."""
    rest = alignment.apply(_upright(bridge, model), bridge.rest)
    partner = bridge.target.mirror
    flip = torch.tensor([-1.0, 1.0, 1.0])
    if partner is None or _lopsided(rest, partner):
        partner = mirror_by_position(rest, SYMMETRIC)
    opposite = bridge.source.mirror
    skin = (bridge.kind == BOUND) & bridge.target.region_mask("skin")
    paired = skin & skin[partner] & ((rest[partner] * flip - rest).norm(dim=1) < 2 * SYMMETRIC)
    if opposite is None or int(paired.sum()) < 0.9 * int(skin.sum()):
        return NAN
    gap = places[partner] * flip - places
    return 1000 * float(gap[paired].norm(dim=1).quantile(0.95))


def _lopsided(rest: Tensor, partner: Tensor) -> bool:
    """A carried mirror map of a mesh that is not symmetric says nothing of it."""
    return float((partner[partner] == torch.arange(len(partner))).float().mean()) < 0.9


def _identities(bridge: Bridge, model: HeadModel, count: int) -> dict:
    generator = torch.Generator().manual_seed(100)
    skin = bridge.target.region_mask("skin")
    bound = (skin & (bridge.kind == BOUND)).nonzero()[:, 0]
    inner = skin[bridge.target.triangles].all(1)
    if not len(bound) or not count:
        return {}
    away, turned = [], torch.zeros(len(inner))
    for shape in random_heads(model, count, seed=100):
        carried = bridge.vertices(shape)
        some = bound[torch.randint(len(bound), (200,), generator=generator)]
        away.append(closest_points(carried[some], Mesh(bridge.source, shape))[1])
        turned += folds(bridge, shape)
    turned *= inner
    corners = bridge.target.triangles[turned > 0]
    regions = [n for n in bridge.target.regions if n not in ("skin", "boundary")]
    most = max(regions, key=lambda n: int(bridge.target.region_mask(n)[corners].any(1).sum()))
    return {
        "identities_mm": 1000 * float(torch.cat(away).mean()),
        "flipped": float(turned.sum() / count / max(int(inner.sum()), 1)),
        "flips_at": most if len(corners) else "",
    }


def _expressions(bridge: Bridge, model: HeadModel, other: HeadModel) -> dict[str, float]:
    """Correlation over the skin near the source of the actions that both models have."""
    upright = _upright(bridge, model)[:3, :3]
    skin = bridge.target.region_mask("skin") & (bridge.kind <= CONTINUED) & bridge.near
    carried = bridge.deltas(model.template, model.expression_basis)
    found = {}
    for name, ours, theirs in zip(ARKIT_52, carried, other.expression_basis, strict=True):
        a, b = ours[skin].flatten(), (theirs @ upright.T)[skin].flatten()
        if float(a.abs().max()) > 0 and float(b.abs().max()) > 0:
            found[name] = float(torch.corrcoef(torch.stack([a, b]))[0, 1])
    return found


def _covered(bridge: Bridge, model: HeadModel) -> float:
    """The share of the source's face that finds bound skin of the mesh where it is placed."""
    rows = bridge.source.regions["face"]
    points, near = bridge.carried(rows)
    bound = (bridge.kind == BOUND)[bridge.target.triangles[points.triangles]].all(1)
    return float((near & bound).float().mean())
