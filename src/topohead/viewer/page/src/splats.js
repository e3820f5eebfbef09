// Gaussian splats, drawn by Spark.
import * as THREE from "three";
import { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";
import { loadBytes } from "./source.js";

export class Splats {
  static async open(prefix, document_, stage) {
    const fileBytes = new Uint8Array(await loadBytes(`${prefix}/file`));
    const splats = new SplatMesh({ fileBytes, fileName: `splats.${document_.suffix}` });
    await splats.initialized;
    if (!splats.numSplats) throw new Error("this file holds no splats that can be read");
    return new Splats(document_, splats, stage);
  }

  constructor(document_, splats, stage) {
    Object.assign(this, { document: document_, splats, stage });
    this.kind = "splats";
    this.times = [];
    this.shadings = [];
    this.shown = 0;
    this.object = new THREE.Group();
    this.object.matrixAutoUpdate = false;
    this.object.matrix.set(...document_.upright);
    const spark = new SparkRenderer({ renderer: stage.renderer, onDirty: () => stage.invalidate() });
    this.object.add(splats, spark);
  }

  get facts() {
    return `${this.splats.numSplats.toLocaleString("en")} Gaussians`;
  }

  ready() {
    return true;
  }

  show() {
    return true;
  }

  /** The box of nearly all centres: a few strays must not make the head small. */
  box() {
    const axes = [[], [], []];
    const centers = [];
    this.splats.forEachSplat((_, center) => centers.push(center.x, center.y, center.z));
    for (let k = 0; k < centers.length; k++) axes[k % 3].push(centers[k]);
    const ends = axes.map((values) => {
      const sorted = Float32Array.from(values).sort();
      return [sorted[Math.floor(0.005 * sorted.length)], sorted[Math.floor(0.995 * (sorted.length - 1))]];
    });
    const box = new THREE.Box3(
      new THREE.Vector3(...ends.map(([low]) => low)),
      new THREE.Vector3(...ends.map(([, high]) => high)),
    );
    return box.applyMatrix4(this.object.matrix);
  }
}
