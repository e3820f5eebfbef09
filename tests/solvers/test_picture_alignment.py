"""Pictures of one head that is not quite where they are said to show it."""

from dataclasses import replace

import pytest
import torch

from posed_person import around, drawn, turned
from topohead.core import PosedViews
from topohead.io.assets import reference_head
from topohead.solvers.picture_alignment import aligned_vertices, vertex_sight

EDGE, YAWS = 112, (0.0, 25.0, -20.0)


def freckled(vertices: torch.Tensor) -> torch.Tensor:
    """Vertex colours with structure of a centimetre."""
    waves = (
        2
        * torch.pi
        / 0.012
        * torch.nn.functional.normalize(
            torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=1
        )
    )
    return (0.5 + 0.12 * torch.sin(vertices @ waves.T).sum(1, keepdim=True)).expand(-1, 3)


def planted(vertices: torch.Tensor, amount: float) -> torch.Tensor:
    """A brow, a cheek, a chin each elsewhere, by about so many metres."""
    generator = torch.Generator().manual_seed(4)
    at = vertices[torch.randint(len(vertices), (40,), generator=generator)]
    way = torch.randn(40, 3, generator=generator)
    field = torch.exp(-(torch.cdist(vertices, at) / 0.05).square() / 2) @ way
    return amount * field / field.square().sum(1).mean().sqrt()


@pytest.fixture(scope="module")
def mistaken() -> tuple[PosedViews, torch.Tensor]:
    """Three instants of one picture each; the second shows a head that is bent. Metres of it."""
    head = reference_head(0)
    rest, colors = head.template, freckled(head.template)
    poses = torch.stack([torch.eye(4).double(), turned(3.0), turned(-3.0)])
    vertices = torch.stack([rest.double() @ pose[:3, :3].T for pose in poses]).float()
    bent = torch.stack([torch.zeros_like(rest), planted(rest, 0.004), torch.zeros_like(rest)])
    cameras = around(rest, YAWS, EDGE)
    views = tuple(
        drawn(f"{t}", vertices[t] + bent[t], head.topology, colors, cameras.select([f"cam{t}"]))
        for t in range(3)
    )
    weights, gaze = torch.zeros(3, 52), torch.zeros(3, 2, 2)
    posed = PosedViews(head.topology, views, vertices, weights, gaze, poses, torch.eye(4), 25.0)
    return posed, bent


def apart(posed: PosedViews, offsets: torch.Tensor) -> float:
    """Root mean square in pixels by which pictures put the same skin apart in height."""
    found = []
    seen = torch.stack([vertex_sight(posed, posed.vertices[t], t, 0) for t in range(3)])
    scale = posed.views[0].cameras.intrinsics[0, 1, 1] / 0.7
    for a, b in ((0, 1), (1, 2)):
        both = (seen[a] > 0.1) & (seen[b] > 0.1)
        found.append((offsets[a] - offsets[b])[both, 1] * scale)
    return float(torch.cat(found).square().mean().sqrt())


def test_pictures_that_disagree_meet(mistaken: tuple[PosedViews, torch.Tensor]) -> None:
    posed, bent = mistaken
    found = aligned_vertices(posed) - posed.vertices
    before, after = apart(posed, -bent), apart(posed, found - bent)
    assert before > 1 and after < 0.5 * before


def test_light_and_exposure_are_no_motion(mistaken: tuple[PosedViews, torch.Tensor]) -> None:
    posed, _ = mistaken
    head = reference_head(0)
    gains = (1.0, 0.6, 0.8)
    views = tuple(
        drawn(v.frame, w, head.topology, gain * freckled(head.template), v.cameras)
        for v, w, gain in zip(posed.views, posed.vertices, gains, strict=True)
    )
    found = aligned_vertices(replace(posed, views=views)) - posed.vertices
    seen = vertex_sight(posed, posed.vertices[0], 0, 0) > 0.1
    assert float(found[0, seen].norm(dim=1).median()) < 0.0004  # a fifth of a pixel
