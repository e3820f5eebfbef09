"""The report in a headless browser: nothing is asked for, nothing sticks out on a phone."""

from pathlib import Path
from typing import Any

import pytest

from planted_run import (
    ellipsoid_topology,
    performance,
    write_planted_run,
    write_planted_take,
    write_planted_truth,
)
from topohead.workflows.report import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report" + "-with-a-long-name" * 4)
    truth, topology = performance(4), ellipsoid_topology()
    take = write_planted_take(folder / "take", truth, topology)
    write_planted_truth(take, truth, topology)
    return write_report(write_planted_run(folder, truth, topology, source=str(take)))


@pytest.mark.parametrize("width", [390, 1200])
def test_it_opens_from_disk_and_fits(chromium: Any, report: Path, width: int) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 844})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda line: line.type == "error" and errors.append(line.text))
    page.goto(report.as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    broken = "() => [...document.images].filter(image => !image.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.locator("h3").all_text_contents()[-2:] == ["Tracking", "Texture"]
    outside = [url for url in requests if not url.startswith("data:")]
    page.close()
    assert outside == [report.as_uri()] and not errors
