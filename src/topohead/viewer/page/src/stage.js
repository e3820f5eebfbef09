// The renderer, the light, the two ways to look: around the head, or through a camera of the rig.
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";

const FIELD_OF_VIEW = 26; // degrees: about a portrait lens, faces look wrong from nearer

export class Stage {
  constructor(canvas, { antialias = true } = {}) {
    this.canvas = canvas;
    // what the page's own background or a source picture shows through is where nothing is drawn
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias, alpha: true, powerPreference: "high-performance" });
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
    new ResizeObserver(() => this._resize()).observe(canvas.parentElement);
    this._resize();
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
    if (this.camera === this.orbitCamera) this.camera.updateMatrixWorld();
    this.lamps.matrix.copy(this.camera.matrixWorld);
    this.renderer.render(this.scene, this.camera);
    return true;
  }

  /** Frames a box of the world from the front; `share` of the view's shorter side is filled. */
  frame(box, share = 0.86) {
    const sphere = box.getBoundingSphere(new THREE.Sphere());
    const half = THREE.MathUtils.degToRad(FIELD_OF_VIEW / 2);
    const [width, height] = this.size;
    const tightest = Math.atan(Math.tan(half) * Math.min(1, width / height));
    const radius = Math.max(sphere.radius, 1e-6) * 0.92; // heads fill their sphere badly
    const distance = radius / share / Math.sin(tightest);
    this.orbit.target.copy(sphere.center);
    this.orbitCamera.position.copy(sphere.center).add(new THREE.Vector3(0, 0, distance));
    this.orbitCamera.near = distance / 100;
    this.orbitCamera.far = distance * 20;
    this.orbitCamera.updateProjectionMatrix();
    this.orbit.minDistance = radius * 0.15;
    this.orbit.maxDistance = distance * 12;
    this.orbit.update();
    this.invalidate();
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

  _resize() {
    const [width, height] = this.size;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.orbitCamera.aspect = width / height;
    this.orbitCamera.updateProjectionMatrix();
    this.onResize();
    this.invalidate();
  }
}
