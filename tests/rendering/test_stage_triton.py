"""The stage's Triton kernels against its CPU loops: on the GPU, or interpreted where there is none.

Tolerances are in linear light, where 1 is full scale.
"""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from topohead.core import Distortion, Topology
from topohead.geometry.cameras import look_at
from topohead.geometry.meshes import vertex_normals
from topohead.rendering import light_triton, mesh, sensor_cpu, sensor_triton, stage_cpu
from topohead.rendering import stage_triton as triton_stage
from topohead.synthesis import lights
from topohead.synthesis.props import Props
from topohead.synthesis.render import LitHead, Materials, light_head, render_view
from topohead.synthesis.sensors import Sensor, expose, noise_key
from topohead.synthesis.skin import SkinMaps

# the interpreter computes lanes that are masked out afterwards
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENS = Distortion("brown", (-0.2, 0.15, -0.02, 0.0, 6e-4, -7e-4))


def _ball(rings: int) -> tuple[Topology, torch.Tensor]:
    """A dented ball of 0.1 m, so that it shades itself; UVs in one chart."""
    down, around = torch.linspace(0.02, 0.98, rings + 1), torch.linspace(0, 1, 2 * rings + 1)
    v, u = torch.meshgrid(down, around, indexing="ij")
    latitude, longitude = v * math.pi, (u % 1.0) * 2 * math.pi
    reach = 0.1 * (1 + 0.25 * (3 * latitude).sin() * (4 * longitude).sin())
    vertices = torch.stack([reach * latitude.sin() * longitude.sin(), reach * latitude.cos(),
                            reach * latitude.sin() * longitude.cos()], -1)  # fmt: skip
    row = 2 * rings + 1
    a = (torch.arange(rings)[:, None] * row + torch.arange(2 * rings)).reshape(-1)
    faces = torch.stack([a, a + row, a + row + 1, a + 1], 1)
    uv = torch.stack([u, 1 - v], -1).reshape(-1, 2)
    return Topology(len(uv), faces, uv, faces), vertices.reshape(-1, 3)


def _maps(size: int) -> SkinMaps:
    """Random albedo and roughness, soft bumps a tenth of a millimetre high."""
    generator = torch.Generator().manual_seed(3)
    albedo = torch.rand(size, size, 3, generator=generator) * 0.6 + 0.1
    roughness = torch.rand(size, size, generator=generator) * 0.5 + 0.2
    wave = torch.sin(torch.arange(size) * 0.9)
    return SkinMaps(albedo, roughness, 1e-4 * wave[:, None] * wave,
                    torch.ones(size, size, dtype=torch.bool),
                    torch.full((size, size), 0.028))  # fmt: skip


def _prop() -> Props:
    """A plain triangle in front of a part of the ball."""
    vertices = torch.tensor([[-0.05, -0.12, 0.12], [0.09, -0.1, 0.12], [0.0, -0.03, 0.12]])
    return Props(
        vertices, torch.tensor([[0, 1, 2]]), torch.full((3, 3), 0.3), torch.full((3,), 0.5)
    )


def _scene(rings: int, device: str = "cpu") -> LitHead:
    topology, vertices = _ball(rings)
    lighting = lights.preset("studio")
    return light_head(
        topology, vertices, (vertices, topology.triangles), _prop(), lighting, 12, device
    )


def _pose() -> torch.Tensor:
    eye = torch.tensor([0.25, 0.1, 0.8]).double()
    return look_at(eye, torch.zeros(3).double(), torch.tensor([0.0, 1.0, 0.0]).double())


def _tables(factor: int, width: int, height: int, gloss: float) -> list:
    """What `shade` takes, of the ball with its prop and two lamps."""
    head, materials = _scene(6), Materials.of(_maps(32))
    matrix = torch.tensor([[3.2 * width, 0, width / 2], [0, 3.2 * width, height / 2], [0, 0, 1]])
    matrix[:2] *= factor
    shape = (width * factor, height * factor)
    raster = mesh.rasterize(head.vertices, head.triangles, _pose(), matrix.double(), shape)
    level = torch.linspace(0, 3.3, len(head.triangles))  # 1/3 of a pyramid of three beyond its top
    level[head.textured :] = -1
    lamps = [[*x.position, *x.radiance, x.radius / 1.5] for x in head.lighting.lamps]
    view = [0.25, 0.1, 0.8, *head.lighting.below, *head.lighting.above, gloss]
    return [raster.triangle, raster.barycentrics, factor, head.corners, head.per_triangle, level,
            head.per_vertex, materials.atlas, materials.offsets, materials.sizes,
            torch.tensor(lamps), torch.tensor(view)]  # fmt: skip


