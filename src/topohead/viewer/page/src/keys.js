// The keyboard, and the list of what it does.
import { element } from "./interface.js";
import { SHADINGS } from "./shading.js";

const HELP = [
  [["space"], "play, pause"],
  [["←", "→"], "a frame back, on (with shift: ten)"],
  [["home", "end"], "first, last frame"],
  [["1", "…", "5"], SHADINGS.map(([, text]) => text.toLowerCase()).join(", ")],
  [["f"], "frame the head"],
  [["c"], "through the most frontal camera, and back"],
  [[",", "."], "previous, next camera"],
  [["b"], "hold: picture without the mesh"],
  [["x"], "show cameras in space"],
  [["l"], "loop"],
  [["g"], "Gaussians, their mesh, both"],
  [["u"], "next axis up"],
  [["p"], "settings"],
  [["h"], "this list"],
];

/** Listens for keys; anything typed into a list or text stays there. */
export function listenForKeys(viewer) {
  const { timeline, through } = viewer;
  const toggleHelp = () => {
    const help = document.getElementById("help");
    if (help.open) return help.close();
    const rows = HELP.map(([keys, text]) =>
      element(
        "tr",
        {},
        element("td", {}, ...keys.map((key) => (key === "…" ? "… " : element("kbd", {}, key)))),
        element("td", {}, text),
      ),
    );
    help.replaceChildren(element("table", {}, ...rows));
    help.onclick = () => help.close();
    help.showModal();
  };
  const actions = {
    " ": () => timeline.toggle(),
    ArrowLeft: ({ shiftKey }) => timeline.step(shiftKey ? -10 : -1),
    ArrowRight: ({ shiftKey }) => timeline.step(shiftKey ? 10 : 1),
    Home: () => timeline.seek(0),
    End: () => timeline.seek(timeline.times.length - 1),
    f: () => viewer.frame(),
    c: () => viewer.toggleCamera(),
    Escape: () => through.leave(),
    ",": () => viewer.stepCamera(-1),
    ".": () => viewer.stepCamera(1),
    b: () => through.blink(true),
    x: () => viewer.toggleFrusta(),
    l: () => timeline.setLoop(!timeline.loop),
    g: () => viewer.nextShowing(),
    u: () => viewer.turnUp(),
    p: () => viewer.togglePanel(),
    h: toggleHelp,
    "?": toggleHelp,
  };
  SHADINGS.forEach(([name], k) => (actions[k + 1] = () => viewer.setShading(name)));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { tagName, type } = event.target;
    const own = tagName === "SELECT" || (tagName === "INPUT" && type !== "range" && type !== "checkbox");
    // a slider that has the focus keeps its arrows, but for the timeline's
    const slides = tagName === "INPUT" && type === "range" && !event.target.closest("#timeline");
    if (own || (slides && /^(Arrow|Home|End)/.test(event.key))) return;
    if (event.key === " " && tagName === "BUTTON") event.target.blur();
    const action = actions[event.key] ?? actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action(event);
  });
  addEventListener("keyup", (event) => event.key.toLowerCase() === "b" && through.blink(false));
}
