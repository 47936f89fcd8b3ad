// Tables whose rows stay the same elements while their numbers change, so that focus and scrolling stay where they were.

/**
 * @param table an empty <table>
 * @param columns [{head, cell(row) -> text | Node, n: right-aligned, mono, wrap, tone(row) -> class}]
 * @param key row -> what tells it from others
 * @param none what is said when there is no row
 */
export function table(element, caption, columns, key, none) {
  const head = element.createTHead().insertRow();
  const title = element.createCaption();
  title.className = "hidden";
  title.textContent = caption;
  for (const column of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = column.n ? "n" : "";
    cell.textContent = column.head;
    head.append(cell);
  }
  const body = element.createTBody(), rows = new Map();
  const empty = document.createElement("tr");
  empty.className = "none";
  empty.insertCell().colSpan = columns.length;
  empty.firstChild.textContent = none;
  body.addEventListener("keydown", (press) => move(press, body));

  return function show(values) {
    const wanted = values.length ? values.map((value) => [key(value), value]) : [];
    const keep = new Set(wanted.map(([id]) => id));
    for (const [id, row] of rows) {
      if (!keep.has(id)) {
        if (row.contains(document.activeElement)) (row.nextElementSibling ?? row.previousElementSibling)?.focus();
        row.remove();
        rows.delete(id);
      }
    }
    wanted.forEach(([id, value], place) => {
      let row = rows.get(id);
      if (!row) rows.set(id, row = create(columns));
      if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
      fill(row, columns, value);
    });
    if (values.length) empty.remove();
    else if (!empty.isConnected) body.append(empty);
    reachable(body);
  };
}

function classes(column) {
  return [column.n && "n", column.mono && "mono", column.wrap && "wrap"].filter(Boolean).join(" ");
}

function create(columns) {
  const row = document.createElement("tr");
  row.tabIndex = -1;
  for (const column of columns) row.insertCell().className = classes(column);
  return row;
}

function fill(row, columns, value) {
  columns.forEach((column, place) => {
    const cell = row.cells[place], text = column.cell(value);
    if (text instanceof Node) {
      if (!cell.firstChild) cell.append(text);
      else if (!text.isEqualNode(cell.firstChild)) cell.firstChild.replaceWith(text);
    } else if (cell.textContent !== text) cell.textContent = text;
    if (column.tone) cell.className = `${classes(column)} ${column.tone(value) ?? ""}`;
  });
}

/** One row of each table is a stop of the tab key; arrows go on from there. */
function reachable(body) {
  const rows = [...body.rows].filter((row) => !row.classList.contains("none"));
  if (rows.length && !rows.some((row) => row.tabIndex === 0)) rows[0].tabIndex = 0;
}

function move(press, body) {
  const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  const from = press.target.closest("tr");
  if (!(press.key in steps) || !from) return;
  const rows = [...body.rows];
  const to = rows[Math.max(0, Math.min(rows.length - 1, rows.indexOf(from) + steps[press.key]))];
  press.preventDefault();
  for (const row of rows) row.tabIndex = row === to ? 0 : -1;
  to.focus();
  to.scrollIntoView({ block: "nearest" });
}
