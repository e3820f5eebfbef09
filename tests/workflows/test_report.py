"""The report stands alone, shows what was measured, and its pictures line up."""

import base64
import json
import re
from dataclasses import replace
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
from topohead.io.images import read_image, write_image
from topohead.io.results import open_run, open_source
from topohead.workflows.evaluate import measure
from topohead.workflows.measuring import run_with_regions
from topohead.workflows.report import write_report
from topohead.workflows.report.advice import attention
from topohead.workflows.report.charts import Curve, line_chart, nice_ticks
from topohead.workflows.report.first_look import first_look
from topohead.workflows.report.pictures import (
    ERROR_STOPS,
    TILE,
    Studio,
    chosen_frames,
    error_colors,
    visible_pixels,
)
from topohead.workflows.report.stages import cards


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
    # three frames of four tiles, three maps of three views; three cameras that were used, three
    # views of the motion, the texture
    assert len(images) == 3 * 4 + 3 * 3 + 3 + 3 + 1
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


def test_every_stage_that_ran_has_a_card(measured: Path, page: str) -> None:
    titles = re.findall(r"<h3>([^<]+)</h3>", page)
    assert titles == ["Cameras, first frame", "Tracking", "Texture"]
    run = open_run(measured)
    gaze = torch.zeros(3, 2, 2)
    gaze[1, :, 0] = -0.2
    with_eyes = replace(run, gaze=gaze)
    names = [card.title for card in cards(Studio(with_eyes, None), None)]
    assert names == ["Tracking", "Texture", "Gaze"]
    yaw = cards(Studio(with_eyes, None), None)[-1].charts[0]["svg"]
    assert "frame 000002: left -11.46 °" in yaw


def test_cards_read_what_other_verbs_left(tmp_path: Path) -> None:
    run = write_planted_run(tmp_path, performance(3), ellipsoid_topology())
    (run / "rig").mkdir()
    rows = [{"frame": f"{t:06d}", "model_rms_mm": 0.9, "personal_rms_mm": 0.3} for t in (1, 2, 3)]
    table = {"model_mm": 0.81, "personal_mm": 0.27, "likeness": None, "frames": rows}
    (run / "rig" / "rig.json").write_text(json.dumps(table))
    out = run / "export" / "glb"
    out.mkdir(parents=True)
    (out / "run.glb").write_bytes(bytes(2_000_000))
    record = {"to": "glb", "units": "m", "axis": "y-up", "files": ["run.glb"]}
    (out / "export.json").write_text(json.dumps(record))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"stage": "detail", "frame": "000001", "seen": 0.25}) + "\n")
    write_image(run / "frames" / "000001" / "normal.png", torch.full((16, 16, 3), 0.5))
    text = {card.title: card.text for card in cards(Studio(open_run(run), None), None)}
    assert "0.81 mm" in text["Rig"] and "0.27 mm" in text["Rig"]
    assert "glb: 1 files, 2.0 MB" in text["Exports"]
    assert "on 25 %" in text["Displacement and normals"]
    page = write_report(run).read_text()
    assert "Cameras agree on relief on 25 %" in page  # and what to do about it


@pytest.mark.parametrize(
    ("residuals", "expected"),
    [
        ([0.0] + [0.02] * 11, []),
        ([0.0] + [0.02] * 4 + [0.024] * 3 + [0.03] * 4, ["rises over the take, from 2.0 % to 3.0"]),
        ([0.0] + [0.02] * 5 + [0.06] + [0.02] * 5, ["Frame 7: the colour residual is up to 6.0"]),
    ],
)
def test_residuals_are_read_as_a_person_would(
    tmp_path: Path, residuals: list[float], expected: list[str]
) -> None:
    run = write_planted_run(tmp_path, performance(len(residuals)), ellipsoid_topology())
    rows = [
        {
            "stage": "track",
            "frame": f"{t + 1:06d}",
            "seconds": 1.0,
            "residual": r,
            "doubtful": False,
        }
        for t, r in enumerate(residuals)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = measure(run)
    result = open_run(run)
    notes = attention(result, evaluation, Studio(result, None), None)
    told = [note["what"] for note in notes if "residual" in note["what"]]
    assert len(told) == len(expected)
    assert all(part in line for part, line in zip(expected, told, strict=True))


def test_a_dark_camera_unseen_parts_and_coarse_pictures_are_told(tmp_path: Path) -> None:
    """One of three cameras half as bright; all three stand in front; 1024 texels of 200 pixels."""
    truth, topology = performance(1), ellipsoid_topology()
    take = write_planted_take(tmp_path / "take", truth, topology)
    dark = take / "frames" / "000001" / "left.png"
    linear = (read_image(dark).clamp(min=0) ** 2.2) * 0.5
    write_image(dark, linear ** (1 / 2.2))
    back = torch.nonzero(ellipsoid()[:, 2] < -0.08)[:, 0]
    run = write_planted_run(tmp_path, truth, topology, source=str(take), holdout=["spare"])
    write_image(run / "frames" / "000001" / "texture_srgb.png", torch.full((1024, 1024, 3), 0.5))
    regions = {name: index.tolist() for name, index in topology.regions.items()}
    (run / "regions.json").write_text(json.dumps(regions | {"neck": back.tolist()}))
    with (run / "metrics.jsonl").open("a") as metrics:
        cameras = {"left": {"before_px": 0.2, "after_px": 0.2},
                   "middle": {"before_px": 1.4, "after_px": 0.2}}  # fmt: skip
        row = {"stage": "calibration", "tracks": 90, "drifted": [], "cameras": cameras}
        metrics.write(json.dumps(row) + "\n")
    result = open_run(run)
    studio = Studio(result, open_source(result))
    look = first_look(studio)
    assert look is not None and sorted(look.thumbnails) == ["left", "middle", "right"]
    assert np.allclose(look.stops["left"], -1.0, atol=0.12)
    assert np.allclose(look.stops["middle"], 0.0, atol=0.05)
    assert look.share_seen(back, 1) == 0 and look.share_seen(topology.regions["lips"], 2) == 1
    told = {note["what"]: note["do"] for note in attention(result, measure(run), studio, look)}
    text = " ".join(told)
    assert "differ in colour" in text and "left -" in text and "middle -" not in text
    assert "neck 0 %" in text and "lips" not in text
    assert "miss the calibration of middle 1.4 px" in text
    assert any("--texture-size 256 loses nothing" in do for do in told.values())
    assert any("--refine-cameras solves" in do for do in told.values())


def test_ticks_reach_below_zero() -> None:
    assert nice_ticks(8.0, lowest=-11.0) == [-15, -10, -5, 0, 5, 10]
    assert nice_ticks(0.0, lowest=-3.0)[0] <= -3 and nice_ticks(0.0, lowest=-3.0)[-1] == 0
