// The settings beside the view, made anew for each subject.
import { check, choice, element, section, segments, slider } from "./interface.js";
import { ERROR_GRADIENT, SHADINGS } from "./shading.js";

const GROUPS = [
  ["Jaw", /^jaw/],
  ["Mouth", /^mouth/],
  ["Eyes", /^eye/],
  ["Brows", /^brow/],
  ["Cheeks, nose, tongue", /^(cheek|nose|tongue)/],
];
const MEASURES = {
  surface: "Distance to the true surface",
  correspondence: "Correspondence",
  slide: "Slide along the skin",
};

/** Texture, clay, … of what the subject has. */
export function shadingSection(viewer) {
  const { subject } = viewer;
  const options = SHADINGS.flatMap(([name, text], k) =>
    subject.shadings.includes(name) || name === "error" ? [[name, text, `key ${k + 1}`]] : [],
  ).filter(
    ([name]) => name !== "error" || subject.document.errors?.length || subject.document.cameras?.length,
  );
  const group = segments(options, subject.shading, (name) => viewer.setShading(name), "segments grid");
  const error = group.buttons.get("error");
  if (error && !subject.shadings.includes("error")) {
    error.disabled = true;
    error.title = "no errors here: topohead evaluate RUN measures them against a staged take's truth";
  }
  const children = [group.root];
  const sizes = sizeChoice(subject.textures, "Texture size");
  const reliefSizes = sizeChoice(subject.reliefs, "Relief size");
  const relief = check("Fine relief", true, (on) => subject.setRelief(on));
  children.push(sizes, relief.root, reliefSizes);
  const update = () => {
    group.set(subject.shading);
    sizes.hidden = subject.shading !== "texture" || !sizes.firstChild;
    relief.root.hidden = subject.shading !== "clay" || !subject.reliefs?.exist;
    reliefSizes.hidden = relief.root.hidden || !reliefSizes.firstChild;
  };
  return { root: section("Shading", ...children), update };
}

/** Preview or full size of a kind of map; empty when there is nothing to choose. */
function sizeChoice(maps, name) {
  const row = element("div", { class: "row" });
  if ((maps?.sizes.length ?? 0) < 2) return row;
  const full = maps.sizes.at(-1);
  const named = maps.sizes.map((size) => [
    size,
    `${name}: ${size % 1024 ? size : `${size / 1024}K`}${size === full ? ", full" : ""}`,
  ]);
  row.append(choice(name, named, maps.size, (size) => maps.setSize(Number(size))));
  return row;
}

/** Which error, how far its colours reach, and the shown frame's numbers. */
export function errorSection(viewer) {
  const { subject } = viewer;
  const names = subject.document.errors;
  const numbers = element("p", { class: "quiet" });
  const end = element("span");
  const change = () => {
    subject.setErrors(subject.measure, subject.errorScale);
    viewer.update();
  };
  const measures = choice(
    "Error",
    names.map((name) => [name, MEASURES[name] ?? name]),
    subject.measure,
    (name) => {
      subject.measure = name;
      viewer.timeline.seek(viewer.timeline.index); // its errors may still be on their way
      viewer.update();
    },
  );
  const scales = [
    [0.2, "0.2 mm"],
    [0.5, "0.5 mm"],
    [1, "1 mm"],
    [2, "2 mm"],
    [5, "5 mm"],
  ];
  const scale = choice("Colours reach", scales, subject.errorScale, (value) => {
    subject.errorScale = Number(value);
    change();
  });
  scale.classList.add("grow");
  const legend = element("div", { class: "legend" });
  legend.style.background = ERROR_GRADIENT;
  const root = section(
    "Error",
    measures,
    element("div", { class: "row" }, element("span", { class: "quiet" }, "Colours reach"), scale),
    legend,
    element("div", { class: "ticks" }, element("span", {}, "0"), end),
    numbers,
  );
  const update = () => {
    root.hidden = subject.shading !== "error";
    if (root.hidden) return;
    end.textContent = `${subject.errorScale} mm and more`;
    const found = subject.ready(subject.shown) ? subject.errorFacts() : null;
    numbers.textContent = found
      ? `this frame: median ${found[0].toFixed(2)} mm, 95 % below ${found[1].toFixed(2)} mm`
      : "";
  };
  return { root, update };
}

