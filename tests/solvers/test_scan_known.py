"""σ grows for heads that the known people cannot explain, and for no others."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from topohead.core import ScanFit
from topohead.io.assets import reference_head
from topohead.solvers.scan_known import EXPECTED, GROWTH, KnownPeople, widened
from topohead.workflows.registering.network import load_people

SIGMA = 2e-4


@pytest.fixture(scope="module")
def head():
    return reference_head(0)


def fit_of(head, shape):
    """A shape of the head frame, turned, moved and in millimetres."""
    pose = torch.eye(4, dtype=torch.float64)
    turn = Rotation.from_rotvec([0.4, 0.9, -0.2]).as_matrix()
    pose[:3, :3] = 1000 * torch.from_numpy(turn)
    pose[:3, 3] = torch.tensor([40.0, -300, 20])
    vertices = (shape.double() @ pose[:3, :3].T + pose[:3, 3]).float()
    sigma = torch.full((len(shape),), 1000 * SIGMA)
    return ScanFit(vertices, sigma, pose.float(), torch.zeros(52), torch.ones(1, dtype=torch.bool))


def waves(head):
    """A displacement of 1 mm that no person has."""
    return 1e-3 * torch.sin(head.template @ torch.tensor([300.0, 350, 250]))[:, None].expand(-1, 3)


def test_sigma_grows_by_what_is_left_of_a_stranger(head):
    modes = head.identity_basis[:40]
    known = KnownPeople.of(head.topology, head.template, modes)
    random = torch.Generator().manual_seed(0)
    shape = head.template + torch.einsum("k,kvc->vc", torch.randn(40, generator=random), modes)
    shape = shape + 0.7 * head.expression_basis[25]
    person, stranger = fit_of(head, shape), fit_of(head, shape + waves(head))
    assert known.remainder(person, head) < EXPECTED * SIGMA
    assert torch.equal(widened(person, person, head, known).sigma, person.sigma)
    left = known.remainder(stranger, head)
    assert 3e-4 < left < 1.8e-3
    factor = math.sqrt(1 + GROWTH**2 * ((left / SIGMA) ** 2 - EXPECTED**2))
    found = widened(stranger, person, head, known)
    torch.testing.assert_close(found.sigma, factor * person.sigma, rtol=1e-3, atol=0)


def test_shipped_people_know_the_mean_head_and_no_waves(head):
    people = load_people()
    known = KnownPeople.of(people.topology, people.template, people.identity_basis)
    assert known.remainder(fit_of(head, head.template), head) < EXPECTED * SIGMA
    assert known.remainder(fit_of(head, head.template + waves(head)), head) > 2 * SIGMA
