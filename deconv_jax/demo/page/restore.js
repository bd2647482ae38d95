// Restore an image tile by tile, in bounded memory.
import { openPool } from "./network.js";
import { tilePlan } from "./tiles.js";

const TILE = 384;
let open = null;  // The last pool stays open: the next image needs no loading.

async function poolFor(model, signal, backend) {
  if (open?.model === model && !backend) return open;
  open?.close();
  open = null;
  open = { model, ...(await openPool(model, signal, backend)) };
  return open;
}

// Draw the restored image of a source (see image.js) on a canvas.
// Returns {loadSeconds, seconds, backend}. Throws an AbortError if the signal is aborted. If a GPU fails, the CPU is used.
export async function restore({ source, model, sigma, target, signal, report, backend }) {
  const begin = performance.now();
  let used;
  const stop = () => { open?.close(); open = null; };
  signal.addEventListener("abort", stop, { once: true });
  try {
    const { pool, backend: opened } = await poolFor(model, signal, backend);
    used = opened;
    signal.throwIfAborted();
    const loaded = performance.now();
    await restoreTiles({ source, model, sigma, target, pool, report });
    const end = performance.now();
    return { loadSeconds: (loaded - begin) / 1000, seconds: (end - loaded) / 1000, backend: used };
  } catch (error) {
    stop();
    if (used !== "wasm" && backend !== "wasm" && error.name !== "AbortError") {
      return restore({ source, model, sigma, target, signal, report, backend: "wasm" });
    }
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

async function restoreTiles({ source, model, sigma, target, pool, report }) {
  const { width, height, gray, alpha } = source;
  const { scale } = model.field;
  target.width = width * scale;
  target.height = height * scale;
  const context = target.getContext("2d");
  if (!context) throw new RangeError("out of memory");
  const tiles = tilePlan(width, height, TILE, model.field);
  let next = 0;
  let done = 0;
  report(0);
  const work = async (network) => {
    while (next < tiles.length) {
      const { row, column } = tiles[next++];
      const [left, top] = [column.window[0], row.window[0]];
      const inside = [Math.min(column.window[1], width) - left, Math.min(row.window[1], height) - top];
      const rgba = source.read(left, top, ...inside);
      const [x, y] = [column.inner[0], row.inner[0]];
      const size = [Math.min(column.inner[1], width) - x, Math.min(row.inner[1], height) - y];
      const answer = await network.ask("tile", {
        rgba, width: inside[0], height: inside[1], sigma, gray, alpha,
        outer: [column.window[1] - left, row.window[1] - top],
        valid: { left: (x - left) * scale, top: (y - top) * scale, width: size[0] * scale, height: size[1] * scale },
      }, [rgba.buffer]);
      context.putImageData(new ImageData(answer.rgba, size[0] * scale, size[1] * scale), x * scale, y * scale);
      report(++done / tiles.length);
    }
  };
  await Promise.all(pool.map(work));
}
