"""The page in a headless browser: what it shows of a run and of splats, and what it asks for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shown_page import LOCAL, PAGE, Shown
from shown_things import FRAMES, hide_frames, write_shown_run, write_shown_splats

from topohead.geometry.cameras import project
from topohead.io.results import open_run
from topohead.viewer.pages import offline_html
from topohead.viewer.scenes import open_scene
from topohead.viewer.server import SceneServer

GOLDEN = Path(__file__).parent / "golden"


def test_scrubbing_moves_the_vertices(shown: Shown, shown_run: Path) -> None:
    truth = open_run(shown_run).vertices.numpy()
    for index in (0, 5, 10):
        shown.page.locator("#timeline input").fill(str(index))
        shown.until(f"viewer.subject.shown === {index}")
        points = np.array(shown.run("return Array.from(viewer.subject.frames.points)"))
        assert np.abs(points.reshape(-1, 3) - truth[index]).max() < 1e-6
    assert shown.page.locator("#timeline .where").text_content() == f"11 / {FRAMES}"
    shown.press("ArrowLeft")
    shown.until("viewer.timeline.index === 9")
    shown.press("ArrowRight")
    shown.press("ArrowRight")
    shown.until("viewer.timeline.index === 0")  # around the end
    assert shown.page.locator("#timeline .mark").count() == 1


def test_playing_goes_on_and_stops(shown: Shown) -> None:
    shown.press("Space")
    shown.until("viewer.timeline.index > 2")
    shown.press("Space")
    stopped = shown.run("return viewer.timeline.index")
    shown.page.wait_for_timeout(300)
    assert shown.run("return viewer.timeline.index") == stopped


def test_every_shading_looks_different(shown: Shown) -> None:
    shown.until("viewer.subject.textured")
    pictures = []
    for key, name in enumerate(("texture", "clay", "error", "checker", "wire"), 1):
        shown.press(str(key))
        shown.until(f"viewer.subject.shading === '{name}'")
        pictures.append(shown.drawn())
        pressed = shown.page.locator("#panel .grid [aria-pressed=true]")
        assert pressed.text_content().lower().startswith(name[:4].replace("chec", "uv c"))
    covered = [picture[..., 3] > 128 for picture in pictures]
    for k, picture in enumerate(pictures):
        assert 0.08 < covered[k].mean() < 0.7
        for other in pictures[:k]:
            assert np.abs(picture - other)[covered[k], :3].mean() > 8


def test_the_relief_is_lit(browser: Any, tmp_path: Path) -> None:
    """A normal map that leans to one side changes the clay's light, where the frame has it."""
    assert PAGE is not None
    run = write_shown_run(tmp_path)
    leaning = np.full((16, 16, 3), (128 + 75, 128, 128 + 75), np.uint8)
    Image.fromarray(leaning).save(run / "frames" / "000003" / "normal.png")
    server = SceneServer(open_scene(run), PAGE)
    shown = Shown(browser, server.url)
    try:
        shown.press("2")
        shown.run("viewer.timeline.seek(2)")
        shown.until("viewer.subject.materials.clay.normalMap !== null")
        lit = shown.drawn()
        shown.page.get_by_label("Fine relief").dispatch_event("click")
        shown.until("viewer.subject.materials.clay.normalMap === null")
        smooth = shown.drawn()
        assert np.abs(lit - smooth)[smooth[..., 3] > 128].mean() > 8
        shown.page.get_by_label("Fine relief").dispatch_event("click")
        shown.run("viewer.timeline.seek(1)")
        shown.until(
            "viewer.subject.shown === 1 && viewer.subject.materials.clay.normalMap === null"
        )
        assert not shown.errors
    finally:
        shown.page.close()
        server.close()


