"""The demo page in Chromium: its results are those of `deconv-jax restore`, and nothing leaves the origin."""

import functools
import importlib.util
import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import main
from deconv_jax.demo import PageServer, install_packages
from deconv_jax.demo.contents import PAGE, page_files
from deconv_jax.demo.runtime import find_npm
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma

ROOT = Path(__file__).parents[2]
MAX_BYTES = 1_500_000
SCRIPT = "text/javascript"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_npm() is None, reason="npm is not installed"),
]


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("demo_hook", ROOT / "docs" / "hooks" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def address(hook):
    """The address of the page."""
    install_packages(hook.BUILD / "npm", development=True)  # The site needs a part of these.
    with PageServer(hook.contents()) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser, address):
    """A new page, which may request nothing from elsewhere and log no error."""
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(120_000)
    page = context.new_page()
    requested, errors = [], []
    context.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.requested = requested
    yield page
    context.close()
    assert not errors
    assert not [url for url in requested if not url.startswith((address, "blob:", "data:"))]


def photo(height, width, channels=3, sigma=20.0, seed=0):
    """Return smooth shapes with noise."""
    rows, columns = np.mgrid[:height, :width]
    waves = 128 + 70 * np.sin(np.stack([rows / 9, columns / 13, (rows + columns) / 17], -1))
    noise = np.random.default_rng(seed).normal(0, sigma, waves.shape)
    pixels = np.uint8(np.clip(waves + noise, 0, 255))
    return pixels if channels == 3 else pixels[..., 0]


def encoded(pixels, suffix="png", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"png": "PNG", "jpg": "JPEG"}[suffix], **options)
    return file.getvalue()


def wait_until(page, condition):
    """Wait for a JavaScript condition. The policy of the page forbids the `eval` of `page.wait_for_function`."""
    end = time.monotonic() + 120
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def open_file(page, name, data):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    wait_until(page, f"document.getElementById('about').textContent.startsWith({name!r})")


def wait(page):
    wait_until(page, "!document.getElementById('start').disabled")


def restore(page, operation, sigma=None):
    """Restore the opened image, and return the download's name and bytes."""
    page.check(f"input[name=operation][value={operation}]", force=True)
    if sigma is not None:
        page.evaluate("s => { document.getElementById('sigma').value = s; }", sigma)
    page.click("#start")
    wait(page)
    assert page.inner_text("#status").startswith("Done in"), page.inner_text("#error")
    with page.expect_download() as download:
        page.click("#download")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def doubled(page):
    """Enlarge the opened image twice, and return the download's name, format and size."""
    name, result = restore(page, "sr-2")
    image = Image.open(io.BytesIO(result))
    return name, image.format, image.size


def command(tmp_path, name, data, *words):
    """Return the pixels of `deconv-jax restore`."""
    source, output = tmp_path / name, tmp_path / "restored.png"
    source.write_bytes(data)
    assert main(["restore", str(source), "--output", str(output), *words]) == 0
    return np.int32(Image.open(output))


def pixels_of(data, mode="RGB"):
    return np.int32(Image.open(io.BytesIO(data)).convert(mode))


@pytest.mark.parametrize(
    ("operation", "channels", "size", "words"),
    [
        ("denoise", 3, (61, 433), ["--model", "denoise-color", "--noise-sigma", "20"]),
        ("denoise", 1, (401, 75), ["--model", "denoise-gray", "--noise-sigma", "20"]),
        ("jpeg", 3, (63, 90), ["--model", "jpeg-color"]),
        ("sr-2", 3, (47, 411), ["--model", "sr-x2"]),
        ("sr-3", 1, (50, 31), ["--model", "sr-x3"]),
        ("sr-4", 3, (23, 30), ["--model", "sr-x4"]),
    ],
)
def test_result_is_that_of_the_command(page, tmp_path, operation, channels, size, words):
    data = encoded(photo(*size, channels))
    open_file(page, "photo.png", data)
    name, result = restore(page, operation, 20 if operation == "denoise" else None)
    assert name == "photo.restored.png"
    expected = command(tmp_path, "photo.png", data, *words)
    if channels == 1:
        expected = np.repeat(expected[..., None], 3, axis=-1)
    result = pixels_of(result)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1


