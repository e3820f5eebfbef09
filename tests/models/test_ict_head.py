import numpy as np
import pytest
import torch

from topohead.core import ARKIT_52, InputError
from topohead.geometry.correspondence import interpolate
from topohead.io.assets import ict_head, reference_head


@pytest.fixture(scope="module")
def archive(shared_data):
    return shared_data / "ict" / "ict_face_model.npz"


@pytest.fixture(scope="module")
def head(archive):
    return ict_head(archive)


def test_shape_is_the_source_moved_between_the_eyes(head, archive):
    with np.load(archive) as arrays:
        source = torch.from_numpy(arrays["vertices"])
        identity = torch.from_numpy(arrays["identity"][3].astype(np.float32))
        landmarks = torch.from_numpy(arrays["landmarks_68"]).long()
        arkit = [str(name) for name in arrays["expression_arkit"]]
        brows = torch.from_numpy(
            arrays["expression"][[i for i, name in enumerate(arkit) if name == "browInnerUp"]]
        )
    shift = (head.template - source).double()
    assert shift.std(0).max() < 1e-6
    assert torch.equal(head.identity_basis[3], identity)
    assert len(brows) == 2
    assert torch.allclose(head.expression_basis[ARKIT_52.index("browInnerUp")], brows.sum(0))
    assert (head.expression_basis[ARKIT_52.index("tongueOut")] == 0).all()
    points = head.topology.landmarks["ibug68"]
    marks = interpolate(points, head.topology.triangles, head.template)
    assert torch.allclose(marks, head.template[landmarks])


def test_regions_lie_where_their_names_say(head):
    topology, marks = head.topology, head.topology.landmarks["ibug68"]
    points = interpolate(marks, topology.triangles, head.template)
    mask = topology.region_mask

    def nearest(index, region):
        part = head.template[topology.regions[region]]
        return torch.cdist(points[index], part).amin(1).max()

    assert nearest(slice(17, 27), "brows") < 0.006
    assert nearest(slice(36, 48), "eyelids") < 0.002
    assert nearest([50, 51, 52, 61, 62, 63], "lips_upper") < 0.002
    assert nearest([56, 57, 58, 65, 66, 67], "lips_lower") < 0.002
    drop = head.expression_basis[ARKIT_52.index("jawOpen"), :, 1]
    assert (
        drop[topology.regions["lips_lower"]].mean()
        < 3 * drop[topology.regions["lips_upper"]].mean()
    )
    for other in ("ears", "neck", "scalp", "eyes", "mouth_interior", "eye_shells"):
        assert not (mask("face") & mask(other)).any(), other
    assert (mask("face") & mask("lips")).sum() > 0.95 * mask("lips").sum()
    ears = head.template[topology.regions["ears"], 0].abs()
    assert ears.min() > 0.05


def test_mirror_is_an_involution_though_the_source_is_not_quite_symmetric(head):
    mirror, flip = head.topology.mirror, torch.tensor([-1.0, 1, 1])
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
    assert (head.template[mirror] * flip - head.template).norm(dim=1).max() < 5e-4
    rows = {frozenset(face) for face in head.topology.faces.tolist()}
    assert {frozenset(face) for face in mirror[head.topology.faces].tolist()} == rows


def test_tiles_are_folded_into_the_unit_square(head):
    topology = head.topology
    assert topology.uv.min() > 0 and topology.uv.max() < 1
    corner = topology.uv[topology.triangle_uv]
    face = topology.triangle_mask("face")
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs() / 2
    assert area[face].sum() > 0.2
    eyes = topology.triangle_mask("eyes")
    skin = topology.triangle_mask("skin")
    for centre in corner[eyes].mean(1)[::50]:  # eyeballs lie over the face in the source's tile
        inside = ((corner[skin].amin(1) < centre) & (corner[skin].amax(1) > centre)).all(1)
        assert not inside.any()


def test_missing_and_foreign_files_are_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("TOPOHEAD_ICT", raising=False)
    with pytest.raises(InputError, match="no ICT-FaceKit model given"):
        ict_head()
    with pytest.raises(InputError, match="no ICT-FaceKit model at"):
        ict_head(tmp_path)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(InputError, match="not an npz archive"):
        ict_head(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", vertices=np.zeros((3, 3)))
    with pytest.raises(InputError, match="has no array 'identity'"):
        ict_head(tmp_path / "other.npz")


def test_reference_is_as_large_as_the_scanned_mean(head):
    """Two independent sources of the mean adult head agree within a few percent."""

    def width(model):
        points = model.topology.landmarks["ibug68"]
        marks = interpolate(points, model.topology.triangles, model.template)
        return (marks[45] - marks[36]).norm()

    assert width(reference_head(1)) == pytest.approx(width(head).item(), rel=0.1)
