// Digits of a generative adversarial network: a class picker, two sliders and a walk.
import { Network } from "./network.js";
import { newSeed, normals } from "./random.js";

const LATENTS = 64;
const SIDE = 28;
const $ = (id) => document.getElementById(id);

// Start the section; the model is loaded when something in it is used.
export function startDigits(model, choice, words) {
  let seed = 7;
  let network = null;
  let busy = false;
  let again = false;
  let timer = 0;
  $("classes").append(...Array.from({ length: 10 }, (_, digit) => choice("digit", String(digit), String(digit))));
  $("classes").querySelectorAll("input")[3].checked = true;

  // The sliders turn the latents towards two others, which keeps their distribution.
  function latents() {
    const angles = [$("first"), $("second")].map((slider) => (Number(slider.value) * Math.PI) / 2);
    let z = normals(seed, LATENTS);
    angles.forEach((angle, i) => {
      const direction = normals(seed + i + 1, LATENTS);
      z = z.map((value, k) => Math.cos(angle) * value + Math.sin(angle) * direction[k]);
    });
    return z;
  }

  async function draw() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      if (!network) {
        $("digit-status").textContent = "Loading the model…";
        network = new Network();
        await network.ask("open", { model, backend: "wasm" });
        $("digit-status").textContent = "";
        $("another").textContent = "Draw another";
      }
      do {
        again = false;
        const digit = Number(document.querySelector("input[name=digit]:checked").value);
        const feeds = {
          latents: { type: "float32", data: latents(), dims: [1, LATENTS] },
          labels: { type: "int32", data: Int32Array.of(digit), dims: [1] },
        };
        const { data } = await network.ask("run", { feeds });
        const image = new ImageData(SIDE, SIDE);
        data.forEach((value, i) => image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
        $("digit").getContext("2d").putImageData(image, 0, 0);
        $("digit").setAttribute("aria-label", `Generated digit ${digit}`);
      } while (again);
    } catch (error) {
      network?.close();
      network = null;
      stopWalk();
      $("digit-status").textContent = words(error);
    } finally {
      busy = false;
    }
  }

  function stopWalk() {
    clearInterval(timer);
    timer = 0;
    $("walk").setAttribute("aria-pressed", "false");
    $("walk").textContent = "Walk";
  }

  function walk() {
    if (timer) { stopWalk(); return; }
    $("walk").setAttribute("aria-pressed", "true");
    $("walk").textContent = "Stop";
    const begin = performance.now();
    timer = setInterval(() => {
      const t = (performance.now() - begin) / 1000;
      $("first").value = Math.sin(0.7 * t);
      $("second").value = Math.sin(0.43 * t);
      draw();
    }, 60);
  }

  $("digit-form").addEventListener("input", draw);
  $("digit-form").addEventListener("submit", (event) => event.preventDefault());
  $("another").addEventListener("click", () => { if (network) seed = newSeed(); draw(); });
  $("walk").addEventListener("click", walk);
}
