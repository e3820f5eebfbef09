"""Points that several cameras see at once: image features, matched and joined to tracks."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int

from topohead.core import Cameras, Views


@dataclass(frozen=True)
class TrackSearch:
    """How features are found and matched."""

    features: int = 6000
    """Most features in a picture."""
    contrast: float = 0.01
    """Least contrast of a feature (SIFT's threshold)."""
    ratio: float = 0.8
    """Largest distance ratio of the best to the second-best match (Lowe 2004)."""
    epipolar: float = 1.5
    """Matches off the robustly fitted epipolar geometry by more pixels are dropped."""
    calibration_error: float = 0.05
    """Matches off the given calibration by more than this share of the picture are dropped."""
    neighbours: int = 4
    """Cameras that each camera is matched against: the ones looking from nearest by."""


@dataclass(frozen=True)
class FeatureTracks:
    """M observations of N points in C cameras: point and camera of each, and its pixel."""

    point: Int[np.ndarray, " M"]
    camera: Int[np.ndarray, " M"]
    pixels: Float[np.ndarray, "M 2"]
    count: int

    def __len__(self) -> int:
        return self.count

    def views(self) -> Int[np.ndarray, " N"]:
        """How many cameras see each point."""
        return np.bincount(self.point, minlength=self.count)

    def keep(self, observation: np.ndarray) -> "FeatureTracks":
        """Only these observations (bool [M]); points left with fewer than two go as well."""
        seen = np.bincount(self.point[observation], minlength=self.count)
        kept = observation & (seen >= 2)[self.point]
        names, point = np.unique(self.point[kept], return_inverse=True)
        return FeatureTracks(point, self.camera[kept], self.pixels[kept], len(names))


def find_tracks(frames: Iterable[Views], search: TrackSearch | None = None) -> FeatureTracks:
    """Tracks over the cameras of each frame; frames with different camera sets are not allowed.

    SIFT features, mutual nearest neighbours with a ratio test, RANSAC per pair of cameras. A track
    that comes back to one camera at two places is dropped.
    """
    search = search or TrackSearch()
    parts, offset = [], 0
    for views in frames:
        tracks = _tracks_of_frame(views, search)
        parts.append((tracks.point + offset, tracks.camera, tracks.pixels))
        offset += tracks.count
    if not parts:
        return FeatureTracks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)), 0)
    point, camera, pixels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return FeatureTracks(point, camera, pixels, offset)


def _tracks_of_frame(views: Views, search: TrackSearch) -> FeatureTracks:
    found = [_features(image.numpy(), search) for image in views.images]
    starts = np.cumsum([0] + [len(places) for places, _ in found])
    links = []
    for first, second in _camera_pairs(views.cameras, search.neighbours):
        pair = _match(found[first], found[second], views.cameras, (first, second), search)
        links.append(pair + np.array([starts[first], starts[second]]))
    pixels = np.concatenate([places for places, _ in found])
    camera = np.repeat(np.arange(len(found)), np.diff(starts))
    label = _components(len(pixels), np.concatenate(links) if links else np.zeros((0, 2), int))
    return _consistent(label, camera, pixels)


