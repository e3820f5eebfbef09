// The five ways to see a surface, and the colours of errors.
import * as THREE from "three";

/** Name, key and text of each shading, in the order of the keys 1 to 5. */
export const SHADINGS = [
  ["texture", "Texture"],
  ["clay", "Clay"],
  ["error", "Error"],
  ["checker", "UV checker"],
  ["wire", "Wireframe"],
];

const CLAY = 0xb5aca2;

/** Materials by shading. `texture` shows the map as it is: captured textures carry their light. */
export function materials() {
  const side = THREE.DoubleSide;
  const clay = new THREE.MeshStandardMaterial({ color: CLAY, roughness: 0.62, side });
  return {
    texture: new THREE.MeshBasicMaterial({ color: 0xffffff, side }),
    clay,
    error: new THREE.MeshLambertMaterial({ vertexColors: true, side }),
    checker: new THREE.MeshStandardMaterial({ map: checkerTexture(), roughness: 0.75, side }),
    wire: new THREE.MeshStandardMaterial({
      color: 0x3d3d3d, roughness: 0.9, side, polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1,
    }),
  };
}

export const WIRE_COLOR = 0xe9dfd2;

let checker = null;

/** Squares that tell where in the UV square they are: letters across, numbers up. */
export function checkerTexture() {
  if (checker !== null) return checker;
  const cells = 16, cell = 64;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = cells * cell;
  const context = canvas.getContext("2d");
  context.font = `600 ${cell * 0.36}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = 0; row < cells; row++) {
    for (let column = 0; column < cells; column++) {
      const even = (row + column) % 2 === 0;
      const hue = (360 * column) / cells;
      context.fillStyle = `hsl(${hue} ${even ? 34 : 26}% ${(even ? 74 : 40) - row}%)`;
      context.fillRect(column * cell, row * cell, cell, cell);
      context.fillStyle = even ? "#2b2a28" : "#efe9e0";
      const name = String.fromCharCode(65 + column) + (cells - row);
      context.fillText(name, (column + 0.5) * cell, (row + 0.5) * cell);
    }
  }
  checker = new THREE.CanvasTexture(canvas);
  checker.colorSpace = THREE.SRGBColorSpace;
  checker.anisotropy = 4;
  return checker;
}

/** A texture from a picture's Blob, UV origin bottom-left, no larger than `limit`; sRGB if `colour`. */
export async function pictureTexture(blob, limit, colour = true) {
  const options = { imageOrientation: "flipY", premultiplyAlpha: "none", colorSpaceConversion: "none" };
  let bitmap = await createImageBitmap(blob, options);
  if (Math.max(bitmap.width, bitmap.height) > limit) {
    const scale = limit / Math.max(bitmap.width, bitmap.height);
    const resizeWidth = Math.floor(bitmap.width * scale);
    bitmap.close();
    bitmap = await createImageBitmap(blob, { ...options, resizeWidth, resizeQuality: "high" });
  }
  const texture = new THREE.Texture(bitmap);
  texture.flipY = false;
  texture.colorSpace = colour ? THREE.SRGBColorSpace : THREE.NoColorSpace;
  texture.anisotropy = 8;
  texture.needsUpdate = true;
  return texture;
}

// dark blue over green and sand to red: lightness rises, then hue warns
const STOPS = [[40, 60, 110], [44, 118, 142], [92, 168, 122], [226, 205, 120], [233, 146, 84], [200, 62, 60]];

/** 256 sRGB colours [256 3] from no error to the end of the scale. */
export const ERROR_COLORS = (() => {
  const table = new Uint8Array(256 * 3);
  for (let k = 0; k < 256; k++) {
    const at = (k / 255) * (STOPS.length - 1);
    const low = Math.min(Math.floor(at), STOPS.length - 2);
    for (let c = 0; c < 3; c++) {
      table[3 * k + c] = STOPS[low][c] + (at - low) * (STOPS[low + 1][c] - STOPS[low][c]);
    }
  }
  return table;
})();

/** The same as linear light, which is what vertex colours are. */
export const ERROR_COLORS_LINEAR = ERROR_COLORS.map((value) => {
  const s = value / 255;
  return Math.round(255 * (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4));
});

/** The scale as CSS. */
export const ERROR_GRADIENT = `linear-gradient(to right, ${STOPS.map((rgb) => `rgb(${rgb})`).join(", ")})`;
