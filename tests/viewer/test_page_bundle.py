"""Gaussians that a mesh carries, in the page: sliders, frames, the socket, and what is refused."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation
from shown_page import LOCAL, PAGE, Shown
from shown_things import RATE, write_shown_rig, write_shown_run
from test_drive import knock, masked

from topohead import cli
from topohead.core import ARKIT_52, InputError
from topohead.core.splats import BoundSplats
from topohead.geometry.skinning import RigPerformance, rigged
from topohead.geometry.surface_cells import cell_gaussians, surface_cells
from topohead.io.assets import reference_head
from topohead.io.gltf_rig import write_rig_glb
from topohead.rendering.harmonics import shaded
from topohead.viewer.pages import offline_html
from topohead.viewer.scenes import open_scene
from topohead.viewer.server import SceneServer
from topohead.workflows.export import ExportConfig, export

GOLDEN = Path(__file__).parent / "golden" / "bundle.png"
GAUSSIANS = 12_000


def write_bundle(path: Path, harmonics: torch.Tensor | None = None) -> Path:
    """The reference head under Gaussians coloured by where they are; it turns in 4 frames.

    Given harmonics [K 3] are all of theirs instead.
    """
    head = reference_head(0)
    rig = rigged(head.topology, head.template, head.expression_basis, torch.eye(4))
    cells = surface_cells(head.template, head.topology.triangles, GAUSSIANS)
    corners = head.template[head.topology.triangles[cells.triangles]]
    place = (cells.centers[:, :, None] * corners).sum(1)
    low, high = place.amin(0), place.amax(0)
    colors = 0.15 + 0.7 * (place - low) / (high - low)
    mouth = head.topology.triangle_mask("mouth_interior")
    colors[mouth[cells.triangles]] = torch.tensor([0.3, 0.0, 0.0])
    shades = ((colors - 0.5) / 0.28209479177387814)[:, None]
    if harmonics is not None:
        shades = harmonics.expand(len(colors), -1, -1)
    splats = BoundSplats(cell_gaussians(cells), torch.full((GAUSSIANS,), 0.97), shades)
    poses = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    for t in range(4):
        angle = torch.tensor(0.2 * t, dtype=torch.float64)
        poses[t, 0, 0] = poses[t, 2, 2] = angle.cos()
        poses[t, 0, 2], poses[t, 2, 0] = angle.sin(), -angle.sin()
    write_rig_glb(path, RigPerformance(rig, torch.zeros(4, 52), poses, RATE), splats=splats)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "head.glb")


@pytest.fixture(scope="module")
def bundle_server(bundle: Path) -> Iterator[SceneServer]:
    if PAGE is None:
        pytest.skip("needs the built page")
    server = SceneServer(open_scene(bundle), PAGE)
    yield server
    server.close()


@pytest.fixture
def page(browser: Any, bundle_server: SceneServer) -> Iterator[Shown]:
    page = Shown(browser, bundle_server.url)
    yield page
    page.page.close()
    assert not page.errors


def settled(shown: Shown) -> np.ndarray:
    """What is drawn when Gaussians are in order: a worker sorts them, one image behind."""
    shown.drawn_at_last()
    for _ in range(100):
        shown.drawn()
        shown.page.wait_for_timeout(60)
        spark = "const s = viewer.subject.choice.spark; return s.sorting || s.sortDirty"
        if not shown.run(spark):
            return shown.drawn()
    raise AssertionError("the sorting never ends")


def covered(picture: np.ndarray) -> np.ndarray:
    return picture[..., 3] > 128


def beyond(one: np.ndarray, other: np.ndarray, reach: int = 4) -> int:
    """Pixels of either silhouette further than `reach` from the other; few Gaussians are 2 wide."""
    first, second = covered(one), covered(other)
    grown = [binary_dilation(mask, iterations=reach) for mask in (first, second)]
    return int((first & ~grown[1]).sum() + (second & ~grown[0]).sum())


def test_a_slider_opens_the_mouth_of_gaussians(page: Shown) -> None:
    """Pixels change in the lower half of the face and nowhere in the upper."""
    before = settled(page)
    slider = page.page.locator("#sliders label", has_text="jawOpen").locator("input")
    slider.evaluate("e => { e.value = 0.9; e.dispatchEvent(new Event('input')) }")
    after = settled(page)
    rows = np.flatnonzero(covered(before).any(1))
    top, height = rows[0], rows[-1] - rows[0]
    changed = np.abs(after - before).max(-1) > 30
    assert changed[: top + int(0.45 * height)].sum() == 0
    assert changed[top + int(0.5 * height) :].sum() > 200
    page.page.get_by_text("Neutral face").dispatch_event("click")
    assert np.abs(settled(page) - before).mean() < 0.5


@pytest.mark.parametrize("pose", ["neutral", "jawOpen", "turned"])
def test_gaussians_follow_the_mesh(page: Shown, pose: str) -> None:
    """The silhouettes of Gaussians and of their mesh agree, before and after it moves."""
    if pose == "jawOpen":
        page.run("viewer.subject.setWeight('jawOpen', 1)")
    if pose == "turned":
        page.run("viewer.timeline.seek(3)")
        page.until("viewer.subject.shown === 3")
    splats = settled(page)
    page.press("g")
    page.until("viewer.subject.showing === 'mesh'")
    mesh = page.drawn()
    assert beyond(splats, mesh) < 100
    if pose == "turned":  # and it did turn
        page.run("viewer.timeline.seek(0)")
        page.until("viewer.subject.shown === 0")
        assert beyond(page.drawn(), mesh) > 300
    page.press("g")
    page.until("viewer.subject.showing === 'both'")
    both = settled(page)
    assert (np.abs(both - splats).max(-1) > 40)[covered(splats)].mean() > 0.02  # wires on top


def test_they_are_where_the_rig_says(page: Shown) -> None:
    """Vertices that the graphics card computed against the rig's, jaw open and head turned."""
    head = reference_head(0)
    page.run("viewer.timeline.seek(2)")
    page.until("viewer.subject.shown === 2")
    page.run("viewer.subject.setWeight('jawOpen', 0.7); viewer.stage.draw()")
    words = page.run(
        """const { posed, stage } = { posed: viewer.subject.posed, stage: viewer.stage };
        const { width, height } = posed.target, words = new Uint32Array(4 * width * height);
        stage.renderer.readRenderTargetPixels(posed.target, 0, 0, width, height, words);
        const source = viewer.subject.meshes[0].geometry.attributes._source_vertex;
        return [Array.from(words.subarray(0, 4 * source.count)), Array.from(source.array)]"""
    )
    found = np.array(words[0], np.uint32).view(np.float32).reshape(-1, 4)[:, :3]
    rig = rigged(head.topology, head.template, head.expression_basis, torch.eye(4))
    weights, pose = torch.zeros(1, 52), torch.eye(4, dtype=torch.float64)
    weights[0, ARKIT_52.index("jawOpen")] = 0.7
    angle = torch.tensor(0.4, dtype=torch.float64)
    pose[0, 0] = pose[2, 2] = angle.cos()
    pose[0, 2], pose[2, 0] = angle.sin(), -angle.sin()
    expected = rig.vertices(weights, pose[None])[0].numpy()[np.array(words[1], int)]
    assert np.abs(found - expected).max() < 3e-6


