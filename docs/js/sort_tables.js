// Sort the tables with the attribute data-sortable by a column, with a button in its header. The buttons cycle
// through ascending, descending and the original order. Columns of numbers are sorted by value; blank cells are last.

const collator = new Intl.Collator("en", { numeric: true });
const NUMBER = /^[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?/i;
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

function textOf(row, column) {
  return row.cells[column].textContent.trim();
}

function numberOf(text) {
  return parseFloat(text.match(NUMBER)[0].replaceAll(",", ""));
}

function sorted(rows, column, direction) {
  if (direction === "none") return rows;
  const filled = rows.filter((row) => textOf(row, column));
  const isNumeric = filled.every((row) => NUMBER.test(textOf(row, column)));
  const compare = isNumeric
    ? (a, b) => numberOf(textOf(a, column)) - numberOf(textOf(b, column))
    : (a, b) => collator.compare(textOf(a, column), textOf(b, column));
  const sign = direction === "ascending" ? 1 : -1;
  filled.sort((a, b) => sign * compare(a, b));
  return [...filled, ...rows.filter((row) => !textOf(row, column))];
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  if (rows.length < 2) return;
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const direction = NEXT[header.getAttribute("aria-sort") ?? "none"];
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      if (direction !== "none") header.setAttribute("aria-sort", direction);
      body.append(...sorted(rows, column, direction));
    });
  });
}

document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
