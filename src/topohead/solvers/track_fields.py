"""What a head has beyond its model: smooth offsets of its vertices, found from tracked points.

A few dozen numbers of a linear model leave a person's skin millimetres from where its points are
seen, always on the same side of a nose or a jaw. Pictures that are gathered over such a head do not
lie on each other. An offset for each vertex, thin-plate smooth (Laplacian squared; Sorkine et al.
2004), takes away what all pictures say of the person, and what one picture says of its own instant.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import coo_matrix, diags, identity, kron
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import SurfacePoints, Topology

AROUND = 24
"""Nearest vertices of the skin that carry eyes, tongue and teeth, which are bodies of their own."""


@dataclass(frozen=True)
class Smoothness:
    """Deviations in metres: of an offset, and of its difference from the neighbours' mean."""

    offset: float
    bend: float


def offset_field(
    topology: Topology,
    rest: Float[Tensor, "V 3"],
    points: SurfacePoints,
    slopes: Float[Tensor, "P K 3"],
    gaps: Float[Tensor, "P K"],
    smooth: Smoothness,
) -> Float[Tensor, "V 3"]:
    """Offsets d of all vertices in metres that close gaps at points fixed on the mesh, float64.

    Least squares of `slopes` · d(point) − `gaps`, both divided by the deviation of what was
    measured, against `smooth`. The largest connected part bends; the others go with what is near
    them, unbent. Points on these are not asked.
    """
    triangles, size = topology.triangles, len(rest)
    edges = topology.edges.numpy()
    links = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (size, size))
    _, labels = connected_components(links, directed=False)
    skin = labels == np.bincount(labels).argmax()
    links = (links + links.T).tocsr()[skin][:, skin]
    laplacian = diags(1 / np.maximum(links.sum(1).A1, 1)) @ links - identity(int(skin.sum()))
    number = np.cumsum(skin) - 1
    corners = triangles[points.triangles].numpy()
    asked = skin[corners].all(1)
    # one row for each measured number, three columns for each corner of its triangle
    shares = points.barycentrics[:, None, :, None] * slopes[:, :, None, :]
    values = shares[asked].double().numpy()
    columns = 3 * number[corners[asked]][:, None, :, None] + np.arange(3)
    columns = np.broadcast_to(columns, values.shape)
    rows = np.arange(values.shape[0] * values.shape[1]).reshape(*values.shape[:2], 1, 1)
    rows = np.broadcast_to(rows, values.shape)
    width = 3 * int(skin.sum())
    given = coo_matrix(
        (values.ravel(), (rows.ravel(), columns.ravel())),
        (values.shape[0] * values.shape[1], width),
    ).tocsr()
    bend = kron(laplacian.T @ laplacian, identity(3)) / smooth.bend**2
    square = given.T @ given + bend + identity(width) / smooth.offset**2
    right = given.T @ gaps[asked].double().numpy().ravel()
    solved = splu(square.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(right).reshape(-1, 3)
    field = np.zeros((size, 3))
    field[skin] = solved
    places = rest.double().numpy()
    tree = KDTree(places[skin])
    for part in np.unique(labels[~skin]):
        mine = labels == part
        _, near = tree.query(places[mine], k=min(AROUND, len(solved)))
        field[mine] = solved[np.unique(near)].mean(0)
    return torch.from_numpy(field)
