// Photos and submodels of a split plan (GeoJSON, degrees) on a map in metres around their middle.

import { el } from "./dom.js";
import { MapView } from "./map_view.js";

const METRES_A_DEGREE = 111320;
const PAD_M = 10;
const MOST_OUTLINES = 500; // more photos in sight would be a blot, and slow: zoom in to see the outlines
const HUES = [168, 28, 220, 330, 80, 265, 5, 195, 50, 300];

export function surveyMap(still) {
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": "Photo positions and submodels" });
  const words = el("p", { class: "small soft" });
  const element = el("div", { class: "stack", style: "gap:6px" }, el("div", { class: "map", style: "height:380px" }, canvas), words);
  let view = null;
  return {
    element,
    show(plan) {
      const features = plan.features.filter((f) => f.geometry);
      if (!features.length) {
        element.hidden = true;
        return;
      }
      view ??= new MapView(canvas);
      still.addEventListener("abort", () => view.close(), { once: true });
      draw(view, features, canvas, words);
    },
  };
}

function draw(view, features, canvas, words) {
  const points = features.flatMap((f) => corners(f.geometry));
  const [[west, east], [south, north]] = extent(points);
  const [lon0, lat0] = [(west + east) / 2, (south + north) / 2];
  const metres = ([lon, lat]) => [(lon - lon0) * METRES_A_DEGREE * Math.cos((lat0 * Math.PI) / 180), (lat - lat0) * METRES_A_DEGREE];
  const names = [...new Set(features.map((f) => f.properties.submodel))];
  const hue = (name) => HUES[names.indexOf(name) % HUES.length];
  const photos = features.filter((f) => f.properties.kind === "photo").map((f) => ({ at: metres(f.geometry.coordinates), hue: hue(f.properties.submodel), foot: (f.properties.footprint ?? []).map(metres) }));
  const areas = features.filter((f) => f.properties.kind === "submodel").map((f) => ({ line: corners(f.geometry).map(metres), hue: hue(f.properties.submodel) }));
  const all = [...photos.map((p) => p.at), ...photos.flatMap((p) => p.foot)];
  const [[left, right], [bottom, top]] = extent(all);
  const box = { west: left - PAD_M, east: right + PAD_M, south: bottom - PAD_M, north: top + PAD_M, resolution_m: 0.05, levels: 1 };
  const counted = `${photos.length} photo positions in ${names.length} submodel${names.length === 1 ? "" : "s, a colour each"}.`;
  canvas.setAttribute("aria-label", counted);
  words.textContent = photos.length > MOST_OUTLINES ? `${counted} Zoom in to see what each photo shows.` : photos.some((p) => p.foot.length) ? `${counted} A frame is what a photo shows of flat ground.` : counted;
  view.drawings = [(c, v) => {
    for (const { line, hue: h } of areas) {
      trace(c, v, line);
      c.fillStyle = `hsl(${h} 60% 50% / .13)`;
      c.fill();
      c.strokeStyle = `hsl(${h} 60% 45% / .7)`;
      c.stroke();
    }
    const seen = photos.filter((p) => inView(v, p.at));
    if (seen.length <= MOST_OUTLINES) {
      for (const { foot, hue: h } of seen) {
        trace(c, v, foot);
        c.strokeStyle = `hsl(${h} 55% 45% / .4)`;
        c.stroke();
      }
    }
    const size = Math.max(2, Math.min(9, 120 / Math.sqrt(seen.length + 1)));
    let colour = null;
    for (const { at, hue: h } of seen) {
      const [x, y] = v.toScreen(...at);
      if (h !== colour) c.fillStyle = `hsl(${(colour = h)} 65% 42%)`; // reading a colour costs more than drawing a point
      if (size < 4) {
        c.fillRect(x - size / 2, y - size / 2, size, size);
        continue;
      }
      c.beginPath();
      c.arc(x, y, size / 2, 0, 7);
      c.fill();
    }
  }];
  view.show(box, []);
}

function inView(v, at) {
  const [x, y] = v.toScreen(...at);
  return x > -20 && y > -20 && x < v.width + 20 && y < v.height + 20;
}

function trace(c, v, line) {
  c.beginPath();
  if (!line.length) return;
  line.forEach((p, i) => (i ? c.lineTo(...v.toScreen(...p)) : c.moveTo(...v.toScreen(...p))));
  c.closePath();
}

function corners(geometry) {
  if (geometry.type === "Point") return [geometry.coordinates];
  if (geometry.type === "Polygon") return geometry.coordinates[0];
  return geometry.coordinates.flat(geometry.type === "MultiPolygon" ? 2 : 0);
}

// [[least, most] of the first coordinate, the same of the second]; `Math.min(...)` would not take a hundred thousand.
function extent(points) {
  return [0, 1].map((i) => points.reduce(([least, most], p) => [Math.min(least, p[i]), Math.max(most, p[i])], [Infinity, -Infinity]));
}
