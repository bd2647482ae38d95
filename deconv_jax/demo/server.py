"""A server of the page for this computer only."""

import contextlib
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deconv_jax.demo.contents import Contents
from deconv_jax.errors import InputError, escape_unprintable

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "wasm": "application/wasm",
    "onnx": "application/octet-stream",
    "png": "image/png",
    "jpg": "image/jpeg",
}
"""Content type by suffix; the same on every system."""

_PART = 65_536
"""Bytes of a part of an answer."""
POLICY = "default-src 'self'; script-src 'self' 'unsafe-eval'; img-src 'self' blob: data:"
"""Content-Security-Policy header of every file, which blocks requests to other hosts.

Workers take their policy from it. ONNX Runtime calls `eval` there for WebGPU; index.html forbids `eval` in the page.
"""


class PageServer(ThreadingHTTPServer):
    """A server of fixed contents at a free port of 127.0.0.1.

    It answers GET and HEAD for the names of the contents and "/", which is index.html. Everything else is an error, so
    there are no folders to list and no paths to leave. A request that names another host is refused, which
    keeps pages of other sites from reading the contents by a name that resolves to this computer. Other sites cannot
    load the contents into their pages, either.

    Attributes:
      contents: What it serves, by name.
    """

    daemon_threads = False  # A thread that outlives the interpreter may abort the process.

    def __init__(self, contents: Contents) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents = contents
        self._locks = {name: threading.Lock() for name in contents}

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_port}/"

    def read(self, name: str) -> bytes | None:
        """Return the content of a name; None if there is none.

        Raises:
          InputError: A network cannot be exported.
        """
        content = self.contents.get(name)
        if content is None:
            return None
        if isinstance(content, Path):
            return content.read_bytes()
        with self._locks[name]:  # A network is exported once.
            return content()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version = "deconv-jax"
    sys_version = ""
    timeout = 5  # Seconds that a connection may wait for its request, or its client for a part of the answer.

    def handle(self) -> None:
        """Answer the request, unless the visitor closes the connection or waits too long."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def do_GET(self) -> None:
        """Answer with a content."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers of a content."""
        self._answer(with_body=False)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _answer(self, *, with_body: bool) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        name = self.path.partition("?")[0].removeprefix("/") or "index.html"
        try:
            data = self.server.read(name)
        except InputError as error:
            print(escape_unprintable(f"deconv-jax: error: {name}: {error}"), file=sys.stderr)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        if data is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES[name.rsplit(".", 1)[-1]])
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        for start in range(0, len(data) if with_body else 0, _PART):
            self.wfile.write(data[start : start + _PART])  # The time limit is that of one call.