def test_errors_have_their_colour(shown: Shown) -> None:
    """Frame t is t/10 mm off: dark blue at first, the scale's red end in frame 10."""
    shown.press("3")
    colours = {}
    for index in (0, 10):
        shown.run(f"viewer.timeline.seek({index})")
        shown.until(f"viewer.subject.shown === {index} && viewer.timeline.wanted === null")
        picture = shown.drawn()
        colours[index] = picture[picture.shape[0] // 2 - 20, picture.shape[1] // 2, :3]
    assert colours[0][2] > 1.5 * colours[0][0]
    assert colours[10][0] > 1.5 * colours[10][2]
    facts = shown.page.locator("#panel section p.quiet").first.text_content()
    assert "median 1.00 mm" in facts


def test_the_mesh_lies_on_the_picture(shown: Shown, shown_run: Path) -> None:
    """Camera `right` is mounted on its side and its principal point is off the centre."""
    shown.run("viewer.setShading('texture'); viewer.through.enter(2); viewer.through.setOpacity(0)")
    shown.until("viewer.subject.textured && !viewer.through.image.hidden")
    found = shown.run(
        """const { eye, size } = viewer.stage;
        const V = viewer.subject.frames.base, points = [];
        const world = viewer.subject.object.matrixWorld;
        for (let k = 0; k < V.length; k += 300) {
          const p = viewer.stage.orbit.target.clone().set(V[k], V[k + 1], V[k + 2]);
          p.applyMatrix4(world).project(eye);
          points.push([(p.x + 1) / 2 * size[0], (1 - p.y) / 2 * size[1]]);
        }
        const m = new DOMMatrix(getComputedStyle(viewer.through.image).transform);
        return [points, [m.a, m.b, m.c, m.d, m.e, m.f], viewer.through.natural]"""
    )
    points, placed, natural = (np.array(part) for part in found)
    tracked = open_run(shown_run)
    assert tracked.rig is not None
    camera = tracked.rig.cameras.select(["right"])
    pixels = project(camera, tracked.vertices[0, ::100].double())[0][0].numpy()
    pixels *= natural / np.array(camera.size(0))
    expected = pixels @ placed[:4].reshape(2, 2) + placed[4:]
    assert np.abs(points - expected).max() < 0.02  # CSS pixels

    alone = shown.screenshot()
    shown.run("viewer.through.setOpacity(1)")
    covered = shown.drawn()[..., 3] > 254
    over = shown.screenshot()
    inner = covered & np.roll(covered, 6, 0) & np.roll(covered, -6, 0)
    inner &= np.roll(covered, 6, 1) & np.roll(covered, -6, 1)
    assert inner.mean() > 0.05
    difference = np.abs(over - alone)[inner]
    assert np.median(difference) < 6 and difference.mean() < 10
    shown.press("Escape")
    shown.until("viewer.through.index === null && viewer.through.image.hidden")


def test_frusta_appear(shown: Shown) -> None:
    shown.press("x")
    shown.until("viewer.subject.frusta().visible")
    found = shown.drawn()
    shown.run("viewer.subject.frusta().visible = false")
    assert (np.abs(shown.drawn() - found).max(-1) > 60).sum() > 50


def test_a_click_on_a_camera_looks_through_it(shown: Shown) -> None:
    shown.press("x")
    x, y = shown.run(
        """viewer.stage.draw();
        const p = viewer.subject.frustaPoints()[1].project(viewer.stage.camera);
        const [w, h] = viewer.stage.size;
        return [(p.x + 1) / 2 * w, (1 - p.y) / 2 * h];"""
    )
    shown.page.mouse.click(x, y)
    shown.until("viewer.through.index === 1")


def test_a_running_capture_is_followed(browser: Any, tmp_path: Path) -> None:
    """New frames join the timeline; the camera looked through and the shading stay."""
    assert PAGE is not None
    run = write_shown_run(tmp_path)
    later = hide_frames(run, 5)
    server = SceneServer(open_scene(run), PAGE)
    shown = Shown(browser, server.url)
    try:
        shown.press("5")
        shown.run("viewer.timeline.seek(4); viewer.through.enter(1)")
        shown.until("viewer.subject.shown === 4")
        for hidden, state in later.items():
            hidden.rename(state)
        shown.until(f"viewer.timeline.times.length === {FRAMES}")
        shown.until(f"viewer.subject.shown === {FRAMES - 1}")  # it was at the end, and still is
        assert shown.run("return [viewer.through.index, viewer.subject.shading]") == [1, "wire"]
        (run / "stages" / "track").mkdir(parents=True)
        (run / "stages" / "track" / "done.json").write_text("{}")
        shown.until("viewer.scene.growing === false")
        assert not shown.errors
    finally:
        shown.page.close()
        server.close()


def test_splats_are_drawn(browser: Any, tmp_path: Path) -> None:
    assert PAGE is not None
    server = SceneServer(open_scene(write_shown_splats(tmp_path / "ball.ply")), PAGE)
    shown = Shown(browser, server.url)
    try:
        assert shown.page.locator("#facts").text_content() == "400 Gaussians"
        picture = shown.drawn_at_last()
        red = (picture[..., 0] > 150) & (picture[..., 1] < 90) & (picture[..., 3] > 150)
        assert red.mean() > 0.03
        assert not shown.errors
        assert all(url.startswith((server.url, *LOCAL)) for url in shown.requests)
    finally:
        shown.page.close()
        server.close()


def test_the_served_page_asks_its_own_server_alone(shown: Shown, page_server: SceneServer) -> None:
    shown.until("viewer.subject.textured")
    assert shown.requests
    assert all(url.startswith((page_server.url, *LOCAL)) for url in shown.requests)


@pytest.mark.parametrize("kind", ["run", "splats"])
def test_the_offline_file_asks_nobody(
    browser: Any, shown_run: Path, tmp_path: Path, kind: str
) -> None:
    assert PAGE is not None
    path = shown_run if kind == "run" else write_shown_splats(tmp_path / "ball.ply")
    file = tmp_path / "offline.html"
    file.write_text(offline_html(PAGE, open_scene(path), 3), encoding="utf-8")
    shown = Shown(browser, file.as_uri())
    if kind == "run":
        shown.until("viewer.subject.textured")
        assert shown.run("return viewer.timeline.times.length") == 3
        shown.press("End")
        shown.until("viewer.subject.shown === 2")
        shown.press("c")
        shown.until("!viewer.through.image.hidden")
        shown.run("return viewer.choose(1)")
    shown.drawn_at_last()
    outside = [url for url in shown.requests if not url.startswith(LOCAL)]
    shown.page.close()
    assert outside == [file.as_uri()]
    assert not shown.errors


def test_names_from_the_disk_are_text(browser: Any, tmp_path: Path) -> None:
    assert PAGE is not None
    evil = "<img src=x onerror=document.title='owned'>.ply"
    server = SceneServer(open_scene(write_shown_splats(tmp_path / evil, 50)), PAGE)
    shown = Shown(browser, server.url)
    assert shown.page.locator("#title").text_content() == evil
    assert shown.page.locator("img").count() == 1  # the page's own, for source pictures
    assert shown.page.title() == f"{evil} · topohead"
    shown.page.close()
    server.close()


def test_nothing_sticks_out_on_a_phone(browser: Any, page_server: SceneServer) -> None:
    shown = Shown(browser, page_server.url, {"width": 360, "height": 640})
    assert shown.run("return document.documentElement.scrollWidth") <= 360
    shown.page.locator("#open-panel").click()
    shown.page.wait_for_timeout(400)
    panel = shown.page.locator("#panel").bounding_box()
    line = shown.page.locator("#timeline").bounding_box()
    assert panel["x"] >= 0 and panel["x"] + panel["width"] <= 360
    assert panel["y"] > 200 and panel["y"] + panel["height"] <= line["y"]
    for button in shown.page.locator("#panel button:visible").all():
        assert button.bounding_box()["height"] >= 38  # a finger's
    shown.page.close()


GOLDENS = {
    "clay": "viewer.choose(1).then(() => viewer.setShading('clay'))",
    "checker": "viewer.setShading('checker')",
    "wire": "viewer.choose(1).then(() => viewer.setShading('wire'))",
}


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_pictures(shown: Shown, name: str) -> None:
    """Within 4 of 255 on average; `TOPOHEAD_GOLDEN=write` keeps what is drawn now."""
    shown.run(f"return {GOLDENS[name]}")
    drawn = shown.drawn()
    seen = (drawn[..., :3] * drawn[..., 3:] / 255).astype(np.uint8)
    path = GOLDEN / f"{name}.png"
    if os.environ.get("TOPOHEAD_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        Image.fromarray(seen).save(path, optimize=True)
    kept = np.asarray(Image.open(path).convert("RGB")).astype(float)
    assert kept.shape == seen.shape
    difference = np.abs(kept - seen)
    assert difference.mean() < 4 and (difference.max(-1) > 60).mean() < 0.02