def test_alpha_is_kept(page, tmp_path):
    rgba = np.dstack([photo(40, 52), np.full((40, 52), 255, np.uint8)])
    rgba[10:30, 5:25, 3] = np.arange(100, 120)
    data = encoded(rgba)
    open_file(page, "photo.png", data)
    _, result = restore(page, "sr-2")
    result = pixels_of(result, "RGBA")
    expected = command(tmp_path, "photo.png", data, "--model", "sr-x2")
    assert np.abs(result[..., 3] - expected[..., 3]).max() <= 1
    far = np.s_[:, 80:, :3]  # Colors under transparency are rounded by the browser.
    assert np.abs(result[far] - expected[far]).max() <= 1


def test_jpeg_stays_jpeg_and_is_turned_upright(page):
    exif = Image.Exif()
    exif[0x0112] = 6
    open_file(page, "photo.jpeg", encoded(photo(40, 60), "jpg", exif=exif))
    assert "40 \N{MULTIPLICATION SIGN} 60 pixels" in page.inner_text("#about")
    assert doubled(page) == ("photo.restored.jpg", "JPEG", (80, 120))


def test_pasted_webp_stays_webp(page):
    page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 30 });
          canvas.getContext("2d").fillRect(5, 5, 20, 10);
          const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp"));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([blob], "drawing.webp", { type: "image/webp" }));
          dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }"""
    )
    page.wait_for_selector("#work:not([hidden])")
    assert "with transparency" in page.inner_text("#about")
    assert doubled(page) == ("drawing.restored.webp", "WEBP", (80, 60))


def test_digits_are_recognized_and_projected(page):
    seen = "document.getElementById('inside-status').textContent"
    for digit in (2, 7):
        page.click(f"#take button >> nth={digit}")
        wait_until(page, f"{seen}.startsWith('Seen: {digit}')")
    assert page.get_attribute("#scores button >> nth=7", "aria-pressed") == "true"
    picture = "document.querySelector('#pictures canvas').toDataURL()"
    before = page.evaluate(picture)
    page.click("#scores button >> nth=1")
    wait_until(page, f"{picture} !== {before!r}")
    assert page.inner_text("#pictures li >> nth=0") == "Class 1"
    page.click("#clear")
    assert not page.is_visible("#scores")
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    left, top, side = box["x"], box["y"], box["width"]
    page.mouse.move(left + 0.52 * side, top + 0.2 * side)
    page.mouse.down()
    page.mouse.move(left + 0.48 * side, top + 0.8 * side, steps=5)
    page.mouse.up()
    wait_until(page, f"{seen}.startsWith('Seen: 1')")


def test_classes_other_than_digits_are_drawn_freely(browser, address):
    page = browser.new_page()
    manifest = page.request.get(f"{address}manifest.json").json()
    manifest["models"]["mnist-classifier"]["classes"] = [f"class {n}" for n in range(10)]
    page.route("**/manifest.json", lambda route: route.fulfill(json=manifest))
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    assert "Draw with the mouse or a finger." in page.inner_text("#inside")
    assert not page.is_visible("#take")
    page.close()


def test_requests_to_other_hosts_are_blocked(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    with page.expect_worker() as worker:
        page.click("#draw")
    page.wait_for_selector("[aria-label='Generated image of class 3']")
    blocked = """() => new Promise((resolve) => {
      addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
      fetch("https://example.com/").catch(() => {});
    })"""
    for context in (page, worker.value):
        assert context.evaluate(blocked) == "connect-src"
    page.close()


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_estimated_as_by_the_command(page, channels):
    pixels = photo(131, 150, channels, sigma=12.0)
    open_file(page, "photo.png", encoded(pixels))
    expected = estimate_noise_sigma(np.float32(pixels.reshape(131, 150, channels) / 255))
    assert float(page.input_value("#sigma")) == pytest.approx(expected, abs=0.26)


def test_errors_are_told_in_words(page):
    page.set_input_files(
        "#file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"no image"}
    )
    page.wait_for_selector("#error:not([hidden])")
    assert "cannot read “notes.png” as an image" in page.inner_text("#error")
    open_file(page, "long.png", encoded(photo(8, 5000)))
    assert not page.is_visible("#error")
    page.check("input[name=operation][value=sr-4]", force=True)
    page.click("#start")
    page.wait_for_selector("#error:not([hidden])")
    assert "too large: 20000 \N{MULTIPLICATION SIGN} 32 pixels" in page.inner_text("#error")
    assert page.is_enabled("#start")


def test_cancel_by_keyboard_and_again(page):
    open_file(page, "photo.png", encoded(photo(800, 800)))
    page.focus("#start")
    page.keyboard.press("Enter")
    page.wait_for_selector("#cancel:focus")
    page.keyboard.press("Enter")
    wait_until(page, "document.getElementById('status').textContent === 'Cancelled.'")
    assert page.is_enabled("#start")
    assert not page.is_visible("#progress")
    open_file(page, "small.png", encoded(photo(30, 30)))
    restore(page, "denoise")


def test_cpu_is_used_if_the_gpu_fails(page):
    worker = (PAGE / "worker.js").read_text()
    head = "async function hasGPU() {"
    assert head in worker
    with_gpu = worker.replace(head, f"{head} return true;")
    page.route("**/worker.js", lambda route: route.fulfill(body=with_gpu, content_type=SCRIPT))
    failed = "throw new Error('the GPU is lost');"
    page.route("**/ort.webgpu.*", lambda route: route.fulfill(body=failed, content_type=SCRIPT))
    open_file(page, "photo.png", encoded(photo(30, 30)))
    restore(page, "sr-2")
    assert "on the CPU" in page.inner_text("#status")
    assert [url for url in page.requested if "ort.webgpu" in url]


def test_last_chosen_image_is_shown(page):
    page.evaluate(
        """async () => {
          for (const [name, side] of [["large.png", 3000], ["small.png", 20]]) {
            const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
            const blob = await new Promise((resolve) => canvas.toBlob(resolve));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([blob], name));
            globalThis.drops = [...(globalThis.drops ?? []), new DragEvent("drop", { dataTransfer })];
          }
          drops.forEach((drop) => dispatchEvent(drop));
          await createImageBitmap(drops[0].dataTransfer.files[0]);
          await createImageBitmap(drops[0].dataTransfer.files[0]);
        }"""
    )
    assert page.inner_text("#about").startswith("small.png")


def test_slider_by_keyboard_and_by_mouse(page):
    open_file(page, "photo.png", encoded(photo(60, 80)))
    assert not page.is_visible(".line")
    restore(page, "sr-2")
    left = functools.partial(page.evaluate, "document.querySelector('.line').offsetLeft")
    start = left()
    page.focus("#compare input")
    page.keyboard.press("ArrowRight")
    by_key = left()
    assert by_key > start
    page.locator(".compare").scroll_into_view_if_needed()
    box = page.locator(".line").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] - 60, box["y"] + 20)
    page.mouse.up()
    assert left() < start
    page.click("text=200%")
    assert page.evaluate("document.querySelector('.stage').offsetWidth") == 320


def test_sample_has_a_psnr(page):
    page.click("text=Small photo")
    page.wait_for_selector("#work:not([hidden])")
    page.click("#start")
    wait(page)
    assert "PSNR 31." in page.inner_text("#status")


def test_generators(page):
    assert not page.is_visible("#another")
    page.click("#draw")
    page.wait_for_selector("[aria-label='Generated image of class 3']")
    assert page.is_visible("#another")
    assert not page.is_visible("#draw")
    pixels = page.evaluate(
        "[...document.getElementById('digit').getContext('2d').getImageData(0, 0, 28, 28).data]"
    )
    digit = np.reshape(pixels, (28, 28, 4))[..., 0]
    assert digit[:2].max() < 64
    assert digit.max() > 192
    page.set_viewport_size({"width": 500, "height": 700})
    page.click("#texture-new")
    width = "document.getElementById('wall-canvas').width"
    wait_until(page, f"{width} > 300 && {width} < 500")
    before = page.evaluate(width)
    page.set_viewport_size({"width": 900, "height": 700})
    wait_until(page, f"{width} > {before} + 300")


def test_runtime_is_loaded_when_needed(page):
    sizes = page.evaluate(
        "performance.getEntries().filter(e => 'encodedBodySize' in e).map(e => e.encodedBodySize)"
    )
    assert 10_000 < sum(sizes) < MAX_BYTES
    assert not [url for url in page.requested if "/runtime/" in url or "/models/" in url]
    assert sum(path.stat().st_size for path in page_files().values()) < 100_000


def test_page_is_accessible(page, hook):
    open_file(page, "photo.png", encoded(photo(40, 40)))
    restore(page, "denoise")
    page.set_input_files("#file", {"name": "x", "mimeType": "image/png", "buffer": b"x"})
    page.wait_for_selector("#error:not([hidden])")
    page.click("#take button >> nth=3")
    page.wait_for_selector("#scores:not([hidden])")
    axe = hook.BUILD / "npm" / "node_modules" / "axe-core" / "axe.min.js"
    page.evaluate(axe.read_text())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        violations = page.evaluate("async () => (await axe.run()).violations")
        found = [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations]
        assert not found, scheme
