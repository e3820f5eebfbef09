// A mesh sequence: one topology, positions of the frame that is shown, five shadings.
import * as THREE from "three";
import { Frames, unpack } from "./frames.js";
import { frustumLines } from "./look.js";
import { Maps } from "./maps.js";
import { areaVectors, writeNormals } from "./normals.js";
import { ERROR_COLORS_LINEAR, materials, WIRE_COLOR } from "./shading.js";
import { loadBytes } from "./source.js";

const UNKNOWN = 65535;
const UNKNOWN_COLOR = 88; // linear grey of vertices without an error

export class Sequence {
  static async open(prefix, document_, stage, onArrival) {
    const arrays = unpack(await loadBytes(`${prefix}/topology`), document_.arrays);
    return new Sequence(prefix, document_, arrays, stage, onArrival);
  }

  constructor(prefix, document_, arrays, stage, onArrival) {
    Object.assign(this, { prefix, document: document_, arrays, stage, onArrival });
    this.kind = "sequence";
    this.times = document_.times;
    this.frames = new Frames(prefix, document_, arrays.base, onArrival);
    this.upright = new THREE.Matrix4().set(...document_.upright);
    this.object = new THREE.Group();
    this.object.matrixAutoUpdate = false;
    this.object.matrix.copy(this.upright);
    this.materials = materials();
    this.textures = this._maps("texture", true, (map) => {
      this.materials.texture.map = map;
      this.materials.texture.color.set(map ? 0xffffff : 0x888888);
      this.materials.texture.needsUpdate = true;
    });
    this.reliefs = this._maps("relief", false, (map) => {
      this.materials.clay.normalMap = map;
      this.materials.clay.needsUpdate = true;
    });
    this.relief = true; // whether clay shows the fine relief
    this.measure = document_.errors[0];
    this.errorScale = 1; // mm at the end of the colours
    this.shown = -1;
    this._build();
    this.setShading(this.shadings[0]);
    this.show(0);
  }

  /** What can be shown; the first is how it opens. */
  get shadings() {
    const { errors } = this.document;
    const uv = this.arrays.uv !== undefined;
    return [
      ...(this.textures.exist ? ["texture"] : []),
      "clay",
      ...(errors.length ? ["error"] : []),
      ...(uv ? ["checker"] : []),
      "wire",
    ];
  }

  get facts() {
    const count = this.document.vertices.toLocaleString("en");
    const frames = this.times.length;
    return `${count} vertices${frames > 1 ? `, ${frames} frames` : ""}`;
  }

  _build() {
    const { arrays } = this;
    const copies = arrays.source.length;
    this.geometry = new THREE.BufferGeometry();
    const attribute = (name, array, size, normalized = false) => {
      const made = new THREE.BufferAttribute(array, size, normalized);
      made.setUsage(THREE.DynamicDrawUsage);
      this.geometry.setAttribute(name, made);
      return made;
    };
    this.position = attribute("position", new Float32Array(3 * copies), 3);
    this.normal = attribute("normal", new Float32Array(3 * copies), 3);
    this.geometry.setIndex(new THREE.BufferAttribute(arrays.triangles, 1));
    if (arrays.uv) this.geometry.setAttribute("uv", new THREE.BufferAttribute(arrays.uv, 2));
    if (arrays.measured) {
      this.color = attribute("color", new Uint8Array(4 * copies).fill(UNKNOWN_COLOR), 4, true);
      this.rowOf = new Int32Array(this.document.vertices).fill(-1);
      arrays.measured.forEach((vertex, row) => (this.rowOf[vertex] = row));
    }
    this.corners = arrays.triangles.map((copy) => arrays.source[copy]); // vertex numbers
    this.sums = new Float32Array(3 * this.document.vertices);
    this.mesh = new THREE.Mesh(this.geometry, this.materials.clay);
    this.mesh.frustumCulled = false;
    const edges = new THREE.BufferGeometry();
    edges.setAttribute("position", this.position);
    edges.setIndex(new THREE.BufferAttribute(arrays.edges, 1));
    const color = new THREE.LineBasicMaterial({ color: WIRE_COLOR, transparent: true, opacity: 0.38 });
    this.wire = new THREE.LineSegments(edges, color);
    this.wire.frustumCulled = false;
    this.object.add(this.mesh, this.wire);
  }

  setShading(name) {
    this.shading = name;
    this.mesh.material = this.materials[name];
    this.wire.visible = name === "wire";
    if (this.shown >= 0) this.show(this.shown);
    this.stage.invalidate();
  }

  /** Over a source picture a wireframe is lines alone: the surface only hides what is behind. */
  setOverPicture(over) {
    this.materials.wire.colorWrite = !over;
    this.stage.invalidate();
  }

  ready(index) {
    return this.frames.ready(index, this.shading === "error" ? this.measure : null);
  }

