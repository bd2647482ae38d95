"""The demo page: named models and runs in a browser, without a server that computes.

    page/        the page: HTML, styles and scripts
    models.py    the networks of the page, as ONNX functions
    inside.py    a classifier with its deconvnet projections as one function
    samples.py   the sample photos
    contents.py  everything that the page loads, by name
    runtime.py   ONNX Runtime for browsers, installed by npm
    server.py    a server for this computer

The documentation site has the page, too.
"""

from deconv_jax.demo.contents import Contents, page_contents
from deconv_jax.demo.models import PageModel, named_models, open_run
from deconv_jax.demo.runtime import install_packages, runtime_files
from deconv_jax.demo.server import PageServer

__all__ = [
    "Contents",
    "PageModel",
    "PageServer",
    "install_packages",
    "named_models",
    "open_run",
    "page_contents",
    "runtime_files",
]
