// Photos and submodels of a split plan (GeoJSON, degrees) on a map in metres around their middle.

import { el } from "./dom.js";
import { MapView } from "./map_view.js";

const METRES_A_DEGREE = 111320;
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
  const lon0 = (Math.min(...points.map((p) => p[0])) + Math.max(...points.map((p) => p[0]))) / 2;
  const lat0 = (Math.min(...points.map((p) => p[1])) + Math.max(...points.map((p) => p[1]))) / 2;
  const metres = ([lon, lat]) => [(lon - lon0) * METRES_A_DEGREE * Math.cos((lat0 * Math.PI) / 180), (lat - lat0) * METRES_A_DEGREE];
  const names = [...new Set(features.map((f) => f.properties.submodel))];
  const hue = (name) => HUES[names.indexOf(name) % HUES.length];
  const photos = features.filter((f) => f.properties.kind === "photo").map((f) => ({ at: metres(f.geometry.coordinates), hue: hue(f.properties.submodel), foot: (f.properties.footprint ?? []).map(metres) }));
  const areas = features.filter((f) => f.properties.kind === "submodel").map((f) => ({ line: corners(f.geometry).map(metres), hue: hue(f.properties.submodel) }));
  const all = [...photos.map((p) => p.at), ...photos.flatMap((p) => p.foot)];
  const pad = 20;
  const box = { west: Math.min(...all.map((p) => p[0])) - pad, east: Math.max(...all.map((p) => p[0])) + pad, south: Math.min(...all.map((p) => p[1])) - pad, north: Math.max(...all.map((p) => p[1])) + pad, resolution_m: 0.05, levels: 1 };
  canvas.setAttribute("aria-label", `${photos.length} photo positions in ${names.length} submodel${names.length === 1 ? "" : "s"}`);
  view.drawings = [(c, v) => {
    for (const { line, hue: h } of areas) {
      trace(c, v, line);
      c.fillStyle = `hsl(${h} 60% 50% / .13)`;
      c.fill();
      c.strokeStyle = `hsl(${h} 60% 45% / .7)`;
      c.stroke();
    }
    for (const { foot, hue: h } of photos) {
      if (foot.length < 3) continue;
      trace(c, v, foot);
      c.strokeStyle = `hsl(${h} 50% 50% / .18)`;
      c.stroke();
    }
    const size = Math.max(1.5, Math.min(5, 60 / Math.sqrt(photos.length)));
    for (const { at, hue: h } of photos) {
      const [x, y] = v.toScreen(...at);
      c.beginPath();
      c.arc(x, y, size, 0, 7);
      c.fillStyle = `hsl(${h} 65% 45%)`;
      c.fill();
    }
  }];
  view.show(box, []);
}

function trace(c, v, line) {
  c.beginPath();
  line.forEach((p, i) => (i ? c.lineTo(...v.toScreen(...p)) : c.moveTo(...v.toScreen(...p))));
  c.closePath();
}

function corners(geometry) {
  if (geometry.type === "Point") return [geometry.coordinates];
  if (geometry.type === "Polygon") return geometry.coordinates[0];
  return geometry.coordinates.flat(geometry.type === "MultiPolygon" ? 2 : 0);
}
