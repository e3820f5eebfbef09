// Pictures in UV that frames wear: asked for one at a time, the newest wish first, kept a while.
import { pictureTexture } from "./shading.js";
import { loadBlob } from "./source.js";

const KEPT = 12;

export class Maps {
  /** `description` is {of, sizes}; `wear(texture or null)` is called when what is worn changes. */
  constructor(prefix, description, { limit, colour, wear, onArrival }) {
    Object.assign(this, { prefix, limit, colour, wear, onArrival });
    this.of = description.of;
    this.sizes = description.sizes;
    this.size = this.sizes[0];
    this.kept = new Map();
    this.worn = null;
  }

  get exist() {
    return this.sizes.length > 0;
  }

  /** Puts frame `index`'s map on, as soon as it is here. */
  async show(index) {
    this.index = index;
    if (!this.exist) return;
    if (this.of[index] < 0) return this._put(null);
    const name = `${this.prefix}/${this.of[index]}/${this.size}`;
    if (!this.kept.has(name)) {
      if (this.loading) return;
      this.loading = true;
      try {
        this.kept.set(name, await pictureTexture(await loadBlob(name), this.limit, this.colour));
      } catch (error) {
        this.kept.set(name, null);
        this.onArrival(error);
      }
      this.loading = false;
      this._forget(name);
      return this.index === null ? undefined : this.show(this.index); // by now perhaps another
    }
    this._put(this.kept.get(name));
  }

  /** Takes off what is worn. */
  remove() {
    this.index = null;
    this._put(null);
  }

  setSize(size) {
    this.size = size;
    this.show(this.index);
  }

  _put(texture) {
    if (this.worn === texture) return;
    this.worn = texture;
    this.wear(texture);
    this.onArrival();
  }

  dispose() {
    this.index = null;
    for (const name of this.kept.keys()) this._drop(name);
  }

  _forget(newest) {
    for (const [name, texture] of this.kept) {
      if (this.kept.size <= KEPT) break;
      if (name !== newest && texture !== this.worn) this._drop(name);
    }
  }

  _drop(name) {
    const texture = this.kept.get(name);
    texture?.source.data.close();
    texture?.dispose();
    this.kept.delete(name);
  }
}
