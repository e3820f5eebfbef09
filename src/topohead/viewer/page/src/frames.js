// Vertices of a sequence: 16-bit steps from the first frame, fetched in chunks and kept a while.
import { loadBytes } from "./source.js";

const KEPT_BYTES = 768 * 2 ** 20;
const AT_ONCE = 2;

/** Chunks of a sequence by number; the ones used last are kept. */
class Chunks {
  constructor(nameOf, onArrival) {
    this.nameOf = nameOf;
    this.onArrival = onArrival;
    this.kept = new Map();
    this.asked = new Map();
    this.bytes = 0;
  }

  get(index) {
    const found = this.kept.get(index);
    if (found !== undefined) {
      this.kept.delete(index);
      this.kept.set(index, found); // a Map keeps the order of insertion: the oldest goes first
    }
    return found;
  }

  /** Fetches a chunk unless it is here or on its way. */
  want(index) {
    if (this.kept.has(index) || this.asked.has(index)) return;
    const promise = loadBytes(this.nameOf(index)).then(
      (data) => {
        this.asked.delete(index);
        this.kept.set(index, data);
        this.bytes += data.byteLength;
        for (const [oldest, old] of this.kept) {
          if (this.bytes <= KEPT_BYTES || oldest === index) break;
          this.kept.delete(oldest);
          this.bytes -= old.byteLength;
        }
        this.onArrival();
      },
      (error) => {
        // stays among the asked, so that a broken frame is not asked for again and again
        this.onArrival(error);
      },
    );
    this.asked.set(index, promise);
  }
}

/** Arrays of a body that holds several in a row: [name, dtype, count] each. */
export function unpack(buffer, entries) {
  const kinds = { float32: Float32Array, uint32: Uint32Array };
  const arrays = {};
  let offset = 0;
  for (const [name, kind, count] of entries) {
    arrays[name] = new kinds[kind](buffer, offset, count);
    offset += 4 * count;
  }
  return arrays;
}

/** The positions of all frames; `onArrival(error?)` is called when more of them are here. */
export class Frames {
  constructor(prefix, document_, base, onArrival) {
    this.length = document_.frames.length;
    this.chunk = document_.chunk;
    this.base = base;
    this.points = base.slice(); // the frame decoded last, world metres
    this.measures = new Map();
    this.chunks = new Chunks((index) => `${prefix}/frames/${index}`, onArrival);
    for (const measure of document_.errors) {
      const nameOf = (index) => `${prefix}/errors/${measure}/${index}`;
      this.measures.set(measure, new Chunks(nameOf, onArrival));
    }
  }

  /** Asks for frame `t` and the ones that come next; says whether `t` itself can be shown. */
  ready(t, measure) {
    const stores = [this.chunks, ...(measure ? [this.measures.get(measure)] : [])];
    const count = Math.ceil(this.length / this.chunk);
    const here = Math.floor(t / this.chunk);
    for (const store of stores) {
      for (let k = 0; k < Math.min(6, count) && store.asked.size < AT_ONCE; k++) {
        store.want((here + k) % count);
      }
    }
    return stores.every((store) => (store === this.chunks && t === 0) || store.kept.has(here));
  }

  /** Positions of frame `t`, which must be ready: float32 [V 3], overwritten by the next call. */
  decode(t) {
    if (t === 0) {
      this.points.set(this.base);
      return this.points;
    }
    const data = this.chunks.get(Math.floor(t / this.chunk));
    const step = new Float32Array(data, 0, 1)[0];
    const count = this.base.length;
    const steps = new Int16Array(data, 4 + 2 * count * (t % this.chunk), count);
    const { base, points } = this;
    for (let k = 0; k < count; k++) points[k] = base[k] + step * steps[k];
    return points;
  }

  /** Errors of frame `t` in µm, uint16 [M]; 65535 where there is none. */
  errors(t, measure, count) {
    const data = this.measures.get(measure).get(Math.floor(t / this.chunk));
    return new Uint16Array(data, 2 * count * (t % this.chunk), count);
  }

  /** Megabytes of frames in memory. */
  get bytes() {
    let sum = this.chunks.bytes + this.base.byteLength * 2;
    for (const store of this.measures.values()) sum += store.bytes;
    return sum;
  }
}
