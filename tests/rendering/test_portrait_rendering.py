"""Batched portraits: the CPU against closed forms, Triton against the CPU."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from topohead.core import Strands
from topohead.geometry.cameras import look_at
from topohead.rendering import portrait_light, portraits, portraits_cpu, portraits_draw_cpu
from topohead.rendering.mesh_cpu import rasterize_projected
from topohead.rendering.portrait_light import harmonics, sphere
from topohead.rendering.portraits import (
    PortraitHeads,
    PortraitMesh,
    SceneBatch,
    TexturePool,
    moved,
    portrait_maps,
    portrait_points,
    render_portraits,
)

# the interpreter computes lanes that are masked out afterwards
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

RADIUS = 0.1


def ball(rings: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vertices, triangles (outward) and corner UVs of a ball, its seam and poles doubled."""
    v, u = torch.meshgrid(
        torch.linspace(0, 1, rings + 1), torch.linspace(0, 1, 2 * rings + 1), indexing="ij"
    )
    latitude, longitude = v * math.pi, (u % 1.0) * 2 * math.pi
    points = [latitude.sin() * longitude.cos(), latitude.cos(), -latitude.sin() * longitude.sin()]
    vertices = RADIUS * torch.stack(points, -1).reshape(-1, 3)
    row = 2 * rings + 1
    a = (torch.arange(rings)[:, None] * row + torch.arange(2 * rings)).reshape(-1)
    b, c, d = a + row, a + row + 1, a + 1
    triangles = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    uv = torch.stack([u, 1 - v], -1).reshape(-1, 2)
    return vertices, triangles, uv[triangles]


def scene(count: int, size: tuple[int, int], lamps: list[list[float]] | None = None) -> SceneBatch:
    """Cameras half a metre in front, a white sky of radiance 0.4, no blur and no noise."""
    eye = torch.tensor([[0.08 * b, 0.05, 0.5] for b in range(count)]).double()
    pose = torch.eye(4).double().expand(count, 4, 4).clone()
    pose[:, :3] = torch.stack(
        [look_at(e, torch.zeros(3).double(), torch.tensor([0, 1.0, 0]).double())[:3] for e in eye]
    )
    width, height = size
    focal = 2.0 * height
    matrix = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).double()
    sky = torch.zeros(count, 16, 3)
    sky[:, 0] = 0.4 / 0.282095
    rows = torch.tensor(lamps or [[0, 0, 9.0, 0, 0, 0, 0]]).float()
    return SceneBatch(
        pose,
        matrix.expand(count, 3, 3).clone(),
        sky,
        rows.expand(count, *rows.shape).clone(),
        torch.zeros(count, dtype=torch.int64),
        torch.tensor([[0.0, 0, 1, 1]]).expand(count, 4).clone(),
        torch.tensor([[1.0, 1, 1, 0, 0, 0]]).expand(count, 6).clone(),
        torch.zeros(count),
        torch.arange(count) + (1 << 62),
    )


def plain_pool(albedo: float = 0.5, specular: float = 0.0) -> TexturePool:
    return TexturePool.of(
        torch.full((1, 8, 8, 3), albedo),
        torch.full((1, 8, 8), 0.5),
        torch.full((1, 8, 8), specular),
    )


def balls(count: int, rings: int, label: int = 2) -> tuple[PortraitMesh, PortraitHeads]:
    vertices, triangles, uv = ball(rings)
    labels = torch.full((len(triangles),), label)
    mesh = PortraitMesh.of(triangles, uv, labels, len(vertices))
    heads = vertices.expand(count, -1, -1).clone()
    return mesh, PortraitHeads(heads, torch.zeros(count).long(), torch.zeros(count, 0, 4))


