"""Pictures and masks in and out; broken files are named."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from topohead.core import InputError
from topohead.io.images import image_size, read_heights, read_image, write_heights, write_image
from topohead.io.masks import FACE_PARTS, part_colours, read_coverage, read_labels


def picture(height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [8, 16])
def test_png_round_trip_to_rounding(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, picture(), bits=bits)
    assert (read_image(path) - picture()).abs().max() <= 0.5001 / (2**bits - 1)
    assert image_size(path) == (32, 24)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_channels_are_in_order(tmp_path: Path) -> None:
    red = torch.zeros(8, 8, 3)
    red[..., 0] = 1
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / name, red)
        assert np.array(Image.open(tmp_path / name))[0, 0, 0] > 250
        assert read_image(tmp_path / name)[0, 0, 0] > 0.98


def test_jpeg_is_close(tmp_path: Path) -> None:
    smooth = torch.nn.functional.interpolate(picture(4, 4).movedim(2, 0)[None], (64, 96))[0]
    smooth = smooth.movedim(0, 2).contiguous()
    write_image(tmp_path / "a.jpg", smooth, quality=98)
    assert (read_image(tmp_path / "a.jpg") - smooth).abs().mean() < 0.02
    assert image_size(tmp_path / "a.jpg") == (96, 64)


def test_grey_and_alpha(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    write_image(tmp_path / "grey.png", grey)
    assert torch.equal(
        read_image(tmp_path / "grey.png")[..., 0], read_coverage(tmp_path / "grey.png")
    )
    rgba = torch.cat([picture(), grey[..., None]], -1)
    write_image(tmp_path / "rgba.png", rgba)
    assert (read_image(tmp_path / "rgba.png") - picture()).abs().max() < 0.5001 / 255
    assert (read_coverage(tmp_path / "rgba.png") - grey).abs().max() < 0.5001 / 255


def test_exr_is_linear(tmp_path: Path) -> None:
    import OpenEXR

    linear = np.array([0.0, 0.001, 0.0031308, 0.18, 0.5, 1.0, 7.0], np.float32)
    values = np.broadcast_to(linear[None, :, None], (4, 7, 3)).copy()
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": values}).write(str(tmp_path / "a.exr"))
    row = read_image(tmp_path / "a.exr")[0, :, 0]
    expected = [0.0, 0.01292, 0.04045, 0.461356, 0.735357, 1.0, 1.0]
    assert row.tolist() == pytest.approx(expected, abs=1e-5)
    assert image_size(tmp_path / "a.exr") == (7, 4)
    (tmp_path / "b.exr").write_bytes((tmp_path / "a.exr").read_bytes()[:200])
    with pytest.raises(InputError, match=r"b\.exr cannot be read"):
        read_image(tmp_path / "b.exr")


def test_heights_keep_eleven_bits(tmp_path: Path) -> None:
    """Half floats: two thousandths of a millimetre at 2 mm, and the zero stays zero."""
    heights = torch.linspace(-0.002, 0.002, 35).reshape(5, 7)
    heights[0, 0] = 0
    write_heights(tmp_path / "frame" / "displacement.exr", heights)
    found = read_heights(tmp_path / "frame" / "displacement.exr")
    assert found[0, 0] == 0
    assert (found - heights).abs().max() <= 0.002 / 2048
    assert [path.name for path in (tmp_path / "frame").iterdir()] == ["displacement.exr"]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95, 0.999])
def test_a_cut_off_picture_is_named(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cam.{suffix}"
    write_image(path, picture(64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=rf"cam\.{suffix} is cut off"):
            read(path)


def test_a_thumbnail_does_not_hide_a_cut_off_jpeg(tmp_path: Path) -> None:
    path, small = tmp_path / "cam.jpg", tmp_path / "small.jpg"
    write_image(small, picture(8, 8))
    write_image(path, picture(64, 64))
    thumbnail = b"\xff\xe2" + (len(small.read_bytes()) + 2).to_bytes(2, "big") + small.read_bytes()
    whole = path.read_bytes()
    whole = whole[:2] + thumbnail + whole[2:]
    path.write_bytes(whole)
    read_image(path)
    path.write_bytes(whole[:-300])
    with pytest.raises(InputError, match="cut off"):
        read_image(path)


def test_a_flipped_byte_in_a_png_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, picture())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png is damaged"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"hello, I am no picture", "neither PNG, JPEG nor EXR")],
)
def test_no_picture(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(path)
    with pytest.raises(InputError, match=r"a\.png"):
        image_size(path)
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="does not exist"):
        image_size(tmp_path / "none.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_refused(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path, exif=exif)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match="EXIF orientation 6; expected 1"):
            read(path)
    exif[0x0112] = 1
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path, exif=exif)
    assert read_image(path).shape == (8, 16, 3)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_image(path, torch.zeros(4, 4, 3))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match="disk is full"):
        write_image(path, torch.ones(4, 4, 3))
    assert read_image(path).max() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# --- masks -------------------------------------------------------------------------------------


def labels() -> np.ndarray:
    """A face: much skin, small eyes, all parts present."""
    image = np.zeros((40, 40), np.uint8)
    image[5:35, 5:35] = FACE_PARTS.index("skin")
    for part in range(2, len(FACE_PARTS)):
        image[6 + part, 8:14] = part
    return image


def test_part_colours_are_pascal_voc() -> None:
    expected = {
        "background": (0, 0, 0), "skin": (128, 0, 0), "eye_left": (0, 0, 128),
        "mouth_inner": (64, 0, 0), "glasses": (192, 0, 128),
    }  # fmt: skip
    for name, colour in expected.items():
        assert tuple(part_colours()[FACE_PARTS.index(name)]) == colour


@pytest.mark.parametrize("swapped", [False, True])
def test_coloured_masks_in_either_channel_order(swapped: bool, tmp_path: Path) -> None:
    colours = part_colours()[labels()]
    # cv2 writes what it takes for B, G, R: unswapped input ends up stored as B, G, R
    cv2.imwrite(str(tmp_path / "a.png"), colours if swapped else colours[..., ::-1])
    stored = np.array(Image.open(tmp_path / "a.png"))
    assert tuple(stored[34, 34]) == ((0, 0, 128) if swapped else (128, 0, 0))
    assert np.array_equal(read_labels(tmp_path / "a.png").numpy(), labels())
    assert np.array_equal(read_coverage(tmp_path / "a.png").numpy(), (labels() > 0))


def test_ambiguous_colours_are_decided_by_area(tmp_path: Path) -> None:
    """Skin, brows and eyes alone fit both orders: more skin than eye decides."""
    some = np.where(labels() > 5, 1, labels())
    for order in (slice(None), slice(None, None, -1)):
        cv2.imwrite(str(tmp_path / "a.png"), part_colours()[some][..., order])
        assert np.array_equal(read_labels(tmp_path / "a.png").numpy(), some)


def test_label_numbers_and_grey_coverage(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "index.png"), labels())
    assert np.array_equal(read_labels(tmp_path / "index.png").numpy(), labels())
    assert read_coverage(tmp_path / "index.png").max() == 1
    grey = (labels() > 0).astype(np.uint8) * 200
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    assert read_coverage(tmp_path / "grey.png").unique().tolist() == pytest.approx([0, 200 / 255])
    with pytest.raises(InputError, match=r"labels .*200; expected 0 to 13"):
        read_labels(tmp_path / "grey.png")


def test_unknown_colours_are_listed(tmp_path: Path) -> None:
    strange = part_colours()[labels()].copy()
    strange[0, 0] = (12, 34, 56)
    Image.fromarray(strange).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"such as \(12, 34, 56\); expected grey"):
        read_coverage(tmp_path / "a.png")
