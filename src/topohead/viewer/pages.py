"""The built page: HTML, style and scripts, served as files or put together as one."""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topohead.viewer.bodies import BINARY, Scene

DIST = Path(__file__).parent / "dist"
"""Where `npm run build` in the folder `page` leaves it; in the wheel, not in git."""

STYLE_TAG = '<link rel="stylesheet" href="style.css">'
SPLAT_KINDS = ("splats", "bundle", "played")
"""Kinds of subjects that need the splat renderer."""

SCRIPT_TAG = '<script type="module" src="page.js"></script>'


@dataclass(frozen=True)
class Page:
    """The parts. `plain` is the script without the splat renderer, a quarter of `splats`."""

    html: str
    style: str
    plain: str
    splats: str

    def script(self, scene: Scene) -> str:
        """The smallest script that can show the scene."""
        return self.splats if _has_splats(scene) else self.plain


def built_page(folder: Path = DIST) -> Page | None:
    """The page, or None where it was not built."""
    names = ("index.html", "style.css", "page.js", "page-splats.js")
    if not all((folder / name).is_file() for name in names):
        return None
    return Page(*((folder / name).read_text(encoding="utf-8") for name in names))


def offline_html(page: Page, scene: Scene, frames: int) -> str:
    """One HTML file with the scene inside, in at most `frames` frames. It asks for nothing."""
    from topohead.workflows.progress import track  # brings torch, which --help need not wait for

    scene = Scene(scene.title, tuple(subject.reduced(frames) for subject in scene.subjects))
    names = [f"{i}/{n}" for i, subject in enumerate(scene.subjects) for n in subject.names()]
    missing: list[str] = []
    bodies = [_inlined(scene, name, missing) for name in track(names, "offline page")]
    script = page.script(scene).replace("</script", "<\\/script").replace("<!--", "<\\!--")
    document = {**scene.document, "missing": missing}
    parts = [
        f'<script type="application/json" id="scene">{json_in_html(document)}</script>',
        *bodies,
        f'<script type="module">{script}</script>',
    ]
    policy = offline_policy(script, page.style)
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    html = page.html.replace(STYLE_TAG, f"{head}\n<style>{page.style}</style>")
    return html.replace(SCRIPT_TAG, "\n".join(parts))


def _inlined(scene: Scene, name: str, missing: list[str]) -> str:
    """A body as a script element of no executable type; nothing for a picture that is broken."""
    body = scene.body(name)
    assert body is not None, name
    try:
        data = body.read()
    except ValueError:  # InputError among them: a page without one picture is still a page
        if "picture/" not in name:
            raise
        missing.append(name)
        return ""
    packed = body.mime == BINARY
    text = base64.b64encode(zlib.compress(data, 6) if packed else data).decode()
    kind = f'data-mime="{body.mime}" data-packed="{int(packed)}"'
    return f'<script type="text/plain" data-name="{name}" {kind}>{text}</script>'


def json_in_html(document: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in, whatever names it holds."""
    text = json.dumps(document, allow_nan=False)
    return re.sub(r"[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _has_splats(scene: Scene) -> bool:
    return any(subject.document["kind"] in SPLAT_KINDS for subject in scene.subjects)


# The splat renderer sorts in a worker made from a blob, and runs WebAssembly from a data address.
_COMMON = "img-src 'self' blob: data:; worker-src blob:; base-uri 'none'; form-action 'none'"


def served_policy(port: int) -> str:
    """Content-Security-Policy of the served page: nothing but its own server."""
    # not every browser counts a socket of the same host as 'self'
    sockets = f"ws://127.0.0.1:{port} ws://localhost:{port}"
    return (
        f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        f"connect-src 'self' {sockets} blob: data:; frame-ancestors 'none'; {_COMMON}"
    )


def offline_policy(script: str, style: str) -> str:
    """Content-Security-Policy of the one file: its own script and style, by their hashes."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}' 'wasm-unsafe-eval'; "
        f"style-src '{_hash(style)}'; connect-src blob: data:; {_COMMON}"
    ).replace("img-src 'self' ", "img-src ")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
