"""An avatar in the page against `avatar animate`'s renderer: the same weights, the same pixels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shown_page import PAGE, Shown
from test_page_bundle import settled

from topohead.core import ARKIT_52
from topohead.core.splats import BoundSplats
from topohead.geometry.avatars import Avatar, ExpressionChange
from topohead.geometry.skinning import rigged
from topohead.geometry.surface_cells import cell_gaussians, surface_cells
from topohead.io.assets import reference_head
from topohead.io.expressions import gaze_of_looks
from topohead.rendering.avatars import Player
from topohead.viewer.pages import offline_html
from topohead.viewer.scenes import open_scene
from topohead.viewer.server import SceneServer
from topohead.workflows.avatars.fitting import write_bundle

RANKS = 3
STATES = {
    "smile": {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.7, "jawOpen": 0.4},
    "look": {"eyeLookOutLeft": 0.9, "eyeLookInRight": 0.8, "eyeLookUpLeft": 0.5},
}


def painted_avatar(degree: int = 1, count: int = 12_000) -> Avatar:
    """The reference head in smooth paint that expression changes in hue and place."""
    head = reference_head(0)
    rig = rigged(head.topology, head.template, head.expression_basis, torch.eye(4))
    cells = surface_cells(head.template, head.topology.triangles, count)
    corners = head.template[head.topology.triangles[cells.triangles]]
    place = (cells.centers[:, :, None] * corners).sum(1) * 10
    x, y, z = place.unbind(1)
    harmonics = torch.zeros(count, (degree + 1) ** 2, 3)
    harmonics[:, 0] = torch.stack([x, y, z], 1).sin()
    harmonics[:, 1:] = 0.3 * (place[:, None] + torch.arange(harmonics.shape[1] - 1)[:, None]).cos()
    binding = cell_gaussians(cells)
    splats = BoundSplats(binding, torch.full((count,), 0.9), harmonics)
    axes = torch.zeros(52, RANKS)
    for rank, name in enumerate(("mouthSmileLeft", "jawOpen", "eyeLookOutLeft")):
        axes[ARKIT_52.index(name), rank] = 2.0
    colors = torch.stack([1.2 * (place + k).sin().roll(k, 1) for k in range(RANKS)], 1)
    offsets = torch.zeros(count, RANKS, 3)
    offsets[..., 2] = 0.4 * torch.stack([(2 * y + k).sin() for k in range(RANKS)], 1)
    low, high = -torch.ones(RANKS), 1.5 * torch.ones(RANKS)
    change = ExpressionChange(torch.full((52,), 0.01), axes, low, high, colors, offsets)
    return Avatar(rig, splats, change)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return painted_avatar()


@pytest.fixture(scope="module")
def bundle(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "avatar.glb"
    write_bundle(path, avatar)
    return path


@pytest.fixture(scope="module")
def page(browser: Any, bundle: Path) -> Iterator[Shown]:
    assert PAGE is not None
    server = SceneServer(open_scene(bundle), PAGE)
    page = Shown(browser, server.url)
    yield page
    page.page.close()
    server.close()
    assert not page.errors


def weights_of(actions: dict[str, float]) -> torch.Tensor:
    weights = torch.zeros(52)
    for name, value in actions.items():
        weights[ARKIT_52.index(name)] = value
    return weights


def shown_picture(page: Shown, weights: torch.Tensor, turn: float = 0.0) -> np.ndarray:
    """What the page draws, premultiplied [H W 4] in [0, 1]; `turn` is the head's to its left."""
    page.run(
        f"""const turn = viewer.subject.head.quaternion.clone();
        turn.set(0, {np.sin(turn / 2)}, 0, {np.cos(turn / 2)});
        viewer.subject.pose({{ weights: {weights.tolist()}, turn }})"""
    )
    picture = settled(page) / 255
    return np.concatenate([picture[..., :3] * picture[..., 3:], picture[..., 3:]], -1)


