// Small helpers to build pages. Text always goes in as text, never as markup.

export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("aria-")) element.setAttribute(key, String(value));
    else if (value === false) continue;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key === "value" || key === "checked") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false && c !== ""));
  return element;
}

// Put children into a parent without touching those that are the same: focus and scroll stay where they are.
export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
}

export function say(text) {
  document.getElementById("said").textContent = text;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  const minutes = Math.round(s / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

export function bytes(count) {
  if (count < 1e6) return `${Math.max(1, Math.round(count / 1e3))} kB`;
  return count < 1e9 ? `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB` : `${(count / 1e9).toFixed(1)} GB`;
}

export function day(ms) {
  return new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(ms));
}

export function bar(percent, label) {
  const width = Math.max(0, Math.min(100, percent));
  return el("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(width), "aria-label": label }, el("i", { style: `width:${width}%` }));
}

const STATES = {
  committing: "Receiving", queued: "Waiting", running: "Running", zipping: "Packing", completed: "Done", failed: "Failed", canceled: "Canceled",
  working: "Working", idle: "Idle", draining: "Draining", full: "Disk full", lost: "Lost",
};

export function state(value, words = STATES[value] ?? value) {
  return el("span", { class: `state ${value}` }, words);
}

export function note(words, bad = false) {
  return el("div", { class: bad ? "note bad" : "note", role: bad ? "alert" : "status" }, words);
}

// heads: names of columns; one that ends in "#" holds numbers, "" holds buttons. rows: the cells of each row as lists of children.
// On a narrow screen each row becomes a card, and cells carry the name of their column.
export function table(label, heads, rows) {
  const name = (head) => head.replace("#", "");
  const kind = (head) => (head.endsWith("#") ? "small number" : "");
  const head = el("tr", { role: "row" }, heads.map((h) => el("th", { scope: "col", role: "columnheader", class: kind(h) }, name(h) || el("span", { class: "visually-hidden" }, "Actions"))));
  const body = rows.map((cells) => el("tr", { role: "row" }, cells.map((cell, i) => el("td", { role: "cell", class: kind(heads[i]), "data-head": name(heads[i]) || null }, cell))));
  return el("section", { class: "card scroll", "aria-label": label, tabindex: 0 }, el("table", { role: "table" }, el("thead", { role: "rowgroup" }, head), el("tbody", { role: "rowgroup" }, body)));
}
