"""The report stands alone, shows what was measured, and its pictures line up."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from planted_run import (
    ellipsoid,
    ellipsoid_normals,
    ellipsoid_topology,
    performance,
    planted_rig,
    write_planted_run,
    write_planted_take,
    write_planted_truth,
)
from topohead.io.results import open_run, open_source
from topohead.workflows.measuring import run_with_regions
from topohead.workflows.report import write_report
from topohead.workflows.report.charts import Curve, line_chart, nice_ticks
from topohead.workflows.report.pictures import (
    ERROR_STOPS,
    TILE,
    Studio,
    chosen_frames,
    error_colors,
    visible_pixels,
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three frames, 0.4 mm off in two of them, with its take and truth."""
    folder = tmp_path_factory.mktemp("measured")
    truth, topology = performance(3), ellipsoid_topology()
    take = write_planted_take(folder / "take", truth, topology)
    write_planted_truth(take, truth, topology)
    tracked = truth.clone()
    tracked[1:] += 0.0004 * ellipsoid_normals(ellipsoid())
    return write_planted_run(folder, tracked, topology, source=str(take), holdout=["spare"])


@pytest.fixture(scope="module")
def page(measured: Path) -> str:
    """The report of that run."""
    path = write_report(measured)
    assert path == measured / "report.html"
    return path.read_text()


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float)


def test_report_is_one_file_that_asks_for_nothing(measured: Path, page: str) -> None:
    assert len(page) < 10e6
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(|<script|<link""", page)
    images = re.findall(r'<img src="([^"]{30})', page)
    assert images and all(start.startswith("data:image/jpeg;base64,") for start in images)
    # three frames of four tiles, three maps of three views
    assert len(images) == 3 * 4 + 3 * 3
    links = [link for link in re.findall(r'href="([^"]+)"', page)]
    assert links and all((measured / link).exists() for link in links)


def test_report_tells_the_planted_numbers(page: str) -> None:
    assert "<b>0.40<small>mm</small></b><span>median to the true surface" in page
    assert "left-out view spare" in page
    assert page.count("<svg") >= 6


def test_report_without_truth_take_or_texture(tmp_path: Path) -> None:
    run = write_planted_run(tmp_path, performance(5), ellipsoid_topology())
    (run / "frames" / "000001" / "texture_srgb.png").unlink()
    (run / "log.txt").write_text(
        "2026-01-01 10:00:00,000 WARNING topohead.solvers.x: camera <K19> drifts\n"
        "2026-01-01 10:00:01,000 INFO topohead.solvers.x: all well\n"
    )
    page = write_report(run).read_text()
    assert "Frame 4: the solver does not trust it." in page
    assert "camera &lt;K19&gt; drifts" in page and "all well" not in page
    assert "Against the truth" not in page and "Where it errs" not in page
    assert "no photos are shown" in page and "has no texture" in page


def test_photo_and_render_line_up_in_every_camera(measured: Path) -> None:
    """Also through the camera mounted on its side: both tiles stand upright and agree."""
    run = run_with_regions(open_run(measured), None)
    studio = Studio(run, open_source(run))
    for name in ("left", "middle", "right"):
        studio.__dict__["best_camera"] = name
        tiles = studio.tiles(0)
        assert tiles.photo is not None and tiles.textured is not None
        photo, render = decoded(tiles.photo), decoded(tiles.textured)
        assert photo.shape == (TILE[1], TILE[0], 3)
        # photos are 160×200 and enlarged here, so edges are soft: look at the inside
        inside = cv2.erode((render.max(2) > 60).astype(np.uint8), np.ones((25, 25))) > 0
        assert inside.mean() > 0.2
        assert np.abs(photo - render)[inside].mean() < 6
        # the skin's blue grows towards the texture's bottom, which is the head's bottom
        columns = render[:, TILE[0] // 2]
        rows = np.flatnonzero(inside[:, TILE[0] // 2])
        assert columns[rows[-1], 0] > columns[rows[0], 0] + 40


def test_overlay_draws_edges_over_the_head_only(measured: Path) -> None:
    run = open_run(measured)
    tiles = Studio(run, open_source(run)).tiles(0)
    assert tiles.photo is not None and tiles.overlay is not None
    change = np.abs(decoded(tiles.overlay) - decoded(tiles.photo)).max(2)
    head = cv2.dilate((decoded(tiles.photo).max(2) > 60).astype(np.uint8), np.ones((9, 9))) > 0
    assert (change[head] > 20).mean() > 0.05
    assert (change[~head] > 20).mean() < 0.002


def test_the_straightest_camera_is_chosen_and_turned(measured: Path) -> None:
    run = open_run(measured)
    studio = Studio(run, None)
    assert studio.best_camera == "middle"
    turns = [studio.quarter_turns(pose) for pose in planted_rig().cameras.world_to_camera]
    # the third picture was turned once anticlockwise; three more bring it back
    assert turns == [0, 0, 3, 0]


def test_hidden_vertices_are_not_drawn() -> None:
    depth = torch.full((10, 10), 1.0)
    pose = torch.eye(4)
    intrinsics = torch.tensor([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]])
    points = torch.tensor([[0, 0, 1.0], [0, 0, 1.5], [0, 0, -1], [2, 0, 1]])
    pixels, visible = visible_pixels(points, depth, pose, intrinsics)
    assert visible.tolist() == [True, False, False, False]
    assert pixels[0].tolist() == [5, 5]


def test_error_colors_run_from_first_to_last_stop() -> None:
    ends = (error_colors(torch.tensor([0.0, 1.0, 7.0])) * 255).round().int().tolist()
    first, last = ([int(stop[k : k + 2], 16) for k in (1, 3, 5)] for stop in
                   (ERROR_STOPS[0], ERROR_STOPS[-1]))  # fmt: skip
    assert ends == [first, last, last]
    lightness = error_colors(torch.linspace(0, 1, 50)) @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (lightness.diff() < 0).all()


def test_chart_breaks_where_values_are_missing() -> None:
    svg = line_chart(["1", "2", "3", "4"], [Curve("a", [1.0, None, 2.0, 3.0])], "mm", ["3"])
    path = re.search(r'<g class="curve main"><path d="([^"]+)"', svg)
    assert path is not None
    assert [letter for letter in path.group(1) if letter in "ML"] == ["M", "M", "L"]
    assert svg.count("<circle") == 3 and 'class="doubt"' in svg
    assert "frame 3: a 2.00 mm" in svg


def test_ticks_cover_the_largest_value() -> None:
    assert nice_ticks(0.83) == [0, 0.5, 1.0]
    assert nice_ticks(3.1) == [0, 1, 2, 3, 4]
    assert nice_ticks(0.0) == [0, 0.5, 1.0]
    for largest in (0.0123, 7.0, 41.0, 999.0):
        ticks = nice_ticks(largest)
        assert ticks[-1] >= largest > ticks[-2]


def test_contact_sheet_shows_ends_doubt_and_the_worst() -> None:
    assert chosen_frames(3, [], [1]) == [0, 1, 2]
    chosen = chosen_frames(100, [17, 60], [42])
    assert {0, 99, 17, 60, 42} <= set(chosen) and len(chosen) <= 6
    assert chosen_frames(1, [0], [0]) == [0]
