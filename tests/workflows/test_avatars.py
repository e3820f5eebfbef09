"""`topohead avatar`: fitted to drawn pictures of a head, then played, exported, opened, refused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from posed_person import around, painted, painted_picture, sitting, weights_of
from topohead.cli import run as cli
from topohead.core import ARKIT_52, InputError, Views
from topohead.core.splats import SH_DC
from topohead.geometry.avatars import Avatar
from topohead.geometry.binding import posed_factors
from topohead.io.avatars import RECORD, TENSORS, read_avatar, write_avatar
from topohead.io.clips import read_camera_path, read_clip
from topohead.io.expressions import Performance, write_live_link
from topohead.io.splat_ply import read_splat_ply
from topohead.io.videos import Video
from topohead.rendering.avatars import render_avatar
from topohead.rendering.bound_splats import render_factored
from topohead.rendering.mesh import rasterize
from topohead.rendering.shading import portrait_camera
from topohead.viewer.scenes import open_scene
from topohead.workflows.avatar import AnimateConfig, FitConfig, animate
from topohead.workflows.avatars import fitting, inputs, start
from topohead.workflows.avatars.start import starting_gaussians
from topohead.workflows.export import ExportConfig, export

STEPS = 60


def config(out: Path, **changes: object) -> FitConfig:
    plain = FitConfig(Path("none"), out, gaussians=5000, steps=STEPS, device="cpu", height=96)
    return fitting.resolved(replace(plain, **changes))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def person():
    return sitting()


@pytest.fixture(scope="module")
def folder(person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("avatars") / "me"
    avatar, facts = fitting.fitted(person, config(out))
    write_avatar(out, avatar, facts)
    fitting.write_bundle(out / "avatar.glb", avatar)
    return out


@pytest.fixture(scope="module")
def avatar(folder: Path) -> Avatar:
    return read_avatar(folder)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "drive.csv"
    coefficients = torch.zeros(7, 52, dtype=torch.float64)
    coefficients[:, ARKIT_52.index("jawOpen")] = torch.linspace(0, 0.6, 7)
    turn = torch.zeros(7, 3, dtype=torch.float64)
    turn[:, 0] = torch.linspace(0, 0.4, 7)
    eyes = torch.zeros(7, 2, 3, dtype=torch.float64)
    eyes[:, :, 0] = 0.2
    write_live_link(Performance(torch.arange(7) / 10.0, coefficients, turn, eyes), path)
    return path


def seen(avatar: Avatar, actions: dict[str, float], yaw: float, edge: int = 96):
    cameras = around(avatar.rig.neutral, (yaw,), edge)
    image, alpha = render_avatar(
        avatar, weights_of(actions), torch.zeros(2, 2), torch.eye(4),
        cameras.world_to_camera.float(), cameras.intrinsics.float(), (edge, edge),
    )  # fmt: skip
    return image[0], alpha[0], cameras


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a.clamp(0, 1) - b).square().mean().log10())


def truth(avatar: Avatar, actions: dict[str, float], cameras, edge: int = 96) -> torch.Tensor:
    rig = avatar.rig
    vertices = avatar.vertices(weights_of(actions)[None], torch.zeros(1, 2, 2), torch.eye(4)[None])[
        0
    ]
    return painted_picture(
        vertices, rig.topology, painted(rig.neutral), cameras.world_to_camera[0],
        cameras.intrinsics[0], (edge, edge),
    )  # fmt: skip


@pytest.mark.parametrize("yaw", [0.0, 50.0])
def test_new_views_and_expressions_look_like_the_person(avatar: Avatar, yaw: float) -> None:
    actions = {"jawOpen": 0.4, "mouthSmileLeft": 0.5}  # never played
    image, _, cameras = seen(avatar, actions, yaw)
    assert psnr(image, truth(avatar, actions, cameras)[..., :3]) > 27


def test_the_fit_is_better_than_its_start(person, avatar: Avatar) -> None:
    start = replace(
        avatar, splats=starting_gaussians(person, 5000), change=replace(
            avatar.change, colors=torch.zeros_like(avatar.change.colors),
            offsets=torch.zeros_like(avatar.change.offsets),
        ),
    )  # fmt: skip
    image, _, cameras = seen(avatar, {}, 25.0)
    before, _, _ = seen(start, {}, 25.0)
    target = truth(avatar, {}, cameras)[..., :3]
    assert psnr(image, target) > psnr(before, target) + 2


def test_no_hole_opens_and_nothing_sticks_out_at_any_extreme(avatar: Avatar) -> None:
    """All 52 actions in full, from a side each: coverage against the mesh's own outline."""
    for index, name in enumerate(ARKIT_52):
        _, alpha, cameras = seen(avatar, {name: 1.0}, (0.0, 60.0, -60.0, 150.0)[index % 4])
        mask = truth(avatar, {name: 1.0}, cameras)[..., 3]
        inner = -torch.nn.functional.max_pool2d(-mask[None, None], 5, 1, 2)[0, 0] > 0.99
        outer = torch.nn.functional.max_pool2d(mask[None, None], 7, 1, 3)[0, 0] < 0.01
        assert float(alpha[inner].min()) > 0.75, name
        assert float(alpha[outer].max()) < 0.15, name


