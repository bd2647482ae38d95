// Images of a generator: a class picker, two sliders and a walk.
import { toImage } from "./image.js";
import { LazyNetwork } from "./network.js";
import { newSeed, normals } from "./random.js";

const $ = (id) => document.getElementById(id);

// Start the section; the model is loaded when something in it is used.
export function startDigits(model, choice, words) {
  const lazy = new LazyNetwork(model, $("digit-status"), words);
  let seed = 21;
  let busy = false;
  let again = false;
  let timer = 0;
  const [height, width] = model.shape;
  Object.assign($("digit"), { width, height });
  $("latent-count").textContent = model.latents;
  $("classes").hidden = !model.classes;
  $("classes").append(...Array.from({ length: model.classes }, (_, digit) => choice("digit", String(digit), String(digit))));
  if (model.classes) $("classes").querySelectorAll("input")[Math.min(3, model.classes - 1)].checked = true;

  // The sliders turn the latents towards two others, which keeps their distribution.
  function latents() {
    const angles = [$("first"), $("second")].map((slider) => (Number(slider.value) * Math.PI) / 2);
    let z = normals(seed, model.latents);
    angles.forEach((angle, i) => {
      const direction = normals(seed + i + 1, model.latents);
      z = z.map((value, k) => Math.cos(angle) * value + Math.sin(angle) * direction[k]);
    });
    return z;
  }

  async function draw() {
    if (busy) { again = true; return; }
    busy = true;
    const drawn = await lazy.use(async (network) => {
      do {
        again = false;
        const label = document.querySelector("input[name=digit]:checked")?.value;
        const feeds = { latents: { type: "float32", data: latents(), dims: [1, model.latents] } };
        if (label) feeds.labels = { type: "int32", data: Int32Array.of(label), dims: [1] };
        const { image } = await network.ask("run", { feeds });
        $("digit").getContext("2d").putImageData(toImage(image), 0, 0);
        $("digit").setAttribute("aria-label", label ? `Generated image of class ${label}` : "Generated image");
        $("frame").classList.remove("empty");
      } while (again);
    });
    if (!drawn) stopWalk();
    busy = false;
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
  $("draw").addEventListener("click", async () => {
    await draw();
    if (lazy.isOpen) $("another").focus();
  });
  $("another").addEventListener("click", () => { if (lazy.isOpen) seed = newSeed(); draw(); });
  $("walk").addEventListener("click", walk);
}
