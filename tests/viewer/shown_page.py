"""A page in headless Chromium, which draws by software, and a way to ask it things."""

import base64
import io
import shutil
from typing import Any

import numpy as np
from PIL import Image

from topohead.viewer.pages import Page, built_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGE: Page | None = built_page()
VIEW = {"width": 360, "height": 440}
LOCAL = ("data:", "blob:")
"""How addresses begin that ask nobody."""


class Shown:
    """An open page, what it asked for and what went wrong on it."""

    def __init__(self, browser: Any, url: str, view: dict[str, int] | None = None) -> None:
        self.page = browser.new_page(viewport=view or VIEW, reduced_motion="reduce")
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.errors.append(line.text))
        self.page.goto(url)
        self.page.wait_for_selector("body[data-shown], body[data-failed]")

    def run(self, script: str) -> Any:
        return self.page.evaluate(f"() => {{ const viewer = window.topohead; {script} }}")

    def until(self, condition: str) -> None:
        """Waits for a condition; by hand, because the page's own rules forbid strings as code."""
        for _ in range(200):
            if self.run(f"return {condition};"):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never came true: {condition}; errors: {self.errors}")

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def drawn(self) -> np.ndarray:
        """What WebGL draws, [H W 4] in [0, 255]: no letters of this machine's fonts in it."""
        script = (
            "viewer.stage.invalidate(); viewer.stage.draw(); return viewer.stage.canvas.toDataURL()"
        )
        data = base64.b64decode(self.run(script).split(",")[1])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(float)

    def drawn_at_last(self) -> np.ndarray:
        """What is drawn when something is: splats are sorted in a worker first."""
        for _ in range(60):
            picture = self.drawn()
            if (picture[..., 3] > 128).mean() > 0.03:
                return picture
            self.page.wait_for_timeout(100)
        raise AssertionError(f"nothing is drawn; errors: {self.errors}")

    def screenshot(self) -> np.ndarray:
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        return np.asarray(picture).astype(float)
