"""Live Link Face tracks: time comes from the timecode, and bad files say what is wrong."""

from pathlib import Path

import pytest
import torch

from topohead.core import ARKIT_52, InputError
from topohead.io.expressions import (
    Performance,
    gaze_of_looks,
    live_link_eyes,
    read_live_link,
    with_looks,
    write_live_link,
)


def _track(times: list[float]) -> Performance:
    generator = torch.Generator().manual_seed(3)
    count = len(times)
    return Performance(
        torch.tensor(times).double(),
        torch.rand(count, 52, generator=generator).double(),
        torch.randn(count, 3, generator=generator).double(),
        torch.randn(count, 2, 3, generator=generator).double(),
    )


def test_round_trip_keeps_values_and_uneven_times(tmp_path: Path) -> None:
    track = _track([0.0, 1 / 30, 3 / 30, 61.5, 3700.25])
    write_live_link(track, tmp_path / "a.csv")
    back = read_live_link(tmp_path / "a.csv")
    assert torch.allclose(back.times, track.times, atol=1e-5)
    assert torch.allclose(back.coefficients, track.coefficients, atol=1e-9)
    assert torch.allclose(back.head_rotation, track.head_rotation, atol=1e-9)
    assert torch.allclose(back.eye_rotation, track.eye_rotation, atol=1e-9)


def _rewritten(tmp_path: Path, old: str, new: str, count: int = 1) -> Path:
    path = tmp_path / "take.csv"
    write_live_link(_track([0.0, 1 / 30, 2 / 30]), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))
    return path


def test_timecode_counts_sixty_frames_a_second_and_crosses_midnight(tmp_path: Path) -> None:
    path = _rewritten(tmp_path, "00:00:00:00.000", "23:59:59:58.000")
    track = read_live_link(path)
    assert track.times.tolist() == pytest.approx([0, 4 / 60, 6 / 60], abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("JawOpen", "JawWide", "expected a column 'JawOpen'"),
        ("00:00:00:02.000", "00:00:00:00.000", "does not come after"),
        ("00:00:00:02.000", "noon", "expected a timecode"),
        (",0.", ",zero.", "expected numbers"),
        (",0.", ",nan,0.", "expected 63 values"),
    ],
)
def test_a_broken_file_says_where(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = _rewritten(tmp_path, old, new)
    with pytest.raises(InputError, match=words):
        read_live_link(path)


def test_as_spreadsheets_and_older_apps_save_it(tmp_path: Path) -> None:
    """Semicolons and decimal commas, tabs, columns in another order and spelling, no tongue."""
    track = _track([0.0, 1 / 30, 2 / 30])
    write_live_link(track, tmp_path / "a.csv")
    rows = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()]
    tongue = rows[0].index("TongueOut")
    rows = [[*row[:tongue], *row[tongue + 1 :]][::-1] for row in rows]
    rows[0] = [name[0].lower() + name[1:] for name in rows[0]]
    for name, text in (
        ("excel.csv", "\r\n".join(";".join(row).replace(".", ",") for row in rows)),
        ("tabs.csv", "\n".join("\t".join(row) for row in rows)),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        back = read_live_link(tmp_path / name)
        assert torch.allclose(back.times, track.times, atol=1e-5)
        assert torch.allclose(back.coefficients[:, :51], track.coefficients[:, :51], atol=1e-9)
        assert not back.coefficients[:, 51].any()
        assert torch.allclose(back.head_rotation, track.head_rotation, atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "words"), [((100, 1), "line 2: coefficients reach"), ((1, 57.3), "angles reach")]
)
def test_percentages_and_degrees_are_told(
    tmp_path: Path, scale: tuple[float, float], words: str
) -> None:
    track = _track([0.0, 0.5])
    shares, angles = scale[0] * track.coefficients, scale[1] * track.head_rotation
    write_live_link(
        Performance(track.times, shares, angles, track.eye_rotation), tmp_path / "a.csv"
    )
    with pytest.raises(InputError, match=words):
        read_live_link(tmp_path / "a.csv")


def test_a_number_that_is_none(tmp_path: Path) -> None:
    track = _track([0.0, 0.5])
    track.coefficients[1, 7] = float("nan")
    write_live_link(track, tmp_path / "a.csv")
    with pytest.raises(InputError, match="line 3: a coefficient is not finite"):
        read_live_link(tmp_path / "a.csv")


def test_cut_off_empty_and_missing_files(tmp_path: Path) -> None:
    path = _rewritten(tmp_path, "Timecode", "Timecode")
    whole = path.read_text()
    path.write_text(whole[:-200])
    with pytest.raises(InputError, match="cut off"):
        read_live_link(path)
    path.write_text(whole.splitlines()[0])
    with pytest.raises(InputError, match="no rows"):
        read_live_link(path)
    with pytest.raises(InputError, match="cannot read"):
        read_live_link(tmp_path / "nobody.csv")
    (tmp_path / "picture.csv").write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(InputError, match="no CSV"):
        read_live_link(tmp_path / "picture.csv")


def test_real_recording(shared_data: Path) -> None:
    path = shared_data / "performances" / "alex_rom_3.csv"
    if not path.exists():
        pytest.skip("no recorded performance")
    track = read_live_link(path)
    assert len(track) == 4030
    assert float(track.times[-1]) == pytest.approx(134.38, abs=0.01)
    steps = track.times.diff()
    # rows come at 30 a second, with gaps of at most two frames
    assert float(steps.min()) == pytest.approx(1 / 30, abs=1e-3)
    assert float(steps.max()) == pytest.approx(2 / 30, abs=1e-3)
    assert float(track.head_rotation.abs().max()) == 0.0
    blink = track.coefficients[:, ARKIT_52.index("eyeBlinkLeft")]
    assert 0.8 < float(blink.max()) <= 1.0


def test_eye_look_actions_say_where_the_eyes_look() -> None:
    """To the person's left: the left eye out, the right one in; both say the gaze again."""
    gaze = torch.tensor([[[0.22, -0.11], [0.33, 0.0]], [[-0.1, 0.2], [-0.2, 0.05]]]).double()
    played = with_looks(torch.full((2, 52), 0.3).double(), gaze)
    looks = {name: played[0, ARKIT_52.index(name)].item() for name in ARKIT_52}
    assert looks["eyeLookOutLeft"] == pytest.approx(0.4)
    assert looks["eyeLookInRight"] == pytest.approx(0.6)
    assert looks["eyeLookDownLeft"] == pytest.approx(0.2)
    assert looks["eyeLookInLeft"] == looks["eyeLookUpLeft"] == looks["eyeLookUpRight"] == 0
    assert looks["jawOpen"] == pytest.approx(0.3)
    assert torch.allclose(gaze_of_looks(played), gaze)
    assert torch.equal(live_link_eyes(gaze)[..., :2], -gaze)
