// The renderer, the light, the two ways to look: around the head, or through a camera of the rig.
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";

const FIELD_OF_VIEW = 26; // degrees: about a portrait lens, faces look wrong from nearer
const NARROW = 720; // CSS pixels, as in style.css

export class Stage {
  constructor(canvas, { antialias = true } = {}) {
    this.canvas = canvas;
    // what the page's own background or a source picture shows through is where nothing is drawn
    this.renderer = new THREE.WebGLRenderer({
      canvas,
      antialias,
      alpha: true,
      powerPreference: "high-performance",
    });
    this.scene = new THREE.Scene();
    this.orbitCamera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 50);
    this.orbit = new OrbitControls(this.orbitCamera, canvas);
    this.orbit.enableDamping = false;
    this.orbit.addEventListener("change", () => this.invalidate());
    this.eye = new THREE.Camera(); // a camera of the rig: its matrices are set as they are
    this.eye.matrixAutoUpdate = this.eye.matrixWorldAutoUpdate = false;
    this.camera = this.orbitCamera;
    this.world = new THREE.Group(); // what turns with the up axis
    this.scene.add(this.world, this._lamps());
    this.dirty = true;
    this.onResize = () => {};
    this.beforeDraw = new Set(); // what has to be computed for an image
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    this.resize();
  }

  /** Asks for a new image. */
  invalidate() {
    this.dirty = true;
  }

  get size() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  /** Draws if anything changed; says whether it did. */
  draw() {
    if (!this.dirty) return false;
    this.dirty = false;
    for (const prepare of this.beforeDraw) prepare();
    if (this.camera === this.orbitCamera) this.camera.updateMatrixWorld();
    this.lamps.matrix.copy(this.camera.matrixWorld);
    this.renderer.render(this.scene, this.camera);
    return true;
  }

  /** What panels leave free, in CSS pixels: [left, top, width, height]. */
  get free() {
    return this._free(document.getElementById("panel").classList.contains("open"));
  }

  _free(open) {
    const [width, height] = this.size;
    const narrow = width <= NARROW;
    const panel = document.getElementById("panel");
    const right = narrow || panel.hidden ? 0 : panel.offsetWidth + 14;
    const controls = document.getElementById("timeline").hidden ? 14 : 74;
    const bottom = narrow && open && !panel.hidden ? height - panel.offsetTop : controls;
    const top = narrow ? 84 : 14;
    return [0, top, Math.max(width - right, 1), Math.max(height - top - bottom, 1)];
  }

  /** Frames a box of the world within what is free, from the front or another direction. */
  frame(box, share = 0.9, direction = [0, 0, 1]) {
    const size = box.getSize(new THREE.Vector3());
    const [, , freeWidth, freeHeight] = this._free(false);
    const [, height] = this.size;
    // the size of the view, at the box's front, that makes the box fill its share of what is free
    const tall =
      Math.max(size.y * (height / freeHeight), size.x * (height / freeWidth), size.length() / 50, 1e-6) /
      share;
    const distance = tall / 2 / Math.tan(THREE.MathUtils.degToRad(FIELD_OF_VIEW / 2)) + size.z / 2;
    const center = box.getCenter(new THREE.Vector3());
    this.orbit.target.copy(center);
    this.orbitCamera.position
      .set(...direction)
      .setLength(distance)
      .add(center);
    this.orbitCamera.near = distance / 100;
    this.orbitCamera.far = distance * 20;
    this._center();
    this.orbit.minDistance = size.length() * 0.08;
    this.orbit.maxDistance = distance * 12;
    this.orbit.update();
    this.invalidate();
  }

  /** Moves the view's centre to the middle of what is free, smaller while a sheet covers half. */
  _center() {
    const [width, height] = this.size;
    const [x, y, freeWidth, freeHeight] = this.free;
    const scale = freeHeight / this._free(false)[3];
    const across = width / 2 - (x + freeWidth / 2) / scale;
    const down = height / 2 - (y + freeHeight / 2) / scale;
    this.orbitCamera.aspect = width / height;
    this.orbitCamera.setViewOffset(width, height, across, down, width / scale, height / scale);
  }

  /** Looks with these matrices (see `look.js`); `null` goes back to looking around. */
  through(matrices) {
    this.orbit.enabled = matrices === null;
    this.camera = matrices === null ? this.orbitCamera : this.eye;
    if (matrices !== null) {
      this.eye.matrixWorld.copy(matrices.world);
      this.eye.matrixWorldInverse.copy(matrices.world).invert();
      this.eye.projectionMatrix.copy(matrices.projection);
      this.eye.projectionMatrixInverse.copy(matrices.projection).invert();
    }
    this.invalidate();
  }

  /** Which of these points of the scene is seen nearest to a place in the view (CSS pixels). */
  nearest(points, [x, y]) {
    const [width, height] = this.size;
    const distances = points.map((point) => {
      const seen = point.clone().applyMatrix4(this.world.matrixWorld).project(this.camera);
      if (Math.abs(seen.z) > 1) return Infinity;
      return Math.hypot(((seen.x + 1) / 2) * width - x, ((1 - seen.y) / 2) * height - y);
    });
    const distance = Math.min(...distances);
    return { index: distances.indexOf(distance), distance };
  }

  /** Soft light from above and a key from the upper left, both moving with the view. */
  _lamps() {
    this.lamps = new THREE.Group();
    this.lamps.matrixAutoUpdate = false;
    const key = new THREE.DirectionalLight(0xfff4e8, 2.1);
    key.position.set(-0.9, 1.1, 1.3);
    const fill = new THREE.DirectionalLight(0xdfe8ff, 0.55);
    fill.position.set(1.5, -0.1, 0.9);
    const rim = new THREE.DirectionalLight(0xffffff, 1.1);
    rim.position.set(0.8, 0.9, -1.4);
    this.lamps.add(key, fill, rim, key.target, fill.target, rim.target);
    this.lamps.add(new THREE.AmbientLight(0xffffff, 0.5));
    return this.lamps;
  }

  /** After the view's size changed, or what covers it. */
  resize() {
    const [width, height] = this.size;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this._center();
    this.onResize();
    this.invalidate();
  }
}
