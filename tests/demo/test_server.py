"""The server of the page: what it answers, and what it refuses."""

import http.client
import signal
import socket
import threading

import pytest

from deconv_jax.cli import main
from deconv_jax.demo import PageServer, open_run, page_contents
from deconv_jax.demo.contents import PAGE, page_files
from deconv_jax.demo.runtime import FILES, install_packages, runtime_files
from deconv_jax.demo.server import TYPES
from deconv_jax.errors import InputError


def broken():
    raise InputError("no such network")


@pytest.fixture(scope="module")
def server():
    contents = {
        **page_files(),
        "models/a.onnx": lambda: b"network",
        "models/broken.onnx": broken,
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
    assert server.server_address[0] == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in others - {"127.0.0.1", "::1"}:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as connection:
            connection.settimeout(5)
            assert connection.connect_ex((address, server.server_port)) != 0


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


def test_color_classifier_is_refused(saved_run):
    color = GRAY | {"image": ((16, 16, 3), "uint8")}
    workdir, _ = saved_run({"name": "classification", "model": CLASSIFIER}, color)
    with pytest.raises(InputError, match="draws gray images; the classifier expects 3 channels"):
        open_run(workdir)


def test_checkpoint_requires_a_run(capsys):
    assert main(["demo", "--checkpoint", "best"]) == 2
    assert "--checkpoint requires --workdir" in capsys.readouterr().err


@pytest.mark.slow
def test_command_serves_until_ctrl_c(command, ended, runtime):
    process = command("demo", "--runtime", runtime)
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), line
    port = int(line.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/manifest.json")
    assert b'"documentation": false' in connection.getresponse().read()
    connection.close()
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "stopped\n", "")
