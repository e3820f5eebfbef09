"""The registration benchmark: the truth scores nothing, faults are told, cells hold theirs."""

import sys
from pathlib import Path

import pytest
import torch

from topohead.core import ScanFit
from topohead.synthesis.shapes import load_shapes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from register_page import PAGE, TABLES, filled  # noqa: E402
from register_scans import Bench, Case  # noqa: E402
from register_scores import Judge, area_under, summary  # noqa: E402

SEED = 100


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(load_shapes("cpu"), SEED)


@pytest.fixture(scope="module")
def judge(bench: Bench) -> Judge:
    return Judge(bench)


def case_of(bench: Bench, cell: str, number: int = 0) -> Case:
    return list(bench.cases(cell, bench.people(number + 1)))[number]


def fit(case: Case, vertices: torch.Tensor, sigma: float = 1e-3) -> ScanFit:
    """Head-frame vertices as a method would hand them over."""
    there = case.pose.apply(vertices[None])[0]
    error = torch.full((len(there),), sigma) * case.pose.scale
    coefficients = case.person.coefficients
    return ScanFit(there, error, torch.eye(4), coefficients, case.inlier)


def test_the_truth_scores_nothing_in_any_frame_and_unit(bench: Bench, judge: Judge) -> None:
    for cell in ("clean", "pose 30°", "millimetres z-up"):
        case = case_of(bench, cell)
        scores = judge(case, fit(case, case.person.vertices))
        assert not scores["failed"]
        for name in ("face", "ears_p95", "slide", "normal", "landmarks", "p2s", "s2p", "rig_worst"):
            assert scores[name] < 2e-3, name
        for name in ("flipped", "pierced", "slits_crossed", "expression"):
            assert scores[name] == 0, name
        assert scores["f_1mm"] == scores["inliers"] == scores["within_50"] == 1
        assert scores["normal_cosine"] == pytest.approx(1, abs=1e-5)


def test_planted_faults_are_told(bench: Bench, judge: Judge) -> None:
    case = case_of(bench, "clean")
    truth, regions = case.person.vertices, judge.regions
    ears = truth + 0.003 * regions["ears"][:, None]
    scores = judge(case, fit(case, ears))
    assert scores["ears"] == pytest.approx(3 * 3**0.5, rel=1e-3)
    assert max(scores["nose"], scores["lips"]) < 1e-4
    rough = truth + 1e-3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    scores = judge(case, fit(case, rough))
    assert scores["flipped"] > 50 and scores["pierced"] > 50 and scores["slits_crossed"]
    assert scores["within_50"] == pytest.approx(0.5, abs=0.04)
    assert scores["rig"] > 0.1 and scores["normal_cosine"] < 0.95
    bold = judge(case, fit(case, rough, sigma=3e-4))
    assert bold["within_90"] < 0.3
    shut = truth.clone()
    shut[bench.shapes.topology.regions["lips_upper"]] -= torch.tensor([0, 0.004, 0])
    assert judge(case, fit(case, shut))["slits_deepest"] > 2


def test_a_wider_head_moves_wider(bench: Bench, judge: Judge) -> None:
    case = case_of(bench, "clean")
    wide = case.person.vertices * torch.tensor([1.04, 1.0, 1.0])
    scores = judge(case, fit(case, wide))
    assert 0.02 < scores["rig"] < 1


@pytest.mark.parametrize("wrong", ["turned", "sized", "off"])
def test_lost_heads_fail_and_are_not_averaged(bench: Bench, judge: Judge, wrong: str) -> None:
    case = case_of(bench, "clean")
    truth = case.person.vertices
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0, 0.2], [0, 0, 0.0], [-0.2, 0, 0]]))
    lost = {"turned": truth @ turn.T, "sized": 1.06 * truth, "off": truth + 0.004}[wrong]
    bad = judge(case, fit(case, lost)) | {"seconds": 1.0, "cpu_seconds": 1.0}
    good = judge(case, fit(case, truth + 1e-3)) | {"seconds": 3.0, "cpu_seconds": 1.0}
    assert bad["failed"] and "ears" not in bad
    told = summary([bad, good])
    assert told["failed"] == 1 and told["scans"] == 2
    assert told["face"] == pytest.approx(3**0.5, rel=1e-3)


def test_nothing_but_a_number_is_no_head(bench: Bench, judge: Judge) -> None:
    case = case_of(bench, "clean")
    nothing = torch.full_like(case.person.vertices, torch.nan)
    assert judge(case, fit(case, nothing))["failed"]


def test_cells_hold_the_fault_that_they_name(bench: Bench) -> None:
    clean = case_of(bench, "clean")
    assert clean.inlier.all() and clean.scan.normals is not None
    noisy = case_of(bench, "noise 1 mm")
    gap = noisy.in_head(noisy.scan.points) - clean.in_head(clean.scan.points)
    assert float(gap.square().mean().sqrt()) == pytest.approx(1e-3 * (1 - 0.15), rel=0.05)
    assert not case_of(bench, "hair").inlier.all()
    beside = case_of(bench, "shoulders")
    assert 0.2 < float((~beside.inlier).float().mean()) < 0.3
    low = clean.person.vertices[:, 1].min()
    assert (beside.in_head(beside.scan.points)[~beside.inlier][:, 1] < low + 0.05).all()
    view = case_of(bench, "one view")
    assert len(view.scan.triangles) and view.scan.normals is None
    file = case_of(bench, "millimetres z-up")
    assert 100 < float((file.scan.points.amax(0) - file.scan.points.amin(0)).max()) < 600
    everything = case_of(bench, "everything", 1)
    assert not everything.inlier.all()


def test_a_case_is_a_function_of_seed_and_number(bench: Bench) -> None:
    for cell in ("everything", "one view"):
        (first,) = bench.cases(cell, bench.people(3)[2:])
        again = case_of(bench, cell, 2)
        assert torch.equal(first.scan.points, again.scan.points)
    assert not torch.equal(first.scan.points, case_of(bench, "one view", 1).scan.points)


def test_area_under_the_curve() -> None:
    values = torch.tensor([1.0, 2, 3, 4]).numpy()
    failed = torch.tensor([False, False, True, True]).numpy()
    assert area_under(values, failed) == 1
    assert area_under(-values, failed) == 0
    assert area_under(0 * values, failed) == 0.5
    assert area_under(values, failed & False) is None


def test_the_page_takes_its_tables_from_the_results() -> None:
    text = (BENCHMARKS.parent / "docs" / PAGE).read_text()
    for name in TABLES:
        assert f"<!-- {name} -->" in text and f"<!-- /{name} -->" in text
    machine = {"processor": "p", "cores": 2, "load": 0.5, "torch": "2"}
    row = {"scans": 4, "failed": 1.0, "face": 1.2345, "p2s": 0.0987}
    section = {"clean": {"pca": row}, "hardware": machine, "commit": "c"}
    made = filled(text, {"seed": 770, "split": "test", "H1": section})
    assert "| pca | 1.23 (1 of 4 failed) |" in made and "| pca | 0.099 (1 of 4 failed) |" in made
    again = filled(made, {"seed": 770, "split": "test", "H1": section})
    assert again == made
