"""The server of the page: what it answers, and what it refuses."""

import http.client
import os
import signal
import socket
import struct
import threading
import time

import pytest

from deconv_jax.cli import main
from deconv_jax.demo import PageServer, open_run, page_contents
from deconv_jax.demo.contents import PAGE, page_files
from deconv_jax.demo.runtime import FILES, install_packages, runtime_files
from deconv_jax.demo.server import POLICY, TYPES
from deconv_jax.errors import InputError


def broken():
    raise InputError("no such network")


class LateContent:
    """A content that is ready when `event` is set; `thread` is the one that answers."""

    def __init__(self):
        self.asked, self.event = threading.Event(), threading.Event()

    def __call__(self):
        self.thread = threading.current_thread()
        self.asked.set()
        self.event.wait(30)
        return bytes(2**24)


@pytest.fixture(scope="module")
def late():
    return LateContent()


@pytest.fixture(scope="module")
def server(late):
    contents = {
        **page_files(),
        "models/a.onnx": lambda: b"network",
        "models/broken.onnx": broken,
        "models/late.onnx": late,
        "runtime/ort.wasm": PAGE / "style.css",
    }
    with PageServer(contents) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(server):
    """Return the status, the headers and the body of the answer to a request."""

    def request(path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    return request


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/main.js?version=1", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/models/a.onnx", "application/octet-stream"),
        ("/runtime/ort.wasm", "application/wasm"),
    ],
)
def test_contents_have_a_type_and_a_length(ask, path, kind):
    status, headers, body = ask(path)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert int(headers["Content-Length"]) == len(body) > 0
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert ask(path, "HEAD")[2] == b""