def rough_scene(
    count: int, size: tuple[int, int]
) -> tuple[PortraitMesh, PortraitHeads, TexturePool, SceneBatch, torch.Tensor]:
    """Everything at once: bumps, plain parts, hair, two lamps, noise, blur, a coloured sky."""
    vertices, triangles, uv = ball(5)
    generator = torch.Generator().manual_seed(700)
    part, part_triangles, part_uv = ball(3)
    part = 0.4 * part + torch.tensor([0.02, 0.12, 0.03])
    labels = torch.cat([torch.ones(len(triangles)), torch.full((len(part_triangles),), 5.0)])
    mesh = PortraitMesh.of(
        torch.cat([triangles, part_triangles + len(vertices)]),
        torch.cat([uv, 0 * part_uv]),
        labels.long(),
        len(vertices) + len(part),
        len(vertices),
    )
    both = torch.cat([vertices, part]).expand(count, -1, -1)
    both = both + 0.002 * torch.randn(both.shape, generator=generator)
    maps = torch.rand(2, 16, 16, 5, generator=generator)
    normal = torch.nn.functional.normalize(
        torch.randn(2, 16, 16, 3, generator=generator) * 0.1 + torch.tensor([0, 0, 1.0]), dim=-1
    )
    pool = TexturePool.of(maps[..., :3], 0.2 + 0.6 * maps[..., 3], maps[..., 4], normal)
    root = torch.nn.functional.normalize(torch.randn(count, 40, 3, generator=generator), dim=-1)
    along = torch.linspace(0, 1, 4)[:, None]
    points = root[:, :, None] * (RADIUS + 0.05 * along) - torch.tensor([0, 0.04, 0]) * along**2
    strands = Strands.loose(
        points.contiguous(),
        0.0005 + 0.003 * torch.rand(count, 40, 4, generator=generator),
        torch.rand(count, 40, 4, 3, generator=generator) * 0.3,
    )
    tint = torch.rand(count, len(part), 4, generator=generator)
    heads = PortraitHeads(both, torch.arange(count) % 2, tint, strands)
    scenes = scene(
        count, size, [[0.6, 0.7, 0.9, 0.15, 20, 18, 16], [-1, 0.2, 0.3, 0.05, 60, 80, 90]]
    )
    sky = scenes.sky + 0.1 * torch.randn(count, 16, 3, generator=generator)
    sensor = torch.tensor([[1.1, 0.9, 1.0, 0.2, 0.002, 0.006]]).expand(count, 6).clone()
    scenes = replace(scenes, sky=sky, sensor=sensor, blur=torch.full((count,), 0.6))
    return mesh, heads, pool, scenes, torch.rand(2, 5, 7, 3, generator=generator)


def test_a_ball_under_an_even_sky_is_evenly_lit() -> None:
    mesh, heads = balls(1, 24)
    drawn = render_portraits(
        mesh, heads, plain_pool(), scene(1, (48, 48)), torch.zeros(1, 2, 2, 3), (48, 48)
    )
    inside = drawn.alpha[0] == 1
    assert inside.sum() > 800
    # radiance 0.4 · albedo 0.5, and f0 = 0 leaves a little gloss at grazing angles
    assert (drawn.linear[0][inside][:, 1] - 0.2).median().abs() < 0.012


def test_a_far_lamp_follows_the_cosine_and_the_inverse_square() -> None:
    mesh, heads = balls(1, 40)
    distance, radius, radiance = 5.0, 0.05, 3000.0
    scenes = scene(1, (64, 64), [[0, 0, distance, radius, radiance, radiance, radiance]])
    scenes = replace(scenes, sky=torch.zeros_like(scenes.sky))
    drawn = render_portraits(mesh, heads, plain_pool(), scenes, torch.zeros(1, 2, 2, 3), (64, 64))
    maps = portrait_maps(mesh, heads, scenes, (64, 64))
    inside = (drawn.alpha[0] == 1) & (maps.normal[0, ..., 2] > 0.4)
    irradiance = math.pi * radiance * radius**2 / (distance - RADIUS) ** 2
    expected = 0.5 / math.pi * irradiance * maps.normal[0, ..., 2]
    # specular level 0 still has grazing gloss of a few per cent
    ratio = (drawn.linear[0, ..., 1] / expected)[inside]
    assert 0.97 < ratio.median() < 1.06


def test_a_lamp_behind_a_part_throws_a_shadow() -> None:
    vertices, triangles, uv = ball(16)
    labels = torch.ones(2 * len(triangles)).long()
    mesh = PortraitMesh.of(
        torch.cat([triangles, triangles + len(vertices)]),
        torch.cat([uv, uv]),
        labels,
        2 * len(vertices),
        len(vertices),
    )
    blocker = 0.2 * vertices + torch.tensor([0.05, 0.0, 0.16])
    lamp = [[0.05, 0.0, 2.0, 0.01, 9000.0, 9000, 9000]]
    scenes = replace(scene(1, (64, 64), lamp), sky=torch.zeros(1, 16, 3))
    tint = torch.full((1, len(vertices), 4), 0.5)
    pictures = [
        render_portraits(
            mesh,
            PortraitHeads(torch.cat([vertices, part])[None], torch.zeros(1).long(), tint),
            plain_pool(),
            scenes,
            torch.zeros(1, 2, 2, 3),
            (64, 64),
        ).linear[0]
        for part in (blocker, torch.zeros_like(vertices))
    ]
    dark = (pictures[1][..., 1] > 0.1) & (pictures[0][..., 1] < 1e-3)
    assert dark.sum() > 20


