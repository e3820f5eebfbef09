"""Pictures of a run: what a camera saw beside what came back, and errors on the face."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Capture
from topohead.geometry.cameras import project
from topohead.geometry.meshes import vertex_normals
from topohead.io.results import RunResult
from topohead.io.textures import StoredTexture
from topohead.io.undistortion import undistorted_views
from topohead.rendering.mesh import Raster, interpolate, rasterize
from topohead.rendering.shading import portrait_camera, render_mesh

TILE = (360, 460)
"""Width and height of a picture; shown at half of it on dense screens."""

SMALL_TILE = (216, 276)
"""Of pictures that are shown six in a row."""

BACKDROP = (0.125, 0.135, 0.15)
"""A dark studio behind renders: calm beside photos, in light and dark pages alike."""

ERROR_STOPS = ("#e6e1d8", "#f0c66f", "#e5804a", "#b93a5c", "#54205f")
"""Colours of errors from none to the scale's end; lightness falls all the way."""

WIRE = (0.55, 0.95, 1.0)
BORDER = (1.0, 0.42, 0.32)
"""Colours of the mesh's edges over a photo, and of the borders of lips, lids and brows."""


def data_uri(image: Float[Tensor, "H W 3"], quality: int = 84) -> str:
    """A JPEG of an srgb picture as text that an <img> reads."""
    pixels = (image.clamp(0, 1).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels),
                              [cv2.IMWRITE_JPEG_QUALITY, quality])  # fmt: skip
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


@dataclass(frozen=True)
class Tiles:
    """One frame: the photo under the wire mesh, the photo as it is (both None without the take),
    the textured mesh (None without a texture) and the clay, all through one camera."""

    frame: str
    camera: str
    overlay: str | None
    photo: str | None
    textured: str | None
    clay: str


