"""CAP4D's animated PLY: its header's order, playback within half a step, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exporting import heads
from planted_run import ellipsoid_topology
from topohead.core import BoundSplats, GaussianBinding, InputError
from topohead.geometry.binding import posed_splats, similarity_frames
from topohead.io.animated_ply import read_animated_ply, write_animated_ply
from topohead.io.ply import read_header, read_table

TRIANGLES = ellipsoid_topology().triangles
COUNT = 300


def splats(coefficients: int = 1) -> BoundSplats:
    draw = torch.Generator().manual_seed(2)
    owners = torch.randint(len(TRIANGLES), (COUNT,), generator=draw)
    binding = GaussianBinding(
        owners,
        torch.full((COUNT, 3), 1 / 3),
        torch.randn(COUNT, 3, generator=draw) * 0.1,
        torch.nn.functional.normalize(torch.randn(COUNT, 4, generator=draw), dim=1),
        0.1 + torch.rand(COUNT, 3, generator=draw),
    )
    harmonics = torch.randn(COUNT, coefficients, 3, generator=draw)
    return BoundSplats(binding, 0.05 + 0.9 * torch.rand(COUNT, generator=draw), harmonics)


def frames() -> torch.Tensor:
    return heads().float() * torch.tensor([1.0, -1, -1])


def write(path: Path, bits: int = 16, coefficients: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    moved = frames() - frames()[0]
    extent = moved.amin((0, 1)), moved.amax((0, 1))
    write_animated_ply(
        path, splats(coefficients), TRIANGLES, iter(frames()), extent, len(frames()), 25.0, bits
    )
    return extent


@pytest.mark.parametrize(("bits", "coefficients"), [(16, 1), (8, 16)])
def test_a_clip_comes_back(tmp_path: Path, bits: int, coefficients: int) -> None:
    """Gaussians to float32, vertices to half a step, on every axis."""
    low, high = write(tmp_path / "clip.ply", bits, coefficients)
    back, told = read_animated_ply(tmp_path / "clip.ply"), splats(coefficients)
    half = (high - low) / (2**bits - 1) / 2
    error = (back.vertices - frames()).abs().amax((0, 1))
    assert bool((error <= half * 1.001 + 1e-8).all())
    assert float(error.max()) > 0.2 * float(half.max())  # it is quantised: the bound is not idle
    assert torch.equal(back.faces, TRIANGLES) and back.frames_per_second == 25
    assert torch.equal(back.splats.binding.triangles, told.binding.triangles)
    for name in ("offsets", "quats", "scales"):
        here, there = getattr(told.binding, name), getattr(back.splats.binding, name)
        assert (here - there).abs().max() < 1e-5, name
    assert (back.splats.opacities - told.opacities).abs().max() < 1e-5
    assert (back.splats.harmonics[:, :coefficients] - told.harmonics).abs().max() < 1e-6
    assert not back.splats.harmonics[:, coefficients:].any()
    posed = [posed_splats(s.splats if s is back else s, TRIANGLES, frames()[3], similarity_frames)
             for s in (back, told)]  # fmt: skip
    assert (posed[0].means - posed[1].means).abs().max() < 1e-6


def test_the_header_is_the_viewers(tmp_path: Path) -> None:
    """Elements, their columns and types in CAP4D's order; 240 bytes a Gaussian."""
    write(tmp_path / "clip.ply")
    header = read_header(tmp_path / "clip.ply")
    named = [name for name, _, _ in header.elements]
    each = [
        f"{name}_{t:05d}"
        for t in range(len(frames()))
        for name in ("meta_delta_min", "meta_delta_max", "delta_vertex")
    ]
    assert named == ["faces", "base_vertex", "vertex", *each]
    columns = {name: (count, list(properties)) for name, count, properties in header.elements}
    assert columns["faces"] == (len(TRIANGLES), [(f"index_{k}", "<u4") for k in range(3)])
    assert columns["base_vertex"] == (frames().shape[1], [(axis, "<f4") for axis in "xyz"])
    floats = [
        "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{k}" for k in range(45)), "opacity",
        "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3", "binding",
    ]  # fmt: skip
    assert columns["vertex"] == (COUNT, [(name, "<f4") for name in floats])
    assert 4 * len(floats) == 240
    assert columns["meta_delta_min_00003"] == (1, [(axis, "<f4") for axis in "xyz"])
    assert columns["delta_vertex_00003"] == (frames().shape[1], [(axis, "<u2") for axis in "xyz"])
    row = read_table(tmp_path / "clip.ply", header, "vertex")
    told = splats()
    assert np.allclose(row["scale_1"], told.binding.scales[:, 1].log(), atol=1e-6)
    assert np.allclose(row["opacity"], torch.logit(told.opacities), atol=1e-4)