def test_ribbons_cover_as_much_as_they_are_wide() -> None:
    mesh, heads = balls(1, 4)
    away = replace(heads, vertices=heads.vertices * 1e-4)
    generator = torch.Generator().manual_seed(701)
    start = torch.rand(1, 400, 1, 3, generator=generator) * 0.1 - 0.05
    flat = torch.randn(1, 400, 1, 3, generator=generator) * torch.tensor([1.0, 1, 0])
    step = torch.nn.functional.normalize(flat, dim=-1)
    start[..., 2] = 0.05
    points = start + 0.02 * step * torch.tensor([0.0, 0.5, 1.0])[:, None]
    scenes = scene(1, (256, 256))
    pose = torch.eye(4).double()[None].clone()
    pose[0, 1, 1] = pose[0, 2, 2] = -1
    pose[0, 2, 3] = 0.5
    scenes = replace(scenes, world_to_camera=pose)
    view, focal = portrait_light.camera_projections(pose, scenes.intrinsics, 1)
    for pixels in (0.2, 0.7, 2.0):  # thinner and thicker than a sample
        width = pixels * 0.45 / float(focal)
        area = 0
        for s in range(400):  # one at a time, so that none hides another
            strand = Strands.loose(
                points[:, s : s + 1].contiguous(),
                torch.full((1, 1, 3), width),
                torch.ones(1, 1, 3, 3),
            )
            drawn = portraits_cpu.draw(
                mesh.triangles, away.vertices, strand, view, focal, (256, 256)
            )
            area += int((drawn[1] >= len(mesh.triangles)).sum())
        length = 0.02 * float(focal) / 0.45
        caps = math.pi / 4 * max(pixels, 1)  # ends are round, a sample across at least
        assert abs(area / (400 * pixels * (length + caps)) - 1) < 0.03, pixels


def test_hair_hides_vertices_and_maps_agree_with_projection() -> None:
    mesh, heads = balls(1, 24)
    scenes = scene(1, (96, 96))
    pixels, seen = portrait_points(mesh, heads, scenes, (96, 96))
    eye = torch.tensor([0, 0.05, 0.5])
    facing = ((eye - heads.vertices[0]) * heads.vertices[0]).sum(1)
    assert seen[0][facing > 0.003].all()
    assert seen[0][facing < -0.011].float().mean() < 0.02  # the poles' normals are of one side
    maps = portrait_maps(mesh, heads, scenes, (96, 96))
    covered = maps.triangle[0] >= 0
    corner = mesh.triangles.long()[maps.triangle[0][covered].long()]
    place = (pixels[0][corner] * maps.barycentrics[0][covered][..., None]).sum(1)
    rows, columns = covered.nonzero().unbind(1)
    centre = torch.stack([columns, rows], 1) + 0.5
    assert (place - centre).abs().max() < 0.05  # weights are perspective-correct, the sum is not
    points = heads.vertices[0] * 1.3
    strands = Strands.loose(
        torch.stack([points, points + torch.tensor([0, 0.02, 0])], 1)[None].contiguous(),
        torch.full((1, len(points), 2), 0.02),
        torch.ones(1, len(points), 2, 3),
    )
    _, hidden = portrait_points(mesh, replace(heads, strands=strands), scenes, (96, 96))
    assert hidden.sum() < 0.1 * seen.sum()


