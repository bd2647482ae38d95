// A classifier of drawings: its probabilities, and deconvnet projections of a class and of the strongest units.
import { LazyNetwork } from "./network.js";
import { STROKES } from "./strokes.js";

const PAD = 280;
const PEN = 0.078;  // of the side of the pad, as thick as in MNIST
const MNIST = { side: 28, ink: 20 };  // side of an image and longest side of its digit
const DIGITS = "0,1,2,3,4,5,6,7,8,9";
const $ = (id) => document.getElementById(id);

export function startInside(model, words) {
  const [height, width] = model.shape;
  const context = $("pad").getContext("2d", { willReadFrequently: true });
  const digits = String(model.classes) === DIGITS;
  const asMnist = digits && height === MNIST.side && width === MNIST.side;
  const lazy = new LazyNetwork(model, $("inside-status"), words);
  let busy = false;
  let again = false;
  let chosen = null;  // class to project; null for the most probable one
  let last = null;
  clear();

  function clear() {
    context.fillStyle = "#000";
    context.fillRect(0, 0, PAD, PAD);
    Object.assign(context, { strokeStyle: "#fff", lineWidth: PEN * PAD, lineCap: "round", lineJoin: "round" });
  }

  function line(points) {
    $("pad").parentElement.classList.remove("empty");
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x, y));
    context.stroke();
  }

  // Return the drawing as the classifier expects it. Null if empty. For digits of 28 x 28 pixels, its ink fits in 20
  // pixels and is centered by mass, as in MNIST; otherwise, it fits in the whole image.
  function image() {
    const { data } = context.getImageData(0, 0, PAD, PAD);
    const box = [PAD, PAD, -1, -1];
    for (let y = 0, i = 0; y < PAD; y++) {
      for (let x = 0; x < PAD; x++, i += 4) {
        if (data[i] < 64) continue;
        [box[0], box[1]] = [Math.min(box[0], x), Math.min(box[1], y)];
        [box[2], box[3]] = [Math.max(box[2], x + 1), Math.max(box[3], y + 1)];
      }
    }
    if (box[2] < 0) return null;
    const ink = asMnist ? MNIST.ink : Math.min(width, height);
    const ratio = ink / Math.max(box[2] - box[0], box[3] - box[1], PAD / 4);
    const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    const first = reduced(ratio, middle, [0, 0]);
    if (!asMnist) return first;
    let [sum, right, down] = [0, 0, 0];
    first.forEach((value, i) => { sum += value; right += value * (i % width); down += value * Math.floor(i / width); });
    return reduced(ratio, middle, [width / 2 - 0.5 - right / sum, height / 2 - 0.5 - down / sum]);
  }

  function reduced(ratio, [x, y], [right, down]) {
    const small = new OffscreenCanvas(width, height);
    const target = small.getContext("2d", { willReadFrequently: true });
    target.imageSmoothingQuality = "high";
    target.translate(width / 2 + right, height / 2 + down);
    target.scale(ratio, ratio);
    target.drawImage($("pad"), -x, -y);
    const { data } = target.getImageData(0, 0, width, height);
    return Float32Array.from({ length: width * height }, (_, i) => data[4 * i] / 255);
  }

  async function look() {
    if (busy) { again = true; return; }
    busy = true;
    await lazy.use(async (network) => {
      const run = (data, index) => network.ask("run", { feeds: feeds(data, index) });
      do {
        again = false;
        const data = image();
        if (!data) { reset(); continue; }
        let found = await run(data, chosen ?? last ?? 0);
        const best = found.probabilities.data.indexOf(Math.max(...found.probabilities.data));
        if (chosen === null && best !== (last ?? 0)) found = await run(data, best);
        if (image()) show(found, best);
        last = best;
      } while (again);
    });
    busy = false;
  }

  function feeds(data, index) {
    return {
      image: { type: "float32", data, dims: [1, 1, height, width] },
      class: { type: "int32", data: Int32Array.of(index), dims: [1] },
    };
  }

  function show(found, best) {
    const { data } = found.probabilities;
    const percent = (value) => `${(100 * value).toFixed(1)} %`;
    const projected = chosen ?? best;
    $("inside-status").textContent = `Seen: ${model.classes[best]}, ${percent(data[best])}`;
    $("pad").setAttribute("aria-label", `Drawing area, seen as ${model.classes[best]}`);
    $("scores").hidden = $("projections").hidden = false;
    $("scores").querySelectorAll("button").forEach((button, i) => {
      button.setAttribute("aria-pressed", i === projected);
      button.querySelector("i").style.setProperty("--part", percent(data[i]).replace(" ", ""));
      button.querySelector("output").textContent = percent(data[i]);
    });
    const shown = [["projection", `Class ${model.classes[projected]}`], ...model.layers.map((name) => [name, `Strongest unit of ${name}`])];
    shown.forEach(([name, text], i) => {
      const item = $("pictures").children[i];
      item.lastChild.textContent = text;
      paint(item.firstChild, found[name].data);
    });
  }

  function paint(canvas, values) {
    const most = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
    const picture = new ImageData(width, height);
    values.forEach((value, i) => picture.data.set([...Array(3).fill(127.5 + (127.5 * value) / most), 255], 4 * i));
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function reset() {
    chosen = last = null;
    $("scores").hidden = $("projections").hidden = true;
    $("inside-status").textContent = "";
    $("pad").setAttribute("aria-label", "Drawing area: empty");
    $("pad").parentElement.classList.add("empty");
  }

  function changed() {
    chosen = null;
    look();
  }

  if (!digits) {
    $("subject").textContent = "with the mouse or a finger";
    $("take").hidden = true;
  }
  $("scores").append(...model.classes.map((name, index) => {
    const item = document.createElement("li");
    item.innerHTML = `<button type="button"><span></span><i></i><output></output></button>`;
    item.querySelector("span").textContent = name;
    item.firstChild.addEventListener("click", () => { chosen = index; look(); });
    return item;
  }));
  $("pictures").append(...["projection", ...model.layers].map(() => {
    const item = document.createElement("li");
    item.innerHTML = `<canvas width="${width}" height="${height}" aria-hidden="true"></canvas><span></span>`;
    return item;
  }));
  $("take").append(...STROKES.map((strokes, digit) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: digit });
    button.addEventListener("click", () => {
      clear();
      strokes.forEach((points) => line(points.map(([x, y]) => [x * PAD, y * PAD])));
      changed();
    });
    return button;
  }));
  $("clear").addEventListener("click", () => { clear(); reset(); });

  let pen = null;
  const place = (event) => {
    const box = $("pad").getBoundingClientRect();
    return [((event.clientX - box.left) * PAD) / box.width, ((event.clientY - box.top) * PAD) / box.height];
  };
  $("pad").addEventListener("pointerdown", (event) => {
    event.preventDefault();
    $("pad").setPointerCapture(event.pointerId);
    pen = place(event);
    line([pen, pen]);
  });
  $("pad").addEventListener("pointermove", (event) => {
    if (!pen) return;
    const next = place(event);
    line([pen, next]);
    pen = next;
    changed();
  });
  for (const type of ["pointerup", "pointercancel"]) {
    $("pad").addEventListener(type, () => { if (pen) { pen = null; changed(); } });
  }
}
