// A slider between two canvases, with zoom. The divider keeps its place in the window while the image scrolls.

const ZOOMS = [["Fit", 0], ["100%", 1], ["200%", 2], ["400%", 4]];

// Fill `container` with the slider and `toolbar` with buttons for the zoom.
export class Compare {
  #before; #after; #scroll; #stage; #line; #range; #view; #buttons;
  #zoom = 0;

  constructor(container, toolbar) {
    container.innerHTML = `
      <div class="compare">
        <div class="scroll" tabindex="0" role="region" aria-label="Image before and after"><div class="stage"></div></div>
        <div class="line" aria-hidden="true"></div>
        <span class="tag before">Before</span><span class="tag after">After</span>
      </div>
      <label class="compare-range"><span>Before</span>
        <input type="range" min="0" max="100" step="0.5" value="50" aria-label="Position between before and after"><span>After</span>
      </label>`;
    const find = (selector) => container.querySelector(selector);
    [this.#view, this.#scroll, this.#stage, this.#line, this.#range] = [".compare", ".scroll", ".stage", ".line", "input"].map(find);
    this.#range.addEventListener("input", () => this.#place());
    this.#scroll.addEventListener("scroll", () => this.#place());
    new ResizeObserver(() => this.#layout()).observe(container);
    this.#drag();
    this.#buttons = ZOOMS.map(([text, zoom]) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: text });
      button.addEventListener("click", () => { this.#zoom = zoom; this.#layout(true); });
      return button;
    });
    toolbar.replaceChildren(...this.#buttons);
  }

  // Show two canvases, or one. `before` may be smaller; it is drawn at the size of `after`.
  show(before, after = before) {
    [this.#before, this.#after] = [before, after];
    before.style.clipPath = "";
    this.#stage.replaceChildren(before, after);
    this.#zoom = 0;
    this.#range.value = 50;
    this.#layout();
  }

  #layout(center = false) {
    if (!this.#after) return;
    const { width, height } = this.#after;
    const room = this.#view.clientWidth;
    if (!room) return;
    const fit = Math.min(room / width, (0.75 * innerHeight) / height, 3);
    const ratio = this.#zoom ? this.#zoom / devicePixelRatio : fit;
    Object.assign(this.#stage.style, { width: `${width * ratio}px`, height: `${height * ratio}px` });
    this.#stage.classList.toggle("sharp", this.#zoom >= 2);
    this.#buttons.forEach((button, i) => button.setAttribute("aria-pressed", ZOOMS[i][1] === this.#zoom));
    if (center) {
      this.#scroll.scrollLeft = (width * ratio - room) / 2;
      this.#scroll.scrollTop = (height * ratio - this.#scroll.clientHeight) / 2;
    }
    this.#place();
  }

  // Where the image begins and ends in the window, in pixels.
  #bounds() {
    const view = this.#scroll.getBoundingClientRect();
    const stage = this.#stage.getBoundingClientRect();
    const left = Math.max(0, stage.left - view.left);
    return { left, right: Math.min(view.width, stage.right - view.left), origin: stage.left - view.left };
  }

  #place() {
    if (this.#after === this.#before) return;
    const { left, right, origin } = this.#bounds();
    const x = left + ((right - left) * this.#range.value) / 100;
    this.#line.style.left = `${x}px`;
    this.#after.style.clipPath = `inset(0 0 0 ${x - origin}px)`;
  }

  #drag() {
    const move = (event) => {
      const { left, right } = this.#bounds();
      const x = event.clientX - this.#scroll.getBoundingClientRect().left;
      this.#range.value = (100 * (x - left)) / (right - left);
      this.#place();
    };
    this.#line.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.#line.setPointerCapture(event.pointerId);
      this.#line.addEventListener("pointermove", move);
    });
    for (const type of ["pointerup", "pointercancel"]) {
      this.#line.addEventListener(type, () => this.#line.removeEventListener("pointermove", move));
    }
  }
}
