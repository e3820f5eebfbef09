// Looking through a camera of the rig at its own picture, with zoom and pan.
import * as THREE from "three";
import { tell } from "./interface.js";
import { cameraToScene, pictureToView, projection, quarterTurns } from "./look.js";
import { loadBlob } from "./source.js";

const KEPT = 48;
const AHEAD = 3;

export class Through {
  constructor(stage, image, onChange) {
    Object.assign(this, { stage, image, onChange });
    this.index = null; // of the camera
    this.opacity = 0.6;
    this.blinking = false;
    this.full = false;
    this.pictures = new Map();
    this.loading = new Set();
    stage.onResize = () => this.place();
    this._followPointers(stage.canvas);
  }

  /** The sequence whose cameras these are, or null. */
  setSequence(sequence) {
    this.leave();
    this.sequence = sequence;
    for (const { url } of this.pictures.values()) URL.revokeObjectURL(url);
    this.pictures.clear();
  }

  get cameras() {
    return this.sequence?.document.cameras ?? [];
  }

  /** The camera that looks most straight at the face. */
  get frontal() {
    const centers = this.cameras.map((entry) =>
      new THREE.Vector3().setFromMatrixPosition(cameraToScene(entry, this.sequence.upright)),
    );
    const middle = this.sequence.box().getCenter(new THREE.Vector3());
    const straight = centers.map((center) => center.sub(middle).normalize().z);
    const shown = straight.map((value, k) => value + (this.cameras[k].pictures ? 10 : 0));
    return shown.indexOf(Math.max(...shown));
  }

  enter(index) {
    if (!this.cameras.length) return tell("this has no cameras to look through");
    const count = this.cameras.length;
    this.index = ((index % count) + count) % count;
    this.zoom = 1;
    this.shift = [0, 0];
    const entry = this.cameras[this.index];
    const up = new THREE.Vector3(0, 1, 0).applyMatrix4(
      this.sequence.upright.clone().setPosition(0, 0, 0).transpose(),
    );
    this.turns = quarterTurns(entry, up.toArray());
    document.body.classList.add("looking");
    this.sequence.setOverPicture(entry.pictures);
    this.image.hidden = true;
    this.ready(this.sequence.shown);
    this.showPicture();
    tell(entry.pictures ? `camera ${entry.name}` : `camera ${entry.name}: no pictures here`);
    this.onChange();
  }

  leave() {
    if (this.index === null) return;
    this.index = null;
    document.body.classList.remove("looking");
    this.sequence.setOverPicture(false);
    this.image.hidden = true;
    this.stage.canvas.style.opacity = "";
    this.stage.through(null);
    this.onChange();
  }

  /** How much of the mesh covers the picture, 0 to 1. */
  setOpacity(opacity) {
    this.opacity = opacity;
    const pictured = this.index !== null && !this.image.hidden;
    this.stage.canvas.style.opacity = pictured ? (this.blinking ? 0 : opacity) : "";
  }

  blink(on) {
    this.blinking = on;
    this.setOpacity(this.opacity);
  }

  setFull(full) {
    this.full = full;
    if (this.index !== null) this.ready(this.sequence.shown);
  }

  /** Asks for the picture of frame `t` and the next ones; whether `t` can be shown as it should. */
  ready(t) {
    if (this.index === null || !this.cameras[this.index].pictures) return true;
    const count = this.sequence.times.length;
    for (let k = 0; k < Math.min(AHEAD, count) && this.loading.size < 2; k++) {
      this._want(this._name((t + k) % count));
    }
    return this.pictures.has(this._name(t));
  }

  _name(t) {
    return `${this.sequence.prefix}/picture/${this.index}/${t}${this.full ? "/full" : ""}`;
  }

  async _want(name) {
    if (this.pictures.has(name) || this.loading.has(name)) return;
    this.loading.add(name);
    const sequence = this.sequence;
    try {
      const url = URL.createObjectURL(await loadBlob(name));
      const decoded = new Image();
      decoded.src = url;
      await decoded.decode();
      this.pictures.set(name, { url, decoded });
    } catch (error) {
      this.pictures.set(name, { url: "" });
      tell(error.message, true);
    }
    this.loading.delete(name);
    if (sequence !== this.sequence) return;
    for (const [oldest, { url }] of this.pictures) {
      if (this.pictures.size <= KEPT) break;
      URL.revokeObjectURL(url);
      this.pictures.delete(oldest);
    }
    if (this.index !== null && name === this._name(this.sequence.shown)) this.showPicture();
  }

  /** Puts the shown frame's picture up, when it is here. */
  showPicture() {
    if (this.index === null) return;
    const picture = this.pictures.get(this._name(this.sequence.shown));
    this.image.hidden = !picture?.url;
    if (picture?.url && this.image.src !== picture.url) {
      this.image.src = picture.url;
      this.natural = [picture.decoded.naturalWidth, picture.decoded.naturalHeight];
    }
    this.setOpacity(this.opacity);
    this.place();
  }

  /** Lays picture and projection out for the present size, zoom and pan. */
  place() {
    if (this.index === null) return;
    const entry = this.cameras[this.index];
    const view = this.stage.size;
    const placed = pictureToView(entry.size, this.turns, this.stage.free, this.zoom, this.shift);
    const world = cameraToScene(entry, this.sequence.upright);
    const distance = new THREE.Vector3().setFromMatrixPosition(world).length() || 1;
    this.stage.through({ world, projection: projection(entry, placed, view, distance / 50, distance * 50) });
    if (!this.natural) return;
    const [a, b, c, d, e, f] = placed;
    const [sx, sy] = [entry.size[0] / this.natural[0], entry.size[1] / this.natural[1]];
    this.image.style.transform = `matrix(${[a * sx, b * sx, c * sy, d * sy, e, f].join(",")})`;
  }

  _zoomAt(factor, x, y) {
    const zoom = Math.min(40, Math.max(1, this.zoom * factor));
    const [left, top, width, height] = this.stage.free;
    const at = [x - left - width / 2, y - top - height / 2];
    this.shift = zoom === 1 ? [0, 0] : this.shift.map((s, k) => at[k] - ((at[k] - s) * zoom) / this.zoom);
    this.zoom = zoom;
    this.place();
  }

  _followPointers(canvas) {
    const pointers = new Map();
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (this.index === null) return;
        event.preventDefault();
        this._zoomAt(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
      },
      { passive: false },
    );
    canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    const gone = (event) => pointers.delete(event.pointerId);
    addEventListener("pointerup", gone);
    addEventListener("pointercancel", gone);
    addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before || this.index === null) return;
      const now = [event.clientX, event.clientY];
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      pointers.set(event.pointerId, now);
      const share = other ? 0.5 : 1; // two fingers pan by their middle
      if (this.zoom > 1) this.shift = this.shift.map((s, k) => s + share * (now[k] - before[k]));
      if (other) {
        const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
        this._zoomAt(apart(now) / apart(before), ...middle);
      } else this.place();
    });
  }
}
