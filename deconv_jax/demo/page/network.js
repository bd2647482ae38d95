// Workers that run a network.

export class Network {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #next = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, answer, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(answer);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => this.#fail(new Error(event.message || "the worker did not start"));
  }

  // Return the answer of the worker to a message.
  ask(kind, task, transfer = []) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, kind, ...task }, transfer);
    });
  }

  // Stop at once. Open questions are answered by an AbortError.
  close() {
    this.#worker.terminate();
    this.#fail(new DOMException("cancelled", "AbortError"));
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

// A network that is opened at its first use, in one worker on the CPU. `status` is the element that says so.
export class LazyNetwork {
  #model; #status; #words;
  #network = null;

  constructor(model, status, words) {
    [this.#model, this.#status, this.#words] = [model, status, words];
  }

  get isOpen() {
    return this.#network !== null;
  }

  // Call `work` with the network, and return whether it succeeds. After an error, the next use opens the network again.
  async use(work) {
    try {
      if (!this.#network) {
        this.#status.textContent = "Loading the model…";
        this.#network = new Network();
        await this.#network.ask("open", { model: this.#model, backend: "wasm" });
        this.#status.textContent = "";
      }
      await work(this.#network);
      return true;
    } catch (error) {
      this.#network?.close();
      this.#network = null;
      this.#status.textContent = this.#words(error);
      return false;
    }
  }
}

// Open a model in one worker for a GPU, or in one for each core, at most four. The backend "wasm" excludes GPUs.
export async function openPool(model, signal, backend) {
  const pool = [new Network()];
  const stop = () => pool.forEach((network) => network.close());
  signal?.addEventListener("abort", stop, { once: true });
  try {
    const opened = await pool[0].ask("open", { model, backend });
    if (opened.backend === "wasm") {
      const cores = Math.min(4, navigator.hardwareConcurrency || 1);
      while (pool.length < cores) pool.push(new Network());
      await Promise.all(pool.slice(1).map((network) => network.ask("open", { model, backend: "wasm" })));
    }
    return { pool, backend: opened.backend, close: stop };
  } catch (error) {
    stop();
    throw error;
  }
}
