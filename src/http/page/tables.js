// Tables that change while somebody reads them: rows stay what they are as long as they are there, and so does what is
// selected or focused in them.

import { element } from "./dom.js";

/** Shows `items` in the table, by the rows that `cells` makes of each; `empty` is shown instead where there are none. */
export function fillTable(table, empty, items, key, cells) {
  const body = table.tBodies[0], focused = document.activeElement;
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  items.forEach((item, index) => {
    const name = key(item), row = known.get(name) ?? newRow(name);
    known.delete(name);
    fillRow(row, cells(item));
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
  });
  for (const row of known.values()) row.remove();
  table.hidden = items.length === 0;
  if (empty !== null) empty.hidden = items.length > 0;
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

function newRow(name) {
  const row = element("tr", null);
  row.dataset.key = name;
  return row;
}

// A cell is a text that may change, or a function that makes what stands in it as long as the row is there.
function fillRow(row, cells) {
  cells.forEach((cell, index) => {
    if (typeof cell === "function") {
      if (row.cells[index] === undefined) row.append(element("td", null, cell()));
    } else {
      const place = row.cells[index] ?? row.appendChild(element("td", null));
      if (place.textContent !== cell) place.textContent = cell;
    }
  });
}
