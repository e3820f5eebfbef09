"""Portraits on CPU cores: tensors in, tensors out, around the compiled loops.

`portraits_triton` has the same functions for CUDA. Drawn pictures have a form of each own:
here 1/depth (0: nothing) and the name of what is nearest (−1: nothing), [B M h w].
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from topohead.core import Strands
from topohead.rendering import portraits_draw_cpu as drawing
from topohead.rendering import portraits_hair_cpu as hair
from topohead.rendering import portraits_sensor_cpu as sensor
from topohead.rendering import portraits_shade_cpu as shading
from topohead.rendering.normals_cpu import fan_normals
from topohead.rendering.portrait_batch import (
    PortraitHeads,
    PortraitMesh,
    SceneBatch,
    TexturePool,
)
from topohead.rendering.portrait_light import PortraitLight

Drawn = tuple[np.ndarray, np.ndarray]


def project(
    points: Float[Tensor, "B N 3"], projections: Float[Tensor, "B M 3 4"]
) -> Float[Tensor, "B M N 3"]:
    """(u, v, depth) float32 of points in every view of their head, computed in float64."""
    return torch.from_numpy(drawing.project(_array(points), _array(projections)))


def draw(
    triangles: Int[Tensor, "T 3"],
    vertices: Float[Tensor, "B V 3"],
    strands: Strands | None,
    projections: Float[Tensor, "B M 3 4"],
    focals: Float[Tensor, "B M"],
    size: tuple[int, int],
) -> Drawn:
    """Meshes and ribbons in all views of their heads."""
    triangles_, focals_, views = _array(triangles), _array(focals), _array(projections)
    inverse, names = drawing.draw_meshes(
        triangles_, _array(vertices), views, focals_, size[1], size[0]
    )
    if strands is not None:
        drawing.draw_ribbons(
            _array(strands.points), _array(strands.widths), views, focals_, len(triangles_),
            inverse, names,
        )  # fmt: skip
    return inverse, names


def inverse_depths(drawn: Drawn) -> Float[Tensor, "B M h w"]:
    """1/depth; zero where nothing is seen."""
    return torch.from_numpy(drawn[0])


def names(drawn: Drawn) -> Int[Tensor, "B M h w"]:
    """Triangle, or number of triangles plus segment of hair; -1 where nothing is seen."""
    return torch.from_numpy(drawn[1])


def seen(
    drawn: Drawn, mesh: PortraitMesh, heads: PortraitHeads
) -> tuple[Bool[Tensor, "B V"], Bool[Tensor, "B S P"]]:
    """Vertices and points of strands that pictures of one view a head show something of."""
    strands = (0, 2) if heads.strands is None else heads.strands.points.shape[1:3]
    found = hair.seen_parts(
        drawn[1][:, 0], _array(mesh.triangles), heads.vertices.shape[1], *strands
    )
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def gather_mesh(
    vertices: Float[Tensor, "B V 3"],
    normals: Float[Tensor, "B V 3"],
    projections: Float[Tensor, "B D 3 4"],
    maps: Drawn,
    directions: Float[Tensor, "D 3"],
    radiance: Float[Tensor, "B D 3"],
    texel: Float[Tensor, " B"],
    bounce: Float[Tensor, "3"],
    shown: Bool[Tensor, "B V"],
) -> Float[Tensor, "B V 3"]:
    """Share of the sky's irradiance that reaches each vertex that is shown."""
    light = hair.gather_mesh(
        _array(vertices), _array(normals), _array(projections), maps[0], _array(directions),
        _array(radiance), _array(texel), _array(bounce), _array(shown),
    )  # fmt: skip
    return torch.from_numpy(light)


def gather_hair(
    strands: Strands | None,
    projections: Float[Tensor, "B D 3 4"],
    maps: Drawn,
    directions: Float[Tensor, "D 3"],
    radiance: Float[Tensor, "B D 3"],
    shown: Bool[Tensor, "B S P"],
) -> Float[Tensor, "B S P 3"]:
    """∫ L sin(T, ω) visible dω at points of strands that are shown."""
    if strands is None:
        return torch.zeros(len(projections), 0, 2, 3)
    light = hair.gather_hair(
        _array(strands.points), _array(projections), maps[0], _array(directions), _array(radiance),
        _array(shown),
    )  # fmt: skip
    return torch.from_numpy(light)


def shade(
    drawn: Drawn,
    factor: int,
    mesh: PortraitMesh,
    heads: PortraitHeads,
    normals: Float[Tensor, "B V 3"],
    views: Float[Tensor, "B 1 3 4"],
    eye: Float[Tensor, "B 3"],
    textures: TexturePool,
    light: PortraitLight,
) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W"], UInt8[Tensor, "B H W"]]:
    """Linear colour, premultiplied, coverage and label of pictures drawn with one view a head."""
    strands = heads.strands
    if strands is None:
        empty = torch.zeros(len(views), 0, 2, 3)
        points, colors = empty, empty
    else:
        points, colors = strands.points, strands.colors
    parts = (
        mesh.triangles, mesh.corner_uv, mesh.label, mesh.textured, mesh.head_vertices,
        heads.vertices, normals, light.ambient, project(heads.vertices, views)[:, 0], heads.tint,
        eye, views[:, 0], heads.skin, textures.texels, textures.offsets, textures.sizes,
        points, colors, light.hair, light.sky, light.lamps, light.lamp_views, light.lamp_maps[0],
        light.lamp_texel, light.disk,
    )  # fmt: skip
    arrays = (_array(x) if isinstance(x, Tensor) else x for x in parts)
    pictures = shading.shade(drawn[1][:, 0], factor, len(mesh.triangles), *arrays)
    color, coverage, label = (torch.from_numpy(x) for x in pictures)
    return color, coverage, label


def expose(
    linear: Float[Tensor, "B H W 3"],
    alpha: Float[Tensor, "B H W"],
    backdrops: Float[Tensor, "N h w 3"],
    scenes: SceneBatch,
    taps: Float[Tensor, "B K"],
) -> Float[Tensor, "B H W 3"]:
    """Stored pictures, srgb, of premultiplied light before a backdrop."""
    light = sensor.composite(
        _array(linear), _array(alpha), _array(backdrops), _array(scenes.backdrop),
        _array(scenes.window),
    )  # fmt: skip
    keys = _array(scenes.key).astype(np.uint64)
    return torch.from_numpy(sensor.expose(light, _array(taps), _array(scenes.sensor), keys))


def smooth_normals(vertices: Float[Tensor, "B V 3"], mesh: PortraitMesh) -> Float[Tensor, "B V 3"]:
    """Unit normals of vertices, triangles weighted by area, summed in a fixed order."""
    return torch.from_numpy(fan_normals(*arrays(vertices, mesh.triangles, mesh.fan)))


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Tensors on the CPU as compiled loops read them."""
    return tuple(_array(tensor) for tensor in tensors)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())
