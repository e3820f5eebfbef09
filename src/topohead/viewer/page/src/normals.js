// Vertex normals, weighted by the triangles' areas.

/** Adds up area vectors of `triangles` (vertex numbers) over `points` into `sums`, both [V 3]. */
export function areaVectors(points, triangles, sums) {
  sums.fill(0);
  for (let k = 0; k < triangles.length; k += 3) {
    const a = 3 * triangles[k], b = 3 * triangles[k + 1], c = 3 * triangles[k + 2];
    const ax = points[a], ay = points[a + 1], az = points[a + 2];
    const ux = points[b] - ax, uy = points[b + 1] - ay, uz = points[b + 2] - az;
    const vx = points[c] - ax, vy = points[c + 1] - ay, vz = points[c + 2] - az;
    const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
    sums[a] += nx; sums[a + 1] += ny; sums[a + 2] += nz;
    sums[b] += nx; sums[b + 1] += ny; sums[b + 2] += nz;
    sums[c] += nx; sums[c + 1] += ny; sums[c + 2] += nz;
  }
}

/** Unit normals of copies: copy n takes the direction of vertex `source[n]`. */
export function writeNormals(sums, source, out) {
  for (let n = 0, k = 0; n < source.length; n++, k += 3) {
    const v = 3 * source[n];
    const x = sums[v], y = sums[v + 1], z = sums[v + 2];
    const scale = 1 / (Math.sqrt(x * x + y * y + z * z) || 1);
    out[k] = x * scale;
    out[k + 1] = y * scale;
    out[k + 2] = z * scale;
  }
}
