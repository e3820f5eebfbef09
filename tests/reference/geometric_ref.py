"""The losses of Topo4D with loops, as the paper writes them; numpy, float64, values only."""

import math

import numpy as np


def rings_ref(triangles, count):
    rings = [set() for _ in range(count)]
    for a, b, c in triangles:
        rings[a] |= {b, c}
        rings[b] |= {a, c}
        rings[c] |= {a, b}
    return rings


def rotation_matrix(q):
    w, x, y, z = q / np.linalg.norm(q)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * skew + 2 * skew @ skew


def turn_ref(q, last):
    """q̂ · conjugate(l̂), Hamilton's product written out."""
    a, b, c, d = q / np.linalg.norm(q)
    e, f, g, h = last / np.linalg.norm(last) * np.array([1, -1, -1, -1])
    return np.array(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ]
    )


def physics_ref(means, quats, last_means, last_quats, rest, triangles, falloff):
    """(rotation coherence, rigidity, isometry) of Eqs. 8–10 with √w."""
    rings = rings_ref(triangles, len(means))
    directed = sum(len(ring) for ring in rings)  # 2 n_e
    rotation = rigid = iso = 0.0
    for i, ring in enumerate(rings):
        for j in ring:
            root = math.sqrt(math.exp(-falloff * np.sum((rest[j] - rest[i]) ** 2)))
            turn_i, turn_j = turn_ref(quats[i], last_quats[i]), turn_ref(quats[j], last_quats[j])
            rotation += root * np.linalg.norm(turn_j - turn_i)
            relative = rotation_matrix(quats[i]) @ rotation_matrix(last_quats[i]).T
            expected = relative.T @ (means[j] - means[i])
            rigid += root * np.linalg.norm(last_means[j] - last_means[i] - expected)
            length = np.linalg.norm(means[j] - means[i])
            iso += root * abs(np.linalg.norm(rest[j] - rest[i]) - length)
    return rotation / directed, rigid / directed, iso / directed


def position_ref(means, triangles, weights):
    rings = rings_ref(triangles, len(means))
    total = 0.0
    for i, ring in enumerate(rings):
        around = np.mean([means[j] for j in ring], axis=0)
        total += weights[i] * np.sum((means[i] - around) ** 2)
    return total / len(means)


def flattening_ref(means, rest, triangles):
    """Σ 1 - cos(θ - θ0) over inner edges, angles by arccos."""

    def normal(points, triangle):
        a, b, c = points[triangle]
        n = np.cross(b - a, c - a)
        return n / np.linalg.norm(n)

    def angle(points, s, t):
        return math.acos(np.clip(normal(points, s) @ normal(points, t), -1, 1))

    total = 0.0
    for s in range(len(triangles)):
        for t in range(s + 1, len(triangles)):
            if len(set(triangles[s]) & set(triangles[t])) == 2:
                first, second = triangles[s], triangles[t]
                total += 1 - math.cos(angle(means, first, second) - angle(rest, first, second))
    return total
