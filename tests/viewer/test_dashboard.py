"""The dashboard in a headless browser: it shows what a run hands over, and its button ends it."""

import http.client
import io
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from planted_run import ellipsoid_topology, performance, planted_rig
from topohead import cli
from topohead.core import Mesh
from topohead.viewer.dashboard import Dashboard, Known
from topohead.workflows.progress import Sight, Stopped, show, showing, track
from topohead.workflows.stage import StageConfig, stage

pytest.importorskip("viser")
from topohead.viewer.dashboard_page import contact_sheet, plotted, textured

VIEW = {"width": 1000, "height": 700}


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    page = Dashboard("test", 0)
    yield page
    page.close("the end")


def opened(chromium: Any, url: str) -> tuple[Any, list[str], list[str]]:
    """The page, what it asks for, what goes wrong on it."""
    page = chromium.new_page(viewport=VIEW)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    return page, requests, errors


def stop_button(page: Any) -> Any:
    return page.get_by_role("button", name=re.compile("^Stop after"))


def seen(page: Any) -> np.ndarray:
    """What stands in the middle of the scene, [h w 3]."""
    data = page.screenshot(clip={"x": 200, "y": 250, "width": 300, "height": 250})
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def run_of(dashboard: Dashboard, shown: list[int], outcome: list[str]) -> None:
    """A run of many short steps that hands over everything there is to see."""
    frames, topology = performance(3), ellipsoid_topology()
    cameras = planted_rig().cameras
    texture = torch.zeros(64, 64, 3)
    texture[..., 0] = 1.0  # red
    try:
        with showing(dashboard):
            for step in track(range(2000), "tracking"):
                mesh, red = Mesh(topology, frames[step % 3]), texture if step > 30 else None
                show(Sight(str(step), {"loss": 1 / (step + 1)}, {"head": mesh}, red,
                           {"a": torch.full((40, 30, 3), 0.5)}, cameras, torch.eye(4)))  # fmt: skip
                shown.append(step)
                time.sleep(0.05)
        outcome.append("finished")
    except Stopped:
        outcome.append("stopped")


def test_it_shows_the_run_and_its_button_ends_it(chromium: Any, dashboard: Dashboard) -> None:
    shown: list[int] = []
    outcome: list[str] = []
    worker = threading.Thread(target=run_of, args=(dashboard, shown, outcome))
    page, requests, errors = opened(chromium, dashboard.url)
    stop_button(page).wait_for()
    empty = seen(page)
    worker.start()
    page.get_by_text(re.compile(r"tracking: \d+ of 2000")).wait_for()
    page.locator("canvas.u-over, .uplot canvas").first.wait_for()
    page.get_by_text(re.compile(r"Sources, \d+")).wait_for()

    def until_red() -> np.ndarray:
        for _ in range(100):
            picture = seen(page)
            if (picture[..., 0] - picture[..., 1:].max(-1) > 60).mean() > 0.2:
                return picture
            page.wait_for_timeout(200)
        raise AssertionError(f"the textured mesh never appeared; {errors}")

    assert (np.abs(until_red() - empty).max(-1) > 30).mean() > 0.2
    assert worker.is_alive() and not outcome
    stop_button(page).click()
    worker.join(10)
    assert outcome == ["stopped"] and len(shown) < 2000
    dashboard.close("that was all")
    page.get_by_text("that was all").wait_for(timeout=3000)
    local = (dashboard.url, dashboard.url.replace("http", "ws"), "data:", "blob:")
    assert all(url.startswith(local) for url in requests)
    assert not errors
    page.close()


def test_a_page_that_is_closed_does_not_matter(chromium: Any, dashboard: Dashboard) -> None:
    shown: list[int] = []
    outcome: list[str] = []
    page, _, _ = opened(chromium, dashboard.url)
    worker = threading.Thread(target=run_of, args=(dashboard, shown, outcome))
    worker.start()
    page.get_by_text(re.compile("tracking: ")).wait_for()
    page.close()
    before = len(shown)
    time.sleep(1.0)
    assert len(shown) > before + 5 and not outcome
    dashboard.stopping = True
    worker.join(10)
    assert outcome == ["stopped"]


