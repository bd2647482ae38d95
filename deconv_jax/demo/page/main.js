// The page: what the visitor does, and what is shown.
import { Compare } from "./compare.js";
import { startDigits } from "./digits.js";
import { PageError, checkSize, decode, encode, psnr } from "./image.js";
import { startInside } from "./inside.js";
import { estimateSigma } from "./noise.js";
import { restore } from "./restore.js";
import { startTexture } from "./texture.js";

const $ = (id) => document.getElementById(id);
const OPERATIONS = { run: "Your run", denoise: "Remove noise", jpeg: "Clean JPEG", "sr-2": "Enlarge ×2", "sr-3": "Enlarge ×3", "sr-4": "Enlarge ×4" };

let manifest;
let source = null;
let sample = null;
let running = null;
let loads = 0;
let downloadUrl = null;
const compare = new Compare($("compare"), $("zoom"));

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const seconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} s`;
const operation = () => document.querySelector("input[name=operation]:checked").value;

function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

// Return what to tell the visitor about an error.
function words(error) {
  if (error instanceof PageError) return error.message;
  if (error instanceof RangeError || /memory|alloc|size of .*buffer/i.test(error.message)) {
    return "There is not enough memory for this image. Close other tabs, or use a smaller image.";
  }
  if (/fetch|status|import|worker did not start/i.test(error.message)) return `A file of this page could not be loaded: ${error.message}`;
  return `Something went wrong: ${error.message}`;
}

function choice(name, value, text) {
  const label = document.createElement("label");
  label.className = "choice";
  label.innerHTML = `<input type="radio"><span></span>`;
  Object.assign(label.firstChild, { name, value });
  label.lastChild.textContent = text;
  return label;
}

function modelOf(chosen, gray) {
  const names = manifest.operations[chosen];
  return manifest.models[gray ? (names.gray ?? names.color) : names.color];
}

function showOperation() {
  const chosen = operation();
  $("noise").hidden = !modelOf(chosen, source.gray).noise;
  $("start").textContent = modelOf(chosen, source.gray).field.scale > 1 ? "Enlarge" : "Restore";
}

function showSigma() {
  $("sigma-value").textContent = `σ ${Number($("sigma").value)}`;
}

async function load(blob, name, chosenSample = null) {
  const turn = ++loads;
  showError("");
  let image;
  try {
    image = await decode(blob, name);
  } catch (error) {
    if (turn === loads) showError(words(error));
    return;
  }
  if (turn !== loads) return;  // The visitor has chosen another image since.
  running?.abort();
  source = image;
  sample = chosenSample;
  const parts = [name, `${source.width} × ${source.height} pixels`, source.gray ? "gray" : "color"];
  if (source.alpha) parts.push("with transparency");
  if (source.deep) parts.push("16 bits per channel, of which 8 are used");
  if (source.type === "") parts.push("the result will be a PNG file");
  $("about").textContent = parts.join(", ");
  const sigma = Math.min(75, Math.round(2 * estimateSigma(source)) / 2);
  $("sigma").value = sigma;
  $("sigma-note").textContent = `${sigma ? `The estimated standard deviation of the noise is ${sigma} of 255.` : "No noise was found."} Less keeps more detail and noise; more is smoother.`;
  showSigma();
  const wanted = document.querySelector(`input[name=operation][value="${sample?.operation}"]`);
  if (wanted) wanted.checked = true;
  showOperation();
  $("status").textContent = "";
  $("work").hidden = false;
  $("result").hidden = false;
  $("download").hidden = true;
  $("result").classList.add("waiting");
  compare.show(source.canvas);
}

function setRunning(controller) {
  running = controller;
  const busy = controller !== null;
  $("start").disabled = busy;
  $("cancel").hidden = $("progress").hidden = !busy;
  $("operations").disabled = $("sigma").disabled = busy;
}

async function start() {
  const [chosen, image] = [operation(), source];
  const model = modelOf(chosen, image.gray);
  const controller = new AbortController();
  const target = document.createElement("canvas");
  const focused = document.activeElement === $("start");
  showError("");
  setRunning(controller);
  if (focused) $("cancel").focus();
  $("progress").removeAttribute("value");
  $("status").textContent = `Loading the model${model.bytes ? `, ${megabytes(model.bytes)}` : ""}…`;
  try {
    checkSize(image.width * model.field.scale, image.height * model.field.scale, "The result");
    const report = (done) => {
      $("progress").value = done;
      $("status").textContent = `${Math.round(100 * done)} % done`;
    };
    const timing = await restore({ source: image, model, sigma: Number($("sigma").value), target, signal: controller.signal, report });
    await finish(image, target, timing, controller.signal);
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = image === source ? "Cancelled." : "";
    else {
      $("status").textContent = "";
      showError(words(error));
    }
  } finally {
    if (running === controller) setRunning(null);
    if (focused && document.activeElement === document.body) $("start").focus();
  }
}

async function finish(image, target, timing, signal) {
  const { blob, name } = await encode(target, image);
  signal.throwIfAborted();
  if (downloadUrl) URL.revokeObjectURL(downloadUrl);
  downloadUrl = URL.createObjectURL(blob);
  Object.assign($("download"), { href: downloadUrl, download: name, hidden: false });
  $("download").textContent = `Download, ${megabytes(blob.size)}`;
  $("result").classList.remove("waiting");
  compare.show(image.canvas, target);
  const device = timing.backend === "webgpu" ? "on the GPU" : "on the CPU";
  $("status").textContent = `Done in ${seconds(timing.seconds)} ${device}: ${target.width} × ${target.height} pixels.${await quality(image, target)}`;
}

// Return the PSNR if the sample has a truth of the result's size.
async function quality(image, target) {
  if (!sample?.truth || image !== source) return "";
  const truth = await decode(await (await fetch(sample.truth)).blob(), "truth");
  if (truth.width !== target.width || truth.height !== target.height) return "";
  const after = ` PSNR ${psnr(target, truth.canvas).toFixed(2)} dB`;
  const before = image.width === target.width ? `, before ${psnr(image.canvas, truth.canvas).toFixed(2)} dB` : "";
  return `${after}${before}.`;
}

function showSamples() {
  for (const entry of manifest.samples) {
    const item = document.createElement("li");
    item.innerHTML = `<button type="button"><img alt="" width="144" height="88"><span></span></button>`;
    const button = item.firstChild;
    button.firstChild.src = entry.thumbnail;
    button.lastChild.textContent = entry.title;
    button.addEventListener("click", async () => {
      try {
        const response = await fetch(entry.file);
        if (!response.ok) throw new Error(`status ${response.status}`);
        await load(await response.blob(), entry.file.split("/").pop(), entry);
      } catch (error) {
        showError(words(error));
      }
    });
    $("samples").append(item);
  }
}

function listen() {
  const take = (files) => {
    if (!files.length) showError("That is not an image file.");
    else load(files[0], files[0].name || "pasted.png");
  };
  $("file").addEventListener("change", () => {
    if ($("file").files.length) take($("file").files);
    $("file").value = "";
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files);
  });
  addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
  $("operations").addEventListener("change", showOperation);
  $("sigma").addEventListener("input", showSigma);
  $("work").addEventListener("submit", (event) => { event.preventDefault(); start(); });
  $("cancel").addEventListener("click", () => running?.abort());
}

// What differs if the page is served by `deconv-jax demo`.
function showRun() {
  if (!manifest.documentation) document.querySelectorAll(".documentation").forEach((element) => { element.hidden = true; });
  if (!manifest.run) return;
  const { name, section } = manifest.run;
  const places = {
    restore: "is the operation “Your run”",
    draw: "draws the images below",
    texture: "grows the texture below",
    inside: "is the classifier below",
  };
  $("run").textContent = `Your run “${name}” ${places[section]}.`;
  $("run").hidden = false;
  if (section === "draw") {
    $("digits-title").textContent = `Draw images of ${name}`;
    $("draw").textContent = "Draw an image";
    $("what").textContent = "an image";
    $("classes").querySelector("legend").textContent = "Class";
  }
}

async function main() {
  let response;
  try {
    response = await fetch("manifest.json");
    if (!response.ok) throw new Error(response.statusText);
    manifest = await response.json();
  } catch {
    $("unsupported").textContent = "This copy of the site was built without the models of this page.";
    $("unsupported").hidden = false;
    return;
  }
  $("operations").append(...Object.entries(OPERATIONS).filter(([key]) => manifest.operations[key]).map(([key, text]) => choice("operation", key, text)));
  document.querySelector("input[name=operation]").checked = true;
  showSamples();
  listen();
  showRun();
  const { draw, texture, inside } = manifest.sections;
  startDigits(manifest.models[draw], choice, words);
  startTexture(manifest.models[texture], words);
  startInside(manifest.models[inside], words);
  document.body.dataset.ready = "true";
}

main();