@dataclass(frozen=True)
class Studio:
    """Knows where the face is and looks, so that any world can be shown upright."""

    run: RunResult
    capture: Capture | None
    _kept: dict[StoredTexture, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def face(self) -> Tensor:
        """The face's vertex numbers, all when none are named."""
        if "face" in self.run.topology.regions:
            return self.run.topology.regions["face"]
        return torch.arange(self.run.topology.vertex_count)

    @cached_property
    def cameras(self) -> Cameras | None:
        if self.run.rig is not None:
            return self.run.rig.cameras
        return None if self.capture is None else self.capture.rig.cameras

    @cached_property
    def axes(self) -> Float[Tensor, "3 3"]:
        """Columns: the face's left, up and front in the world, at the first frame."""
        first = self.run.vertices[0].double()
        normals = vertex_normals(first, self.run.topology.triangles)
        front, up = normals[self.face].mean(0), torch.tensor([0.0, 1.0, 0.0]).double()
        regions = self.run.topology.regions
        if self.cameras is not None and "face" not in regions:
            front = self.cameras.centers.double().mean(0) - first.mean(0)
        if self.cameras is not None:
            up = _common_up(self.cameras)
        if "brows" in regions and "lips" in regions:
            up = first[regions["brows"]].mean(0) - first[regions["lips"]].mean(0)
        elif self.cameras is None:
            front = normals.new_tensor([0.0, 0.0, 1.0])
        front = torch.nn.functional.normalize(front, dim=0)
        left = torch.nn.functional.normalize(torch.linalg.cross(up, front), dim=0)
        return torch.stack([left, torch.linalg.cross(front, left), front], 1)

    @cached_property
    def best_camera(self) -> str | None:
        """The camera that looks most straight at the face in the first frame."""
        if self.cameras is None:
            return None
        center = self.run.vertices[0, self.face].double().mean(0)
        toward = torch.nn.functional.normalize(self.cameras.centers.double() - center, dim=-1)
        return self.cameras.names[int((toward @ self.axes[:, 2]).argmax())]

    def quarter_turns(self, world_to_camera: Float[Tensor, "4 4"]) -> int:
        """How often to turn this camera's picture anticlockwise until the face stands upright."""
        up = world_to_camera[:3, :3].double() @ self.axes[:, 1]
        # the picture's y runs down; angle from its upward direction, clockwise
        angle = torch.atan2(up[0], -up[1])
        return round(float(angle) / (torch.pi / 2)) % 4

    def _texture(self, stored: StoredTexture) -> Float[Tensor, "S S 3"]:
        """The picture, kept while it is asked for again: many frames may share one."""
        if stored not in self._kept:
            self._kept.clear()
            self._kept[stored] = stored.read()
        return self._kept[stored]

    def tiles(self, index: int) -> Tiles:
        """The pictures of one frame."""
        name = self.best_camera
        if name is None:
            pose, intrinsics = self._portrait(index, 0.0)
            return self._rendered(index, pose, intrinsics, 0, None, "portrait")
        views = None
        if self.capture is not None and name in self.capture.rig.cameras.names:
            views = undistorted_views(self.capture, self.run.frames[index], [name])
        photo = views.images[0] if views is not None and views.images else None
        assert self.cameras is not None
        cameras = views.cameras if photo is not None and views else self.cameras.select([name])
        pose, intrinsics = cameras.world_to_camera[0], cameras.intrinsics[0].double().clone()
        intrinsics[0, 1] = 0
        turns = self.quarter_turns(pose)
        size = _tile_before(turns)
        crop = self._crop(index, cameras, size)
        if photo is not None:
            photo = _warped(photo, crop, size)
        return self._rendered(index, pose, crop @ intrinsics, turns, photo, name)

    def _rendered(
        self,
        index: int,
        pose: Float[Tensor, "4 4"],
        intrinsics: Float[Tensor, "3 3"],
        turns: int,
        photo: Float[Tensor, "H W 3"] | None,
        camera: str,
    ) -> Tiles:
        run = self.run
        vertices, texture = run.vertices[index], run.texture(run.frames[index])
        scene = (pose, intrinsics, _tile_before(turns))

        def shown(picture: Tensor) -> str:
            return data_uri(torch.rot90(picture, turns))

        wired = None if photo is None else self._wired(photo, vertices, pose, intrinsics)
        textured = None
        if texture is not None and len(run.topology.uv):
            textured = render_mesh(vertices, run.topology, self._texture(texture), *scene,
                                   shading="texture", background=BACKDROP)  # fmt: skip
        clay = render_mesh(vertices, run.topology, None, *scene, background=BACKDROP)
        return Tiles(
            frame=run.frames[index],
            camera=camera,
            overlay=None if wired is None else shown(wired),
            photo=None if photo is None else shown(photo),
            textured=None if textured is None else shown(textured),
            clay=shown(clay),
        )

    def _crop(self, index: int, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "3 3"]:
        """Pixels of the picture to pixels of a tile that the face fills, with some room around."""
        points = self.run.vertices[index, self.face].double()
        pixels = project(cameras, points)[0][0].double()
        low, high = pixels.quantile(0.01, dim=0), pixels.quantile(0.99, dim=0)
        # a start mesh may be a whole head: with no face named, frame it tightly as it is
        room = 1.45 if "face" in self.run.topology.regions else 1.1
        wanted = torch.tensor(size, dtype=torch.float64)
        scale = float((wanted / ((high - low) * room)).min())
        shift = wanted / 2 - scale * (low + high) / 2
        crop = torch.diag(torch.tensor([scale, scale, 1.0], dtype=torch.float64))
        crop[:2, 2] = shift
        return crop

    def _wired(
        self,
        photo: Float[Tensor, "H W 3"],
        vertices: Float[Tensor, "V 3"],
        pose: Float[Tensor, "4 4"],
        intrinsics: Float[Tensor, "3 3"],
    ) -> Float[Tensor, "H W 3"]:
        """The photo with the visible edges of the mesh over it, hidden lines removed."""
        height, width = photo.shape[:2]
        topology = self.run.topology
        raster = rasterize(vertices, topology.triangles, pose, intrinsics, (width, height))
        pixels, visible = visible_pixels(vertices, raster.depth, pose, intrinsics)
        edges = topology.edges[visible[topology.edges].all(1)]
        length = (pixels[edges[:, 0]] - pixels[edges[:, 1]]).norm(dim=-1)
        # lines a few pixels apart would hide the photo: the denser, the fainter
        dense = min(1.0, float(length.median()) / 9) if len(length) else 1.0
        photo = inked(photo, list(pixels[edges]), WIRE, 0.45 * dense)
        return inked(photo, self._borders(raster), BORDER, 0.9)

    def _borders(self, raster: Raster) -> list[Float[Tensor, "N 2"]]:
        """Outlines, in pixels, of lips, lids and brows as far as they are seen."""
        lines = []
        for name in ("lips", "eyelids", "brows"):
            if name not in self.run.topology.regions:
                continue
            inside = self.run.topology.region_mask(name).float()[:, None]
            seen = interpolate(inside, self.run.topology.triangles, raster)[..., 0].numpy()
            fine = cv2.resize(seen, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
            found, _ = cv2.findContours(
                (fine > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
            )
            # shorter ones are specks between lashes or teeth
            longer = (torch.from_numpy(c[:, 0]) for c in found if len(c) > 40)
            lines += [(torch.cat([c, c[:1]]) + 0.5) / 4 for c in longer]
        return lines

    def _portrait(
        self, index: int, yaw: float, size: tuple[int, int] = TILE
    ) -> tuple[Tensor, Tensor]:
        """A camera that frames the face from this angle, whatever the world's axes."""
        to_face = torch.eye(4, dtype=torch.float64)
        to_face[:3, :3] = self.axes.T
        points = self.run.vertices[index, self.face].double() @ self.axes
        pose, intrinsics = portrait_camera(points, size, yaw=yaw, margin=1.3)
        return pose @ to_face, intrinsics

    def clay_views(self, vertices: Float[Tensor, "V 3"]) -> list[str]:
        """A mesh of the run's topology as clay: the face from its right, front and left."""
        views = []
        for yaw in (-0.75, 0.0, 0.75):
            pose, intrinsics = self._portrait(0, yaw, SMALL_TILE)
            scene = (vertices, self.run.topology, None, pose, intrinsics, SMALL_TILE)
            views.append(data_uri(render_mesh(*scene, background=BACKDROP), 88))
        return views

    def error_views(
        self,
        errors_mm: Float[Tensor, " N"],
        vertices: Tensor,
        largest: float,
        index: int,
        size: tuple[int, int] = TILE,
    ) -> list[str]:
        """The face from its right, front and left, coloured by an error a vertex; rest grey."""
        colors = torch.full((self.run.topology.vertex_count, 3), 0.42)
        colors[vertices] = error_colors(errors_mm / largest)
        views = []
        for yaw in (-0.75, 0.0, 0.75):
            pose, intrinsics = self._portrait(index, yaw, size)
            picture = render_mesh(
                self.run.vertices[index],
                self.run.topology,
                colors,
                pose,
                intrinsics,
                size,
                shading="colors",
                background=BACKDROP,
            )
            views.append(data_uri(picture, 88))
        return views


def _common_up(cameras: Cameras) -> Float[Tensor, " 3"]:
    """The upward direction on which most cameras agree; sensors mounted on their side do not."""
    ups = -cameras.world_to_camera[:, 1, :3].double()
    agreeing = (ups @ ups.T) > 0.7
    return ups[agreeing[int(agreeing.sum(1).argmax())]].mean(0)


def _tile_before(turns: int) -> tuple[int, int]:
    """A tile's size in the camera's own picture, before it is turned upright."""
    return TILE if turns % 2 == 0 else (TILE[1], TILE[0])


def inked(
    photo: Float[Tensor, "H W 3"],
    lines: Sequence[Float[Tensor, "_ 2"]],
    color: Sequence[float],
    ink: float,
) -> Float[Tensor, "H W 3"]:
    """The photo with antialiased lines through pixel positions, `ink` of their colour."""
    mask = np.zeros(photo.shape[:2], np.uint8)
    # OpenCV counts from pixel centres, in sixteenths here
    ends = [(line.numpy() * 16 - 8).round().astype(np.int32) for line in lines]
    cv2.polylines(mask, ends, False, 255, 1, cv2.LINE_AA, 4)
    share = ink * torch.from_numpy(mask.astype(np.float32) / 255)[..., None]
    return photo * (1 - share) + torch.tensor(color) * share


def visible_pixels(
    vertices: Float[Tensor, "V 3"],
    depth: Float[Tensor, "H W"],
    pose: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    slack: float = 0.002,
) -> tuple[Float[Tensor, "V 2"], Tensor]:
    """Pixels of vertices, and which of them [V] the depth map does not hide."""
    height, width = depth.shape
    local = vertices.double() @ pose[:3, :3].double().T + pose[:3, 3].double()
    pixels = local @ intrinsics.double().T
    pixels = pixels[:, :2] / pixels[:, 2:]
    column, row = pixels.floor().long().unbind(1)
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    front = depth[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return pixels, inside & (local[:, 2] > 0) & (local[:, 2] < front + slack)


def error_colors(share: Float[Tensor, " N"]) -> Float[Tensor, "N 3"]:
    """Colours of errors as shares of the scale's end; beyond it the last colour."""
    stops = torch.tensor([[int(stop[k : k + 2], 16) / 255 for k in (1, 3, 5)]
                          for stop in ERROR_STOPS])  # fmt: skip
    place = share.float().clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp(max=len(stops) - 2)
    return torch.lerp(stops[low], stops[low + 1], (place - low)[:, None])


def _warped(
    photo: Float[Tensor, "H W 3"], crop: Float[Tensor, "3 3"], size: tuple[int, int]
) -> Float[Tensor, "h w 3"]:
    """The part of a photo that a tile shows; shrinks by area first, so that nothing aliases."""
    scale = float(crop[0, 0])
    picture = photo.numpy()
    if scale < 1:
        small = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    remaining = crop.numpy() @ np.diag(
        [photo.shape[1] / picture.shape[1], photo.shape[0] / picture.shape[0], 1.0]
    )
    # OpenCV's pixel centres are integers, ours half-integers
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    matrix = (np.linalg.inv(half) @ remaining @ half)[:2]
    warped = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR,
                            borderMode=cv2.BORDER_CONSTANT, borderValue=BACKDROP)  # fmt: skip
    return torch.from_numpy(warped)


def chosen_frames(
    count: int, doubtful: Sequence[int], worst: Sequence[int], most: int = 6
) -> list[int]:
    """Frames for the contact sheet: evenly spread with both ends, and those that need a look."""
    needed = list(dict.fromkeys([*worst, *doubtful]))[: most // 2]
    spread = [round(k) for k in np.linspace(0, count - 1, min(count, most - len(needed)))]
    return sorted({*spread, *needed})
