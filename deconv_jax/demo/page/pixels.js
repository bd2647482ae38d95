// Pixels of 8 bits to planes of floats in [0, 1], through a network, and back. RGBA, row by row.
// deconv_jax/inference/restoration/learned_restorer.py describes how channels are adapted.

const STUDIO = [
  [65.481, 128.553, 24.966],
  [-37.797, -74.203, 112.0],
  [112.0, -93.786, -18.214],
].map((row) => row.map((value) => value / 255));
const OFFSETS = [16 / 255, 128 / 255, 128 / 255];
const INVERSE = invert(STUDIO);

function invert([[a, b, c], [d, e, f], [g, h, i]]) {
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / det));
}

function mix(planes, matrix, shift, offset) {
  const [r, g, b] = planes;
  return matrix.map(([x, y, z], c) => {
    const plane = new Float32Array(r.length);
    for (let i = 0; i < r.length; i++) {
      plane[i] = x * (r[i] - shift[0]) + y * (g[i] - shift[1]) + z * (b[i] - shift[2]) + offset[c];
    }
    return plane;
  });
}

// YCbCr of BT.601 in studio range.
export const rgbToYcbcr = (planes) => mix(planes, STUDIO, [0, 0, 0], OFFSETS);
export const ycbcrToRgb = (planes) => mix(planes, INVERSE, OFFSETS, [0, 0, 0]);
const grayToY = (plane) => plane.map((value) => (219 * value + 16) / 255);
const yToGray = (plane) => plane.map((value) => (255 * value - 16) / 219);

// Return some channels of an image as planes. The image is extended to the given size by mirroring.
export function toPlanes(rgba, width, height, channels, outWidth, outHeight) {
  return channels.map((channel) => {
    const plane = new Float32Array(outWidth * outHeight);
    for (let y = 0, i = 0; y < outHeight; y++) {
      const row = (y < height ? y : 2 * height - 1 - y) * width;
      for (let x = 0; x < outWidth; x++, i++) {
        const column = x < width ? x : 2 * width - 1 - x;
        plane[i] = rgba[4 * (row + column) + channel] / 255;
      }
    }
    return plane;
  });
}

function cubic(distance) {
  const t = Math.abs(distance);
  if (t <= 1) return (1.5 * t - 2.5) * t * t + 1;
  return t <= 2 ? -0.5 * (((t - 5) * t + 8) * t - 4) : 0;
}

// The taps of each output pixel along an axis, as MATLAB's imresize has them.
function taps(size, scale) {
  return Array.from({ length: size * scale }, (_, o) => {
    const center = (o + 1) / scale + 0.5 * (1 - 1 / scale) - 1;
    const first = Math.floor(center - 2);
    const found = [];
    for (let t = first; t < first + 6; t++) {
      const weight = cubic(center - t);
      const wrapped = ((t % (2 * size)) + 2 * size) % (2 * size);
      if (weight) found.push([Math.min(wrapped, 2 * size - 1 - wrapped), weight]);
    }
    return found;
  });
}

// Enlarge a plane by bicubic interpolation.
export function enlarge(plane, width, height, scale) {
  const wide = new Float32Array(width * scale * height);
  taps(width, scale).forEach((column, x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (const [source, weight] of column) sum += weight * plane[y * width + source];
      wide[y * width * scale + x] = sum;
    }
  });
  const out = new Float32Array(wide.length * scale);
  const stride = width * scale;
  taps(height, scale).forEach((row, y) => {
    for (let x = 0; x < stride; x++) {
      let sum = 0;
      for (const [source, weight] of row) sum += weight * wide[source * stride + x];
      out[y * stride + x] = sum;
    }
  });
  return out;
}

// Restore a tile. `network` maps planes of one size to planes `scale` times as large.
//   rgba, width, height   the part of the tile that is inside the image
//   outer                 [width, height] of the tile
//   valid                 {left, top, width, height} of the output that is returned, as RGBA
//   channels              channels of the network, 1 or 3; a gray image has one channel
// The network also takes a factor of the noise level.
export async function restoreTile(network, { rgba, width, height, outer, valid, channels, scale, gray, alpha }) {
  const [w, h] = outer;
  const planesOf = (list) => toPlanes(rgba, width, height, list, w, h);
  let restored;
  if (gray && channels === 3) {
    const [r, g, b] = await network(planesOf([0, 0, 0]), w, h, Math.sqrt(3));
    restored = [r.map((value, i) => (value + g[i] + b[i]) / 3)];
  } else if (channels === 3) {
    restored = await network(planesOf([0, 1, 2]), w, h);
  } else if (scale === 1) {
    restored = [];
    for (const plane of planesOf(gray ? [0] : [0, 1, 2])) restored.push(...(await network([plane], w, h)));
  } else if (gray) {
    restored = (await network(planesOf([0]).map(grayToY), w, h)).map(yToGray);
  } else {
    const [luma, ...chroma] = rgbToYcbcr(planesOf([0, 1, 2]));
    const [large] = await network([luma], w, h);
    restored = ycbcrToRgb([large, ...chroma.map((plane) => enlarge(plane, w, h, scale))]);
  }
  let opacity = null;
  if (alpha) {
    [opacity] = planesOf([3]);
    if (scale > 1) opacity = enlarge(opacity, w, h, scale);
  }
  if (!restored.every((plane) => Number.isFinite(plane[0] + plane[plane.length - 1]))) {
    throw new Error("the output of the network is not finite");
  }
  const out = new Uint8ClampedArray(4 * valid.width * valid.height);  // rounds and clips
  for (let y = 0, i = 0; y < valid.height; y++) {
    let source = (valid.top + y) * w * scale + valid.left;
    for (let x = 0; x < valid.width; x++, source++, i += 4) {
      for (let c = 0; c < 3; c++) out[i + c] = 255 * restored[gray ? 0 : c][source];
      out[i + 3] = opacity ? 255 * opacity[source] : 255;
    }
  }
  return out;
}
