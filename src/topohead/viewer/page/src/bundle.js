// Gaussians on a mesh that moves them: a rig or sequence in a GLB, and CAP4D's animated PLY.
import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { BoundSplats, Choice, SHOWN, VERTICES_WIDE, shownSection, texels, wordTexture } from "./bound.js";
import { unpack } from "./frames.js";
import { Model } from "./model.js";
import { PosedVertices } from "./posed.js";
import { Sequence } from "./sequence.js";
import { loadBytes } from "./source.js";

const carrying = (Base) =>
  class extends Base {
    /** Puts Gaussians on; `parts` are the meshes and their wires. */
    _carry(bound, parts) {
      this.bound = bound;
      this.choice = new Choice(this.stage, parts, bound);
      this.setShowing("splats");
    }

    get showing() {
      return this.choice.shown;
    }

    setShowing(shown) {
      this.choice.set(shown, (part) => this._surface(part), this.shading === "wire");
    }

    nextShowing() {
      const names = SHOWN.map(([name]) => name);
      this.setShowing(names[(names.indexOf(this.showing) + 1) % names.length]);
    }

    /** A shading is of the mesh: choosing one shows it. */
    setShading(name) {
      super.setShading(name);
      if (this.choice) this.setShowing("mesh");
    }

    get facts() {
      return `${this.bound.numSplats.toLocaleString("en")} Gaussians on ${super.facts}`;
    }

    sections(viewer) {
      return [shownSection(viewer)];
    }
  };

/** A GLB of ours with Gaussians: sliders, recordings and the socket move its mesh, which moves them. */
export class Bundle extends carrying(Model) {
  static async open(prefix, document_, stage) {
    const gltf = await new GLTFLoader().parseAsync(await loadBytes(`${prefix}/file`), "");
    const told = gltf.parser.json.meshes[0].extras.topohead.splats;
    const array = async (accessor) => (await gltf.parser.getDependency("accessor", accessor)).array;
    const arraysOf = async (accessors) => {
      const names = Object.keys(accessors);
      const read = await Promise.all(names.map((name) => array(accessors[name])));
      return Object.fromEntries(names.map((name, k) => [name, read[k]]));
    };
    const parts = { arrays: await arraysOf(told.arrays) };
    if (told.change) {
      parts.change = { ranks: told.change.ranks, ...(await arraysOf(told.change.arrays)) };
      const eye = async (one) => one && { center: one.center, vertices: await array(one.vertices) };
      parts.eyes = await Promise.all(told.eyes.map(eye));
      parts.fullLook = told.full_look;
    }
    return new Bundle(document_, gltf, stage, parts);
  }

  constructor(document_, gltf, stage, { arrays, change, eyes, fullLook = 0 }) {
    super(document_, gltf, stage);
    Object.assign(this, { fullLook, gaze: null });
    const mesh = this.meshes.find(({ userData }) => userData.topohead?.splats);
    this.posed = new PosedVertices(mesh, stage.renderer, eyes);
    const { index } = mesh.geometry;
    const bound = new BoundSplats(arrays, index.array, this.posed.texture, "affine", change);
    bound.matrixWorldAutoUpdate = false; // the vertices are in the world already
    this._carry(bound, this.meshes.map((mesh) => ({ mesh, lines: mesh.userData.lines })));
    this.object.add(bound, this.choice.spark);
    this.prepare = () => this._pose();
    stage.beforeDraw.add(this.prepare);
  }

  dispose() {
    this.stage.beforeDraw.delete(this.prepare);
    this.posed.dispose();
  }

  _surface({ mesh }) {
    return this.shading === "texture" ? mesh.userData.seen : this.materials[this.shading];
  }

  _pose() {
    if (!this.object.parent || !this.bound.visible) return;
    this.object.updateWorldMatrix(true, true);
    this.posed.look(this.gaze ?? this._looks());
    if (!this.posed.update()) return;
    this.bound.head.copy(this.posed.joints[1]); // colours turn with the head
    this.bound.express(this.document.actions.map((name) => this.weight(name)));
    this.bound.updateVersion();
  }

  /** The gaze that the eyeLook actions say, where none is told: left eye's yaw and pitch, right's. */
  _looks() {
    const at = (way) => this.weight(`eyeLook${way}`);
    const shares = [
      at("OutLeft") - at("InLeft"), at("UpLeft") - at("DownLeft"),
      at("InRight") - at("OutRight"), at("UpRight") - at("DownRight"),
    ];
    return shares.map((share) => this.fullLook * share);
  }

  pose(state) {
    this.gaze = state.gaze ?? null;
    super.pose(state);
  }

  setWeight(name, value) {
    this.gaze = null;
    super.setWeight(name, value);
  }

  /** The meshes' alone: what draws Gaussians has a shape that means nothing. */
  box() {
    this.object.updateMatrixWorld(true);
    const box = new THREE.Box3();
    this.meshes.forEach((mesh) => box.expandByObject(mesh, true));
    return box;
  }
}

/** Gaussians on the frames of a sequence. */
export class PlayedSplats extends carrying(Sequence) {
  static async open(prefix, document_, stage, onArrival) {
    const arrays = unpack(await loadBytes(`${prefix}/topology`), document_.arrays);
    const splats = unpack(await loadBytes(`${prefix}/splats`), document_.splats);
    return new PlayedSplats(prefix, document_, arrays, splats, stage, onArrival);
  }

  constructor(prefix, document_, arrays, splats, stage, onArrival) {
    super(prefix, document_, arrays, stage, onArrival);
    this.turns = splats.turns; // the head's, against the first frame, row by row
    this.places = texels(document_.vertices, VERTICES_WIDE);
    this.texture = wordTexture(this.places.words, VERTICES_WIDE);
    const bound = new BoundSplats(splats, this.corners, this.texture, "similarity");
    this._carry(bound, [{ mesh: this.mesh, lines: this.wire }]);
    this.object.add(bound, this.choice.spark);
    this.show(0);
  }

  _surface() {
    return this.materials[this.shading];
  }

  setShowing(shown) {
    super.setShowing(shown);
    if (this.mesh.visible) super._place(this.frames.points);
  }

  show(index) {
    this.coming = index;
    return super.show(index);
  }

  _place(points) {
    if (this.mesh.visible) super._place(points); // its normals cost more than all else
    if (!this.bound) return;
    const turn = this.turns.subarray(9 * this.coming, 9 * this.coming + 9);
    this.bound.head.setFromMatrix3(new THREE.Matrix3().set(...turn));
    const { floats } = this.places;
    for (let v = 0, k = 0; k < points.length; v += 4, k += 3) {
      floats[v] = points[k];
      floats[v + 1] = points[k + 1];
      floats[v + 2] = points[k + 2];
    }
    this.texture.needsUpdate = true;
    this.bound.updateVersion();
  }
}