@pytest.mark.parametrize("actions", [{}, {"jawOpen": 1.0}], ids=["rest", "jaw"])
def test_no_hole_in_a_full_turn(avatar: Avatar, actions: dict[str, float]) -> None:
    """Twelve sides at three heights, behind the ears and under the chin among them.

    Seen from below, the neck is open: what is looked into there is no hole.
    """
    rig = avatar.rig
    vertices = avatar.vertices(weights_of(actions)[None], torch.zeros(1, 2, 2), torch.eye(4)[None])
    for k in range(12):
        yaw, pitch = math.radians(30 * k), math.radians((-50.0, 0.0, 35.0)[k % 3])
        pose, lens = portrait_camera(rig.neutral, (96, 96), yaw, pitch)
        _, alpha = render_avatar(
            avatar, weights_of(actions), torch.zeros(2, 2), torch.eye(4), pose[None].float(),
            lens[None].float(), (96, 96),
        )  # fmt: skip
        raster = rasterize(vertices[0], rig.topology.triangles, pose, lens, (96, 96), cull=False)
        front = rasterize(vertices[0], rig.topology.triangles, pose, lens, (96, 96), cull=True)
        mask = (raster.triangle >= 0).float()
        inner = -torch.nn.functional.max_pool2d(-mask[None, None], 5, 1, 2)[0, 0] > 0.99
        inner &= front.triangle == raster.triangle
        outer = torch.nn.functional.max_pool2d(mask[None, None], 11, 1, 5)[0, 0] < 0.01
        assert float(alpha[0][inner].min()) > 0.7, k
        assert float(alpha[0][outer].max()) < 0.15, k


@pytest.mark.parametrize(
    ("parts", "closed", "opened"),
    [
        (("eyes",), {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}, {}),
        (("mouth_interior", "teeth", "tongue"), {}, {"jawOpen": 0.8}),
    ],
    ids=["lids", "lips"],
)
def test_lids_and_lips_close(
    avatar: Avatar, parts: tuple[str, ...], closed: dict[str, float], opened: dict[str, float]
) -> None:
    """What lies behind them, painted green, does not shine through."""
    topology, splats = avatar.rig.topology, avatar.splats
    inside = topology.region_mask(*parts)[topology.triangles].any(1)[splats.binding.triangles]
    colors = torch.where(inside[:, None], torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 0, 0]))
    painted_splats = replace(splats, harmonics=((colors - 0.5) / SH_DC)[:, None])
    none = torch.zeros_like(avatar.change.colors)
    change = replace(avatar.change, colors=none, offsets=none)
    shown = replace(avatar, splats=painted_splats, change=change)
    green = [seen(shown, actions, 0.0, 192)[0][..., 1] for actions in (closed, opened)]
    assert int((green[1] > 0.6).sum()) > 40
    assert float(green[0].max()) < 0.3


def test_a_resumed_fit_is_the_same_fit(
    person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = starting_gaussians(person, 5000)
    monkeypatch.setattr(fitting, "starting_gaussians", lambda *_: start)
    whole, _ = fitting.fitted(person, config(tmp_path / "whole", steps=8))

    class Enough(KeyboardInterrupt):
        pass

    def stopping(fit, instants, triangles, walk=fitting.splat):
        for losses in walk(fit, instants, triangles):
            yield losses
            if fit.step == 5:
                raise Enough

    out = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "splat", stopping)
        with pytest.raises(Enough):
            fitting.fitted(person, config(out, steps=8))
    assert (out / fitting.CHECKPOINT).exists()
    monkeypatch.setattr(fitting, "starting_gaussians", starting_gaussians)
    resumed, _ = fitting.fitted(person, config(out, steps=8))
    # sums of several threads differ in their last digits
    one, other = (made.splats.harmonics[:, 0] for made in (whole, resumed))
    assert float((one - other).abs().mean()) < 1e-4
    halfway, _ = fitting.fitted(person, config(tmp_path / "half", steps=5))
    assert float((one - halfway.splats.harmonics[:, 0]).abs().mean()) > 2e-3
    with pytest.raises(InputError, match="--seed 0, this one has 3"):
        fitting.fitted(person, config(out, steps=8, seed=3))


