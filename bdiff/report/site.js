"use strict";
// Sorts and filters the tables of a leaderboard; without it they stand there whole, one number after the other.

const value = (row, place) => {
  const cell = row.cells[place];
  if (place === 0) return cell.textContent.trim();
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
};

const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));

// Cells without a number stay last in either direction.
const sort = (head) => {
  const table = head.closest("table");
  const place = head.cellIndex;
  const first = place === 0 ? "ascending" : "descending";
  const other = place === 0 ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [value(row, place), row]);
  rows.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * compare(a, b)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
  for (const one of table.tHead.rows[0].cells) one.setAttribute("aria-sort", one === head ? order : "none");
};

for (const button of document.querySelectorAll(".matrix thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}

const controls = document.querySelector("[data-controls]");

const filter = () => {
  const chosen = [...controls.querySelectorAll("[data-filter]")].filter((select) => select.value);
  const words = controls.querySelector("[data-text]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const measure = controls.querySelector("[data-measure]");
  for (const section of document.querySelectorAll("[data-table]")) {
    section.hidden = measure !== null && section.dataset.table !== measure.value;
    const rows = [...section.querySelectorAll(".matrix tbody tr")];
    for (const row of rows) {
      const text = row.cells[0].textContent.toLowerCase();
      row.hidden =
        chosen.some((select) => row.getAttribute(`data-${select.dataset.filter}`) !== select.value) ||
        words.some((word) => !text.includes(word));
    }
    if (!section.hidden) {
      const shown = rows.filter((row) => !row.hidden).length;
      controls.querySelector("[data-count]").textContent = `${shown} of ${rows.length} rows`;
    }
  }
};

if (controls) {
  controls.hidden = false;
  controls.addEventListener("input", filter);
  controls.addEventListener("submit", (event) => event.preventDefault());
  filter();
}
