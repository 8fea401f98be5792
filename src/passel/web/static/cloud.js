// The point cloud in three dimensions: turn, move, zoom by mouse, fingers and keys; photo colours or heights.

import { get } from "./api.js";
import { OrbitCamera, unproject } from "./cloud_camera.js";
import { Painter } from "./cloud_painter.js";
import { CloudTree } from "./cloud_tree.js";
import { el, fill, note } from "./dom.js";
import { distance, listen } from "./gestures.js";

const HELP = "Drag to turn, drag with Shift, the right button or two fingers to move, wheel or pinch to zoom. Keys: arrows turn, with Shift they move, + and − zoom, T looks from above, 0 shows all. A double click looks closer at a place.";
const SLOW_MS = 70; // a frame that takes longer is drawn with fewer points while things move
const FEWEST = 200_000;

// The pane of the task's page. Nothing is fetched before `open()`.
export function cloudPane(uuid, still) {
  const element = el("div", { class: "stack" });
  let asked = false;
  return {
    element,
    async open() {
      if (asked) return;
      asked = true;
      fill(element, note("Fetching the point cloud…"));
      try {
        const about = await get(`/ui/api/tasks/${uuid}/cloud`, still);
        new CloudView(element, uuid, about, still);
      } catch (error) {
        asked = false; // it may be there when the tab is opened again
        if (!still.aborted) fill(element, note(`${error.message} It is among the files: QGIS and CloudCompare open it.`));
      }
    },
  };
}

