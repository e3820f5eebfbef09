// Small pieces of the interface. Text is always set as text: file names are not to be trusted.

/** An element with properties (`on…` are listeners, `class`, `aria-…`) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "class" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** A titled group of the panel. */
export function section(title, ...children) {
  return element("section", {}, element("h2", {}, title), ...children);
}

/** Buttons of which one is pressed: `options` are [value, text, hint]. Gives element and `set`. */
export function segments(options, value, onPick, className = "segments") {
  const buttons = new Map();
  const root = element("div", { class: className, role: "group" });
  const set = (picked) => {
    for (const [key, button] of buttons) button.setAttribute("aria-pressed", key === picked);
  };
  for (const [key, text, hint] of options) {
    const button = element("button", { type: "button", title: hint ?? "", onclick: () => onPick(key) }, text);
    buttons.set(key, button);
    root.append(button);
  }
  set(value);
  return { root, set, buttons };
}

/** A named slider. Gives element and `set`, which moves it without calling `onMove`. */
export function slider(
  name,
  { min = 0, max = 1, step = 0.01, value = 0, text = (x) => x.toFixed(2) },
  onMove,
) {
  const output = element("output");
  const input = element("input", { type: "range", min, max, step, value, "aria-label": name });
  const root = element("label", { class: "slide" }, element("span", {}, name), output, input);
  const show = (now) => {
    input.style.setProperty("--done", `${(100 * (now - min)) / (max - min)}%`);
    output.textContent = text(now);
  };
  input.addEventListener("input", () => {
    show(Number(input.value));
    onMove(Number(input.value));
  });
  show(value);
  const set = (now) => {
    if (Math.abs(Number(input.value) - now) < step / 2) return;
    input.value = now;
    show(now);
  };
  return { root, input, set };
}

/** A box to tick. */
export function check(text, checked, onChange) {
  const box = element("input", { type: "checkbox", checked, onchange: () => onChange(box.checked) });
  return { root: element("label", { class: "check" }, box, text), box };
}

/** A list to choose from: `options` are [value, text]. */
export function choice(name, options, value, onPick) {
  const root = element("select", { "aria-label": name, onchange: () => onPick(root.value) });
  for (const [key, text] of options) root.append(element("option", { value: key }, text));
  root.value = value;
  return root;
}

/** A drawn sign of 24×24; `solid` fills it. */
export function sign(path, solid = false) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  drawn.setAttribute("d", path);
  if (solid) drawn.setAttribute("class", "solid");
  svg.append(drawn);
  return svg;
}

let clearing = 0;

/** A line above the timeline, gone after a while; `bad` ones stay longer. */
export function tell(text, bad = false) {
  const note = document.getElementById("note");
  clearTimeout(clearing);
  note.textContent = text;
  note.classList.toggle("bad", bad);
  note.hidden = !text;
  if (text) clearing = setTimeout(() => (note.hidden = true), bad ? 9000 : 2600);
}
