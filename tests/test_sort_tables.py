"""The script that sorts the tables of the documentation site, in Chromium."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "js" / "sort_tables.js"
ROWS = {
    "b": ("1,600 steps", "12.5 ± 0.1"),
    "a10": ("90 steps", ""),
    "a9": ("2e3 steps", "-3.00"),
}
CELLS = "".join(
    f"<tr><td><a href='#'>{name}</a></td><td>{steps}</td><td>{gap}</td></tr>"
    for name, (steps, gap) in ROWS.items()
)
HEAD = "<thead><tr><th>name</th><th>training</th><th>gap</th></tr></thead>"
PAGE = (
    f"<table data-sortable>{HEAD}<tbody>{CELLS}</tbody></table><table>{HEAD}<tbody></tbody></table>"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    page.set_content(PAGE)
    page.add_script_tag(path=SCRIPT)
    return page


@pytest.mark.parametrize(
    ("column", "ascending", "descending"),
    [
        ("name", ["a9", "a10", "b"], ["b", "a10", "a9"]),
        ("training", ["a10", "b", "a9"], ["a9", "b", "a10"]),
        ("gap", ["a9", "b", "a10"], ["b", "a9", "a10"]),
    ],
)
def test_rows_are_sorted_by_keyboard(page, column, ascending, descending):
    """Numbers by value, blank cells last, and the third press restores the order."""
    button = page.get_by_role("button", name=column)
    button.focus()
    for order, rows in (("ascending", ascending), ("descending", descending), (None, list(ROWS))):
        page.keyboard.press("Enter")
        assert page.locator("td:first-child").all_inner_texts() == rows
        directions = page.locator("th").evaluate_all(
            "headers => headers.map(h => h.getAttribute('aria-sort'))"
        )
        assert [d for d in directions if d] == ([order] if order else [])
    assert page.get_by_role("button").count() == 3
