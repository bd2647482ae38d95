// A brick wall of the size of its frame.
import { toImage } from "./image.js";
import { LazyNetwork } from "./network.js";
import { newSeed, normal, normals } from "./random.js";

const MAX_CELLS = 96;
const $ = (id) => document.getElementById(id);

export function startTexture(model, words) {
  const lazy = new LazyNetwork(model, $("texture-status"), words);
  let seed = 5;
  let busy = false;
  let drawn = "";

  // A cell keeps its numbers when the wall grows.
  function grid(columns, rows) {
    const data = new Float32Array(model.local * rows * columns);
    for (let c = 0, i = 0; c < model.local; c++) {
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++, i++) data[i] = normal(seed, (c * MAX_CELLS + y) * 2 * MAX_CELLS + x);
      }
    }
    return data;
  }

  async function draw() {
    const wall = $("wall");
    const sides = [wall.clientWidth, wall.clientHeight].map((side) => Math.min(MAX_CELLS, Math.ceil(side / model.cell)));
    const wanted = `${seed} ${sides}`;
    if (busy || wanted === drawn || !sides[0]) return;
    busy = true;
    await lazy.use(async (network) => {
      const [columns, rows] = sides;
      const feeds = {
        local: { type: "float32", data: grid(columns, rows), dims: [1, model.local, rows, columns] },
        global: { type: "float32", data: normals(seed + 1, model.global), dims: [1, model.global] },
        phases: { type: "float32", data: normals(seed + 2, model.phases), dims: [1, model.phases] },
      };
      const { image } = await network.ask("run", { feeds });
      await paint(toImage(image));
    });
    drawn = wanted;  // After an error, not again until something changes.
    busy = false;
    draw();
  }

  async function paint(image) {
    const { width, height } = image;
    const canvas = $("wall-canvas");
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").putImageData(image, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    URL.revokeObjectURL($("texture-download").href);
    $("texture-download").href = URL.createObjectURL(blob);
    $("texture-download").hidden = false;
    $("texture-status").textContent = `${width} × ${height} pixels.`;
  }

  $("texture-new").addEventListener("click", () => {
    if (lazy.isOpen) seed = newSeed();
    $("wall").hidden = false;
    $("texture-new").textContent = "Grow another";
    draw();
  });
  new ResizeObserver(draw).observe($("wall"));
}