@pytest.mark.slow  # two captures; tests/cli/test_faults.py stops one without a browser
def test_stopped_from_the_page_and_run_again_gives_the_same_bytes(
    chromium: Any, tmp_path: Path
) -> None:
    take = tmp_path / "take"
    small = StageConfig(take, preset="tiny", cameras=4, frames=3, width=160, height=120, seed=11,
                        supersampling=1, texture_size=256, turned=0.0)  # fmt: skip
    stage(small)
    words = [str(take), "--keep-start", "--textures", "none", "--keep-cameras", "--device", "cpu"]
    child = subprocess.Popen(
        [sys.executable, "-m", "topohead", "capture", *words, "--out", str(tmp_path / "stopped"),
         "--dashboard", "--dashboard-port", "0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    found = re.search(r"http://\S+", child.stderr.readline())
    assert found is not None
    page, _, errors = opened(chromium, found[0])
    page.get_by_text(re.compile(r"(tracking|first frame): ")).wait_for(timeout=60_000)
    stop_button(page).click()
    code, said = child.wait(60), child.stderr.read()
    page.close()
    assert code == 130, said
    assert said == "topohead capture: stopped; the same command continues where it was\n"
    assert not (tmp_path / "stopped" / "report.html").exists() and not errors
    for out in ("stopped", "whole"):  # without a dashboard: it is no setting of the result
        assert cli.run(["capture", *words, "--out", str(tmp_path / out)]) == 0
    states = sorted((tmp_path / "whole").glob("frames/*/mesh.obj"))
    assert len(states) == 3
    for path in states:
        again = tmp_path / "stopped" / path.relative_to(tmp_path / "whole")
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("origin", "status"), [("own", 101), ("http://evil.example", 403)])
def test_other_sites_cannot_watch(dashboard: Dashboard, origin: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=10)
    headers = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": f"viser-v{version('viser')}",
        "Origin": dashboard.url.rstrip("/") if origin == "own" else origin,
    }  # fmt: skip
    connection.request("GET", "/", headers=headers)
    assert connection.getresponse().status == status
    connection.close()


def test_a_taken_port_is_one_line_and_another_port(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        page = Dashboard("test", taken)
        try:
            assert page.port != taken
            assert [r.getMessage() for r in caplog.records if f"port {taken}" in r.getMessage()]
        finally:
            page.close()


def test_what_a_sight_leaves_out_stays() -> None:
    known = Known()
    mesh = Mesh(ellipsoid_topology(), performance(1)[0])
    known.take(Sight("1", {"loss": 2.0}, {"head": mesh}, cameras=planted_rig().cameras))
    known.take(Sight("2", {"loss": 1.0}, images={"a": torch.zeros(2, 2, 3)}))
    known.take(Sight("2", {"loss": 0.5}))
    assert known.curves == {"loss": {"1": 2.0, "2": 0.5}}
    assert known.sight.meshes["head"] is mesh and known.sight.cameras is not None
    assert known.pictures is not None and known.pictures.step == "2" and known.sights == 3
    assert not known.sight.images  # they may be large


def test_curves_are_thinned_and_end_with_the_last_value() -> None:
    x, y = plotted([(f"{k:06d}", float(k)) for k in range(1, 5001)])
    assert len(x) <= 1001 and x[-1] == y[-1] == 5000 and (np.diff(x) > 0).all()
    x, y = plotted([("a", 3.0), ("b", 4.0)])
    assert x.tolist() == [0, 1] and y.tolist() == [3, 4]


def test_pictures_of_any_size_share_a_sheet() -> None:
    pictures = [torch.rand(40 + 7 * k, 30, 3) for k in range(5)]
    sheet = contact_sheet([*pictures, torch.full((9, 9, 3), 200, dtype=torch.uint8)])
    assert sheet.dtype == np.uint8 and sheet.shape[0] == 2 * 150
    assert (sheet[200, -40] > 190).any() or (sheet == 200).any()


def test_a_seam_keeps_its_texture_coordinates() -> None:
    topology, vertices = ellipsoid_topology(), performance(1)[0].float().numpy()
    mesh = textured(topology, vertices, np.zeros((4, 4, 3), np.uint8))
    triangles = topology.triangles.numpy()
    assert np.array_equal(np.asarray(mesh.vertices)[mesh.faces], vertices[triangles])
    uv = mesh.visual.uv[mesh.faces]
    assert np.array_equal(uv, topology.uv.numpy()[topology.triangle_uv.numpy()])
