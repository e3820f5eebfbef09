// Puts scene, stage, timeline and settings together.
import { listen, parseLiveLink } from "./drive.js";
import { element, segments, tell } from "./interface.js";
import { listenForKeys } from "./keys.js";
import { Model } from "./model.js";
import * as panels from "./panels.js";
import { Sequence } from "./sequence.js";
import { loadDocument, offline } from "./source.js";
import { Stage } from "./stage.js";
import { Through } from "./through.js";
import { Timeline } from "./timeline.js";

const CLICK_REACH = 22; // CSS pixels
const FOLLOW_EVERY_MS = 4000;
const SLIDERS_EVERY_MS = 120;
const SCRIPT_TIMES_KEPT = 2000;
// y, z, -y, -z up: quarter turns about x
const UP_TURNS = 4;
const SPLATS = ["splats", "bundle", "played"]; // kinds that Spark draws
const DRIVEN = ["model", "bundle"]; // kinds that weights move

export class Viewer {
  constructor(openers) {
    this.openers = { sequence: Sequence.open, model: Model.open, ...openers };
    this.offline = offline;
    this.sections = [];
    this.heardAt = -Infinity;
    this.scriptTimes = []; // ms of script of each image that was drawn
    this.opened = new Map();
    this.subject = null;
    this.upTurns = 0;
  }

  async start() {
    this.scene = await loadDocument();
    document.title = `${this.scene.title} · topohead`;
    document.getElementById("title").textContent = this.scene.title;
    const splats = SPLATS.includes(this.scene.subjects[0].kind); // which gain nothing from it
    this.stage = new Stage(document.getElementById("canvas"), { antialias: !splats });
    this.timeline = new Timeline(document.getElementById("timeline"), {
      show: (index) => this._show(index),
      onMove: (index) => this._moved(index),
      onPlay: () => this.update(),
    });
    this.through = new Through(this.stage, document.getElementById("picture"), () => this.update());
    document.getElementById("open-panel").onclick = () => this.togglePanel();
    listenForKeys(this);
    this._listenForFiles();
    this._listenForCameras();
    this._subjectButtons();
    await this.choose(0);
    if (!offline && this.scene.subjects.some(({ kind }) => DRIVEN.includes(kind))) {
      listen((pose) => this._live(pose));
    }
    if (this.scene.growing && !offline) this._follow();
    this._last = performance.now();
    requestAnimationFrame((now) => this._tick(now));
  }

  /** Shows the subject with this number. */
  async choose(index) {
    await this._open(index);
    this.frame();
    document.body.dataset.shown = this.subject.kind;
  }

  async _open(index) {
    const description = this.scene.subjects[index];
    this.chosen = index;
    this.subjectButtons?.set(index);
    if (!this.opened.has(index)) {
      const open = this.openers[description.kind];
      const opening = open(`${index}`, description, this.stage, (error) => this._arrived(error));
      this.opened.set(index, opening);
    }
    const subject = await this.opened.get(index);
    if (this.chosen !== index) return; // another was chosen meanwhile
    this.through.setSequence(null);
    if (this.subject) this.stage.world.remove(this.subject.object);
    this.subject = subject;
    this.stage.world.add(subject.object);
    if (subject.kind === "sequence") this.through.setSequence(subject);
    this._setTimeline();
    document.getElementById("facts").textContent = subject.facts;
    this._fillPanel();
  }

  /** While a capture runs, takes up what it has finished, until it is done. */
  async _follow() {
    await new Promise((done) => setTimeout(done, FOLLOW_EVERY_MS));
    try {
      const scene = await loadDocument();
      if (JSON.stringify(scene) !== JSON.stringify(this.scene)) await this._grow(scene);
    } catch (error) {
      tell(`the run cannot be followed: ${error.message}`, true);
    }
    if (this.scene.growing) this._follow();
    else tell("the capture is finished");
  }

  /** Shows a scene that has grown as the old one was shown; at its end, goes on to the new end. */
  async _grow(scene) {
    const { subject, through, timeline } = this;
    const [camera, index, playing] = [through.index, timeline.index, timeline.playing];
    const atEnd = index >= timeline.times.length - 1;
    this.scene = scene;
    this.opened.clear();
    this._subjectButtons();
    await this._open(this.chosen);
    subject.dispose?.();
    if (this.subject.shadings.includes(subject.shading)) this.subject.setShading(subject.shading);
    timeline.seek(atEnd && !playing ? timeline.times.length - 1 : index);
    if (playing) timeline.toggle();
    if (camera !== null) through.enter(camera);
    this.stage.invalidate();
    this.update();
  }

  frame() {
    this.through.leave();
    this.stage.world.updateMatrixWorld(true);
    this.stage.frame(this.subject.box().applyMatrix4(this.stage.world.matrix));
  }

  setShading(name) {
    if (!this.subject.shadings.includes(name)) {
      if (name === "error" && this.subject.kind === "sequence")
        tell("no errors here: topohead evaluate RUN measures them");
      return;
    }
    this.subject.setShading(name);
    this.timeline.seek(this.timeline.wanted ?? this.timeline.index); // errors may still be on their way
    this.update();
  }

  /** Goes on from Gaussians to their mesh to both. */
  nextShowing() {
    this.subject.nextShowing?.();
    this.update();
  }

  toggleCamera() {
    if (this.through.index !== null) return this.through.leave();
    if (this.through.cameras.length) this.through.enter(this.through.frontal);
    else tell("this has no cameras to look through");
  }

  stepCamera(count) {
    if (this.through.cameras.length) this.through.enter((this.through.index ?? (count > 0 ? -1 : 0)) + count);
  }

