// Gaussians bound to triangles: Spark asks the graphics card where they are, nothing is moved here.
import * as THREE from "three";
import { SparkRenderer, SplatGenerator, dyno } from "@sparkjsdev/spark";
import { element, section, segments } from "./interface.js";

/** Texels in a row of the textures that hold vertices and of those that hold bindings. */
export const VERTICES_WIDE = 1024;
const BINDINGS_WIDE = 2048; // four texels a Gaussian, which never straddle rows

/** A texture of 32-bit words [width, height, 4], read as they are. */
export function wordTexture(words, width) {
  const texture = new THREE.DataTexture(
    words, width, words.length / 4 / width, THREE.RGBAIntegerFormat, THREE.UnsignedIntType,
  );
  texture.internalFormat = "RGBA32UI";
  texture.needsUpdate = true;
  return texture;
}

/** Words of a texture of `width` for `count` texels, and the same memory as floats. */
export function texels(count, width) {
  const words = new Uint32Array(4 * width * Math.ceil(count / width));
  return { words, floats: new Float32Array(words.buffer) };
}

/**
 * Corners and barycentrics; offset and colour; covariance in the triangle's frame (xx xy xz yy; yz zz).
 * `arrays` are those of a bundle, `corners` the vertex numbers of all triangles.
 */
function packed(arrays, corners) {
  const count = arrays.triangles.length;
  const { words, floats } = texels(4 * count, BINDINGS_WIDE);
  const { barycentrics, offsets, quats, scales, opacities, harmonics } = arrays;
  const each = harmonics.length / count; // the constant colour comes first
  const step = (value, most) => Math.round(Math.min(Math.max(value, 0), 1) * most);
  for (let n = 0, o = 0; n < count; n++, o += 16) {
    const corner = 3 * arrays.triangles[n], three = 3 * n, four = 4 * n;
    for (let k = 0; k < 3; k++) words[o + k] = corners[corner + k];
    words[o + 3] = (step(barycentrics[three + 1], 65535) | (step(barycentrics[three + 2], 65535) << 16)) >>> 0;
    for (let k = 0; k < 3; k++) floats[o + 4 + k] = offsets[three + k];
    const shade = (k) => step(0.5 + 0.28209479177387814 * harmonics[each * n + k], 255);
    words[o + 7] = (shade(0) | (shade(1) << 8) | (shade(2) << 16) | (step(opacities[n], 255) << 24)) >>> 0;
    const length = Math.hypot(quats[four], quats[four + 1], quats[four + 2], quats[four + 3]);
    const [w, x, y, z] = [0, 1, 2, 3].map((k) => quats[four + k] / length);
    const turn = [
      1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
      2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
      2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ];
    let at = o + 8;
    for (let i = 0; i < 3; i++) {
      for (let j = i; j < 3; j++, at++) {
        for (let k = 0; k < 3; k++) floats[at] += turn[3 * i + k] * turn[3 * j + k] * scales[three + k] ** 2;
      }
    }
  }
  return wordTexture(words, BINDINGS_WIDE);
}

/** Colours over the direction of view as half floats, eight a texel; null where they never change. */
function directional({ harmonics, triangles }, changing) {
  const count = triangles.length, each = harmonics.length / count;
  if (each <= 3 && !changing) return null;
  const wide = HALVES[each];
  const { words } = texels(wide * count, BINDINGS_WIDE);
  const half = THREE.DataUtils.toHalfFloat;
  for (let n = 0; n < count; n++) {
    for (let k = 0; k < each; k++) {
      const value = Math.min(Math.max(harmonics[each * n + k], -60000), 60000);
      words[4 * wide * n + (k >> 1)] |= half(value) << (16 * (k & 1));
    }
  }
  return { texture: wordTexture(words, BINDINGS_WIDE), wide };
}

const HALVES = { 3: 1, 12: 2, 27: 4, 48: 6 }; // texels a Gaussian by its number of values

// The basis of `topohead.rendering.harmonics`, 3DGS's signs included; each term times its three values.
const BASIS = [
  "0.282095", "-0.488603 * w.y", "0.488603 * w.z", "-0.488603 * w.x",
  "1.092548 * w.x * w.y", "-1.092548 * w.y * w.z", "0.315392 * (3.0 * w.z * w.z - 1.0)",
  "-1.092548 * w.x * w.z", "0.546274 * (w.x * w.x - w.y * w.y)",
  "-0.590044 * w.y * (3.0 * w.x * w.x - w.y * w.y)", "2.890611 * w.x * w.y * w.z",
  "-0.457046 * w.y * (5.0 * w.z * w.z - 1.0)", "0.373176 * w.z * (5.0 * w.z * w.z - 3.0)",
  "-0.457046 * w.x * (5.0 * w.z * w.z - 1.0)", "1.445306 * w.z * (w.x * w.x - w.y * w.y)",
  "-0.590044 * w.x * (w.x * w.x - 3.0 * w.y * w.y)",
];

