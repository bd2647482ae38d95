"""Pages that are texts elsewhere in the project, links that work on GitHub and on the site, and formulas.

A relative link in any text points to a file of the project, as GitHub needs it. On the site it leads to the
page that shows the file; or to the file in the repository, if pyproject.toml has its address.
"""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from deconv_jax.notebook_cells import repository_url

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/tables/README.md": "results/tables.md",
    "experiments/benchmarks/README.md": "results/benchmarks.md",
}
"""Pages of the site by the text that they show."""

_ORIGINS = {page: text for text, page in PAGES.items()}
_LINK = re.compile(
    r"(?P<label>!?\[[^\]]*\])\((?![a-z]+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the texts of the project to the pages."""
    for text, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / text).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point relative links at pages of the site, or at files of the repository."""
    here = page.file.src_uri
    origin = _ORIGINS.get(here, f"docs/{here}")
    address = repository_url(ROOT).removesuffix(".git").rstrip("/")

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match["path"]))
        if not here.startswith("notebooks/") and not (ROOT / target).exists():
            return match[0]  # for mkdocs to report
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith("colab/") and target.endswith(".ipynb"):
            target = f"notebooks/{Path(target).stem}.md"
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif address:
            return f"{match['label']}({address}/blob/main/{target})"
        else:
            return f"`{target}`"
        path = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{match['label']}({path}{match['anchor'] or ''})"

    return _LINK.sub(link, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Convert formulas to MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        display = "inline" if match[1] == "span" else "block"
        return convert(html.unescape(match[2]), display=display)

    return _FORMULA.sub(formula, content)
