"""Frames of a constant-rate video by number, decoded on demand; and videos written."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core.errors import InputError
from topohead.io.atomic import atomic_write

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")
"""What `Video` opens, by extension."""

_KEPT = 4  # decoded frames kept, for callers that step back a little
AAC_RATES = (8000, 16_000, 22_050, 32_000, 44_100, 48_000)
"""Samples a second that stay as they are; others become 48,000."""

AAC_PACKET = 0.05
"""Seconds: about the two packets by which sound may run past the pictures."""

_HD_LINES = 720  # untagged video of at least this height is BT.709, below it BT.601


class Video:
    """One camera's video: its size, rate and frame count, and any frame by number from 0.

    Opening reads the packets' times and no picture. Frame N is decoded forward from the key frame
    before it; reading in order decodes every frame once. Not for several threads at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"video {self.path} does not exist")
        try:
            self._container = av.open(str(self.path))
            self._stream = self._container.streams.video[0]
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in self._container.demux(self._stream)
                if packet.size and not packet.is_discard
            ]
        except (av.FFmpegError, IndexError) as error:
            raise InputError(f"video {self.path} cannot be read ({error}); is it whole?") from error
        if not packets:
            raise InputError(f"video {self.path} holds no frame; copy it again")
        times = sorted((time, is_key) for time, is_key in packets if time is not None)
        if len(times) < len(packets):
            raise InputError(
                f"video {self.path} has frames without a time, so they cannot be numbered; "
                "convert it to MP4 or MOV"
            )
        self._times = [time for time, _ in times]
        self._number = {time: number for number, time in enumerate(self._times)}
        self._key_numbers = [n for n, (_, is_key) in enumerate(times) if is_key]
        self.frames_per_second = self._constant_rate()
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._decoder: Iterator[tuple[int, av.VideoFrame]] | None = None
        self._next = 0
        self._check_upright()

    def __len__(self) -> int:
        return len(self._times)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self._stream.codec_context.width, self._stream.codec_context.height

    def frame(self, number: int) -> Float[Tensor, "H W 3"]:
        """Frame `number` as srgb float32 in [0, 1]."""
        if not 0 <= number < len(self):
            raise InputError(f"video {self.path} has frames 0 to {len(self) - 1}, not {number}")
        if number not in self._kept:
            self._kept[number] = _picture(self._decoded(number))
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[number]

    def close(self) -> None:
        self._container.close()

    def _decoded(self, number: int) -> av.VideoFrame:
        key = max((k for k in self._key_numbers if k <= number), default=0)
        if self._decoder is None or not key <= self._next <= number:
            self._container.seek(self._times[key], stream=self._stream, backward=True)
            self._decoder = self._decode()
        for found, frame in self._decoder:
            self._next = found + 1
            if found == number:
                return frame
            if found > number:
                break
        self._decoder = None
        raise InputError(
            f"video {self.path}: frame {number} cannot be decoded; copy the file again, or convert "
            "it to MP4"
        )

    def _decode(self) -> Iterator[tuple[int, av.VideoFrame]]:
        try:
            for frame in self._container.decode(self._stream):
                if frame.pts in self._number:
                    yield self._number[frame.pts], frame
        except av.FFmpegError as error:
            raise InputError(f"video {self.path} is damaged ({error}); copy it again") from error

    def _constant_rate(self) -> float:
        base = self._stream.time_base or Fraction(1, 1000)
        if len(self._times) == 1:
            return float(self._stream.average_rate or 30)
        steps = np.diff(self._times)
        mean = float(steps.mean())
        # times are rounded to ticks: a constant rate still shows steps one tick apart
        if np.abs(steps - mean).max() > max(1.0, 1e-3 * mean) + 1e-9:
            shortest, longest = (float(s * base) * 1e3 for s in (steps.min(), steps.max()))
            raise InputError(
                f"video {self.path} has no constant frame rate (steps of {shortest:.1f} to "
                f"{longest:.1f} ms); convert it, for example with ffmpeg -vsync cfr"
            )
        return float(1 / (mean * base))

    def _check_upright(self) -> None:
        first = self._decoded(0)
        if getattr(first, "rotation", 0) % 360:
            raise InputError(
                f"video {self.path} carries a rotation tag of {first.rotation}°; expected none: "
                "strip the tag (pixels as calibrated), or turn the pixels and calibrate those"
            )


def _picture(frame: av.VideoFrame) -> Float[Tensor, "H W 3"]:
    untagged = frame.colorspace in (0, 2)  # RGB, unspecified
    matrix = None
    if untagged and frame.format.is_rgb is False:
        matrix = "ITU709" if frame.height >= _HD_LINES else "ITU601"
    pixels = frame.to_ndarray(format="rgb24", src_colorspace=matrix)
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(255))


def write_video(
    path: Path,
    frames: Iterable[Float[Tensor, "H W 3"]],
    frames_per_second: float,
    audio: Path | None = None,
) -> int:
    """Writes srgb pictures in [0, 1] of one even size as H.264 MP4; returns how many there were.

    `audio` is any file with sound: its first stream goes along as AAC from the start, cut where the
    pictures end.
    """
    rate = Fraction(frames_per_second).limit_denominator(1001)
    count = 0
    with atomic_write(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream: Any = None
        sound: Iterator[tuple[float, av.Packet]] | None = None
        for frame in frames:
            codes = (frame.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            if stream is None:
                height, width = codes.shape[:2]
                if height % 2 or width % 2:
                    raise InputError(f"{path}: video wants an even size, got {width}×{height}")
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "16", "preset": "medium"}
                sound = None if audio is None else _sound(audio, container)
            picture = av.VideoFrame.from_ndarray(codes, format="rgb24")
            container.mux(stream.encode(picture))
            count += 1
            _mux_until(container, sound, count / float(rate))
        if stream is None:
            raise InputError(f"{path}: a video needs at least one frame")
        container.mux(stream.encode())
    return count


def check_sound(path: Path) -> None:
    """Refuses a file without sound, before pictures are made for it."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"--audio {path} has no sound; expected WAV, MP3, M4A or a video")
    except (av.FFmpegError, OSError) as error:
        told = error.strerror or error
        raise InputError(f"--audio {path} cannot be read ({told}); expected a sound file") from None


def _sound(path: Path, container: Any) -> Iterator[tuple[float, av.Packet]]:
    """Adds an AAC stream at once, and gives when each of its packets begins, and it."""
    source = av.open(str(path))
    given = source.streams.audio[0]
    rate = given.rate if given.rate in AAC_RATES else 48_000
    stream = container.add_stream("aac", rate=rate)
    stream.layout = "mono" if given.channels == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)

    def packets() -> Iterator[tuple[float, av.Packet]]:
        with source:
            fed = 0
            for block in (*source.decode(given), None):
                for piece in resampler.resample(block):
                    piece.pts, piece.time_base = fed, Fraction(1, rate)
                    fed += piece.samples
                    for packet in stream.encode(piece):
                        yield float((packet.pts or 0) * packet.time_base), packet
            for packet in stream.encode(None):
                yield float((packet.pts or 0) * packet.time_base), packet

    return packets()


def _mux_until(container: Any, sound: Iterator[tuple[float, av.Packet]] | None, end: float) -> None:
    """Writes sound up to `end` seconds; the last packet may reach a little further."""
    for start, packet in sound or ():
        container.mux(packet)
        if start >= end - AAC_PACKET:
            return
