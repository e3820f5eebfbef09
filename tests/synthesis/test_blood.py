"""Blood moves with the skin's area, and in nothing but skin."""

from dataclasses import replace

import pytest
import torch

from topohead.core import ARKIT_52
from topohead.io.assets import reference_head
from topohead.synthesis import blood, subjects
from topohead.synthesis.lights import GatheredLight
from topohead.synthesis.pigments import HAEMOGLOBIN
from topohead.synthesis.subjects import Subject, neutral_motion


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subjects.make_subject(reference_head(level=0), seed=3)


def change(subject: Subject, strength: float = 1.0, **actions: float) -> torch.Tensor:
    motion = neutral_motion()
    coefficients = motion.coefficients.clone()
    for name, value in actions.items():
        coefficients[0, ARKIT_52.index(name)] = value
    surfaces = subject.at(replace(motion, coefficients=coefficients), 0)
    return blood.blood_change(subject, surfaces, strength)


def test_cheeks_redden_in_a_smile_and_a_face_at_rest_stays(subject: Subject) -> None:
    assert change(subject).abs().max() < 1e-3
    smile = change(subject, mouthSmileLeft=1.0, mouthSmileRight=1.0)
    marks = subject.finer.regions["face"]
    assert smile[marks].max() > 0.05 and smile[marks].min() < -0.02
    assert torch.allclose(change(subject, 0.5, jawOpen=1.0) * 2, change(subject, jawOpen=1.0))
    for name in ("eyes", "mouth_interior"):
        assert smile[subject.finer.regions[name]].abs().max() == 0


def test_light_changes_as_albedo_would() -> None:
    """Beer's law of the haemoglobin that came, and the props behind the skin stay."""
    light = GatheredLight(torch.rand(5, 3) + 0.5, torch.rand(5, 3), torch.rand(5), torch.rand(5, 1))
    change = torch.tensor([0.0, 0.3, -0.2])
    found = blood.flushed(light, change)
    expected = light.irradiance[:3] * torch.exp(-change[:, None] * torch.tensor([HAEMOGLOBIN]))
    assert torch.allclose(found.irradiance[:3], expected)
    assert torch.equal(found.irradiance[3:], light.irradiance[3:])
    assert found.steer is light.steer and found.open_sky is light.open_sky
