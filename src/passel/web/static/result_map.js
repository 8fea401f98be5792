// The finished map: layers, swipe between two, heights, distances, areas, profiles.

import { get, headers } from "./api.js";
import { el, fill, say } from "./dom.js";
import { MapView, areaOf, lengthOf } from "./map_view.js";

const TITLES = { orthophoto: "Orthophoto", dsm: "Surface", dtm: "Terrain" };
const HELP = "Drag or arrow keys move the map, wheel, + and − zoom, 0 shows all of it. A click tells the height.";

export function resultMap(uuid, box, still) {
  return new ResultMap(uuid, box, still).element;
}

class ResultMap {
  constructor(uuid, box, still) {
    Object.assign(this, { uuid, box, still, mode: "", corners: [], layer: box.layers[0].name });
    this.canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": `Map. ${HELP}` });
    this.reading = el("div", { class: "reading", hidden: true });
    this.curtain = el("div", { class: "swipe", hidden: true });
    this.swiper = el("input", { type: "range", min: 0, max: 100, value: 50, class: "swiper", "aria-label": "Where the two layers meet", hidden: true, oninput: () => this.swipe() });
    this.result = el("div", { class: "card", hidden: true });
    this.layerButtons = box.layers.map(({ name }) => el("button", { "aria-pressed": name === this.layer, "data-layer": name, onclick: () => this.choose(name) }, TITLES[name] ?? name));
    this.both = box.layers.length > 1 ? el("button", { "aria-pressed": false, onclick: () => this.toggleSwipe() }, "Swipe") : null;
    this.tools = [["distance", "Distance"], ["area", "Area"], ["profile", "Profile"]]
      .filter(([name]) => name !== "profile" || this.heights)
      .map(([name, title]) => el("button", { "aria-pressed": false, "data-tool": name, onclick: () => this.measure(name) }, title));
    this.element = el("div", { class: "stack" },
      el("div", { class: "map" }, this.canvas, this.curtain,
        el("div", { class: "over left", role: "toolbar", "aria-label": "Layers and measuring" }, this.layerButtons, this.both, this.tools),
        el("div", { class: "over right" }, el("button", { "aria-label": "Zoom in", onclick: () => this.view.zoom(1 / 1.6) }, "+"), el("button", { "aria-label": "Zoom out", onclick: () => this.view.zoom(1.6) }, "−"), el("button", { "aria-label": "Show all", onclick: () => this.view.fit() }, "⤢")),
        this.reading),
      this.swiper, this.result, el("p", { class: "small soft", style: "margin:0" }, `${HELP} ${box.crs}, ${(100 * box.resolution_m).toFixed(1)} cm a pixel.`));
    this.view = new MapView(this.canvas, { onMove: (e, n) => this.read(e, n), onClick: (e, n) => this.click(e, n) });
    this.view.drawings.push((c, v) => this.drawLine(c, v));
    this.view.tileHeaders = headers();
    still.addEventListener("abort", () => this.view.close());
    this.show();
  }

  get heights() { return this.box.layers.find((l) => l.name !== "orthophoto")?.name; }

  tileLayer(name) {
    return { name, url: (level, column, row) => `/ui/api/tasks/${this.uuid}/tiles/${name}/${level}/${column}/${row}?of=${this.box.stamp}` };
  }

  choose(name) {
    this.layer = name;
    for (const b of this.layerButtons) b.setAttribute("aria-pressed", b.dataset.layer === name);
    this.show();
  }

  // With the curtain up, the chosen layer is on the left and the other on the right.
  show() {
    const other = this.box.layers.map((l) => l.name).find((n) => n !== this.layer);
    const names = this.view.swipe !== null && other ? [this.layer, other] : [this.layer];
    this.view.show(this.box, names.map((n) => this.tileLayer(n)));
  }

  toggleSwipe() {
    const on = this.view.swipe === null;
    this.both.setAttribute("aria-pressed", on);
    this.view.swipe = on ? 0.5 : null;
    this.swiper.hidden = this.curtain.hidden = !on;
    this.swiper.value = 50;
    this.show();
    if (on) this.swipe();
  }

  swipe() {
    this.view.swipe = this.swiper.value / 100;
    this.curtain.style.left = `${this.swiper.value}%`;
    this.view.redraw();
  }

  read(east, north) {
    this.pointer = [east, north];
    if (this.mode && this.corners.length) this.view.redraw();
    // A hand that trembles does not wipe the height away.
    if (this.told && Math.hypot(east - this.told[0], north - this.told[1]) < 8 * this.view.metresPerPx) return;
    this.told = null;
    this.reading.hidden = false;
    this.reading.textContent = `${east.toFixed(1)} E  ${north.toFixed(1)} N`;
  }

