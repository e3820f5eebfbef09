// Play, scrub, step: a clock over frames that may still be on their way.
import { choice, element, sign } from "./interface.js";

const PLAY = "M8 5.2v13.6L19 12z",
  PAUSE = "M8.5 5.5v13M15.5 5.5v13";
const BACK = "M17 6l-8 6 8 6zM6.5 6v12",
  FORWARD = "M7 6l8 6-8 6zM17.5 6v12";
const LOOP = "M17 3.5l3 3-3 3M20 6.5H8a4 4 0 0 0-4 4v1M7 20.5l-3-3 3-3M4 17.5h12a4 4 0 0 0 4-4v-1";
const LONGEST_STEP_S = 0.25;

export class Timeline {
  /** `show(index)` shows a frame and says whether it could; `onMove` hears of each that was. */
  constructor(root, { show, onMove, onPlay }) {
    Object.assign(this, { root, show, onMove, onPlay });
    this.playing = false;
    this.loop = true;
    this.speed = 1;
    const button = (label, path, onclick, className) =>
      element(
        "button",
        { type: "button", class: `round ${className}`, "aria-label": label, title: label, onclick },
        sign(path, path === PLAY),
      );
    this.playButton = button("Play", PLAY, () => this.toggle(), "");
    this.input = element("input", { type: "range", min: 0, step: 1, value: 0, "aria-label": "Frame" });
    this.input.addEventListener("input", () => this.seek(Number(this.input.value)));
    this.track = element("div", { class: "track" }, this.input);
    this.where = element("span", { class: "where" });
    this.loopButton = button("Loop", LOOP, () => this.setLoop(!this.loop), "small wide");
    const speeds = [
      ["0.1", "0.1×"],
      ["0.25", "¼×"],
      ["0.5", "½×"],
      ["1", "1×"],
      ["2", "2×"],
    ];
    const speed = choice("Speed", speeds, "1", (value) => (this.speed = Number(value)));
    speed.className = "wide";
    root.append(
      this.playButton,
      button("Back a frame", BACK, () => this.step(-1), "small"),
      button("On a frame", FORWARD, () => this.step(1), "small"),
      this.track,
      this.where,
      speed,
      this.loopButton,
    );
    this.setLoop(true);
    this.set([], [], []);
  }

  /** Frames' times (s, ascending from 0), their names, and the indices to mark. */
  set(times, names, marks) {
    this.times = times;
    this.names = names;
    this.index = 0;
    this.wanted = null;
    this.clock = 0;
    this.pause();
    const last = times.length - 1;
    this.end = last > 0 ? times[last] + (times[last] - times[0]) / last : 0;
    this.root.hidden = times.length < 2;
    document.body.classList.toggle("still", this.root.hidden);
    this.input.max = Math.max(last, 1);
    this.track.querySelectorAll(".mark").forEach((mark) => mark.remove());
    for (const index of marks) {
      const mark = element("i", { class: "mark", title: "doubtful frame" });
      mark.style.left = `calc(8px + (100% - 16px) * ${index / Math.max(last, 1)})`;
      this.track.append(mark);
    }
    this._show();
  }

  toggle() {
    if (this.playing) return this.pause();
    if (this.times.length < 2) return;
    this.playing = true;
    if (!this.loop && this.index === this.times.length - 1) this.seek(0);
    this.clock = this.times[this.wanted ?? this.index];
    this.onPlay();
    this._button();
  }

  pause() {
    this.playing = false;
    this._button();
  }

  step(count) {
    const length = this.times.length;
    if (length < 2) return;
    this.pause();
    this.seek(((this.wanted ?? this.index) + count + length) % length);
  }

  /** Goes to a frame as soon as it is here. */
  seek(index) {
    this.wanted = Math.max(0, Math.min(this.times.length - 1, index));
    this.clock = this.times[this.wanted] ?? 0;
    this._show();
  }

  setLoop(loop) {
    this.loop = loop;
    this.loopButton.setAttribute("aria-pressed", loop);
  }

  /** Advances by `seconds`. A frame that is not here holds the clock: none is shown out of turn. */
  tick(seconds) {
    if (this.wanted !== null) {
      if (!this.show(this.wanted)) return;
      this._arrive(this.wanted);
    }
    if (!this.playing) return;
    let clock = this.clock + Math.min(seconds, LONGEST_STEP_S) * this.speed;
    if (clock >= this.end) {
      if (!this.loop) {
        this.pause();
        return this.seek(this.times.length - 1);
      }
      clock %= this.end;
    }
    const index = this._at(clock);
    if (index !== this.index) {
      if (!this.show(index)) return;
      this._arrive(index);
    }
    this.clock = clock;
  }

  _arrive(index) {
    this.index = index;
    this.wanted = null;
    this._show();
    this.onMove(index);
  }

  /** The last frame that begins before this time. */
  _at(clock) {
    let low = 0,
      high = this.times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.times[middle] <= clock + 1e-6) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  _show() {
    const index = this.wanted ?? this.index;
    const last = this.times.length - 1;
    this.input.value = index;
    this.input.style.setProperty("--done", `${(100 * index) / Math.max(last, 1)}%`);
    const name = this.names[index];
    const place = `${index + 1} / ${last + 1}`;
    this.where.textContent = place;
    this.where.title = name ? `frame ${name}` : "";
    this.input.setAttribute("aria-valuetext", name ? `frame ${name}, ${place}` : place);
  }

  _button() {
    const label = this.playing ? "Pause" : "Play";
    this.playButton.replaceChildren(sign(this.playing ? PAUSE : PLAY, !this.playing));
    this.playButton.setAttribute("aria-label", label);
    this.playButton.title = `${label} (space)`;
  }
}