@pytest.mark.parametrize("gloss", [0.0, 1.0])
def test_shading_equals_the_cpu(gloss: float) -> None:
    tables = _tables(2, 20, 14, gloss)
    arrays = (x.numpy() if isinstance(x, torch.Tensor) else x for x in tables)
    color, coverage = (torch.from_numpy(x) for x in stage_cpu.shade(*arrays))
    assert (tables[5][tables[0].clamp(min=0)] < 0)[tables[0] >= 0].any()  # the prop is in view
    assert 0.2 < coverage.mean() < 0.9 and color.max() > 0.1
    on_device = [x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in tables]
    ours, covered = triton_stage.shade(*on_device)
    torch.testing.assert_close(ours.cpu(), color, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(covered.cpu(), coverage, rtol=0, atol=1e-6)


def test_light_on_vertices_equals_the_cpu() -> None:
    topology, vertices = _ball(5)
    normals = vertex_normals(vertices, topology.triangles).double()
    scene = (vertices.double(), normals, (vertices.double(), topology.triangles.int()))
    sources = lights._sources(lights.preset("key"), np.zeros(3), 5, 3)
    projections = np.stack([lights._shadow_projection(x[:3], 0.14, 40) for x in sources])
    sums, seen = lights._received(scene, projections, sources, 1, 40, 0.007)
    assert (sums[:, 3] > 0).any() and 0 < seen.mean() < 3  # something is in shade
    flat = (scene[0], scene[1])
    ours = light_triton.receive_all(
        *(x.to(DEVICE) for x in flat),
        (scene[2][0].to(DEVICE), scene[2][1].to(DEVICE)),
        torch.from_numpy(projections).to(DEVICE),
        torch.from_numpy(sources).to(DEVICE),
        1, 40, lights.BIAS, 0.007,
    )  # fmt: skip
    for mine, expected in zip(ours, (sums, seen), strict=True):
        torch.testing.assert_close(mine.cpu(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("blur", [0.0, 0.9])
def test_the_sensor_equals_the_cpu(blur: float) -> None:
    generator = torch.Generator().manual_seed(1)
    light = torch.rand(9, 300, 3, generator=generator) * 1.2
    sensor = Sensor(
        torch.tensor([1.0, 0.9, 1.1]), torch.tensor([0.0, -0.01, 0.02]), 0.3, blur, 0.02
    )
    key = noise_key(7, 51, 3, 2)
    expected = expose(light, sensor, (140.0, 4.0), key)
    weights = (
        torch.tensor([1.0]) if blur == 0 else torch.exp(-0.5 * (torch.arange(-4, 5) / blur) ** 2)
    )
    falloff = 0.3 / (300**2 / 4 + 9**2 / 4)
    numbers = torch.tensor([140, 4, falloff, 1, 0.9, 1.1, 0, -0.01, 0.02, 0.02, 0.006])
    ours = sensor_triton.expose(
        light.to(DEVICE), (weights / weights.sum()).to(DEVICE), numbers.to(DEVICE), key
    )
    torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=2e-5)


def test_philox_gives_the_published_numbers() -> None:
    # the first line of Random123's known answers for philox4x32-10
    words = [int(word) for word in sensor_cpu.philox.py_func(np.uint64(0), np.uint64(0))]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_noise_is_normal_white_and_the_keys_own() -> None:
    grey, sensor = torch.full((96, 128, 3), 0.5), Sensor(torch.ones(3), torch.zeros(3), 0.0, 0.0)
    picture = expose(grey, sensor, (64.0, 48.0), noise_key(1, 2))
    linear = ((picture.double() + 0.055) / 1.055) ** 2.4 - 0.5
    noise = linear / math.sqrt(0.0015**2 + 0.006**2 * 0.5)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float((noise**4).mean()) == pytest.approx(3, abs=0.15)
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2)):
        assert abs(float((noise * other).mean())) < 0.02
    again, another = (expose(grey, sensor, (64.0, 48.0), noise_key(1, k)) for k in (2, 3))
    assert torch.equal(again, picture) and not torch.equal(another, picture)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(512, 375), (2048, 1500)])
def test_a_stored_picture_equals_the_cpu(size: tuple[int, int]) -> None:
    width, height = size
    matrix = torch.tensor([[3.0 * width, 0, width / 2], [0, 3.0 * width, height / 2], [0, 0, 1]])
    sensor = Sensor(torch.tensor([1.0, 0.98, 1.03]), torch.full((3,), 0.002), 0.2)
    materials, pictures, linear = Materials.of(_maps(1024)), [], []
    for device in ("cpu", "cuda", "cuda"):
        color, coverage = render_view(
            _scene(60, device), materials.to(device), _pose(), matrix.double(), LENS, size, 3, 1.0
        )
        assert color.device.type == device
        linear.append(torch.cat([color, coverage[..., None]], 2).cpu())
        stored = expose(color, sensor, (width / 2, height / 2), noise_key(4))
        pictures.append((stored * 255).round().cpu())
    # a sample on an outline may see another triangle; all others agree
    far = (linear[0] - linear[1]).abs().amax(2) > 1e-3
    assert far.float().mean() < 1e-4
    assert ((linear[0] - linear[1])[~far]).abs().mean() < 1e-6
    codes = (pictures[0] - pictures[1]).abs()
    assert (codes > 0).float().mean() < 0.01 and (codes > 1).float().mean() < 1e-4
    assert torch.equal(pictures[1], pictures[2])  # the same bytes each time


@pytest.mark.gpu
def test_gathered_light_equals_the_cpu() -> None:
    ours, expected = _scene(120, "cuda").light, _scene(120).light
    for name in ("irradiance", "steer", "open_sky", "lamp_seen"):
        difference = (getattr(ours, name).cpu() - getattr(expected, name)).abs()
        assert difference.mean() < 1e-5 and (difference > 1e-3).float().mean() < 1e-3