def test_a_vertex_at_rest_does_not_tremble(tmp_path: Path) -> None:
    """One range for the clip: what stands still in the take stands still in the file."""
    write(tmp_path / "clip.ply", 8)
    back = read_animated_ply(tmp_path / "clip.ply").vertices
    still = (frames() - frames()[0]).abs().amax((0, 2)) == 0
    assert still.sum() > 20
    assert (back[:, still] - back[:1, still]).abs().max() == 0


def test_files_of_others_play(tmp_path: Path) -> None:
    """CAP4D's own say no rate and have a range for each frame."""
    write(tmp_path / "clip.ply")
    data = (tmp_path / "clip.ply").read_bytes()
    data = data.replace(b"comment frames_per_second 25\n", b"")
    (tmp_path / "clip.ply").write_bytes(data)
    back = read_animated_ply(tmp_path / "clip.ply")
    assert back.frames_per_second == 24
    count = frames().shape[1]
    wider = len(data) - 6 * count - 12  # the last frame's largest offsets
    high = np.frombuffer(data, "<f4", 3, wider) + np.float32(0.5)
    (tmp_path / "clip.ply").write_bytes(data[:wider] + high.tobytes() + data[wider + 12 :])
    other = read_animated_ply(tmp_path / "clip.ply").vertices
    assert torch.equal(other[:-1], back.vertices[:-1])
    codes = np.frombuffer(data, "<u2", 3 * count, len(data) - 6 * count).reshape(-1, 3) / 65535
    assert np.allclose(other[-1] - back.vertices[-1], 0.5 * codes, atol=1e-6)


def test_broken_clips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.ply"
    write(path)
    whole, header = path.read_bytes(), read_header(path)
    faces = header.start
    base = faces + 12 * len(TRIANGLES)
    rows = base + 12 * frames().shape[1]

    def refused(data: bytes, told: str) -> None:
        path.write_bytes(data)
        with pytest.raises(InputError, match=told):
            read_animated_ply(path)

    def patched(at: int, value: np.ndarray) -> bytes:
        return whole[:at] + value.tobytes() + whole[at + value.nbytes :]

    refused(patched(faces, np.uint32([10**6])), "faces name vertices")
    refused(patched(base, np.float32([np.nan])), "vertices that are no numbers")
    refused(patched(rows + 236, np.float32([10**6])), "is bound to triangle 1000000")
    refused(patched(rows + 236, np.float32([0.5])), "name no face")
    refused(patched(rows, np.float32([np.nan])), "offsets that are no numbers")
    refused(whole[:-9], "is cut off")
    head = whole[: header.start].split(b"element meta_delta_min_00000")[0] + b"end_header\n"
    refused(head + whole[header.start :], "has no frames")
    refused(b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nend_header\n", "no animated")
    with pytest.raises(InputError, match="at least one frame"):
        write_animated_ply(path, splats(), TRIANGLES, iter(()), (torch.zeros(3),) * 2, 0, 24.0)
    off = replace(splats().binding, triangles=torch.full((COUNT,), -1))
    with pytest.raises(InputError, match="triangle -1"):
        write_animated_ply(
            path, replace(splats(), binding=off), TRIANGLES, iter(frames()), (torch.zeros(3),) * 2,
            1, 24.0,
        )  # fmt: skip
