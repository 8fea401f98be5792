// One map: while it is made (stages, tiles, log), and when it is there (map, report, downloads).

import { Away, WrongToken, get, headers, link, poll, post } from "./api.js";
import { cloudPane } from "./cloud.js";
import { bar, bytes, day, duration, el, fill, note, say, state } from "./dom.js";
import { resultMap } from "./result_map.js";
import { loadPicture } from "./tasks.js";
import { tileBoard } from "./tile_board.js";

const BUSY = ["committing", "queued", "running", "zipping"];
const DOWNLOADS = [
  ["all.zip", "Everything", "one archive, as OpenDroneMap lays it out"],
  ["orthophoto.tif", "Orthophoto", "GeoTIFF (COG)"],
  ["dsm.tif", "Surface model", "GeoTIFF (COG)"],
  ["dtm.tif", "Terrain model", "GeoTIFF (COG)"],
  ["georeferenced_model.laz", "Point cloud", "LAZ (COPC)"],
  ["report.html", "Report", "HTML"],
  ["shots.geojson", "Camera positions", "GeoJSON"],
];

export async function taskPage(main, still, uuid) {
  const page = new TaskPage(main, still, uuid);
  try {
    await poll(() => page.look(), 1500, still);
  } catch (error) {
    if (!error.message?.includes("not found")) throw error;
    document.title = "No such map · Passel";
    fill(main, el("div", { class: "card empty" }, el("h1", {}, "No such map"), el("p", { class: "soft" }, "It was deleted or cleaned up, or it is another token's."), el("a", { class: "button", href: "#/" }, "All maps")));
  }
}

class TaskPage {
  constructor(main, still, uuid) {
    Object.assign(this, { still, uuid, shown: null, stepsMark: "" });
    this.head = el("div");
    this.trouble = el("div");
    this.body = el("div", { class: "stack" });
    fill(main, this.head, this.trouble, this.body);
    this.board = tileBoard();
    this.log = el("pre", { class: "log", tabindex: 0, "aria-label": "Log" });
    this.stages = el("div");
    this.picture = el("div", { class: "thumb", style: "border-radius:12px" });
  }

  async look() {
    const task = await get(`/ui/api/tasks/${this.uuid}?steps=${this.stepsMark}`, this.still);
    this.stepsMark = task.steps_mark;
    this.board.note(task.steps);
    document.title = `${task.name} · Passel`;
    this.showHead(task);
    const busy = BUSY.includes(task.state);
    const kind = busy ? "busy" : task.state;
    if (kind !== this.shown) {
      if (this.shown === "busy") say(`${task.name}: ${task.state}`);
      if (busy) this.layOutBusy();
      else await this.layOutEnd(task);
      this.shown = kind;
    }
    if (busy) this.showBusy(task);
    else this.showLog(task);
    return "";
  }

  showHead(task) {
    const key = JSON.stringify([task.state, task.name, task.rest_s && Math.round(task.rest_s), task.imagesCount]);
    if (key === this.headKey) return;
    this.headKey = key;
    const left = task.state === "running" && task.rest_s !== null ? ` · ${duration(task.rest_s)} left` : "";
    const took = task.state === "completed" ? ` · made in ${duration(task.processingTime / 1000)}` : "";
    const act = (words, action, ask, kind = "") => el("button", { class: kind, onclick: () => this.act(action, ask) }, words);
    const buttons = BUSY.includes(task.state) ? [act("Cancel", "cancel", "Stop making this map? What is finished is kept.")] : [this.again = act("Run again", "restart"), act("Delete", "remove", `Delete ${task.name} and all its files?`, "danger")];
    fill(this.head, el("div", { class: "head" },
      el("div", { class: "stack", style: "gap:6px" }, el("h1", {}, task.name), el("div", { class: "row small soft" }, state(task.state), `${task.imagesCount} photo${task.imagesCount === 1 ? "" : "s"} · ${day(task.dateCreated)}${left}${took}`)),
      el("div", { class: "row" }, buttons)));
  }

  async act(action, ask) {
    if (ask && !window.confirm(ask)) return;
    try {
      await post(`/task/${action}`, { uuid: this.uuid });
      if (action === "remove") location.hash = "#/";
      fill(this.trouble);
    } catch (error) {
      fill(this.trouble, note(error.message, true));
    }
  }

  layOutBusy() {
    fill(this.body, el("div", { class: "columns" },
      el("div", { class: "stack" }, el("section", { class: "card", "aria-label": "Progress" }, this.stages), this.board.element,
        el("section", { class: "card" }, el("h2", {}, "Log"), this.log)),
      el("div", { class: "stack" }, el("section", { class: "card stack" }, el("h2", {}, "First look"), this.picture, this.pictureWords = el("p", { class: "small soft", style: "margin:0" }, "A coarse picture appears as soon as the cameras are found.")))));
    this.pictureOf = "";
  }

