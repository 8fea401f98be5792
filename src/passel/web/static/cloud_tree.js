// Which nodes of the cloud's octree are shown: those in sight, large ones on the screen first, until there are enough points.
// Each node adds points to those of its parents. What is missing is fetched, the most needed first.

import { headers, reach } from "./api.js";
import { inSight } from "./cloud_camera.js";

const MOST_LOADING = 6;
const FINE_ENOUGH_PX = 1.2; // points this close together on the screen are not told apart
const AGAIN_MS = 3000;

export class CloudTree {
  // about: what the server tells of the cloud. url(level, x, y, z): of a node. onNews: called when a node has come.
  constructor(about, url, painter, onNews) {
    Object.assign(this, { about, url, painter, onNews, loading: 0, held: 0, closed: false, turn: 0 });
    this.nodes = new Map(about.nodes.map(([level, x, y, z, count]) => [`${level}/${x}/${y}/${z}`, { level, x, y, z, count, stock: null, asked: false, after: 0 }]));
    this.abort = new AbortController();
    for (const node of this.nodes.values()) this.place(node);
    for (const node of this.nodes.values()) this.nodes.get(`${node.level - 1}/${node.x >> 1}/${node.y >> 1}/${node.z >> 1}`)?.children.push(node);
    this.roots = [...this.nodes.values()].filter((n) => n.level === 0);
  }

  close() {
    this.closed = true;
    this.abort.abort();
  }

  place(node) {
    const { centre_m, halfsize_m, spacing_m } = this.about;
    node.children = [];
    node.side = (2 * halfsize_m) / 2 ** node.level;
    node.low = centre_m.map((c, i) => c - halfsize_m + node.side * [node.x, node.y, node.z][i]);
    node.spacing = spacing_m / 2 ** node.level;
    // Points lie on a surface, so a node without children, which holds all of its own, may be denser than its level.
    node.size = 1.5 * Math.min(node.spacing, node.side / Math.sqrt(node.count));
  }

  // The nodes to draw now, relative to the camera's target; asks for those that are missing.
  choose(camera, view, budget) {
    this.turn++;
    const eye = camera.eye;
    const waiting = [];
    const weigh = (node) => {
      const low = node.low.map((v, i) => v - camera.target[i]);
      const middle = low.map((v) => v + node.side / 2);
      const radius = node.side * 0.87;
      if (!inSight(view.matrix, middle, radius)) return;
      const off = Math.max(Math.hypot(...middle.map((v, i) => v - eye[i])) - radius, view.near);
      waiting.push({ node, low, weight: (node.side * view.scale) / off, gap: (node.spacing * view.scale) / off });
    };
    this.roots.forEach(weigh);
    const [shown, missing] = [[], []];
    for (let points = 0; waiting.length; ) {
      const best = takeLargest(waiting);
      const { node, low, gap } = best;
      if ((points += node.count) > budget && shown.length + missing.length) break;
      node.turn = this.turn;
      if (node.stock) shown.push({ low, side: node.side, size: node.size, stock: node.stock, node });
      else missing.push(node);
      if (gap > FINE_ENOUGH_PX) node.children.forEach(weigh);
    }
    this.whole = missing.length === 0;
    this.sharpen(shown);
    this.fetch(missing);
    this.forget(2 * budget);
    return shown;
  }

  // Points of a coarse node are about as large as the finer ones that are drawn in the same place.
  sharpen(shown) {
    for (const item of shown) item.node.drawn = item.size;
    for (const item of [...shown].sort((a, b) => b.node.level - a.node.level)) {
      const finer = item.node.children.filter((c) => c.turn === this.turn && c.stock).map((c) => c.drawn);
      if (2 * finer.length >= item.node.children.length && finer.length) item.size = item.node.drawn = Math.min(item.size, 1.2 * Math.min(...finer));
    }
  }

  // Goes on by itself when something has come: a slow machine draws less often than it could fetch.
  fetch(missing) {
    this.missing = missing;
    const now = performance.now();
    for (const node of missing) {
      if (this.loading >= MOST_LOADING || this.closed) return;
      if (node.asked || node.stock || node.after > now) continue;
      node.asked = true;
      this.loading++;
      this.load(node).catch(() => { node.after = performance.now() + AGAIN_MS; setTimeout(this.onNews, AGAIN_MS + 50); }).finally(() => {
        node.asked = false;
        this.loading--;
        if (this.closed) return;
        this.fetch(this.missing);
        this.onNews();
      });
    }
  }

  async load(node) {
    const answer = await reach(this.url(node.level, node.x, node.y, node.z), { headers: headers(), signal: this.abort.signal });
    if (!answer.ok || answer.headers.get("content-type") !== "application/octet-stream") throw new Error("This part did not come");
    const packed = await answer.arrayBuffer();
    if (this.closed) return;
    node.stock = this.painter.take(packed);
    this.held += node.stock.count;
  }

  // Gives back what has not been seen for longest.
  forget(most) {
    if (this.held <= most) return;
    const old = [...this.nodes.values()].filter((n) => n.stock && n.turn !== this.turn).sort((a, b) => a.turn - b.turn);
    for (const node of old) {
      if (this.held <= most) return;
      this.held -= node.stock.count;
      this.painter.drop(node.stock);
      node.stock = null;
    }
  }
}

function takeLargest(list) {
  let best = 0;
  for (let i = 1; i < list.length; i++) if (list[i].weight > list[best].weight) best = i;
  const found = list[best];
  list[best] = list[list.length - 1];
  list.pop();
  return found;
}
