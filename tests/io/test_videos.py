"""Frames of videos by number, in any order."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from topohead.core import InputError
from topohead.io.videos import Video

COUNT = 30


def write_video(
    path: Path, count: int = COUNT, rate: int = 25, times: list[int] | None = None, size: int = 64
) -> None:
    """Frame n is grey level 8 n; predicted frames and B-frames included."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"crf": "5", "g": "12", "bf": "3"}
        )
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(
                np.full((size, size, 3), 8 * number, np.uint8), format="rgb24"
            )
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "cam.mp4"
    write_video(path)
    return path


def test_exact_frames_in_any_order(video: Path) -> None:
    opened = Video(video)
    assert len(opened) == COUNT and opened.size == (64, 64)
    assert opened.frames_per_second == pytest.approx(25)
    for number in [0, 1, 2, 17, 3, 29, 28, 12, 11, 13, *range(COUNT)]:
        level = opened.frame(number).mean() * 255
        assert abs(float(level) - 8 * number) < 3.9, f"frame {number} shows level {level}"


def test_in_order_every_frame_is_decoded_once(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Video(video)
    seeks = []
    seek = opened._container.seek

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(container, name)

        def seek(self, *args: object, **kwargs: object) -> None:
            seeks.append(args)
            seek(*args, **kwargs)

    container, opened._container = opened._container, Counting()
    for number in range(COUNT):
        opened.frame(number)
    assert len(seeks) <= 1 + COUNT // 12


def test_frames_outside(video: Path) -> None:
    with pytest.raises(InputError, match="frames 0 to 29, not 30"):
        Video(video).frame(30)


def test_varying_rate_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 6, times=[0, 1, 2, 5, 6, 7])
    with pytest.raises(InputError, match="no constant frame rate"):
        Video(tmp_path / "a.mp4")


def test_broken_videos_are_named(video: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.mp4 cannot be read"):
        Video(tmp_path / "cut.mp4")
    with pytest.raises(InputError, match="does not exist"):
        Video(tmp_path / "none.mp4")