@pytest.mark.parametrize(
    "path",
    [
        "/models",
        "/models/",
        "/runtime/",
        "/package.json",
        "/../../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "/models/../index.html",
        "//etc/passwd",
        "/etc/passwd",
    ],
)
def test_there_are_no_folders_and_no_other_files(ask, path):
    assert ask(path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_is_written(ask, method):
    assert ask("/index.html", method)[0] == 501


def test_only_requests_to_this_computer_are_answered(ask, server):
    assert ask("/", Host="evil.example")[0] == 421
    assert ask("/", Host=f"localhost:{server.server_port}")[0] == 200
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_malformed_address_is_not_found(server):
    with socket.create_connection(server.server_address, timeout=30) as connection:
        host = f"127.0.0.1:{server.server_port}"
        connection.sendall(f"GET http://[ HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        assert b" 404 " in connection.makefile("rb").readline()


def test_visitor_who_leaves_is_no_error(server, late, capfd):
    with socket.create_connection(server.server_address, timeout=30) as connection:
        host = f"127.0.0.1:{server.server_port}"
        connection.sendall(f"GET /models/late.onnx HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        assert late.asked.wait(30)
        reset = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    late.event.set()
    late.thread.join(30)
    assert capfd.readouterr().err == ""


def test_network_that_is_not_exported_is_an_error_of_the_server(ask, capsys):
    status, _, body = ask("/models/broken.onnx")
    assert status == 500
    assert b"no such network" not in body
    assert "models/broken.onnx: no such network" in capsys.readouterr().err


def test_runtime_must_be_complete(tmp_path):
    (tmp_path / FILES[0]).touch()
    with pytest.raises(InputError, match=rf"{FILES[1]}; expected the folder dist of the npm"):
        runtime_files(tmp_path)


def test_missing_npm_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm.* is not installed; install Node.js, or give"):
        install_packages(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def runtime(tmp_path):
    """A folder with the names of the runtime's files."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in FILES:
        (folder / name).touch()
    return folder


GRAY = {"image": ((16, 16, 1), "uint8"), "label": ((), "int32"), "index": ((), "int32")}
CLASSIFIER = {"name": "classifier", "num_classes": 3, "features": (4,), "embedding_dim": 4}
VAE = {"name": "vae", "image_shape": (16, 16, 1), "latent_dim": 5, "features": (2, 2)}
GENERATOR = {"name": "dcgan_generator", "image_shape": (16, 16, 1), "latent_dim": 4, "width": 2}
TEXTURE = {"image_shape": (16, 16, 1), "width": 4, "stages": 2, "local_dim": 4, "global_dim": 3}


@pytest.mark.parametrize(
    ("task", "section", "expected"),
    [
        (
            {"name": "restoration", "model": {"name": "fsrcnn", "scale": 2, "d": 4, "s": 2, "m": 1}}
            | {"degradation": {"name": "downsample", "scale": 2}, "crop": 8},
            "restore",
            {"channels": 1, "noise": False},
        ),
        (
            {"name": "classification", "model": CLASSIFIER},
            "inside",
            {"shape": (16, 16, 1), "classes": ["0", "1", "2"], "layers": ("conv1", "conv2")},
        ),
        (
            {"name": "variational", "model": VAE, "iwae_samples": 1},
            "draw",
            {"latents": 5, "classes": 0, "shape": (16, 16, 1)},
        ),
        (
            {
                "name": "gan",
                "generator": GENERATOR | {"num_classes": 3},
                "discriminator": {"name": "dcgan_discriminator", "width": 2, "num_classes": 3},
            },
            "draw",
            {"latents": 4, "classes": 3, "shape": (16, 16, 1)},
        ),
        (
            {
                "name": "gan",
                "generator": {"name": "texture_generator"} | TEXTURE,
                "discriminator": {"name": "texture_discriminator", "width": 2, "stages": 2},
            },
            "texture",
            {"local": 4, "global": 3, "cell": 4},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_run_has_a_section(saved_run, task, section, expected):
    model = open_run(saved_run(task, GRAY)[0])
    assert model.section == section
    assert {name: model.entry[name] for name in expected} == expected
    contents = page_contents([], {}, run=model, run_name="mine")
    assert "models/run.onnx" in contents
    assert {name.rsplit(".", 1)[-1] for name in contents} <= set(TYPES)


def test_run_of_another_task_is_refused(saved_run):
    model = {"name": "autoencoder", "image_shape": (16, 16, 1), "features": (2, 2)}
    workdir, _ = saved_run({"name": "autoencoding", "model": model}, GRAY)
    with pytest.raises(InputError, match="is a run of Autoencoding; expected a run of Restoration"):
        open_run(workdir)


def test_conditional_vae_is_refused(saved_run):
    task = {"name": "variational", "model": VAE | {"conditional": True}, "iwae_samples": 1}
    workdir, _ = saved_run(
        task | {"degradation": {"name": "box_mask", "count": 1, "size": 4}}, GRAY
    )
    with pytest.raises(InputError, match=r"conditional VAE; expected .* model\.conditional=False"):
        open_run(workdir)


def test_color_classifier_is_refused(saved_run):
    color = GRAY | {"image": ((16, 16, 3), "uint8")}
    workdir, _ = saved_run({"name": "classification", "model": CLASSIFIER}, color)
    with pytest.raises(InputError, match="draws gray images; the classifier expects 3 channels"):
        open_run(workdir)


def test_checkpoint_requires_a_run(capsys):
    assert main(["demo", "--checkpoint", "best"]) == 2
    assert "--checkpoint requires --workdir" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_it_is_stopped(command, ended, runtime, number):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job in the background
    try:
        process = command("demo", "--runtime", runtime)
    finally:
        signal.signal(signal.SIGINT, before)
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), line
    port = int(line.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/manifest.json")
    assert b'"documentation": false' in connection.getresponse().read()
    connection.close()
    process.send_signal(number)
    assert ended(process) == (0, "stopped\n", "")


@pytest.mark.slow
def test_command_stopped_during_installation_leaves_no_folder(
    command, ended, tmp_path, monkeypatch
):
    npm, temporary = tmp_path / "npm", tmp_path / "temporary"
    npm.write_text("#!/bin/sh\ntouch started\nexec sleep 300\n")
    npm.chmod(0o755)
    temporary.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = command("demo")
    end = time.monotonic() + 60
    while process.poll() is None and not list(temporary.glob("deconv-jax-*/started")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (130, "", "deconv-jax: stopped\n")
    assert not list(temporary.glob("deconv-jax-*"))