def seen_by(page: Shown, avatar: Avatar, weights: torch.Tensor, turn: float = 0.0) -> np.ndarray:
    """What our renderer draws with the page's own camera."""
    told = page.run(
        """const { camera, canvas } = viewer.stage;
        return [camera.matrixWorldInverse.elements, camera.projectionMatrix.elements,
        [canvas.width, canvas.height]]"""
    )
    flip = np.diag([1.0, -1, -1, 1])
    pose = flip @ np.array(told[0]).reshape(4, 4).T
    p, (width, height) = np.array(told[1]).reshape(4, 4).T, told[2]
    # a pinhole's pixels from OpenGL's clip coordinates
    lens = np.array(
        [
            [0.5 * width * p[0, 0], 0, 0.5 * width * (1 - p[0, 2])],
            [0, 0.5 * height * p[1, 1], 0.5 * height * (1 + p[1, 2])],
            [0, 0, 1],
        ]
    )
    head = torch.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    head[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    head[:3, 3] = avatar.rig.head - head[:3, :3] @ avatar.rig.head.float()
    image, alpha = Player(avatar).draw(
        weights, gaze_of_looks(weights[None])[0], head, torch.from_numpy(pose)[None].float(),
        torch.from_numpy(lens)[None].float(), (width, height),
    )  # fmt: skip
    return np.concatenate([image[0].clamp(0, 1).numpy(), alpha[0][..., None].numpy()], -1)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(one - other).mean()))


@pytest.mark.parametrize("state", STATES)
def test_the_page_draws_what_animate_draws(page: Shown, avatar: Avatar, state: str) -> None:
    weights, turn = weights_of(STATES[state]), 0.3 if state == "smile" else 0.0
    found = shown_picture(page, weights, turn)
    told = seen_by(page, avatar, weights, turn)
    assert (told[..., 3] > 0.9).mean() > 0.05
    assert psnr(found, told) > 40
    none = torch.zeros_like(avatar.change.colors)
    for name in ("colors", "offsets"):  # each is seen
        part = Avatar(avatar.rig, avatar.splats, replace(avatar.change, **{name: none}))
        assert psnr(found, seen_by(page, part, weights, turn)) < 35, name


def test_told_eyes_look_elsewhere_than_weights_say(page: Shown, avatar: Avatar) -> None:
    """A phone tells the gaze beside the weights; `animate` believes it, and so does the page."""
    weights = weights_of({"eyeLookDownLeft": 0.5})
    gaze = torch.tensor([[0.3, 0.25], [-0.4, 0.1]])
    page.run(
        f"""viewer.subject.pose({{ weights: {weights.tolist()},
        gaze: {gaze.flatten().tolist()} }}); viewer.stage.draw()"""
    )
    words = page.run(
        """const { posed } = viewer.subject, { width, height } = posed.target;
        const words = new Uint32Array(4 * width * height);
        viewer.stage.renderer.readRenderTargetPixels(posed.target, 0, 0, width, height, words);
        const source = viewer.subject.meshes[0].geometry.attributes._source_vertex;
        return [Array.from(words.subarray(0, 4 * source.count)), Array.from(source.array)]"""
    )
    found = np.array(words[0], np.uint32).view(np.float32).reshape(-1, 4)[:, :3]
    head = torch.eye(4)[None]
    told, straight = (
        avatar.vertices(weights[None], way[None], head)[0].numpy()[np.array(words[1], int)]
        for way in (gaze, gaze_of_looks(weights[None])[0])
    )
    assert np.abs(found - told).max() < 3e-6
    assert np.abs(found - straight).max() > 2e-3


@pytest.mark.slow
def test_one_file_draws_the_same(page: Shown, browser: Any, bundle: Path, tmp_path: Path) -> None:
    assert PAGE is not None
    file = tmp_path / "avatar.html"
    file.write_text(offline_html(PAGE, open_scene(bundle), 1), encoding="utf-8")
    shown = Shown(browser, file.as_uri())
    weights = weights_of(STATES["smile"])
    assert np.abs(shown_picture(shown, weights) - shown_picture(page, weights)).max() < 0.02
    shown.page.close()
    assert not shown.errors


def test_a_recording_tells_the_gaze(page: Shown) -> None:
    """Live Link's eye columns, which count the other way round; none where they are all zero."""
    columns = ["Timecode", *ARKIT_52, "LeftEyeYaw", "LeftEyePitch", "RightEyeYaw", "RightEyePitch"]

    def text(eyes: list[float]) -> str:
        cells = ["00:00:01:00", *("0" for _ in ARKIT_52), *map(str, eyes)]
        return ",".join(columns) + "\n" + ",".join(cells)

    for eyes, told in (([0.1, -0.2, 0.3, 0.0], [-0.1, 0.2, -0.3, 0.0]), ([0.0] * 4, None)):
        page.page.evaluate(
            """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "face.csv"));
            window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
            }""",
            text(eyes),
        )
        page.until(
            f"JSON.stringify(viewer.subject.recording?.gazes) === "
            f"JSON.stringify({'null' if told is None else [told]})"
        )
        assert page.run("return viewer.subject.gaze") == told