  measure(mode) {
    this.mode = this.mode === mode ? "" : mode;
    this.corners = [];
    for (const b of this.tools) b.setAttribute("aria-pressed", b.dataset.tool === this.mode);
    this.result.hidden = !this.mode;
    fill(this.result, el("p", { class: "soft", style: "margin:0" }, "Click points on the map, or move it and press Enter for its middle."));
    this.view.redraw();
  }

  restart() {
    const { mode } = this;
    this.mode = "";
    this.measure(mode);
  }

  // The height of a place, while nothing is measured.
  async tellHeight(east, north) {
    if (!this.heights) return;
    const line = JSON.stringify([[east, north], [east + this.box.resolution_m, north]].map((p) => p.map((v) => Number(v.toFixed(3)))));
    const points = await get(`/ui/api/tasks/${this.uuid}/profile?layer=${this.heights}&line=${encodeURIComponent(line)}`, this.still).catch(() => []);
    const known = points.find(([, z]) => z !== null);
    const words = `${east.toFixed(1)} E  ${north.toFixed(1)} N  ${known ? `${known[1].toFixed(2)} m` : "no height"}`;
    this.told = [east, north];
    this.reading.hidden = false;
    this.reading.textContent = words;
    say(words);
  }

  async click(east, north) {
    if (!this.mode) return this.tellHeight(east, north);
    this.corners.push([east, north]);
    this.view.redraw();
    if (this.corners.length < 2) return;
    const words = this.mode === "area" ? areaWords(this.corners) : `${metres(lengthOf(this.corners))} in ${this.corners.length - 1} line${this.corners.length > 2 ? "s" : ""}`;
    say(words);
    fill(this.result, el("div", { class: "row" }, el("strong", {}, words), el("button", { onclick: () => this.restart() }, "Clear")));
    if (this.mode === "profile") await this.profile(words);
  }

  async profile(words) {
    const line = this.corners.map(([e, n]) => [Number(e.toFixed(3)), Number(n.toFixed(3))]);
    const points = await get(`/ui/api/tasks/${this.uuid}/profile?layer=${this.heights}&line=${encodeURIComponent(JSON.stringify(line))}`, this.still).catch(() => []);
    const known = points.filter(([, z]) => z !== null);
    if (!known.length) {
      fill(this.result, el("strong", {}, words), el("p", {}, "No heights along this line."));
      return;
    }
    const low = Math.min(...known.map((p) => p[1]));
    const high = Math.max(...known.map((p) => p[1]));
    fill(this.result, el("strong", {}, `${words}, ${low.toFixed(2)} to ${high.toFixed(2)} m`), profileChart(points, low, high));
  }

  drawLine(c, v) {
    if (!this.mode || !this.corners.length) return;
    const line = this.pointer && this.mode !== "" ? [...this.corners, this.pointer] : this.corners;
    for (const [colour, width] of [["#000a", 5], ["#ffd84d", 2.5]]) {
      c.beginPath();
      line.forEach((p, i) => (i ? c.lineTo(...v.toScreen(...p)) : c.moveTo(...v.toScreen(...p))));
      if (this.mode === "area") c.closePath();
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.stroke();
    }
    for (const p of this.corners) {
      c.beginPath();
      c.arc(...v.toScreen(...p), 5, 0, 7);
      c.fillStyle = "#ffd84d";
      c.fill();
      c.lineWidth = 1.5;
      c.strokeStyle = "#000a";
      c.stroke();
    }
  }
}

function metres(length) {
  return length < 1000 ? `${length.toFixed(2)} m` : `${(length / 1000).toFixed(3)} km`;
}

function areaWords(corners) {
  if (corners.length < 3) return "an area needs three points";
  const area = areaOf(corners);
  return area < 10000 ? `${area.toFixed(1)} m²` : `${(area / 10000).toFixed(3)} ha`;
}

function profileChart(points, low, high) {
  const NS = "http://www.w3.org/2000/svg";
  const [width, height] = [800, 180];
  const long = points.at(-1)[0] || 1;
  const span = Math.max(high - low, 0.1);
  let path = "";
  let down = false;
  for (const [d, z] of points) {
    if (z === null) { down = false; continue; }
    path += `${down ? "L" : "M"}${((d / long) * width).toFixed(1)} ${(height - 10 - ((z - low) / span) * (height - 20)).toFixed(1)}`;
    down = true;
  }
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("style", "width:100%;height:auto;margin-top:8px");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Heights from ${low.toFixed(2)} to ${high.toFixed(2)} metres over ${long.toFixed(1)} metres`);
  const line = document.createElementNS(NS, "path");
  line.setAttribute("d", path);
  line.setAttribute("style", "fill:none;stroke:var(--accent);stroke-width:2");
  svg.append(line);
  return svg;
}
