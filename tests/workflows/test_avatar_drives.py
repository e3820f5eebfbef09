"""What drives an avatar: scores, clips, FLAME's numbers, sound; and what cannot."""

import csv
import json
import math
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cap4d_photos import PLAYED, write_photos
from flame_pickle import planted_flame, write_flame
from posed_person import turned, weights_of
from topohead.core import ARKIT_52, BoundSplats, GaussianBinding, InputError
from topohead.geometry.avatars import Avatar, ExpressionChange
from topohead.geometry.skinning import rigged
from topohead.io.assets import reference_head
from topohead.io.avatars import write_avatar
from topohead.io.clips import read_clip
from topohead.io.scores import read_scores
from topohead.workflows.avatar import AnimateConfig, animate
from topohead.workflows.avatars.driving import _own_rate, open_drive

JAW = ARKIT_52.index("jawOpen")


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """The reference head with one Gaussian: what moves it is looked at, not what it looks like."""
    head = reference_head(0)
    rig = rigged(
        head.topology, head.template, head.expression_basis, torch.eye(4),
        torch.ones(head.topology.vertex_count),
    )  # fmt: skip
    one = torch.full((1, 3), 1 / 3)
    binding = GaussianBinding(
        torch.zeros(1).long(), one, 0 * one, torch.eye(4)[:1], torch.full((1, 3), 0.5)
    )
    none = torch.zeros(1, 0, 3)
    ends = torch.zeros(0)
    change = ExpressionChange(torch.zeros(52), torch.zeros(52, 0), ends, ends, none, none)
    return Avatar(rig, BoundSplats(binding, torch.full((1,), 0.9), torch.zeros(1, 1, 3)), change)


def score(k: int, name: str) -> float:
    return {"jawOpen": 0.1 * k, "eyeLookOutLeft": 0.5}.get(name, 0.0)


def write_csv(path: Path, times: bool) -> Path:
    names = ["_neutral", *(name for name in ARKIT_52 if name != "tongueOut")]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(["timestamp_ms"] if times else []), *names])
        for k in range(6):
            stamp = [str(40 * k)] if times else []
            rows.writerow([*stamp, *(f"{score(k, name)}" for name in names)])
    return path


def matrix(k: int) -> torch.Tensor:
    pose = turned(5.0 * k)
    pose[:3, 3] = torch.tensor([0.0, 0.0, -40.0])  # MediaPipe's centimetres
    return pose


def write_json(path: Path, form: str) -> Path:
    names = ["_neutral", *ARKIT_52]
    frames: list = []
    for k in range(6):
        pairs = {name: score(k, name) for name in names}
        if form == "names":
            frames.append(pairs)
        elif form == "python":
            rows = [
                {"category_name": n, "score": s, "index": i}
                for i, (n, s) in enumerate(pairs.items())
            ]
            frames.append(
                {"timestamp_ms": 40 * k, "face_blendshapes": [rows],
                 "facial_transformation_matrixes": [matrix(k).tolist()]}
            )  # fmt: skip
        else:
            rows = [{"categoryName": n, "score": s} for n, s in pairs.items()]
            data = matrix(k).T.flatten().tolist()
            frames.append(
                {"faceBlendshapes": [{"categories": rows}],
                 "facialTransformationMatrixes": [{"rows": 4, "columns": 4, "data": data}]}
            )  # fmt: skip
    path.write_text(json.dumps({"fps": 25, "frames": frames} if form == "web" else frames))
    return path


@pytest.mark.parametrize("form", ["csv", "timed csv", "names", "python", "web"])
def test_scores_in_any_form_are_the_same_performance(
    avatar: Avatar, tmp_path: Path, form: str
) -> None:
    if "csv" in form:
        path = write_csv(tmp_path / "scores.csv", "timed" in form)
    else:
        path = write_json(tmp_path / "scores.json", form)
    drive = open_drive(path, avatar, 25.0)
    assert drive.frames_per_second == 25.0 and len(drive.weights) == 6
    assert torch.allclose(drive.weights[:, JAW], 0.1 * torch.arange(6.0), atol=1e-6)
    assert float(drive.gaze[0, 0, 0]) > 0.2  # the left eye looks out, to the left
    turn = torch.atan2(drive.poses[-1, 0, 2], drive.poses[-1, 2, 2])
    expected = math.radians(25.0) if form in ("python", "web") else 0.0
    assert float(turn) == pytest.approx(expected, abs=1e-6)
    joint = avatar.rig.head.double()
    assert torch.allclose(drive.poses[-1, :3, :3] @ joint + drive.poses[-1, :3, 3], joint)


@pytest.mark.parametrize(
    ("step", "told"), [(1 / 25, 25), (1 / 29.97, 30), (0.017, 60), (1 / 50, 50), (0.4, 30)]
)
def test_a_recording_plays_at_its_own_rate(step: float, told: float) -> None:
    """Rows may skip, and stamps may be whole milliseconds; what is no usual rate plays at 30."""
    rows = torch.tensor([0.0, 1, 2, 3, 5, 6, 7, 10, 11, 12], dtype=torch.float64)
    assert _own_rate(rows * step) == told
    assert _own_rate(rows[:1]) == 30


