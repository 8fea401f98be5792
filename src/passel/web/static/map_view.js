// A map on a canvas: raster tiles in the products' own projection, drawings over them; pan, zoom, pinch, keyboard.
// Coordinates are metres east and north of the products' projection throughout; only `toScreen` and `toMap` know pixels.

import { distance, listen } from "./gestures.js";

const TILE_PX = 256;
const MOST_KEPT = 400;
const MOST_LOADING = 8;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class MapView {
  // canvas: sized by its style. onMove(east, north) is called with the pointer's place, onClick likewise.
  constructor(canvas, { onMove, onClick } = {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.box = null;
    this.east = 0;
    this.north = 0;
    this.metresPerPx = 1;
    this.layers = []; // [{name, url(level, column, row), opacity}]
    this.swipe = null; // null, or the part of the width (0 … 1) left of which the first layer is, and right of it the second
    this.drawings = []; // functions (context, view)
    this.tiles = new Map();
    this.waiting = [];
    this.loading = 0;
    this.tileHeaders = {};
    this.onMove = onMove;
    this.onClick = onClick;
    this.listen();
    this.resizes = new ResizeObserver(() => this.resize());
    this.resizes.observe(canvas);
    this.resize();
  }

  close() {
    this.resizes.disconnect();
    this.waiting = [];
    this.tiles.clear();
  }

  // box: {west, south, east, north, resolution_m, levels}
  show(box, layers) {
    const first = this.box === null;
    this.box = box;
    this.layers = layers;
    this.tiles.clear();
    this.waiting = [];
    if (first) this.fit();
    this.redraw();
  }

  fit() {
    if (!this.box || !this.width) return;
    const { west, south, east, north } = this.box;
    this.east = (west + east) / 2;
    this.north = (south + north) / 2;
    this.metresPerPx = 1.08 * Math.max((east - west) / this.width, (north - south) / this.height, 1e-6);
    this.redraw();
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    if (!this.box) return;
    const [east, north] = this.toMap(x, y);
    const most = (4 * Math.max(this.box.east - this.box.west, this.box.north - this.box.south)) / Math.min(this.width, this.height);
    this.metresPerPx = Math.min(Math.max(this.metresPerPx * factor, this.box.resolution_m / 8), most);
    this.east = east - (x - this.width / 2) * this.metresPerPx;
    this.north = north + (y - this.height / 2) * this.metresPerPx;
    this.redraw();
  }

  pan(dx, dy) {
    this.east -= dx * this.metresPerPx;
    this.north += dy * this.metresPerPx;
    this.redraw();
  }

  toScreen(east, north) {
    return [this.width / 2 + (east - this.east) / this.metresPerPx, this.height / 2 - (north - this.north) / this.metresPerPx];
  }

  toMap(x, y) {
    return [this.east + (x - this.width / 2) * this.metresPerPx, this.north - (y - this.height / 2) * this.metresPerPx];
  }

  resize() {
    const scale = window.devicePixelRatio || 1;
    if (!this.canvas.clientWidth) return; // in a tab that is not open: what it showed stays
    const first = !this.width;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.height * scale);
    if (first) this.fit();
    this.redraw();
  }

  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const scale = window.devicePixelRatio || 1;
    const c = this.context;
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    this.waiting = [];
    if (this.box) {
      this.layers.forEach((layer, index) => this.drawLayer(layer, index));
      this.load();
      this.canvas.dataset.state = this.loading || this.waiting.length ? "loading" : "whole";
    }
    for (const drawing of this.drawings) {
      c.save();
      drawing(c, this);
      c.restore();
    }
    this.drawScale(c);
  }

  drawLayer(layer, index) {
    const c = this.context;
    c.save();
    c.globalAlpha = layer.opacity ?? 1;
    if (this.swipe !== null && this.layers.length > 1) {
      c.beginPath();
      if (index === 0) c.rect(0, 0, this.width * this.swipe, this.height);
      else c.rect(this.width * this.swipe, 0, this.width, this.height);
      c.clip();
    }
    const wanted = Math.floor(Math.log2(this.metresPerPx / this.box.resolution_m / (window.devicePixelRatio || 1) + 1e-9) + 0.6);
    const level = Math.min(Math.max(wanted, 0), this.box.levels - 1);
    // Coarser tiles stand in until all the right ones are here; then they go, for their rims are coarse as well.
    if (!this.isHere(layer, level)) for (let l = this.box.levels - 1; l > level; l--) this.drawLevel(layer, l, l === this.box.levels - 1);
    this.drawLevel(layer, level, true);
    c.restore();
  }

  isHere(layer, level) {
    const [columns, rows] = this.seen(level);
    for (let row = rows[0]; row <= rows[1]; row++) {
      for (let column = columns[0]; column <= columns[1]; column++) if (!this.tiles.get(layer.url(level, column, row))?.done) return false;
    }
    return true;
  }

  // The [first, last] columns and rows of the level's tiles that are in sight.
  seen(level) {
    const size = this.box.resolution_m * 2 ** level * TILE_PX;
    const [west, north] = this.toMap(0, 0);
    const [east, south] = this.toMap(this.width, this.height);
    const columns = [Math.max(0, Math.floor((west - this.box.west) / size)), Math.min(Math.ceil((this.box.east - this.box.west) / size) - 1, Math.floor((east - this.box.west) / size))];
    const rows = [Math.max(0, Math.floor((this.box.north - north) / size)), Math.min(Math.ceil((this.box.north - this.box.south) / size) - 1, Math.floor((this.box.north - south) / size))];
    return [columns, rows];
  }

  drawLevel(layer, level, fetch) {
    const size = this.box.resolution_m * 2 ** level * TILE_PX;
    const [columns, rows] = this.seen(level);
    for (let row = rows[0]; row <= rows[1]; row++) {
      for (let column = columns[0]; column <= columns[1]; column++) {
        const image = this.tile(layer, level, column, row, fetch);
        if (!image) continue;
        const [x, y] = this.toScreen(this.box.west + column * size, this.box.north - row * size);
        const px = size / this.metresPerPx;
        this.context.imageSmoothingEnabled = px < 2 * TILE_PX * (window.devicePixelRatio || 1);
        this.context.drawImage(image, x, y, px + 0.5, px + 0.5);
      }
    }
  }

  // The tile's image when it is here; else it is put on the list to be loaded.
  tile(layer, level, column, row, fetch) {
    const url = layer.url(level, column, row);
    const known = this.tiles.get(url);
    if (known) {
      this.tiles.delete(url); // the youngest last: the oldest go first
      this.tiles.set(url, known);
      return known.image;
    }
    if (fetch) this.waiting.push({ url, level });
    return null;
  }

  load() {
    this.waiting.sort((a, b) => b.level - a.level);
    while (this.loading < MOST_LOADING && this.waiting.length) {
      const { url } = this.waiting.shift();
      const entry = { image: null, done: false };
      this.tiles.set(url, entry);
      this.loading++;
      fetch(url, { headers: this.tileHeaders })
        .then((answer) => (answer.status === 200 ? answer.blob().then(createImageBitmap) : null))
        .then((image) => Object.assign(entry, { image, done: true }))
        .catch(() => this.tiles.delete(url))
        .finally(() => {
          this.loading--;
          this.redraw();
        });
    }
    while (this.tiles.size > MOST_KEPT) this.tiles.delete(this.tiles.keys().next().value);
  }

  drawScale(c) {
    if (!this.box) return;
    const most = Math.min(160, this.width / 3) * this.metresPerPx;
    const unit = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((n) => n * unit).find((n) => n <= most) ?? unit;
    const px = length / this.metresPerPx;
    const label = length >= 1000 ? `${length / 1000} km` : length >= 1 ? `${length} m` : `${Math.round(length * 100)} cm`;
    c.font = "12px system-ui, sans-serif";
    for (const [colour, width] of [["rgba(255,255,255,.9)", 4], ["#1b2733", 1.5]]) {
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.beginPath();
      c.moveTo(16, this.height - 22);
      c.lineTo(16, this.height - 16);
      c.lineTo(16 + px, this.height - 16);
      c.lineTo(16 + px, this.height - 22);
      c.stroke();
    }
    c.lineWidth = 3;
    c.strokeStyle = "rgba(255,255,255,.9)";
    c.strokeText(label, 22, this.height - 24);
    c.fillStyle = "#1b2733";
    c.fillText(label, 22, this.height - 24);
  }

  listen() {
    const { canvas } = this;
    listen(canvas, {
      drag: (now, before) => this.pan(now[0] - before[0], now[1] - before[1]),
      pinch: (now, before, other) => this.pinch(now, before, other),
      click: (place) => this.onClick?.(...this.toMap(...place)),
      hover: (place) => this.onMove?.(...this.toMap(...place)),
      wheel: (factor, place) => this.zoom(factor, ...place),
    });
    canvas.addEventListener("keydown", (event) => {
      const step = KEYS[event.key];
      if (step) this.pan(-step[0] * 60, step[1] * 60);
      else if (event.key === "+" || event.key === "=") this.zoom(1 / 1.5);
      else if (event.key === "-") this.zoom(1.5);
      else if (event.key === "0" || event.key === "Home") this.fit();
      else if (event.key === "Enter") this.onClick?.(this.east, this.north);
      else return;
      event.preventDefault();
    });
  }

  pinch(now, before, other) {
    const [was, is] = [distance(other, before), distance(other, now)];
    this.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    if (was > 0 && is > 0) this.zoom(was / is, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
}

export function lengthOf(line) {
  let sum = 0;
  for (let i = 1; i < line.length; i++) sum += distance(line[i - 1], line[i]);
  return sum;
}

// Area of the closed polygon in square metres.
export function areaOf(corners) {
  let sum = 0;
  corners.forEach(([x, y], i) => {
    const [u, v] = corners[(i + 1) % corners.length];
    sum += x * v - u * y;
  });
  return Math.abs(sum) / 2;
}