/** How expression changes Gaussians: a texture of half floats, and the codes that they stand with. */
class Change {
  constructor({ ranks, mean, axes, low, high, values }) {
    Object.assign(this, { ranks, mean, axes, low, high });
    this.wide = Math.ceil((6 * ranks) / 8);
    const words = new Uint32Array(values.buffer, values.byteOffset, values.length / 2);
    const filled = texels(words.length / 4, BINDINGS_WIDE).words;
    filled.set(words);
    this.texture = wordTexture(filled, BINDINGS_WIDE);
    const { words: held, floats } = texels(Math.ceil(ranks / 4), Math.ceil(ranks / 4));
    this.floats = floats;
    this.codes = wordTexture(held, held.length / 4);
  }

  /** Takes up weights in ARKit's order. */
  express(weights) {
    const { ranks, mean, axes, low, high, floats } = this;
    for (let r = 0; r < ranks; r++) {
      let code = 0;
      for (let k = 0; k < weights.length; k++) code += (weights[k] - mean[k]) * axes[ranks * k + r];
      floats[r] = Math.min(Math.max(code, low[r]), high[r]);
    }
    this.codes.needsUpdate = true;
  }

  /** GLSL that adds what the codes change in Gaussian `index`: its offset and its first harmonic. */
  get glsl() {
    return `void boundChange(usampler2D changes, usampler2D codes, int index, inout vec3 offset, out vec3 harmonic) {
      harmonic = vec3(0.0);
      vec2 v[${4 * this.wide}];
      for (int t = 0; t < ${this.wide}; t++) {
        int at = ${this.wide} * index + t;
        uvec4 words = texelFetch(changes, ivec2(at % ${BINDINGS_WIDE}, at / ${BINDINGS_WIDE}), 0);
        for (int k = 0; k < 4; k++) v[4 * t + k] = unpackHalf2x16(words[k]);
      }
      for (int r = 0; r < ${this.ranks}; r++) {
        float code = uintBitsToFloat(texelFetch(codes, ivec2(r / 4, 0), 0)[r % 4]);
        offset += code * vec3(v[3 * r], v[3 * r + 1].x);
        harmonic += code * vec3(v[3 * r + 1].y, v[3 * r + 2]);
      }
    }`;
  }
}

/** GLSL that gives the colour of Gaussian `index` towards unit direction `w`, both of the head. */
function shadeFunction(wide) {
  const terms = 8 * wide >= 48 ? 16 : 8 * wide >= 27 ? 9 : 8 * wide >= 12 ? 4 : 1;
  const value = (k) => `v[${k >> 1}].${"xy"[k & 1]}`;
  const sum = BASIS.slice(0, terms).map((basis, k) => {
    return `color += (${basis}) * vec3(${[0, 1, 2].map((c) => value(3 * k + c)).join(", ")});`;
  });
  return `vec3 boundShade(usampler2D harmonics, int index, vec3 w, vec3 more) {
    vec2 v[${4 * wide}];
    for (int t = 0; t < ${wide}; t++) {
      int at = ${wide} * index + t;
      uvec4 words = texelFetch(harmonics, ivec2(at % ${BINDINGS_WIDE}, at / ${BINDINGS_WIDE}), 0);
      for (int k = 0; k < 4; k++) v[4 * t + k] = unpackHalf2x16(words[k]);
    }
    vec3 color = vec3(0.5) + ${BASIS[0]} * more;
    ${sum.join("\n    ")}
    return max(color, vec3(0.0));
  }`;
}

// A surface hides what it encloses. Gaussians are sorted by their middles alone, so where a cheek
// lies on the cavity behind it, one could come before the other: turned away, they are drawn later.
const BEHIND = 0.012; // metres; not in avatars, whose fit has seen them in this very order
const IN_PLANE = 1e-3; // offsets along the normal below it, in sizes of the triangle, are none