/** The rig's cameras: frusta, and the view through one of them. */
export function cameraSection(viewer) {
  const { subject, through } = viewer;
  const entries = subject.document.cameras;
  const options = [["", "Look around freely"], ...entries.map(({ name }, k) => [k, `Through ${name}`])];
  const list = choice("Camera", options, "", (value) =>
    value === "" ? through.leave() : through.enter(Number(value)),
  );
  list.classList.add("grow");
  const previous = element(
    "button",
    {
      type: "button",
      title: "previous camera (,)",
      "aria-label": "Previous camera",
      onclick: () => viewer.stepCamera(-1),
    },
    "‹",
  );
  const next = element(
    "button",
    {
      type: "button",
      title: "next camera (.)",
      "aria-label": "Next camera",
      onclick: () => viewer.stepCamera(1),
    },
    "›",
  );
  const percent = (value) => `${Math.round(100 * value)} %`;
  const opacity = slider("Mesh over the picture", { value: through.opacity, text: percent }, (value) =>
    through.setOpacity(value),
  );
  const full = check("Full-size pictures", through.full, (on) => through.setFull(on));
  const frusta = check("Show cameras in space", false, (on) => viewer.showFrusta(on));
  frusta.box.id = "frusta";
  const missing = element("p", { class: "quiet" }, "The take's pictures are not here.");
  const update = () => {
    list.value = through.index ?? "";
    const pictured = through.index !== null && entries[through.index].pictures;
    opacity.root.hidden = full.root.hidden = !pictured;
    full.root.hidden ||= viewer.offline;
    missing.hidden = through.index === null || pictured;
    opacity.set(through.opacity);
  };
  const root = section(
    "Cameras",
    element("div", { class: "row" }, previous, list, next),
    opacity.root,
    missing,
    full.root,
    frusta.root,
  );
  return { root, update };
}

/** A slider for every morph target, in groups by the part of the face. */
export function sliderSection(viewer) {
  const { subject } = viewer;
  const sliders = new Map();
  const rest = subject.names.filter((name) => !GROUPS.some(([, pattern]) => pattern.test(name)));
  const groups = [
    ...GROUPS.map(([title, pattern]) => [title, subject.names.filter((name) => pattern.test(name))]),
    ["Other", rest],
  ];
  const children = groups
    .filter(([, names]) => names.length)
    .map(([title, names], k) => {
      const made = names.map((name) => {
        const value = subject.weight(name);
        const one = slider(name, { value }, (now) => {
          viewer.timeline.pause();
          subject.setWeight(name, now);
          one.root.classList.toggle("moved", now > 0.005);
        });
        sliders.set(name, one);
        return one.root;
      });
      const count = element("span", { class: "quiet" }, String(names.length));
      return element("details", { open: k === 0 }, element("summary", {}, title, count), ...made);
    });
  const reset = element(
    "button",
    {
      type: "button",
      onclick: () => {
        viewer.timeline.pause();
        subject.names.forEach((name) => subject.setWeight(name, 0));
        update();
      },
    },
    "Neutral face",
  );
  const update = () => {
    for (const [name, one] of sliders) {
      if (!one.root.parentElement.open) continue;
      const value = subject.weight(name);
      one.set(value);
      one.root.classList.toggle("moved", value > 0.005);
    }
  };
  const root = section("Expression", ...children, element("div", { class: "row" }, reset));
  root.addEventListener("toggle", update, true);
  root.id = "sliders";
  update();
  return { root, update };
}

/** Where weights come from besides the sliders. */
export function driveSection(viewer) {
  const { subject } = viewer;
  const input = element("input", {
    type: "file",
    accept: ".csv,text/csv",
    hidden: true,
    onchange: () => {
      if (input.files[0]) viewer.openRecording(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    },
  });
  const open = element("button", { type: "button", onclick: () => input.click() }, "Live Link CSV…");
  const own = element(
    "button",
    { type: "button", onclick: () => viewer.useRecording(null, "") },
    "Its own animation",
  );
  const state = element("p", { class: "quiet" });
  const address = `ws://${location.host}/drive`;
  const update = () => {
    own.hidden = !subject.recording || !subject.clipTimes.length;
    const heard = performance.now() - viewer.heardAt < 1000;
    state.textContent = viewer.offline
      ? "Drop a Live Link Face CSV onto the view to play it."
      : heard
        ? "Live: weights are coming in."
        : `Drop a CSV onto the view, or send 52 floats to ${address}`;
  };
  return { root: section("Drive", element("div", { class: "row" }, open, own), state, input), update };
}
