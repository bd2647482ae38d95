// Exact tiles. A network's output depends on a bounded window of its input, so tiles that overlap by this
// window give the pixels of the whole image. deconv_jax/inference/tiling.py explains the rules.

const roundUp = (value, multiple) => Math.ceil(value / multiple) * multiple;
const roundDown = (value, multiple) => Math.floor(value / multiple) * multiple;

// Return the [start, end) of the window and of the inner part of each tile along an axis.
// The size is a multiple of field.multiple. All windows have the same length, at most `tile`.
export function tilesAlongAxis(size, tile, field) {
  if (size <= tile) return [{ window: [0, size], inner: [0, size] }];
  const { before, after, multiple } = field;
  const overlap = roundUp(before, multiple) + roundUp(after, multiple);
  const count = Math.ceil((size - overlap) / (roundDown(tile, multiple) - overlap));
  const side = roundUp(Math.ceil((size + (count - 1) * overlap) / count), multiple);
  const step = side - overlap;
  const starts = Array.from({ length: count }, (_, i) => Math.min(i * step, size - side));
  const begins = starts.map((start, i) => (i ? start + roundUp(before, multiple) : 0));
  return starts.map((start, i) => ({
    window: [start, start + side],
    inner: [begins[i], i + 1 < count ? begins[i + 1] : size],
  }));
}

// Return the tiles of an image, whose sides are extended to multiples of field.multiple.
export function tilePlan(width, height, tile, field) {
  const columns = tilesAlongAxis(roundUp(width, field.multiple), tile, field);
  const rows = tilesAlongAxis(roundUp(height, field.multiple), tile, field);
  return rows.flatMap((row) => columns.map((column) => ({ row, column })));
}