def test_a_clip_keeps_head_pose_rate_and_camera(
    folder: Path, recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "clip"
    made = animate(AnimateConfig(folder, recording, out, size=64, fps=20.0, device="cpu"))
    video, clip = Video(out / "video.mp4"), read_clip(out / "animation.npz")
    assert len(video) == made.frames == len(clip.weights) == 13
    assert video.frames_per_second == pytest.approx(20.0)
    assert clip.frames_per_second == 20.0
    last = torch.atan2(clip.poses[-1, 0, 2], clip.poses[-1, 2, 2])
    assert float(last) == pytest.approx(-0.4, abs=0.01)  # Live Link turns the other way round
    assert float(clip.gaze[0, 0, 0]) == pytest.approx(-0.2, abs=1e-5)
    again = animate(
        AnimateConfig(
            folder, recording, tmp_path / "again", camera=str(out / "animation.npz"), fps=20.0,
            device="cpu",
        )
    )  # fmt: skip
    assert again.frames == made.frames
    there = read_camera_path(tmp_path / "again" / "animation.npz")
    assert torch.allclose(there.intrinsics, clip.camera.intrinsics)
    assert torch.allclose(there.world_to_camera[:, :3, :3], clip.camera.world_to_camera[:, :3, :3])


def test_an_orbit_sees_the_back_of_the_head(folder: Path, recording: Path, tmp_path: Path) -> None:
    animate(
        AnimateConfig(folder, recording, tmp_path / "c", camera="orbit", size=48, frames=4,
                      device="cpu")
    )  # fmt: skip
    ways = read_clip(tmp_path / "c" / "animation.npz").camera.world_to_camera[:, 2, :3]
    assert torch.allclose(ways[0] @ ways.T, torch.tensor([1.0, 0, -1, 0]).double(), atol=1e-6)


def test_avatars_export_and_open(folder: Path, avatar: Avatar, tmp_path: Path) -> None:
    export(ExportConfig(folder, "ply", tmp_path / "ply", layout="3dgs"))
    splats = read_splat_ply(tmp_path / "ply" / "me.ply")
    assert len(splats.means) == len(avatar.splats)
    assert splats.harmonics.shape[1] == 4
    assert float(splats.means[:, 1].mean()) == pytest.approx(  # y down
        -float(avatar.rig.neutral[:, 1].mean()), abs=0.03
    )
    export(ExportConfig(folder, "glb", tmp_path / "glb"))
    for path in (folder, tmp_path / "glb"):
        (subject,) = open_scene(path).subjects
        assert subject.document["kind"] == "bundle"


def test_clips_export_as_cap4d_plays_them(folder: Path, recording: Path, tmp_path: Path) -> None:
    from topohead.io.animated_ply import read_animated_ply

    animate(AnimateConfig(folder, recording, tmp_path / "clip", size=32, frames=3, device="cpu"))
    export(ExportConfig(tmp_path / "clip", "ply", tmp_path / "cap4d", layout="cap4d"))
    clip = read_animated_ply(tmp_path / "cap4d" / "clip_animation.ply")
    avatar, played = read_avatar(folder), read_clip(tmp_path / "clip" / "animation.npz")
    posed = avatar.vertices(played.weights, played.gaze, played.poses.float())
    assert float((clip.vertices * torch.tensor([1.0, -1, -1]) - posed).abs().max()) < 1e-5
    assert len(clip.splats) == len(avatar.splats)


def test_without_mattes_the_mesh_says_where_the_person_is() -> None:
    bare = sitting(48, masks=False)
    found = inputs.matted(bare)
    assert found.counted is not None
    own = sitting(48).posed.views[0].masks
    assert own is not None
    assert float((found.counted[0][1] - own[1]).abs().mean()) < 0.03
    assert inputs.matted(found) is found


def test_farthest_expressions_are_chosen() -> None:
    weights = torch.zeros(5, 52)
    weights[:, 3] = torch.tensor([0.0, 0.1, 1.0, 0.9, 0.5])
    assert inputs.spread([0, 1, 2, 3, 4], weights, 3) == [0, 2, 4]
    assert inputs.spread([1, 2], weights, 3) == [1, 2]


def test_wrong_inputs_are_told_in_a_line(
    person, folder: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posed = person.posed
    with pytest.raises(InputError, match="2 instants with pictures but"):
        replace(posed, views=posed.views[:2])
    with pytest.raises(InputError, match="vertices for a topology of"):
        replace(posed, vertices=posed.vertices[:, :100])
    small = tuple(image[:50] for image in posed.views[0].images)
    view = Views("000001", posed.views[0].cameras, small)
    with pytest.raises(InputError, match="'cam0' has pictures of"):
        replace(posed, views=(view, *posed.views[1:]))
    with pytest.raises(InputError, match="no camera has a picture"):
        replace(posed, views=(Views("1", posed.views[0].cameras.select([]), ()), *posed.views[1:]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "tracks").mkdir()
    for name in ("face.mp4", "tracks/fit.npz"):
        (tmp_path / name).touch()
    lines = {
        ("fit", str(tmp_path / "nothing"), "--out", "x"): "no such file or folder",
        ("fit", str(tmp_path / "empty"), "--out", "x"): "holds no pictures and no run",
        ("fit", str(tmp_path / "face.mp4"), "--out", "x"): "no cameras and no tracked head",
        ("fit", str(tmp_path / "tracks"), "--out", "x"): "tracks (fit.npz) and no pictures",
        ("fit", "run", "--out", str(tmp_path / "mine")): "'thesis.tex' and no avatar",
        ("fit", "run", "--out", str(tmp_path / "y"), "--steps", "0"): "--steps",
        ("animate", str(tmp_path), "--drive", "d", "--out", "x"): "holds no avatar",
        ("animate", str(folder), "--drive", "no.csv", "--out", "x"): "no such file",
        ("animate", str(folder), "--drive", str(tmp_path / "face.mp4"), "--out", "x"): (
            "in which nobody tracked a face"
        ),
        ("animate", str(folder), "--drive", str(recording), "--out", str(tmp_path / "z"),
         "--camera", "cam9"): "--camera cam9",
    }  # fmt: skip
    for words, told in lines.items():
        assert cli(["avatar", *words]) == 2, words
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1, said
    assert cli(["avatar", "marry"]) == 2
    assert "unknown verb 'avatar marry'" in capsys.readouterr().err


def test_cameras_that_are_not_rigid_and_strange_archives_are_refused(tmp_path: Path) -> None:
    extr = np.eye(4)[None] * np.array([2.0, 2, 2, 1])
    lens = {name: np.ones((1, 1)) for name in ("fx", "fy", "cx", "cy")}
    np.savez(tmp_path / "o.npz", extr=extr, resolution=np.array([8, 8]), **lens)
    with pytest.raises(InputError, match="not rigid"):
        read_camera_path(tmp_path / "o.npz")
    np.savez(tmp_path / "p.npz", extr=extr)
    with pytest.raises(InputError, match="no array 'fx'"):
        read_camera_path(tmp_path / "p.npz")
    (tmp_path / "q.npz").write_text("<html>")
    with pytest.raises(InputError, match="npz"):
        read_camera_path(tmp_path / "q.npz")


def test_broken_avatars_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes((folder / RECORD).read_bytes())
    tensors = load_file(folder / TENSORS)
    broken = dict(tensors)
    broken["splats.triangles"] = tensors["splats.triangles"] + 10_000
    save_file(broken, tmp_path / TENSORS)
    with pytest.raises(InputError, match="is bound to triangle"):
        read_avatar(tmp_path)
    broken = dict(tensors) | {"topology.faces": tensors["topology.faces"].flip(0)}
    save_file(broken, tmp_path / TENSORS)
    with pytest.raises(InputError, match="of different avatars"):
        read_avatar(tmp_path)
    (tmp_path / TENSORS).write_bytes(b"<html>")
    with pytest.raises(InputError, match="cannot be read"):
        read_avatar(tmp_path)


def test_discs_are_set_in_so_that_round_heads_keep_their_outline(
    person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands over the mesh's outline from two sides, with and without."""
    rig, stands = person.rig, {}
    cameras = around(rig.neutral, (0.0, 60.0), 96)
    for depth in (0.0, start.INSET):
        monkeypatch.setattr(start, "INSET", depth)
        splats = starting_gaussians(person, 5000)
        means, factors = posed_factors(splats.binding, rig.topology.triangles, rig.neutral)
        colors = torch.ones(2, len(means), 3)
        views = cameras.world_to_camera.float(), cameras.intrinsics.float()
        _, alphas = render_factored(means, factors, splats.opacities, colors, *views, (96, 96))
        masks = [
            painted_picture(rig.neutral, rig.topology, painted(rig.neutral), pose, lens, (96, 96))[
                ..., 3
            ]
            for pose, lens in zip(cameras.world_to_camera, cameras.intrinsics, strict=True)
        ]
        stands[depth] = float((alphas - torch.stack(masks)).clamp(min=0).sum())
        assert float(alphas[:, 48, 48].min()) > 0.9
    assert stands[start.INSET] < 0.85 * stands[0.0]
