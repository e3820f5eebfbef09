"""The tracker recovers planted motion from rendered heads."""

from dataclasses import replace

import torch

from egg_head import egg_head, filmed, ring
from topohead.core import Mesh
from topohead.solvers.tracking import TrackConfig, TrackState, advance, make_reference

TURN = torch.linalg.matrix_exp(
    torch.tensor([[0, -0.03, 0.06], [0.03, 0, -0.02], [-0.06, 0.02, 0]], dtype=torch.float64)
)
SHIFT = torch.tensor([0.004, -0.003, 0.002], dtype=torch.float64)


def test_planted_pose_and_expression_come_back_and_steps_repeat():
    head = egg_head()
    rest = head.template.double()
    moved = (rest + 0.5 * head.expression_basis[17].double()) @ TURN.T + SHIFT
    cameras = ring()
    first = filmed(Mesh(head.topology, rest.float()), cameras, 3)
    later = replace(filmed(Mesh(head.topology, moved.float()), cameras, 3), frame="000002")
    config = TrackConfig()
    reference = make_reference(
        first, Mesh(head.topology, rest.float()), head.expression_basis, config
    )
    start = TrackState.first(len(rest), 52)
    _, answer = advance(later, reference, start, config)
    face = head.topology.regions["face"]
    error = (answer.vertices - moved)[face].norm(dim=1) * 1000
    before = (rest - moved)[face].norm(dim=1) * 1000
    assert before.median() > 4
    assert error.median() < 0.3
    assert not answer.doubtful
    placed = rest @ answer.pose[:3, :3].T + answer.pose[:3, 3]
    assert ((placed - (rest @ TURN.T + SHIFT)).norm(dim=1) * 1000).median() < 0.5
    # a resumed run must give the same bytes
    _, again = advance(later, reference, start, config)
    assert torch.equal(again.vertices, answer.vertices)