def color_at_target(shown: Shown) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """The colour where the page looks, [0, 1]; where its eye is, and what that looks at."""
    drawn = settled(shown)
    eye, target, place = torch.tensor(
        shown.run(
            """const { camera, orbit } = viewer.stage;
            const parts = [camera.position, orbit.target, orbit.target.clone().project(camera)];
            return parts.map((part) => part.toArray())"""
        )
    )
    column = int((0.5 + 0.5 * float(place[0])) * drawn.shape[1])
    row = int((0.5 - 0.5 * float(place[1])) * drawn.shape[0])
    patch = drawn[row - 2 : row + 3, column - 2 : column + 3]
    return patch[..., :3].mean((0, 1)) / 255, eye, target


@pytest.mark.parametrize(
    "degree", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
)
def test_colours_depend_on_the_direction_of_view(browser: Any, tmp_path: Path, degree: int) -> None:
    """As `rendering.harmonics` has it, from two sides, and in the frame of a head that turns."""
    generator = torch.Generator().manual_seed(degree)
    harmonics = 0.5 * torch.randn((degree + 1) ** 2, 3, generator=generator)
    harmonics[0] *= 0.3
    bundle = write_bundle(tmp_path / "head.glb", harmonics)
    assert PAGE is not None
    server = SceneServer(open_scene(bundle), PAGE)
    shown = Shown(browser, server.url)
    found = []
    for side, frame in ((0.0, 0), (1.2, 0), (0.0, 3)):
        shown.run(f"viewer.timeline.seek({frame})")
        shown.until(f"viewer.subject.shown === {frame}")
        shown.run(
            f"""const {{ camera, orbit }} = viewer.stage, away = camera.position.clone();
            away.sub(orbit.target).applyAxisAngle(camera.up, {side});
            camera.position.copy(orbit.target).add(away);
            orbit.update()"""
        )
        color, eye, target = color_at_target(shown)
        way = torch.nn.functional.normalize(target - eye, dim=0)
        pose, angle = torch.eye(4), torch.tensor(0.2 * frame)
        pose[:3, 3] = -eye  # the camera's axes do not matter: only where it is
        turn = torch.eye(3)
        turn[0, 0] = turn[2, 2] = angle.cos()
        turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
        place = (eye + 0.5 * way)[None]
        told = shaded(harmonics[None], place, pose[None], turn.T)[0, 0].clamp(max=1)
        assert np.abs(color - told.numpy()).max() < 0.03, (side, frame, color, told)
        found.append(color)
    assert np.abs(found[0] - found[1]).max() > 0.1 and np.abs(found[0] - found[2]).max() > 0.05
    shown.page.close()
    server.close()
    assert not shown.errors


