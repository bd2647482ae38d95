// A network in a worker. Messages: open, tile, run. Each has an id, which the answer repeats.
import { restoreTile } from "./pixels.js";

const RUNTIME = new URL("runtime/", import.meta.url);
let ort, session, description;

async function hasGPU() {
  const adapter = await navigator.gpu?.requestAdapter();
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

async function open({ model, backend }) {
  const gpu = backend !== "wasm" && (await hasGPU());
  ort = await import(new URL(gpu ? "ort.webgpu.bundle.min.mjs" : "ort.wasm.bundle.min.mjs", RUNTIME));
  const wasm = gpu ? "ort-wasm-simd-threaded.asyncify.wasm" : "ort-wasm-simd-threaded.wasm";
  ort.env.wasm.wasmPaths = { wasm: new URL(wasm, RUNTIME).href };
  ort.env.wasm.numThreads = 1;  // The page runs several workers, which needs no special headers.
  ort.env.logLevel = "error";
  const response = await fetch(new URL(model.file, import.meta.url));
  if (!response.ok) throw new Error(`${model.file}: status ${response.status}`);
  const options = { executionProviders: gpu ? ["webgpu"] : ["wasm"], logSeverityLevel: 3 };
  session = await ort.InferenceSession.create(new Uint8Array(await response.arrayBuffer()), options);
  description = model;
  return { backend: gpu ? "webgpu" : "wasm" };
}

async function run({ feeds }) {
  const tensors = Object.entries(feeds).map(([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)]);
  const outputs = await session.run(Object.fromEntries(tensors));
  return Object.fromEntries(Object.entries(outputs).map(([name, { data, dims }]) => [name, { data, dims }]));
}

async function tile({ sigma, ...task }) {
  const { channels, field: { scale } } = description;
  const network = async (planes, width, height, factor = 1) => {
    const data = new Float32Array(planes.length * width * height);
    planes.forEach((plane, c) => data.set(plane, c * width * height));
    const feeds = { image: { type: "float32", data, dims: [1, planes.length, height, width] } };
    if (description.noise) feeds.noise_level = { type: "float32", data: Float32Array.of((factor * sigma) / 255), dims: [1] };
    const { restored } = await run({ feeds });
    const size = width * height * scale * scale;
    return planes.map((_, c) => restored.data.subarray(c * size, (c + 1) * size));
  };
  const rgba = await restoreTile(network, { ...task, channels, scale });
  return { rgba };
}

const HANDLERS = { open, run, tile };

self.onmessage = async ({ data: { id, kind, ...task } }) => {
  try {
    const answer = await HANDLERS[kind](task);
    self.postMessage({ id, answer }, answer.rgba ? [answer.rgba.buffer] : []);
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
