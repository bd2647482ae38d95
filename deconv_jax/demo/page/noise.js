// The noise level of an image, estimated as deconv_jax/inference/restoration/noise_level.py does: by the
// diagonal wavelet coefficients of the smoothest blocks.

const MAX_BLOCKS = 2 ** 12;  // fewer than there, so that the page answers at once
const BLOCK = 8;
const MAX_CLIPPED = 0.02;
const ZERO = 1e-6;
const LUMA = [0.299, 0.587, 0.114];
const LOW = [0.4829629131445341, 0.8365163037378079, 0.2241438680420134, -0.1294095225512604];
const HIGH = LOW.toReversed().map((tap, i) => (i % 2 ? -tap : tap));

// Return the estimate in units of 1/255; 0 for drawings and tiny images. The source is that of image.js.
export function estimateSigma({ width, height, gray, read }) {
  const [h, w] = [Math.floor((height - 2) / 2), Math.floor((width - 2) / 2)];
  const side = Math.min(BLOCK, h, w);
  if (side < 1) return 0;
  const rows = Math.floor(h / side);
  const step = Math.ceil((rows * Math.floor(w / side)) / MAX_BLOCKS);
  const blocks = [];
  for (let row = 0; row < rows; row += step) {
    const tall = 2 * side + 2;
    blocks.push(...examine(read(0, 2 * side * row, width, tall), width, tall, side, gray));
  }
  const clipped = blocks.map((block) => block.clipped);
  const least = Math.max(MAX_CLIPPED, quantile(clipped, 0.1));
  const usable = blocks.filter((block) => block.clipped <= least);
  const textured = usable.filter((block) => block.diagonal.some((plane) => plane.some((v) => v > ZERO)));
  if (least > 0.5 || usable.length - textured.length > 0.5 * usable.length) return 0;
  const count = Math.max(24, Math.round(0.05 * textured.length));
  const smooth = textured.sort((a, b) => a.energy - b.energy).slice(0, count);
  if (!smooth.length) return 0;
  const levels = smooth[0].diagonal.map((_, c) => median(smooth.flatMap((block) => [...block.diagonal[c]].filter((v) => v > ZERO))));
  let level = levels[0];
  if (levels.length > 1) {
    const mean = (levels[0] + levels[1] + levels[2]) / 3;
    const equivalent = levels[3] / Math.hypot(...LUMA);  // noise may be equal in all channels
    level = equivalent > 1.2 * mean ? equivalent : mean;
  }
  return (255 / 0.6744897501960817) * level;
}

function examine(data, width, height, side, gray) {
  const planes = gray ? [plane(data, [1, 0, 0])] : [[1, 0, 0], [0, 1, 0], [0, 0, 1], LUMA].map((mix) => plane(data, mix));
  const count = Math.floor(Math.floor((width - 2) / 2) / side);
  const rowsOf = (values, taps) => Array.from({ length: side }, (_, y) => {
    const out = new Float32Array(width);
    for (let x = 0, i = 2 * y * width; x < width; x++, i++) {
      out[x] = taps[0] * values[i] + taps[1] * values[i + width] + taps[2] * values[i + 2 * width] + taps[3] * values[i + 3 * width];
    }
    return out;
  });
  const at = (row, taps, x) => taps[0] * row[x] + taps[1] * row[x + 1] + taps[2] * row[x + 2] + taps[3] * row[x + 3];
  const filtered = planes.map((values) => ({ smooth: rowsOf(values, LOW), rough: rowsOf(values, HIGH) }));
  return Array.from({ length: count }, (_, b) => {
    let energy = 0;
    const diagonal = filtered.map(({ smooth, rough }) => {
      const found = new Float32Array(side * side);
      for (let y = 0, i = 0; y < side; y++) {
        for (let x = 2 * side * b; x < 2 * side * (b + 1); x += 2, i++) {
          found[i] = Math.abs(at(rough[y], HIGH, x));
          energy += at(smooth[y], HIGH, x) ** 2 + at(rough[y], LOW, x) ** 2;
        }
      }
      return found;
    });
    return { diagonal, energy, clipped: clippedFraction(data, width, side, b, gray ? 1 : 3) };
  });
}

function clippedFraction(data, width, side, block, channels) {
  let found = 0;
  for (let y = 0; y < 2 * side; y++) {
    for (let x = 2 * side * block; x < 2 * side * (block + 1); x++) {
      for (let c = 0; c < channels; c++) {
        const value = data[4 * (y * width + x) + c];
        if (value === 0 || value === 255) found++;
      }
    }
  }
  return found / (4 * side * side * channels);
}

function plane(data, [r, g, b]) {
  const values = new Float32Array(data.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = (r * data[4 * i] + g * data[4 * i + 1] + b * data[4 * i + 2]) / 255;
  return values;
}

function quantile(values, fraction) {
  const sorted = values.toSorted((a, b) => a - b);
  const position = fraction * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(position)], sorted[Math.ceil(position)]];
  return low + (high - low) * (position % 1);
}

const median = (values) => (values.length ? quantile(values, 0.5) : 0);
