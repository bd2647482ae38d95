// Normal random numbers that depend only on a seed and a position.

function hash(seed, position) {
  let h = (seed ^ Math.imul(position + 1, 0x9e3779b1)) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

// Return a standard normal number (Box and Muller).
export function normal(seed, position) {
  const first = (hash(seed, 2 * position) + 1) / 2 ** 32;
  const second = hash(seed, 2 * position + 1) / 2 ** 32;
  return Math.sqrt(-2 * Math.log(first)) * Math.cos(2 * Math.PI * second);
}

export const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export const normals = (seed, count) => Float32Array.from({ length: count }, (_, i) => normal(seed, i));