  showBusy(task) {
    const rows = task.stages.map((s) => el("div", { class: "stage" }, el("span", {}, s.stage), bar(s.total ? (100 * s.done) / s.total : 0, s.stage),
      el("span", {}, `${s.done} / ${s.total}`, s.failed ? ` · ${s.failed} failed` : s.done < s.total && s.rest_s !== null ? ` · ${duration(s.rest_s)}` : "")));
    fill(this.stages, el("div", { class: "row", style: "justify-content:space-between;margin-bottom:8px" }, el("h2", { style: "margin:0" }, "Progress"), el("strong", {}, `${Math.round(task.progress)} %`)),
      bar(task.progress, "All"), el("div", { style: "margin-top:12px" }, rows.length ? rows : el("p", { class: "soft small" }, task.state === "queued" ? "It starts when it is its turn." : task.progress > 0 ? "The log tells how far it is." : "Starting…")));
    this.board.show();
    const best = ["first", "plan"].find((p) => task.pictures.includes(p)) ?? "";
    if (best && best !== this.pictureOf) {
      this.pictureOf = best;
      this.pictureWords.textContent = best === "plan" ? "Where the photos were taken. A coarse picture follows when the cameras are found." : "From the cameras and a coarse surface; the map itself is much finer.";
      loadPicture(this.picture, `/ui/api/tasks/${this.uuid}/pictures/${best}`, best === "plan" ? "Photos and submodels" : "Coarse orthophoto", this.still);
    }
    this.showLog(task);
  }

  showLog(task) {
    const text = task.output.join("\n");
    if (text === this.log.textContent) return;
    const atEnd = this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 20;
    this.log.textContent = text;
    if (atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  async layOutEnd(task) {
    const words = [];
    if (task.state === "failed") words.push(note([el("strong", {}, "This map could not be made. "), task.failure || "The log says more."], true));
    if (task.holes.length) words.push(note(["The map has holes: ", el("ul", {}, task.holes.map((h) => el("li", {}, h)))]));
    const logs = el("section", { class: "card" }, el("h2", {}, "Log"), this.log);
    if (task.state !== "completed") {
      if (task.state === "canceled") words.push(note("This map was stopped. “Run again” goes on: what was finished is not made again."));
      fill(this.body, words, logs);
      return;
    }
    const box = await this.map();
    const away = box === null && await this.isInBucket();
    if (away) {
      this.again.hidden = true; // its photos are not here any more
      words.push(note("This server has sent the results to its bucket and cleaned up here. They can be downloaded; the map cannot be shown on this page any more."));
      fill(this.body, words, this.files(), logs);
      return;
    }
    const cloud = cloudPane(this.uuid, this.still);
    const panes = { Map: box ? resultMap(this.uuid, box, this.still) : note("This job made no map."), Cloud: cloud.element, Report: this.report(), Files: this.files(), Log: logs };
    fill(this.body, words, tabs(panes, (name) => name === "Cloud" && cloud.open()));
  }

  async map() {
    try {
      return await get(`/ui/api/tasks/${this.uuid}/map`, this.still);
    } catch (error) {
      if (error instanceof Away || error instanceof WrongToken || this.still.aborted) throw error;
      return null; // it ended before there was one
    }
  }

  // Where a file lies and its size, null = nowhere. A download from the bucket is a redirection, which is not followed here.
  async find(name) {
    const answer = await fetch(`/task/${this.uuid}/download/${name}`, { method: "HEAD", headers: headers(), signal: this.still, redirect: "manual" }).catch(() => null);
    if (answer?.type === "opaqueredirect") return { bucket: true, size: 0 };
    return answer?.ok && answer.headers.get("content-disposition") ? { bucket: false, size: Number(answer.headers.get("content-length")) } : null;
  }

  async isInBucket() {
    return (await this.find("all.zip"))?.bucket ?? false;
  }

  report() {
    return el("iframe", { class: "report", title: "Report", loading: "lazy", sandbox: "allow-popups", src: link(`/ui/api/tasks/${this.uuid}/report/report.html`) });
  }

  files() {
    const list = el("ul", { class: "downloads" });
    for (const [name, title, kind] of DOWNLOADS) {
      this.find(name).then((found) => {
        if (!found) return;
        const item = el("li", { "data-place": DOWNLOADS.findIndex((d) => d[0] === name) }, el("a", { href: link(`/task/${this.uuid}/download/${name}`), download: name }, el("span", {}, el("strong", {}, title), " ", el("span", { class: "soft small" }, kind)), el("span", { class: "soft small" }, found.size ? bytes(found.size) : found.bucket ? "from the bucket" : "")));
        const after = [...list.children].find((other) => Number(other.dataset.place) > Number(item.dataset.place));
        list.insertBefore(item, after ?? null);
      });
    }
    return el("section", { class: "card" }, el("h2", {}, "Files"), list, el("p", { class: "small soft", style: "margin:12px 0 0" }, "The rasters open in QGIS; the point cloud in CloudCompare or QGIS. An interrupted download can be resumed."));
  }
}

// onOpen(name): called when a pane is shown.
function tabs(panes, onOpen) {
  const names = Object.keys(panes);
  const boxes = names.map((name) => el("div", { role: "tabpanel", id: `pane-${name}`, "aria-labelledby": `tab-${name}` }, panes[name]));
  const buttons = names.map((name) => el("button", { role: "tab", id: `tab-${name}`, "aria-controls": `pane-${name}`, onclick: () => choose(name) }, name));
  const choose = (wanted, focus = false) => {
    names.forEach((name, i) => {
      boxes[i].hidden = name !== wanted;
      buttons[i].setAttribute("aria-selected", name === wanted);
      buttons[i].tabIndex = name === wanted ? 0 : -1;
      if (focus && name === wanted) buttons[i].focus();
    });
    onOpen(wanted);
  };
  const bar = el("div", { class: "tabs", role: "tablist", onkeydown: (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const at = buttons.findIndex((b) => b.getAttribute("aria-selected") === "true");
    choose(names[(at + step + names.length) % names.length], true);
  } }, buttons);
  choose(names[0]);
  return el("div", {}, bar, boxes);
}
