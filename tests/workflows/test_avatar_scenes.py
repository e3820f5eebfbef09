"""Calibrated takes with a mesh of the head: nerfstudio's, ours; and what is no such thing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cap4d_photos import write_photos
from flame_pickle import planted_flame, write_flame
from posed_person import sitting
from topohead.cli import run as cli
from topohead.core import InputError, Mesh
from topohead.io.images import write_image
from topohead.io.meshes import write_obj
from topohead.workflows.avatars.inputs import Sitting
from topohead.workflows.avatars.photos import tracked_sitting
from topohead.workflows.avatars.refusals import check_agreement
from topohead.workflows.avatars.scenes import scene_sitting

EDGE = 96


@pytest.fixture(scope="module")
def person() -> Sitting:
    return sitting(EDGE)


@pytest.fixture(scope="module")
def scene(person: Sitting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first instant as nerfstudio has it, and the head's mesh beside it."""
    folder = tmp_path_factory.mktemp("scene")
    view, entries = person.posed.views[0], []
    for c, name in enumerate(view.cameras.names):
        write_image(folder / "images" / f"{name}.png", view.images[c])
        to_world = np.linalg.inv(view.cameras.world_to_camera[c].double().numpy())
        lens = view.cameras.intrinsics[c]
        entries.append(
            {"file_path": f"images/{name}.png", "w": EDGE, "h": EDGE,
             "fl_x": float(lens[0, 0]), "fl_y": float(lens[1, 1]),
             "cx": float(lens[0, 2]), "cy": float(lens[1, 2]),
             "transform_matrix": (to_world @ np.diag([1.0, -1, -1, 1])).tolist()}
        )  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps({"frames": entries}))
    write_obj(Mesh(person.posed.topology, person.posed.vertices[0]), folder / "head.obj")
    return folder


def test_a_nerfstudio_scene_with_a_head(person: Sitting, scene: Path) -> None:
    found = scene_sitting(scene, scene / "head.obj", EDGE, units="m")
    view, truth = found.posed.views[0], person.posed.views[0]
    assert float((found.posed.vertices[0] - person.posed.vertices[0]).abs().max()) < 1e-5
    assert not bool(found.posed.weights.any())  # one head is at rest
    for c, name in enumerate(truth.cameras.names):
        row = view.cameras.names.index(name)
        gap = view.cameras.world_to_camera[row] - truth.cameras.world_to_camera[c]
        assert float(gap.abs().max()) < 1e-5
        assert float((view.images[row] - truth.images[c]).abs().max()) < 0.003
    assert found.counted is not None  # no mattes: the mesh says where the person is
    check_agreement(found)


def test_a_head_a_frame(person: Sitting, tmp_path: Path) -> None:
    """Ours, three frames, a folder of meshes: expressions and poses are solved from them."""
    cameras = {}
    for t, view in enumerate(person.posed.views):
        for c, name in enumerate(view.cameras.names):
            write_image(tmp_path / "frames" / f"{t + 1:06d}" / f"{name}.png", view.images[c])
            cameras[name] = {
                "size": [EDGE, EDGE],
                "intrinsics": view.cameras.intrinsics[c].tolist(),
                "world_to_camera": view.cameras.world_to_camera[c].tolist(),
            }
        mesh = Mesh(person.posed.topology, person.posed.vertices[t])
        write_obj(mesh, tmp_path / "heads" / f"{t + 1:06d}.obj")
    told = {"convention": "opencv", "units": "m", "pixel_centers": "half-integer"}
    (tmp_path / "cameras.json").write_text(json.dumps({**told, "cameras": cameras}))
    found = scene_sitting(tmp_path, tmp_path / "heads", EDGE)
    assert float((found.posed.weights - person.posed.weights).abs().max()) < 0.1
    first = torch.linalg.inv(person.posed.poses[0])
    assert torch.allclose(found.posed.poses, person.posed.poses @ first, atol=2e-3)
    (tmp_path / "heads" / "000002.obj").unlink()
    with pytest.raises(InputError, match=r"no mesh 000002\.obj"):
        scene_sitting(tmp_path, tmp_path / "heads", EDGE)
    with pytest.raises(InputError, match="one mesh and the take has 3 frames"):
        scene_sitting(tmp_path, tmp_path / "heads" / "000001.obj", EDGE)


def test_a_head_elsewhere_is_told(person: Sitting, scene: Path, tmp_path: Path) -> None:
    away = person.posed.vertices[0] + torch.tensor([0.0, 5.0, 0.0])
    write_obj(Mesh(person.posed.topology, away), tmp_path / "away.obj")
    with pytest.raises(InputError, match=r"no picture shows more than \d+% of --head"):
        scene_sitting(scene, tmp_path / "away.obj", EDGE, units="m")


def test_a_picture_of_something_else_is_told(person: Sitting) -> None:
    check_agreement(person)
    view = person.posed.views[1]
    rows = torch.linspace(0, 1, EDGE)[:, None, None].expand(EDGE, EDGE, 3)
    noise = torch.rand(EDGE, EDGE, 3, generator=torch.Generator().manual_seed(0))
    images = (view.images[0], 0.5 * rows + 0.5 * noise, *view.images[2:])
    views = (person.posed.views[0], replace(view, images=images), person.posed.views[2])
    other = replace(person, posed=replace(person.posed, views=views))
    with pytest.raises(InputError, match=r"cam1 of frame .* does not show the head"):
        check_agreement(other)


def test_pictures_without_cameras_or_heads_are_told(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "photos" / "a.png", torch.rand(8, 8, 3))
    out = str(tmp_path / "out")
    lines = {
        ("fit", str(tmp_path / "photos"), "--out", out): "1 pictures and no cameras",
        ("fit", str(scene), "--out", out): "has cameras (transforms.json) but no head",
        ("fit", str(scene), "--head", "no.obj", "--units", "m", "--out", out): "no such file",
    }
    for words, told in lines.items():
        assert cli(["avatar", *words]) == 2, words
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1, said


@pytest.mark.slow
def test_with_flame_one_photo_is_enough(tmp_path: Path) -> None:
    """FLAME's own vertices, planted on the reference head, lead to the planted head."""
    folder = write_photos(tmp_path / "photos")
    flame = write_flame(tmp_path / "flame.pkl", planted_flame())
    (folder / "alignment.npz").unlink()
    fit = dict(np.load(folder / "fit.npz"))
    expr = np.zeros((3, 65))
    expr[1, 0], expr[2, 1] = 0.7, 0.9  # what `PLAYED` says, in this FLAME's numbers
    np.savez(folder / "fit.npz", **(fit | {"expr": expr}))  # pyright: ignore[reportArgumentType]
    found = tracked_sitting(folder, EDGE, frames="2:2", flame=flame)
    jaw = found.posed.weights[0]
    assert float(jaw.max()) == pytest.approx(0.7, abs=0.1)
    check_agreement(found)