// The frames of `topohead.geometry.binding`: columns; and which of them is the normal.
const FRAMES = {
  affine: "mat3(ab, ac, normal * inversesqrt(max(length(normal), 1e-20)))",
  similarity: `0.5 * (length(ab) + abs(dot(cross(normalize(ab), normalize(normal)), ac)))
    * mat3(normalize(ab), normalize(normal), cross(normalize(ab), normalize(normal)))`,
};

const NORMAL = { affine: "z", similarity: "y" };

const CORNER = `vec3 boundCorner(usampler2D vertices, uint vertex) {
  return uintBitsToFloat(texelFetch(vertices, ivec2(vertex % ${VERTICES_WIDE}u, vertex / ${VERTICES_WIDE}u), 0).xyz);
}`;

/** Gaussians that follow a texture of vertices, whoever writes it; call `updateVersion` after. */
export class BoundSplats extends SplatGenerator {
  /** `frames` says how a triangle carries: affine or similarity; `change` makes it an avatar. */
  constructor(arrays, corners, vertices, frames, change) {
    super({ numSplats: arrays.triangles.length });
    this.fitted = change !== undefined;
    const moving = change?.ranks ? new Change(change) : null;
    this.moving = moving;
    const inputs = {
      bindings: new dyno.DynoUsampler2D({ key: "bindings", value: packed(arrays, corners) }),
      vertices: new dyno.DynoUsampler2D({ key: "vertices", value: vertices }),
      toWorld: new dyno.DynoMat4({ key: "toWorld", value: new THREE.Matrix4() }),
      eye: new dyno.DynoVec3({ key: "eye", value: new THREE.Vector3() }),
    };
    const types = {
      index: "int", bindings: "usampler2D", vertices: "usampler2D", toWorld: "mat4", eye: "vec3",
    };
    const lit = directional(arrays, moving !== null);
    if (moving) {
      inputs.changes = new dyno.DynoUsampler2D({ key: "changes", value: moving.texture });
      inputs.codes = new dyno.DynoUsampler2D({ key: "codes", value: moving.codes });
      Object.assign(types, { changes: "usampler2D", codes: "usampler2D" });
    }
    if (lit) {
      inputs.harmonics = new dyno.DynoUsampler2D({ key: "harmonics", value: lit.texture });
      inputs.inward = new dyno.DynoMat3({ key: "inward", value: new THREE.Matrix3() });
      Object.assign(types, { harmonics: "usampler2D", inward: "mat3" });
    }
    this.inputs = inputs;
    this.head = new THREE.Matrix4(); // what turned the head since its colours were taken
    this.covGenerator = dyno.dynoBlock({ index: "int" }, { covsplat: dyno.CovSplat }, ({ index }) => {
      const placed = new dyno.Dyno({
        inTypes: types,
        outTypes: { covsplat: dyno.CovSplat },
        inputs: { index, ...inputs },
        globals: () => [
          dyno.defineGsplat, dyno.defineCovSplat, CORNER, ...(lit ? [shadeFunction(lit.wide)] : []),
          ...(moving ? [moving.glsl] : []),
        ],
        statements: ({
          inputs: { index, bindings, vertices, toWorld, eye, harmonics, inward, changes, codes },
          outputs: { covsplat },
        }) => [
          `{
            ivec2 at = ivec2((4 * ${index}) % ${BINDINGS_WIDE}, (4 * ${index}) / ${BINDINGS_WIDE});
            uvec4 who = texelFetch(${bindings}, at, 0);
            uvec4 place = texelFetch(${bindings}, at + ivec2(1, 0), 0);
            vec4 upper = uintBitsToFloat(texelFetch(${bindings}, at + ivec2(2, 0), 0));
            vec2 lower = uintBitsToFloat(texelFetch(${bindings}, at + ivec2(3, 0), 0).xy);
            vec3 a = boundCorner(${vertices}, who.x);
            vec3 ab = boundCorner(${vertices}, who.y) - a;
            vec3 ac = boundCorner(${vertices}, who.z) - a;
            vec3 normal = cross(ab, ac);
            mat3 frame = ${FRAMES[frames]};
            vec2 share = unpackUnorm2x16(who.w);
            vec3 offset = uintBitsToFloat(place.xyz), more = vec3(0.0);
            ${moving ? `boundChange(${changes}, ${codes}, ${index}, offset, more);` : ""}
            vec3 center = (${toWorld} * vec4(a + share.x * ab + share.y * ac + frame * offset, 1.0)).xyz;
            vec3 sight = center - ${eye};
            ${this.fitted ? "" : `bool away = dot(mat3(${toWorld}) * normal, sight) > 0.0;
            if (away && abs(offset.${NORMAL[frames]}) < ${IN_PLANE}) center += ${BEHIND} * normalize(sight);`}
            mat3 carried = mat3(${toWorld}) * frame;
            mat3 local = mat3(upper.xyz, upper.y, upper.w, lower.x, upper.z, lower.xy);
            mat3 spread = carried * local * transpose(carried);
            ${covsplat}.flags = GSPLAT_FLAG_ACTIVE;
            ${covsplat}.index = ${index};
            ${covsplat}.center = center;
            ${covsplat}.rgba = vec4((uvec4(place.w) >> uvec4(0, 8, 16, 24)) & 255u) / 255.0;
            ${lit ? `${covsplat}.rgba.rgb = boundShade(${harmonics}, ${index}, ${inward} * normalize(sight), more);` : ""}
            ${covsplat}.xxyyzz = max(vec3(spread[0][0], spread[1][1], spread[2][2]), 1e-16);
            ${covsplat}.xyxzyz = vec3(spread[0][1], spread[0][2], spread[1][2]);
          }`,
        ],
      });
      return { covsplat: placed.outputs.covsplat };
    });
    this.frameUpdate = ({ viewToWorld }) => this._follow(viewToWorld);
  }