  toggleFrusta() {
    document.getElementById("frusta")?.click();
  }

  /** Shows the rig's cameras, from far enough to see them all, or hides them. */
  showFrusta(on) {
    this.subject.frusta().visible = on;
    if (this.through.index !== null) return this.stage.invalidate();
    if (!on) return this.frame();
    const box = this.subject.box().union(this.subject.frustaBox()).applyMatrix4(this.stage.world.matrix);
    this.stage.frame(box, 0.8, [0.9, 0.45, 1]);
  }

  turnUp() {
    this.upTurns = (this.upTurns + 1) % UP_TURNS;
    this.stage.world.rotation.x = (-Math.PI / 2) * this.upTurns;
    this.frame();
    tell(["as it came", "turned by 90°", "turned by 180°", "turned by 270°"][this.upTurns]);
  }

  togglePanel() {
    document.getElementById("panel").classList.toggle("open");
    this.stage.resize();
  }

  /** Brings the settings up to date. */
  update() {
    for (const { update } of this.sections) update();
  }

  async openRecording(file) {
    if (this.subject.kind !== "model") return tell("a recording moves a rig: open one first", true);
    try {
      this.useRecording(parseLiveLink(await file.text(), this.subject.document.actions), file.name);
    } catch (error) {
      tell(`${file.name}: ${error.message}`, true);
    }
  }

  /** Plays a recording, or with null the file's own animation again. */
  useRecording(recording, name) {
    this.subject.record(recording);
    this._setTimeline();
    this.update();
    if (recording) {
      tell(`${name}: ${recording.times.length} rows`);
      this.timeline.toggle();
    }
  }

  _setTimeline() {
    const { frames = [], doubtful = [] } = this.subject.document;
    this.timeline.set(this.subject.times, frames, doubtful);
    if (this.subject.shown > 0) this.timeline.seek(this.subject.shown);
  }

  _show(index) {
    if (!this.through.ready(index)) return false;
    return this.subject.show(index);
  }

  _moved() {
    this.through.showPicture();
    if (this.timeline.playing && performance.now() - (this._updated ?? 0) < SLIDERS_EVERY_MS) return;
    this._updated = performance.now();
    this.update();
  }

  _arrived(error) {
    if (error) tell(error.message, true);
    if (this.subject) this.update();
  }

  _live(pose) {
    if (this.subject.kind !== "model") return;
    this.timeline.pause();
    this.subject.pose(pose);
    this.heardAt = performance.now();
    if (this.heardAt - (this._updated ?? 0) > SLIDERS_EVERY_MS) this._moved();
  }

  _tick(now) {
    const began = performance.now();
    this.timeline.tick((now - this._last) / 1000);
    this._last = now;
    if (this.stage.draw()) {
      this.scriptTimes.push(performance.now() - began);
      if (this.scriptTimes.length > SCRIPT_TIMES_KEPT) this.scriptTimes.shift();
    }
    requestAnimationFrame((next) => this._tick(next));
  }

  _fillPanel() {
    const { subject } = this;
    this.sections = subject.sections?.(this) ?? [];
    if (subject.shadings.length) this.sections.push(panels.shadingSection(this));
    if (subject.kind === "sequence" && subject.document.errors.length)
      this.sections.push(panels.errorSection(this));
    if (subject.kind === "sequence" && subject.document.cameras.length)
      this.sections.push(panels.cameraSection(this));
    if (subject.kind === "model" && subject.names.length)
      this.sections.push(panels.sliderSection(this), panels.driveSection(this));
    const panel = document.getElementById("panel");
    panel.replaceChildren(...this.sections.map(({ root }) => root));
    panel.hidden = !this.sections.length;
    document.getElementById("open-panel").hidden = panel.hidden;
    panel.scrollTop = 0;
    this.update();
  }

  _subjectButtons() {
    const { subjects } = this.scene;
    if (subjects.length < 2) return;
    const options = subjects.map(({ title }, k) => [k, title]);
    this.subjectButtons = segments(options, 0, (index) => this.choose(index).catch(failed));
    const nav = document.getElementById("subjects");
    nav.replaceChildren(...this.subjectButtons.root.children);
    nav.hidden = false;
  }

  /** A click on a camera in space looks through it. */
  _listenForCameras() {
    const { canvas } = this.stage;
    let pressed = [0, 0];
    canvas.addEventListener("pointerdown", (event) => (pressed = [event.clientX, event.clientY]));
    canvas.addEventListener("click", ({ clientX, clientY }) => {
      const still = Math.hypot(clientX - pressed[0], clientY - pressed[1]) < 4;
      if (!still || this.through.index !== null || !this.subject.frustaVisible) return;
      const near = this.stage.nearest(this.subject.frustaPoints(), [clientX, clientY]);
      if (near.distance < CLICK_REACH) this.through.enter(near.index);
    });
  }

  _listenForFiles() {
    const over = (event, on) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", on);
    };
    addEventListener("dragover", (event) => over(event, true));
    addEventListener("dragleave", (event) => event.relatedTarget === null && over(event, false));
    addEventListener("drop", (event) => {
      over(event, false);
      const [file] = event.dataTransfer.files;
      if (file) this.openRecording(file);
    });
  }
}

function failed(error) {
  console.error(error);
  tell(error.message, true);
}

/** Opens the page; `openers` add kinds of subjects. */
export async function start(openers = {}) {
  const viewer = new Viewer(openers);
  window.topohead = viewer;
  try {
    await viewer.start();
  } catch (error) {
    failed(error);
    document.getElementById("facts").append(element("span", {}, error.message));
    document.body.dataset.failed = error.message;
  }
}
