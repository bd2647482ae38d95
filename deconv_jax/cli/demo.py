"""`deconv-jax demo`: the demo page, served to this computer."""

import argparse
import contextlib
import signal
import tempfile
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import add_checkpoint, add_parser, parse_checkpoint
from deconv_jax.errors import InputError

_DEMO = """\
try the named models, or your own run, in a browser

  deconv-jax demo
  deconv-jax demo --workdir runs/dncnn

Serves the demo page of the documentation at a free port of 127.0.0.1, which only this computer
reaches, until Ctrl-C. The networks run in the browser. With --workdir, a restoration network is an
additional operation of the page, a GAN or VAE replaces its generator of digits or of textures, and a
classifier of gray images replaces its classifier.

Networks are exported as ONNX when the page requests them, which requires the extra export. npm
installs ONNX Runtime for browsers into a temporary folder; --runtime names another copy. Only npm
writes elsewhere, to its cache.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `demo`."""
    demo = add_parser(commands, "demo", _DEMO)
    demo.add_argument(
        "--workdir",
        type=Path,
        metavar="DIR",
        help="use the model of this run (restoration, gan, variational, classification)",
    )
    add_checkpoint(demo)
    demo.add_argument(
        "--runtime",
        type=Path,
        metavar="DIR",
        help="use ONNX Runtime in this folder: dist of the npm package onnxruntime-web, or "
        "demo/runtime of a built documentation site (default: install it by npm)",
    )
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    checkpoint = parse_checkpoint(arguments.checkpoint)
    if arguments.workdir is None and arguments.checkpoint is not None:
        raise InputError("--checkpoint requires --workdir")

    from deconv_jax.demo import (
        PageServer,
        install_packages,
        named_models,
        open_run,
        page_contents,
        runtime_files,
    )
    from deconv_jax.export.onnx import import_extra

    for library in ("onnx", "onnxruntime"):
        import_extra(library)
    with contextlib.ExitStack() as stack:
        # SIGTERM has to remove the temporary folder, too, and jobs in the background ignore SIGINT.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        run, name = None, ""
        if arguments.workdir is not None:
            run, name = open_run(arguments.workdir, checkpoint), arguments.workdir.resolve().name
            _ = run.onnx  # An error is told now, not in the browser.
        folder = arguments.runtime
        if folder is None:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="deconv-jax-"))
            folder = install_packages(Path(temporary)) / "onnxruntime-web" / "dist"
        models = named_models(without=None if run is None else run.section)
        contents = page_contents(models, runtime_files(folder), run=run, run_name=name)
        server = stack.enter_context(PageServer(contents))
        with contextlib.suppress(KeyboardInterrupt):
            print(f"open {server.address} in a browser; Ctrl-C stops the server", flush=True)
            server.serve_forever()
        print("stopped")
    return 0