  /** Takes up an expression, weights in ARKit's order; call `updateVersion` after. */
  express(weights) {
    this.moving?.express(weights);
  }

  /** Takes up where eye, object and head stand in the world; Spark asks again when the eye moves. */
  _follow(viewToWorld) {
    this.inputs.eye.value.setFromMatrixPosition(viewToWorld);
    if (this.inputs.inward) {
      const whole = new THREE.Matrix4().multiplyMatrices(this.matrixWorld, this.head);
      const turn = new THREE.Matrix4().extractRotation(whole);
      this.inputs.inward.value.setFromMatrix4(turn).transpose();
    }
    const { value } = this.inputs.toWorld;
    if (value.equals(this.matrixWorld)) return;
    value.copy(this.matrixWorld);
    this.updateVersion();
  }
}

export const SHOWN = [
  ["splats", "Gaussians"],
  ["mesh", "Mesh"],
  ["both", "Both"],
];

// Avatars as they were fitted: what `topohead.rendering.bound_splats` draws.
const FITTED = {
  blurAmount: 0.05, // px², with the opacity that it spreads out
  maxStdDev: Math.sqrt(2 * Math.log(255)),
  minAlpha: 1 / 255,
  sortRadial: false,
};

/** Chooses between bound Gaussians and their mesh; `parts` are {mesh, lines} of the subject. */
export class Choice {
  constructor(stage, parts, bound) {
    Object.assign(this, { stage, parts, bound, shown: "splats" });
    this.spark = new SparkRenderer({
      renderer: stage.renderer,
      onDirty: () => stage.invalidate(),
      accumExtSplats: true, // 32-bit centres: half floats would let a still face tremble
      covSplats: true, // a stretched triangle shears its Gaussians
      enableLod: false,
      ...(bound.fitted ? FITTED : {}),
    });
    // the mesh a little behind itself hides the far side, not the Gaussians that lie on it
    this.behind = new THREE.MeshBasicMaterial({
      colorWrite: false, side: THREE.DoubleSide,
      polygonOffset: true, polygonOffsetFactor: 2, polygonOffsetUnits: 800,
    });
    for (const { lines } of parts) lines.renderOrder = 1;
  }

  /** What to show; `surface(part)` is the material of the mesh by itself. */
  set(shown, surface, wired) {
    this.shown = shown;
    this.bound.visible = this.spark.visible = shown !== "mesh";
    for (const part of this.parts) {
      part.mesh.visible = shown !== "splats";
      part.lines.visible = shown === "both" || (shown === "mesh" && wired);
      if (part.mesh.visible) part.mesh.material = shown === "both" ? this.behind : surface(part);
    }
    this.stage.invalidate();
  }
}

/** The settings' choice between Gaussians and mesh. */
export function shownSection(viewer) {
  const { subject } = viewer;
  const group = segments(SHOWN, subject.showing, (shown) => {
    subject.setShowing(shown);
    viewer.update();
  });
  const hint = element("p", { class: "quiet" }, "Both: Gaussians under the mesh's wires (key g).");
  const update = () => group.set(subject.showing);
  return { root: section("Show", group.root, hint), update };
}
