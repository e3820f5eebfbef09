"""FLAME from a pickle: planted arrays come back, posed as CAP4D does; strangers are refused."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flame_pickle import planted_flame, write_flame
from topohead.core import InputError
from topohead.io.flame import BLINK, read_flame


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    return planted_flame()


@pytest.mark.parametrize("held", ["plain", "chumpy"])
def test_arrays_come_back_whatever_holds_them(
    arrays: dict[str, Any], tmp_path: Path, held: str
) -> None:
    flame = read_flame(write_flame(tmp_path / "flame.pkl", arrays, chumpy=held == "chumpy"))
    assert "chumpy" not in sys.modules
    assert np.array_equal(flame.template.numpy(), arrays["v_template"])
    assert np.array_equal(flame.shapes[7].numpy(), arrays["shapedirs"][..., 7])
    assert np.array_equal(flame.expressions[3].numpy(), arrays["shapedirs"][..., 303])
    assert not flame.blinks and not bool(flame.expressions[64].any())
    assert np.allclose(flame.joints.numpy(), arrays["J_regressor"].toarray())
    (tmp_path / BLINK).write_bytes(pickle.dumps(arrays["v_template"]))
    assert read_flame(tmp_path / "flame.pkl").blinks


def test_what_chumpy_would_have_to_work_out_is_told(arrays: dict[str, Any], tmp_path: Path) -> None:
    path = write_flame(tmp_path / "flame.pkl", arrays | {"v_template": None}, chumpy=True)
    with pytest.raises(InputError, match=r"v_template is a chumpy\.ch\.Ch and no plain array"):
        read_flame(path)


def test_poses_are_cap4ds(arrays: dict[str, Any], tmp_path: Path) -> None:
    """A twin in loops: joints from the shaped head, each about itself, the identity twice off."""
    flame = read_flame(write_flame(tmp_path / "flame.pkl", arrays))
    random = np.random.default_rng(0)
    shape, expr = random.normal(size=150), random.normal(size=65)
    expr[64] = 0
    eyes, neck = np.array([0.1, -0.2, 0.05]), np.array([0.0, 0.3, 0.1])
    shaped = arrays["v_template"] + arrays["shapedirs"][..., :150] @ shape
    shaped = shaped + arrays["shapedirs"][..., 300:364] @ expr[:64]
    joints = arrays["J_regressor"] @ shaped
    turns = [rodrigues(neck), np.eye(3), np.eye(3), rodrigues(eyes), rodrigues(eyes)]
    moved = shaped.copy()
    for j in range(1, 5):
        for i in range(3):
            for k in range(3):
                share = turns[j][i, k] - 2 * (i == k)
                moved += share * arrays["posedirs"][..., 9 * (j - 1) + 3 * i + k]
    expected = np.zeros_like(moved)
    for j in range(5):
        turned = (moved - joints[j]) @ turns[j].T + joints[j]
        expected += arrays["weights"][:, j : j + 1] * turned
    given = [torch.from_numpy(x) for x in (shape, expr[None], eyes[None], neck[None])]
    assert np.abs(flame.vertices(*given)[0].numpy() - expected).max() < 1e-12


def rodrigues(axis: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(axis)
    x, y, z = axis / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


class Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickle.dumps({"v_template": Evil()}), "it names builtins.print"),
        (b"<html>log in</html>", "no FLAME pickle"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"v_template": np.zeros((5023, 3))}), "has no 'shapedirs'"),
    ],
)
def test_what_is_no_flame_is_refused(
    tmp_path: Path, content: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.pkl").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_flame(tmp_path / "f.pkl")
    assert "printed" not in capsys.readouterr().out


def test_wrong_sizes_are_told(arrays: dict[str, Any], tmp_path: Path) -> None:
    path = write_flame(tmp_path / "f.pkl", arrays | {"weights": np.zeros((5023, 4))})
    with pytest.raises(InputError, match=r"weights is \(5023, 4\), expected \(5023, 5\)"):
        read_flame(path)
    path = write_flame(tmp_path / "g.pkl", arrays | {"shapedirs": np.zeros((5023, 3, 100))})
    with pytest.raises(InputError, match="300 of shape and 100 of expression"):
        read_flame(path)
