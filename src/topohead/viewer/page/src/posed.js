// Vertices of a mesh with morph targets and joints, computed by the graphics card into a texture.
import * as THREE from "three";
import { FullScreenQuad } from "three/addons/postprocessing/Pass.js";
import { VERTICES_WIDE, texels } from "./bound.js";

const VERTEX = `in vec3 position; void main() { gl_Position = vec4(position.xy, 0.0, 1.0); }`;

const FRAGMENT = `precision highp float; precision highp int;
precision highp sampler2D; precision highp sampler2DArray;
uniform sampler2D rest;
uniform sampler2DArray targets;
uniform float weights[COUNT];
uniform mat4 joints[2];
uniform vec3 centers[2];
uniform mat3 turns[2];
layout(location = 0) out uvec4 posed;
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  vec4 point = texelFetch(rest, at, 0);
  for (int k = 0; k < COUNT; k++) {
    if (weights[k] != 0.0) point.xyz += weights[k] * texelFetch(targets, ivec3(at, k), 0).xyz;
  }
  int eye = int(point.w) / 2 - 1; // the head's share, and 2 for the left eye, 4 for the right
  if (eye >= 0) point = vec4(centers[eye] + turns[eye] * (texelFetch(rest, at, 0).xyz - centers[eye]), point.w);
  vec4 still = vec4(point.xyz, 1.0);
  float share = point.w - float(2 * (eye + 1));
  posed = uvec4(floatBitsToUint(mix((joints[0] * still).xyz, (joints[1] * still).xyz, share)), 0u);
}`;

/**
 * Where a mesh's vertices are in the world: floats in the words of `texture`. `eyes` (left, right;
 * null for none) have a centre and the vertices, as the topology counts them, that `look` turns about
 * it instead of the morph targets.
 */
export class PosedVertices {
  constructor(mesh, renderer, eyes = [null, null]) {
    Object.assign(this, { mesh, renderer });
    const { position, skinIndex, skinWeight } = mesh.geometry.attributes;
    const targets = mesh.geometry.morphAttributes.position ?? [];
    const { floats } = texels(position.count, VERTICES_WIDE);
    const height = floats.length / 4 / VERTICES_WIDE;
    const write = (into, start, from) => {
      for (let n = 0, o = start; n < from.count; n++, o += 4) {
        into[o] = from.getX(n);
        into[o + 1] = from.getY(n);
        into[o + 2] = from.getZ(n);
      }
    };
    write(floats, 0, position);
    for (let n = 0; skinIndex && n < position.count; n++) {
      for (let k = 0; k < 4; k++) {
        if (skinIndex.getComponent(n, k) === 1) floats[4 * n + 3] += skinWeight.getComponent(n, k);
      }
    }
    const source = mesh.geometry.attributes._source_vertex;
    eyes.forEach((eye, side) => {
      const mine = new Set(eye?.vertices);
      for (let n = 0; eye && n < position.count; n++) {
        if (mine.has(source.getX(n))) floats[4 * n + 3] += 2 * (side + 1);
      }
    });
    this.turns = [new THREE.Matrix3(), new THREE.Matrix3()];
    const layers = new Float32Array(floats.length * Math.max(targets.length, 1));
    targets.forEach((target, k) => write(layers, k * floats.length, target));
    const rest = new THREE.DataTexture(floats, VERTICES_WIDE, height, THREE.RGBAFormat, THREE.FloatType);
    const moved = new THREE.DataArrayTexture(layers, VERTICES_WIDE, height, Math.max(targets.length, 1));
    moved.format = THREE.RGBAFormat;
    moved.type = THREE.FloatType;
    rest.needsUpdate = moved.needsUpdate = true;
    this.weights = new Float32Array(Math.max(targets.length, 1));
    this.joints = [new THREE.Matrix4(), new THREE.Matrix4()];
    this.last = null;
    const material = new THREE.RawShaderMaterial({
      glslVersion: THREE.GLSL3,
      defines: { COUNT: this.weights.length },
      uniforms: {
        rest: { value: rest },
        targets: { value: moved },
        weights: { value: this.weights },
        joints: { value: this.joints },
        centers: { value: eyes.map((eye) => new THREE.Vector3(...(eye?.center ?? [0, 0, 0]))) },
        turns: { value: this.turns },
      },
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      depthTest: false,
      depthWrite: false,
      blending: THREE.NoBlending,
    });
    this.quad = new FullScreenQuad(material);
    this.target = new THREE.WebGLRenderTarget(VERTICES_WIDE, height, {
      format: THREE.RGBAIntegerFormat,
      type: THREE.UnsignedIntType,
      internalFormat: "RGBA32UI",
      minFilter: THREE.NearestFilter,
      magFilter: THREE.NearestFilter,
      depthBuffer: false,
    });
  }

  get texture() {
    return this.target.texture;
  }

  /** Gives the graphics card's memory back. */
  dispose() {
    const { rest, targets } = this.quad.material.uniforms;
    for (const held of [rest.value, targets.value, this.quad.material, this.target]) held.dispose();
  }

  /** Turns the eyes by yaw (to the person's left) and pitch (up) of the left one and of the right. */
  look(gaze) {
    this.turns.forEach((turn, side) => {
      const [yaw, pitch] = gaze.slice(2 * side);
      const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
      turn.set(cy, -sy * sp, sy * cp, 0, cp, sp, -sy, -cy * sp, cy * cp);
    });
  }

  /** Computes the vertices anew when the mesh is posed differently; says whether it was. */
  update() {
    const { mesh, weights, joints } = this;
    weights.set(mesh.morphTargetInfluences ?? []);
    if (mesh.isSkinnedMesh) {
      mesh.skeleton.update();
      joints.forEach((joint, k) => {
        joint.fromArray(mesh.skeleton.boneMatrices, 16 * k).multiply(mesh.bindMatrix);
      });
    } else {
      joints.forEach((joint) => joint.copy(mesh.matrixWorld));
    }
    const now = [...weights, ...[...joints, ...this.turns].flatMap(({ elements }) => elements)];
    if (this.last?.every((value, k) => value === now[k])) return false;
    this.last = now;
    const before = this.renderer.getRenderTarget();
    this.renderer.setRenderTarget(this.target);
    this.quad.render(this.renderer);
    this.renderer.setRenderTarget(before);
    return true;
  }
}
