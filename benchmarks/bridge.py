"""How well bridges from the reference head carry: to itself, to ICT-FaceKit, to unnamed heads.

    python benchmarks/bridge.py --ict ict_face_model.npz --out bridge.json

Every bridge is made anew, past the cache, and measured by the gates of `geometry.bridge_quality`.
Meshes "unnamed" have lost regions and landmarks, stand turned in centimetres, and what their names
would have said is the truth that `truth` compares with; the made one also knows where each vertex
of the reference is. `families`: ICT-FaceKit's people on the reference topology, placed by the fit
alone and after both families have slid them (`models.sliding`), both laid smooth where they fold
(`models.unfolding`); `pierced` counts the folds that are left. What judges that without having had
a part in it: like-named actions, and either family's people explained by the other's.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measured_on import commit, hardware

from topohead.core import HeadModel, Mesh, Topology
from topohead.geometry.bridge_building import build_bridge
from topohead.geometry.bridge_quality import BridgeQuality, check_bridge
from topohead.geometry.mesh_quality import self_intersections
from topohead.io.assets import ict_head, reference_head
from topohead.io.bridges import ICT_EXCEPTIONS
from topohead.models.carrying import CarriedHead, carry
from topohead.models.linear import LinearHead

SEED = 760
"""Of made people; bridges were tuned on mean heads and on seed 1."""

PEOPLE, MODES = 50, 80
"""People of each family that the other's modes explain, and how many of these."""


@dataclass(frozen=True)
class Subject:
    """A mesh to bridge to; what is known of it, to the bridge and to the judge."""

    name: str
    mesh: Mesh
    other: HeadModel | None = None
    truth: Topology | None = None
    places: torch.Tensor | None = None


def main() -> None:
    """Bridge, check, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bridge.json"))
    parser.add_argument("--ict", type=Path, help="ict_face_model.npz or its folder")
    parser.add_argument("--only", help="subjects whose names contain this")
    parser.add_argument("--identities", type=int, default=100)
    parser.add_argument("--sections", default="bridges,families", help="the others keep theirs")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    result |= {"benchmark": "bridge", "seed": SEED}
    made = {"commit": args.commit or commit(), "hardware": hardware()}
    if "bridges" in args.sections.split(","):
        rows = []
        for subject in subjects(args.ict):
            if args.only is None or args.only in subject.name:
                rows.append(measured(subject, args.identities))
                print(json.dumps(rows[-1]), flush=True)
        result |= made | {"bridges": rows}
    if "families" in args.sections.split(",") and args.ict is not None:
        result["families"] = made | families(args.ict)
        print(json.dumps(result["families"]), flush=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


def subjects(ict_path: Path | None) -> Iterator[Subject]:
    """What is bridged to."""
    coarse, fine = reference_head(0), reference_head(1)
    t = coarse.topology
    known = Topology(
        t.vertex_count, t.faces, t.uv, t.face_uv, landmarks=t.landmarks, mirror=t.mirror,
        name="level 0",
    )  # fmt: skip
    yield Subject("reference, control mesh", Mesh(known, coarse.template), coarse)
    generator = torch.Generator().manual_seed(SEED)
    identity = torch.randn(80, generator=generator)
    person = fine.vertices(0.8 * identity, torch.zeros(52))
    made = turned(coarse.vertices(0.8 * identity, torch.zeros(52)))
    triangles = t.triangles[:, [0, 1, 2, 2]]
    bare = Topology(t.vertex_count, triangles, torch.zeros(0, 2), 0 * triangles, name="made")
    # quads are split in order, so landmarks on their triangles stay where they are
    named = Topology(t.vertex_count, triangles, bare.uv, bare.face_uv, landmarks=t.landmarks)
    yield Subject("made, triangles, unnamed", Mesh(bare, made), None, named, turned(person))
    if ict_path is None:
        return
    ict = ict_head(ict_path)
    yield Subject("ICT-FaceKit", ict.neutral(), ict)
    t = ict.topology
    bare = Topology(t.vertex_count, t.faces, t.uv, t.face_uv, name="ict")
    weights = torch.randn(len(ict.identity_basis), generator=generator)
    shape = turned(ict.vertices(0.8 * weights, torch.zeros(52)))
    yield Subject("ICT-FaceKit person, unnamed", Mesh(bare, shape), None, t)


def turned(vertices: torch.Tensor) -> torch.Tensor:
    """In centimetres, standing somewhere, looking 35° to its left."""
    angle = torch.deg2rad(torch.tensor(35.0))
    c, s = torch.cos(angle), torch.sin(angle)
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return 100 * (vertices @ turn.T) + torch.tensor([1.0, 160, 3])


def measured(subject: Subject, identities: int) -> dict:
    """A bridge's gates and times, and how far it is from the truth where that is known."""
    model = reference_head(1)
    started = time.perf_counter()
    bridge, fit = build_bridge(model, subject.mesh)
    built = time.perf_counter()
    own = subject.mesh.topology
    quality = check_bridge(bridge, own, model, subject.other, identities)
    checked = time.perf_counter()
    row = {
        "subject": subject.name,
        "vertices": own.vertex_count,
        "seconds": {"build": built - started, "check": checked - built},
        "quality": _rounded(quality),
        "failures": quality.failures(ICT_EXCEPTIONS if subject.other is not None else ()),
    }
    if subject.truth is not None:
        told = check_bridge(bridge, subject.truth, model, None, 0)
        row["truth"] = {
            "landmarks_median_mm": told.landmarks_median_mm,
            "landmarks_max_mm": told.landmarks_max_mm,
            "lines_mm": dict(told.lines_mm),
        }
    if subject.places is not None:
        size = float(torch.linalg.det(fit.model_to_mesh[:3, :3]) ** (1 / 3))
        apart = 1000 / size * (bridge.placed - subject.places).norm(dim=1)
        face = apart[model.topology.regions["face"]]
        row["truth"] |= {
            "face_median_mm": float(face.median()),
            "face_p95_mm": float(face.quantile(0.95)),
        }
    return row


