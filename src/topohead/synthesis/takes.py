"""A staged take: a person, a performance, a rig and light, filmed frame by frame."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Rig, Strands
from topohead.geometry.cameras import project_through_lens
from topohead.io.expressions import read_live_link
from topohead.models.linear import LinearHead
from topohead.rendering.mesh import interpolate, rasterize, rasterize_uv
from topohead.synthesis import performances, render, rigs, skin, subjects
from topohead.synthesis.blood import blood_change, flushed
from topohead.synthesis.canvas import Canvas
from topohead.synthesis.charts import Chart, place_charts
from topohead.synthesis.lights import Lighting
from topohead.synthesis.looks import with_roots
from topohead.synthesis.noise import Noise
from topohead.synthesis.performances import Motion
from topohead.synthesis.props import dentures, joined, neck_plug
from topohead.synthesis.render import LitHead, Materials
from topohead.synthesis.rigs import RigSettings, StageRig
from topohead.synthesis.sensors import Sensor, expose, noise_key
from topohead.synthesis.skin import SkinMaps, SkinParameters
from topohead.synthesis.stage_hair import StageHair, stage_hair, tubes
from topohead.synthesis.subjects import Subject, Surfaces
from topohead.synthesis.teeth import Teeth, has_bands, make_teeth

LANDMARK_PIXELS = 1.5
"""Standard deviation of a detector's landmarks, pixels of a picture of 512 on its long side."""

FRONTAL = 65.0
"""Degrees to a side up to which a landmark detector works."""


@dataclass(frozen=True)
class Optics:
    """How pictures are taken, beside the rig.

    `background` is linear light behind the head, `shutter` the open share of a frame's time,
    `blur` the lens's in pixels, `noise` a factor on the sensor's usual noise.
    """

    supersampling: int = 3
    gloss: float = 1.0
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shutter: float = 0.0
    blur: float = 0.45
    noise: float = 1.0


@dataclass(frozen=True)
class Take:
    """Everything that is fixed before the first frame.

    Pictures are made where the materials are; the subject, and so all truth, stays on the host.
    """

    seed: int
    subject: Subject
    skin: SkinParameters
    maps: SkinMaps
    materials: Materials
    motion: Motion
    rig: StageRig
    lighting: Lighting
    optics: Optics
    charts: tuple[Chart, ...] = ()
    blood_flow: float = 0.0
    teeth: Teeth | None = None
    hair: StageHair | None = None

    def strands(self, motion: Motion, frame: int, surfaces: Surfaces) -> Strands | None:
        """Hair on scalp and face in one frame of a motion, in the world; None without."""
        if self.hair is None:
            return None
        pose = (motion.poses[frame] @ self.subject.place).float()
        posed = (surfaces.vertices - pose[:3, 3]) @ pose[:3, :3]
        return self.hair.worn(self.subject.rest, posed, pose)

    def light(self, motion: Motion, frame: int) -> tuple[Surfaces, LitHead]:
        """The head in one frame of a motion, and the light on it."""
        surfaces = self.subject.at(motion, frame)
        extras = [neck_plug(self.subject, surfaces)]
        if self.teeth is not None:
            extras.append(dentures(self.teeth, self.subject, surfaces))
        strands = self.strands(motion, frame, surfaces)
        if strands is not None:
            extras.append(tubes(strands))
        blockers = (surfaces.vertices, self.subject.blockers)
        device = self.materials.atlas.device
        finer, surface = self.subject.finer, surfaces.surface
        lit = render.light_head(
            finer, surface, blockers, joined(extras), self.lighting, device=device
        )
        if strands is not None:
            lit = replace(lit, marked=len(extras[-1].triangles))
        if self.blood_flow:
            change = blood_change(self.subject, surfaces, self.blood_flow)
            lit = replace(lit, light=flushed(lit.light, change))
        return surfaces, lit


@dataclass(frozen=True)
class Picture:
    """One camera's stored picture (srgb), the true coverage of the subject, and that of hair."""

    camera: str
    image: Float[Tensor, "H W 3"]
    mask: Float[Tensor, "H W"]
    hair: Float[Tensor, "H W"] | None = None


def make_motion(
    count: int,
    frames_per_second: float,
    seed: int,
    performance: Path | None,
    start: float | None,
) -> Motion:
    """The faces of a take, head at rest: from a Live Link CSV, or scripted."""
    if performance is None:
        return performances.scripted(count, frames_per_second, seed)
    return performances.recorded(read_live_link(performance), count, frames_per_second, start)


