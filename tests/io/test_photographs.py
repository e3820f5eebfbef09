"""Pictures as stored: codes untouched, cameras and masks that fit them."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from topohead.core import Cameras, Capture, Distortion, InputError, Rig
from topohead.geometry.cameras import look_at
from topohead.io import lens_warps
from topohead.io.jpegs_cuda import decoded, is_plain
from topohead.io.layouts import ImageFiles
from topohead.io.masks import read_coverage, read_stored_coverage, unit
from topohead.io.missing import MissingFrame
from topohead.io.undistortion import (
    photographs,
    undistorted_views,
    views_and_photographs,
)
from topohead.solvers.recording import Recording

SIZE = (64, 48)
BROWN = Distortion("brown", (-0.2, 0.05, 0.0, 0.0, 0.001, -0.002))
FISHEYE = Distortion("fisheye", (0.01, 0.0, 0.0, 0.0))


def take(missing: str = "") -> tuple[Capture, dict[str, torch.Tensor]]:
    """Three cameras: brown, fisheye, and one whose pictures are half the size that is stated."""
    names = ("brown", "fisheye", "small")
    eye = torch.tensor([0.0, 0.0, 1.0]).double()
    up = torch.tensor([0.0, 1.0, 0.0]).double()
    pose = look_at(eye, torch.zeros(3).double(), up)
    matrix = torch.tensor([[70.0, 0.4, 33.0], [0, 71, 23], [0, 0, 1]]).double()
    cameras = Cameras(names, pose.repeat(3, 1, 1), matrix.repeat(3, 1, 1), torch.tensor([SIZE] * 3))
    random = torch.Generator().manual_seed(0)
    codes = {
        name: torch.randint(0, 256, (height, width, 3), generator=random, dtype=torch.uint8)
        for name, (width, height) in zip(names, (SIZE, SIZE, (32, 24)), strict=True)
    }

    def read_image(frame: str, camera: str) -> torch.Tensor:
        if camera == missing:
            raise MissingFrame(camera)
        return codes[camera].float() / 255

    def read_mask(frame: str, camera: str) -> torch.Tensor:
        return torch.ones(codes[camera].shape[:2])

    rig = Rig(cameras, (BROWN, FISHEYE, BROWN))
    return Capture(rig, ("1",), read_image, read_mask), codes


def test_codes_and_lenses_are_as_stored_and_a_fisheye_is_undone() -> None:
    capture, codes = take()
    with ThreadPoolExecutor(2) as workers:
        taken = photographs(capture, "1", workers)
    assert taken.cameras.names == ("brown", "fisheye", "small")
    assert torch.equal(taken.images[0], codes["brown"])
    assert torch.equal(taken.images[2], codes["small"])
    assert taken.rig.distortion == (BROWN, Distortion(), BROWN)
    assert torch.equal(taken.cameras.intrinsics[0], capture.rig.cameras.intrinsics[0])
    assert taken.cameras.size(2) == (32, 24)
    assert torch.allclose(
        taken.cameras.intrinsics[2, :2], capture.rig.cameras.intrinsics[2, :2] / 2
    )
    straight = undistorted_views(capture, "1")
    assert (taken.images[1].float() / 255 - straight.images[1]).abs().max() <= 0.5 / 255 + 1e-6
    assert taken.masks is not None and straight.masks is not None
    assert torch.equal(taken.masks[0], straight.masks[0])
    assert taken.masks[0].min() == 0 or taken.masks[0].mean() == 1


def test_a_missing_picture_leaves_its_camera_out() -> None:
    capture, codes = take(missing="brown")
    with ThreadPoolExecutor(2) as workers:
        taken = photographs(capture, "1", workers, ("small", "brown"))
        bare = photographs(replace(capture, read_mask=None), "1", workers, ("small",))
    assert taken.cameras.names == ("small",)
    assert torch.equal(taken.images[0], codes["small"])
    assert taken.masks is not None and len(taken.masks) == 1
    assert bare.masks is None


def test_decoding_once_gives_what_decoding_twice_gives() -> None:
    capture, _ = take()
    names = ("small", "fisheye", "brown")
    views, taken = views_and_photographs(capture, "1", names, 24, 2, "cpu")
    apart = undistorted_views(capture, "1", names, 24)
    with ThreadPoolExecutor(2) as workers:
        alone = photographs(capture, "1", workers, names)
    assert views.cameras.names == apart.cameras.names == taken.cameras.names == names
    assert views.masks is not None and apart.masks is not None
    assert taken.masks is not None and alone.masks is not None
    for one, other in (
        (views.images, apart.images),
        (views.masks, apart.masks),
        (taken.images, alone.images),
        (taken.masks, alone.masks),
    ):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("box", [1, 2, 5])
def test_codes_are_averaged_like_the_float_picture(box: int) -> None:
    random = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 256, (631, 803, 3), generator=random, dtype=torch.uint8).numpy()
    size = (codes.shape[1] // box, codes.shape[0] // box)
    whole = (codes / np.float32(255))[: size[1] * box, : size[0] * box].astype(np.float32)
    expected = cv2.resize(whole, size, interpolation=cv2.INTER_AREA) if box > 1 else whole
    assert np.array_equal(lens_warps.averaged(codes, box), expected)


@pytest.mark.parametrize("size", [(803, 631), (400, 314), (330, 260)])
def test_a_device_reduces_codes_as_the_cpu_does(size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 256, (631, 803, 3), generator=random, dtype=torch.uint8)
    pose = torch.eye(4, dtype=torch.float64)[None]
    matrix = torch.tensor([[[700.0, 0, 401], [0, 700, 315], [0, 0, 1]]]).double()
    cameras = Cameras(("one",), pose, matrix, torch.tensor([[803, 631]]))
    warp = lens_warps.Warp(Rig(cameras, (BROWN,)), cameras.resized(torch.tensor([size])), 0)
    expected = torch.from_numpy(warp.reduced(codes.numpy()))
    found = warp.reduced_on_device(codes)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-6


@pytest.mark.parametrize("size", [(803, 631), (400, 314), (330, 260)])
@pytest.mark.parametrize("lens", [Distortion(), BROWN])
def test_a_device_undistorts_masks_as_the_cpu_does(size: tuple[int, int], lens: Distortion) -> None:
    y, x = np.mgrid[:631, :803]
    codes = (np.clip(1.5 - np.hypot((x - 300) / 240, (y - 200) / 260), 0, 0.2) * 1275).round()
    mask = torch.from_numpy(codes.astype(np.uint8))
    pose = torch.eye(4, dtype=torch.float64)[None]
    matrix = torch.tensor([[[700.0, 0, 401], [0, 700, 315], [0, 0, 1]]]).double()
    cameras = Cameras(("one",), pose, matrix, torch.tensor([[803, 631]]))
    warp = lens_warps.Warp(Rig(cameras, (lens,)), cameras.resized(torch.tensor([size])), 0)
    expected = torch.from_numpy(warp.mask(mask.numpy()))
    assert expected.max() == 1
    for given in (mask, mask.numpy() / np.float32(255)):
        found = warp.mask_on_device(torch.as_tensor(given))
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 5e-4


def test_codes_of_masks_give_the_mask(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for kind, dtype in (("grey", np.uint8), ("grey", np.uint16), ("labels", np.uint8)):
        values = random.integers(0, 14 if kind == "labels" else np.iinfo(dtype).max, (40, 30))
        path = tmp_path / f"{kind}.png"
        cv2.imwrite(str(path), values.astype(dtype))
        stored, mask = read_stored_coverage(path), read_coverage(path)
        assert stored.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
        assert torch.equal(unit(stored), mask)
        one = 1 if kind == "labels" else np.iinfo(dtype).max
        expected = torch.from_numpy(np.minimum(values / one, 1).astype(np.float32))
        assert (mask - expected).abs().max() < 1e-6


def test_only_plain_jpeg_files_are_for_the_device() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)

    def saved(image: Image.Image, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        return file.getvalue()

    color = Image.fromarray(picture)
    assert is_plain(saved(color))
    assert is_plain(saved(color, subsampling=0, comment=b"\xff\xda" * 9))
    assert is_plain(saved(color.convert("L")))
    assert is_plain(cv2.imencode(".jpg", picture)[1].tobytes())
    assert not is_plain(saved(color, progressive=True))
    assert not is_plain(saved(color.convert("CMYK")))
    assert not is_plain(saved(color, keep_rgb=True))
    assert not is_plain(b"\xff\xd8\xff")


def test_files_that_are_jpeg_are_given_as_they_are(tmp_path: Path) -> None:
    picture = np.full((8, 8, 3), 90, np.uint8)
    for name in ("a.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    files = ImageFiles(tmp_path, {"1": {"a": tmp_path / "a.jpg", "b": tmp_path / "b.png"}})
    assert files.jpeg("1", "a") == (tmp_path / "a.jpg").read_bytes()
    assert files.jpeg("1", "b") is None
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-40])
    with pytest.raises(InputError, match="cut off"):
        files.jpeg("1", "a")


@pytest.mark.gpu
def test_pictures_and_masks_on_a_device_are_those_of_the_cpu() -> None:
    capture, _ = take()
    soft = torch.from_numpy(np.tile(np.linspace(0, 255, SIZE[0]).astype(np.uint8), (SIZE[1], 1)))
    capture = replace(capture, read_mask=None, read_stored_mask=lambda f, c: soft)
    names = ("brown", "fisheye")
    expected = views_and_photographs(capture, "1", names, 24, 2, "cpu")
    found = views_and_photographs(capture, "1", names, 24, 2, "cuda")
    for one, other in zip(expected, found, strict=True):
        assert one.masks is not None and other.masks is not None
        assert one.cameras.names == other.cameras.names
        assert torch.equal(one.cameras.intrinsics, other.cameras.intrinsics)
        for mask, there in zip(one.masks, other.masks, strict=True):
            assert (mask - there.cpu()).abs().max() < 2e-3
    for image, there in zip(expected[0].images, found[0].images, strict=True):
        assert (image - there.cpu()).abs().max() < 1e-5
    assert torch.equal(expected[1].images[0], found[1].images[0].cpu())
    assert (expected[1].images[1].int() - found[1].images[1].cpu().int()).abs().max() <= 1


@pytest.mark.gpu
def test_files_are_decoded_while_work_is_recorded() -> None:
    """Once decoding ended the recording of graphs on other threads with an error."""
    pytest.importorskip("torchvision")
    picture = np.random.default_rng(0).integers(0, 256, (375, 512, 3)).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    file = cv2.imencode(".jpg", picture, options)[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
    done = Event()
    device = torch.device("cuda")

    def decode() -> int:
        rounds = 0
        while not done.is_set():
            found = decoded([file] * 6, device)
            assert found is not None
            assert all(np.array_equal(one.cpu().numpy(), expected) for one in found)
            rounds += 1
        return rounds

    def work(values: torch.Tensor) -> tuple[torch.Tensor]:
        for _ in range(20):
            values = torch.nn.functional.avg_pool2d(values, 3, 1, 1) + 1
        return (values,)

    given = torch.rand(1, 3, 256, 256, device=device)
    with ThreadPoolExecutor(2) as threads:
        rounds = [threads.submit(decode) for _ in range(2)]
        try:
            for _ in range(40):
                recording = Recording(work, (given,), torch.cuda.graph_pool_handle())
                assert torch.equal(recording(given)[0], work(given)[0])
        finally:
            done.set()
        assert all(one.result() > 1 for one in rounds)


@pytest.mark.gpu
def test_pictures_decoded_on_a_device_are_those_of_the_cpu() -> None:
    pytest.importorskip("torchvision")
    capture, codes = take()
    names = ("brown", "small")
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    files = {
        name: cv2.imencode(".jpg", codes[name].numpy(), options)[1].tobytes() for name in names
    }

    def stored(frame: str, camera: str) -> torch.Tensor:
        pixels = cv2.imdecode(np.frombuffer(files[camera], np.uint8), cv2.IMREAD_COLOR_RGB)
        return torch.from_numpy(pixels)

    asked = []

    def jpeg(frame: str, camera: str) -> bytes:
        asked.append(camera)
        return files[camera]

    capture = replace(capture, read_stored=stored, read_jpeg=jpeg)
    expected = views_and_photographs(capture, "1", names, 24, 2, "cpu")
    found = views_and_photographs(capture, "1", names, 24, 2, "cuda")
    assert sorted(asked) == sorted(names)
    for one, other in zip(expected[0].images, found[0].images, strict=True):
        assert (one - other.cpu()).abs().max() < 1e-5
    for one, other in zip(expected[1].images, found[1].images, strict=True):
        assert torch.equal(one, other.cpu())
