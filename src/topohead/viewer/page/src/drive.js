// Weights from outside: a Live Link Face CSV, or a WebSocket of 52 floats.
import * as THREE from "three";

const TIMECODE_BASE = 60; // Live Link Face counts 60 timecode frames a second at any rate
const DAY = 86400;
const EYE_COLUMNS = ["lefteyeyaw", "lefteyepitch", "righteyeyaw", "righteyepitch"];

/**
 * A recording: times from its first row (s), weights by action in the order of `actions`, head
 * rotations in the head's y-up frame, and, where the phone told, the gaze: yaw to the person's left
 * and pitch up, of the left eye and of the right. Throws a line for people when the text is
 * something else.
 */
export function parseLiveLink(text, actions) {
  const [header, ...rows] = text
    .replace(/^\uFEFF/, "")
    .split(/\r?\n/)
    .filter((line) => line.trim())
    .map((line) => line.split(",").map((cell) => cell.trim()));
  const column = new Map((header ?? []).map((name, index) => [name.toLowerCase(), index]));
  const missing = ["timecode", ...actions].filter((name) => !column.has(name.toLowerCase()));
  if (missing.length) throw new Error(`no Live Link Face CSV: it has no column ${missing[0]}`);
  if (!rows.length) throw new Error("this Live Link Face CSV has no rows");
  const times = [], weights = [], turns = [], gazes = [];
  let days = 0;
  rows.forEach((row, index) => {
    const number = (name) => {
      const value = column.has(name) ? Number(row[column.get(name)]) : 0;
      if (!Number.isFinite(value)) throw new Error(`row ${index + 2}: ${name} is no number`);
      return value;
    };
    const parts = row[column.get("timecode")].split(":").map(Number);
    if (parts.length !== 4 || parts.some(Number.isNaN)) throw new Error(`row ${index + 2}: no timecode`);
    let time = 3600 * parts[0] + 60 * parts[1] + parts[2] + parts[3] / TIMECODE_BASE + days;
    if (index && time < times[index - 1] - DAY / 2) {
      days += DAY;
      time += DAY;
    }
    times.push(time);
    weights.push(Float32Array.from(actions, (name) => number(name.toLowerCase())));
    turns.push(liveLinkTurn(number("headyaw"), number("headpitch"), number("headroll")));
    gazes.push(EYE_COLUMNS.map((name) => -number(name))); // right and down are positive there
  });
  const told = gazes.some((gaze) => gaze.some((angle) => angle !== 0));
  return { times: times.map((time) => time - times[0]), weights, turns, gazes: told ? gazes : null };
}

/** Rotation of the head from Live Link's angles (radians), which count yaw and pitch backwards. */
export function liveLinkTurn(yaw, pitch, roll) {
  return new THREE.Quaternion().setFromEuler(new THREE.Euler(-pitch, -yaw, roll, "YXZ"));
}

/**
 * Listens at the server's /drive. `onPose({weights, turn, position})` is called for each message:
 * 52 float32, or 60 with time before, and rotation (wxyz) and position (m) behind.
 */
export function listen(onPose) {
  const socket = new WebSocket(`ws://${location.host}/drive`);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", ({ data }) => {
    const values = new Float32Array(data);
    if (values.length === 52) onPose({ weights: values });
    if (values.length !== 60) return;
    const [w, x, y, z] = values.subarray(53, 57);
    const turn = new THREE.Quaternion(x, y, z, w).normalize();
    onPose({ weights: values.subarray(1, 53), turn, position: new THREE.Vector3(...values.subarray(57)) });
  });
  return socket;
}