def make_take(
    head: LinearHead,
    motion: Motion,
    rig: RigSettings,
    lighting: Lighting,
    optics: Optics,
    seed: int,
    texture_size: int = 2048,
    identity_scale: float = 0.8,
    field_mm: float = 1.2,
    relief_mm: float = 0.12,
    head_motion_mm: float = 3.0,
    asymmetry: Float[Tensor, "A V 3"] | None = None,
    charts: bool = False,
    blood_flow: float = 0.0,
    device: torch.device | str = "cpu",
    hair: str | None = None,
) -> Take:
    """A take of a random person; the head sways by `head_motion_mm` a frame (0: still).

    `charts` paints resolution charts on the skin. Skin and pictures are made on `device`. `hair`
    is a kind of `stage_hair`; without it people are bald or cropped, in the skin's picture alone.
    """
    if not 1 <= optics.supersampling <= 8:
        raise InputError(f"--supersampling is 1 to 8, got {optics.supersampling}")
    if not 128 <= texture_size <= 8192:
        raise InputError(f"--texture-size is 128 to 8192 texels, got {texture_size}")
    subject = subjects.make_subject(head, seed, identity_scale, field_mm, relief_mm, asymmetry)
    extent = subject.rest.amax(0) - subject.rest.amin(0)
    pivot = torch.tensor([0.0, -0.3 * float(extent[1]), -0.02])
    motion = performances.with_head_motion(motion, pivot, seed, head_motion_mm)
    parameters = skin.random_skin(seed)
    stars = place_charts(head) if charts else ()
    there = replace(head, template=head.template.to(device))
    grown = None
    if hair is not None:
        grown, parameters = stage_hair(head, parameters, hair, seed)
    maps = skin.paint(there, parameters, seed, texture_size, stars)
    if grown is not None and grown.wig is not None:
        maps = with_roots(maps, Canvas(there), grown.groom, seed)
    target, height = _framing(subject)
    stage_rig = rigs.build_rig(rig, target, height, seed)
    return Take(
        seed,
        subject,
        parameters,
        maps.to("cpu"),
        Materials.of(maps).to(device),
        motion,
        stage_rig,
        lighting,
        optics,
        stars,
        blood_flow,
        make_teeth(head, parameters, seed) if has_bands(head) else None,
        grown,
    )


def _framing(subject: Subject) -> tuple[Float[Tensor, "3"], float]:
    """Where cameras aim in the world and how tall the head is, chin to crown.

    Shoulders and neck are let out of the picture, as rigs for faces do.
    """
    points = subject.head.topology.landmarks["ibug68"]
    corners = subject.rest[subject.head.topology.triangles[points.triangles[8]]]
    chin = float((corners * points.barycentrics[8][:, None]).sum(0)[1])
    head = subject.rest[subject.rest[:, 1] > chin].double()
    middle = (head.amin(0) + head.amax(0)) / 2
    place = subject.place
    return place[:3, :3] @ middle + place[:3, 3], float(head[:, 1].max()) - chin


def film(take: Take, frame: int) -> Iterator[Picture]:
    """The pictures of one frame, camera by camera; each depends on seed, frame and camera only."""
    instants = [lit for _, lit in _instants(take, frame)]
    rig = take.rig.exact
    for index, name in enumerate(rig.cameras.names):
        views = [
            render.render_view(
                lit,
                take.materials,
                rig.cameras.world_to_camera[index],
                rig.cameras.intrinsics[index],
                rig.distortion[index],
                rig.cameras.size(index),
                take.optics.supersampling,
                take.optics.gloss,
            )
            for lit in instants
        ]
        color = sum((view[0] for view in views[1:]), views[0][0]) / len(views)
        coverage = sum((view[1] for view in views[1:]), views[0][1]) / len(views)
        picture = develop(take, frame, index, name, color, coverage)
        yield picture if take.hair is None else replace(picture, hair=_hair(take, instants, index))


def _hair(take: Take, instants: list[LitHead], index: int) -> Float[Tensor, "H W"]:
    """How much of each pixel of a camera shows hair, by its own triangles."""
    rig = take.rig.exact
    view = (rig.cameras.world_to_camera[index], rig.cameras.intrinsics[index],
            rig.distortion[index], rig.cameras.size(index))  # fmt: skip
    shown = [render.marked_coverage(lit, *view, take.optics.supersampling) for lit in instants]
    return sum(shown[1:], shown[0]) / len(shown)


def develop(
    take: Take,
    frame: int,
    index: int,
    name: str,
    color: Float[Tensor, "H W 3"],
    coverage: Float[Tensor, "H W"],
) -> Picture:
    """The stored picture of linear, premultiplied light from any renderer."""
    light = color + color.new_tensor(take.optics.background) * (1 - coverage[..., None])
    response = take.rig.response
    sensor = Sensor(
        response.gain[index],
        response.offset[index],
        float(response.vignetting[index]),
        take.optics.blur,
        0.0015 * take.optics.noise,
        0.006 * take.optics.noise,
    )
    center = take.rig.exact.cameras.intrinsics[index, :2, 2].tolist()
    image = expose(light, sensor, (center[0], center[1]), noise_key(take.seed, 51, frame, index))
    return Picture(name, image, coverage)


