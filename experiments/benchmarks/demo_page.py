"""The demo page in Chromium: bytes and time until it is ready, and restoration beside Python.

The page runs from `deconv_jax.demo.PageServer` in headless Chromium with WebAssembly, one worker for each of up to four
cores. It denoises a photograph of one megapixel in color, and enlarges it twice. `deconv-jax restore` and ONNX Runtime
in Python do the same, without reading and writing files; ONNX Runtime runs only the network, on the whole image.

  python experiments/benchmarks/demo_page.py
"""

import importlib.metadata
import io
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import skimage.data
from PIL import Image
from playwright.sync_api import Browser, Page, Response, sync_playwright
from timing import parse_arguments, processors, time_in_turns, time_ratios, write_record

from deconv_jax import zoo
from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.demo import (
    PageModel,
    PageServer,
    install_packages,
    named_models,
    page_contents,
    runtime_files,
)
from deconv_jax.inference.progress import ProgressCallback
from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer
from deconv_jax.ops.color import rgb_to_y
from deconv_jax.tasks import Restoration

SIDE = 1000
SIGMA = 25.0
MODELS = ("denoise-color", "sr-x2")
PAGE, COMMAND, RUNTIME = "page", "deconv-jax restore", "onnxruntime in Python"

_OPEN = """async () => {
  const { decode } = await import("./image.js");
  const { restore } = await import("./restore.js");
  const manifest = await (await fetch("manifest.json")).json();
  const source = await decode(await (await fetch("samples/megapixel.png")).blob(), "megapixel.png");
  window.time = async (name, sigma) => {
    const [target, { signal }] = [document.createElement("canvas"), new AbortController()];
    const model = manifest.models[name];
    const timing = await restore({ source, model, sigma, target, signal, report: () => {} });
    return { ...timing, workers: Math.min(4, navigator.hardwareConcurrency) };
  };
}"""


def main() -> None:
    """Open the page, then time both operations in turns."""
    arguments = parse_arguments(__file__, __doc__, rounds=5)
    retain_freed_memory()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: Chromium is not installed")
    models = {model.name: model for model in named_models()}
    with tempfile.TemporaryDirectory() as folder:
        runtime = runtime_files(install_packages(Path(folder)) / "onnxruntime-web" / "dist")
        contents = page_contents(list(models.values()), runtime)
        contents["samples/megapixel.png"] = lambda: png(photo())
        with PageServer(contents) as server, sync_playwright() as driver:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for name in MODELS:
                server.read(f"models/{name}.onnx")
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            first = [first_load(browser, server.address) for _ in range(arguments.rounds)]
            sizes: dict[str, int] = {}
            page = open_page(browser, server.address, sizes)
            page.evaluate(_OPEN)
            times, load_ms = {}, {}
            for name in MODELS:
                opened = page.evaluate("([name, sigma]) => time(name, sigma)", [name, SIGMA])
                assert opened["backend"] == "wasm"
                load_ms[name] = 1e3 * opened["loadSeconds"]
                turns = time_in_turns(
                    candidates_of(models[name], page), rounds=arguments.rounds, calls=1
                )
                times |= {f"{name}: {who}": ms for who, ms in turns.items()}
            version = browser.version
            browser.close()
            server.shutdown()
    ratios = {}
    for name in MODELS:
        pairs = [(f"{name}: {PAGE}", f"{name}: {who}") for who in (COMMAND, RUNTIME)]
        ratios |= time_ratios(times, *pairs)
    write_record(
        arguments.output,
        measured="restoration of a color photograph of one megapixel by the demo page, float32, CPU",
        protocol=f"headless Chromium, WebAssembly, {opened['workers']} workers; the noise level {SIGMA:g} is "
        "given; without reading and writing of files, and with the network already loaded; one call per turn after an "
        "untimed one; onnxruntime runs only the network, on the whole image",
        times={"first load": [ms for ms, _ in first], **times},
        ratios=ratios,
        versions={
            "chromium": version,
            "onnxruntime": importlib.metadata.version("onnxruntime"),
            "playwright": importlib.metadata.version("playwright"),
        },
        model_load_ms={name: round(ms) for name, ms in load_ms.items()},
        bytes={
            "page": first[0][1],
            "runtime": sum(size for name, size in sizes.items() if name.startswith("runtime/")),
            **{name: sizes[f"models/{name}.onnx"] for name in MODELS},
        },
    )


def photo() -> np.ndarray:
    """Return a photograph of `SIDE` pixels per side with Gaussian noise, uint8."""
    image = Image.fromarray(skimage.data.astronaut()).resize((SIDE, SIDE))
    noise = np.random.default_rng(0).normal(0.0, SIGMA, (SIDE, SIDE, 3))
    return np.uint8(np.clip(np.rint(np.asarray(image) + noise), 0, 255))


def png(pixels: np.ndarray) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def open_page(browser: Browser, address: str, sizes: dict[str, int]) -> Page:
    """Open the page in a new context, and wait until it is ready; `sizes` gets the bytes of each file that it loads."""
    context = browser.new_context()

    def note_size(response: Response) -> None:
        sizes[response.url.removeprefix(address)] = int(response.headers["content-length"])

    context.on("response", note_size)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    return page


def first_load(browser: Browser, address: str) -> tuple[float, int]:
    """Return the milliseconds until the page is ready, and the bytes that it loads until then."""
    sizes: dict[str, int] = {}
    started = perf_counter()
    page = open_page(browser, address, sizes)
    milliseconds = 1e3 * (perf_counter() - started)
    page.context.close()
    return milliseconds, sum(sizes.values())


def candidates_of(model: PageModel, page: Page) -> dict[str, Callable[[], Any]]:
    """Return the page, the command's restorer and ONNX Runtime as functions without arguments."""
    trained = zoo.load(model.name)
    assert isinstance(trained.task, Restoration)
    noise = {"noise_sigma": SIGMA} if trained.task.noise_conditional else {}
    restorer = LearnedRestorer(
        trained.task.model,
        trained.variables,
        noise_conditional=trained.task.noise_conditional,
        **noise,
    )
    pixels = np.float32(photo() / 255)
    silent = ProgressCallback(on_progress=lambda _: None, on_message=print)
    image = pixels if model.entry["channels"] == 3 else np.asarray(rgb_to_y(pixels))
    feeds = {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}
    if noise:
        feeds["noise_level"] = np.float32([SIGMA / 255])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    session = onnxruntime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
    return {
        PAGE: lambda: page.evaluate("([name, sigma]) => time(name, sigma)", [model.name, SIGMA]),
        COMMAND: lambda: restorer(pixels, silent),
        RUNTIME: lambda: session.run(None, feeds),
    }


if __name__ == "__main__":
    main()
