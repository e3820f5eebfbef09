// Through a camera of the rig: its picture below the drawing, both under one transformation.
import * as THREE from "three";

/** Pictures turned by quarters so that the head is upright: how often anticlockwise. */
export function quarterTurns(entry, worldUp) {
  const m = entry.world_to_camera;
  const x = m[0] * worldUp[0] + m[1] * worldUp[1] + m[2] * worldUp[2];
  const y = m[4] * worldUp[0] + m[5] * worldUp[1] + m[6] * worldUp[2];
  return ((Math.round(Math.atan2(x, -y) / (Math.PI / 2)) % 4) + 4) % 4;
}

/**
 * From the camera's pixels to the view's (CSS pixels, y down): [a, b, c, d, e, f] as in CSS matrix().
 * The turned picture fits the box [left, top, width, height]; `zoom` and `shift` come on top.
 */
export function pictureToView(size, turns, box, zoom, shift) {
  const [w, h] = size;
  const upright = turns % 2 ? [h, w] : [w, h];
  const scale = Math.min(box[2] / upright[0], box[3] / upright[1]) * zoom;
  const [cos, sin] = [[1, 0], [0, -1], [-1, 0], [0, 1]][turns];
  const [a, b, c, d] = [scale * cos, scale * sin, -scale * sin, scale * cos];
  const e = box[0] + box[2] / 2 + shift[0] - (a * w + c * h) / 2;
  const f = box[1] + box[3] / 2 + shift[1] - (b * w + d * h) / 2;
  return [a, b, c, d, e, f];
}

/**
 * OpenGL's projection of an OpenCV pinhole camera whose pixels go through `placed` into the view.
 * Pixel coordinates count from the image's corner, pixel centres being at half-integers, so
 * principal points enter exactly as they are.
 */
export function projection(entry, placed, view, near, far) {
  const [a, b, c, d, e, f] = placed;
  const [fx, fy] = entry.focal;
  const [cx, cy] = entry.principal;
  const [sx, sy] = [2 / view[0], -2 / view[1]];
  const [ox, oy] = [sx * (a * cx + c * cy + e) - 1, sy * (b * cx + d * cy + f) + 1];
  // three.js looks along -z with y up: X = x, Y = -y, Z = -z
  return new THREE.Matrix4().set(
    sx * a * fx, -sx * c * fy, -ox, 0,
    sy * b * fx, -sy * d * fy, -oy, 0,
    0, 0, -(far + near) / (far - near), (-2 * far * near) / (far - near),
    0, 0, -1, 0,
  );
}

/** Camera to scene, for three.js: the inverse of world-to-camera under the upright turn. */
export function cameraToScene(entry, upright) {
  const flip = new THREE.Matrix4().makeScale(1, -1, -1);
  const toCamera = new THREE.Matrix4().set(...entry.world_to_camera);
  return upright.clone().multiply(toCamera.invert()).multiply(flip);
}

/** Lines of all frusta in world metres, [24 points a camera], `depth` metres deep. */
export function frustumLines(entries, depth) {
  const points = [];
  for (const entry of entries) {
    const toWorld = new THREE.Matrix4().set(...entry.world_to_camera).invert();
    const corner = (u, v) =>
      new THREE.Vector3(
        ((u - entry.principal[0]) / entry.focal[0]) * depth,
        ((v - entry.principal[1]) / entry.focal[1]) * depth,
        depth,
      ).applyMatrix4(toWorld);
    const [w, h] = entry.size;
    const ring = [corner(0, 0), corner(w, 0), corner(w, h), corner(0, h)];
    const tip = new THREE.Vector3().setFromMatrixPosition(toWorld);
    ring.forEach((point, k) => points.push(tip, point, point, ring[(k + 1) % 4]));
    // a tick on the picture's upper edge
    points.push(corner(w * 0.42, 0), corner(w * 0.5, -h * 0.12), corner(w * 0.5, -h * 0.12), corner(w * 0.58, 0));
  }
  return points;
}
