"""A rig in the page: sliders, its animation, a recording, weights over the socket."""

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from shown_page import Shown
from test_drive import knock, masked

from topohead.core import ARKIT_52
from topohead.io.expressions import Performance, write_live_link
from topohead.viewer.server import SceneServer


def test_a_slider_opens_the_mouth(shown: Shown) -> None:
    """Pixels change in the lower half of the face and nowhere in the upper."""
    shown.run("return viewer.choose(1)")
    shown.run("viewer.setShading('clay')")
    before = shown.drawn()
    slider = shown.page.locator("#sliders label", has_text="jawOpen").locator("input")
    slider.evaluate("e => { e.value = 0.9; e.dispatchEvent(new Event('input')) }")
    after = shown.drawn()
    assert shown.run("return viewer.subject.weight('jawOpen')") == pytest.approx(0.9)
    rows = np.flatnonzero((before[..., 3] > 128).any(1))
    top, bottom = rows[0], rows[-1]
    changed = np.abs(after - before).max(-1) > 30
    height = bottom - top
    assert changed[: top + int(0.45 * height)].sum() == 0
    assert changed[top + int(0.5 * height) :].sum() > 200
    shown.page.get_by_text("Neutral face").dispatch_event("click")
    assert np.abs(shown.drawn() - before).max() < 3


def test_its_own_animation_closes_the_eyes(shown: Shown) -> None:
    shown.run("return viewer.choose(1)")
    shown.run("viewer.timeline.seek(3)")
    shown.until("viewer.subject.shown === 3")
    assert shown.run("return viewer.subject.weight('eyeBlinkLeft')") == pytest.approx(1, abs=1e-3)


def test_a_recording_plays(shown: Shown, tmp_path: Path) -> None:
    weights = torch.zeros(5, 52)
    weights[:, 17] = torch.linspace(0, 1, 5)  # jawOpen
    turns = torch.zeros(5, 3)
    turns[4, 0] = 0.5
    times = torch.arange(5) / 30.0
    recorded = Performance(times, weights, turns, torch.zeros(5, 2, 3))
    csv = tmp_path / "take.csv"
    write_live_link(recorded, csv)
    shown.run("return viewer.choose(1)")
    shown.page.locator("#panel input[type=file]").set_input_files(csv)
    shown.until("viewer.subject.recording?.times.length === 5")
    shown.run("viewer.timeline.pause(); viewer.timeline.seek(4)")
    shown.until("viewer.subject.shown === 4")
    assert shown.run("return viewer.subject.weight('jawOpen')") == pytest.approx(1, abs=1e-3)
    # Live Link counts yaw backwards: the head turns about its own up axis
    assert shown.run("return 2 * Math.asin(viewer.subject.head.quaternion.y)") == pytest.approx(
        -0.5, abs=1e-3
    )
    csv.write_text("a,b\n1,2\n")
    shown.page.locator("#panel input[type=file]").set_input_files(csv)
    shown.until("document.getElementById('note').textContent.includes('no Live Link')")


def test_weights_come_in_over_the_socket(shown: Shown, page_server: SceneServer) -> None:
    shown.run("return viewer.choose(1)")
    weights = np.zeros(52, "<f4")
    weights[ARKIT_52.index("jawOpen")] = 0.625
    driver: socket.socket = knock(page_server)[0]
    for _ in range(100):
        driver.sendall(masked(2, weights.tobytes()))
        shown.page.wait_for_timeout(50)
        if shown.run("return viewer.subject.weight('jawOpen')") == 0.625:
            break
    driver.close()
    assert shown.run("return viewer.subject.weight('jawOpen')") == 0.625
