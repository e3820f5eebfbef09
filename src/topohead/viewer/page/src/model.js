// A GLB: morph targets with sliders, its animation, and weights from a CSV or a socket.
import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { materials, WIRE_COLOR } from "./shading.js";
import { loadBytes } from "./source.js";

const FALLBACK_RATE = 30;

export class Model {
  static async open(prefix, document_, stage) {
    const gltf = await new GLTFLoader().parseAsync(await loadBytes(`${prefix}/file`), "");
    return new Model(document_, gltf, stage);
  }

  constructor(document_, gltf, stage) {
    Object.assign(this, { document: document_, stage });
    this.kind = "model";
    this.object = new THREE.Group();
    this.object.matrixAutoUpdate = false;
    this.object.matrix.set(...document_.upright);
    this.object.add(gltf.scene);
    this.materials = materials();
    this.meshes = [];
    gltf.scene.traverse((node) => node.isMesh && this.meshes.push(node));
    this.meshes.forEach((mesh) => this._prepare(mesh));
    // targets of a sequence are its frames: the timeline moves those, not sliders
    const expressive = this.meshes.filter((mesh) => !mesh.userData.topohead?.frames);
    this.names = [...new Set(expressive.flatMap((mesh) => Object.keys(mesh.morphTargetDictionary ?? {})))];
    this._findHead(gltf.scene);
    this._prepareClip(gltf);
    this.recording = null;
    this.shown = -1;
    this.setShading(this.shadings[0]);
    if (this.times.length) this.show(0);
    this.object.updateMatrixWorld(true);
  }

  get shadings() {
    const uv = this.meshes.some((mesh) => mesh.geometry.attributes.uv);
    const mapped = this.meshes.some((mesh) => mesh.userData.own.map || !mesh.userData.topohead);
    return [...(mapped ? ["texture"] : []), "clay", ...(uv ? ["checker"] : []), "wire"];
  }

  get facts() {
    const count = this.meshes.reduce((sum, mesh) => {
      return sum + (mesh.userData.topohead?.vertex_count ?? mesh.geometry.attributes.position.count);
    }, 0);
    const frames = this.clipTimes.length ? `, ${this.clipTimes.length} frames` : "";
    const targets = this.names.length ? `, ${this.names.length} morph targets` : frames;
    return `${count.toLocaleString("en")} vertices${targets}`;
  }

  get times() {
    return this.recording?.times ?? this.clipTimes;
  }

  _prepare(mesh) {
    mesh.frustumCulled = false;
    mesh.userData.own = mesh.material;
    // captured textures carry their light; other programs' materials are left as they are
    mesh.userData.seen = mesh.material;
    if (mesh.userData.topohead && mesh.material.map) {
      mesh.userData.seen = new THREE.MeshBasicMaterial({ map: mesh.material.map, side: THREE.DoubleSide });
    }
    const lines = mesh.clone();
    lines.material = new THREE.MeshBasicMaterial({
      color: WIRE_COLOR,
      wireframe: true,
      transparent: true,
      opacity: 0.28,
    });
    lines.morphTargetInfluences = mesh.morphTargetInfluences; // the same array: they move as one
    lines.visible = false;
    mesh.userData.lines = lines;
    mesh.parent.add(lines);
  }

  _findHead(root) {
    this.head = root.getObjectByName("head");
    if (!this.head?.isBone) this.head = null;
    if (!this.head) return;
    this.restTurn = new THREE.Quaternion();
    this.restPosition = this.head.position.clone();
    const above = root.getObjectByName("upright") ?? this.head.parent;
    above.updateWorldMatrix(true, false);
    // from the y-up head frame to the joint's own axes
    this.inward = above.getWorldQuaternion(new THREE.Quaternion()).invert();
  }

  _prepareClip(gltf) {
    this.clipTimes = [];
    const [clip] = gltf.animations;
    if (!clip) return;
    this.mixer = new THREE.AnimationMixer(gltf.scene);
    this.mixer.clipAction(clip).play();
    const stored = this.meshes.find((mesh) => mesh.userData.topohead)?.userData.topohead;
    const rate = stored?.frames_per_second ?? FALLBACK_RATE;
    const count = Math.max(1, Math.round(clip.duration * rate) + 1);
    this.clipTimes = Array.from({ length: count }, (_, k) => k / rate);
    this.clipEnd = clip.duration - 1e-5; // at its very end a clip starts over
  }

  setShading(name) {
    this.shading = name;
    for (const mesh of this.meshes) {
      mesh.material = name === "texture" ? mesh.userData.seen : this.materials[name];
      mesh.userData.lines.visible = name === "wire";
    }
    this.stage.invalidate();
  }

  ready() {
    return true;
  }

  /** Shows a frame of the recording, or of the file's own animation. */
  show(index) {
    this.shown = index;
    if (this.recording) {
      const { weights, turns, gazes } = this.recording;
      this.pose({ weights: weights[index], turn: turns[index], gaze: gazes?.[index] });
    } else if (this.mixer) {
      this.mixer.setTime(Math.min(this.clipTimes[index], this.clipEnd));
      this.stage.invalidate();
    }
    return true;
  }

  /** Weights in ARKit's order, and how the head is turned and moved (y-up head frame). */
  pose({ weights, turn, position }) {
    this.document.actions.forEach((name, k) => this._setWeight(name, weights[k]));
    if (this.head && turn) {
      const inside = this.inward.clone().multiply(turn).multiply(this.inward.clone().invert());
      this.head.quaternion.copy(inside).multiply(this.restTurn);
      this.head.position.copy(this.restPosition);
      if (position) this.head.position.add(position.clone().applyQuaternion(this.inward));
    }
    this.stage.invalidate();
  }

  setWeight(name, value) {
    this._setWeight(name, value);
    this.stage.invalidate();
  }

  _setWeight(name, value) {
    for (const mesh of this.meshes) {
      const index = mesh.morphTargetDictionary?.[name];
      if (index !== undefined) mesh.morphTargetInfluences[index] = value;
    }
  }

  weight(name) {
    for (const mesh of this.meshes) {
      const index = mesh.morphTargetDictionary?.[name];
      if (index !== undefined) return mesh.morphTargetInfluences[index];
    }
    return 0;
  }

  /** Takes a recording (see `parseLiveLink`) in the place of the file's animation. */
  record(recording) {
    this.recording = recording;
    if (this.times.length) this.show(0);
  }

  box() {
    this.object.updateMatrixWorld(true);
    return new THREE.Box3().setFromObject(this.object, true);
  }
}
