"""Texture fusion recovers planted textures and colours, and resists what would spoil them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from planted_sphere import (
    SHARED_YAWS,
    disc_of,
    photograph,
    ring_of_cameras,
    skin_texture,
    sphere,
    symmetric_sphere,
)
from topohead.core import InputError, Topology, Views
from topohead.geometry.cameras import project
from topohead.losses.texture import psnr, seam_gradient_ratio
from topohead.rendering.uv import bake, texel_map
from topohead.solvers.fusion import FusionConfig, fuse_frames, fuse_texture, solve_colors
from topohead.solvers.kernels.completion import lend_mirrored
from topohead.solvers.sightlines import SightConfig, make_sights, make_surface, view_count

SIZE = 320
PLAIN = FusionConfig(match_colors=False)


@pytest.fixture(scope="module")
def scene() -> tuple[Topology, torch.Tensor, torch.Tensor, Views, torch.Tensor]:
    """Sphere, its true texture, six views of it, and the texels that two of them see well."""
    topology, vertices = sphere(rows=40, columns=80)
    truth = skin_texture(SIZE)
    cameras = ring_of_cameras(vertices, SHARED_YAWS)
    views = photograph(cameras, topology, vertices, truth)
    count = view_count(views, topology, vertices, texel_map(topology, SIZE))
    return topology, vertices, truth, views, torch.from_numpy(count >= 2)


def test_the_planted_texture_comes_back(scene) -> None:
    topology, vertices, truth, views, seen = scene
    assert 0.2 < seen.float().mean() < 0.6
    found = fuse_texture(views, topology, vertices, SIZE, PLAIN)
    blurred = fuse_texture(views, topology, vertices, SIZE, replace(PLAIN, sharpening=0.0))
    assert psnr(found.srgb, truth, seen) > 38
    assert psnr(found.srgb, truth, seen) > psnr(blurred.srgb, truth, seen) + 2
    assert (found.coverage[seen] >= 1).all()
    assert found.coverage.max() <= len(views.cameras) + 1e-3


def test_a_texel_holds_the_sharpened_sample_of_its_pixel(scene) -> None:
    """One view, no blending: pixels less a share of their second differences, then Keys' cubic."""
    topology, vertices, _, views, _ = scene
    one = Views("1", views.cameras.select(["camera2"]), (views.images[2],))
    size = 512  # texels smaller than pixels, so that the image is read as it is
    texture = fuse_texture(one, topology, vertices, size, replace(PLAIN, fill=False))
    points = bake(vertices, topology, size, dilation=False)
    rows, columns = torch.nonzero(texture.coverage >= 1).T
    chosen = torch.arange(100, len(rows), len(rows) // 40)
    rows, columns = rows[chosen], columns[chosen]
    pixels, _ = project(one.cameras, points[rows, columns].double())
    sharp = views.images[2].double().numpy()
    for axis in (0, 1):
        around = np.roll(sharp, 1, axis) + np.roll(sharp, -1, axis)
        sharp = sharp - PLAIN.sharpening * (around - 2 * sharp)
    for row, column, pixel in zip(rows, columns, pixels[0], strict=True):
        expected = _keys(sharp, *pixel.tolist())
        assert np.allclose(texture.srgb[row, column], expected.clip(0, 1), atol=2e-3)


def _keys(image: np.ndarray, u: float, v: float) -> np.ndarray:
    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    value = np.zeros(3)
    for row in range(math.floor(v - 0.5) - 1, math.floor(v - 0.5) + 3):
        for column in range(math.floor(u - 0.5) - 1, math.floor(u - 0.5) + 3):
            value += kernel(u - column - 0.5) * kernel(v - row - 0.5) * image[row, column]
    return value


def test_tiles_do_not_show(scene) -> None:
    topology, vertices, _, views, _ = scene
    whole = fuse_texture(views, topology, vertices, SIZE, PLAIN)
    pieces = fuse_texture(views, topology, vertices, SIZE, replace(PLAIN, stack_megabytes=5))
    assert torch.allclose(whole.srgb, pieces.srgb, atol=1e-5)
    assert torch.equal(whole.coverage, pieces.coverage)


def test_no_background_at_silhouettes(scene) -> None:
    topology, vertices, truth, _, _ = scene
    cameras = ring_of_cameras(vertices, SHARED_YAWS)
    green = photograph(cameras, topology, vertices, truth, background=(0.0, 1.0, 0.0))
    texture = fuse_texture(green, topology, vertices, SIZE, PLAIN)
    inside = torch.from_numpy(texel_map(topology, SIZE).inside)
    excess = (texture.srgb[..., 1] - texture.srgb[..., 0])[inside]
    true_excess = (truth[..., 1] - truth[..., 0])[inside]
    assert excess.max() < true_excess.max() + 0.03
    # the same pictures with a geometry half a millimetre too large must not bleed either
    swollen = fuse_texture(green, topology, vertices * 1.004, SIZE, PLAIN)
    excess = (swollen.srgb[..., 1] - swollen.srgb[..., 0])[inside]
    assert excess.max() < true_excess.max() + 0.1


def test_a_highlight_in_one_view_is_outvoted(scene) -> None:
    topology, vertices, truth, views, seen = scene
    images = list(views.images)
    blob = disc_of(views.cameras, 2, (0.5, 0.5), 14)
    images[2] = torch.where(blob[..., None], torch.ones(3), images[2])
    spoiled = replace(views, images=tuple(images))
    clean = psnr(fuse_texture(views, topology, vertices, SIZE, PLAIN).srgb, truth, seen)
    robust = psnr(fuse_texture(spoiled, topology, vertices, SIZE, PLAIN).srgb, truth, seen)
    gullible = replace(PLAIN, outlier_floor=10.0)
    naive = psnr(fuse_texture(spoiled, topology, vertices, SIZE, gullible).srgb, truth, seen)
    assert robust > clean - 0.5
    assert naive < clean - 5


def test_what_is_hidden_takes_no_colour_from_what_hides_it() -> None:
    topology, vertices = sphere(rows=40, columns=80)
    plate_uv = torch.tensor([[0.0, 0.0], [0.02, 0.0], [0.02, 0.02], [0.0, 0.02]])
    start, start_uv = len(vertices), len(topology.uv)
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    plate = 0.03 * corners + torch.tensor([0.0, 0.0, 0.13])
    index = torch.arange(4)[None]
    both = Topology(
        start + 4,
        torch.cat([topology.faces, index + start]),
        torch.cat([topology.uv, plate_uv]),
        torch.cat([topology.face_uv, index + start_uv]),
    )
    points = torch.cat([vertices, plate])
    truth = skin_texture(SIZE)
    truth[-8:, :8] = torch.tensor([0.0, 0.2, 1.0])
    views = photograph(ring_of_cameras(points, SHARED_YAWS), both, points, truth)
    texture = fuse_texture(views, both, points, SIZE, PLAIN)
    skin = torch.from_numpy(texel_map(both, SIZE).inside)
    skin[-14:, :14] = False
    blue = (texture.srgb[..., 2] - texture.srgb[..., 0])[skin]
    assert blue.max() < (truth[..., 2] - truth[..., 0])[skin].max() + 0.03
    assert psnr(texture.srgb, truth, skin & (texture.coverage > 1)) > 33


def test_a_globe_takes_no_colour_from_the_lid_that_lies_on_it() -> None:
    globe, inner = sphere(rows=40, columns=80)
    lid_faces = globe.faces[(inner[globe.faces][..., 1] > 0.03).all(1)]
    left, right = torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0])
    count = globe.vertex_count
    lid_rows = globe.face_uv[(inner[globe.faces][..., 1] > 0.03).all(1)]
    both = Topology(
        2 * count,
        torch.cat([globe.faces, lid_faces + count]),
        torch.cat([globe.uv * left, globe.uv * left + right]),
        torch.cat([globe.face_uv, lid_rows + len(globe.uv)]),
        regions={"eyes": torch.arange(count)},
    )
    points = torch.cat([inner, 1.008 * inner])  # 0.8 mm above, within the tolerance of depth
    truth = torch.full((SIZE, SIZE, 3), 0.8)
    truth[:, SIZE // 2 :] = torch.tensor([0.8, 0.2, 0.1])
    views = photograph(ring_of_cameras(points, SHARED_YAWS), both, points, truth)
    texture = fuse_texture(views, both, points, SIZE, PLAIN)
    inside = torch.from_numpy(texel_map(both, SIZE).inside)
    eye = inside.clone()
    eye[:, SIZE // 2 - 2 :] = False
    lid = inside & (texture.coverage > 0)
    lid[:, : SIZE // 2 + 2] = False
    # the step between the two is 0.7; at its edge a sharpened sample overshoots by a seventh
    assert (texture.coverage > 0)[eye].float().mean() > 0.2
    assert (texture.srgb - truth)[eye].abs().max() < 0.12
    assert lid.sum() > 1000
    assert (texture.srgb - truth)[lid].abs().max() < 0.12


def test_the_line_between_closed_lips_stays_dark(scene) -> None:
    topology, vertices, _, views, _ = scene
    lips = torch.nonzero(vertices[:, 2] > 0.09)[:, 0]
    lipped = replace(topology, regions={"lips": lips})
    hidden = bake((vertices[:, 2:] > 0.085).float(), topology, SIZE)[..., 0] > 0
    bare = fuse_texture(views, topology, vertices, SIZE, PLAIN, exclude=hidden)
    texture = fuse_texture(views, lipped, vertices, SIZE, PLAIN, exclude=hidden)
    inner = bake((vertices[:, 2:] > 0.095).float(), topology, SIZE, False)[..., 0] >= 0.999
    assert texture.srgb[inner].mean() < 0.6 * bare.srgb[inner].mean()


def test_planted_camera_colours_are_found(scene) -> None:
    topology, vertices, _, views, seen = scene
    generator = torch.Generator().manual_seed(1)
    spoiled = []
    for image in views.images:
        gain = 1 + 0.06 * torch.randn(3, generator=generator)
        mixing = torch.diag(gain) + 0.02 * torch.randn(3, 3, generator=generator)
        height, width = image.shape[:2]
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        radius = (x**2 * width**2 + y**2 * height**2) / (width**2 + height**2)
        falloff = 1 - (0.1 + 0.1 * torch.rand(1, generator=generator)) * radius
        spoiled.append((image @ mixing.T * falloff[..., None] + 0.01).clamp(0, 1))
    seen_spoiled = replace(views, images=tuple(spoiled))
    colors = solve_colors(seen_spoiled, topology, vertices)
    assert torch.allclose(colors.matrix.mean(0), torch.eye(3, 4), atol=0.1)

    def disagreement(images: tuple[torch.Tensor, ...]) -> float:
        """Spread of the colours that views give the same texel, after one common gain."""
        single = []
        for index, name in enumerate(views.cameras.names):
            one = Views("1", views.cameras.select([name]), (images[index],))
            single.append(fuse_texture(one, topology, vertices, SIZE, replace(PLAIN, fill=False)))
        stack = torch.stack([texture.srgb for texture in single])
        covered = torch.stack([texture.coverage > 0 for texture in single])[..., None]
        mean = (stack * covered).sum(0) / covered.sum(0).clamp(min=1)
        square = ((stack - mean) * covered).square().sum(0)[seen]
        return float((square.sum() / covered.sum(0)[seen].sum() / 3).sqrt())

    corrected = tuple(
        colors.correct(image, name)
        for image, name in zip(spoiled, views.cameras.names, strict=True)
    )
    before, after = disagreement(tuple(spoiled)), disagreement(corrected)
    floor = disagreement(views.images)
    assert before > 3 * floor
    assert after < floor + 0.15 * (before - floor)


def test_colours_that_agree_stay_as_they_are(scene) -> None:
    topology, vertices, _, views, _ = scene
    colors = solve_colors(views, topology, vertices)
    image = views.images[0]
    assert torch.allclose(colors.correct(image, "camera0"), image, atol=0.01)


def test_a_blurred_view_loses_its_say(scene) -> None:
    topology, vertices, truth, views, seen = scene
    blurred = list(views.images)
    kernel = torch.ones(3, 1, 7, 7) / 49
    for index in (1, 3):
        picture = blurred[index].permute(2, 0, 1)[None]
        soft = torch.nn.functional.conv2d(picture, kernel, padding=3, groups=3)
        blurred[index] = soft[0].permute(1, 2, 0)
    soft_views = replace(views, images=tuple(blurred))
    surface = make_surface(topology, vertices)
    sights = make_sights(soft_views, surface, 1e-4, SightConfig())
    focal = [float(sight.camera[12] * sight.camera[13]) for sight in sights]
    say = [float(sight.camera[21]) / f for sight, f in zip(sights, focal, strict=True)]
    assert max(say[1], say[3]) < 0.25 * min(say[i] for i in (0, 2, 4, 5))
    texture = fuse_texture(soft_views, topology, vertices, SIZE, PLAIN)
    assert psnr(texture.srgb, truth, seen) > 42


def test_the_unseen_side_is_lent_by_the_other() -> None:
    topology, vertices = symmetric_sphere()
    truth = skin_texture(SIZE, symmetric=True)
    cameras = ring_of_cameras(vertices, [math.radians(a) for a in (60, 90, 120)])
    views = photograph(cameras, topology, vertices, truth)
    texture = fuse_texture(views, topology, vertices, SIZE, PLAIN)
    positions = bake(vertices, topology, SIZE, dilation=False)
    flipped = torch.flip(texture.coverage, (1,))
    hidden = (texture.coverage == 0) & (flipped > 1) & (positions[..., 0] < -0.02)
    assert hidden.sum() > 2000
    assert psnr(texture.srgb, truth, hidden) > 30
    lonely = replace(topology, mirror=None)
    smooth = fuse_texture(views, lonely, vertices, SIZE, PLAIN)
    assert psnr(smooth.srgb, truth, hidden) < psnr(texture.srgb, truth, hidden) - 6


def test_mirrored_texels_are_looked_up_across_the_head() -> None:
    topology, vertices = symmetric_sphere()
    texels = texel_map(topology, 256)
    positions = bake(vertices, topology, 256).numpy()
    known = np.full((256, 256), 0.5, np.float32)
    wanted = np.flatnonzero(texels.inside)
    lent = lend_mirrored(
        wanted, texels.triangle, texels.corners, texels.mirrored_corners, positions, known
    )
    # a bilinear sample near the seam at the back reaches into the dilated border
    flipped = positions.reshape(-1, 3)[wanted] * np.array([-1, 1, 1])
    assert np.abs(lent[:, :3] - flipped).max() < 2e-3
    assert np.allclose(lent[:, 3], 0.5)


def test_unseen_skin_is_filled_across_the_seam_without_a_step(scene) -> None:
    topology, vertices, _, views, _ = scene
    texture = fuse_texture(views, topology, vertices, SIZE, PLAIN)
    # the seam is at the back, where no camera looks: the filling must be smooth over it
    assert seam_gradient_ratio(texture.srgb, topology) < 2.0
    inside = torch.from_numpy(texel_map(topology, SIZE).inside)
    assert texture.srgb[inside].amin() > 0.1
    given = torch.full((SIZE, SIZE, 3), 0.5)
    given[..., 2] = 0.9
    skinned = fuse_texture(views, topology, vertices, SIZE, PLAIN, skin=given)
    assert (skinned.srgb - texture.srgb)[inside & (texture.coverage == 0)].abs().max() > 0.1


def test_parts_do_not_lend_each_other_colours(scene) -> None:
    topology, vertices, _, views, _ = scene
    around = torch.nonzero(vertices[:, 2] > 0.09)[:, 0]
    parted = replace(topology, regions={"mouth_interior": around})
    blank = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mouth = bake((vertices[:, 2:] > 0.088).float(), topology, SIZE)[..., 0] > 0
    blank |= mouth
    texture = fuse_texture(views, parted, vertices, SIZE, PLAIN, exclude=blank)
    inner = bake((vertices[:, 2:] > 0.09).float(), topology, SIZE, False)[..., 0] >= 0.999
    assert inner.sum() > 200
    dark = torch.tensor([0.30, 0.13, 0.12])
    assert (texture.coverage[inner] == 0).all()
    assert torch.allclose(texture.srgb[inner], dark.expand(int(inner.sum()), 3), atol=0.02)


def test_frames_are_merged_and_a_blink_is_outvoted(scene) -> None:
    topology, vertices, truth, views, seen = scene
    blinked = tuple(
        torch.where(disc_of(views.cameras, index, (0.5, 0.5), 16)[..., None], 0.1, image)
        for index, image in enumerate(views.images)
    )
    frames = [(views, vertices), (replace(views, images=blinked), vertices), (views, vertices)]
    texture = fuse_frames(frames, topology, SIZE, PLAIN)
    single = fuse_texture(views, topology, vertices, SIZE, PLAIN)
    waited = (
        255 * single.srgb
    ).round() / 255  # frames are kept as 8-bit codes until they are merged
    assert psnr(texture.srgb, truth, seen) > psnr(waited, truth, seen) - 0.1
    assert texture.coverage.max() > single.coverage.max()


def test_masks_keep_out_what_they_exclude(scene) -> None:
    topology, vertices, _, views, _ = scene
    hand = [disc_of(views.cameras, i, (0.4, 0.5), 30) for i in range(len(views.cameras))]
    images = tuple(
        torch.where(h[..., None], torch.tensor([0.0, 0.0, 1.0]), image)
        for h, image in zip(hand, views.images, strict=True)
    )
    masks = tuple((~h).float() for h in hand)
    covered = replace(views, images=images, masks=masks)
    texture = fuse_texture(covered, topology, vertices, SIZE, PLAIN)
    inside = torch.from_numpy(texel_map(topology, SIZE).inside)
    assert (texture.srgb[..., 2] - texture.srgb[..., 0])[inside].max() < 0.25


def test_results_repeat_bit_for_bit(scene) -> None:
    topology, vertices, _, views, _ = scene
    first = fuse_texture(views, topology, vertices, 128)
    again = fuse_texture(views, topology, vertices, 128)
    assert torch.equal(first.srgb, again.srgb)


def test_bad_input_is_named(scene) -> None:
    topology, vertices, _, views, _ = scene
    with pytest.raises(InputError, match="multiple of 16"):
        fuse_texture(views, topology, vertices, 100)
    with pytest.raises(InputError, match="units"):
        fuse_texture(views, topology, vertices + 100.0, 64)
    broken = vertices.clone()
    broken[7] = torch.nan
    with pytest.raises(InputError, match="vertex 7"):
        fuse_texture(views, topology, broken, 64)
    with pytest.raises(InputError, match="at least one frame"):
        fuse_frames([], topology, 64)
