"""Random portraits: pure draws, light of panoramas, things worn, the way through the renderer."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from topohead.core import InputError
from topohead.io.assets import reference_head
from topohead.io.panoramas import read_panorama
from topohead.models.linear import LinearHead
from topohead.rendering.portrait_light import harmonics, sphere
from topohead.rendering.portraits import LABELS, TexturePool, portrait_points
from topohead.synthesis.backdrops import panorama_backdrop, picture_backdrops, procedural_backdrops
from topohead.synthesis.occluders import Wardrobe, draw_outfits
from topohead.synthesis.portrait_lights import (
    irradiance,
    panorama_directions,
    panorama_light,
    random_lights,
    turned,
)
from topohead.synthesis.portraits import PortraitScenes, PortraitSettings

SIZE = (96, 96)


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return reference_head(0)


@pytest.fixture(scope="module")
def source(head: LinearHead) -> PortraitScenes:
    return PortraitScenes.of(head.topology, SIZE, backdrops=procedural_backdrops(700, 4, 32))


def tensors(batch: object) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def test_a_scene_depends_on_its_seed_and_index_alone(source: PortraitScenes) -> None:
    several, alone = source.draw(700, [3, 9, 4]), source.draw(700, [9])
    other = source.draw(701, [9])
    for name, values in tensors(several).items():
        assert torch.equal(values[1], getattr(alone, name)[0]), name
    assert not torch.equal(alone.world_to_camera, other.world_to_camera)
    assert not torch.equal(alone.sky, other.sky)
    first, second = draw_outfits(700, [3, 9]), draw_outfits(700, [9])
    assert torch.equal(first.shirt[1], second.shirt[0])


def test_cameras_keep_to_their_settings_and_see_the_head(
    head: LinearHead, source: PortraitScenes
) -> None:
    scenes = source.draw(702, list(range(40)))
    view = 2 * torch.atan(SIZE[0] / 2 / scenes.intrinsics[:, 0, 0]).rad2deg()
    assert view.min() > 15
    assert view.max() < 60
    eye = -(scenes.world_to_camera[:, :3, :3].transpose(1, 2) @ scenes.world_to_camera[:, :3, 3:])
    yaw = torch.atan2(eye[:, 0, 0], eye[:, 2, 0] + 0.05).rad2deg()
    assert 30 < yaw.abs().max() < 61
    vertices = head.template.expand(40, -1, -1).contiguous()
    outfits = draw_outfits(702, list(range(40)))
    heads = source.dress(vertices, torch.zeros(40).long(), None, outfits)
    pixels, _ = portrait_points(source.mesh, heads, scenes, SIZE)
    face = pixels[:, head.topology.regions["face"]].mean(1)
    assert ((face > 10) & (face < 86)).all()


def test_a_sun_is_found_and_no_light_is_lost() -> None:
    ways = panorama_directions(64, 128)
    sun = torch.nn.functional.normalize(torch.tensor([0.5, 0.6, 0.4]).double(), dim=0)
    panorama = (0.3 + 0.1 * ways[..., 1:2]).expand(64, 128, 3).clone()
    panorama[(ways @ sun) > math.cos(math.radians(5))] += torch.tensor([60.0, 50, 40]).double()
    sky, lamps = panorama_light(panorama)
    assert int((lamps[:, 3] > 0).sum()) == 1
    place = lamps[0, :3] / lamps[0, :3].norm()
    assert float(place @ sun.float()) > math.cos(math.radians(1.5))
    solid = (math.pi / 64) ** 2 * (1 - ways[..., 1] ** 2).sqrt()[..., None]
    for normal in (sun, torch.tensor([0.0, 0, 1]).double()):
        exact = (panorama * (ways @ normal).clamp(min=0)[..., None] * solid).sum((0, 1))
        assert torch.allclose(
            irradiance(sky, lamps, normal.float()[None])[0], exact.float(), rtol=0.03
        )


def test_an_even_panorama_gives_an_even_sky_without_lamps() -> None:
    sky, lamps = panorama_light(torch.full((32, 64, 3), 0.7))
    assert (lamps[:, 3] == 0).all()
    radiance = harmonics(sphere(50)).float() @ sky
    assert torch.allclose(radiance, torch.full_like(radiance, 0.7), atol=2e-3)


def test_light_turns_with_its_lamps() -> None:
    sky, lamps = (torch.from_numpy(x[0]).float() for x in random_lights(703, np.array([0])))
    there, moved = turned(sky, lamps, math.pi / 2)
    for normal, after in (([0, 0, 1.0], [1.0, 0, 0]), ([1.0, 0, 0], [0, 0, -1.0])):
        before = irradiance(sky, lamps, torch.tensor([normal]))
        assert torch.allclose(before, irradiance(there, moved, torch.tensor([after])), atol=1e-4)


def test_panoramas_are_read_and_refused(shared_data: Path, tmp_path: Path) -> None:
    panorama = read_panorama(shared_data / "hdri" / "spruit_sunrise.hdr")
    assert panorama.shape[1] == 2 * panorama.shape[0]
    assert panorama_backdrop(panorama.float(), 0.5, 0.02, 32).shape == (32, 32, 3)
    (tmp_path / "no.hdr").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a Radiance picture"):
        read_panorama(tmp_path / "no.hdr")
    with pytest.raises(InputError, match="holds no picture"):
        picture_backdrops(tmp_path)


def test_what_is_worn_fits_the_head(head: LinearHead) -> None:
    wardrobe = Wardrobe(head.topology)
    generator = torch.Generator().manual_seed(704)
    identity = 0.7 * torch.randn(6, len(head.identity_basis), generator=generator)
    vertices = head.vertices(identity, torch.zeros(6, 52))
    outfits = draw_outfits(704, list(range(6)))
    all_worn = torch.ones_like(outfits.worn)
    worn, tint = wardrobe.wear(
        vertices, outfits.__class__(all_worn, *list(vars(outfits).values())[1:])
    )
    assert worn.isfinite().all()
    assert int(wardrobe.triangles.max()) == worn.shape[1] - 1
    assert tint.shape[:2] == worn.shape[:2]
    shirt, *_, dome, visor = worn.split(wardrobe.sizes, 1)
    skull = vertices[:, head.topology.regions["rigid"]]
    assert (dome.amax(1)[:, 1] > skull.amax(1)[:, 1]).all()  # the cap is above the crown
    nose = vertices[:, head.topology.regions["nose"]].amax(1)[:, 2]
    rims = worn.split(wardrobe.sizes, 1)[1:3]
    eyes = vertices[:, head.topology.regions["eyes"]]
    for rim in rims:
        assert (rim.mean(1)[:, 2] > eyes.amax(1)[:, 2]).all()  # before the eye, not beyond the nose
        assert (rim.mean(1)[:, 2] < nose).all()
    assert (visor.amax(1)[:, 2] > nose).all()
    assert (shirt.amax(1)[:, 0] - shirt.amin(1)[:, 0] > 0.35).all()
    none = outfits.__class__(~all_worn, *list(vars(outfits).values())[1:])
    absent, _ = wardrobe.wear(vertices, none)
    assert (absent == absent[:, :1]).all()


def test_a_batch_of_people_is_drawn(head: LinearHead, source: PortraitScenes) -> None:
    indices = [0, 1, 2]
    scenes, outfits = source.draw(705, indices), draw_outfits(705, indices)
    vertices = head.template.expand(3, -1, -1).contiguous()
    gray = torch.full((1, 8, 8), 0.35)
    pool = TexturePool.of(torch.full((1, 8, 8, 3), 0.5), gray, gray)
    drawn = source.render(
        scenes, source.dress(vertices, torch.zeros(3).long(), None, outfits), pool
    )
    skin = drawn.label == LABELS.index("skin")
    assert (skin.flatten(1).float().mean(1) > 0.05).all()
    brightness = torch.stack([drawn.srgb[i][skin[i]].mean() for i in range(3)])
    assert (brightness > 0.2).all()  # exposed for the head
    assert (brightness < 0.95).all()
    assert drawn.codes.dtype == torch.uint8


def test_settings_can_look_from_all_round(head: LinearHead) -> None:
    settings = PortraitSettings(yaw=180.0)
    pool = procedural_backdrops(700, 1, 8)
    source = PortraitScenes.of(head.topology, SIZE, settings, dressed=False, backdrops=pool)
    behind = source.draw(706, list(range(24))).world_to_camera[:, 2, 2] > 0.5
    assert 2 < int(behind.sum()) < 18
