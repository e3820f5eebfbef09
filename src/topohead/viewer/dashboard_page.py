"""What the dashboard's page shows, drawn with viser."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import trimesh
import viser
import viser.transforms
import viser.uplot
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from topohead.core import Cameras, Mesh, Topology
from topohead.viewer.local_viser import local_server, stop
from topohead.workflows.progress import Sight

CLAY = (181, 172, 162)
ACCENT = (185, 58, 92)
MOST_POINTS = 1000
"""Of a curve that are drawn; of longer ones every second, third... and the last."""
TILE_PX, MOST_TILES = 150, 24
"""Height of a source picture, and how many are shown."""


HEAD_ON = np.array([0.26, 0.1, 0.96])
"""From where the head is looked at, in its own y-up frame."""
LAST_WORDS_S = 0.3
"""Until a message has left for the page."""


class DashboardPage:
    """A viser server and what stands on its page; its methods are for one thread at a time."""

    def __init__(self, title: str, port: int, on_stop: Callable[[], None]) -> None:
        self._server = local_server(title, port)
        gui = self._server.gui
        self._words = gui.add_markdown("starting", order=0)
        self._bar = gui.add_progress_bar(0.0, order=1)
        self._button = gui.add_button(
            "Stop after this step", color="red", hint="The same command continues later.", order=2
        )
        self._button.on_click(lambda _: on_stop())
        self._curves: dict[str, Any] = {}
        self._pictures: Any = None
        self._scene = _Scene(self._server)
        look = gui.add_button_group("Look at", ("head", "cameras"), order=3)
        look.on_click(lambda event: self._scene.look(event.client, look.value))

    @property
    def port(self) -> int:
        return self._server.get_port()

    @property
    def watched(self) -> bool:
        """Whether the page is open anywhere."""
        return bool(self._server.get_clients())

    def tell(self, lines: Sequence[str], share: float, stopping: bool) -> None:
        """How far the run is."""
        self._words.content = "  \n".join(lines) or "working"
        self._bar.value = 100.0 * share
        if stopping and not self._button.disabled:
            self._button.disabled = True
            self._button.label = "Stopping after this step"

    def draw_scene(self, sight: Sight) -> None:
        """Meshes and cameras."""
        self._scene.draw(sight)

    def draw_pictures(self, sight: Sight) -> None:
        """The step's pictures on one sheet."""
        sheet, label = contact_sheet(list(sight.images.values())), f"Sources, {sight.step}"
        if self._pictures is None:
            self._pictures = self._server.gui.add_image(sheet, label=label, format="jpeg", order=4)
        else:
            self._pictures.image = sheet
            self._pictures.label = label

    def draw_curve(self, name: str, points: Sequence[tuple[str, float]]) -> None:
        """A curve over its steps: over their numbers when they have some, else over their order."""
        data = plotted(points)
        if name in self._curves:
            self._curves[name].data = data
            return
        series = viser.uplot.Series(label=name, stroke=f"rgb{ACCENT}", width=2, show=True)
        self._curves[name] = self._server.gui.add_uplot(
            data,
            (viser.uplot.Series(label="step"), series),
            title=name,
            scales={"x": viser.uplot.Scale(time=False, auto=True)},
            legend=viser.uplot.Legend(show=False),
            aspect=2.4,
            order=5 + len(self._curves),
        )

    def close(self, last_words: str) -> None:
        """Says the last words, then ends the server."""
        self._words.content = last_words
        self._button.visible = False
        self._server.flush()
        if self.watched:
            time.sleep(LAST_WORDS_S)
        stop(self._server)


