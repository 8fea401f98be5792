// The ground tiles as squares that fill as they are done: the map's shape appears long before the map.

import { el } from "./dom.js";

const CELL = 14;

export function tileBoard() {
  const canvas = el("canvas", { role: "img", "aria-label": "Ground tiles", style: "display:block;max-width:100%;margin:0 auto" });
  const words = el("p", { class: "small soft", style: "margin:8px 0 0" });
  const element = el("section", { class: "card", hidden: true }, el("h2", {}, "Map tiles"), canvas, words);
  const tiles = new Map();
  let news = false;
  return {
    element,
    note(steps) {
      for (const step of steps) {
        const place = /^x(-?\d+)_y(-?\d+)$/.exec(step.name);
        if (!place || tiles.get(step.name)?.state === step.state) continue;
        tiles.set(step.name, { x: Number(place[1]), y: Number(place[2]), state: step.state, machine: step.machine });
        news = true;
      }
    },
    show() {
      if (news) draw();
      news = false;
    },
  };

  function draw() {
    const all = [...tiles.values()];
    const west = Math.min(...all.map((t) => t.x));
    const south = Math.min(...all.map((t) => t.y));
    const columns = Math.max(...all.map((t) => t.x)) - west + 1;
    const rows = Math.max(...all.map((t) => t.y)) - south + 1;
    const scale = window.devicePixelRatio || 1;
    const cell = Math.max(3, Math.min(CELL * 3, Math.floor(640 / Math.max(columns, rows, 8))));
    canvas.width = columns * cell * scale;
    canvas.height = rows * cell * scale;
    canvas.style.width = `${columns * cell}px`;
    const c = canvas.getContext("2d");
    c.scale(scale, scale);
    const machines = [...new Set(all.map((t) => t.machine))].sort();
    for (const t of all) {
      const hue = 168 + 67 * machines.indexOf(t.machine);
      c.fillStyle = t.state === "failed" ? "#c0392b" : `hsl(${hue} 45% 45%)`;
      c.fillRect((t.x - west) * cell, (rows - 1 - (t.y - south)) * cell, cell - 1, cell - 1);
    }
    element.hidden = false;
    words.textContent = `${all.length} done${machines.length > 1 ? ` by ${machines.length} machines, a colour each` : ""}.`;
    canvas.setAttribute("aria-label", `${all.length} ground tiles done`);
  }
}