def _instants(take: Take, frame: int) -> Iterator[tuple[Surfaces, LitHead]]:
    """The lit head at the frame's time, or at several times while the shutter is open."""
    if take.optics.shutter <= 0:
        yield take.light(take.motion, frame)
        return
    for part in (-0.375, -0.125, 0.125, 0.375):
        yield take.light(take.motion.at(frame + part * take.optics.shutter), 0)


def landmarks(take: Take, frame: int) -> dict[str, dict[int, tuple[float, float]]]:
    """What a landmark detector would say of a frame: visible points of frontal cameras, noisy.

    Pixels of the stored pictures. Points of the outline (0–16) wander twice as far as others.
    """
    rig, surfaces = take.rig.exact, take.subject.at(take.motion, frame)
    points, normals = _landmark_points(take.subject, surfaces)
    pixels, depth = project_through_lens(rig, points)
    found: dict[str, dict[int, tuple[float, float]]] = {}
    facing = (take.motion.poses[frame] @ take.subject.place)[:3, 2]
    for index, name in enumerate(rig.cameras.names):
        towards = rig.cameras.centers[index] - points.mean(0)
        towards = towards / towards.norm()
        if float(torch.rad2deg(torch.acos((towards * facing).sum().clamp(-1, 1)))) > FRONTAL:
            continue
        visible = _visible(rig, index, surfaces, take.subject, pixels[index], depth[index])
        visible &= (normals @ towards) > 0.05
        width, height = rig.cameras.size(index)
        sigma = LANDMARK_PIXELS * max(width, height) / 512
        random = np.random.default_rng([take.seed, 52, frame, index])
        noise = torch.tensor(random.normal(0, sigma, (68, 2)))
        noise[:17] *= 2
        noisy = pixels[index] + noise
        found[name] = {
            i: (round(float(noisy[i, 0]), 2), round(float(noisy[i, 1]), 2))
            for i in torch.nonzero(visible)[:, 0].tolist()
        }
    return found


def _landmark_points(
    subject: Subject, surfaces: Surfaces
) -> tuple[Float[Tensor, "68 3"], Float[Tensor, "68 3"]]:
    """Landmarks on the filmed surface and its normals there, world."""
    topology = subject.head.topology
    marks = topology.landmarks["ibug68"]
    corners = topology.triangles[marks.triangles]
    weight = marks.barycentrics[..., None].double()
    points = (surfaces.vertices[corners].double() * weight).sum(1)
    normals = (surfaces.normals[corners].double() * weight).sum(1)
    return points, torch.nn.functional.normalize(normals, dim=1)


def _visible(
    rig: Rig,
    index: int,
    surfaces: Surfaces,
    subject: Subject,
    pixels: Float[Tensor, "N 2"],
    depth: Float[Tensor, " N"],
) -> Tensor:
    """Which points are inside the picture and not behind the head (by 3 mm)."""
    cameras = rig.cameras
    bent = render.bend(surfaces.vertices, cameras.world_to_camera[index], rig.distortion[index])
    size = cameras.size(index)
    raster = rasterize(
        bent, subject.blockers, torch.eye(4).double(), cameras.intrinsics[index], size
    )
    column, row = pixels.floor().long().unbind(1)
    inside = (column >= 0) & (row >= 0) & (column < size[0]) & (row < size[1])
    column, row = column.clamp(0, size[0] - 1), row.clamp(0, size[1] - 1)
    return inside & (depth < raster.depth[row, column].double() + 0.003)


def start_noise(
    take: Take, vertices: Float[Tensor, "V 3"], millimetres: float
) -> Float[Tensor, "V 3"]:
    """The vertices off by a smooth random field of that rms: a scan registered a little wrongly."""
    field = Noise(take.seed + 1000).smooth(vertices, 0.04, "start", 3)
    return vertices + field * (millimetres / 1000 / field.norm(dim=1).square().mean().sqrt())


def lit_texture(take: Take, lit: LitHead) -> Float[Tensor, "S S 3"]:
    """Linear diffuse light that each texel sends out, without gloss, in the topology's UVs."""
    finer, size = take.subject.finer, len(take.maps.height)
    irradiance = lit.light.irradiance[: finer.vertex_count]
    raster = rasterize_uv(finer.uv.to(irradiance.device), finer.triangle_uv, (size, size))
    light = interpolate(irradiance, finer.triangles, raster)
    return take.maps.albedo.to(light.device) * light / np.pi
