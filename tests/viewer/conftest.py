"""One browser for all pages; they are skipped where it, Playwright or the built page is missing."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shown_page import CHROMIUM, PAGE, Shown
from shown_things import write_shown_rig, write_shown_run

from topohead.viewer.scenes import open_scene
from topohead.viewer.server import SceneServer


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Debian's package chromium")
    options = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as started:
        # containers run as root, where Chromium has no sandbox
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = started.chromium.launch(executable_path=CHROMIUM, args=options + sandbox)
        yield found
        found.close()
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def browser(chromium: Any) -> Any:
    """The browser for tests of the built page."""
    if PAGE is None:
        pytest.skip("needs the built page: npm ci && npm run build in src/topohead/viewer/page")
    return chromium


@pytest.fixture(scope="session")
def shown_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_shown_run(tmp_path_factory.mktemp("page"))
    write_shown_rig(run / "rig" / "rig.glb")
    return run


@pytest.fixture(scope="session")
def page_server(shown_run: Path) -> Iterator[SceneServer]:
    if PAGE is None:
        pytest.skip("needs the built page")
    server = SceneServer(open_scene(shown_run), PAGE)
    yield server
    server.close()


@pytest.fixture
def shown(browser: Any, page_server: SceneServer) -> Iterator[Shown]:
    shown = Shown(browser, page_server.url)
    yield shown
    shown.page.close()
    assert not shown.errors
