"""Texture fusion's Triton kernels against the CPU's: on the GPU, or interpreted, then tiny."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from planted_sphere import photograph, ring_of_cameras, skin_texture, sphere, symmetric_sphere
from topohead.core import Distortion, InputError, Photographs, Rig, Topology, Views
from topohead.geometry.cameras import distort
from topohead.losses.texture import psnr
from topohead.rendering.uv import texel_map
from topohead.rendering.uv_cuda import device_texels
from topohead.solvers import fusion_cuda
from topohead.solvers.colors import CameraColors
from topohead.solvers.fusion import FusionConfig, fuse_frames, fuse_texture, solve_colors
from topohead.solvers.surroundings_cuda import DeviceCopy, Surroundings
from topohead.solvers.unseen import smaller_copy, surrounding_colors

# the interpreter computes lanes that are masked out afterwards
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
SIZE = 512 if ON_GPU else 64
SHRINK = 1 if ON_GPU else 4
PLAIN = FusionConfig(match_colors=False)

Scene = tuple[Topology, torch.Tensor, torch.Tensor, Views]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Sphere, its true texture and views of its right side; the left is for the mirror."""
    topology, vertices = symmetric_sphere()
    truth = skin_texture(SIZE)
    cameras = ring_of_cameras(vertices, [math.radians(a) for a in (15, 50, 75)])
    cameras = cameras.resized(cameras.sizes // SHRINK)
    return topology, vertices, truth, photograph(cameras, topology, vertices, truth)


def there(views: Views) -> Views:
    """The same views on the device."""
    masks = None if views.masks is None else tuple(mask.to(DEVICE) for mask in views.masks)
    return replace(views, images=tuple(i.to(DEVICE) for i in views.images), masks=masks)


def as_taken(views: Views, lens: Distortion) -> Photographs:
    """The pictures as cameras of such a lens would have stored them, but for one resampling."""
    images = []
    for image, matrix in zip(views.images, views.cameras.intrinsics, strict=True):
        height, width = image.shape[:2]
        x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
        pixels = torch.stack([x, y], -1).double() + 0.5
        bent = (pixels - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
        straight = bent
        for _ in range(30):
            straight = straight - (distort(straight, lens) - bent)
        source = (straight * matrix[[0, 1], [0, 1]] + matrix[:2, 2] - 0.5).float().numpy()
        moved = cv2.remap(image.numpy(), source[..., 0], source[..., 1], cv2.INTER_LANCZOS4)
        images.append(torch.from_numpy(np.rint(moved.clip(0, 1) * 255).astype(np.uint8)).to(DEVICE))
    rig = Rig(views.cameras, (lens,) * len(views.cameras))
    return Photographs(views.frame, rig, tuple(images))


def assert_same(found: torch.Tensor, expected: torch.Tensor, limit: float = 2e-3) -> None:
    """Equal to half a code value but for 0.3 % of texels, where a median may fall elsewhere."""
    difference = (found.cpu() - expected).abs().amax(-1)
    apart = float((difference > limit).float().mean())
    assert apart < 3e-3, (apart, float(difference.max()))
    assert difference.mean() < 3e-4


def test_a_complete_texture_is_the_cpu_s(scene: Scene) -> None:
    topology, vertices, _, views = scene
    generator = torch.Generator().manual_seed(2)
    colors = CameraColors.identity(views.cameras.names)
    colors = replace(
        colors,
        matrix=colors.matrix + 0.05 * torch.randn(3, 3, 4, generator=generator),
        vignetting=0.1 * torch.rand(3, 2, generator=generator),
    )
    images = list(views.images)
    images[1] = torch.where(torch.rand(images[1].shape[:2], generator=generator)[..., None] < 0.01,
                            1.0, images[1])  # fmt: skip
    masks = tuple(torch.ones(image.shape[:2]) for image in images)
    masks[0][:, : masks[0].shape[1] // 2] = 0
    spoiled = replace(views, images=tuple(images), masks=masks)
    expected = fuse_texture(spoiled, topology, vertices, SIZE, PLAIN, colors=colors)
    found = fusion_cuda.fuse_texture(there(spoiled), topology, vertices, SIZE, PLAIN, colors)
    assert 0.15 < (expected.coverage > 0).float().mean() < 0.8
    assert_same(found.srgb, expected.srgb)
    assert_same(found.coverage[..., None] / 30, expected.coverage[..., None] / 30)


def test_colours_spread_over_the_surface_as_on_the_cpu() -> None:
    """A spot is known, of skin and of eyes; a third part has nothing but its own colour."""
    topology, _ = sphere(10, 20)
    number = torch.arange(topology.vertex_count)
    parts = {"eyes": number[::6], "mouth_interior": number[1::7], "lips": number[90:120]}
    topology = replace(topology, regions={**topology.regions, **parts})
    texels = texel_map(topology, SIZE)
    row, column = np.mgrid[:SIZE, :SIZE] / SIZE
    seen = (np.hypot(row - 0.5, column - 0.3) < 0.1).astype(np.float32) * texels.inside
    color = np.dstack([row, column, 0.5 + 0 * row]).astype(np.float32)
    packed = np.dstack([color * seen[..., None], seen, texels.inside]).astype(np.float32)
    expected = surrounding_colors(smaller_copy(packed, topology))
    held = Surroundings(device_texels(topology, SIZE, DEVICE))
    copy = DeviceCopy(*(torch.from_numpy(a).to(DEVICE) for a in (color * seen[..., None], seen)))
    found = held.colors(copy).cpu().numpy()
    assert np.ptp(expected, 0).max() > 0.1
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.slow
def test_a_lens_is_undone_where_a_texel_is_looked_up(scene: Scene) -> None:
    topology, vertices, _, views = scene
    colors = CameraColors.identity(views.cameras.names)
    config = replace(PLAIN, fill=False, bands=1)
    expected = fuse_texture(views, topology, vertices, SIZE, config)
    lens = Distortion("brown", (-3.0, 10.0, 0.0, 0.0, 0.04, -0.06))
    taken = as_taken(views, lens)
    found = fusion_cuda.fuse_texture(taken, topology, vertices, SIZE, config, colors)
    seen = (expected.coverage > 1) & (found.coverage.cpu() > 1)
    assert seen.sum() > 0.8 * (expected.coverage > 1).sum()
    assert psnr(found.srgb.cpu(), expected.srgb, seen) > 36
    straight = replace(taken, rig=replace(taken.rig, distortion=(Distortion(),) * 3))
    blind = fusion_cuda.fuse_texture(straight, topology, vertices, SIZE, config, colors)
    assert psnr(blind.srgb.cpu(), expected.srgb, seen) < 34
    fisheye = replace(taken.rig, distortion=(Distortion("fisheye", (0.0,) * 4),) * 3)
    with pytest.raises(InputError, match="camera0"):
        fusion_cuda.fuse_texture(
            replace(taken, rig=fisheye), topology, vertices, SIZE, config, colors
        )


def test_the_texel_map_and_its_fringe_are_the_cpu_s(scene: Scene) -> None:
    topology = replace(scene[0], uv=scene[0].uv * 0.6 + 0.2)
    expected, found = texel_map(topology, SIZE), device_texels(topology, SIZE, DEVICE)
    assert torch.equal(found.triangle.cpu(), torch.from_numpy(expected.triangle))
    assert np.array_equal(
        found.mirrored_corners.cpu().numpy(), expected.mirrored_corners, equal_nan=True
    )
    picture = torch.zeros(SIZE, SIZE, 3)
    inside = torch.from_numpy(expected.inside)
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    picture[inside] = torch.stack([row, column, row * 0 + 1], -1)[inside].float()
    carried = picture.to(DEVICE)
    found.dilate(carried)
    carried = carried.cpu()
    assert torch.equal(carried[inside], picture[inside])
    reached = carried[..., 2] > 0
    away = torch.hypot(carried[..., 0] - row, carried[..., 1] - column)
    nearest = cv2.distanceTransform(
        (~expected.inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    nearest = torch.from_numpy(nearest)
    assert torch.equal(reached, nearest <= 32)
    assert torch.allclose(away[reached], nearest[reached], atol=1e-3)


@pytest.mark.gpu
def test_stored_pictures_are_read_as_they_are(scene: Scene) -> None:
    """Texels smaller than pixels: the views' codes are read without any rounding between."""
    topology, vertices, _, views = scene
    stored = as_taken(views, Distortion())
    stored = replace(
        stored, images=tuple((i * 255).round().to(DEVICE, torch.uint8) for i in views.images)
    )
    expected = fuse_texture(views, topology, vertices, 1024, PLAIN)
    assert_same(fuse_texture(stored, topology, vertices, 1024, PLAIN).srgb, expected.srgb)


@pytest.mark.gpu
def test_exclusions_and_a_given_skin_are_heeded_as_on_the_cpu(scene: Scene) -> None:
    topology, vertices, _, views = scene
    exclude = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    exclude[:, SIZE // 3 : SIZE // 2] = True
    skin = skin_texture(SIZE, seed=4)
    expected = fuse_texture(views, topology, vertices, SIZE, PLAIN, exclude=exclude, skin=skin)
    found = fuse_texture(there(views), topology, vertices, SIZE, PLAIN, exclude=exclude, skin=skin)
    assert_same(found.srgb, expected.srgb)
    plain = fuse_texture(there(views), topology, vertices, SIZE, PLAIN, exclude=exclude)
    assert (plain.srgb - found.srgb).abs().max() > 0.1


@pytest.mark.gpu
def test_tiles_do_not_show(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    topology, vertices, _, views = scene
    whole = fuse_texture(there(views), topology, vertices, SIZE, PLAIN)
    monkeypatch.setattr(fusion_cuda, "_WINDOW_BYTES", 3 * 17 * 200**2)
    pieces = fuse_texture(there(views), topology, vertices, SIZE, PLAIN)
    assert torch.allclose(whole.srgb, pieces.srgb, atol=1e-5)
    assert torch.equal(whole.coverage, pieces.coverage)


@pytest.mark.gpu
def test_camera_colours_are_solved_from_views_on_the_device(scene: Scene) -> None:
    topology, vertices, _, views = scene
    gains = torch.tensor([[1.05, 1.0, 0.97], [0.95, 1.02, 1.0], [1.0, 0.98, 1.03]])
    images = tuple((i * g).clamp(0, 1) for i, g in zip(views.images, gains, strict=True))
    spoiled = replace(views, images=images)
    expected = solve_colors(spoiled, topology, vertices)
    found = solve_colors(there(spoiled), topology, vertices)
    assert torch.allclose(found.matrix, expected.matrix, atol=2e-3)
    assert torch.allclose(found.vignetting, expected.vignetting, atol=5e-3)
    stored = as_taken(spoiled, Distortion())
    found = solve_colors(stored, topology, vertices)
    assert torch.allclose(found.matrix, expected.matrix, atol=1e-2)


@pytest.mark.gpu
def test_frames_are_merged_as_on_the_cpu(scene: Scene) -> None:
    topology, vertices, _, views = scene
    dark = replace(views, images=tuple(image * 0.9 for image in views.images))
    frames = [(views, vertices), (dark, vertices), (views, vertices)]
    expected = fuse_frames(frames, topology, SIZE, PLAIN)
    moved = [(there(v), points) for v, points in frames]
    found = fuse_frames(moved, topology, SIZE, PLAIN)
    # frames wait as 8-bit codes, and a value between two codes may round either way
    assert_same(found.srgb, expected.srgb, limit=1.1 / 255)
    assert_same(found.coverage[..., None] / 30, expected.coverage[..., None] / 30)


@pytest.mark.gpu
def test_results_repeat_bit_for_bit(scene: Scene) -> None:
    topology, vertices, _, views = scene
    first = fuse_texture(there(views), topology, vertices, SIZE, PLAIN)
    again = fuse_texture(there(views), topology, vertices, SIZE, PLAIN)
    assert torch.equal(first.srgb, again.srgb)