@dataclass
class _Scene:
    """The world on the page: each thing is sent again only when it is another."""

    server: viser.ViserServer
    shown: Sight = field(default_factory=Sight)
    topologies: dict[str, Topology] = field(default_factory=dict)
    handles: dict[str, Any] = field(default_factory=dict)

    def draw(self, sight: Sight) -> None:
        last, self.shown = self.shown, sight
        if sight.upright is not None and sight.upright is not last.upright:
            turn = sight.upright.double().cpu().numpy()
            self.server.scene.add_frame(
                "/world",
                show_axes=False,
                wxyz=viser.transforms.SO3.from_matrix(turn[:3, :3]).wxyz,
                position=turn[:3, 3],
            )
        if sight.cameras is not None and sight.cameras is not last.cameras:
            self._draw_cameras(sight.cameras)
        if sight.meshes is last.meshes:
            return
        for name, mesh in sight.meshes.items():
            self._draw_mesh(name, mesh, sight.texture)
        if sight.meshes and not last.meshes:
            self._look_everywhere()

    def _draw_mesh(self, name: str, mesh: Mesh, texture: Tensor | None) -> None:
        path = f"/world/meshes/{name}"
        vertices = mesh.vertices.detach().float().cpu().numpy()
        if texture is not None and len(mesh.topology.uv):
            self.topologies.pop(name, None)
            textured_mesh = textured(mesh.topology, vertices, bytes_of(texture))
            self.handles[name] = self.server.scene.add_mesh_trimesh(path, textured_mesh)
        elif self.topologies.get(name) is mesh.topology:
            self.handles[name].vertices = vertices
        else:
            triangles = mesh.topology.triangles.cpu().numpy().astype(np.uint32)
            self.handles[name] = self.server.scene.add_mesh_simple(
                path, vertices, triangles, color=CLAY
            )
            self.topologies[name] = mesh.topology

    def _draw_cameras(self, cameras: Cameras) -> None:
        to_world = cameras.world_to_camera.double().inverse().cpu().numpy()
        for index, name in enumerate(cameras.names):
            width, height = cameras.size(index)
            focal = float(cameras.intrinsics[index, 1, 1])
            self.server.scene.add_camera_frustum(
                f"/world/cameras/{name}",
                2 * math.atan(height / (2 * focal)),
                width / height,
                scale=0.06,
                color=ACCENT,
                wxyz=viser.transforms.SO3.from_matrix(to_world[index, :3, :3]).wxyz,
                position=to_world[index, :3, 3],
            )

    def look(self, client: Any, at: str) -> None:
        """Puts a page's camera before the head, or so far off that the cameras are seen too."""
        middle, away = self._framing(at)
        if middle is not None and client is not None:
            client.camera.position = middle + away * HEAD_ON
            client.camera.look_at = middle

    def _look_everywhere(self) -> None:
        """At the head, on every page, also those that are opened later."""
        middle, away = self._framing("head")
        if middle is None:
            return
        self.server.initial_camera.position = middle + away * HEAD_ON
        self.server.initial_camera.look_at = middle
        for client in self.server.get_clients().values():
            self.look(client, "head")

    def _framing(self, at: str) -> tuple[NDArray[np.float64] | None, float]:
        """What to look at, and from how far; None before there is a mesh."""
        sight = self.shown
        if not sight.meshes:
            return None, 0.0
        vertices = self._upright(next(iter(sight.meshes.values())).vertices)
        middle = (vertices.min(0) + vertices.max(0)) / 2
        if at == "cameras" and sight.cameras is not None:
            centers = self._upright(sight.cameras.centers)
            return middle, 2.5 * float(np.linalg.norm(centers - middle, axis=1).max())
        return middle, 2.0 * float((vertices.max(0) - vertices.min(0)).max())

    def _upright(self, points: Tensor) -> NDArray[np.float64]:
        upright = self.shown.upright
        turn = np.eye(4) if upright is None else upright.double().cpu().numpy()
        return points.detach().double().cpu().numpy() @ turn[:3, :3].T + turn[:3, 3]


def plotted(points: Sequence[tuple[str, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Abscissae and values of a curve, ascending, thinned out to at most about `MOST_POINTS`."""
    numbered = all(step.isdecimal() for step, _ in points)
    x = np.array([float(step) if numbered else float(k) for k, (step, _) in enumerate(points)])
    y = np.array([value for _, value in points], dtype=np.float64)
    order = np.argsort(x, kind="stable")
    stride = -(-len(order) // MOST_POINTS)
    order = order[::-1][::stride][::-1]  # from the end, so that the last is there
    return x[order], y[order]


def contact_sheet(pictures: Sequence[Tensor]) -> UInt8[np.ndarray, "H W 3"]:
    """Up to `MOST_TILES` pictures as rows of tiles of one height on one dark sheet."""
    tiles = [_tile(bytes_of(picture)) for picture in pictures[:MOST_TILES]]
    across = max(1, math.ceil(math.sqrt(len(tiles))))
    rows = [tiles[k : k + across] for k in range(0, len(tiles), across)]
    width = max((sum(tile.shape[1] for tile in row) for row in rows), default=1)
    sheet = np.full((TILE_PX * max(1, len(rows)), width, 3), 24, np.uint8)
    for k, row in enumerate(rows):
        line = np.concatenate(row, 1)
        sheet[k * TILE_PX : (k + 1) * TILE_PX, : line.shape[1]] = line
    return sheet


def _tile(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    height, width = picture.shape[:2]
    size = (max(1, round(width * TILE_PX / height)), TILE_PX)
    shrinks = height > TILE_PX
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def bytes_of(picture: Tensor) -> UInt8[np.ndarray, "H W 3"]:
    """8-bit codes of an srgb picture, which may be floats in [0, 1], on the host."""
    picture = picture.detach()
    if picture.is_floating_point():
        picture = picture.clamp(0, 1).mul(255).round_()
    return np.ascontiguousarray(picture.cpu().numpy().astype(np.uint8))


def textured(
    topology: Topology, vertices: NDArray[np.float32], texture: UInt8[np.ndarray, "S S 3"]
) -> trimesh.Trimesh:
    """The mesh with its texture shown as it is, unlit: it holds the light it was filmed in.

    A vertex on a UV seam becomes one vertex for each of its UVs.
    """
    pairs = np.stack([topology.triangles.numpy(), topology.triangle_uv.numpy()], -1).reshape(-1, 2)
    unique, faces = np.unique(pairs, axis=0, return_inverse=True)
    image = Image.fromarray(texture)
    material = PBRMaterial(
        baseColorFactor=[0, 0, 0, 255],
        emissiveTexture=image,
        emissiveFactor=[1.0, 1.0, 1.0],
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    visual = TextureVisuals(uv=topology.uv.numpy()[unique[:, 1]], material=material)
    return trimesh.Trimesh(
        vertices[unique[:, 0]], faces.reshape(-1, 3), visual=visual, process=False
    )