class CloudView {
  constructor(element, uuid, about, still) {
    this.about = about;
    this.byHeight = !about.coloured;
    this.camera = new OrbitCamera();
    this.most = Math.min(screen.width, screen.height) < 600 ? 1_000_000 : 2_000_000;
    this.budget = this.most;
    this.canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": `Point cloud of ${count(about.points)} points. ${HELP}` });
    this.painter = new Painter(this.canvas);
    this.tree = new CloudTree(about, (...key) => `/ui/api/tasks/${uuid}/cloud/${key.join("/")}?of=${about.stamp}`, this.painter, () => this.redraw());
    this.reading = el("div", { class: "reading" });
    this.colours = [[false, "Colours"], [true, "Heights"]].map(([on, title]) => el("button", { "aria-pressed": on === this.byHeight, disabled: !on && !about.coloured, onclick: () => this.colour(on) }, title));
    const round = (label, sign, act) => el("button", { "aria-label": label, title: label, onclick: act }, sign);
    fill(element, el("div", { class: "map cloud" }, this.canvas,
      el("div", { class: "over left", role: "toolbar", "aria-label": "Point cloud" }, this.colours, el("button", { onclick: () => this.above() }, "From above")),
      el("div", { class: "over right" }, round("Zoom in", "+", () => this.zoom(1 / 1.5)), round("Zoom out", "−", () => this.zoom(1.5)), round("Show all", "⤢", () => this.all())),
      this.reading),
      el("p", { class: "small soft", style: "margin:0" }, HELP));
    this.listen();
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.close();
      fill(element, note("The graphics card gave up. Load this page again to see the point cloud."));
    });
    this.resizes = new ResizeObserver(() => this.resize());
    this.resizes.observe(this.canvas);
    still.addEventListener("abort", () => this.close(), { once: true });
  }

  close() {
    this.tree.close();
    this.resizes.disconnect();
    this.closed = true;
    this.painter.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  resize() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!width || !height || this.closed) return; // in a tab that is not open
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    this.painter.resize(Math.round(width * scale), Math.round(height * scale));
    if (!this.fitted) this.all();
    this.redraw();
  }

  all() {
    this.fitted = true;
    const { low_corner_m: low, high_corner_m: high, low_m, high_m } = this.about;
    this.camera.fit([low[0], low[1], low_m], [high[0], high[1], high_m], this.painter.size[0] / this.painter.size[1]);
    this.redraw();
  }

  above() {
    this.camera.yaw = 0;
    this.camera.turn(0, Math.PI);
    this.redraw();
  }

  zoom(factor) {
    this.camera.zoom(factor);
    this.moved();
  }

  colour(byHeight) {
    this.byHeight = byHeight;
    this.colours.forEach((b, i) => b.setAttribute("aria-pressed", Boolean(i) === byHeight));
    this.redraw();
  }

  // Something moves: on slow machines with fewer points, until it rests.
  moved() {
    this.moving = true;
    clearTimeout(this.resting);
    this.resting = setTimeout(() => { this.moving = false; this.redraw(); }, 250);
    this.redraw();
  }

  redraw() {
    if (this.asked || this.closed) return;
    this.asked = true;
    requestAnimationFrame((now) => {
      this.asked = false;
      if (!this.closed && this.painter.size[0]) this.draw(now);
    });
  }

  draw(now) {
    if (this.moving && this.drawnWhileMoving) {
      const took = now - this.drawnAt;
      if (took > SLOW_MS) this.budget = Math.max(FEWEST, this.budget * 0.7);
      else if (took < SLOW_MS / 3) this.budget = Math.min(this.most, this.budget * 1.15);
    }
    [this.drawnAt, this.drawnWhileMoving] = [now, this.moving];
    this.view = this.camera.see(...this.painter.size);
    this.nodes = this.tree.choose(this.camera, this.view, this.moving ? this.budget : this.most);
    const { low_m, high_m } = this.about;
    this.painter.draw(this.view, this.nodes, [low_m - this.camera.target[2], high_m - this.camera.target[2]], this.byHeight);
    const points = this.nodes.reduce((sum, n) => sum + n.stock.count, 0);
    this.reading.textContent = this.place ?? `${count(points)} of ${count(this.about.points)} points${this.tree.whole ? "" : " …"}`;
    this.canvas.dataset.state = this.tree.whole ? "whole" : "loading";
  }

  // The point under a place of the canvas (CSS pixels), in the map's projection; null over nothing.
  pick(x, y) {
    if (!this.nodes?.length) return null;
    const scale = this.painter.size[0] / this.canvas.clientWidth;
    const [px, py] = [Math.round(x * scale), this.painter.size[1] - 1 - Math.round(y * scale)];
    const depth = this.painter.depthAt(this.view, this.nodes, px, py);
    this.redraw();
    if (depth === null) return null;
    const at = unproject(this.camera, this.view, (2 * px) / this.view.width - 1, (2 * py) / this.view.height - 1, depth);
    return at.map((v, i) => v + this.camera.target[i]);
  }

  tell(x, y) {
    const at = this.pick(x, y);
    this.place = at ? `${at[0].toFixed(1)} E  ${at[1].toFixed(1)} N  ${at[2].toFixed(2)} m` : null;
  }

  closer(x, y) {
    const at = this.pick(x, y);
    if (!at) return;
    this.camera.target = at;
    this.zoom(0.4);
  }

  listen() {
    const { canvas } = this;
    listen(canvas, {
      drag: (now, before, event) => {
        const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
        if (event.shiftKey || event.buttons & 6) this.slide(dx, dy);
        else this.camera.turn(dx * 0.006, dy * 0.006);
        this.followed();
      },
      pinch: (now, before, other) => {
        this.pinch(now, before, other);
        this.followed();
      },
      click: (place) => this.tell(...place),
      wheel: (factor) => this.zoom(factor),
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", (event) => this.closer(event.offsetX, event.offsetY));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  followed() {
    this.place = null;
    this.moved();
  }

  slide(dx, dy) {
    this.camera.move(-dx / this.canvas.clientHeight, dy / this.canvas.clientHeight);
  }

  pinch(now, before, other) {
    const [was, is] = [distance(other, before), distance(other, now)];
    if (was > 0 && is > 0) this.camera.zoom(was / is);
    const turned = direction(other, now) - direction(other, before);
    this.camera.turn(Math.atan2(Math.sin(turned), Math.cos(turned)), 0);
    this.slide((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (step && event.shiftKey) this.camera.move(step[0] * 0.1, step[1] * 0.1);
    else if (step) this.camera.turn(-step[0] * 0.12, -step[1] * 0.08);
    else if (event.key === "+" || event.key === "=") this.camera.zoom(1 / 1.3);
    else if (event.key === "-") this.camera.zoom(1.3);
    else if (event.key === "t" || event.key === "T") this.above();
    else if (event.key === "0" || event.key === "Home") this.all();
    else return;
    event.preventDefault();
    this.moved();
  }
}

function direction(a, b) {
  return Math.atan2(b[1] - a[1], b[0] - a[0]);
}

function count(points) {
  if (points < 10_000) return String(points);
  return points < 1e6 ? `${Math.round(points / 1000)} thousand` : `${(points / 1e6).toFixed(1)} million`;
}
