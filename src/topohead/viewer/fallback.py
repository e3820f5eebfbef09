"""Where the page was not built: viser shows the meshes, and nothing else."""

import importlib.util
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topohead.core import InputError
from topohead.viewer.bodies import Scene
from topohead.viewer.sequences import MeshSequence

CLAY = (181, 172, 162)


class MeshServer:
    """A viser page with one mesh and a slider over its frames."""

    def __init__(self, title: str, sequence: MeshSequence, port: int) -> None:
        from topohead.viewer.local_viser import local_server

        self._sequence = sequence
        self._server: Any = local_server(title, port)
        self._open = True
        last = len(sequence.frames) - 1
        if last > 0:
            slider = self._server.gui.add_slider("frame", 0, last, 1, 0)
            slider.on_update(lambda _: self._show(int(slider.value)))
        self._server.on_client_connect(self._place)
        self._show(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.get_port()}/"

    def wait(self) -> None:
        while self._open:
            time.sleep(0.5)

    def close(self) -> None:
        from topohead.viewer.local_viser import stop

        self._open = False
        stop(self._server)

    def _place(self, client: Any) -> None:
        """In front of the head, which fills the view."""
        vertices = self._upright(0)
        low, high = vertices.min(0), vertices.max(0)
        middle = (low + high) / 2
        away = 1.6 * float((high - low).max())
        client.camera.position = middle + np.array([0.0, 0.0, away])
        client.camera.look_at = middle

    def _upright(self, index: int) -> NDArray[np.float64]:
        turn = self._sequence.upright.double().numpy()
        return self._sequence.vertices(index).astype(np.float64) @ turn[:3, :3].T + turn[:3, 3]

    def _show(self, index: int) -> None:
        vertices = self._upright(index)
        triangles = self._sequence.topology.triangles.numpy().astype(np.uint32)
        self._server.scene.add_mesh_simple(
            "/head", vertices.astype(np.float32), triangles, color=CLAY
        )


def serve_meshes(scene: Scene, port: int) -> MeshServer:
    """The scene's first mesh sequence on a viser page; an InputError without viser or mesh."""
    sequences = [s for s in scene.subjects if isinstance(s, MeshSequence)]
    if not sequences:
        raise InputError(f"{scene.title} is no mesh, and only the built page shows other things")
    if importlib.util.find_spec("viser") is None:
        raise InputError(
            "neither the built page nor viser is here; build the page with Node 20 or newer "
            "(`npm ci && npm run build` in src/topohead/viewer/page), or for meshes alone "
            "`pip install 'topohead[viewer]'`"
        )
    return MeshServer(scene.title, sequences[0], port)