def families(ict_path: Path) -> dict:
    """ICT-FaceKit's people on the reference topology, by a fit alone and slid; how good each is."""
    ict, reference = ict_head(ict_path), reference_head(0)
    found = {}
    for name, slide in (("fit alone", False), ("slid", True)):
        started = time.process_time()
        head = carry(ict, reference, slide)
        seconds = time.process_time() - started
        found[name] = {
            "cpu_seconds": round(seconds, 1),
            "quality": {key: round(value, 4) for key, value in head.quality.items()},
            "actions": {key: round(value, 4) for key, value in head.actions.items()},
            "explained_mm": explained(head, reference),
            "pierced": pierced(head, reference.topology),
        }
    return found


def pierced(head: CarriedHead, topology: Topology) -> dict:
    """Triangles of skin that run through others: on the mean, on eight random people's heads."""
    skin = topology.region_mask("skin")
    corners = topology.triangles[skin[topology.triangles].all(1)]
    generator = torch.Generator().manual_seed(SEED)
    weights = torch.randn(8, len(head.identity), generator=generator)
    people = head.mean + torch.tensordot(weights, head.identity, 1)
    mean, *others = (int(self_intersections(v, corners).sum()) for v in [head.mean, *people])
    return {"mean": mean, "people": others}


def explained(head: CarriedHead, reference: LinearHead) -> dict:
    """Mean distance of people of either family from the nearest that the other's modes reach.

    Vertex to vertex, millimetres, least squares over face and ears with a similarity besides, as
    many modes of each; people are the modes' own, standard normal.
    """
    topology = reference.topology
    rows = topology.region_mask("face", "ears").nonzero()[:, 0]
    models = {
        "ict by anny": (reference.template, reference.identity_basis, head.mean, head.identity),
        "anny by ict": (head.mean, head.identity, reference.template, reference.identity_basis),
    }
    told = {}
    for name, (mean, modes, theirs, basis) in models.items():
        generator = torch.Generator().manual_seed(SEED)
        weights = torch.randn(PEOPLE, len(basis), generator=generator)
        people = (theirs + torch.tensordot(weights, basis, 1))[:, rows].double()
        here, known = mean[rows].double(), modes[:MODES, rows].double()
        turns = torch.linalg.cross(torch.eye(3).double()[:, None].expand(-1, len(rows), 3),
                                   here.expand(3, -1, -1))  # fmt: skip
        shifts = torch.eye(3).double()[:, None].expand(-1, len(rows), 3)
        matrix = torch.cat([known, turns, shifts, here[None]]).flatten(1).T
        wanted = (people - here).flatten(1).T
        rest = wanted - matrix @ torch.linalg.lstsq(matrix, wanted).solution
        told[name] = round(1000 * float(rest.T.reshape(PEOPLE, -1, 3).norm(dim=-1).mean()), 4)
    return told


def _rounded(quality: BridgeQuality) -> dict:
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 6)
        return list(value) if isinstance(value, tuple) else value

    return plain(asdict(quality))


if __name__ == "__main__":
    main()