def _features(
    image: Float[np.ndarray, "H W 3"], search: TrackSearch
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 128"]]:
    """SIFT places (half-integer pixel centres) and square-root descriptors."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    low, high = np.percentile(gray, [0.5, 99.5])
    stretched = np.clip((gray - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    detector = cv2.SIFT.create(nfeatures=search.features, contrastThreshold=search.contrast)
    keypoints, descriptors = detector.detectAndCompute(stretched, None)
    if descriptors is None or not len(keypoints):
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    places = np.array([keypoint.pt for keypoint in keypoints], np.float64) + 0.5
    # RootSIFT (Arandjelović & Zisserman 2012): the Hellinger kernel as a Euclidean distance
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return places, descriptors.astype(np.float32)


def _camera_pairs(cameras: Cameras, neighbours: int) -> list[tuple[int, int]]:
    """Every camera with those that look in the most similar directions, each pair once."""
    forward = cameras.world_to_camera[:, 2, :3].double().numpy()
    likeness = forward @ forward.T
    pairs = set()
    for first in range(len(cameras)):
        order = [other for other in np.argsort(-likeness[first]) if other != first]
        pairs |= {(min(first, int(o)), max(first, int(o))) for o in order[:neighbours]}
    return sorted(pairs)


def _match(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    cameras: Cameras,
    pair: tuple[int, int],
    search: TrackSearch,
) -> Int[np.ndarray, "K 2"]:
    """Index pairs of features that are the same point."""
    nothing = np.zeros((0, 2), np.int64)
    if min(len(first[0]), len(second[0])) < 8:
        return nothing
    similarity = first[1] @ second[1].T
    forth, back = similarity.argmax(1), similarity.argmax(0)
    rows = np.arange(len(forth))
    best = similarity[rows, forth]
    similarity[rows, forth] = -1
    distance = np.sqrt(np.maximum(2 - 2 * best, 0))
    runner_up = np.sqrt(np.maximum(2 - 2 * similarity.max(1), 1e-12))
    good = (back[forth] == rows) & (distance < search.ratio * runner_up)
    matches = np.stack([rows[good], forth[good]], 1)
    one, two = first[0][matches[:, 0]], second[0][matches[:, 1]]
    size = float(cameras.sizes[list(pair)].max())
    error = epipolar_distance(fundamental(cameras, *pair), one, two)
    near = error < search.calibration_error * size
    matches, one, two = matches[near], one[near], two[near]
    if len(matches) < 12:
        return nothing
    try:
        _, inlier = cv2.findFundamentalMat(one, two, cv2.USAC_MAGSAC, search.epipolar, 0.999, 5000)
    except cv2.error:  # raised when every sample of matches is degenerate
        return nothing
    return nothing if inlier is None else matches[inlier.ravel() > 0].astype(np.int64)


def fundamental(cameras: Cameras, first: int, second: int) -> Float[np.ndarray, "3 3"]:
    """F with x₂ᵀ F x₁ = 0 for homogeneous pixels of the same point in two cameras."""
    poses = cameras.world_to_camera.double().numpy()
    intrinsics = cameras.intrinsics.double().numpy()
    relative = poses[second] @ np.linalg.inv(poses[first])
    x, y, z = relative[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    essential = cross @ relative[:3, :3]
    return np.linalg.inv(intrinsics[second]).T @ essential @ np.linalg.inv(intrinsics[first])


def epipolar_distance(
    matrix: Float[np.ndarray, "3 3"],
    first: Float[np.ndarray, "N 2"],
    second: Float[np.ndarray, "N 2"],
) -> Float[np.ndarray, " N"]:
    """Sampson distance of matched pixels from epipolar geometry, px."""
    one = np.concatenate([first, np.ones((len(first), 1))], 1)
    two = np.concatenate([second, np.ones((len(second), 1))], 1)
    lines, back = one @ matrix.T, two @ matrix
    value = (two * lines).sum(1)
    slope = (lines[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1)
    return np.abs(value) / np.sqrt(np.maximum(slope, 1e-18))


def _components(count: int, links: Int[np.ndarray, "L 2"]) -> Int[np.ndarray, " F"]:
    """Which features hang together."""
    from scipy import sparse  # noqa: PLC0415  (0.1 s to import)
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    graph = sparse.coo_array(
        (np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(count, count)
    )
    return connected_components(graph, directed=False)[1]


def _consistent(label: np.ndarray, camera: np.ndarray, pixels: np.ndarray) -> FeatureTracks:
    """Components with at least two features, no camera twice."""
    size = np.bincount(label)
    keys = np.stack([label, camera], 1)
    _, inverse, repeats = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    twice = np.zeros(len(size), bool)
    twice[label[repeats[inverse.ravel()] > 1]] = True
    kept = (size[label] >= 2) & ~twice[label]
    names, point = np.unique(label[kept], return_inverse=True)
    return FeatureTracks(point, camera[kept], pixels[kept], len(names))
