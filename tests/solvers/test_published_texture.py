"""The dense texture stage on a textured egg of known texture."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from egg_head import egg_head, ring
from planted_sphere import photograph, skin_texture
from topohead.core import InputError, Mesh
from topohead.solvers import published, published_texture
from topohead.solvers.published_texture import PublishedTextureConfig

CONFIG = PublishedTextureConfig(gaussians=16_000, steps=150, size=256)


def psnr(a, b):
    return -10 * torch.log10((a - b).square().mean())


@pytest.fixture(scope="module")
def subject():
    head = egg_head()
    mesh = Mesh(head.topology, head.template.double())
    texture = skin_texture(512)
    views = photograph(ring(), mesh.topology, mesh.vertices, texture)
    scene = published.make_scene(mesh, published.PublishedConfig(first_steps=0))
    state = published.learn_first_frame(views, scene)
    truth = avg_pool2d(texture.permute(2, 0, 1), 2).permute(1, 2, 0)
    return views, scene, state, truth


def check(subject, device, least):
    views, scene, state, truth = subject
    layout = published_texture.make_layout(scene, CONFIG, torch.device(device))
    before = published_texture.densify(state, layout.grid)[3]
    colors = published_texture.fit_colors(views.to(device), scene, state, layout, CONFIG)
    found = {}
    for name, values in (("before", before), ("after", colors)):
        texture, is_drawn = published_texture.draw_texture(values, layout)
        # away from the border, where masks hide a pixel
        inner = 1 - torch.nn.functional.max_pool2d(1 - is_drawn.float()[None], 9, 1, 4)[0] > 0
        found[name] = psnr(texture[inner].cpu(), truth[inner.cpu()]).item()
    assert inner.sum() > 2000
    assert found["after"] > least and found["after"] > found["before"] + 1.5
    return colors


def test_fitted_texture_is_near_the_truth(subject):
    """36.5 dB are reached, from 30.3 of the vertices' colours alone."""
    check(subject, "cpu", 35.0)


@pytest.mark.gpu
def test_fitted_texture_on_the_device(subject):
    """As near to the truth, and near to what the CPU fits with the same views in the same order."""
    there = check(subject, "cuda", 35.0).cpu()
    views, scene, state, _ = subject
    layout = published_texture.make_layout(scene, CONFIG, torch.device("cpu"))
    here = published_texture.fit_colors(views, scene, state, layout, CONFIG)
    assert (here - there).abs().median() < 0.01


def test_texels_show_their_place_on_the_faces(subject):
    """Colours that tell the Gaussians' UV places come out at those places, black elsewhere."""
    _, scene, _, _ = subject
    layout = published_texture.make_layout(scene, CONFIG, torch.device("cpu"))
    topology = scene.mesh.topology
    cut = torch.from_numpy(scene.is_face)[topology.faces].all(1)
    places = layout.grid.interpolate(topology.uv[topology.face_uv[cut]].float())
    texture, is_drawn = published_texture.draw_texture(
        torch.cat([places, places[:, :1]], 1), layout
    )
    centre = (torch.arange(256) + 0.5) / 256
    v, u = torch.meshgrid(1 - centre, centre, indexing="ij")
    error = (texture[..., :2] - torch.stack([u, v], -1)).abs().amax(-1)
    assert error[is_drawn].max() < 1e-5
    assert texture[~is_drawn].max() == 0 and 0.1 < is_drawn.float().mean() < 0.5


def test_what_no_view_sees_takes_the_last_frame_s_colour(subject):
    views, scene, state, _ = subject
    config = replace(CONFIG, gaussians=2500, steps=40, size=64)
    layout = published_texture.make_layout(scene, config, torch.device("cpu"))
    unseen = replace(views, masks=tuple(torch.zeros(i.shape[:2]) for i in views.images))
    start = published_texture.densify(state, layout.grid)[3]
    last = start + 0.05
    kept = published_texture.fit_colors(unseen, scene, state, layout, config)
    torch.testing.assert_close(kept, start)
    drawn_near = published_texture.fit_colors(unseen, scene, state, layout, config, last)
    assert (drawn_near - last).abs().max() < 0.01
    # where pictures speak, they outweigh it: two per cent of an L1
    alone = published_texture.fit_colors(views, scene, state, layout, config)
    both = published_texture.fit_colors(views, scene, state, layout, config, last)
    assert (both - alone).abs().median() < 0.02


def test_the_cpu_refuses_millions(subject):
    _, scene, _, _ = subject
    with pytest.raises(InputError, match=r"expected a CUDA device for .* Gaussians"):
        published_texture.make_layout(
            scene, replace(CONFIG, gaussians=6_000_000), torch.device("cpu")
        )