def test_weights_over_the_socket_move_them(page: Shown, bundle_server: SceneServer) -> None:
    before = settled(page)
    weights = np.zeros(52, "<f4")
    weights[ARKIT_52.index("jawOpen")] = 1
    driver: socket.socket = knock(bundle_server)[0]
    for _ in range(100):
        driver.sendall(masked(2, weights.tobytes()))
        page.page.wait_for_timeout(50)
        if page.run("return viewer.subject.weight('jawOpen')") == 1:
            break
    driver.close()
    assert (np.abs(settled(page) - before).max(-1) > 30).sum() > 200


def test_nothing_pops_while_it_plays(page: Shown) -> None:
    """Until a frame's order is there it is drawn in the last one's: hardly another image."""
    for weight in (0.5, 0.56):  # a frame's motion
        page.run(f"viewer.subject.setWeight('jawOpen', {weight})")
        stale = page.drawn()
        fresh = settled(page)
    assert (np.abs(fresh - stale).max(-1) > 12).mean() < 5e-4


def test_golden_bundle(page: Shown) -> None:
    """Within 4 of 255 on average; `TOPOHEAD_GOLDEN=write` keeps what is drawn now."""
    page.run("viewer.subject.setWeight('jawOpen', 0.6)")
    drawn = settled(page)
    seen = (drawn[..., :3] * drawn[..., 3:] / 255).astype(np.uint8)
    if os.environ.get("TOPOHEAD_GOLDEN") == "write":
        Image.fromarray(seen).save(GOLDEN, optimize=True)
    kept = np.asarray(Image.open(GOLDEN).convert("RGB")).astype(float)
    difference = np.abs(kept - seen)
    assert difference.mean() < 4 and (difference.max(-1) > 60).mean() < 0.02


def test_the_offline_bundle_asks_nobody(browser: Any, bundle: Path, tmp_path: Path) -> None:
    assert PAGE is not None
    file = tmp_path / "offline.html"
    file.write_text(offline_html(PAGE, open_scene(bundle), 3), encoding="utf-8")
    shown = Shown(browser, file.as_uri())
    before = settled(shown)
    shown.run("viewer.subject.setWeight('jawOpen', 1)")
    assert (np.abs(settled(shown) - before).max(-1) > 30).sum() > 200
    outside = [url for url in shown.requests if not url.startswith(LOCAL)]
    shown.page.close()
    assert outside == [file.as_uri()]
    assert not shown.errors


def test_a_cap4d_clip_plays(browser: Any, tmp_path: Path) -> None:
    """Gaussians of an animated PLY follow its frames, upright, served and offline."""
    assert PAGE is not None
    run = write_shown_run(tmp_path)
    exported = export(
        ExportConfig(run, "ply", layout="cap4d", gaussians=4000, out=tmp_path / "out")
    )
    path = exported.folder / "run_animation.ply"
    file = tmp_path / "offline.html"
    file.write_text(offline_html(PAGE, open_scene(path), 4), encoding="utf-8")
    server = SceneServer(open_scene(path), PAGE)
    for url, last in ((server.url, 3), (file.as_uri(), 1)):
        shown = Shown(browser, url)
        try:
            still = settled(shown)
            shown.run(f"viewer.timeline.seek({last})")
            shown.until(f"viewer.subject.shown === {last}")
            moved = settled(shown)
            difference = np.abs(moved - still).max(-1) > 20
            rows = np.flatnonzero(covered(still).any(1))
            middle = (rows[0] + rows[-1]) // 2
            assert difference.sum() > 100
            assert difference[middle:].sum() > 5 * difference[:middle].sum()  # the lower face opens
            shown.run("viewer.subject.setShowing('mesh')")
            assert beyond(moved, shown.drawn()) < 100
            assert not shown.errors
            assert all(
                url.startswith((server.url, file.as_uri(), *LOCAL)) for url in shown.requests
            )
        finally:
            shown.page.close()
    server.close()


def test_runs_and_folders_show_their_bundle(bundle: Path, tmp_path: Path) -> None:
    run = write_shown_run(tmp_path)
    export(ExportConfig(run, "glb", splats=True, gaussians=2000))
    kinds = [subject["kind"] for subject in open_scene(run).document["subjects"]]
    assert kinds == ["sequence", "bundle"]
    folder = open_scene(run / "export" / "glb").document["subjects"]
    assert [subject["kind"] for subject in folder] == ["bundle"]
    assert open_scene(write_shown_rig(tmp_path / "rig.glb")).subjects[0].document["kind"] == "model"


def test_a_broken_bundle_is_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bundle.read_bytes()
    at = data.index(b'"splats":{"format":1')
    topology = data.index(b'"topology":"', at) + len(b'"topology":"')
    broken = tmp_path / "broken.glb"
    broken.write_bytes(data[:topology] + b"0" * 16 + data[topology + 16 :])
    assert cli.run(["view", str(broken), "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert "another program changed the mesh" in said and said.count("\n") == 1
    (tmp_path / "cut.ply").write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement faces 1\nproperty uint index_0\n"
        b"element base_vertex 0\nelement vertex 0\nend_header\n"
    )
    with pytest.raises(InputError, match="cut off"):
        open_scene(tmp_path / "cut.ply")
