// Photos and submodels of a split plan (GeoJSON, degrees) on a map in metres around their middle.

import { el } from "./dom.js";
import { MapView } from "./map_view.js";

const METRES_A_DEGREE = 111320;
const PAD_M = 10;
const HUES = [168, 28, 220, 330, 80, 265, 5, 195, 50, 300];

export function surveyMap(still) {
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": "Photo positions and submodels" });
  const element = el("div", { class: "map", style: "height:380px" }, canvas);
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
      draw(view, features, canvas);
    },
  };
}

function draw(view, features, canvas) {
  const points = features.flatMap((f) => corners(f.geometry));
  const [[west, east], [south, north]] = extent(points);
  const [lon0, lat0] = [(west + east) / 2, (south + north) / 2];
  const metres = ([lon, lat]) => [(lon - lon0) * METRES_A_DEGREE * Math.cos((lat0 * Math.PI) / 180), (lat - lat0) * METRES_A_DEGREE];
  const names = [...new Set(features.map((f) => f.properties.submodel))];
  const hue = (name) => HUES[names.indexOf(name) % HUES.length];
  const photos = features.filter((f) => f.properties.kind === "photo").map((f) => ({ at: metres(f.geometry.coordinates), hue: hue(f.properties.submodel), foot: (f.properties.footprint ?? []).map(metres) }));
  const areas = features.filter((f) => f.properties.kind === "submodel").map((f) => ({ line: corners(f.geometry).map(metres), hue: hue(f.properties.submodel) }));
  const byHue = new Map(photos.map((p) => [p.hue, []]));
  for (const photo of photos) byHue.get(photo.hue).push(photo);
  const all = [...photos.map((p) => p.at), ...photos.flatMap((p) => p.foot)];
  const [[left, right], [bottom, top]] = extent(all);
  const box = { west: left - PAD_M, east: right + PAD_M, south: bottom - PAD_M, north: top + PAD_M, resolution_m: 0.05, levels: 1 };
  canvas.setAttribute("aria-label", `${photos.length} photo positions in ${names.length} submodel${names.length === 1 ? "" : "s"}`);
  view.drawings = [(c, v) => {
    for (const { line, hue: h } of areas) {
      trace(c, v, line);
      c.fillStyle = `hsl(${h} 60% 50% / .13)`;
      c.fill();
      c.strokeStyle = `hsl(${h} 60% 45% / .7)`;
      c.stroke();
    }
    for (const [h, own] of byHue) {
      c.beginPath();
      for (const { foot } of own) outline(c, v, foot);
      c.strokeStyle = `hsl(${h} 55% 45% / ${own.length > 300 ? 0.25 : 0.45})`;
      c.stroke();
    }
    const size = Math.max(1.5, Math.min(5, 60 / Math.sqrt(photos.length)));
    for (const [h, own] of byHue) {
      c.beginPath();
      for (const { at } of own) {
        const [x, y] = v.toScreen(...at);
        c.moveTo(x + size, y);
        c.arc(x, y, size, 0, 7);
      }
      c.fillStyle = `hsl(${h} 65% 42%)`;
      c.fill();
    }
  }];
  view.show(box, []);
}

function trace(c, v, line) {
  c.beginPath();
  outline(c, v, line);
}

function outline(c, v, line) {
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
