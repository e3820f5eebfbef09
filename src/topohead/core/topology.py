"""Topology: what all heads of one kind share. A mesh is a topology and vertices."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SurfacePoints:
    """Points fixed on a surface: a triangle each (index into `Topology.triangles`) and weights."""

    triangles: Int[Tensor, " N"]
    barycentrics: Float[Tensor, "N 3"]


@dataclass(frozen=True)
class Topology:
    """Faces, UVs and named parts; shared and immutable.

    `faces` are quads, counter-clockwise from outside; a triangle repeats its third index
    (f[3] == f[2]). `uv` has its origin bottom-left. `regions` name sets of vertices, `landmarks`
    name ordered sets of surface points ("ibug68": 68 points). `mirror[v]` is the vertex opposite v.
    Only loaders know vertex numbers: everything else asks by name.
    """

    vertex_count: int
    faces: Int[Tensor, "F 4"]
    uv: Float[Tensor, "U 2"]
    face_uv: Int[Tensor, "F 4"]
    regions: Mapping[str, Int[Tensor, " N"]] = field(default_factory=dict)
    landmarks: Mapping[str, SurfacePoints] = field(default_factory=dict)
    mirror: Int[Tensor, " V"] | None = None
    name: str = "mesh"

    @cached_property
    def is_quad(self) -> torch.Tensor:
        """Which faces have four corners, bool [F]."""
        return self.faces[:, 3] != self.faces[:, 2]

    @cached_property
    def triangles(self) -> Int[Tensor, "T 3"]:
        """Every quad (a b c d) split into (a b c), (a c d), in face order."""
        return self._split(self.faces)

    @cached_property
    def triangle_uv(self) -> Int[Tensor, "T 3"]:
        """The `uv` rows of every triangle's corners, in the order of `triangles`."""
        return self._split(self.face_uv)

    @cached_property
    def triangle_face(self) -> Int[Tensor, " T"]:
        """The face that each triangle comes from."""
        both = torch.arange(len(self.faces))[:, None].expand(-1, 2)
        return both[self._kept]

    @cached_property
    def edges(self) -> Int[Tensor, "E 2"]:
        """Edges of the faces (not the quads' diagonals), each once, smaller vertex first."""
        pairs = torch.stack([self.faces, self.faces.roll(-1, 1)], -1).reshape(-1, 2)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]].sort(1).values
        return torch.unique(pairs, dim=0)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that two topologies share when their faces are the same."""
        told = self.faces.cpu().numpy().astype("<i4").tobytes()
        count = self.vertex_count.to_bytes(8, "little")
        return hashlib.sha256(count + told).hexdigest()[:16]

    @cached_property
    def _kept(self) -> torch.Tensor:
        return torch.stack([torch.ones_like(self.is_quad), self.is_quad], 1)

    def _split(self, corners: Int[Tensor, "F 4"]) -> Int[Tensor, "T 3"]:
        both = torch.stack([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], 1)
        return both[self._kept]

    def region_mask(self, *names: str) -> torch.Tensor:
        """Vertices that belong to any of the named regions, bool [V]."""
        mask = torch.zeros(self.vertex_count, dtype=torch.bool)
        for name in names:
            if name not in self.regions:
                raise ValueError(
                    f"{self.name} has no region {name!r}; it has {', '.join(sorted(self.regions))}"
                )
            mask[self.regions[name]] = True
        return mask

    def triangle_mask(self, *names: str) -> torch.Tensor:
        """Triangles all of whose corners belong to the named regions together, bool [T]."""
        return self.region_mask(*names)[self.triangles].all(1)


@dataclass(frozen=True)
class Mesh:
    """A topology in one shape, metres."""

    topology: Topology
    vertices: Float[Tensor, "V 3"]

    def __post_init__(self) -> None:
        if len(self.vertices) != self.topology.vertex_count:
            raise ValueError(
                f"{len(self.vertices)} vertices for a topology of {self.topology.vertex_count}"
            )