def test_frames_without_a_face_are_gone_across(tmp_path: Path) -> None:
    frames = [{name: score(k, name) for name in ARKIT_52} for k in range(5)]
    frames[2] = {}
    (tmp_path / "s.json").write_text(json.dumps(frames))
    played = read_scores(tmp_path / "s.json", 10.0)
    assert played.times.tolist() == pytest.approx([0.0, 0.1, 0.3, 0.4])
    assert played.coefficients[:, JAW].tolist() == pytest.approx([0.0, 0.1, 0.3, 0.4])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<html>", "no JSON"),
        ('{"frames": 3}', "expected a list of frames"),
        ("[]", "has no frames"),
        ('[{"jawOpen": 0.5}]', "no score"),
        ('[{"jawOpen": "wide"}]', "'wide' is no number"),
        ("[{}]", "no frame has a face"),
    ],
)
def test_broken_scores_are_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=told) as raised:
        read_scores(tmp_path / "s.json")
    assert "\n" not in str(raised.value)


def write_sound(path: Path, seconds: float) -> Path:
    """A tone of 440 Hz."""
    tone = np.sin(2 * np.pi * 440 * np.arange(int(22_050 * seconds)) / 22_050)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22_050)
        file.writeframes((tone * 20_000).astype("<i2").tobytes())
    return path


def test_a_clip_has_the_sound_and_drives_another(avatar: Avatar, tmp_path: Path) -> None:
    folder = tmp_path / "me"
    write_avatar(folder, avatar, {})
    path = write_json(tmp_path / "scores.json", "python")
    sound = write_sound(tmp_path / "tone.wav", 3.0)
    out = tmp_path / "clip"
    animate(AnimateConfig(folder, path, out, audio=sound, size=32, fps=5.0, device="cpu"))
    with av.open(str(out / "video.mp4")) as container:
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    clip = read_clip(out / "animation.npz")
    seconds = len(clip.weights) / 5.0
    assert len(heard) / rate == pytest.approx(seconds, abs=0.15)  # cut where the pictures end
    middle = heard[len(heard) // 4 : 3 * len(heard) // 4]
    peak = np.fft.rfft(middle * np.hanning(len(middle)))
    assert np.abs(peak).argmax() * rate / len(middle) == pytest.approx(440, abs=8)
    again = open_drive(out, avatar, None)
    assert torch.equal(again.weights, clip.weights) and torch.equal(again.poses, clip.poses)
    assert list(again.cameras) == ["clip"]
    with pytest.raises(InputError, match="has no sound"):
        animate(AnimateConfig(folder, path, out, audio=silent(tmp_path), size=32, device="cpu"))


def silent(folder: Path) -> Path:
    from topohead.io.videos import write_video

    write_video(folder / "silent.mp4", [torch.zeros(16, 16, 3)] * 2, 5.0)
    return folder / "silent.mp4"


@pytest.mark.slow
def test_a_flame_performance_plays_with_the_users_file(avatar: Avatar, tmp_path: Path) -> None:
    """Jaw and smile, planted as FLAME's first expressions, come back as ours; motion is kept."""
    flame = write_flame(tmp_path / "flame.pkl", planted_flame())
    expr = np.zeros((4, 65))
    expr[:, 0] = [0.0, 0.3, 0.6, 0.0]
    expr[3, 1] = 0.8
    rot = np.outer([0.0, 0.1, 0.2, 0.3], [0.0, 1.0, 0.0])
    tra = np.outer([0.0, 0.01, 0.02, 0.03], [1.0, 0.0, 0.0]) - np.array([0.0, 0.0, 0.7])
    path = tmp_path / "fit.npz"
    np.savez(path, expr=expr, rot=rot, tra=tra, eye_rot=np.zeros((4, 3)), fps=24)
    with pytest.raises(InputError, match="--flame"):
        open_drive(path, avatar, None)
    drive = open_drive(path, avatar, None, flame)
    assert drive.frames_per_second == 24.0
    assert drive.weights[:3, JAW].tolist() == pytest.approx([0.0, 0.3, 0.6], abs=0.1)
    assert int(drive.weights[3].argmax()) == ARKIT_52.index("mouthSmileLeft")
    turn = torch.atan2(drive.poses[:, 0, 2], drive.poses[:, 2, 2])
    assert turn.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=0.03)
    assert float(drive.poses[1, 0, 3] - drive.poses[0, 0, 3]) > 0


@pytest.mark.slow
def test_tracked_photos_drive(avatar: Avatar, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    with pytest.raises(InputError, match="are stills; say how many a second"):
        open_drive(folder, avatar, None)
    drive = open_drive(folder, avatar, 2.0)
    assert drive.frames_per_second == 2.0 and len(drive.weights) == len(PLAYED)
    expected = weights_of(PLAYED[1])
    assert float(drive.weights[1, JAW]) == pytest.approx(float(expected[JAW]), abs=0.1)
    yaw = torch.atan2(drive.poses[:, 0, 2], drive.poses[:, 2, 2])
    assert float(yaw[1] - yaw[0]) == pytest.approx(0.4, abs=0.05)