  /** Shows a frame; false while it is still on its way. */
  show(index) {
    if (!this.ready(index)) return false;
    this._place(this.frames.decode(index));
    this.shown = index;
    if (this.shading === "error") this._paintErrors(index);
    if (this.shading === "texture") this.textures.show(index);
    if (this.shading === "clay" && this.relief) this.reliefs.show(index);
    this.stage.invalidate();
    return true;
  }

  /** Puts the mesh where these points are, float32 [V 3]. */
  _place(points) {
    const { source } = this.arrays;
    const position = this.position.array;
    for (let n = 0, k = 0; n < source.length; n++, k += 3) {
      const v = 3 * source[n];
      position[k] = points[v];
      position[k + 1] = points[v + 1];
      position[k + 2] = points[v + 2];
    }
    this.position.needsUpdate = true;
    if (this.shading !== "texture") {
      areaVectors(points, this.corners, this.sums);
      writeNormals(this.sums, source, this.normal.array);
      this.normal.needsUpdate = true;
    }
  }

  setErrors(measure, scale) {
    this.measure = measure;
    this.errorScale = scale;
    this.show(this.shown);
  }

  _paintErrors(index) {
    const count = this.arrays.measured.length;
    const errors = this.frames.errors(index, this.measure, count);
    const color = this.color.array;
    const { source } = this.arrays;
    const scale = 255 / (this.errorScale * 1000);
    for (let n = 0; n < source.length; n++) {
      const row = this.rowOf[source[n]];
      const known = row >= 0 && errors[row] !== UNKNOWN;
      const at = known ? 3 * Math.min(255, Math.round(errors[row] * scale)) : 0;
      for (let c = 0; c < 3; c++) color[4 * n + c] = known ? ERROR_COLORS_LINEAR[at + c] : UNKNOWN_COLOR;
    }
    this.color.needsUpdate = true;
  }

  /** Median and 95th percentile of the shown frame's errors, mm. */
  errorFacts() {
    const errors = this.frames.errors(this.shown, this.measure, this.arrays.measured.length);
    const known = errors.filter((error) => error !== UNKNOWN).sort();
    const at = (share) => known[Math.floor(share * (known.length - 1))] / 1000;
    return known.length ? [at(0.5), at(0.95)] : null;
  }

  _maps(kind, colour, wear) {
    return new Maps(`${this.prefix}/${kind}`, this.document.maps[kind], {
      limit: this.stage.renderer.capabilities.maxTextureSize,
      colour,
      wear: (map) => {
        wear(map);
        this.stage.invalidate();
      },
      onArrival: this.onArrival,
    });
  }

  /** Whether clay shows the run's fine relief. */
  setRelief(on) {
    this.relief = on;
    if (on) this.reliefs.show(this.shown);
    else this.reliefs.remove();
  }

  get textured() {
    return this.materials.texture.map !== null;
  }

  /** Gives the graphics card's memory back. */
  dispose() {
    for (const maps of [this.textures, this.reliefs]) maps.dispose();
    for (const node of [this.mesh, this.wire, this._frusta]) node?.geometry.dispose();
  }

  /** The shown frame's box in the scene. */
  box() {
    const box = new THREE.Box3().setFromArray(this.frames.points);
    return box.applyMatrix4(this.object.matrix);
  }

  get frustaVisible() {
    return Boolean(this._frusta?.visible);
  }

  /** The middle of each frustum, under the world. */
  frustaPoints() {
    const { position } = this.frusta().geometry.attributes;
    const each = position.count / this.document.cameras.length;
    return this.document.cameras.map((_, c) => {
      const box = new THREE.Box3();
      for (let k = 0; k < each; k++)
        box.expandByPoint(new THREE.Vector3().fromBufferAttribute(position, c * each + k));
      return box.getCenter(new THREE.Vector3()).applyMatrix4(this.object.matrix);
    });
  }

  /** The box of the frusta in the scene. */
  frustaBox() {
    return new THREE.Box3()
      .setFromBufferAttribute(this.frusta().geometry.attributes.position)
      .applyMatrix4(this.object.matrix);
  }

  /** Lines of the rig's cameras, made when they are first wanted. */
  frusta() {
    if (!this._frusta) {
      const centers = this.document.cameras.map((entry) =>
        new THREE.Vector3().setFromMatrixPosition(new THREE.Matrix4().set(...entry.world_to_camera).invert()),
      );
      const middle = new THREE.Box3().setFromArray(this.arrays.base).getCenter(new THREE.Vector3());
      const distances = centers.map((center) => center.distanceTo(middle)).sort((a, b) => a - b);
      const depth = 0.09 * distances[distances.length >> 1];
      const lines = new THREE.BufferGeometry().setFromPoints(frustumLines(this.document.cameras, depth));
      this._frusta = new THREE.LineSegments(lines, new THREE.LineBasicMaterial({ color: 0xe0b080 }));
      this._frusta.frustumCulled = false;
      this._frusta.visible = false;
      this.object.add(this._frusta);
    }
    return this._frusta;
  }
}