def test_the_same_inputs_give_the_same_bytes() -> None:
    inputs = rough_scene(2, (24, 24))
    first, second = (render_portraits(*inputs, (24, 24)) for _ in range(2))
    for name in ("srgb", "alpha", "label", "linear"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert set(first.label.unique().tolist()) >= {0, 1, 4, 5}


def test_what_is_left_out_behind_other_triangles_leaves_no_trace() -> None:
    mesh, heads, _, scenes, _ = rough_scene(2, (64, 64))
    inner = 0.6 * heads.vertices[:, : mesh.head_vertices]  # hidden, but for what bumps let through
    triangles = mesh.triangles
    hidden = triangles[(triangles < mesh.head_vertices).all(1)] + heads.vertices.shape[1]
    vertices = torch.cat([heads.vertices, inner, 0 * inner], 1)  # and a part that is not worn
    triangles = torch.cat([triangles, hidden, hidden + inner.shape[1]])
    views, focals = portrait_light.camera_projections(scenes.world_to_camera, scenes.intrinsics, 1)
    inverse, names = portraits_cpu.draw(triangles, vertices, None, views, focals, (64, 64))
    projected = portraits_cpu.project(vertices, views).numpy()
    for b in range(2):
        depth, name = rasterize_projected(projected[b, 0], triangles.numpy(), 64, 64, False, 0.01)
        assert (names[b, 0] == name).all()
        assert abs(inverse[b, 0] * depth - 1)[name >= 0].max() < 1e-6
    balls = torch.zeros(len(triangles), 4).double().numpy()
    kept = torch.arange(len(triangles), dtype=torch.int32).numpy()
    parts = (vertices[0].numpy(), triangles.numpy(), kept, len(kept), balls)
    portraits_draw_cpu._balls(*parts)
    used = -(-len(kept) // portraits_draw_cpu.BUNDLE)
    told = [portraits_draw_cpu._hidden(ball, views[0, 0].numpy(), inverse[0, 0])
            for ball in balls[:used]]  # fmt: skip
    assert 0 < sum(told) < used


def test_a_lamp_that_is_not_there_changes_nothing() -> None:
    mesh, heads, pool, scenes, backdrops = rough_scene(2, (24, 24))
    more = torch.tensor([0.5, 0.2, 0.9, 0.0, 30, 30, 30]).expand(2, 1, 7)
    lamps = torch.cat([more, scenes.lamps], 1)
    plain = render_portraits(mesh, heads, pool, scenes, backdrops, (24, 24))
    padded = replace(scenes, lamps=lamps)
    assert torch.equal(
        render_portraits(mesh, heads, pool, padded, backdrops, (24, 24)).srgb, plain.srgb
    )


def test_light_is_gathered_wherever_pictures_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = rough_scene(2, (24, 24))
    wanted = render_portraits(*inputs, (24, 24))
    found = portraits_cpu.seen

    def everything(*drawn: Any) -> tuple[torch.Tensor, ...]:
        vertices, points = found(*drawn)
        assert 0.1 < float(vertices.float().mean()) < 0.9 and not points.all()
        return torch.ones_like(vertices), torch.ones_like(points)

    monkeypatch.setattr(portraits_cpu, "seen", everything)
    assert torch.equal(render_portraits(*inputs, (24, 24)).srgb, wanted.srgb)


def test_harmonics_are_orthonormal() -> None:
    basis = harmonics(sphere(20000))
    gram = basis.T @ basis * 4 * math.pi / 20000
    assert (gram - torch.eye(16)).abs().max() < 2e-3


def agreement(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Median difference, and share of numbers that differ by more than 2/255."""
    difference = (first.cpu() - second.cpu()).abs()
    return float(difference.median()), float((difference > 2 / 255).float().mean())


def test_triton_draws_what_the_cpu_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from topohead.rendering import portraits_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    monkeypatch.setattr(portrait_light, "DOME", 5)
    monkeypatch.setattr(portrait_light, "DOME_MAP", 16)
    monkeypatch.setattr(portrait_light, "LAMP_MAP", 24)
    portrait_light._constants.cache_clear()
    size = (20, 16)
    inputs = rough_scene(2, size)
    wanted = render_portraits(*inputs, size)
    mesh, heads, pool, scenes, backdrops = inputs
    none = torch.tensor([0.5, 0.2, 0.9, 0.0, 30, 30, 30]).expand(2, 1, 7)
    scenes = replace(scenes, lamps=torch.cat([none, scenes.lamps], 1))
    inputs = (mesh, heads, pool, scenes, backdrops)
    monkeypatch.setattr(portraits, "_backend", lambda _: portraits_triton)
    mesh, heads, pool, scenes, backdrops = (moved(x, device) for x in inputs)
    found = render_portraits(mesh, heads, pool, scenes, backdrops, size)
    portrait_light._constants.cache_clear()
    assert (found.label.cpu() != wanted.label).float().mean() < 0.01
    assert (found.alpha.cpu() != wanted.alpha).float().mean() < 0.01
    for name in ("linear", "srgb"):
        median, beyond = agreement(getattr(found, name), getattr(wanted, name))
        assert median < 1e-4, name
        assert beyond < 0.01, name


@pytest.mark.gpu
def test_cuda_pictures_agree_with_the_cpu() -> None:
    size = (128, 128)
    mesh, heads, pool, scenes, backdrops = rough_scene(4, size)
    wanted = render_portraits(mesh, heads, pool, scenes, backdrops, size)
    there, worn, maps, views, behind = (
        moved(x, "cuda") for x in (mesh, heads, pool, scenes, backdrops)
    )
    found = render_portraits(there, worn, maps, views, behind, size)
    again = render_portraits(there, worn, maps, views, behind, size)
    assert torch.equal(found.srgb, again.srgb)
    assert (found.label.cpu() != wanted.label).float().mean() < 0.002
    median, beyond = agreement(found.srgb, wanted.srgb)
    assert median < 1e-4
    assert beyond < 0.005
    pixels, seen = portrait_points(there, worn, views, size)
    expected, known = portrait_points(mesh, heads, scenes, size)
    assert (pixels.cpu() - expected).abs().max() < 1e-3
    assert (seen.cpu() != known).float().mean() < 0.005
    first, second = (
        portrait_maps(there, worn, views, size),
        portrait_maps(mesh, heads, scenes, size),
    )
    assert (first.triangle.cpu() != second.triangle).float().mean() < 0.005
